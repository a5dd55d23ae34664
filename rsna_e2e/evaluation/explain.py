"""Pictures of slices with what the network sees there for a label: class-activation maps in colour over the slice."""

# H, W rows and columns of a picture

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.image
import numpy as np

from rsna_e2e.core.errors import BadInputError, UsageError
from rsna_e2e.core.files import atomic_writer, entries, make_folder, remove_folder, write_json
from rsna_e2e.core.records import Float32Array, Progress, no_progress
from rsna_e2e.evaluation.inspection.who import rows_of_key
from rsna_e2e.evaluation.report.examples import series_name
from rsna_e2e.evaluation.report.thumbnails import fitted, windowed
from rsna_e2e.inference.activation_maps import ActivationMaps, Target, activation_maps, shares_of
from rsna_e2e.inference.trained_model import TrainedModel
from rsna_e2e.loader.present import shown_slice
from rsna_e2e.store import SeriesSpan, Store
from rsna_e2e.tasks.task import Level
from rsna_e2e.training.run_folder import read_config

NUMBERS, SHEET = "explanation.json", "sheet.png"
_SHEET_SIDE = 128  # of a slice on the contact sheet
_COLOURS, _OPACITY = "inferno", 0.6  # of the brightest value


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """What `explain` made. level: of the label. damaged: messages about checkpoints that were passed over."""

    folder: Path
    label: str
    level: Level
    n_slices: int
    checkpoint: Path
    damaged: tuple[str, ...]


def explain(
    run: Path,
    store: Store,
    out: Path,
    *,
    series: str | None = None,
    image_id: str | None = None,
    label: str | None = None,
    checkpoint: str = "auto",
    device: str = "auto",
    target: Target = "sum",
    progress: Progress = no_progress,
) -> Explained:
    """Write pictures of a series, or of one image, with the maps for a label into the new folder `out`.

    series: its key or how that begins. label: of slices, or of series for a run that predicts those; the task's
    headline, unless given. target: what is explained of a label of slices. A picture for each slice, in the order of
    the series and in the task's first window, a sheet of all and a JSON file. Colours are those of the whole series,
    whatever is shown of it. Raises BadInputError and UsageError for what is not there.
    """
    span, places = _find(store, series, image_id)
    check_new(out)
    trained = open_run(run, checkpoint, device)
    name = label or trained.task.headline
    level, index = find_label(trained, name)
    if level == "series" and target == "slice":
        raise UsageError(f"--target slice: {name} is a label of whole series. Leave it out")
    (maps,) = activation_maps(trained, store, span, labels=[(level, index)], target=target, progress=progress)
    content: dict[str, Any] = {"task": trained.task.name, "label": name, "level": level, "target": target}
    content |= {"series": series_name(span.series_key), "weights_sha256": trained.weights_sha256}
    _write(out, store, span, places, maps, trained.task.inputs.windows_hu[0], content | {"epoch": trained.epoch})
    return Explained(
        folder=out,
        label=name,
        level=level,
        n_slices=len(places),
        checkpoint=trained.checkpoint,
        damaged=trained.damaged,
    )


def check_new(out: Path) -> None:
    """Raise UsageError unless a folder can be made, or is empty."""
    if out.exists() and (not out.is_dir() or entries(out)):
        raise UsageError(f"{out}: is there already. Choose another folder with --out")


def open_run(run: Path, checkpoint: str, device: str) -> TrainedModel:
    """Open a run that sees images. Raises UsageError for one that learned from embeddings."""
    if read_config(run).model.backbone == "none":
        raise UsageError(f"{run}: has no backbone, it learned from embeddings. Give a run that sees images")
    return TrainedModel.open(run, checkpoint, device=device)


