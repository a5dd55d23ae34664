"""A run that cannot be lost: killed, preempted, out of disk or of data, it ends as one that never stopped."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import small
import torch
from training_runs import (
    Nursery,
    TrainingRun,
    assert_same_end,
    command_line,
    last_state,
    last_step,
    metrics,
    one_thread,
)

from rsna_e2e.config import RunConfig
from rsna_e2e.core.errors import PreemptedError
from rsna_e2e.store import Store
from rsna_e2e.training.checkpoint import valid_checkpoints
from rsna_e2e.training.train import train

N_EPOCHS = 6
NAMED_WITHIN_S = 5.0  # from the damage to a slice to the end of the run that needs it
SHARED_MEMORY = Path("/dev/shm")


def _config(*overrides: str) -> RunConfig:
    """A run with all that has a state: two phases, schedule, dropout, augmentation, average, a backbone that rests."""
    phase = '{"epochs": 2, "slices_per_batch": 4, "optimizer": {"learning_rate": 0.003, "schedule": "cosine"}}'
    return small.config(
        f"epochs={N_EPOCHS}",
        f"slice_phase={phase}",
        "optimizer.schedule=cosine",
        "optimizer.warmup_fraction=0.2",
        "model.backbone_dropout=0.2",
        "model.study_loss_weight=0.2",
        "ema_decay=0.9",
        "loader.slices_per_batch=4",
        "accumulate=2",
        "freeze_backbone_epochs=2",
        "loader.backend=torch",
        *overrides,
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return small.make_store(tmp_path_factory.mktemp("faults"))


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    nursery = Nursery()
    yield nursery
    nursery.close()


@pytest.fixture(scope="module")
def unbroken(store: Store, nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing happened to."""
    run = tmp_path_factory.mktemp("unbroken") / "run"
    training = nursery.start(command_line(store.path, run, _config()), errors=run.with_suffix(".txt"))
    assert training.wait() == 0, training.says
    return run


def _resume(nursery: Nursery, store: Path, run: Path, config: RunConfig) -> TrainingRun:
    return nursery.start(command_line(store, run, config, "--resume", "auto"), errors=run.with_suffix(".txt"))


def _is_writing(run: Path) -> bool:
    return any((run / "checkpoints").glob("*.tmp-*"))


