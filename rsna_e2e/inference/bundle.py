"""A bundle: one sealed file with all that it takes to apply trained runs, which predict, explain and process take.

It holds, of each run, what predicting needs, laid out as a run folder; beside them what the model is and may be used
for. Opened, it is unpacked into a temporary folder that goes when the program ends.
"""

import re
import shutil
import tempfile
import weakref
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from rsna_e2e.config import Frozen
from rsna_e2e.core.errors import BadInputError, UsageError
from rsna_e2e.core.files import read_json, real_path
from rsna_e2e.core.sealed_archive import read_sealed
from rsna_e2e.tasks.task import Task
from rsna_e2e.training.run_layout import CONFIG

SUFFIX = ".rsna"
DESCRIPTION, CARD, LICENCE = "bundle.json", "MODEL_CARD.md", "LICENSE"
MEMBERS, KNOWN = "members", "known.safetensors"
ONNX_BACKBONE, ONNX_HEAD = "onnx/backbone.onnx", "onnx/head.onnx"  # for other programs: nothing here reads them
_OF_RUN = r"config\.yaml|(task|manifest|calibration|operating_points)\.json"
_OF_CHECKPOINT = r"checkpoints/step-\d{8,12}-epoch-\d{3,9}/(checkpoint\.json|model\.safetensors)"
_NAMES = re.compile(
    r"bundle\.json|MODEL_CARD\.md|LICENSE|onnx/(backbone|head)\.onnx|"
    rf"members/\d{{1,3}}/(known\.safetensors|{_OF_RUN}|{_OF_CHECKPOINT})",
    re.ASCII,
)


class BundleDescription(Frozen):
    """What bundle.json says: its form; what the model is called; under which licence it may be used, an SPDX identifier
    or the name of the file that was given; of which task it is, and of how many runs."""

    format: Literal["rsna_e2e.bundle"] = "rsna_e2e.bundle"
    format_version: Literal[1] = 1
    name: str
    version: str
    licence: str
    task: str
    n_members: int


def identity_of(seal: str) -> str:
    """Return what a model is known by: the first 16 hexadecimal digits of its bundle's sha256."""
    return seal[:16]


class Bundle:
    """A bundle that is open. path: of its file; folder: where it is unpacked; identity: see `identity_of`. runs: its
    members, each a folder as train makes it; the probabilities of a model are the mean of theirs."""

    def __init__(self, path: Path) -> None:
        """Unpack a bundle. Raises BadInputError for a file that is none, is damaged or was changed; DiskFullError."""
        self.path = path
        unpacked = Path(tempfile.mkdtemp(prefix="rsna_e2e-"))
        weakref.finalize(self, shutil.rmtree, unpacked, ignore_errors=True)  # with this, or when the program ends
        self.folder = unpacked / path.name  # so that messages name it
        self.identity = identity_of(read_sealed(path, self.folder, is_known=lambda name: bool(_NAMES.fullmatch(name))))
        try:
            content = read_json(self.folder / DESCRIPTION)
            self.description = BundleDescription.model_validate(content, strict=True)
        except (OSError, ValidationError, ValueError):
            raise BadInputError(
                f"{path}: made by another version of this program, or by another program. Export the run again"
            ) from None
        numbers = range(self.description.n_members)
        self.runs = tuple(self.folder / MEMBERS / str(number) for number in numbers)
        if not self.runs or not all(run.is_dir() for run in self.runs):
            raise BadInputError(f"{path}: lacks runs that its {DESCRIPTION} counts. Export them again")


def task_of(tasks: Sequence[Task]) -> Task:
    """Return the task of models whose probabilities are averaged: of the first, others may see other channels.

    Raises UsageError where they are for different labels.
    """
    first = tasks[0]
    if any(replace(first, inputs=task.inputs) != task for task in tasks):
        raise UsageError(
            f"runs for different labels, {', '.join(sorted({task.name for task in tasks}))}: a mean is of one. "
            "Give each alone"
        )
    return first


_open: dict[tuple[Path, int, int, int], Bundle] = {}


def open_bundle(path: Path) -> Bundle:
    """Return a bundle, unpacked once per process while its file stays the same. Raises what `Bundle` raises."""
    try:
        found = path.stat()
    except OSError as error:
        raise BadInputError(f"{path}: cannot be read: {error.strerror}. Give a file that can be") from error
    key = (real_path(path), found.st_ino, found.st_size, found.st_mtime_ns)
    if key not in _open:
        _open[key] = Bundle(path)
    return _open[key]


def named(run: Path) -> Path:
    """Return what a run folder is called in messages: of one that a bundle was unpacked to, the bundle's path, and of
    several its member in it; else itself."""
    bundle = _bundle_of(run)
    if bundle is None:
        return run
    return bundle.path if len(bundle.runs) == 1 else bundle.path / run.relative_to(bundle.folder)


def noted(run: Path) -> str:
    """Return what `named` does, without the folder of the run or bundle: for notes beside what it predicted."""
    bundle = _bundle_of(run)
    return run.name if bundle is None else named(run).relative_to(bundle.path.parent).as_posix()


def _bundle_of(run: Path) -> Bundle | None:
    return next((bundle for bundle in _open.values() if run in bundle.runs), None)


def check_is_model(path: Path) -> None:
    """Raise BadInputError unless there is a file, which may be a bundle, or the folder of a run, before anything is
    done."""
    if not path.exists():
        raise BadInputError(f"{path}: no such file or folder. Give a bundle made by export, or the folder of a run")
    if path.is_dir() and not (path / CONFIG).is_file():
        raise BadInputError(f"{path}: not a run folder (no {CONFIG}). Give one made by train, or a bundle by export")


def runs_of(path: Path) -> tuple[Path, ...]:
    """Return the run folders that a path means: those in a bundle, or the folder itself."""
    return open_bundle(path).runs if path.is_file() else (path,)


def run_of(path: Path) -> Path:
    """Return the run folder that a path means. Raises UsageError for a bundle of several."""
    runs = runs_of(path)
    if len(runs) > 1:
        raise UsageError(f"{path}: holds {len(runs)} runs, and this is of one. Give one of the runs it was made of")
    return runs[0]
