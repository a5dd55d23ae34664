"""What a contact sheet shows of simulated CT pulmonary angiography, with labels, and positive slices framed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom

from rsna_e2e.tools.synth.chest.data_set import STUDY_TRUTH
from rsna_e2e.tools.synth.common.sheet import Row, Tile, read_studies

WINDOWS_HU = ((-600.0, 1500.0), (100.0, 700.0), (40.0, 400.0))  # (center, width): lung, embolism, mediastinum
SHOWN = np.s_[56:456:2, 6:506:2]  # rows and columns of a slice: a chest is wider than deep
N_GREYS = 24  # as many as show the noise; more would only make the file larger
TILE_INCHES = (1.36, 1.09)
N_STUDIES, COLUMNS = 3, 7  # on a sheet, unless told


def rows_of(raw: Path, *, n_studies: int, columns: int) -> list[Row]:
    """Return the studies to show of the simulated folder `raw`: those with a label not yet on the sheet come first.

    Each is shown in `columns` slices from bottom to top. Raises BadInputError when `raw` holds no simulated studies.
    """
    return [_read_row(raw, study, columns) for study in _choose(read_studies(raw / STUDY_TRUTH), n_studies)]


def _choose(studies: Sequence[dict[str, Any]], n: int) -> list[dict[str, Any]]:
    """Pick studies that bring the most new labels, one after another."""
    left = list(studies)
    chosen: list[dict[str, Any]] = []
    seen: set[str] = set()
    while left and len(chosen) < n:
        best = max(left, key=lambda study: len(set(study["labels"]) - seen))
        left.remove(best)
        chosen.append(best)
        seen |= set(best["labels"])
    return chosen


def _shown(study: dict[str, Any], columns: int) -> list[int]:
    """Which slices to show: spread evenly, but three of the positive ones in place of those next to them."""
    image_ids: list[str] = study["image_ids"]
    at: list[int] = (np.linspace(0.06, 0.94, columns) * (len(image_ids) - 1)).round().astype(int).tolist()
    positive = [image_ids.index(i) for i in study["positive_image_ids"]]
    wanted = {positive[int(share * (len(positive) - 1))] for share in (0.2, 0.5, 0.8) if positive}
    for index in sorted(wanted)[: columns - 1]:
        nearest = min((i for i in range(columns) if at[i] not in wanted), key=lambda i: abs(at[i] - index))
        at[nearest] = index
    return at


def _read_row(raw: Path, study: dict[str, Any], columns: int) -> Row:
    """Read the slices to show; the truth file lists a study's images in the order of acquisition, up or down."""
    folder = raw / study["split"] / study["study_uid"] / study["series_uid"]
    positive = set(study["positive_image_ids"])
    tiles: list[tuple[float, Tile]] = []
    for at in _shown(study, columns):
        image_id = study["image_ids"][at]
        dataset = pydicom.dcmread(folder / f"{image_id}.dcm")
        hu = dataset.pixel_array[SHOWN] * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)
        tile = Tile(hu=hu, title="embolism" if image_id in positive else "", is_framed=image_id in positive)
        tiles.append((float(dataset.ImagePositionPatient[2]), tile))
    tiles.sort(key=lambda pair: pair[0])
    lines = [f"patient {study['patient_id']}", f"study {study['study_uid']}"]
    lines += [f"{study['split']}, {len(study['image_ids'])} slices", f"RV/LV {study['rv_lv']:.2f}", ""]
    lines += [*study["labels"], ""]
    for embolus in study["emboli"]:
        lines.append(f"{embolus['age']} {embolus['site']}, {embolus['density_hu']:.0f} HU")
    return Row(caption="\n".join(lines), tiles=[tile for _, tile in tiles])
