"""The card of a bundle, in Markdown: what the model is for, how well it does on what it held out, and its limits."""

from collections.abc import Iterator, Sequence

from rsna_e2e.inference.bundle import BundleDescription
from rsna_e2e.inference.trained_model import TrainedModel
from rsna_e2e.tasks.task import Task
from rsna_e2e.training.calibration import LabelCalibration, read_calibration
from rsna_e2e.training.checkpoint.state import describe
from rsna_e2e.training.operating_points import SENSITIVITIES


def model_card(described: BundleDescription, members: Sequence[TrainedModel]) -> str:
    """Return the card of a model that is the mean of these runs."""
    task = members[0].task
    lines = [
        f"# {described.name} {described.version}",
        "",
        f"{task.title}. **Research use only: not a medical device, not for diagnosis.**",
        "",
        f"- Licence: {described.licence}",
        _predicted(members[0]),
        *([f"- Of each series: {', '.join(task.series.names)}"] if task.series_truth == "own" else []),
        f"- Made of: {len(members)} run{'s, whose probabilities are averaged' if len(members) > 1 else ''}",
        "- Made by: rsna_e2e",
        "",
        "## Use",
        "",
        "For research on images like those it was trained on. What it says of other scanners, populations and "
        "protocols is unknown: evaluate it on your own labelled data before you rely on any number here.",
    ]
    for number, trained in enumerate(members, start=1):
        lines += ["", f"## Run {number}" if len(members) > 1 else "## Scores", "", *_of_run(trained)]
    return "\n".join(lines) + "\n"


def _predicted(trained: TrainedModel) -> str:
    task = trained.task
    if trained.config.model.finds_boxes:
        return f"- Finds boxes of: {', '.join(task.boxes)}, in each {_what(task)}"
    return f"- Predicts: {', '.join(task.slices.names)}, of each {_what(task)}"


def _what(task: Task) -> str:
    return "radiograph" if task.inputs.values == "grey" else "slice"


def _of_run(trained: TrainedModel) -> Iterator[str]:
    config, state = trained.config, describe(trained.checkpoint).state
    yield f"- Network: {config.model.backbone} at {config.image.size} px, head {config.model.head}"
    yield f"- Weights: of epoch {trained.epoch}, after {state.n_slices:,} slices; recipe {config.recipe}"
    if state.best is None or state.best.step != state.step:
        yield "- Scores: none, as these weights were not validated"
        return
    scores = {name: value for name, value in state.best.validation.items() if not name.startswith("n_")}
    said = ", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in scores.items() if value is not None)
    calibration = read_calibration(trained.run, trained.task)
    of_whom = "" if calibration is None or not calibration.n_patients else f", {calibration.n_patients:,} patients"
    yield f"- On the fold that it held out{of_whom}, and that chose the epoch, so somewhat too good: {said}"
    yield "- Intervals of these are not known: `rsna-e2e evaluate` gives them for your data"
    yield from _of_labels(trained)


def _of_labels(trained: TrainedModel) -> Iterator[str]:
    points, calibration = trained.operating_points, read_calibration(trained.run, trained.task)
    if points is None:
        return
    share = SENSITIVITIES[0]
    at = points.at("slices", share)
    yield from ("", f"| label | threshold, best | at sensitivity {share:.2f} | positives of all | calibration |")
    yield "|---|---|---|---|---|"
    for name, threshold in points.thresholds.items():
        label = calibration.slices.get(name) if calibration is not None else None
        of_all = f"{label.n_positives} of {label.n_samples}" if label else ""
        other = f"{at[name]:.4f}" if name in at else ""
        yield f"| {name} | {threshold:.4f} | {other} | {of_all} | {_calibrated(label) if label else 'none'} |"


def _calibrated(label: LabelCalibration) -> str:
    if label.applied == "none":
        return f"none ({label.reason})"
    if label.ece_before is None or label.ece_after is None:
        return label.applied
    change = ""
    if label.ece_change is not None and label.ece_change_low is not None and label.ece_change_high is not None:
        interval = f"{label.ece_change_low:+.4f} to {label.ece_change_high:+.4f}"
        change = f", change {label.ece_change:+.4f} (95 % interval over patients {interval})"
    return f"{label.applied}, error {label.ece_before:.4f} to {label.ece_after:.4f}{change}"
