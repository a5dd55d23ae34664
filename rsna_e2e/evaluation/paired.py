"""Two submissions of the same images compared: the task's score, and AUC and average precision of every label."""

# N slices, S series or studies

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from rsna_e2e.core.errors import BadInputError
from rsna_e2e.evaluation.cells import losses
from rsna_e2e.evaluation.levels import plain
from rsna_e2e.evaluation.resamples import Resamples
from rsna_e2e.evaluation.scores import UNITS, Evaluation, InputFile, Unit
from rsna_e2e.tasks.metrics import CONFIDENCE
from rsna_e2e.tasks.metrics.delong import DeLong, paired_delong
from rsna_e2e.tasks.metrics.permute import Difference, Swaps, compare_ranks, compare_ratios, draw_swaps
from rsna_e2e.tasks.task import Task

N_PERMUTATIONS = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelDifference:
    """How two submissions differ in one label of a level. delong: of the AUC, with samples taken as independent."""

    label: str
    level: str
    n: int
    n_positive: int
    auc: Difference
    average_precision: Difference
    delong: DeLong

    def row(self) -> dict[str, Any]:
        """Return what `paired.json` holds of it."""
        return {
            **{name: getattr(self, name) for name in ("label", "level", "n", "n_positive")},
            "auc": _plain(self.auc),
            "average_precision": _plain(self.average_precision),
            "auc_delong": {
                "variance": plain(self.delong.variance),
                "low": plain(self.delong.interval.low),
                "high": plain(self.delong.interval.high),
                "p": plain(self.delong.p),
            },
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Paired:
    """How two submissions differ: first less second. resampled: what is drawn for intervals and swapped for p, of which
    there are n_clusters; None where that is not known, and then there are neither."""

    task: Task
    first: InputFile
    second: InputFile
    truth: InputFile
    n_slices: int
    weighted_log_loss: Difference
    labels: tuple[LabelDifference, ...]
    resampled: Unit | None
    n_clusters: int
    n_bootstrap: int
    n_permutations: int
    seed: int

    @property
    def unit(self) -> str:
        """What is drawn and swapped, in words."""
        return UNITS[self.resampled] if self.resampled else ""

    def to_dict(self) -> dict[str, Any]:
        """Return what `paired.json` holds: plain numbers and texts, None where a number is undefined."""
        return {
            "task": self.task.name,
            **{role: asdict(getattr(self, role)) for role in ("first", "second", "truth")},
            "n_slices": self.n_slices,
            "weighted_log_loss": _plain(self.weighted_log_loss),
            "labels": [label.row() for label in self.labels],
            "confidence": CONFIDENCE,
            "resampled_unit": self.resampled,
            "n_clusters": self.n_clusters,
            "n_bootstrap": self.n_bootstrap,
            "n_permutations": self.n_permutations,
            "seed": self.seed,
        }


def paired(
    first: Evaluation, second: Evaluation, *, n_permutations: int = N_PERMUTATIONS, seed: int | None = None
) -> Paired:
    """Compare two evaluations of submissions against one truth, each over the other's series where it knows none.

    Intervals of differences are by the resamples of the evaluations, the same for both; p by swapping both predictions
    of whole clusters. seed: of the swaps, by default that of the evaluations. Raises BadInputError unless both scored
    the same labels of the same images, in the same series where both know these.
    """
    _check_same(first, second)
    known = first if first.layout else second
    by_unit, by_slice = known.by_unit, _by_slice(known)
    seed = first.seed if seed is None else seed
    n_clusters = by_unit.draws.shape[1] if known.layout else 0
    has_several = len(by_unit.draws) > 0
    swaps_PS = draw_swaps(by_unit.draws.shape[1], n_permutations=n_permutations if has_several else 0, seed=seed)
    return Paired(
        task=first.task,
        first=first.files["submission"],
        second=second.files["submission"],
        truth=first.files["truth"],
        n_slices=len(first.image_ids),
        weighted_log_loss=_losses(
            first, second, by_unit if first.task.score == "study_log_loss" else by_slice, swaps_PS
        ),
        labels=tuple(
            label
            for name in first.levels
            if name in second.levels
            for label in _labels(first, second, name, by_slice if name == "slice" else by_unit, swaps_PS)
        ),
        resampled=known.resampled,
        n_clusters=n_clusters,
        n_bootstrap=len(by_unit.draws),
        n_permutations=len(swaps_PS),
        seed=seed,
    )


def _by_slice(evaluation: Evaluation) -> Resamples:
    if evaluation.layout is None:
        return Resamples.none(len(evaluation.image_ids))
    return evaluation.by_unit.of(evaluation.by_unit.cluster[evaluation.layout.series_of_slice])


def _losses(first: Evaluation, second: Evaluation, resamples: Resamples, swaps_PS: Swaps) -> Difference:
    found, other = (losses(one.task, one.truth, one.predicted, one.study_of_slice) for one in (first, second))
    return compare_ratios(found.loss, other.loss, found.weight, resamples.cluster, resamples.draws, swaps_PS)


def _labels(
    first: Evaluation, second: Evaluation, name: str, resamples: Resamples, swaps_PS: Swaps
) -> list[LabelDifference]:
    level, other = first.levels[name], second.levels[name]
    found = []
    for label, scores in enumerate(level.scores):
        is_known_N = ~np.isnan(level.truth[:, label])
        first_N, second_N = (part.probability[is_known_N, label] for part in (level, other))
        truth_N, known = level.truth[is_known_N, label], resamples.only(is_known_N)
        differences = compare_ranks(truth_N, first_N, second_N, known.cluster, known.draws, swaps_PS)
        found.append(
            LabelDifference(
                label=scores.label,
                level=name,
                n=scores.n,
                n_positive=scores.n_positive,
                **differences,
                delong=paired_delong(truth_N, first_N, second_N),
            )
        )
    return found


def _check_same(first: Evaluation, second: Evaluation) -> None:
    names = [one.files["submission"].name for one in (first, second)]
    labels = [(*one.task.slices.names, *one.task.series.names) for one in (first, second)]
    if labels[0] != labels[1]:
        only = sorted(set(labels[0]) ^ set(labels[1]))
        raise BadInputError(
            f"{names[0]}, {names[1]}: only one of them has the labels {', '.join(only)}. Give both the same labels"
        )
    if first.image_ids != second.image_ids:
        only = sorted(set(first.image_ids) ^ set(second.image_ids))
        raise BadInputError(
            f"{names[0]}, {names[1]}: {len(only)} of the images to score are in one of them alone, the first is "
            f"{only[0]}. Give two submissions of the same images"
        )
    if first.layout and second.layout and np.any(first.layout.series_of_slice != second.layout.series_of_slice):
        raise BadInputError(
            f"{names[0]}, {names[1]}: say of some images that they are in different series, or name series "
            "differently. Give --series CSV, which counts for both"
        )
    if first.files["truth"] != second.files["truth"] or first.seed != second.seed:
        raise BadInputError(f"{names[0]}, {names[1]}: evaluated with another truth or seed. Use the same for both")


def _plain(difference: Difference) -> dict[str, Any]:
    return {
        "first": plain(difference.first),
        "second": plain(difference.second),
        "difference": plain(difference.difference),
        "p": plain(difference.p),
    }
