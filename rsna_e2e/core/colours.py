"""Colours of pages and figures, in a light and a dark version, and as CSS."""

from collections.abc import Mapping
from types import MappingProxyType

# Name: (placeholder that matplotlib draws with, light, dark). Blue, vermilion and bluish green after M. Okabe and K.
# Ito's palette, which people with any form of colour blindness tell apart; all are lighter on a dark page.
COLOURS: Mapping[str, tuple[str, str, str]] = MappingProxyType(
    {
        "ink": ("#010101", "#1c2733", "#e4e9ee"),
        "muted": ("#020202", "#5a6875", "#9dabb8"),
        "grid": ("#030303", "#dfe4e9", "#35414d"),
        "slices": ("#040404", "#0068a8", "#62b6f2"),
        "series": ("#050505", "#c04a00", "#f79b5a"),
        "truth": ("#060606", "#f0b429", "#c78f1e"),
        "series_head": ("#070707", "#00785a", "#3ccf9f"),
    }
)


def css_variables(*, dark: bool) -> str:
    """Return the colours as CSS custom properties."""
    return "".join(f"--{name}:{shades[2 if dark else 1]};" for name, shades in COLOURS.items())
