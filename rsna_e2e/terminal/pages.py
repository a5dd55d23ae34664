"""Screens of the console beside that of a series: help, and the loss curves of a run."""

from pathlib import Path
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import Screen
from textual.widgets import Static

from rsna_e2e.core.records import printable
from rsna_e2e.terminal.chart import legend, loss_chart
from rsna_e2e.terminal.curves import read_curves
from rsna_e2e.terminal.widgets import Banner

HELP = """
 Patients        / searches ids and series keys, Enter opens a series

 ↑ ↓             the slice before or after; PgUp, PgDn: ten of them
 Home, End       the first slice, the last
 K               the slice that speaks most for the label
 1 to 9          the label that strip, status line and heatmap are of
 H               the heatmap of the model for the label, on or off
 W               the next window
 M               the next model
 O               overlay: the mean of all models' maps in red, the outline of
                 each in its model's colour
 L               the loss curves of the model's run
 Esc             back              Q  quit

 Each label has its highest probability, the threshold from which it is
 said to be there, and the truth where the store knows it. The strip below
 runs along the series: the higher, the more probable; slices that have the
 label are yellow and underlined.
"""


class HelpScreen(Screen[None]):
    """What the keys do."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,question_mark", "app.pop_screen", show=False)]

    def compose(self) -> ComposeResult:
        """Show it."""
        yield Banner()
        with VerticalScroll():
            yield Static(HELP, markup=False)


class CurvesScreen(Screen[None]):
    """The losses of a run by epoch. Raises what `read_curves` raises."""

    CSS = """
    #legend { height: auto; padding-left: 1; }
    #chart { height: 1fr; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,l,L", "app.pop_screen", show=False)]

    def __init__(self, run: Path, *, has_colours: bool) -> None:
        super().__init__()
        self._run, self._curves, self._has_colours = run, read_curves(run), has_colours

    def compose(self) -> ComposeResult:
        """Lay out the chart."""
        yield Banner()
        yield Static(f" losses of {printable(str(self._run))} by epoch", markup=False)
        yield Static(legend(self._curves), id="legend", markup=False)
        yield Static(id="chart", markup=False)

    def on_resize(self) -> None:
        """Draw it as large as there is room."""
        self.call_after_refresh(self._draw)

    def _draw(self) -> None:
        chart = self.query_one("#chart", Static)
        width, height = chart.size
        if width > 0 and height > 0:
            drawn = loss_chart(self._curves, width=width, height=height, has_colours=self._has_colours)
            chart.update(Text.from_ansi(drawn, no_wrap=True))
