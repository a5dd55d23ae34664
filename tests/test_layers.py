"""Data flows one way: a package imports only from those above it, and each library only where it belongs."""

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from rsna_e2e.tasks.catalogue import TASKS

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "rsna_e2e"

# From top to bottom the way of the data. Inside a package its modules, and the packages in it, import in no circle.
PACKAGES = (
    "core",
    "tasks",
    "config",
    "dicom",
    "store",
    "loader",
    "model",
    "training",
    "inference",
    "evaluation",
    "serving",
    "service",
    "terminal",
    "tools",
    "cli",
)

# Libraries beside numpy, and who may import them
LIBRARIES = {
    "pydantic": {
        "config",
        "tasks.files",
        "training.calibration",
        "inference.bundle",
        "serving.result",
        "store.embeddings",
        "store.manifest",
        "store.set_manifest",
        "service",
    },
    "yaml": {"core.plain_yaml", "config"},
    "pydicom": {"dicom", "tools.synth"},  # synth writes files
    "h5py": {"core.hdf5", "store"},
    "hdf5plugin": {"store.codecs"},
    "xxhash": {"store"},
    "pyarrow": {"store", "tasks.labels", "inference.predictions"},
    "torch": {
        "core.device",
        "core.machine",
        "core.weights_file",
        *("loader", "model", "training", "inference"),
        *("evaluation.quirks", "evaluation.report", "tools.bench"),
    },
    "nvidia": {"loader.kernels.dali_plugin", "tools.bench"},
    **{library: {"tools.bench.peers"} for library in ("cv2", "albumentations", "monai")},
    "torchvision": {"model.torchvision_bodies", "model.detector", "tools.bench.peers"},
    "PIL": {"loader.published_images", "dicom.rasters", "tools.synth"},
    "apex": {"training.optimizer"},  # NVIDIA's
    "ray": {"store.prepare"},
    "timm": {"model"},
    "huggingface_hub": {"model.pretrained"},
    "safetensors": {"core.weights_file", "model.unpickling"},
    "scipy": {
        *(f"tasks.metrics.{name}" for name in ("resample", "ranked", "delong", "permute", "calibrators")),
        *("model.masks", "evaluation.pointing", "tools.synth"),
    },
    "sklearn": {"evaluation.baselines"},
    "matplotlib": {"evaluation", "tools.study", "tools.synth"},
    "jinja2": {"evaluation"},
    "markupsafe": {"evaluation"},
    "rich": {"core.console", "terminal"},
    **{library: {"service"} for library in ("fastapi", "starlette", "uvicorn", "python_multipart")},
    "prometheus_client": {"service"},
    **{library: {"inference.onnx_files"} for library in ("onnx", "onnxruntime")},
    **{library: {"terminal"} for library in ("textual", "plotext")},
}

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
FILES = sorted(PACKAGE.rglob("*.py"))
MODULES = [path for path in FILES if path.parent != PACKAGE]  # without the public interface, which is of all packages


def label_names() -> list[str]:
    return [name for task in TASKS.values() for labels in (task.slices, task.series) for name in labels.names]


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def _dotted(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def _imports(path: Path) -> Iterator[str]:
    """Modules that a file imports, and names that it imports from packages of ours, which may be modules."""
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            yield node.module
            if (ROOT / node.module.replace(".", "/")).is_dir():
                yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _own_imports(path: Path) -> Iterator[str]:
    """Those of them that are ours, dotted below the package."""
    for name in _imports(path):
        below = name.removeprefix("rsna_e2e.")
        if below != name and ((PACKAGE / below.split(".")[0]).is_dir()):
            yield below


def test_the_list_is_of_all_packages() -> None:
    assert sorted(PACKAGES) == sorted(path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file())
    assert sorted(path.name for path in PACKAGE.glob("*.py")) == ["__init__.py"]


def test_a_module_imports_only_from_packages_above() -> None:
    for path in MODULES:
        own = path.relative_to(PACKAGE).parts[0]
        for name in _own_imports(path):
            other = name.split(".")[0]
            assert other == own or PACKAGES.index(other) < PACKAGES.index(own), f"{_dotted(path)} imports {name}"


def test_the_public_interface_is_for_others() -> None:
    for path in MODULES:
        ours = [name.removeprefix("rsna_e2e.") for name in _imports(path) if name.startswith("rsna_e2e.")]
        assert {name.split(".")[0] for name in ours} <= {*PACKAGES, "__version__"}, _dotted(path)


@pytest.mark.parametrize("folder", sorted({path.parent for path in MODULES}), ids=_dotted)
def test_inside_a_package_nothing_imports_in_a_circle(folder: Path) -> None:
    prefix = f"{_dotted(folder)}."
    imported: dict[str, set[str]] = defaultdict(set)
    for path in folder.rglob("*.py"):
        unit = path.relative_to(folder).parts[0].removesuffix(".py")
        for name in _own_imports(path):
            other = name.removeprefix(prefix).split(".")[0]
            if name.startswith(prefix) and other != unit and unit != "__init__" and _is_unit(folder / other):
                imported[unit].add(other)
    TopologicalSorter(imported).prepare()  # raises CycleError, which names the circle


def _is_unit(path: Path) -> bool:
    return path.is_dir() or path.with_suffix(".py").is_file()


def test_a_library_is_imported_only_where_it_belongs() -> None:
    for path in FILES:
        own, imported = f"{_dotted(path)}.", {name.split(".")[0] for name in _imports(path)}
        for library in imported - sys.stdlib_module_names - {"rsna_e2e", "numpy"}:
            assert any(own.startswith(f"{place}.") for place in LIBRARIES.get(library, ())), f"{own} imports {library}"


def test_the_numpy_twin_is_imported_by_tests_alone() -> None:
    assert [_dotted(path) for path in FILES if "loader.kernels.numpy_twin" in _own_imports(path)] == []


@pytest.mark.parametrize("package", ["loader", "loader/kernels"])
def test_who_uses_the_kernels_alone_imports_nothing_else(package: str) -> None:
    assert list(_imports(PACKAGE / package / "__init__.py")) == []


WORDS = ("any", "normal", "died")  # labels that are words of English, of geometry, and of processes
LABEL = re.compile("|".join(rf"^{name}$" if name in WORDS else rf"\b{name}\b" for name in label_names()))


def test_label_names_stand_with_their_tasks() -> None:
    """In no string of another module; those of `WORDS` are the name alone."""
    for path in FILES:
        if not _dotted(path).startswith(("tasks.", "tools.synth.")):  # synth makes the data of tasks
            strings = [node.value for node in ast.walk(_tree(path)) if isinstance(node, ast.Constant)]
            assert [text for text in strings if isinstance(text, str) and LABEL.search(text)] == [], _dotted(path)


def test_files_stay_short() -> None:
    assert [(_dotted(path), n) for path in FILES if (n := len(path.read_text().splitlines())) > 300] == []


def test_functions_stay_short() -> None:
    """At most 40 lines each, decorators left out, docstring and signature counted."""
    for path in FILES:
        functions = [node for node in ast.walk(_tree(path)) if isinstance(node, FUNCTIONS)]
        lengths = [(node.name, (node.end_lineno or node.lineno) - node.lineno + 1) for node in functions]
        assert [(name, n) for name, n in lengths if n > 40] == [], _dotted(path)
