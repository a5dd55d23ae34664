"""A contact sheet of simulated studies: each in two windows, with its labels and bleeds."""

# N slices of a study, L labels

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom

from rsna_e2e.core.errors import BadInputError
from rsna_e2e.core.files import atomic_writer, read_json
from rsna_e2e.core.records import Float64Array, Progress, no_progress
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.tasks.labels import LabelTable, read_labels
from rsna_e2e.tasks.task import Task
from rsna_e2e.tools.synth.simulate import STUDY_TRUTH, TEST_IMAGES, TEST_TRUTH, TRAIN_IMAGES, TRAIN_LABELS

WINDOWS_HU = ((40.0, 80.0), (40.0, 380.0))  # (center, width): brain, and one wide enough to show scalp and headrest
IMAGES = {"train": TRAIN_IMAGES, "test": TEST_IMAGES}
LABELS = {"train": TRAIN_LABELS, "test": TEST_TRUTH}
SHOWN = np.s_[16:496:2, 76:436:2]  # rows and columns of a slice: a head is narrower than the field of view
TILE_INCHES = (1.2, 1.6)
CAPTION_TILES = 1.6  # room for the text beside a row


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """One study on the sheet: its caption, and (HU, title) of each slice shown."""

    caption: str
    tiles: list[tuple[Float64Array, str]]


def preview(raw: Path, png: Path, *, n_studies: int = 6, columns: int = 10, progress: Progress = no_progress) -> None:
    """Draw studies of the simulated folder `raw` on one sheet: a row per window, `columns` slices from base to vertex.

    A slice's labels stand above it, each bleed's density and volume beside its row. Studies that show a label not yet
    on the sheet come first. Raises BadInputError when `raw` holds no simulated studies.
    """
    from matplotlib.figure import Figure

    studies = _choose(_read_truth(raw / STUDY_TRUTH), n_studies)
    labels = _labels_by_image(raw, {study["split"] for study in studies}, ICH)
    n_rows = len(studies) * len(WINDOWS_HU)
    width = columns + CAPTION_TILES
    figure = Figure(figsize=(width * TILE_INCHES[0], n_rows * TILE_INCHES[1] * 1.08), facecolor="black")
    grid = figure.add_gridspec(
        n_rows, columns, left=CAPTION_TILES / width, right=1.0, bottom=0.0, top=0.985, wspace=0.02, hspace=0.1
    )
    for index, study in enumerate(studies):
        row = _read_row(raw, study, labels, columns, ICH)
        for window, (center, window_width) in enumerate(WINDOWS_HU):
            for column, (hu, title) in enumerate(row.tiles):
                axes = figure.add_subplot(grid[index * len(WINDOWS_HU) + window, column])
                axes.imshow(hu, cmap="gray", vmin=center - window_width / 2, vmax=center + window_width / 2)
                axes.set_axis_off()
                if window == 0:
                    axes.set_title(title, color="orange", fontsize=6, pad=1.5)
        figure.text(0.004, 1.0 - (index + 0.04) / len(studies), row.caption, color="white", fontsize=6.5, va="top")
        progress(index + 1, len(studies))
    with atomic_writer(png) as file:
        figure.savefig(file, format="png", dpi=110, facecolor="black")


def _read_truth(path: Path) -> list[dict[str, Any]]:
    try:
        studies: list[dict[str, Any]] = read_json(path)["studies"]
    except (OSError, ValueError, LookupError, TypeError):
        raise BadInputError(
            f"{path}: not the truth of simulated studies. Name a folder that rsna-e2e synth made"
        ) from None
    return studies


def _choose(studies: Sequence[dict[str, Any]], n: int) -> list[dict[str, Any]]:
    """Pick studies that bring a new label first, then the others, each in the order of the file."""
    seen: set[str] = set()
    new: list[dict[str, Any]] = []
    rest: list[dict[str, Any]] = []
    for study in studies:
        names = {bleed["label"] for bleed in study["bleeds"]}
        (new if names - seen else rest).append(study)
        seen |= names
    return [*new, *rest][:n]


def _labels_by_image(raw: Path, splits: set[str], task: Task) -> Mapping[str, Float64Array]:
    tables: list[LabelTable] = [read_labels(raw / LABELS[split], task) for split in sorted(splits)]
    return {i: v for table in tables for i, v in zip(table.image_ids, table.values, strict=True)}


def _read_row(raw: Path, study: dict[str, Any], labels: Mapping[str, Float64Array], columns: int, task: Task) -> _Row:
    """Read the slices to show; the truth file lists a study's images in the order of acquisition, up or down."""
    folder = raw / IMAGES[study["split"]]
    image_ids: list[str] = study["image_ids"]
    tiles: list[tuple[float, Float64Array, str]] = []
    for at in np.linspace(0, len(image_ids) - 1, columns).round().astype(int).tolist():
        dataset = pydicom.dcmread(folder / f"{image_ids[at]}.dcm")
        hu = dataset.pixel_array[SHOWN] * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)
        names = [n for n, v in zip(task.slices.names, labels[image_ids[at]], strict=True) if v and n != task.headline]
        title = "\n".join(names[:2]) + (" +" if len(names) > 2 else "")
        tiles.append((float(dataset.ImagePositionPatient[2]), hu, title))
    tiles.sort(key=lambda tile: tile[0])
    lines = [f"patient {study['patient_id']}", f"study {study['study_uid']}"]
    lines += [f"{study['split']}, {len(image_ids)} slices", ""]
    for bleed in study["bleeds"]:
        lines += [bleed["label"], f"  {bleed['site']}, {bleed['density_hu']:.0f} HU, {bleed['volume_ml']:.1f} ml"]
    return _Row(caption="\n".join(lines), tiles=[(hu, title) for _, hu, title in tiles])
