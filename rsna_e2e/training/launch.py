"""Launcher behind bin/train.sh: trains in one process, or in ranks under torchrun, depending on GPUs and Slurm.

Needs nothing but the standard library, so that a signal is never lost in an import.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from threading import Event
from types import FrameType
from typing import BinaryIO

from rsna_e2e.core.errors import PreemptedError, RsnaError, UsageError
from rsna_e2e.core.gpus import visible_gpus
from rsna_e2e.training.meeting import ALONE, LOOPBACK, Nodes, check_meeting, number, read_nodes
from rsna_e2e.training.run_layout import PREEMPTION_MARKER

PREEMPTED = PreemptedError.exit_code
_POLL_S = 0.2
_WITHOUT_WORKERS_S = 60.0  # how long torchrun may go on without any, once they were told to end


def main(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Train with `arguments` STORE RUN [OPTIONS]; return the exit code of `rsna-e2e train`, 75 when preempted."""
    try:
        if len(arguments) < 2 or any(word.startswith("-") for word in arguments[:2]):
            raise UsageError("bin/train.sh STORE RUN [OPTIONS of rsna-e2e train]; bin/train.sh --help says more")
        nodes = read_nodes(environment)
        n_processes = count_processes(arguments, environment)
        check_meeting(nodes)
    except RsnaError as error:
        _say(f"train: {error}")
        return error.exit_code
    marker = Path(arguments[1]) / PREEMPTION_MARKER
    if nodes.node_rank == 0:
        with suppress(OSError):  # no such run yet; or no folder, which training will say
            marker.unlink()  # of an earlier preemption
    with tempfile.TemporaryDirectory(prefix="rsna-e2e-") as folder:
        exit_code_file = Path(folder) / "exit_code"
        command = make_command(arguments, environment, nodes, n_processes, exit_code_file=exit_code_file)
        _say(f"+ {' '.join(command)}")
        code = supervise(command, for_ranks(n_processes, environment, nodes), exit_code_file=exit_code_file)
    return PREEMPTED if marker.exists() else code


def _say(line: str) -> None:
    """Print a line with control characters escaped."""
    from rsna_e2e.core.records import printable  # loads numpy: only when all that takes signals is loaded

    sys.stderr.write(f"{printable(line)}\n")


