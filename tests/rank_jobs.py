"""Training jobs as users start them, of one process or of ranks under torchrun, and what their runs leave behind."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import rank_forks
import safetensors.torch
import torch

from rsna_e2e.config import RunConfig, save_config
from rsna_e2e.loader.sampler import global_batches
from rsna_e2e.store import Store
from rsna_e2e.training.checkpoint import find_checkpoint

ROOT = Path(__file__).parents[1]
PATIENCE_S = 240.0  # for a machine that has other things to do


class Job:
    """`bin/train.sh` without its set-up: the launcher, whatever it starts, and their messages."""

    def __init__(self, store: Path, run: Path, config: RunConfig, *, n_ranks: int, **environment: str) -> None:
        self.run = run
        self._n_resumed_at_least = self.n_resumed() + 1 if run.exists() else 0
        settings = run.with_suffix(".yaml")
        save_config(config, path=settings)
        self._messages = run.with_suffix(".log").open("w+")
        words = ["-m", "rsna_e2e.training.launch", str(store), str(run), "--recipe", str(settings), "--device", "cpu"]
        clean = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
        self.process = subprocess.Popen(
            [sys.executable, *words],
            env=clean | {"PYTHONPATH": str(ROOT), "NPROC": str(n_ranks), "OMP_NUM_THREADS": "1"} | environment,
            stdout=self._messages,
            stderr=subprocess.STDOUT,
        )

    def __enter__(self) -> "Job":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for pid in self._descendants():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.kill()
        self.process.wait()
        self._messages.close()

    @property
    def messages(self) -> str:
        """All that was said so far."""
        self._messages.seek(0)
        return self._messages.read()

    def rank_pid(self, rank: int) -> int:
        """The process of a rank."""
        for pid in self._descendants():
            variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            if f"RANK={rank}".encode() in variables:
                return pid
        raise AssertionError(f"no process of rank {rank}: {self.messages}")

    def wait_for_steps(self, n_steps: int) -> None:
        """Wait until the run has logged this many more steps than when it was last started."""

        def is_reached() -> bool:
            resumed = json.loads((self.run / "manifest.json").read_text())["resumed"]
            if len(resumed) < self._n_resumed_at_least:
                return False
            done = steps(self.run)
            return bool(done) and done[-1]["step"] >= (resumed[-1]["step"] if resumed else 0) + n_steps

        self.wait_until(is_reached)

    def wait_until(self, is_reached: Callable[[], bool]) -> None:
        """Ask until it is so; files that are not there yet mean no."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            try:
                if is_reached():
                    return
            except (FileNotFoundError, json.JSONDecodeError):
                pass
            assert self.process.poll() is None, f"has ended with {self.process.returncode}: {self.messages}"
            time.sleep(0.01)
        raise AssertionError(f"waited in vain: {self.messages}")

    def n_resumed(self) -> int:
        """How often the run has been resumed."""
        return len(json.loads((self.run / "manifest.json").read_text())["resumed"])

    def ends(self, *, within_s: float = PATIENCE_S) -> int:
        """Wait for the end; the exit code."""
        return self.process.wait(timeout=within_s)

    def _descendants(self) -> list[int]:
        parents: dict[int, int] = {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text(errors="replace").rpartition(")")[2].split()
            except OSError:
                continue
            parents[int(stat.parent.name)] = int(fields[1])
        found = [self.process.pid]
        for pid in found:
            found += [child for child, parent in parents.items() if parent == pid]
        return found[1:]


def run_ranks(n_ranks: int, *words: object) -> tuple[list[int], str]:
    """Run Python with these words as ranks that meet on this host, each with one thread; exit codes and messages."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(listener.getsockname()[1])}
    command = [sys.executable, rank_forks.__file__, *map(str, words)]
    shared = os.environ | address | {"WORLD_SIZE": str(n_ranks), "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, env=shared, text=True, start_new_session=True, **pipes) as process:
        try:
            codes, messages = process.communicate(timeout=PATIENCE_S)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    return json.loads(codes.splitlines()[-1]), messages


def log_lines(run: Path, kind: str) -> list[dict[str, Any]]:
    """The lines of one kind in metrics.jsonl."""
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line["kind"] == kind]


def steps(run: Path) -> list[dict[str, Any]]:
    """The lines of joint steps."""
    return log_lines(run, "train_series")


def weights(run: Path) -> dict[str, torch.Tensor]:
    """The last weights of a run."""
    return safetensors.torch.load_file(find_checkpoint(run, "last") / "model.safetensors")


def difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """The largest difference between two sets of weights."""
    assert a.keys() == b.keys()
    return max((a[name].double() - b[name].double()).abs().max().item() for name in a)


def planned(store: Store, config: RunConfig) -> list[tuple[int, int, int]]:
    """Epoch, series and slices of every step that a run should take, from the sampler."""
    lengths = [s.n_slices for s in store.series if s.split == "train" and s.fold != config.validation_fold]
    return [
        (epoch, len(batch), sum(lengths[i] for i in batch))
        for epoch in range(1, config.epochs + 1)
        for batch in global_batches(lengths, slice_budget=config.loader.slices_per_batch, seed=config.seed, epoch=epoch)
    ]
