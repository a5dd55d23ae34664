"""The main numbers of an evaluation, or of two beside each other, as a few lines of text."""

import math

from rsna_e2e.evaluation.boxes import BoxEvaluation
from rsna_e2e.evaluation.paired import Paired
from rsna_e2e.evaluation.scores import NO_STORE, Evaluation
from rsna_e2e.tasks.metrics import Estimate
from rsna_e2e.tasks.metrics.permute import Difference


def summary(evaluation: Evaluation) -> str:
    """Return the headline numbers as a few lines of text."""
    task, left_out = evaluation.task, evaluation.left_out
    what = "weighted log loss"
    if left_out.labels:
        what += f" of {', '.join((*task.slices.names, *task.series.names))} alone"
    compared = "nothing to compare it with, because every label is the same in all slices of the truth"
    if math.isfinite(evaluation.ratio_to_constant.value):
        constant = f"({evaluation.constant_weighted_log_loss:.4f})"
        best = "the best constants give" if evaluation.studies else "always predicting the prevalence gives"
        compared = f"{_percent(evaluation.ratio_to_constant)} of what {best} {constant}"
    lines = [f"{what} {as_text(evaluation.weighted_log_loss, 4)}: {compared}", *_areas(evaluation)]
    lines += _consistency(evaluation) + _floors(evaluation) + _views(evaluation) + worse_subgroups(evaluation)
    if evaluation.few_series:
        lines.append(evaluation.few_series)
    if str(left_out):
        lines.append(f"left out: {left_out}")
    return "\n".join(lines)


def box_summary(evaluation: BoxEvaluation) -> str:
    """Return the headline numbers of boxes as a few lines of text."""
    floors = ", ".join(f"{floor.name} {floor.box_precision:.4f}" for floor in evaluation.floors)
    ious = ", ".join(f"{name} {as_text(estimate, 3)}" for name, estimate in evaluation.union_iou.items())
    sensitivity = evaluation.sensitivity[1.0]
    lines = [
        f"box precision {as_text(evaluation.box_precision, 4)} over {evaluation.n_scored} of "
        f"{len(evaluation.image_ids)} images, those with boxes, {len(evaluation.true)} true and "
        f"{len(evaluation.predicted)} predicted",
        f"without pixels: {floors}",
        f"mean IoU of what boxes cover: {ious}",
        f"average precision {as_text(Estimate(evaluation.average_precision), 3)}; sensitivity "
        f"{as_text(Estimate(sensitivity), 3)} at one false positive for each image",
        f"AUC of an image's highest score for whether it has boxes: {as_text(evaluation.image_auc, 3)}"
        + "".join(f", {view.view} {as_text(view.auc, 3)}" for view in evaluation.by_view),
    ]
    if str(evaluation.left_out):
        lines.append(f"left out: {evaluation.left_out}")
    return "\n".join(lines)


def paired_summary(found: Paired) -> str:
    """Return two submissions side by side as a table of text, and what its columns are."""
    rows: list[tuple[str, ...]] = [("", "", "A", "B", "A - B", "p", "p DeLong")]
    rows.append(_paired_row("", "weighted log loss", found.weighted_log_loss, 4))
    for label in found.labels:
        of = f"{label.label}, {label.level.replace('_', ' ')}"
        rows.append(_paired_row(of, "AUC", label.auc, 3, _p(label.delong.p)))
        rows.append(_paired_row("", "average precision", label.average_precision, 3))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    lines[:0] = [f"A: {found.first.name}   B: {found.second.name}   {found.n_slices} slices"]
    if found.n_bootstrap:
        lines.append(
            f"brackets: 95 % of {found.n_bootstrap} resamples of {found.n_clusters} {found.unit}; p: of "
            f"{found.n_permutations} permutations that swap A and B of whole {found.unit}"
        )
    lines.append("p DeLong takes slices as independent, so that it is too small where a series has several")
    return "\n".join(lines)


def _paired_row(of: str, name: str, one: Difference, decimals: int, p_delong: str = "") -> tuple[str, ...]:
    numbers = (as_text(Estimate(value), decimals) for value in (one.first, one.second))
    return of, name, *numbers, as_text(one.difference, decimals), _p(one.p), p_delong


def _p(p: float) -> str:
    if math.isnan(p):
        return ""
    return f"{p:.4f}" if p >= 0.0001 else "<0.0001"


def _areas(evaluation: Evaluation) -> list[str]:
    """Say the AUC of the headline at each level that has it."""
    headline, names = evaluation.task.headline, {"slice": "slices", "series": "series"}
    if evaluation.series_head is not None:
        names |= {"series": "series, by their highest slice", "series_head": "series, by the series head"}
    return [
        f"AUC of {headline!r} over {names[name]}: {as_text(scores.auc, 3)}, {scores.n_positive} of {scores.n} positive"
        for name, level in evaluation.levels.items()
        for scores in level.scores
        if scores.label == headline
    ]


def _consistency(evaluation: Evaluation) -> list[str]:
    found = evaluation.consistency
    if found is None:
        return []
    lines = [
        f"rules of the labels: broken in {found.n_before} of {found.n_studies} studies, weighted log loss "
        f"{found.before.value:.4f}; after projection in {found.n_after}, {found.after.value:.4f}"
    ]
    if found.n_truth:
        lines.append(f"the truth breaks them in {found.n_truth} of {found.n_studies} studies")
    return lines


def _floors(evaluation: Evaluation) -> list[str]:
    """Say what predictions without pixels score, but for the constants, with which the first line compares."""
    told = [
        f"{floor.name} {floor.weighted_log_loss:.4f} (AUC {as_text(Estimate(floor.auc), 3)})"
        for floor in evaluation.floors[1:]
    ]
    if not told and evaluation.floors_left_out != NO_STORE:
        told = [f"left out, {evaluation.floors_left_out}"]
    return [f"without pixels: {', '.join(told)}"] if told else []


def _views(evaluation: Evaluation) -> list[str]:
    """Say the AUC of the headline within each view, and of what the view alone tells."""
    return [
        f"AUC of {found.label!r} within views: "
        + ", ".join(f"{view} {as_text(Estimate(area), 3)}" for view, area in found.views.items())
        + f"; of the view alone {as_text(Estimate(found.alone), 3)}"
        for found in evaluation.within_views
        if found.label == evaluation.task.headline
    ]


def worse_subgroups(evaluation: Evaluation) -> list[str]:
    """Say which groups of series have a lower AUC than the others, by more than chance; nothing where none has."""
    worse = [group for group in evaluation.subgroups if group.is_worse]
    return [
        f"worse by {group.by}, {group.group}: AUC of {evaluation.task.headline!r} {as_text(group.auc, 3)}, of the "
        f"others {as_text(group.auc_of_others, 3)}, difference {as_text(group.difference, 3)}"
        for group in worse
    ]


def _percent(estimate: Estimate) -> str:
    text = f"{100 * estimate.value:.0f} %"
    if math.isfinite(estimate.low):
        text += f" [{100 * estimate.low:.0f}, {100 * estimate.high:.0f}]"
    return text


def as_text(estimate: Estimate, decimals: int) -> str:
    """Return a number with its interval, where it has one; "undefined" of NaN."""
    if not math.isfinite(estimate.value):
        return "undefined"
    text = f"{estimate.value:.{decimals}f}"
    if math.isfinite(estimate.low):
        text += f" [{estimate.low:.{decimals}f}, {estimate.high:.{decimals}f}]"
    return text