def count_processes(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Return how many ranks this host gets: NPROC, or one for every GPU; one without GPUs and with --device cpu."""
    if environment.get("NPROC"):
        return number(environment, "NPROC", least=1)
    if "--device=cpu" in arguments or ("--device", "cpu") in pairwise(arguments):
        return 1
    return max(1, len(visible_gpus(environment)))


def make_command(
    arguments: Sequence[str],
    environment: Mapping[str, str],
    nodes: Nodes,
    n_processes: int,
    *,
    exit_code_file: Path,
) -> list[str]:
    """Return what to run: rsna-e2e for one process, else torchrun; both beside this Python."""
    train = ["train", *arguments[:2], "--resume", "auto", *arguments[2:]]  # a --resume among the options comes later
    beside = Path(sys.executable).parent
    if nodes.n_nodes == 1 and n_processes == 1:
        return [str(beside / "rsna-e2e"), *train]
    meeting = ["--nnodes", str(nodes.n_nodes), "--node-rank", str(nodes.node_rank)]
    meeting += ["--rdzv-backend", "c10d", "--rdzv-id", nodes.job, "--rdzv-endpoint", nodes.endpoint]
    meeting += ["--rdzv-conf", f"is_host={int(nodes.node_rank == 0)}"]  # rather than by comparing host names
    if nodes.n_nodes == 1:
        meeting += ["--local-addr", LOOPBACK]
    restarts = environment.get("MAX_RESTARTS") or "3"
    workers = ["--nproc-per-node", str(n_processes), "--max-restarts", restarts]
    return [str(beside / "torchrun"), *meeting, *workers, "-m", "rsna_e2e.cli.rank_main", str(exit_code_file), *train]


def for_ranks(n_processes: int, environment: Mapping[str, str], nodes: Nodes = ALONE) -> dict[str, str]:
    """Return `environment` with variables for `n_processes` ranks on this host; those that are set stay as they are."""
    # torchrun would leave its store to the ranks that it starts again, with the addresses of those that died in it:
    # the new ones then wait a minute for the dead, in vain, and use up the restarts.
    fresh_store = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    threads = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // n_processes))} if n_processes > 1 else {}
    loopback = {"GLOO_SOCKET_IFNAME": "lo"} if nodes.n_nodes == 1 else {}  # rather than by the host's name
    return fresh_store | threads | loopback | for_libraries(environment)


def for_libraries(environment: Mapping[str, str]) -> dict[str, str]:
    """Return `environment` with variables that libraries read when they are loaded; those that are set stay.

    A thread of OpenMP that waits for another spins, and so keeps its core from the one it waits for; after fewer turns
    than GNU's 300,000 it should sleep. What that gives: docs/benchmarks.md. Arrow's own allocators keep what was freed,
    which for tables that are read once is most of what a process holds; the C library gives it back. torch's GPU memory
    grows in pieces that can be joined: batches of many sizes would leave holes in fixed ones. cuBLAS gets a workspace
    with which LSTMs do the same every time (torch.nn.LSTM's manual), on every rank.
    """
    suited = {"GOMP_SPINCOUNT": "20000", "ARROW_DEFAULT_MEMORY_POOL": "system", "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
    if "PYTORCH_CUDA_ALLOC_CONF" not in environment:  # its older name, over which the newer one would win
        suited["PYTORCH_ALLOC_CONF"] = "expandable_segments:True"
    return suited | dict(environment)


def supervise(
    command: Sequence[str],
    environment: Mapping[str, str],
    *,
    exit_code_file: Path | None = None,
    is_told_to_end: Event | None = None,
    log: BinaryIO | None = None,
) -> int:
    """Run a command, pass SIGTERM and SIGUSR1 on to its processes, and return its exit code.

    exit_code_file: where ranks write their exit code, which torchrun does not return. is_told_to_end: in another thread
    than the main one, what `noted_signals` gave there. log: where the command prints. 143 for a command that was
    terminated and had nothing to save.
    """
    with noted_signals() if is_told_to_end is None else nullcontext(is_told_to_end) as event:
        return _Supervisor(exit_code_file, event).run(command, environment, log)


@contextmanager
def noted_signals() -> Iterator[Event]:
    """Within, in the main thread, SIGTERM and SIGUSR1 set the event, and SIGINT, which a terminal sends to all
    processes at once, does nothing."""
    event = Event()

    def note(number: int, frame: FrameType | None) -> None:
        if number != signal.SIGINT:
            event.set()

    previous = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)}
    try:
        yield event
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@dataclass(slots=True)
class _Supervisor:
    """Runs a command, passes signals on to it, and finds out its exit code, which torchrun does not return.

    SIGTERM and SIGUSR1 (which Slurm can send before its time limit) are sent to the process, or to torchrun's workers
    and not to torchrun, which would give them 30 s; a step and a checkpoint may take longer.
    """

    exit_code_file: Path | None
    is_told_to_end: Event
    told: set[int] = field(default_factory=set)
    had_workers_s: float = field(default_factory=time.monotonic)

    def run(self, command: Sequence[str], environment: Mapping[str, str], log: BinaryIO | None) -> int:
        """Return the command's exit code; 143 when it was terminated and had nothing to save."""
        process = subprocess.Popen(command, env=dict(environment), stdout=log, stderr=log)
        while (code := self._wait(process)) is None:
            self._attend(process, has_workers=Path(command[0]).name == "torchrun")
        if self.exit_code_file is not None and self.exit_code_file.exists():
            return int(self.exit_code_file.read_text())
        if self.is_told_to_end.is_set() and code not in (0, PREEMPTED):
            return 128 + signal.SIGTERM
        return code if code >= 0 else 128 - code

    def _wait(self, process: "subprocess.Popen[bytes]") -> int | None:
        try:
            return process.wait(timeout=_POLL_S)
        except subprocess.TimeoutExpired:
            return None

    def _attend(self, process: "subprocess.Popen[bytes]", *, has_workers: bool) -> None:
        """Pass on a request to end; end torchrun when a rank has failed with an error that a restart would repeat."""
        if self.exit_code_file is not None and self.exit_code_file.exists():
            self._tell(process.pid)
        if not self.is_told_to_end.is_set():
            return
        workers = _children(process.pid) if has_workers else {process.pid}
        if workers:
            self.had_workers_s = time.monotonic()
        is_restarted = bool(self.told and workers - self.told)
        is_idle = not workers and time.monotonic() - self.had_workers_s > (_WITHOUT_WORKERS_S if self.told else 0.0)
        for pid in {process.pid} if is_restarted or is_idle else workers:
            self._tell(pid)

    def _tell(self, pid: int) -> None:
        if pid not in self.told:
            self.told.add(pid)
            with suppress(ProcessLookupError):  # has just ended
                os.kill(pid, signal.SIGTERM)


def _children(parent: int) -> set[int]:
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text(errors="replace").rpartition(")")[2].split()  # the name before it may hold spaces
        except OSError:  # has just ended
            continue
        if int(fields[1]) == parent and fields[0] != "Z":
            found.add(int(stat.parent.name))
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
