"""A worker: takes studies one after the other, prepares and predicts them, and makes their pictures when none waits."""

import logging
import os
import shutil
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rsna_e2e.core.errors import BadInputError, DiskFullError, OutOfResourcesError, RsnaError, is_out_of_memory
from rsna_e2e.core.files import entries, is_full, make_folder, read_json, sync, write_json
from rsna_e2e.inference.bundle import CARD, open_bundle
from rsna_e2e.service.database import Database
from rsna_e2e.service.folders import PICTURES, RESULT, SERIES, STORE, result_folder, work_folder
from rsna_e2e.service.jobs import (
    Found,
    Job,
    PictureJob,
    claim,
    claim_pictures,
    fail,
    finish,
    finish_pictures,
    is_due,
    put_back_pictures,
    renew,
)
from rsna_e2e.service.maps import write_maps
from rsna_e2e.service.series_view import series_view
from rsna_e2e.service.settings import Settings
from rsna_e2e.service.workers import beat
from rsna_e2e.serving.model import ServedModel
from rsna_e2e.serving.result import Result, results
from rsna_e2e.serving.study_page import write_study
from rsna_e2e.store import Store
from rsna_e2e.store.prepare import NothingTakenError, prepare
from rsna_e2e.store.prepare.pool import warm_up
from rsna_e2e.store.pseudonyms import Pseudonyms, load_or_make_key

LOG = logging.getLogger(__name__)
IDLE_S = 0.1  # between two looks at the queue
BEAT_S = 5.0  # between two signs of life, at most
BUGS_IN_A_ROW = 3  # before the worker itself is taken to be broken
GONE, NO_ROOM, BAD_DATA, BUG = "files_gone", "no_room", "bad_data", "internal_error"  # why an attempt failed
DISK_FULL = "disk_full"


@dataclass(slots=True, kw_only=True)
class Worker:
    """A worker with its models. cards: what is said of them, by identity, where they have one."""

    database: Database
    pseudonyms: Pseudonyms
    models: tuple[ServedModel, ...]
    number: int
    cards: Mapping[str, str] = field(default_factory=dict)
    _n_bugs: int = 0

    @property
    def owner(self) -> str:
        """Its name in the queue, which none has had before it on this machine since it started."""
        return f"{self.number}-{os.getpid()}"

    def run(self, is_stopping: Callable[[], bool]) -> None:
        """Work until asked to stop, or after as many studies as make room for a fresh worker."""
        n_done = 0
        with self._alive():
            while not is_stopping() and n_done < self.database.settings.jobs_of_worker:
                if self.step():
                    n_done += 1
                else:
                    time.sleep(IDLE_S)

    @contextmanager
    def _alive(self) -> Iterator[None]:
        """Say meanwhile that this worker lives, and hold on to what it has."""
        is_over = threading.Event()
        every_s = min(self.database.settings.lease_s / 4, BEAT_S)

        def say() -> None:
            while not is_over.wait(every_s):
                try:
                    renew(self.database, self.owner)
                    beat(self.database, self.number)
                except sqlite3.Error as error:  # a full disk, say: the next time it may be well
                    LOG.warning("could not say that it lives: %s", type(error).__name__)

        beat(self.database, self.number, [self._described(model) for model in self.models])
        thread = threading.Thread(target=say, daemon=True)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()

    def _described(self, model: ServedModel) -> dict[str, Any]:
        """Return what users are told of a model."""
        return {
            "identity": model.identity,
            "name": model.name,
            "version": model.version,
            "task": model.task.name,
            "title": model.task.title,
            "headline": model.task.headline,
            "labels": list(model.slice_labels),
            "thresholds": {level: dict(of_level) for level, of_level in model.thresholds.items()},
            "card": self.cards.get(model.identity, ""),
        }

    def step(self) -> bool:
        """Do the next piece of work. False where there is none."""
        job = claim(self.database, self.owner)
        if job is not None:
            self._predict(job)
            return True
        pictures = claim_pictures(self.database, self.owner)
        if pictures is not None:
            self._draw(pictures)
            return True
        return False

    def _predict(self, job: Job) -> None:
        """Predict a study with every model that has not seen it as it is, or note why that failed."""
        work = work_folder(self.database.settings, job.study, self.owner)
        shutil.rmtree(work, ignore_errors=True)  # of one that was killed, and had the same number
        try:
            found = self._found(job, work)
        except Exception as error:
            reason = _reason(error)
            LOG.warning("study %s: attempt %d failed: %s", job.study, job.attempt, reason)
            fail(self.database, job, self.owner, reason, counts=reason != DISK_FULL)
            self._end_if_broken(reason)
        else:
            self._n_bugs = 0
            if finish(self.database, job, self.owner, found):
                LOG.info("study %s: %d results of %d files", job.study, len(found.summaries), len(job.names))
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def _end_if_broken(self, reason: str) -> None:
        """End this process where errors follow each other that no study explains, as after the loss of a GPU: before
        it takes all that wait. Raises OutOfResourcesError."""
        self._n_bugs = self._n_bugs + 1 if reason == BUG else 0
        if self._n_bugs >= BUGS_IN_A_ROW:
            raise OutOfResourcesError("errors follow each other that no study explains. A fresh worker takes over")

    def _found(self, job: Job, work: Path) -> Found:
        settings = self.database.settings
        raw = work / "raw"
        make_folder(raw)
        for name in job.names:
            os.link(settings.inbox / job.study / name, raw / name)
        summaries: dict[str, dict[str, Any]] = {}
        refused: Counter[str] = Counter()
        timing_s = {"wait": job.waited_s, "prepare": 0.0, "predict": 0.0}
        for model in self.models:
            target = result_folder(settings, job.study, job.content, model.identity)
            if not (target / RESULT).exists():
                made = self._result(raw, work / model.identity, model, timing_s, refused)
                if made is None:
                    continue
                shutil.rmtree(target, ignore_errors=True)  # what is left of one without its result
                (work / model.identity).rename(target)
                sync(target.parent)
            summaries[model.identity] = summary_of(Result.model_validate(read_json(target / RESULT)), model)
        scores = [float(summary["score"]) for summary in summaries.values()]
        return Found(
            summaries=summaries,
            refused=dict(refused),
            timing_s={what: round(seconds, 3) for what, seconds in timing_s.items()},
            score=max(scores, default=None),
        )

    def _result(
        self, raw: Path, folder: Path, model: ServedModel, timing_s: dict[str, float], refused: Counter[str]
    ) -> Result | None:
        """Write the folder of a study's result by one model, None where none of its files is of the model's kind."""
        make_folder(folder)
        started_s = time.monotonic()
        try:
            prepare(
                raw,
                folder / STORE,
                task=model.task,
                labels="none",
                n_jobs=self.database.settings.prepare_jobs,
                pseudonyms=self.pseudonyms,
            )
        except NothingTakenError as error:
            refused.update(str(refusal.reason) for refusal in error.refusals)
            return None
        prepared_s = time.monotonic()
        with closing(Store.open(folder / STORE)) as store:
            (result,) = results(model, store, model(store, range(len(store.series))))
            refused.update(str(refusal.reason) for refusal in store.read_refusals())
            write_json(folder / SERIES, [series_view(store, span, model.task) for span in store.series])
            write_json(folder / RESULT, result.model_dump())
        timing_s["prepare"] += prepared_s - started_s
        timing_s["predict"] += time.monotonic() - prepared_s
        return result

    def _draw(self, job: PictureJob) -> None:
        """Make the pictures, maps and page of a result, which stands without them; put off when a study waits."""
        settings = self.database.settings
        folder = result_folder(settings, job.study, job.content, job.model)
        work = work_folder(settings, job.study, self.owner)
        shutil.rmtree(work, ignore_errors=True)
        try:
            model = next(model for model in self.models if model.identity == job.model)
            result = Result.model_validate(read_json(folder / RESULT))
            make_folder(work)
            with closing(Store.open(folder / STORE)) as store:
                maps = write_study(result, store, model, work, progress=self._put_off_if_due)
            write_maps(maps, work)
            for path in (*entries(work), work):
                sync(path)
            shutil.rmtree(folder / PICTURES, ignore_errors=True)
            work.rename(folder / PICTURES)
        except _PutOffError:
            put_back_pictures(self.database, job)
        except Exception as error:
            LOG.warning("study %s: pictures failed: %s", job.study, _reason(error))
            finish_pictures(self.database, job, is_made=False)
        else:
            finish_pictures(self.database, job, is_made=True)
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def _put_off_if_due(self, done: int, total: int, note: str = "") -> None:
        if is_due(self.database):
            raise _PutOffError


