"""Applies a model to a folder of images, once: for each study a result, pictures and a page, and a summary of all."""

# T slices of a series

import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rsna_e2e.core.errors import BadInputError, DiskFullError, RsnaError
from rsna_e2e.core.files import full_disk_named, make_folder, write_json
from rsna_e2e.core.records import Progress, never, no_progress
from rsna_e2e.inference.predict_dicom import temporary_store
from rsna_e2e.serving.model import ServedModel
from rsna_e2e.serving.result import Result, results
from rsna_e2e.serving.study_page import write_study
from rsna_e2e.store import Store

RESULT, SUMMARY = "result.json", "summary.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Processed:
    """What `process` made. results: of the studies that were written; failed: why the others were not, by their
    `study_key`. refused: files and frames that were not taken, counted by reason."""

    results: tuple[Result, ...]
    failed: dict[str, str]
    refused: dict[str, int]
    prepare_s: float
    predict_s: float


def process(
    raw: Path,
    out: Path,
    model: ServedModel,
    *,
    has_pictures: bool = True,
    n_jobs: int | None = None,
    is_stopping: Callable[[], bool] = never,
    progress: Progress = no_progress,
) -> Processed:
    """Predict every study of the DICOM files, or images, in `raw`, a folder or a zip archive.

    For each it makes a folder of its `study_key` in `out`, in place of one that is there, each whole or not at all:
    result.json, and with has_pictures pictures of its key slices and report.html. Folders of other studies stay.
    `out/summary.json`, of those in `raw` alone, comes last. A temporary store holds the pixels meanwhile. n_jobs:
    processes that read files, by default one for each core. A study whose pictures or folder cannot be made fails
    alone, unless is_stopping says that the program is ending.

    Raises BadInputError when `raw` is missing or holds no usable slice, OutOfResourcesError on a full disk.
    """
    make_folder(out)
    (out / SUMMARY).unlink(missing_ok=True)
    started_s, failed = time.perf_counter(), dict[str, str]()
    with temporary_store(raw, model.task, n_jobs=n_jobs, progress=progress) as store:
        prepared_s = time.perf_counter()
        found = results(model, store, model(store, range(len(store.series)), progress=progress))
        predicted_s = time.perf_counter()
        for result in found:
            with _failing_alone(result.study, failed, is_stopping=is_stopping):
                _write(result, store, model, out / result.study, has_pictures=has_pictures)
        refused = _counted(store)
    done = Processed(
        results=tuple(result for result in found if result.study not in failed),
        failed=failed,
        refused=refused,
        prepare_s=prepared_s - started_s,
        predict_s=predicted_s - prepared_s,
    )
    write_json(out / SUMMARY, _summary(done))
    return done


def _summary(done: Processed) -> dict[str, Any]:
    return {
        "studies": [{"study": result.study, "sentence": result.sentence} for result in done.results],
        "failed": done.failed,
        "refused": done.refused,
        "prepare_s": round(done.prepare_s, 3),
        "predict_s": round(done.predict_s, 3),
    }


def _counted(store: Store) -> dict[str, int]:
    """Count what a store refused, by reason."""
    return dict(sorted(Counter(str(refusal.reason) for refusal in store.read_refusals()).items()))


@contextmanager
def _failing_alone(study: str, failed: dict[str, str], *, is_stopping: Callable[[], bool]) -> Iterator[None]:
    """Within, an error ends the work on this study alone, and is put into `failed`; but a full disk, as all that follow
    would meet it, and what libraries make of the exception that is to end the program."""
    try:
        yield
    except Exception as error:
        if isinstance(error, DiskFullError) or is_stopping():
            raise
        is_ours = isinstance(error, RsnaError)  # the text of another may name what is private
        failed[study] = str(error) if is_ours else f"{type(error).__name__}, of its pictures. Try --no-pictures"


def _write(result: Result, store: Store, model: ServedModel, folder: Path, *, has_pictures: bool) -> None:
    """Write the folder of a study under another name, and let it take the place of one that is there."""
    unfinished, old = (folder.with_name(f".{folder.name}.{word}-{os.getpid()}") for word in ("unfinished", "old"))
    try:
        with full_disk_named(folder):
            make_folder(unfinished)
            write_json(unfinished / RESULT, result.model_dump())
            if has_pictures:
                write_study(result, store, model, unfinished)
            _take_the_place(unfinished, folder, old)
    except OSError as error:
        raise BadInputError(f"{folder}: cannot be written: {error.strerror}. Choose another OUT") from error
    finally:
        for each in (unfinished, old):
            shutil.rmtree(each, ignore_errors=True)


def _take_the_place(unfinished: Path, folder: Path, old: Path) -> None:
    """Rename a finished folder; one that is there becomes `old`, and is back where that fails."""
    if not folder.exists():
        unfinished.rename(folder)
        return
    try:
        folder.rename(old)
        unfinished.rename(folder)
    except BaseException:  # of a signal too
        if old.exists() and not folder.exists():
            old.rename(folder)
        raise
