"""Killed at any moment and started again, preparing ends with the store of a run that was never killed."""

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import phantoms
import pytest

SERIES, SLICES, HEADERS = 6, 8, 8
PROGRAM = f"""
import sys
from pathlib import Path
from rsna_e2e.store.prepare import run
from rsna_e2e.tasks.ich import ICH
run.SHARD_BYTES, run.HEADERS_PER_JOB = 1, {HEADERS}
run.prepare(Path(sys.argv[1]), Path(sys.argv[2]), task=ICH, n_jobs=2)
"""


def start(raw: Path, store: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", PROGRAM, str(raw), str(store)], start_new_session=True)


def contents(store: Path) -> dict[str, bytes]:
    return {str(path.relative_to(store)): path.read_bytes() for path in sorted(store.rglob("*")) if path.is_file()}


def n_noted(partial: Path) -> int:
    """Shards that are noted as done, while another process goes on."""
    with suppress(FileNotFoundError):
        return sum(name.startswith("shard-") and name.endswith(".arrow") for name in os.listdir(partial / "notes"))
    return 0


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("killed") / "raw"
    for number in range(SERIES):
        phantoms.write_series(folder, name=f"s{number}", n_slices=SLICES, shape=(96, 96), patient_id=f"p{number}")
    return folder


@pytest.mark.parametrize(
    ("n_kills", "everyone", "at_random"),
    [
        (3, True, False),
        pytest.param(20, True, True, marks=pytest.mark.slow),
        pytest.param(20, False, True, marks=pytest.mark.slow),
    ],
)
def test_the_same_store(raw: Path, tmp_path: Path, n_kills: int, everyone: bool, at_random: bool) -> None:
    """everyone: with its workers, or alone, so that workers outlive it. at_random: in time, or after the next shard."""
    began_s = time.perf_counter()
    assert start(raw, tmp_path / "whole").wait() == 0
    whole_s = time.perf_counter() - began_s
    expected = contents(tmp_path / "whole")
    store, partial = tmp_path / "store", tmp_path / "store.partial"
    rng = np.random.default_rng(n_kills)
    done: dict[str, int] = {}  # shards that were noted as done before a kill, and when they were written
    n_killed = n_kept = 0
    while n_killed < n_kills:
        process = start(raw, store)
        if at_random:
            with suppress(subprocess.TimeoutExpired):
                process.wait(rng.uniform(0.6, 1.0) * whole_s)
        else:
            while process.poll() is None and n_noted(partial) <= len(done):
                time.sleep(0.001)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL) if everyone else process.kill()
        n_killed += process.wait() == -signal.SIGKILL
        if store.exists():  # it was faster
            assert contents(store) == expected
            assert {name: (store / "shards" / name).stat().st_mtime_ns for name in done} == done
            n_kept += len(done)
            shutil.rmtree(store)
            shutil.rmtree(partial, ignore_errors=True)
            done = {}
        for note in partial.glob("notes/shard-*.arrow"):
            name = note.name.removeprefix("shard-").replace(".arrow", ".h5")
            done.setdefault(name, (partial / "store" / "shards" / name).stat().st_mtime_ns)
    assert start(raw, store).wait() == 0
    assert contents(store) == expected
    assert {name: (store / "shards" / name).stat().st_mtime_ns for name in done} == done
    assert n_kept + len(done) > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["store", "whole"]


def test_what_a_kill_left_after_the_store_got_its_name_is_cleared(raw: Path, tmp_path: Path) -> None:
    store, partial = tmp_path / "store", tmp_path / "store.partial"
    assert start(raw, store).wait() == 0
    (partial / "notes").mkdir(parents=True)
    assert start(raw, store).wait() == 1  # the store is there already
    assert not partial.exists()
