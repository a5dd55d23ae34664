"""Writes a run folder, except for its weights: configuration, manifest, metrics, TensorBoard events."""

import hashlib
import json
import math
import os
import re
import threading
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from torch.utils.tensorboard import SummaryWriter

from rsna_e2e.config import RunConfig, as_yaml
from rsna_e2e.core.device import Compute
from rsna_e2e.core.errors import BadInputError, UsageError
from rsna_e2e.core.files import (
    as_json,
    atomic_writer,
    entries,
    full_disk_named,
    is_full,
    lock_folder,
    make_folder,
    remove_folder,
    write_json,
)
from rsna_e2e.core.machine import describe_code, describe_environment
from rsna_e2e.tasks.task import Task
from rsna_e2e.training.run_folder import CONFIG_SHA256, STORE_HASH, read_manifest, write_task
from rsna_e2e.training.run_layout import CHECKPOINTS, CONFIG, DEBUG, MANIFEST, METRICS, TENSORBOARD

# Kinds of lines with the scores of an epoch: of the held-out fold, or of slices that the model was trained on
VALIDATION, TRAINING_SLICES = "validation", "training_slices"
# and with what a slice classifier gets right of all of these slices, and of a balanced sample
CONFUSION, BALANCED_CONFUSION = "confusion", "confusion_balanced"

_OF_EPOCHS = (VALIDATION, TRAINING_SLICES, CONFUSION, BALANCED_CONFUSION)

_WORTH_KEEPING = (CHECKPOINTS, DEBUG)
_UNFINISHED = re.compile(rf"{re.escape(MANIFEST)}|.+\.tmp-\d+")  # in a folder that was not yet a run


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumePoint:
    """Where a run continues: after so many steps, and epochs completed and validated. 0, 0: from its beginning."""

    step: int
    epoch: int


class Log(Protocol):
    """A destination for the metrics of a run."""

    def write(self, kind: str, step: int, **values: float) -> None:
        """Record values at a step."""


class SilentLog:
    """A log that writes nothing, for ranks other than the main one."""

    def write(self, kind: str, step: int, **values: float) -> None:
        """Do nothing."""

    def sync(self) -> None:
        """Do nothing."""

    def __enter__(self) -> "SilentLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pass


