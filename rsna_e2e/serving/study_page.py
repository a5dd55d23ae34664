"""Pictures of a study's key slices with what the model sees or finds there, and the page that shows them with its
result."""

# H, W rows and columns of a picture

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rsna_e2e.core.records import Float32Array, Float64Array, Progress, no_progress
from rsna_e2e.evaluation.explain import coloured, write_png
from rsna_e2e.evaluation.report.boxes import with_boxes_drawn
from rsna_e2e.evaluation.report.figures import display_name
from rsna_e2e.evaluation.report.pages import render, write_texts
from rsna_e2e.evaluation.report.profiles import profile_figure
from rsna_e2e.evaluation.report.theme import data_uri
from rsna_e2e.evaluation.report.thumbnails import fitted, windowed
from rsna_e2e.inference.activation_maps import Label
from rsna_e2e.loader.present import shown_slice
from rsna_e2e.serving.maps import ServedMaps, served_maps
from rsna_e2e.serving.model import ServedModel
from rsna_e2e.serving.result import KeySlice, LabelResult, Result
from rsna_e2e.store import SeriesSpan, Store
from rsna_e2e.tasks.boxes import make_boxes
from rsna_e2e.tasks.windows import sharpest_window

PAGE = "report.html"
_SIDE, _SIDE_OF_BOXES = 256, 384  # of a picture, in px; with boxes, whose scores are to be read

StudyMaps = dict[tuple[str, str], ServedMaps]  # by key of the series and name of the label
# Makes a picture [H, W, 3] of a key slice, plain, and marked where there is something to mark
Painter = Callable[[LabelResult, KeySlice], tuple[Float32Array, Float32Array | None]]


def write_study(
    result: Result, store: Store, model: ServedModel, folder: Path, *, progress: Progress = no_progress
) -> StudyMaps:
    """Write into `folder` a picture of each key slice of labels above their threshold, plain and with the model's map
    over it, or with its boxes, and a page that shows them; without such a label, pictures of the slice that speaks most
    for the headline. Returns the maps, none of a model that finds boxes. progress: of the maps, which take longest.
    """
    spans = {span.series_key: span for span in store.series}
    shown = _shown(result, model)
    maps = {} if model.finds_boxes else _maps(shown, spans, store, model, progress)
    paint = (
        _boxes_painter(result, spans, store, model) if model.finds_boxes else _maps_painter(maps, spans, store, model)
    )
    word = "boxes" if model.finds_boxes else "map"
    pictures = []
    for label in shown:
        slices = []
        for key in label.key_slices:
            stem = f"{label.name}-{key.series}-{key.place:04d}"
            plain, marked = paint(label, key)
            of_slice = {
                "caption": f"slice {key.place + 1} of {spans[key.series].n_slices}, series {key.series[:8]}",
                "plain": _written(folder / f"{stem}.png", plain),
                "marked": "" if marked is None else _written(folder / f"{stem}-{word}.png", marked),
            }
            slices.append(of_slice)
        pictures.append({"label": display_name(label.name), "slices": slices})
    _write_page(result, model, folder, pictures, [] if model.finds_boxes else _profiles(result, model, shown))
    return maps


def _written(path: Path, picture_HW3: Float32Array) -> str:
    """Write a picture, and return it as a data URI."""
    write_png(path, picture_HW3)
    return data_uri("image/png", path.read_bytes())


def _write_page(
    result: Result, model: ServedModel, folder: Path, pictures: list[dict[str, Any]], profiles: list[str]
) -> None:
    name, window = sharpest_window(model.task)
    page = render(
        "study.html.j2",
        result.model_dump(),
        unknown="unknown",
        title=f"{model.task.title}: study {result.study}",
        window="" if model.task.inputs.values == "grey" else f"{name}, {window[0]:g} ± {window[1] / 2:g}",  # of HU
        pictures=pictures,
        finds_boxes=model.finds_boxes,
        profiles=profiles,
    )
    write_texts(folder, {PAGE: page})


