"""Evaluation report: one self-contained HTML page, and its numbers as JSON and CSV beside it."""

import csv
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rsna_e2e.core.files import as_json
from rsna_e2e.core.records import Float64Array
from rsna_e2e.evaluation.report.examples import Example, choose_examples, selection_rule, series_name
from rsna_e2e.evaluation.report.figures import calibration_figure, decision_figure, histogram_figure, roc_figure
from rsna_e2e.evaluation.report.pages import check_folder, render, write_texts
from rsna_e2e.evaluation.report.profiles import profile_figure
from rsna_e2e.evaluation.scores import UNITS, Evaluation, SeriesLayout
from rsna_e2e.evaluation.subgroups import LEAST_POSITIVE, LEAST_SERIES
from rsna_e2e.evaluation.summary import worse_subgroups
from rsna_e2e.store import Store
from rsna_e2e.tasks.catalogue import is_of_package
from rsna_e2e.tasks.metrics import Int64Array
from rsna_e2e.tasks.windows import sharpest_window

if TYPE_CHECKING:
    from rsna_e2e.evaluation.report.thumbnails import Thumbnails

MapOf = Callable[[str], str]  # an image id to a data URI of that slice with a map over it


def write_report(
    evaluation: Evaluation,
    *,
    out: Path,
    store: Store | None = None,
    map_of: MapOf | None = None,
    title: str = "Evaluation of a submission",
) -> Path:
    """Write `report.html`, `metrics.json` and `metrics.csv` into the folder `out` and return the page's path.

    With the store of the predicted images the page shows slices of its example series, and with `map_of` a second
    picture of each, of where a network sees the headline. Files of these names are
    replaced, each whole or not at all. Raises BadInputError when `out` cannot be a folder or the store lacks an image.
    """
    check_folder(out, example="report.html, metrics.json and metrics.csv")
    content = evaluation.to_dict()
    texts = {
        "metrics.json": as_json(content, indent=2) + "\n",
        "metrics.csv": _table_csv(content["labels"]),
        "report.html": _page(evaluation, content, store, title, map_of),
    }
    write_texts(out, texts)
    return out / "report.html"


def _table_csv(rows: list[dict[str, Any]]) -> str:
    """One line per level and label; an estimate takes three columns, an undefined number leaves its field empty."""
    text = io.StringIO()
    flat = [_flatten(row) for row in rows]
    writer = csv.DictWriter(text, fieldnames=list(flat[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return text.getvalue()


def _flatten(row: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, Mapping):
            flat |= {name if part == "value" else f"{name}_{part}": number for part, number in value.items()}
        else:
            flat[name] = value
    return flat


def _page(
    evaluation: Evaluation, content: dict[str, Any], store: Store | None, title: str, map_of: MapOf | None
) -> str:
    return render(
        "report.html.j2",
        content,
        unknown="undefined: one class only",
        title=title,
        levels=list(evaluation.levels),
        headline=evaluation.task.headline,
        left_out=evaluation.left_out,
        # with all its labels; where there are boxes, the competition scored these
        is_competition=is_of_package(evaluation.task) and not evaluation.task.boxes,
        few_series=evaluation.few_series,
        worse=worse_subgroups(evaluation),
        least_series=LEAST_SERIES,
        least_positive=LEAST_POSITIVE,
        figures={
            "roc": roc_figure(evaluation),
            "calibration": calibration_figure(evaluation),
            "decision": decision_figure(evaluation),
            "histogram": histogram_figure(evaluation),
        },
        unit="study" if evaluation.studies else "series",
        units=UNITS,
        study_weights=evaluation.task.series.names,
        selection_rule=selection_rule(evaluation.task.headline, "study" if evaluation.studies else "series"),
        examples=_examples(evaluation, store, map_of) if evaluation.layout else [],
        has_images=store is not None,
        has_maps=map_of is not None,
        window=sharpest_window(evaluation.task),
        are_radiographs=evaluation.task.inputs.values == "grey",
    )


def _examples(evaluation: Evaluation, store: Store | None, map_of: MapOf | None) -> list[dict[str, Any]]:
    assert evaluation.layout is not None
    thumbnails = None
    if store is not None:
        from rsna_e2e.evaluation.report.thumbnails import (
            Thumbnails,  # loads torch, which a page without images does without
        )

        thumbnails = Thumbnails(store, sharpest_window(evaluation.task)[1])
    return [
        _example(evaluation, evaluation.layout, example, thumbnails, map_of)
        for example in choose_examples(evaluation, evaluation.layout)
    ]


def _example(
    evaluation: Evaluation,
    layout: SeriesLayout,
    example: Example,
    thumbnails: "Thumbnails | None",
    map_of: MapOf | None,
) -> dict[str, Any]:
    names, headline = evaluation.task.slices.names, evaluation.task.headline_index
    truth = evaluation.slices.truth[example.slices]
    probability = evaluation.slices.probability[example.slices]
    position_N, axis = _places(layout, example.slices)
    shown = around_peak(truth[:, headline], probability[:, headline]) if thumbnails else np.zeros(0, np.int64)
    images = [
        {
            "uri": thumbnails.data_uri(evaluation.image_ids[example.slices[index]]),
            "map": map_of(evaluation.image_ids[example.slices[index]]) if map_of else None,
            "position_mm": position_N[index],
            "probability": probability[index, headline],
            "labels": list(zip(names, probability[index], truth[index] == 1, strict=True)),
            "others": [names[label] for label in np.flatnonzero(truth[index]) if label != headline],
            "is_positive": bool(truth[index, headline]),
        }
        for index in shown
        if thumbnails
    ]
    return {
        "name": series_name(layout.series_keys[example.series]),
        "outcome": example.outcome,
        "probability": example.probability,
        "head_probability": None
        if evaluation.series_head is None
        else float(evaluation.series_head.probability[example.series, headline]),
        "labels": _labels(evaluation, example, truth),
        "n_slices": len(example.slices),
        "n_positive": int(truth[:, headline].sum()),
        "profile": profile_figure(names, position_N, truth, probability, axis=axis, shown=shown),
        "images": images,
    }


def _labels(evaluation: Evaluation, example: Example, truth_NL: Float64Array) -> list[str]:
    """Return the labels that a series has beside the headline, or a study."""
    if evaluation.studies:
        return [
            evaluation.studies.names[label] for label in np.flatnonzero(evaluation.studies.truth[example.series] == 1)
        ]
    task = evaluation.task
    return [name for label, name in enumerate(task.slices.names) if truth_NL[:, label].max() and name != task.headline]


def _places(layout: SeriesLayout, slices: Int64Array) -> tuple[Float64Array, str]:
    """Return where the slices of a series are drawn, and the name of that axis."""
    if layout.position_mm is None:
        return np.arange(len(slices), dtype=np.float64), "slices in the order of their image ids (positions unknown)"
    return layout.position_mm[slices], "position along the slice normal (mm)"


def around_peak(truth_N: Any, probability_N: Any, n_shown: int = 6) -> Int64Array:
    """Neighbouring slices around the highest probability, among positive slices where there are any."""
    peak = int(np.argmax(np.where(truth_N == truth_N.max(), probability_N, -1)))
    first = min(max(peak - (n_shown - 1) // 2, 0), max(len(truth_N) - n_shown, 0))
    return np.arange(first, min(first + n_shown, len(truth_N)))
