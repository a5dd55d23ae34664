"""Runs a plan: the steps that are not done yet, one after another or side by side, each in a process of its own."""

import os
import shlex
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rsna_e2e.config import save_config
from rsna_e2e.core.errors import BadInputError, CommandFailedError, PreemptedError, UsageError
from rsna_e2e.core.files import lock_folder, make_folder, sha256_of
from rsna_e2e.store import Store, is_store
from rsna_e2e.store.embeddings import MANIFEST as EMBEDDINGS_MANIFEST
from rsna_e2e.tasks.catalogue import is_of_package
from rsna_e2e.tasks.files import task_as_yaml
from rsna_e2e.training.checkpoint import drop_epochs
from rsna_e2e.training.pipeline import Part
from rsna_e2e.training.pipeline.commands import run_command, side_by_side
from rsna_e2e.training.pipeline.ledger import Ledger, State
from rsna_e2e.training.pipeline.planned_step import PREPARE, Folders, PlannedStep
from rsna_e2e.training.resume import settings_of_result

STEPS = "steps"  # folder of the records of what was begun and done
LOGS = "logs"  # folder of what steps print that run side by side
Execute = Callable[[PlannedStep, Sequence[str]], int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A step, how far it is, and whether it has to run: it is not done, or its output is gone and still needed.

    starts_over: its run is there, but has dropped what a later step needs again.
    """

    step: PlannedStep
    state: State
    is_needed: bool
    starts_over: bool


class Pipeline:
    """A plan in its folders.

    device: given to the steps that compute. check: refuses a store that does not suit the plan, as soon as there is
    one.
    """

    def __init__(
        self,
        steps: Sequence[PlannedStep],
        folders: Folders,
        *,
        device: str = "auto",
        check: Callable[[Store], None] = lambda store: None,
    ) -> None:
        self.steps, self.folders = tuple(steps), folders
        self._device, self._check = device, check
        self._own_ledger = Ledger(folders.out / STEPS)
        self._store_ledger = Ledger(folders.store.parent / STEPS)  # the store serves all modes
        self._data_hash: str | None = None

    def standings(self) -> list[Standing]:
        """Say how far every step is. Raises UsageError when one was begun with something else."""
        states = {step.name: self._state(step) for step in self.steps}
        wanted: set[str] = set()  # by a later step that has to run
        spent: set[Path] = set()  # runs whose epochs such a step needs again
        standings = []
        for step in reversed(self.steps):
            state = states[step.name]
            is_last = not any(step.name in other.depends for other in self.steps)
            is_gone = not step.output.exists() and (is_last or step.name in wanted)
            starts_over = step.verb == "train" and state == "done" and step.output.parent in spent
            is_needed = state != "done" or is_gone or starts_over
            if is_needed:
                wanted.update(step.depends)
            if is_needed and state == "done" and step.spent is not None:
                spent.add(step.spent)
            standings.append(Standing(step=step, state=state, is_needed=is_needed, starts_over=starts_over))
        return standings[::-1]

    def check_store(self) -> None:
        """Raise an RsnaError when the store, if there is one, cannot be read or does not suit the plan."""
        self._hash_of_data()

    def run(
        self,
        only: Sequence[Part],
        *,
        jobs: int = 1,
        execute: Execute | None = None,
        say: Callable[[str], None],
    ) -> None:
        """Run the steps of these parts that are needed.

        jobs: how many run at the same time, where they do not need each other; what they print goes to a file for each
        in the folder `logs`. execute: runs one command and returns its exit code; by default in a process. Raises
        CommandFailedError with the exit code of a step that failed, once those beside it have ended, and UsageError
        when a step needs one of a part that is left out, or another process is at work in the same folder.
        """
        with _alone_in(self.folders.out):
            if jobs == 1:
                self._run(only, 1, execute or run_command, say)
                return
            with side_by_side(self.folders.out / LOGS, say) as execute_beside:
                self._run(only, jobs, execute or execute_beside, say)

    def command(self, step: PlannedStep) -> list[str]:
        """Return the words of a step's command, as a user could type it."""
        computes = step.verb in ("train", "embed", "predict")
        settings = ["--recipe", str(self.folders.settings(step))] if step.settings else []
        device = ["--device", self._device] if computes and self._device != "auto" else []
        task = []
        if step.task is not None:
            task = ["--task", step.task.name if is_of_package(step.task) else str(self.folders.task(step))]
        return ["rsna-e2e", step.verb, *step.arguments, *settings, *task, *device]

    def _run(self, only: Sequence[Part], jobs: int, execute: Execute, say: Callable[[str], None]) -> None:
        for standing in self.standings():
            if not standing.is_needed and standing.step.spent is not None:
                drop_epochs(standing.step.spent)  # where it was killed just before
        begun: set[str] = set()
        running: dict[Future[None], PlannedStep] = {}
        with ThreadPoolExecutor(jobs) as pool:
            while (ready := self._ready(only, begun, running.values())) or running:
                for standing in ready[: jobs - len(running)]:
                    step = standing.step
                    begun.add(step.name)
                    number = self.steps.index(step) + 1
                    say(f"[{number}/{len(self.steps)}] + {shlex.join(self.command(step))}")
                    if standing.starts_over:
                        self._start_over(step)
                    if jobs == 1:
                        self._run_step(step, execute)  # here, where signals arrive
                    else:
                        running[pool.submit(self._run_step, step, execute)] = step
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    step = running.pop(future)
                    if future.exception() and running:
                        say(f"{step.name} failed; waiting for {', '.join(one.name for one in running.values())}")
                    future.result()

    def _ready(
        self, only: Sequence[Part], begun: Collection[str], running: Collection[PlannedStep]
    ) -> Sequence[Standing]:
        """Return the steps that can begin: needed, and what they need is done. Raises UsageError when one never can."""
        standings = self.standings()  # again: a new store may change them
        needed = {standing.step.name for standing in standings if standing.is_needed}
        waiting = [one for one in standings if one.is_needed and one.step.part in only and one.step.name not in begun]
        ready = [one for one in waiting if needed.isdisjoint(one.step.depends)]
        if waiting and not ready and not running:
            step = waiting[0].step
            missing = [name for name in step.depends if name in needed]
            raise UsageError(f"{step.name} needs {', '.join(missing)} first. Run that part too")
        return ready

    def _start_over(self, step: PlannedStep) -> None:
        shutil.rmtree(step.output.parent)
        for later in self.steps:
            if later.spent == step.output.parent:
                self._ledger(later.name).begin(later.name, self._made_of(later))

    def _run_step(self, step: PlannedStep, execute: Execute) -> None:
        made_of = self._made_of(step)
        self._ledger(step.name).begin(step.name, made_of)
        make_folder(self.folders.settings(step).parent)
        if step.settings is not None:
            save_config(step.settings, path=self.folders.settings(step))
        if step.task is not None and not is_of_package(step.task):
            self.folders.task(step).write_text(task_as_yaml(step.task), encoding="utf-8")
        make_folder(step.output.parent)
        began_s = time.monotonic()
        # Studies and stores appear whole, and what makes them will not replace them
        is_whole = step.output.exists() if step.verb == "synth" else step.verb == "prepare" and is_store(step.output)
        code = 0 if is_whole else execute(step, self.command(step))
        if code:
            raise CommandFailedError(_failed(step, code), code)
        self._ledger(step.name).finish(step.name, made_of, elapsed_s=time.monotonic() - began_s)
        if step.spent is not None:
            drop_epochs(step.spent)

    def _ledger(self, name: str) -> Ledger:
        return self._store_ledger if name == PREPARE else self._own_ledger

    def _state(self, step: PlannedStep) -> State:
        if self._ledger(step.name).digest(step.name) is None:
            return "to do"
        may_change = step.verb == "bag"  # a mean of more members is made in a moment
        return self._ledger(step.name).state(step.name, self._made_of(step), may_change=may_change)

    def _made_of(self, step: PlannedStep) -> dict[str, Any]:
        """All that the result of a step depends on, as plain values."""
        made_of: dict[str, Any] = {"verb": step.verb, **step.facts}
        if step.settings is not None:
            made_of["settings"] = settings_of_result(step.settings)
        if step.part not in ("prepare", "bag"):
            made_of["data_hash"] = self._hash_of_data()  # None where the store is gone
        for path in step.inputs:
            if not path.is_file():
                is_of_embeddings = path.name == EMBEDDINGS_MANIFEST
                advice = "--embeddings are folders made by rsna-e2e embed" if is_of_embeddings else "Check the path"
                raise BadInputError(f"{path}: no such file. {advice}")
            made_of[f"input {path.parent.name}/{path.name}"] = sha256_of(path)
        return made_of | {f"after {name}": self._ledger(name).digest(name) for name in step.depends if name != PREPARE}

    def _hash_of_data(self) -> str | None:
        """Return the hash of the store's data, after checking the store; None when there is no store."""
        if self._data_hash is None and is_store(self.folders.store):
            tasks = (step.settings.task.name for step in self.steps if step.settings is not None)
            with closing(Store.open(self.folders.store, next(tasks, None))) as store:
                self._check(store)
                self._data_hash = store.data_hash
        return self._data_hash


def _failed(step: PlannedStep, code: int) -> str:
    said = f"{step.name} ended with exit code {code}; the steps before it are kept"
    if code == PreemptedError.exit_code:
        return f"{said}. The same command goes on with it"
    if step.section:
        said += (
            f". Settings that its message names begin with {step.section}. here, as in --set {step.section}.NAME=VALUE"
        )
    return said


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    make_folder(folder)
    try:
        lock = lock_folder(folder)
    except BlockingIOError:
        raise UsageError(f"{folder}: another process is working there. Wait for it, or choose another folder") from None
    try:
        yield
    finally:
        os.close(lock)
