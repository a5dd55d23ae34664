"""Rendering of all HTML pages: templates, theme, and numbers marked with their path in the JSON file beside it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from rsna_e2e.core.colours import css_variables
from rsna_e2e.core.errors import BadInputError
from rsna_e2e.core.files import atomic_writer, make_folder, without_nan
from rsna_e2e.evaluation.report.figures import display_name


def render(template: str, content: Mapping[str, Any], *, unknown: str, **variables: Any) -> str:
    """Return a page made of a template of this package, `content`, and further `variables`.

    unknown: explanation of a missing number, shown as its tooltip.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("rsna_e2e.evaluation.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["label"] = display_name
    environment.globals["number"] = _number_writer(content, unknown)
    return environment.get_template(template).render(
        content=content,
        light=Markup(css_variables(dark=False)),
        dark=Markup(css_variables(dark=True)),
        **variables,
    )


def check_folder(out: Path, *, example: str) -> None:
    """Raise BadInputError when `out` cannot be a folder. example: what is to be put into it."""
    nearest = next(path for path in (out, *out.parents) if path.exists())
    if not nearest.is_dir():
        raise BadInputError(f"{nearest}: is a file. Give a folder for {example}")


def write_texts(out: Path, texts: Mapping[str, str]) -> None:
    """Write files into the folder `out`, each whole or not at all."""
    make_folder(out)
    for name, text in texts.items():
        with atomic_writer(out / name) as file:
            file.write(text.encode())


def _number_writer(content: Mapping[str, Any], unknown: str) -> Any:
    """Return the templates' `number(path, form)`: a number of the JSON file, marked with its path in it."""

    def number(path: str, form: str = ".3f") -> Markup:
        value: Any = content
        for key in path.split("."):
            value = value[int(key)] if isinstance(value, list) else value[key]
        if without_nan(value) is None:
            return Markup('<span class="none" title="{}">–</span>').format(unknown)
        return Markup('<data value="{}" class="number" title="{}">{}</data>').format(value, path, format(value, form))

    return number
