"""Draws a contact sheet of simulated studies."""

from pathlib import Path

from rsna_e2e.core.records import Progress, no_progress
from rsna_e2e.tools.synth.chest import preview as chest
from rsna_e2e.tools.synth.chest.data_set import STUDY_TRUTH as CHEST_TRUTH
from rsna_e2e.tools.synth.common.sheet import draw_sheet
from rsna_e2e.tools.synth.head import preview as head
from rsna_e2e.tools.synth.radiograph import preview as radiograph
from rsna_e2e.tools.synth.radiograph.data_set import CLASSES


def preview(
    raw: Path,
    png: Path,
    *,
    n_studies: int | None = None,
    columns: int | None = None,
    progress: Progress = no_progress,
) -> None:
    """Draw studies of the simulated folder `raw` on one sheet: a row per window, `columns` slices of each.

    None: as many studies and slices as fit a page. Studies that show a label not yet on the sheet come first; of
    radiographs each row shows one class. Raises BadInputError when `raw` holds no simulated studies.
    """
    kind = radiograph if (raw / CLASSES["train"]).is_file() else chest if (raw / CHEST_TRUTH).is_file() else head
    rows = kind.rows_of(raw, n_studies=n_studies or kind.N_STUDIES, columns=columns or kind.COLUMNS)
    draw_sheet(
        png,
        rows,
        windows_hu=kind.WINDOWS_HU,
        tile_inches=kind.TILE_INCHES,
        n_greys=kind.N_GREYS,
        progress=progress,
    )
