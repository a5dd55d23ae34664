"""What a contact sheet shows of simulated radiographs: a row for each class, with its boxes."""

# H x W pixels of a file

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from PIL import Image as PilImage
from pydicom.pixels import apply_voi_lut

from rsna_e2e.core.records import Float64Array
from rsna_e2e.tools.synth.common.sheet import Row, Tile, read_studies
from rsna_e2e.tools.synth.radiograph.data_set import FOLDERS, STUDY_TRUTH, SUFFIX
from rsna_e2e.tools.synth.radiograph.findings import VIEWS
from rsna_e2e.tools.synth.radiograph.truth import NORMAL, OPACITY, OTHER

WINDOWS_HU = ((0.5, 1.0),)  # grey values from 0 to 1
TILE_INCHES = (2.5, 2.5)
N_STUDIES, COLUMNS = 3, 4  # rows, one for each class, and images of each, unless told
N_GREYS = 64  # more would only make the file larger
SHOWN_PX = 360  # about, of the longer side


def rows_of(raw: Path, *, n_studies: int, columns: int) -> list[Row]:
    """Return the images to show of the simulated folder `raw`: `n_studies` classes, `columns` images of each.

    The first half of a row is PA, the second AP. Raises BadInputError when `raw` holds no simulated studies.
    """
    studies = read_studies(raw / STUDY_TRUTH)
    return [_row(raw, name, studies, columns) for name in (NORMAL, OTHER, OPACITY)[:n_studies]]


def _row(raw: Path, name: str, studies: Sequence[dict[str, Any]], columns: int) -> Row:
    members = [study for study in studies if study["class"] == name and not study["copy_of"]]
    first = _choose([study for study in members if study["view"] == VIEWS[0]], (columns + 1) // 2)
    chosen = [*first, *_choose([study for study in members if study["view"] == VIEWS[1]], columns - len(first))]
    lines = [name, ""]
    for study in chosen:
        lines.append(f"{study['view']}, {study['sex']}, {study['age_y']} y, {study['split']}")
        lines += [f"  {word}" for word in (*study["others"], *study["devices"])]
    tiles = [_tile(raw, study) for study in chosen]
    tiles += [Tile(hu=np.zeros((8, 8)), title="")] * (columns - len(tiles))
    return Row(caption="\n".join(lines), tiles=tiles)


def _choose(studies: Sequence[dict[str, Any]], n: int) -> list[dict[str, Any]]:
    """Pick images with most boxes or findings that are not yet there."""
    left = list(studies)
    chosen: list[dict[str, Any]] = []
    seen: set[str] = set()
    while left and len(chosen) < n:
        best = max(left, key=lambda study: (len({*study["others"], *study["devices"]} - seen), len(study["boxes"])))
        left.remove(best)
        chosen.append(best)
        seen |= {*best["others"], *best["devices"]}
    return chosen


def _tile(raw: Path, study: dict[str, Any]) -> Tile:
    folder = raw / FOLDERS[study["split"]]
    image = next(
        shown(path) for suffix in SUFFIX.values() if (path := folder / f"{study['patient_id']}{suffix}").is_file()
    )
    step = max(max(image.shape) // SHOWN_PX, 1)
    rows, columns = (n // step * step for n in image.shape)
    small = image[:rows, :columns].reshape(rows // step, step, columns // step, step).mean(axis=(1, 3))
    boxes = tuple((x / step, y / step, w / step, h / step) for x, y, w, h in study["boxes"])
    return Tile(hu=small, title=f"{study['view']} {study['patient_id'][:8]}", boxes=boxes)


def shown(path: Path) -> Float64Array:
    """The grey values of a file [H, W] as a viewer shows them, 0 black to 1 white."""
    if path.suffix == SUFFIX["png"]:
        stored = np.asarray(PilImage.open(path))
        return np.asarray(stored / np.iinfo(stored.dtype).max if stored.dtype != np.int32 else stored / 65535.0)
    dataset = pydicom.dcmread(path)
    values = apply_voi_lut(dataset.pixel_array, dataset).astype(np.float64)
    bits = int(dataset.BitsStored)
    if "VOILUTSequence" in dataset:
        bits = int(dataset.VOILUTSequence[0].LUTDescriptor[2])
    values /= float((1 << bits) - 1)
    return np.asarray(1.0 - values if dataset.PhotometricInterpretation == "MONOCHROME1" else values)
