"""A contact sheet of simulated studies: each in several windows, with its labels and findings."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rsna_e2e.core.errors import BadInputError
from rsna_e2e.core.files import atomic_writer, read_json
from rsna_e2e.core.records import Float64Array, Progress

CAPTION_TILES = 1.6  # room for the text beside a row


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """One image on the sheet; a framed one is marked, and so are boxes (x, y, width, height in its pixels)."""

    hu: Float64Array
    title: str
    is_framed: bool = False
    boxes: tuple[tuple[float, float, float, float], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One study on the sheet: its caption, and the slices shown, from the lowest to the highest."""

    caption: str
    tiles: list[Tile]


def draw_sheet(
    png: Path,
    rows: Sequence[Row],
    *,
    windows_hu: Sequence[tuple[float, float]],
    tile_inches: tuple[float, float],
    n_greys: int,
    progress: Progress,
) -> None:
    """Draw every row once for each window (center, width)."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    greys = colormaps["gray"].resampled(n_greys)
    columns = len(rows[0].tiles)
    n_rows = len(rows) * len(windows_hu)
    width = columns + CAPTION_TILES
    figure = Figure(figsize=(width * tile_inches[0], n_rows * tile_inches[1] * 1.08), facecolor="black")
    grid = figure.add_gridspec(
        n_rows, columns, left=CAPTION_TILES / width, right=1.0, bottom=0.0, top=0.985, wspace=0.02, hspace=0.1
    )
    for index, row in enumerate(rows):
        for window, (center, window_width) in enumerate(windows_hu):
            for column, tile in enumerate(row.tiles):
                axes = figure.add_subplot(grid[index * len(windows_hu) + window, column])
                low, high = center - window_width / 2, center + window_width / 2
                axes.imshow(tile.hu, cmap=greys, vmin=low, vmax=high, interpolation_stage="data")
                _frame(axes, tile)
                _box(axes, tile)
                if window == 0:
                    axes.set_title(tile.title, color="orange", fontsize=6, pad=1.5)
        figure.text(0.004, 1.0 - (index + 0.04) / len(rows), row.caption, color="white", fontsize=6.5, va="top")
        progress(index + 1, len(rows))
    with atomic_writer(png) as file:
        figure.savefig(file, format="png", dpi=110, facecolor="black")


def _frame(axes: Any, tile: Tile) -> None:
    if not tile.is_framed:
        axes.set_axis_off()
        return
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color("orange")


def _box(axes: Any, tile: Tile) -> None:
    from matplotlib.patches import Rectangle

    for x, y, width, height in tile.boxes:
        axes.add_patch(Rectangle((x - 0.5, y - 0.5), width, height, fill=False, edgecolor="orange", linewidth=0.8))


def read_studies(path: Path) -> list[dict[str, Any]]:
    """Read the studies of a truth file. Raises BadInputError when it is none."""
    try:
        studies: list[dict[str, Any]] = read_json(path)["studies"]
    except (OSError, ValueError, LookupError, TypeError):
        raise BadInputError(
            f"{path}: not the truth of simulated studies. Name a folder that rsna-e2e synth made"
        ) from None
    return studies