@pytest.mark.parametrize("n_kills", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_at_random_moments_a_run_ends_as_if_it_never_was(
    n_kills: int, store: Store, nursery: Nursery, unbroken: Path, tmp_path: Path
) -> None:
    rng = random.Random(n_kills)
    run, config = tmp_path / "run", _config("checkpoint.every_steps=1")
    n_while_writing = 0
    for number, step in enumerate(sorted(rng.choices(range(last_step(unbroken) - 6), k=n_kills))):
        training = _resume(nursery, store.path, run, config)
        training.until_step(run, step)
        if number % 2:
            training.until(lambda: _is_writing(run))
        else:
            time.sleep(rng.uniform(0, 0.05))
        assert training.kill() == -signal.SIGKILL
        n_while_writing += _is_writing(run)
        if step > 1:
            saved = next(valid_checkpoints(run)).state.step
            assert saved >= last_step(run) - 1  # no more is lost than what was not saved yet
    training = _resume(nursery, store.path, run, config)
    assert training.wait() == 0, training.says
    assert_same_end(run, unbroken)
    assert n_while_writing > 0 or n_kills < 5  # some of many kills came while files were written


def test_stopped_at_any_step_and_in_a_validation_a_run_goes_on_from_there(
    store: Store, unbroken: Path, tmp_path: Path
) -> None:
    run, n_threads = tmp_path / "run", torch.get_num_threads()
    steps_of_epoch: dict[int, int] = {}
    for line in metrics(unbroken):
        steps_of_epoch[line["epoch"]] = steps_of_epoch.get(line["epoch"], 0) + (line["kind"] != "validation")
    asked: list[int] = []

    def in_the_validation() -> bool:  # where it is asked again, without a step in between
        asked.append(last_step(run))
        return asked[-2:] == [asked[-1]] * 2 and asked[-1] > 9

    stops: list[Callable[[], bool]] = [lambda step=step: last_step(run) >= step for step in range(1, 9)]
    torch.set_num_threads(1)
    try:
        for is_stopping in (*stops, in_the_validation):
            with pytest.raises(PreemptedError, match="--resume auto"):
                train(store, run, _config(), device="cpu", resume=True, is_stopping=is_stopping)
        assert (last_state(run).validation_loss, last_state(run).step) == (None, asked[-1])
        train(store, run, _config(), device="cpu", resume=True)
    finally:
        torch.set_num_threads(n_threads)
    assert_same_end(run, unbroken)
    assert min(steps_of_epoch.values()) > 1  # so there was a middle of an epoch to stop in


def test_told_to_stop_a_run_saves_and_goes_on_from_there(
    store: Store, nursery: Nursery, unbroken: Path, tmp_path: Path
) -> None:
    run, config = tmp_path / "run", _config()
    for step in (1, 9):  # in either phase
        training = _resume(nursery, store.path, run, config)
        training.until_step(run, step)
        assert training.kill(signal.SIGTERM) == 75, training.says
        assert "--resume auto" in training.says
        assert (run / "preempted").exists()
        assert last_state(run).step == last_step(run)  # nothing is lost
    training = _resume(nursery, store.path, run, config)
    assert training.wait() == 0, training.says
    assert not (run / "preempted").exists()
    assert_same_end(run, unbroken)


def _damage(store: Store) -> tuple[Path, int, str]:
    """A place in a shard among the pixels of a training series: path, offset, and the series' hash."""
    span = next(span for span in store.series if span.split == "train" and span.fold != 0)
    row = span.first_row
    path = store.path / "shards" / str(store.index["shard"][row])
    return path, int(store.index["byte_offset"][row]) + 100, span.series_key[:8]


def _flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


@pytest.mark.parametrize("backend", ["torch", pytest.param("dali", marks=[pytest.mark.needs_dali, pytest.mark.slow])])
def test_a_slice_damaged_meanwhile_is_named_and_repaired_the_run_goes_on(
    backend: str, store: Store, nursery: Nursery, unbroken: Path, tmp_path: Path
) -> None:
    copy = Store.open(Path(shutil.copytree(store.path, tmp_path / "store")))
    path, offset, series = _damage(copy)
    run, config = tmp_path / "run", _config(f"loader.backend={backend}", "checkpoint.every_steps=3")
    before = set(SHARED_MEMORY.iterdir())
    training = _resume(nursery, copy.path, run, config)
    training.until_step(run, 5)
    _flip(path, offset)
    started_s = time.monotonic()
    assert training.wait() == 3, training.says
    assert time.monotonic() - started_s < NAMED_WITHIN_S
    _phases, error = training.says.strip().splitlines()
    assert series in error
    assert path.name in error
    assert _sessions_of(training) == []
    assert set(SHARED_MEMORY.iterdir()) <= before | _held_shared_memory()
    _flip(path, offset)
    training = _resume(nursery, copy.path, run, config)
    assert training.wait() == 0, training.says
    assert_same_end(run, unbroken)


def _sessions_of(training: TrainingRun) -> list[int]:
    """Processes left in the session of a run that has ended."""
    left = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # ended meanwhile
            continue
        if int(fields[3]) == training.process:
            left.append(int(path.parent.name))
    return left


def _held_shared_memory() -> set[Path]:
    """Files in shared memory that a living process has mapped or open: not left behind, but somebody's."""
    held: set[Path] = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "maps").read_text().split()
            links = [os.readlink(link) for link in (process / "fd").iterdir()]
        except OSError:
            continue
        held.update(Path(word) for word in [*words, *links] if word.startswith(f"{SHARED_MEMORY}/"))
    return held


@pytest.mark.slow
def test_on_a_full_disk_a_run_stops_and_goes_on_when_there_is_space(
    store: Store, unbroken: Path, tmp_path: Path
) -> None:
    def alone(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["unshare", "--mount", "sh", "-c", f'mount -t tmpfs -o size={size} none "$0" && {script}']
        disk = tmp_path / "disk"
        disk.mkdir(exist_ok=True)
        return subprocess.run(
            [*command, str(disk), *arguments], check=False, capture_output=True, text=True, env=one_thread()
        )

    a_checkpoint = sum(path.stat().st_size for path in next(valid_checkpoints(unbroken)).folder.iterdir())
    size = int(4.5 * a_checkpoint)
    if alone("true").returncode:
        pytest.skip("needs the right to mount a tmpfs")
    config = _config("checkpoint.every_steps=1", "checkpoint.keep_last=99")
    run = tmp_path / "disk" / "run"
    first = command_line(store.path, tmp_path / "run", config)
    first[2] = str(run)
    train = f'{sys.executable} -m rsna_e2e.cli "$@"'
    done = alone(
        f'{{ {train}; echo "code $?"; mount -o remount,size=1g "$0"; '
        f'{train} --resume auto && cp -r "$0/run" "$0.run"; }}',
        *first,
    )
    assert "code 5\n" in done.stdout, done.stderr
    assert "the disk is full" in done.stderr
    assert done.returncode == 0, done.stderr
    assert_same_end(tmp_path / "disk.run", unbroken)


@pytest.mark.slow
def test_the_command_itself_exits_75(store: Store, unbroken: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [sys.executable, "-m", "rsna_e2e.cli", *command_line(store.path, run, _config(), "--resume", "auto")]
    training = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=one_thread())
    while last_step(run) < 5:
        assert training.poll() is None
        time.sleep(0.001)
    training.terminate()
    _, errors = training.communicate()
    assert training.returncode == 75, errors
    assert subprocess.run(command, check=False, capture_output=True, env=one_thread()).returncode == 0
    assert_same_end(run, unbroken)
