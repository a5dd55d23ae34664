"""The study in words: tables with intervals, paired differences, costs and floors, and a picture of the curves."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from rsna_e2e.core.files import as_json, atomic_writer, make_folder
from rsna_e2e.evaluation.report.theme import drawing, light
from rsna_e2e.tools.study.design import WAYS, Design, Way
from rsna_e2e.tools.study.scores import AUC, LOSS, MEAN_AUC, PRECISION

NUMBERS, PAGE, CURVES = "study.json", "study.md", "study_curves.png"
_MEASURES = (LOSS, AUC, MEAN_AUC, PRECISION)
_COLOURS: dict[Way, str] = {"slices": "slices", "scratch": "series", "warm": "series_head", "frozen": "truth"}
_ANSWER: tuple[Way, Way] = ("warm", "in_sample")
_DPI = 160


def write_study(results: Sequence[Mapping[str, Any]], facts: Mapping[str, Any], design: Design, out: Path) -> Path:
    """Write numbers, page and picture into the folder `out`; return the page's path.

    facts: command, commit, cpu, cores and data_seed, which is None where data are not simulated.
    """
    make_folder(out)
    content = {**facts, "results": results}
    for name, text in ((NUMBERS, as_json(content, indent=2) + "\n"), (PAGE, as_markdown(results, facts, design))):
        with atomic_writer(out / name) as file:
            file.write(text.encode())
    _draw_curves(results, design.epochs, out / CURVES)
    return out / PAGE


def as_markdown(results: Sequence[Mapping[str, Any]], facts: Mapping[str, Any], design: Design) -> str:
    """Return the page."""
    commit = facts["commit"] or "unknown"
    of_data = "" if facts["data_seed"] is None else f"; of the data: {facts['data_seed']}"
    lines = [
        "# Does training end to end beat two stages?",
        "",
        f"Made by `{facts['command']}` on {facts['cpu']}, {facts['cores']} cores, commit {commit}. Seeds of trainings: "
        f"{', '.join(map(str, design.seeds))}{of_data}.",
        "",
        *(_answer(result) for result in results),
        "",
        "Every way trains the same backbone on the same images with the same augmentation, and its backbones learn "
        f"from as many slices: {design.epochs} times those of the training split; a frozen one learns from those of "
        "the phase on single slices alone. Nothing is held out and no epoch is chosen: the last one predicts the test. "
        "Settings given with --set are of networks with a backbone, those with --set-head of heads on embeddings.",
        "",
        "Scores are means over seeds. Intervals (95 %), also of paired differences, are by resampling patients, the "
        "same for all, and do not hold how much seeds vary: the ranges tell. Detectable is the difference in log loss "
        "that a study like this one finds four times in five, by the spread over patients and seeds. Times are of "
        "training and embedding, GiB of the largest process.",
        "",
    ]
    for result in results:
        lines += [f"## Data: {result['data']}, {result['n_patients']} patients in the test", ""]
        lines += [*_scores(result), "", *_differences(result), "", *_floors(result), ""]
    lines += [f"![Log loss after every epoch]({CURVES})", ""]
    return "\n".join(lines)


def _answer(result: Mapping[str, Any]) -> str:
    """Say in a line whether the joint model has another loss than two stages."""
    found = next(one for one in result["differences"] if (one["first"], one["second"]) == _ANSWER)
    loss, (joint, stages) = found["mean"][LOSS], (WAYS[way] for way in _ANSWER)
    difference = f"{LOSS} {_interval(loss, sign='+')}"
    if loss["high"] < 0:
        return f"- **{result['data']}**: {joint} is better than {stages}: {difference}."
    if loss["low"] > 0:
        return f"- **{result['data']}**: {stages} is better than {joint}: {difference}."
    return (
        f"- **{result['data']}**: no difference between {joint} and {stages} was found: {difference}. One of "
        f"{found['detectable'][LOSS]:.4f} would be found four times in five."
    )


def _pair(difference: Mapping[str, Any]) -> str:
    return f"{WAYS[difference['first']]} less {WAYS[difference['second']]}"


def _scores(result: Mapping[str, Any]) -> list[str]:
    rows = []
    for way, of_way in result["ways"].items():
        cost = of_way["cost"]
        took = str(timedelta(seconds=round(cost["elapsed_s"])))
        rows.append(
            (
                WAYS[way],
                str(len(of_way["seeds"])),
                *(_interval(of_way["mean"][measure]) for measure in _MEASURES),
                f"{cost['n_slices']:,.0f}",
                took,
                f"{cost['peak_mib'] / 1024:.1f}",
            )
        )
    return _table(("way", "seeds", *_MEASURES, "slices learned from", "time", "GiB"), rows)


def _differences(result: Mapping[str, Any]) -> list[str]:
    rows = []
    for one in result["differences"]:
        of_seeds = [seed[LOSS] for seed in one["by_seed"]]
        rows.append(
            (
                _pair(one),
                str(one["n_seeds"]),
                *(_interval(one["mean"][measure], sign="+") for measure in (LOSS, AUC, MEAN_AUC)),
                f"{min(of_seeds):+.4f} to {max(of_seeds):+.4f}",
                f"{one['detectable'][LOSS]:.4f}",
            )
        )
    return _table(("difference", "seeds", LOSS, AUC, MEAN_AUC, f"{LOSS}, seed by seed", "detectable"), rows)


def _floors(result: Mapping[str, Any]) -> list[str]:
    rows = [(floor["name"], _number(floor["weighted_log_loss"]), _number(floor["auc"])) for floor in result["floors"]]
    return _table(("floor, without pixels", LOSS, AUC), rows)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [header, ["---", *("---:" for _ in header[1:])], *rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def _interval(estimate: Mapping[str, float], *, sign: str = "") -> str:
    value, low, high = (f"{estimate[name]:{sign}.4f}" for name in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _draw_curves(results: Sequence[Mapping[str, Any]], n_epochs: int, path: Path) -> None:
    """Draw the log loss on the test by epoch, of the first seed, beside what two stages reach in the end."""
    with drawing(light):
        figure = Figure(figsize=(3.4 * len(results), 2.8), layout="constrained")
        for axes, result in zip(figure.subplots(1, len(results), squeeze=False)[0], results, strict=True):
            axes.set(title=f"data: {result['data']}", xlabel="epoch", ylabel=LOSS)
            axes.grid(axis="y")
            axes.locator_params(axis="x", integer=True)
            for way, colour in _COLOURS.items():
                of_way = result["ways"][way]
                points = [(point["epoch"], point[LOSS]) for point in of_way["curve"]]
                points.append((n_epochs, of_way["seeds"][0][LOSS]))
                axes.plot(*zip(*points, strict=True), marker="o", markersize=3, color=light(colour), label=WAYS[way])
            in_sample = result["ways"]["in_sample"]["seeds"][0][LOSS]
            axes.axhline(in_sample, color=light("ink"), linewidth=1, linestyle=(0, (4, 1.6)), label=WAYS["in_sample"])
        lines = figure.axes[0].get_lines()
        figure.legend(
            handles=lines, loc="outside lower center", ncols=len(lines) if len(results) > 1 else 2, frameon=False
        )
        with atomic_writer(path) as file:
            figure.savefig(file, format="png", dpi=_DPI)