class _PutOffError(Exception):
    """A study waits: its result goes before pictures of others."""


def work(settings: Settings, number: int, stopping: Callable[[], Callable[[], bool]]) -> None:
    """Open the models and work. Raises what `ServedModel.open` raises, BadInputError where a bundle was exchanged since
    the service began."""
    models: list[ServedModel] = []
    cards: dict[str, str] = {}
    for path, pinned in zip(settings.models, settings.identities, strict=True):
        model = ServedModel.open(path, device=settings.device)
        if pinned and model.identity != pinned:
            raise BadInputError(f"{path}: another model than the service began with. Stop it and start it again")
        models.append(model)
        if path.is_file():
            cards[model.identity] = (open_bundle(path).folder / CARD).read_text()
    worker = Worker(
        database=Database(settings),
        pseudonyms=load_or_make_key(settings.key),
        models=tuple(models),
        number=number,
        cards=cards,
    )
    warm_up()
    LOG.info("ready: %d model%s", len(models), "" if len(models) == 1 else "s")
    worker.run(stopping())


def summary_of(result: Result, model: ServedModel) -> dict[str, Any]:
    """Return what lists show of a result. score: of the label that the task is named by."""
    scores = {label.name: label.probability for label in result.labels}
    headline = model.task.headline
    return {
        "model": result.model.model_dump(),
        "task": result.task,
        "scores": scores,
        "headline": headline,
        "score": scores.get(headline, max(scores.values())),
        "above": [label.name for label in result.labels if label.above],
        "sentence": result.sentence,
        "n_slices": sum(series.n_slices for series in result.series),
    }


def _reason(error: Exception) -> str:
    """Return the code of an error: texts of errors may hold names, and are not kept."""
    if isinstance(error, FileNotFoundError):
        return GONE
    if isinstance(error, DiskFullError) or (isinstance(error, OSError) and is_full(error)):
        return DISK_FULL
    if isinstance(error, OutOfResourcesError) or is_out_of_memory(error):
        return NO_ROOM
    if isinstance(error, RsnaError):
        return BAD_DATA
    LOG.error("%s in the work on a study", type(error).__name__)
    return BUG
