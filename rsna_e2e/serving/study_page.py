"""Pictures of a study's key slices with what the model sees there, and the page that shows them with its result."""

# H, W rows and columns of a picture

from pathlib import Path

import numpy as np

from rsna_e2e.core.records import Float32Array, Float64Array
from rsna_e2e.evaluation.explain import coloured, write_png
from rsna_e2e.evaluation.report.figures import display_name
from rsna_e2e.evaluation.report.pages import render, write_texts
from rsna_e2e.evaluation.report.profiles import profile_figure
from rsna_e2e.evaluation.report.theme import data_uri
from rsna_e2e.evaluation.report.thumbnails import windowed
from rsna_e2e.inference.activation_maps import Label
from rsna_e2e.loader.present import shown_slice
from rsna_e2e.serving.maps import ServedMaps, served_maps
from rsna_e2e.serving.model import ServedModel
from rsna_e2e.serving.result import LabelResult, Result
from rsna_e2e.store import SeriesSpan, Store
from rsna_e2e.tasks.windows import sharpest_window

PAGE = "report.html"
_SIDE = 256  # of a picture, in px


def write_study(result: Result, store: Store, model: ServedModel, folder: Path) -> None:
    """Write into `folder` a picture of each key slice of labels above their threshold, plain and with the model's map
    over it, and a page that shows them; without such a label, pictures of the slice that speaks most for the headline.
    """
    spans = {span.series_key: span for span in store.series}
    shown = _shown(result, model)
    maps = _maps(shown, spans, store, model)
    pictures = []
    for label in shown:
        names = [f"{label.name}-{key.series}-{key.place:04d}" for key in label.key_slices]
        for name, key in zip(names, label.key_slices, strict=True):
            row = spans[key.series].first_row + key.place
            plain, mapped = _pictures(maps[key.series, label.name], key.place, store, row, model)
            write_png(folder / f"{name}.png", plain)
            write_png(folder / f"{name}-map.png", mapped)
        pictures.append((label, [*zip(names, label.key_slices, strict=True)]))
    name, window = sharpest_window(model.task)
    page = render(
        "study.html.j2",
        result.model_dump(),
        unknown="unknown",
        title=f"{model.task.title}: study {result.study}",
        window=f"{name}, {window[0]:g} ± {window[1] / 2:g}",
        pictures=[
            {
                "label": display_name(label.name),
                "slices": [
                    {
                        "caption": f"slice {key.place + 1} of {spans[key.series].n_slices}, series {key.series[:8]}",
                        "plain": data_uri("image/png", (folder / f"{stem}.png").read_bytes()),
                        "mapped": data_uri("image/png", (folder / f"{stem}-map.png").read_bytes()),
                    }
                    for stem, key in slices
                ],
            }
            for label, slices in pictures
        ],
        profiles=[_profile(result, number, model, shown) for number in range(len(result.series))],
    )
    write_texts(folder, {PAGE: page})


def _shown(result: Result, model: ServedModel) -> list[LabelResult]:
    of_slices = [label for label in result.labels if label.level == "slices"]
    above = [label for label in of_slices if label.above]
    return above or [label for label in of_slices if label.name == model.task.headline]


def _maps(
    shown: list[LabelResult], spans: dict[str, SeriesSpan], store: Store, model: ServedModel
) -> dict[tuple[str, str], ServedMaps]:
    """Return the maps, by series and label, of the series in which a label has key slices."""
    names_of: dict[str, list[str]] = {}
    for label in shown:
        for series in dict.fromkeys(key.series for key in label.key_slices):
            names_of.setdefault(series, []).append(label.name)
    maps: dict[tuple[str, str], ServedMaps] = {}
    for series, names in names_of.items():
        labels: list[Label] = [("slice", model.task.slices.names.index(name)) for name in names]
        made = served_maps(model, store, spans[series], labels)
        maps |= {(series, name): of_label for name, of_label in zip(names, made, strict=True)}
    return maps


def _pictures(
    maps: ServedMaps, place: int, store: Store, row: int, model: ServedModel
) -> tuple[Float32Array, Float32Array]:
    """Return the picture [H, W, 3] of a slice without and with the mean of the maps of all runs."""
    hu = shown_slice(store, row)
    grey = windowed(hu, [sharpest_window(model.task)[1]], side=_SIDE)[0]
    share = maps.on_picture(place, hu.shape, side=_SIDE)
    return np.repeat(grey[..., None], 3, axis=2), coloured(grey, share, brightest=1.0)


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
