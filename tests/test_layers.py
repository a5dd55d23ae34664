"""Data flows one way: a module imports only from lower levels, and each library only where it belongs.

Modules of one package (`store`, `prepare`, `synth`, `cli` and others) count as one; those of `core` each have a level.
"""

import ast
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "rsna_e2e"

LEVELS = (
    {"__init__", "core.__init__", "core.errors", "core.records", "core.reasons", "core.limits"},
    {"core.files"},
    {"core.hdf5", "core.weights_file", "core.machine", "core.console"},
    {"core.device"},
    {"image_ids", "meeting", "preemption", "unpickling"},
    {"tasks", "config", "elements", "hounsfield", "arguments", "launch", "pseudonyms", "volumes"},
    {
        *("series", "folds", "augment", "sampler", "metrics", "reference", "resume", "lr_sweep", "slice_order"),
        *("archive", "division", "norms", "slice_dropout", "buckets", "run_folder"),
    },
    {"table_files"},
    {"sources", "labels", "predictions", "dicom", "store", "ops", "batch", "losses", "model", "dali_plugin"},
    {
        "evaluation",
        "bagging",
        "missing",
        "checkpoint",
        "import_weights",
        "embeddings",
        "prepare",
        "synth",
        "runlog",
        "optimizer",
        "distributed",
        "chunked",
    },
    {"loader", "gradient_sum"},
    {"predict", "meter", "chunk_size", "phases", "import_embeddings"},
    {"steps", "split", "validation", "extract"},
    {"divergence", "predict_epochs", "quirks"},
    {"trainer"},
    {"train", "evaluate"},
    {"report", "bench", "lr_finder"},
    {"pipeline", "inspection"},
    {"cli"},
    {"rank_main"},
)
LEVEL = {module: level for level, modules in enumerate(LEVELS) for module in modules}

# Libraries beside numpy, and who may import them
LIBRARIES = {
    "pydantic": {"config", "embeddings", "run_folder"},
    "yaml": {"config"},
    "pydicom": {"dicom", "synth"},  # synth writes files
    "h5py": {"core.hdf5", "store", "embeddings"},
    "hdf5plugin": {"store"},
    "xxhash": {"store", "embeddings", "prepare"},
    "pyarrow": {"store", "labels", "predictions", "prepare"},
    "torch": {
        "unpickling",
        "import_weights",
        "core.weights_file",
        "core.machine",
        "core.device",
        "ops",
        "dali_plugin",
        "batch",
        "losses",
        "model",
        "checkpoint",
        "distributed",
        "norms",
        "slice_dropout",
        "buckets",
        "gradient_sum",
        "loader",
        "runlog",
        "optimizer",
        "chunked",
        "chunk_size",
        "steps",
        "quirks",
        "extract",
        "predict",
        "validation",
        "divergence",
        "trainer",
        "train",
        "lr_finder",
        "report",
        "bench",
        "pipeline",
        "rank_main",
    },
    "nvidia": {"dali_plugin", "bench"},
    **{library: {"bench"} for library in ("cv2", "albumentations", "monai", "torchvision")},  # its peers
    "PIL": {"loader"},
    "apex": {"optimizer"},  # NVIDIA's
    "ray": {"prepare"},
    "timm": {"model", "slice_dropout"},
    "safetensors": {"core.weights_file", "unpickling"},
    "scipy": {"synth"},
    "matplotlib": {"report", "inspection", "synth"},
    "jinja2": {"report", "inspection"},
    "markupsafe": {"report", "inspection"},
    "rich": {"core.console"},
}

FILES = sorted(PACKAGE.rglob("*.py"))


def _module(path: Path) -> str:
    return _counted(path.relative_to(PACKAGE).with_suffix("").parts)


def _counted(parts: Sequence[str]) -> str:
    """What of the names below the package has a level of its own."""
    if parts[0] != "core":
        return parts[0]
    return f"core.{parts[1]}" if len(parts) > 1 else "core.__init__"


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            yield node.module
            if node.module in ("rsna_e2e", "rsna_e2e.core"):
                yield from (f"{node.module}.{alias.name}" for alias in node.names if alias.name != "__version__")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_from_lower_levels(path: Path) -> None:
    own = _module(path)
    assert own in LEVEL, f"{own} has no level yet"
    for name in _imports(path):
        if name.startswith("rsna_e2e."):
            other = _counted(name.split(".")[1:])
            assert other == own or LEVEL[other] < LEVEL[own], f"{own} (level {LEVEL[own]}) imports {other}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_library_is_imported_only_where_it_belongs(path: Path) -> None:
    own = _module(path)
    for library in {name.split(".")[0] for name in _imports(path)} - sys.stdlib_module_names - {"rsna_e2e", "numpy"}:
        assert own in LIBRARIES.get(library, set()), f"{own} imports {library}"


def test_label_names_stand_in_one_module() -> None:
    for path in FILES:
        if path.name != "tasks.py" and _module(path) != "synth":  # synth makes the bleeds themselves
            assert "subarachnoid" not in path.read_text(), path


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_stay_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 300
