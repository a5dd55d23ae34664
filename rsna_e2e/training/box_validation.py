"""Validation of networks that find boxes: scores on the held-out fold, each image by one rank."""

# N images, K boxes

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch

from rsna_e2e.core.device import Compute
from rsna_e2e.core.records import Rows, never
from rsna_e2e.loader.series_loader import SeriesLoader
from rsna_e2e.model.box_model import BoxModel
from rsna_e2e.model.find_boxes import find_boxes
from rsna_e2e.store import Store, rows_of
from rsna_e2e.tasks.boxes import ImageBoxes
from rsna_e2e.tasks.metrics import auc
from rsna_e2e.tasks.metrics.boxes import box_average_precision, finds, highest_scores, mean_box_precision
from rsna_e2e.tasks.task import Task
from rsna_e2e.training.confusion import Confusion
from rsna_e2e.training.distributed import ALONE, Ranks
from rsna_e2e.training.validation import predict_share

_N_CUTS = 40  # scores from which on boxes could count, that are tried: quantiles of those that there are
_COLUMNS = 7  # of a box on its way between ranks: image, class, score, and edges


@dataclass(frozen=True, slots=True, kw_only=True)
class BoxValidation:
    """Scores on the held-out fold, of images all of whose boxes are known.

    box_precision: the competition's score of RSNA Pneumonia 2018, of boxes of at least least_score, which is the one
    that makes it the highest; NaN where no image counts. average_precision: at IoU 0.5, of all boxes. image_auc: of an
    image's highest score for whether it has a box; NaN where all or none have. n_training_slices: where no fold is held
    out, on how many images that the model was trained on; else 0. n_positive: images with boxes. thresholds:
    least_score, by class of boxes; none where training images are scored.
    """

    box_precision: float
    least_score: float
    average_precision: float
    image_auc: float
    n_positive: int
    n_training_slices: int = 0
    thresholds: Mapping[str, float] = field(default_factory=dict)

    @property
    def confusions(self) -> Mapping[str, Confusion]:
        """Counts of labels, of which there are none."""
        return {}

    @property
    def loss(self) -> float:
        """What is lowest in the best epoch."""
        return 1.0 - self.box_precision

    def plain(self) -> dict[str, Any]:
        """Return the scores by name."""
        return {name: value for name, value in asdict(self).items() if name != "thresholds"}

    @classmethod
    def from_plain(cls, scores: Mapping[str, Any]) -> "BoxValidation":
        """Return the scores that JSON holds, in which what is undefined is None."""
        numbers: dict[str, Any] = {name: math.nan if value is None else value for name, value in scores.items()}
        return cls(**numbers | {name: int(numbers[name]) for name in ("n_positive", "n_training_slices")})

    def describe(self, headline: str) -> str:
        """Return the scores in words. headline: name of the label that images with boxes have."""
        n = self.n_training_slices
        of = f"on {n} of its TRAINING images, no validation:" if n else "validation"
        area = "undefined" if math.isnan(self.image_auc) else f"{self.image_auc:.4f}"
        return (
            f"{of} box precision {self.box_precision:.4f} from score {self.least_score:.3f} on, average precision "
            f"{self.average_precision:.4f}, AUC of {headline} by image {area}"
        )


def validate_boxes(
    model: BoxModel,
    loader: SeriesLoader,
    held_out: Sequence[int],
    store: Store,
    task: Task,
    compute: Compute,
    *,
    only_rows: Rows | None = None,
    ranks: Ranks = ALONE,
    is_stopping: Callable[[], bool] = never,
) -> BoxValidation | None:
    """Score `model` on the series at positions `held_out`, shared among ranks; the same on all of them.

    only_rows, loader, and when it is None: as in `validate`.
    """
    found = predict_share(
        *(held_out, store, ranks),
        lambda mine: find_boxes(model, loader, mine, store, compute=compute, is_stopping=is_stopping),
        is_stopping=is_stopping,
    )
    if found is None:
        return None
    rows_N = np.sort(rows_of(store.series[position] for position in held_out))
    boxes = _gather(found.boxes, np.searchsorted(rows_N, found.rows), ranks)
    is_scored_N = store.boxes_known[rows_N]
    if only_rows is not None:
        is_scored_N = is_scored_N & np.isin(rows_N, only_rows)
    scored = np.flatnonzero(is_scored_N)
    truth, found_boxes = store.boxes.of_images(rows_N[scored])[0], boxes.of_images(scored)[0]
    scores = score_boxes(truth, found_boxes, len(scored))
    if only_rows is not None:
        return replace(scores, n_training_slices=len(scored))
    return replace(scores, thresholds=dict.fromkeys(task.boxes, scores.least_score))


def score_boxes(truth: ImageBoxes, found: ImageBoxes, n_images: int) -> BoxValidation:
    """Score boxes found in `n_images`, with the least score that is best for the competition's."""
    has_box_N = np.bincount(truth.images, minlength=n_images) > 0
    cuts = np.unique(np.quantile(found.scores, np.linspace(0, 1, _N_CUTS))) if len(found) else np.zeros(1)
    precisions = np.array([mean_box_precision(truth, found.at(found.scores >= cut), n_images) for cut in cuts.tolist()])
    best = len(cuts) - 1 - int(np.argmax(np.nan_to_num(precisions)[::-1]))  # the highest of those that are equally good
    is_found = finds(truth, found, n_images)
    return BoxValidation(
        box_precision=float(precisions[best]),
        least_score=float(cuts[best]),
        average_precision=box_average_precision(is_found, found.scores, n_true=len(truth)),
        image_auc=auc(has_box_N.astype(np.float64), highest_scores(found, n_images)),
        n_positive=int(has_box_N.sum()),
    )


def _gather(mine: ImageBoxes, places: Rows, ranks: Ranks) -> ImageBoxes:
    """Return the boxes of all ranks, those of `mine` in images numbered by `places`.

    Every row is one rank's, and 0 on the others: the sum is exact.
    """
    if ranks.n_ranks == 1:
        return replace(mine, images=places[mine.images])
    counts = torch.zeros(ranks.n_ranks, dtype=torch.float64)
    counts[ranks.rank] = len(mine)
    starts = np.append(0, ranks.sum_(counts).cumsum(0).numpy().astype(np.int64))
    table = torch.zeros(int(starts[-1]), _COLUMNS, dtype=torch.float64)
    own = [places[mine.images], mine.classes, mine.scores, *mine.edges.T]
    table[starts[ranks.rank] : starts[ranks.rank + 1]] = torch.from_numpy(np.column_stack(own).astype(np.float64))
    everyone = ranks.sum_(table).numpy()
    return ImageBoxes(
        images=everyone[:, 0].astype(np.int64),
        classes=everyone[:, 1].astype(np.int64),
        scores=everyone[:, 2],
        edges=everyone[:, 3:],
    )
