"""The logs of a run: written whole, cut where it is resumed, and kept to one process."""

import errno
import getpass
import json
import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import small
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rsna_e2e.config import load_config
from rsna_e2e.core.device import Compute
from rsna_e2e.core.errors import BadInputError, OutOfResourcesError, UsageError
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.training.runlog import ResumePoint, RunLog, SilentLog

CPU = Compute(torch.device("cpu"), None)


def _log(run: Path, *, resumed_at: ResumePoint | None = None, n_ranks: int = 1) -> RunLog:
    return RunLog(
        run,
        small.config(),
        ICH,
        data_hash="d",
        store_hash="s",
        compute=CPU,
        loader="torch",
        n_ranks=n_ranks,
        resumed_at=resumed_at,
    )


def _lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def _steps(run: Path) -> list[tuple[str, int]]:
    return [(line["kind"], line["step"]) for line in _lines(run)]


def _write(log: RunLog, steps: range) -> None:
    """Epochs of two steps, with a validation after each."""
    for step in steps:
        log.write("train_series", step, epoch=(step + 1) // 2, loss=1 / step)
        if step % 2 == 0:
            log.write("validation", step, epoch=step // 2, loss=float(step))


@pytest.mark.parametrize(
    ("point", "kept"),
    [
        (ResumePoint(step=0, epoch=0), []),
        (ResumePoint(step=1, epoch=0), [("train_series", 1)]),
        (ResumePoint(step=2, epoch=0), [("train_series", 1), ("train_series", 2)]),  # before the validation
        (ResumePoint(step=2, epoch=1), [("train_series", 1), ("train_series", 2), ("validation", 2)]),
    ],
)
def test_the_log_is_cut_where_the_run_is_resumed(
    point: ResumePoint, kept: list[tuple[str, int]], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with _log(run) as log:
        _write(log, range(1, 5))
    whole = _lines(run)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train_series", "st')  # torn by a kill
    with _log(run, resumed_at=point) as log:
        assert _steps(run) == kept
        if point.step == 2 and point.epoch == 0:
            log.write("validation", 2, epoch=1, loss=2.0)
        _write(log, range(point.step + 1, 5))
    assert _lines(run) == whole


def test_a_run_without_metrics_is_resumed_too(tmp_path: Path) -> None:
    with _log(tmp_path / "run"):
        pass
    (tmp_path / "run" / "metrics.jsonl").unlink()
    with _log(tmp_path / "run", resumed_at=ResumePoint(step=3, epoch=1)) as log:
        log.write("train_series", 4, loss=1.0)
    assert _steps(tmp_path / "run") == [("train_series", 4)]


def test_tensorboard_forgets_what_comes_again(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with _log(run) as log:
        for step in (1, 2, 3):
            log.write("train_series", step, loss=1.0)
    with _log(run, resumed_at=ResumePoint(step=1, epoch=0)) as log:
        for step in (2, 3):
            log.write("train_series", step, loss=2.0)
    events = EventAccumulator(str(run / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("train_series/loss")] == [
        (1, 1.0),
        (2, 2.0),
        (3, 2.0),
    ]


def test_what_is_not_finite_is_null(tmp_path: Path) -> None:
    with _log(tmp_path / "run") as log:
        log.write("validation", 1, loss=0.5, auc=float("nan"), norm=float("inf"))
    assert _lines(tmp_path / "run") == [{"kind": "validation", "step": 1, "loss": 0.5, "auc": None, "norm": None}]


def test_the_manifest_says_what_ran_and_names_nobody(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with _log(run, n_ranks=2) as log:
        log.write("train_series", 1, loss=1.0)
    with _log(run, resumed_at=ResumePoint(step=1, epoch=0), n_ranks=3):
        pass
    manifest = json.loads((run / "manifest.json").read_text())
    assert (manifest["data_hash"], manifest["seed"]) == ("d", small.config().seed)
    assert re.fullmatch("[0-9a-f]{64}", manifest["code"]["sha256"])
    assert manifest["environment"]["libraries"]["torch"] == torch.__version__
    assert manifest["environment"]["python"] == platform.python_version()
    assert manifest["environment"]["n_ranks"] == 2
    (resumed,) = manifest["resumed"]
    assert (resumed["step"], resumed["epoch"], resumed["environment"]["n_ranks"]) == (1, 0, 3)
    text = (run / "manifest.json").read_text()
    for secret in (str(Path.home()), str(Path.cwd()), str(tmp_path), platform.node(), f'"{getpass.getuser()}"'):
        assert secret not in text


def test_the_first_configuration_stays(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with _log(run):
        before = (run / "config.yaml").read_bytes()
        assert load_config(run / "config.yaml") == small.config()
    other = small.config("loader.threads=7")
    with RunLog(
        run,
        other,
        ICH,
        data_hash="d",
        store_hash="s",
        compute=CPU,
        loader="torch",
        resumed_at=ResumePoint(step=0, epoch=0),
    ):
        pass
    assert (run / "config.yaml").read_bytes() == before


def test_a_run_that_was_killed_before_it_began_can_be_started(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml.tmp-4194305").write_text("recipe: de")
    (run / "manifest.json").write_text("{}")
    with _log(run) as log:
        log.write("train_series", 1, loss=1.0)
    assert load_config(run / "config.yaml") == small.config()


@pytest.mark.parametrize("name", ["config.yaml", "thesis.txt", "metrics.jsonl"])
def test_a_folder_with_something_in_it_is_left_alone(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(UsageError, match="already exists"):
        _log(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_damaged_manifest_is_named(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with _log(run):
        (run / "manifest.json").write_text("[")
    with pytest.raises(BadInputError, match=r"manifest\.json: damaged"):
        _log(run, resumed_at=ResumePoint(step=0, epoch=0))
    assert (run / "config.yaml").exists()


def test_two_processes_do_not_train_in_one_folder(tmp_path: Path) -> None:
    run = tmp_path / "run"
    point = ResumePoint(step=0, epoch=0)
    with _log(run), pytest.raises(UsageError, match="another process is training in it"):
        _log(run, resumed_at=point)
    with _log(run, resumed_at=point):
        pass
    # and the lock ends with the process that had it, however that ends
    code = (
        "import fcntl, os, sys; fcntl.flock(os.open(sys.argv[1], os.O_RDONLY), fcntl.LOCK_EX); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(run)], check=False).returncode == -9
    with _log(run, resumed_at=point):
        pass


def test_a_new_run_that_fails_leaves_nothing_and_a_resumed_one_everything(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(ZeroDivisionError), _log(run):
        _ = 1 / 0
    assert not run.exists()
    with _log(run):
        pass
    with pytest.raises(ZeroDivisionError), _log(run, resumed_at=ResumePoint(step=0, epoch=0)):
        _ = 1 / 0
    assert (run / "config.yaml").exists()


def test_a_full_disk_leaves_whole_lines_and_says_what_to_do(tmp_path: Path) -> None:
    class Full:
        """A file on a disk with room for five more bytes."""

        def __init__(self, file: Any) -> None:
            self._file, self._room = file, 5

        def write(self, content: bytes) -> int:
            if not self._room:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            written: int = self._file.write(content[: self._room])
            self._room -= written
            return written

        def __getattr__(self, name: str) -> Any:
            return getattr(self._file, name)

    run = tmp_path / "run"
    with _log(run):
        pass
    with _log(run, resumed_at=ResumePoint(step=0, epoch=0)) as log:
        log.write("train_series", 1, loss=1.0)
        log._metrics = Full(log._metrics)  # type: ignore[assignment]
        with pytest.raises(OutOfResourcesError, match=r"run: the disk is full\. Free some space"):
            log.write("train_series", 2, loss=1.0)
    assert _steps(run) == [("train_series", 1)]


def test_other_ranks_write_nothing(tmp_path: Path) -> None:
    with SilentLog() as log:
        log.write("train_series", 1, loss=1.0)
        log.sync()
    assert list(tmp_path.iterdir()) == []
