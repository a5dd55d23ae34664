"""What a contact sheet shows of simulated head CT studies, with their labels and bleeds."""

# N slices of a study, L labels

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom

from rsna_e2e.core.records import Float64Array
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.tasks.labels import LabelTable, read_labels
from rsna_e2e.tasks.task import Task
from rsna_e2e.tools.synth.common.sheet import Row, Tile, read_studies
from rsna_e2e.tools.synth.head.data_set import STUDY_TRUTH, TEST_IMAGES, TEST_TRUTH, TRAIN_IMAGES, TRAIN_LABELS

WINDOWS_HU = ((40.0, 80.0), (40.0, 380.0))  # (center, width): brain, and one wide enough to show scalp and headrest
IMAGES = {"train": TRAIN_IMAGES, "test": TEST_IMAGES}
LABELS = {"train": TRAIN_LABELS, "test": TEST_TRUTH}
SHOWN = np.s_[16:496:2, 76:436:2]  # rows and columns of a slice: a head is narrower than the field of view
N_GREYS = 24  # as many as show the noise; more would only make the file larger
TILE_INCHES = (1.2, 1.6)
N_STUDIES, COLUMNS = 6, 10  # on a sheet, unless told


def rows_of(raw: Path, *, n_studies: int, columns: int) -> list[Row]:
    """Return the studies to show of the simulated folder `raw`: those with a label not yet on the sheet come first.

    Each is shown in `columns` slices from base to vertex, with its labels above them, and density and volume of each
    bleed beside it. Raises BadInputError when `raw` holds no simulated studies.
    """
    studies = _choose(read_studies(raw / STUDY_TRUTH), n_studies)
    labels = _labels_by_image(raw, {study["split"] for study in studies}, ICH)
    return [_read_row(raw, study, labels, columns, ICH) for study in studies]


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


def _read_row(raw: Path, study: dict[str, Any], labels: Mapping[str, Float64Array], columns: int, task: Task) -> Row:
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
    return Row(caption="\n".join(lines), tiles=[Tile(hu=hu, title=title) for _, hu, title in tiles])
