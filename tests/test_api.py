"""The public interface: names that are imported when they are first used."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import rsna_e2e

ROOT = Path(__file__).parents[1]

# Libraries that take a tenth of a second and more to import, or that a machine may lack
HEAVY = ("numpy", "torch", "pydantic", "pydicom", "h5py", "pyarrow", "timm", "nvidia", "matplotlib", "rich", "sklearn")


def _loaded_by(statement: str) -> set[str]:
    """Those of `HEAVY`, and modules of ours, that a fresh process has loaded after `statement`."""
    script = f"{statement}\nimport sys\nprint(*sys.modules)"
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    loaded = printed.splitlines()[-1].split()
    return {name for name in loaded if name in HEAVY or name.startswith("rsna_e2e.")}


def test_importing_the_package_loads_nothing_else() -> None:
    assert _loaded_by("import rsna_e2e; dir(rsna_e2e)") == set()


def test_a_name_loads_what_it_needs_and_no_more() -> None:
    assert _loaded_by("from rsna_e2e import get_task") & set(HEAVY) == set()
    assert _loaded_by("from rsna_e2e import Store") & {"torch", "pydicom", "h5py", "pyarrow"} == {"h5py", "pyarrow"}


def test_help_loads_nothing_heavy() -> None:
    script = "from rsna_e2e.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass"
    assert _loaded_by(script) & set(HEAVY) <= {"numpy"}


@pytest.mark.parametrize("name", rsna_e2e.__all__)
def test_every_name_is_there(name: str) -> None:
    assert name in dir(rsna_e2e)
    assert callable(getattr(rsna_e2e, name))
    assert name in vars(rsna_e2e), "imported once"


def test_any_other_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'rsna_e2e' has no attribute 'trasnform_slices'"):
        rsna_e2e.trasnform_slices  # noqa: B018


def test_type_checkers_see_the_same_names() -> None:
    (types,) = (node for node in ast.parse(Path(rsna_e2e.__file__).read_text()).body if isinstance(node, ast.If))
    names: set[str] = set()
    for node in types.body:
        if isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
        else:
            assert isinstance(node, ast.Assign)
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    assert names == set(rsna_e2e.__all__)
