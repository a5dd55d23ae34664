"""Colours of the service's pages: those of reports, without what reports are drawn with."""

import re
import subprocess
import sys

from rsna_e2e.core.colours import COLOURS
from rsna_e2e.service.theme_css import theme_css


def test_it_has_every_colour_light_dark_and_dark_for_images() -> None:
    rules = re.findall(r"\{([^{}]*)\}", theme_css())
    for rule, shade in zip(rules, (1, 2, 2), strict=True):
        found = dict(re.findall(r"--(\w+):(#[0-9a-f]{6});", rule))
        assert found == {name: shades[shade] for name, shades in COLOURS.items()}


def test_it_loads_neither_torch_nor_matplotlib() -> None:
    code = "import sys, rsna_e2e.service.theme_css; print(*sorted({'torch', 'matplotlib', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
