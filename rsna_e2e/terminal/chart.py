"""The losses of a run as a chart of characters."""

import plotext

from rsna_e2e.terminal.curves import Curves
from rsna_e2e.terminal.picture import model_colour

_MARKERS = "xo#*+@%&"  # tell curves apart without colours too
_MOST_TICKS = 8


def legend(curves: Curves) -> str:
    """Return which character stands for which curve, one to a line."""
    return "\n".join(f"{_marker(number)} {name}" for number, name in enumerate(curves.losses))


def loss_chart(curves: Curves, *, width: int, height: int, has_colours: bool) -> str:
    """Return the losses by epoch in `height` lines of `width` cells, with colours in ANSI escapes or without."""
    figure = plotext.figure  # the library has one, which keeps what was drawn
    figure.clear()
    figure.theme("colorless")
    figure.plot_size(width, height)
    for number, curve in enumerate(curves.losses.values()):
        colour = model_colour(number)[1] if has_colours else None
        signal = figure.signal(list(curve), list(curve.values()), marker=plotext.marker(_marker(number), colour))
        signal.lines()
        figure.draw(signal)
    figure.legend(False)
    epochs = sorted({epoch for curve in curves.losses.values() for epoch in curve})
    figure.ruler("x").ticks(epochs[:: len(epochs) // _MOST_TICKS + 1])
    figure.label("epoch")
    return str(figure.build())


def _marker(number: int) -> str:
    return _MARKERS[number % len(_MARKERS)]
