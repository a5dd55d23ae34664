"""Studies of an evaluation: their labels, and which slices are theirs, read and checked together."""

# N slices, E studies, M their labels

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from rsna_e2e.core.errors import BadInputError
from rsna_e2e.evaluation.pairing import Pair
from rsna_e2e.evaluation.scores import SeriesLayout
from rsna_e2e.evaluation.series_layout import count, layout_by_study, rows_by_image, some_ids
from rsna_e2e.evaluation.tables import Tables
from rsna_e2e.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Studies:
    """Studies to score. layout: the slices of each, of those that are kept. is_kept [N]: slices whose study is scored.

    pair: truth and probability [E, M], in the order of the layout.
    """

    pair: Pair
    layout: SeriesLayout
    is_kept: npt.NDArray[np.bool_]
    n_left_out: int


def study_of_series(tables: Tables | None, store: Store | None) -> dict[str, str] | None:
    """Return the study of each series, by the series table or a store; None where neither is there."""
    if tables is not None and tables.series is not None:
        return dict(zip(tables.series.series_keys, tables.series.study_uids, strict=True))
    if store is not None:
        return dict(zip(store.index["series_key"].tolist(), store.index["study_uid"].tolist(), strict=True))
    return None


def match_studies(truth: str, pair: Pair, by_series: SeriesLayout, study_of: Mapping[str, str], *,
                  allow_missing: bool) -> Studies:  # fmt: skip
    """Match the studies that both files have with those of the slices.

    Raises BadInputError where a study has no slice or a slice no labelled study, unless `allow_missing` leaves these
    out.
    """
    layout = layout_by_study(by_series, study_of)
    ids = np.intersect1d(pair.ids, layout.series_keys)
    of_slices, of_labels = set(layout.series_keys), set(pair.ids)
    if not allow_missing or not len(ids):
        for found, what in ((of_labels - of_slices, "without images"), (of_slices - of_labels, "without labels")):
            _check_none(truth, sorted(found), what)
    rows = np.searchsorted(pair.ids, ids)
    new_row = np.full(len(layout.series_keys), -1)
    new_row[np.searchsorted(layout.series_keys, ids)] = np.arange(len(ids))
    study_N = new_row[layout.series_of_slice]
    is_kept_N = study_N >= 0
    return Studies(
        pair=replace(pair, ids=ids.tolist(), truth=pair.truth[rows], probability=pair.probability[rows]),
        layout=SeriesLayout(
            series_keys=ids.tolist(),
            series_of_slice=study_N[is_kept_N],
            slice_index=layout.slice_index[is_kept_N],
            position_mm=None if layout.position_mm is None else layout.position_mm[is_kept_N],
        ),
        is_kept=is_kept_N,
        n_left_out=len((of_slices | of_labels | pair.not_predicted | pair.without_truth) - set(ids.tolist())),
    )


def patients_of(store: Store, image_ids: Sequence[str], layout: SeriesLayout) -> list[str]:
    """Return the patient of each series or study of a layout [E], by a store that has its images."""
    rows_N = rows_by_image(store, image_ids)
    first_N = np.unique(layout.series_of_slice, return_index=True)[1]
    return [str(patient) for patient in store.index["patient_id"][rows_N[first_N]]]


def _check_none(truth: str, studies: Sequence[str], what: str) -> None:
    if studies:
        raise BadInputError(
            f"{truth}: {count(len(studies), 'study')} {what} among those to score ({some_ids(studies)}). To score the "
            "others: --allow-missing"
        )