class RunLog:
    """A run folder being written, by one process at a time.

    A folder that already holds files is refused with UsageError, unless it is a run that is `resumed_at`: then its logs
    are cut there, its configuration stays, and its manifest gets an entry. A new run that fails before its first
    checkpoint, and not by diverging, leaves no folder behind. Raises OutOfResourcesError when the disk is full.
    """

    def __init__(
        self,
        run: Path,
        config: RunConfig,
        task: Task,
        *,
        data_hash: str,
        store_hash: str,
        compute: Compute,
        loader: str,
        classifiers: Sequence[Sequence[str]] = (),
        n_ranks: int = 1,
        resumed_at: ResumePoint | None = None,
    ) -> None:
        if resumed_at is None and run.exists() and not (run.is_dir() and _is_free(run)):
            way_out = "Continue the run with --resume auto, choose" if (run / CONFIG).is_file() else "Choose"
            raise UsageError(f"{run}: already exists. {way_out} another run folder, or remove it first")
        self.run, self.data_hash = run, data_hash
        self._is_resumed = resumed_at is not None
        self._on_thread = threading.excepthook
        make_folder(run)
        self._lock = _lock(run)
        try:
            with self._full_disk_named():
                self._facts = {"data_hash": data_hash, STORE_HASH: store_hash, "seed": config.seed}
                self._facts |= {"classifiers": classifiers, "resumed": []}
                self._open(config, task, compute, loader=loader, n_ranks=n_ranks, resumed_at=resumed_at)
        except BaseException:
            threading.excepthook = self._on_thread
            if not self._is_resumed:
                remove_folder(run)
            os.close(self._lock)
            raise

    def _open(
        self,
        config: RunConfig,
        task: Task,
        compute: Compute,
        *,
        loader: str,
        n_ranks: int,
        resumed_at: ResumePoint | None,
    ) -> None:
        run = self.run
        session = {"started_utc": _now(), "code": describe_code(), "environment": describe_environment(n_ranks=n_ranks)}
        session |= {"compute": str(compute), "loader": loader}
        if resumed_at is None:
            saved = as_yaml(config)
            write_json(run / MANIFEST, session | self._facts | {CONFIG_SHA256: hashlib.sha256(saved).hexdigest()})
            write_task(run, task)
            with atomic_writer(run / CONFIG) as file:  # last: it makes the folder a run
                file.write(saved)
        else:
            _append_to_manifest(run / MANIFEST, asdict(resumed_at) | session)
            cut_metrics(run / METRICS, resumed_at)
        self._metrics = (run / METRICS).open("ab", buffering=0)
        purge_step = resumed_at.step + 1 if resumed_at else None
        threading.excepthook = self._unless_full
        try:
            self._tensorboard = SummaryWriter(str(run / TENSORBOARD), purge_step=purge_step)
        except BaseException:
            self._metrics.close()
            raise

    def write(self, kind: str, step: int, **values: float) -> None:
        """Append one line to metrics.jsonl and one scalar per value to TensorBoard, named kind/value.

        What is not finite is null in the one and left out in the other.
        """
        line = (as_json({"kind": kind, "step": step, **values}) + "\n").encode()
        with self._full_disk_named():
            self._append(line)
            for name, value in values.items():
                if math.isfinite(value):
                    self._tensorboard.add_scalar(f"{kind}/{name}", value, step)

    def sync(self) -> None:
        """Wait until all lines are on the disk: before a checkpoint that says they were written."""
        with self._full_disk_named():
            os.fsync(self._metrics.fileno())

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self._metrics.close()
            with suppress(*([OSError] if kind is not None else [])), self._full_disk_named():
                self._tensorboard.close()
            if kind is not None and not self._is_resumed and not any((self.run / n).exists() for n in _WORTH_KEEPING):
                remove_folder(self.run)
        finally:
            threading.excepthook = self._on_thread
            os.close(self._lock)

    def _unless_full(self, failure: threading.ExceptHookArgs) -> None:
        """Suppress the traceback of TensorBoard's thread for a full disk, which `write` or `close` will report."""
        if not (isinstance(failure.exc_value, OSError) and is_full(failure.exc_value)):
            self._on_thread(failure)

    def _append(self, line: bytes) -> None:
        """Add a line, whole or not at all."""
        before = os.fstat(self._metrics.fileno()).st_size
        try:
            while line:
                line = line[self._metrics.write(line) :]
        except OSError:
            os.ftruncate(self._metrics.fileno(), before)
            raise

    def _full_disk_named(self) -> AbstractContextManager[None]:
        return full_disk_named(self.run, "the disk is full. Free some space there and continue with --resume auto")


def cut_metrics(path: Path, point: ResumePoint) -> None:
    """Remove from metrics.jsonl the lines that a resumed run will write again, and incomplete ones after a crash."""
    if not path.exists():
        return
    if not path.is_file():  # a pipe would be waited for
        raise BadInputError(f"{path}: not a file. Remove it; the run can continue without its earlier log")
    content = path.read_bytes()
    kept = b"".join(line for line in content.splitlines(keepends=True) if _is_before(line, point))
    if kept != content:
        with atomic_writer(path) as file:
            file.write(kept)


def _is_before(line: bytes, point: ResumePoint) -> bool:
    try:
        entry: Any = json.loads(line)
        is_late_validation = entry["kind"] in _OF_EPOCHS and entry["epoch"] > point.epoch
        return line.endswith(b"\n") and bool(entry["step"] <= point.step) and not is_late_validation
    except (ValueError, TypeError, KeyError, RecursionError):
        return False


def _is_free(run: Path) -> bool:
    """Whether a folder is empty, except for files of a run that was killed before it began."""
    return all(_UNFINISHED.fullmatch(path.name) for path in entries(run))


def _lock(run: Path) -> int:
    try:
        return lock_folder(run)
    except BlockingIOError:
        raise UsageError(f"{run}: another process is training in it. Wait for it, or choose another folder") from None


def _append_to_manifest(path: Path, entry: dict[str, Any]) -> None:
    manifest = read_manifest(path.parent)
    if not isinstance(manifest.get("resumed"), list):
        raise BadInputError(f"{path}: damaged. Put it back from a copy, or train again")
    manifest["resumed"].append(entry)
    write_json(path, manifest)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