def _find(store: Store, series: str | None, image_id: str | None) -> tuple[SeriesSpan, list[int]]:
    """Return the series, and the places in it of the slices to show."""
    assert (series is None) != (image_id is None), "one of a series and an image"
    if series is not None:
        rows = rows_of_key(store.index["series_key"], series, where=store.path)
    else:
        rows = np.flatnonzero(store.index["image_id"] == image_id)
        if len(rows) != 1:
            what = f"{len(rows)} images are called so; name the series" if len(rows) else "no image is called so"
            raise BadInputError(f"{store.path}: --image: {what}. rsna-e2e predict writes a table with the ids")
    span = next(span for span in store.series if span.rows.start <= rows[0] < span.rows.stop)
    return span, [int(row) - span.first_row for row in rows]


def find_label(trained: TrainedModel, name: str) -> tuple[Level, int]:
    """Return the level of a label and its position there, that of slices where both have it."""
    slices, series = trained.task.slices.names, trained.task.series_labels.names
    if name in slices:
        return "slice", slices.index(name)
    known = [*slices, *(series if trained.joint.study_head is not None else ())]
    if name not in known:
        raise UsageError(f"the run predicts no label {name!r:.60}. It predicts {', '.join(dict.fromkeys(known))}")
    return "series", series.index(name)


def _write(
    out: Path,
    store: Store,
    span: SeriesSpan,
    places: list[int],
    maps: ActivationMaps,
    window_hu: tuple[float, float],
    content: dict[str, Any],
) -> None:
    """Write the folder, whole or not at all: it was empty before."""
    brightest = maps.brightest
    small: list[Float32Array] = []
    make_folder(out)
    try:
        for place in places:
            hu = shown_slice(store, span.first_row + place)
            large, reduced = (
                coloured(
                    windowed(hu, [window_hu], side=side)[0],
                    maps.on_picture(place, fitted(*hu.shape, side=side), side=side),
                    brightest=brightest,
                )
                for side in (max(hu.shape), _SHEET_SIDE)
            )
            write_png(out / _picture(place), large)
            small.append(reduced)
        write_png(out / SHEET, _sheet(small))
        slices = [_numbers(maps, place) for place in places]
        write_json(out / NUMBERS, content | {"window_hu": window_hu, "brightest": brightest, "slices": slices})
    except BaseException:
        remove_folder(out)
        raise


def write_png(path: Path, picture_HW3: Float32Array) -> None:
    """Write a picture of values in [0, 1], whole or not at all."""
    with atomic_writer(path) as file:
        matplotlib.image.imsave(file, picture_HW3, format="png")


def _picture(place: int) -> str:
    return f"slice-{place:04d}.png"


def _numbers(maps: ActivationMaps, place: int) -> dict[str, Any]:
    map_hw = maps.maps[place]
    return {
        "place": place,
        "picture": _picture(place),
        "logit": float(maps.logits[place]),
        "probability": float(maps.probabilities[place]),
        "mean_of_map": float(map_hw.mean()),
        "highest_of_map": float(map_hw.max()),
    }


def coloured(grey_HW: Float32Array, map_HW: Float32Array, *, brightest: float) -> Float32Array:
    """Return a grey picture in [0, 1] with a map over it [H, W, 3]: the higher, the brighter and the less transparent.

    brightest: the value of the brightest colour, and of all above it. What is 0 or below stays grey.
    """
    share_HW = shares_of(map_HW, brightest)
    opacity_HW1 = _OPACITY * share_HW[..., None]
    colour_HW3 = mpl.colormaps[_COLOURS](share_HW)[..., :3]
    picture: Float32Array = (grey_HW[..., None] * (1 - opacity_HW1) + colour_HW3 * opacity_HW1).astype(np.float32)
    return picture


def _sheet(pictures: list[Float32Array]) -> Float32Array:
    """Return all pictures side by side, row after row."""
    n_columns = math.ceil(math.sqrt(len(pictures)))
    blank = np.zeros_like(pictures[0])
    rows = [pictures[i : i + n_columns] for i in range(0, len(pictures), n_columns)]
    rows[-1] = rows[-1] + [blank] * (n_columns - len(rows[-1]))
    return np.concatenate([np.concatenate(row, axis=1) for row in rows], axis=0)
