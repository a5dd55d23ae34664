"""Draws a contact sheet of simulated studies."""

from pathlib import Path

from rsna_e2e.core.records import Progress, no_progress
from rsna_e2e.tools.synth.common.sheet import draw_sheet
from rsna_e2e.tools.synth.head.preview import TILE_INCHES, WINDOWS_HU, head_rows


def preview(raw: Path, png: Path, *, n_studies: int = 6, columns: int = 10, progress: Progress = no_progress) -> None:
    """Draw studies of the simulated folder `raw` on one sheet: a row per window, `columns` slices of each.

    Studies that show a label not yet on the sheet come first. Raises BadInputError when `raw` holds no simulated
    studies.
    """
    rows = head_rows(raw, n_studies=n_studies, columns=columns)
    draw_sheet(png, rows, windows_hu=WINDOWS_HU, tile_inches=TILE_INCHES, progress=progress)
