"""Widgets of the console: a slice in half blocks, and the labels of a series with their strips."""

from collections.abc import Callable
from functools import lru_cache

from rich.color import Color
from rich.segment import Segment
from rich.style import Style
from rich.text import Text
from textual.geometry import Size
from textual.strip import Strip
from textual.widget import Widget

from rsna_e2e.serving.result import RESEARCH_ONLY
from rsna_e2e.terminal.picture import half_blocks
from rsna_e2e.terminal.texts import LabelLine
from rsna_e2e.terminal.view import Frame

UPPER_HALF = "▀"
_CACHED = 65536  # pairs of colours
_NAME_WIDTH = 20
_TRUE, _CURSOR = "rgb(240,180,41)", "rgb(0,104,168)"  # the theme's colours of truth and of slices

Rgb = tuple[int, int, int]


class Banner(Widget):
    """The line that is seen on every screen."""

    DEFAULT_CSS = "Banner { dock: top; height: 1; background: $warning; color: $text; text-style: bold; }"

    def render(self) -> Text:
        """Say what this is for."""
        return Text(f" {RESEARCH_ONLY}", no_wrap=True)


class SliceView(Widget):
    """A square picture, as large as there is room: two pixels in a cell, or without colours one character.

    source: makes what is to be drawn, of a side in px that is even; None where there is nothing yet.
    """

    DEFAULT_CSS = "SliceView { background: $background; }"

    def __init__(self, source: Callable[[int], Frame | None], *, has_colours: bool) -> None:
        super().__init__()
        self._source, self._has_colours = source, has_colours
        self._drawn: list[Strip] = []
        self._drawn_for: Size | None = None

    @property
    def side(self) -> int:
        """Of the picture that there is room for, in px: as wide as high, where a cell is twice as high as wide."""
        return min(self.size.width // 2 * 2, 2 * self.size.height)

    def redraw(self) -> None:
        """Ask for the picture again."""
        self._drawn_for = None
        self.refresh()

    def render_line(self, y: int) -> Strip:
        """Return a line of the picture, or what is left and right of it."""
        if self._drawn_for != self.size:
            found = self._source(self.side) if self.side > 0 else None
            self._drawn = [] if found is None else self._strips(found)
            self._drawn_for = self.size
        drawn = self._drawn[y] if y < len(self._drawn) else Strip([])
        return drawn.extend_cell_length(self.size.width, self.rich_style)

    def _strips(self, frame: Frame) -> list[Strip]:
        if not self._has_colours:
            return [Strip([Segment(line, self.rich_style)]) for line in frame.characters()]
        upper, lower = half_blocks(frame.picture())
        return [
            Strip([Segment(UPPER_HALF, _style(tuple(u), tuple(b))) for u, b in zip(above, below, strict=True)])
            for above, below in zip(upper.tolist(), lower.tolist(), strict=True)
        ]


@lru_cache(_CACHED)
def _style(upper: Rgb, lower: Rgb) -> Style:
    return Style(color=Color.from_rgb(*upper), bgcolor=Color.from_rgb(*lower))


def labels_text(lines: list[LabelLine], *, header: str, has_colours: bool) -> Text:
    """Return the labels with their strips, two lines each. The one that is looked at is in reverse; in strips, true
    slices are underlined, and in colours yellow, and the slice that is looked at is on blue, or in reverse."""
    text = Text(header, no_wrap=True)
    for line in lines:
        name = f"{line.key:>1} {line.name[:_NAME_WIDTH]:<{_NAME_WIDTH}}"
        weight = "bold" if line.is_above else ""
        text.append("\n")
        text.append(name, style="reverse" if line.is_chosen else weight)
        text.append(f" {line.numbers}", style=weight)
        if line.bars:
            text.append("\n  ")
        for column, bar in enumerate(line.bars):
            text.append(bar, style=_bar_style(line, column, has_colours=has_colours))
    return text


def _bar_style(line: LabelLine, column: int, *, has_colours: bool) -> str:
    parts = []
    if line.is_true[column]:
        parts.append(f"underline {_TRUE}" if has_colours else "underline")
    if column == line.cursor:
        parts.append(f"on {_CURSOR}" if has_colours else "reverse")
    return " ".join(parts)
