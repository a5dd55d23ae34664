"""dali_plugin: it loads on demand, and says what to do when DALI or its plugin is missing or of another version."""

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rsna_e2e.core.errors import MissingCapabilityError
from rsna_e2e.loader.kernels import dali_plugin

PACKAGE = Path(dali_plugin.__file__).parent
BUILD = r"Build it with: RSNA_WITH_DALI=1 pip install --no-build-isolation -e \."


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], object]:
    """`load` as in a fresh process whose plugins are those in tmp_path."""
    monkeypatch.setattr(dali_plugin, "_FOLDER", tmp_path)
    return dali_plugin.load.__wrapped__


@pytest.mark.needs_dali
def test_loading_twice_gives_the_same_module_with_our_operators() -> None:
    dali = dali_plugin.load()
    assert dali_plugin.load() is dali
    assert {"transform_slices", "content_box"} <= set(dir(dali.fn.rsna))
    assert dali_plugin.is_installed()


def test_importing_it_does_not_import_dali() -> None:
    heavy = "'nvidia.dali' in sys.modules or 'torch' in sys.modules"
    script = f"import sys, rsna_e2e.loader.kernels.dali_plugin; sys.exit({heavy})"
    subprocess.run([sys.executable, "-c", script], check=True, cwd=PACKAGE.parents[2])


def test_without_dali(load: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    for answer in (lambda name: None if name == "nvidia.dali" else find_spec(name), _no_nvidia):
        monkeypatch.setattr(importlib.util, "find_spec", answer)
        assert not dali_plugin.is_installed()
        with pytest.raises(MissingCapabilityError, match=r"not installed\. Install it with: pip install nvidia-dali"):
            load()


def _no_nvidia(name: str) -> None:
    raise ModuleNotFoundError(f"No module named {name!r}")


@pytest.mark.needs_dali
def test_a_dali_that_cannot_be_imported(load: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    monkeypatch.delattr("nvidia.dali")
    monkeypatch.setattr(dali_plugin, "_is_dali_installed", lambda: True)
    with pytest.raises(MissingCapabilityError, match=r"cannot be imported \(.*nvidia.*\). Install it again with: pip"):
        load()


@pytest.mark.needs_dali
def test_without_the_plugin(load: Callable[[], object]) -> None:
    assert not dali_plugin.is_installed()
    with pytest.raises(MissingCapabilityError, match=r"plugin with our operators is not built\. " + BUILD):
        load()


@pytest.mark.needs_dali
def test_with_a_plugin_for_another_version(load: Callable[[], object], tmp_path: Path) -> None:
    shutil.copy(next(PACKAGE.glob("_dali-*.so")), tmp_path / "_dali-1.99.0.so")
    version = dali_plugin.load().__version__
    assert dali_plugin.is_installed()
    with pytest.raises(MissingCapabilityError, match=rf"DALI {version} is installed, .* built for DALI 1\.99\.0"):
        load()


@pytest.mark.needs_dali
def test_with_a_damaged_plugin(load: Callable[[], object], tmp_path: Path) -> None:
    version = dali_plugin.load().__version__
    (tmp_path / f"_dali-{version}.so").write_bytes(b"no library")
    with pytest.raises(MissingCapabilityError, match=rf"_dali-{version}\.so cannot be loaded \(.*\). Build it again"):
        load()