def _shown(result: Result, model: ServedModel) -> list[LabelResult]:
    of_slices = [label for label in result.labels if label.level == "slices"]
    above = [label for label in of_slices if label.above]
    return above or [label for label in of_slices if label.name == model.task.headline] or of_slices[:1]


def _boxes_painter(result: Result, spans: Mapping[str, SeriesSpan], store: Store, model: ServedModel) -> Painter:
    """Draw the boxes of the label at or above its threshold."""
    boxes_of = {series.key: series.boxes for series in result.series}

    def paint(label: LabelResult, key: KeySlice) -> tuple[Float32Array, Float32Array | None]:
        grey, to_slice = _grey(store, spans[key.series].first_row + key.place, model, side=_SIDE_OF_BOXES)
        drawn = [
            box
            for box in boxes_of[key.series]
            if (box.label, box.slice) == (label.name, key.place) and box.score >= label.threshold
        ]
        made = make_boxes(
            [key.place] * len(drawn),
            [[box.x, box.y, box.width, box.height] for box in drawn],
            [box.score for box in drawn],
        )
        drawn_in = with_boxes_drawn(grey, to_slice, predicted=made.edges, scores=made.scores) if drawn else None
        return np.repeat(grey[..., None], 3, axis=2), drawn_in

    return paint


def _maps_painter(maps: StudyMaps, spans: Mapping[str, SeriesSpan], store: Store, model: ServedModel) -> Painter:
    """Lay the mean of the maps of all runs over a slice."""

    def paint(label: LabelResult, key: KeySlice) -> tuple[Float32Array, Float32Array | None]:
        row = spans[key.series].first_row + key.place
        grey, _ = _grey(store, row, model, side=_SIDE)
        shape = (int(store.index["rows"][row]), int(store.index["columns"][row]))
        share = maps[key.series, label.name].on_picture(key.place, shape, side=_SIDE)
        return np.repeat(grey[..., None], 3, axis=2), coloured(grey, share, brightest=1.0)

    return paint


def _maps(
    shown: list[LabelResult],
    spans: Mapping[str, SeriesSpan],
    store: Store,
    model: ServedModel,
    progress: Progress,
) -> StudyMaps:
    """Return the maps of the series in which a label has key slices."""
    names_of: dict[str, list[str]] = {}
    for label in shown:
        for series in dict.fromkeys(key.series for key in label.key_slices):
            names_of.setdefault(series, []).append(label.name)
    maps: StudyMaps = {}
    for series, names in names_of.items():
        labels: list[Label] = [("slice", model.task.slices.names.index(name)) for name in names]
        made = served_maps(model, store, spans[series], labels, progress=progress)
        maps |= {(series, name): of_label for name, of_label in zip(names, made, strict=True)}
    return maps


def _grey(store: Store, row: int, model: ServedModel, *, side: int) -> tuple[Float32Array, Float32Array]:
    """Return a slice as a picture [H, W] of values in [0, 1], and the matrix [2, 3] from its pixels to the slice's."""
    values = shown_slice(store, row)
    grey: Float32Array = windowed(values, [sharpest_window(model.task)[1]], side=side)[0]
    return grey, fitted(*values.shape, side=side)


def _profiles(result: Result, model: ServedModel, shown: list[LabelResult]) -> list[str]:
    return [_profile(result, number, model, shown) for number in range(len(result.series))]


def _profile(result: Result, number: int, model: ServedModel, shown: list[LabelResult]) -> str:
    """Return a figure of the probabilities of a series along z, with marks at the slices shown, as a data URI."""
    series = result.series[number]
    probability: Float64Array = np.array(series.probability)
    has_place = None not in series.place_mm and len(set(series.place_mm)) == len(series.place_mm)
    place = np.array(series.place_mm, dtype=np.float64) if has_place else np.arange(len(probability), dtype=np.float64)
    return profile_figure(
        model.task.slices.names,
        place,
        np.zeros_like(probability),
        probability,
        axis="position (mm)" if has_place else "slice",
        shown=np.array(
            sorted({key.place for label in shown for key in label.key_slices if key.series == series.key}),
            dtype=np.int64,
        ),
    )
