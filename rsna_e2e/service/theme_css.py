"""The style sheet with the colours of reports, for the pages of the service."""

from rsna_e2e.core.colours import css_variables


def theme_css() -> str:
    """Return the colours as CSS: light, dark where the reader prefers that, and dark always inside `.on-dark`, which
    images stand in."""
    light, dark = css_variables(dark=False), css_variables(dark=True)
    return (
        f":root{{color-scheme:light dark;{light}}}\n"
        f"@media (prefers-color-scheme:dark){{:root{{{dark}}}}}\n"
        f".on-dark{{color-scheme:dark;{dark}}}\n"
    )
