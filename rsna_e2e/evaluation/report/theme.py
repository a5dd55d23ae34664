"""Figures in the colours of the page that they stand in, light or dark, and their embedding in it."""

import base64
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from rsna_e2e.core.colours import COLOURS, css_variables

_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"


def colour(name: str) -> str:
    """Return the placeholder that stands for a theme colour in a figure."""
    return COLOURS[name][0]


def light(name: str) -> str:
    """Return a theme colour in its light version, for figures outside a page."""
    return COLOURS[name][1]


@contextmanager
def drawing(colour: Callable[[str], str] = colour) -> Iterator[None]:
    """Make figures created inside look like the page, in the colours that `colour` gives by name."""
    muted = ("axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    settings: dict[Any, Any] = {
        **dict.fromkeys(muted, colour("muted")),
        "text.color": colour("ink"),
        "axes.titlecolor": colour("ink"),
        "grid.color": colour("grid"),
        "svg.fonttype": "none",  # text stays text: small, sharp, can be searched
        "svg.hashsalt": "rsna-e2e",  # equal figures give equal bytes
        "font.size": 8.5,
        "axes.titlesize": 9.5,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.linewidth": 0.7,
        "grid.linewidth": 0.7,
        "xtick.major.width": 0.7,
        "ytick.major.width": 0.7,
        "lines.linewidth": 1.6,
    }
    with mpl.rc_context(settings):
        yield


def svg_data_uri(figure: Figure) -> str:
    """Return `figure` as an SVG data URI without background that follows the reader's light or dark setting."""
    buffer = io.StringIO()
    # no dates and no links inside: equal figures give equal bytes, and nothing points outside
    figure.savefig(
        buffer, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type"))
    )
    svg = buffer.getvalue()
    for name, (placeholder, *_) in COLOURS.items():
        svg = svg.replace(placeholder, f"var(--{name})")
    svg = svg.replace("'DejaVu Sans', 'Bitstream Vera Sans'", _FONT)
    style = (
        f"<style>:root{{{css_variables(dark=False)}}}"
        f"@media (prefers-color-scheme: dark){{:root{{{css_variables(dark=True)}}}}}</style>"
    )
    head, tail = svg[svg.index("<svg") :].split(">", 1)
    return data_uri("image/svg+xml", f"{head}>{style}{tail}".encode())


def data_uri(media_type: str, content: bytes) -> str:
    """Return `content` as a base64 data URI."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"
