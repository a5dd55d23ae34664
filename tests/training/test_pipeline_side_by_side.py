"""Steps that do not need each other run at the same time, with a log for each; one that fails ends the plan."""

import os
import signal
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from rsna_e2e.core.errors import BadInputError, CommandFailedError
from rsna_e2e.training.pipeline.commands import side_by_side
from rsna_e2e.training.pipeline.planned_step import Folders, PlannedStep
from rsna_e2e.training.pipeline.run import LOGS, Pipeline

STUCK_S = 20.0


def step(folder: Path, name: str, *depends: str) -> PlannedStep:
    return PlannedStep(
        name=name, part="bag", verb="bag", arguments=(name,), output=folder / name, depends=depends, facts={"n": 1}
    )


def plan(folder: Path) -> Pipeline:
    """Two steps of their own, and one that needs both."""
    steps = [step(folder, "a"), step(folder, "b"), step(folder, "c", "a", "b")]
    return Pipeline(steps, Folders(raw=None, labels=None, store=folder / "store", out=folder))


def test_steps_that_do_not_need_each_other_run_at_the_same_time(tmp_path: Path) -> None:
    meeting = threading.Barrier(2, timeout=STUCK_S)
    ended: list[str] = []

    def execute(one: PlannedStep, command: Sequence[str]) -> int:
        if one.name != "c":
            meeting.wait()
        one.output.write_text("")
        ended.append(one.name)
        return 0

    said: list[str] = []
    plan(tmp_path).run(["bag"], jobs=2, execute=execute, say=said.append)
    assert set(ended[:2]) == {"a", "b"}
    assert ended[2:] == ["c"]
    assert [line.split(" ")[0] for line in said] == ["[1/3]", "[2/3]", "[3/3]"]
    plan(tmp_path).run(["bag"], jobs=2, execute=execute, say=said.append)
    assert len(ended) == 3  # all is done


def test_no_more_run_than_asked_for(tmp_path: Path) -> None:
    running: set[str] = set()

    def execute(one: PlannedStep, command: Sequence[str]) -> int:
        running.add(one.name)
        assert len(running) <= 2
        one.output.write_text("")
        running.remove(one.name)
        return 0

    steps = [step(tmp_path, f"s{n}") for n in range(12)]
    folders = Folders(raw=None, labels=None, store=tmp_path / "store", out=tmp_path)
    Pipeline(steps, folders).run(["bag"], jobs=2, execute=execute, say=lambda text: None)
    assert all(one.output.exists() for one in steps)


def test_a_step_that_fails_lets_those_beside_it_end_and_begins_no_other(tmp_path: Path) -> None:
    told = threading.Event()
    said: list[str] = []

    def say(text: str) -> None:
        said.append(text)
        if text == "a failed; waiting for b":
            told.set()

    def execute(one: PlannedStep, command: Sequence[str]) -> int:
        if one.name == "a":
            return 3
        assert told.wait(STUCK_S)
        one.output.write_text("")
        return 0

    with pytest.raises(CommandFailedError, match="a ended with exit code 3") as caught:
        plan(tmp_path).run(["bag"], jobs=2, execute=execute, say=say)
    assert caught.value.exit_code == 3
    assert len(said) == 3  # two begun, one failed
    assert {one.step.name: one.is_needed for one in plan(tmp_path).standings()} == {"a": True, "b": False, "c": True}


def test_each_command_has_a_log_and_the_end_of_one_that_failed_is_shown(tmp_path: Path) -> None:
    said: list[str] = []
    with side_by_side(tmp_path / LOGS, said.append) as execute:
        assert execute(step(tmp_path, "x/well"), ["rsna-e2e", "--version"]) == 0
        code = execute(step(tmp_path, "x/ill"), ["rsna-e2e", "predict", str(tmp_path), str(tmp_path)])
    assert code == BadInputError.exit_code
    assert (tmp_path / LOGS / "x-well.log").read_text().startswith("rsna-e2e")
    log = tmp_path / LOGS / "x-ill.log"
    assert said == [f"the end of {log}:", *log.read_text().splitlines()]
    assert said[-1].startswith("rsna-e2e predict: ")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_reaches_all_commands_that_run(tmp_path: Path, number: signal.Signals) -> None:
    codes: list[int] = []
    before = signal.getsignal(number)
    with side_by_side(tmp_path / LOGS, lambda text: None) as execute:
        waits = ["python", "-c", "import time; print('here', flush=True); time.sleep(60)"]
        names = ("a", "b")
        threads = [
            threading.Thread(target=lambda one=name: codes.append(execute(step(tmp_path, one), waits)))
            for name in names
        ]
        for thread in threads:
            thread.start()
        logs = [tmp_path / LOGS / f"{name}.log" for name in names]
        while not all(log.exists() and "here" in log.read_text() for log in logs):
            assert all(thread.is_alive() for thread in threads)
        os.kill(os.getpid(), number)
        for thread in threads:
            thread.join(STUCK_S)
    assert codes == [128 + signal.SIGTERM] * 2
    assert signal.getsignal(number) == before


def test_a_signal_of_the_terminal_is_left_to_the_commands(tmp_path: Path) -> None:
    with side_by_side(tmp_path / LOGS, lambda text: None) as execute:
        os.kill(os.getpid(), signal.SIGINT)
        assert execute(step(tmp_path, "a"), ["rsna-e2e", "--version"]) == 0
