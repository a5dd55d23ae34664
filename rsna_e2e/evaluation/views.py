"""Views of radiographs, PA or AP: patients who are too ill to stand are imaged in AP, so that the view alone tells much
of a finding, and a model may have learned no more than that."""

# N images

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from rsna_e2e.evaluation.comparisons import WithinViews
from rsna_e2e.evaluation.scores import Evaluation
from rsna_e2e.evaluation.series_layout import rows_by_image
from rsna_e2e.store import Store
from rsna_e2e.tasks.metrics import auc, auc_by_group

Views = npt.NDArray[np.str_]
_NO_VIEW = "not given"


def views_of(store: Store, image_ids: Sequence[str]) -> Views | None:
    """Return the view of each image [N]; None where the store does not know several of these images."""
    if "view" not in store.index:  # of CT
        return None
    views_N = store.index["view"][rows_by_image(store, image_ids)].astype(str)
    return np.where(views_N == "", _NO_VIEW, views_N) if len(np.unique(views_N)) > 1 else None


def with_views(evaluation: Evaluation, store: Store) -> Evaluation:
    """Add the AUC of each label within each view, where a store knows several."""
    views_N = views_of(store, evaluation.image_ids)
    if views_N is None:
        return evaluation
    slices, found = evaluation.slices, []
    for label, name in enumerate(slices.names):
        is_known_N = ~np.isnan(slices.truth[:, label])
        truth_N, probability_N = slices.known(label)
        known_views_N = views_N[is_known_N]
        share_N = np.zeros(len(truth_N))
        for view in np.unique(known_views_N):
            share_N[known_views_N == view] = truth_N[known_views_N == view].mean()
        within = auc_by_group(truth_N, probability_N, known_views_N)
        found.append(
            WithinViews(label=name, auc=auc(truth_N, probability_N), alone=auc(truth_N, share_N), views=within)
        )
    return replace(evaluation, within_views=tuple(found))
