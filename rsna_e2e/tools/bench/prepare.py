"""`rsna-e2e bench prepare`: speed and memory of making a verified store, beside a plain write to the same disk."""

import mmap
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from rsna_e2e.core.console import number, table
from rsna_e2e.core.errors import BadInputError
from rsna_e2e.core.process import available_cores
from rsna_e2e.core.records import Progress, no_progress
from rsna_e2e.store.prepare import prepare
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.tools.bench.machine import Machine
from rsna_e2e.tools.bench.studies import SEED, scratch_folder
from rsna_e2e.tools.bench.timing import Entry, Rates, Summary, interleave, ratio, summarise
from rsna_e2e.tools.bench.write import check_out, spread, write_result
from rsna_e2e.tools.synth.simulate import simulate
from rsna_e2e.training.chunk_size import free_bytes

PATTERN_STUDIES = 4  # simulated, and repeated under other identifiers
WRITE = "synced sequential write"
HEAD_BYTES = 1024  # of a file, which hold all its identifiers
SLICE_BYTES = 512 * 512 * 2  # of a simulated slice
MEMORY_SHARE = 1.25  # bytes of memory that a turn fills, for each byte of its slices
SAMPLE_S = 0.05  # between two looks at the memory

_PROGRAM = "import sys; from rsna_e2e.cli import main; sys.exit(main(sys.argv[1:]))"


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareRow:
    """Slices/s from uncompressed files in the page cache to a verified store, with n_jobs processes.

    of_one, of_write: its rate over that of one process, and over that of the plain write, within each round.
    """

    n_jobs: int
    rate: Summary
    of_one: Summary
    of_write: Summary


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareMemory:
    """Peak memory (PSS) of `rsna-e2e prepare` with its workers, MiB."""

    n_slices: int
    peak_mib: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareResult:
    """Rates and memory. A turn prepares n_slices, with the start of processes. write: of as many bytes as their HU."""

    machine: Machine
    folder: str
    n_slices: int
    slice_bytes: int
    write: Summary
    rows: tuple[PrepareRow, ...]
    memory: tuple[PrepareMemory, ...]
    samples: dict[str, Rates]

    def __str__(self) -> str:
        job = f"{self.n_slices} slices of {self.slice_bytes:,} bytes, in {self.folder}"
        rates = table(
            ("way", "slices/s (iqr)", "n", "of one process (iqr)", "of the write (iqr)"),
            [
                *(
                    (_name(row.n_jobs), spread(row.rate), str(row.rate.n), spread(row.of_one), spread(row.of_write))
                    for row in self.rows
                ),
                (WRITE, spread(self.write), str(self.write.n), "", ""),
            ],
        )
        memory = table(("slices", "peak MiB"), [(str(m.n_slices), number(m.peak_mib)) for m in self.memory])
        return f"{self.machine}\n{job}\n\n{rates}\n\n{memory}"


def bench_prepare(
    folder: Path | None,
    *,
    n_slices: int = 2000,
    memory_slices: Sequence[int] = (1000, 20000),
    rounds: int = 5,
    out: Path | None = None,
    progress: Progress = no_progress,
) -> PrepareResult:
    """Time prepare on simulated slices under `folder`, by default the system's temporary one.

    It needs 1 MiB of disk for each slice of the largest number asked for. Raises BadInputError when `folder` is no
    folder.
    """
    check_out(out)
    machine, jobs = Machine.here(), sorted({1, available_cores()})
    with scratch_folder(folder) as place:
        pattern = place / "pattern"
        simulate(pattern, n_studies=PATTERN_STUDIES, seed=SEED, prevalence="demo", test_fraction=0.0)
        memory = tuple(_measure_memory(pattern, place, n) for n in memory_slices)
        repeat(pattern, place / "raw", n_slices)
        entries = [_preparing(place, n, n_slices) for n in jobs] + [_writing(place, n_slices)]
        rates = interleave(entries, rounds=rounds, min_turn_s=0.0, progress=progress)
    result = PrepareResult(
        machine=machine,
        folder=str(folder or tempfile.gettempdir()),
        n_slices=n_slices,
        slice_bytes=SLICE_BYTES,
        write=summarise(rates[WRITE]),
        rows=tuple(_row(n, rates) for n in jobs),
        memory=memory,
        samples=rates,
    )
    write_result(out, "prepare", asdict(result))
    return result


def _row(n_jobs: int, rates: dict[str, Rates]) -> PrepareRow:
    own = rates[_name(n_jobs)]
    return PrepareRow(
        n_jobs=n_jobs, rate=summarise(own), of_one=ratio(own, rates[_name(1)]), of_write=ratio(own, rates[WRITE])
    )


def repeat(pattern: Path, raw: Path, n_slices: int) -> None:
    """Write `n_slices` files: those of `pattern` repeatedly, each time as other patients.

    Simulated files begin all their identifiers with ID_.
    """
    raw.mkdir()
    files = sorted(pattern.rglob("*.dcm"))
    for i in range(n_slices):
        content = files[i % len(files)].read_bytes()
        turn = f"{i // len(files):03d}".encode()
        (raw / f"{i:08d}.dcm").write_bytes(content[:HEAD_BYTES].replace(b"ID_", turn) + content[HEAD_BYTES:])


def _preparing(place: Path, n_jobs: int, n_slices: int) -> Entry:
    store = place / f"store-{n_jobs}"

    def run() -> None:
        shutil.rmtree(store, ignore_errors=True)
        prepare(place / "raw", store, task=ICH, n_jobs=n_jobs)

    return Entry(name=_name(n_jobs), run=run, n_slices=n_slices, setting=lambda: _cleared(store, n_slices))


def _writing(place: Path, n_slices: int) -> Entry:
    path, block = place / "written", os.urandom(SLICE_BYTES)

    def run() -> None:
        with path.open("wb", buffering=0) as file:
            for _ in range(n_slices):
                file.write(block)
            os.fsync(file.fileno())

    return Entry(name=WRITE, run=run, n_slices=n_slices, setting=lambda: _cleared(path, n_slices))


@contextmanager
def _cleared(path: Path, n_slices: int) -> Iterator[None]:
    """Touch as much memory as the turn will fill, before it, and remove its output after it.

    The host of a virtual machine takes free memory back and returns it slowly: the first contestant would pay for it.
    """
    n_bytes = min(int(n_slices * SLICE_BYTES * MEMORY_SHARE), free_bytes(torch.device("cpu")))
    with mmap.mmap(-1, n_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as taken:
        for i in range(0, len(taken), mmap.PAGESIZE):
            taken[i] = 1
    yield
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _measure_memory(pattern: Path, place: Path, n_slices: int) -> PrepareMemory:
    raw, store = place / "memory", place / "memory-store"
    repeat(pattern, raw, n_slices)
    command = [sys.executable, "-c", _PROGRAM, "prepare", str(raw), str(store)]
    process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    peak = 0
    while process.poll() is None:
        peak = max(peak, sum(map(_pss_kib, _session(process.pid))))
        time.sleep(SAMPLE_S)
    if process.returncode != 0:
        raise BadInputError(f"{raw}: rsna-e2e prepare ended with {process.returncode}. Is there room for the store?")
    for folder in (raw, store):
        shutil.rmtree(folder)
    return PrepareMemory(n_slices=n_slices, peak_mib=peak / 1024)


def _session(leader: int) -> Iterator[Path]:
    """Yield the /proc folders of the processes of a session. Source: proc(5), /proc/pid/stat, field 6."""
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if int(status.read_text().rpartition(")")[2].split()[3]) == leader:
                yield status.parent


def _pss_kib(process: Path) -> int:
    """Proportional set size of a process, KiB: private memory and its share of shared memory; 0 when it has ended."""
    with suppress(OSError):
        for line in (process / "smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1])
    return 0


def _name(n_jobs: int) -> str:
    return f"{n_jobs} process{'' if n_jobs == 1 else 'es'}"
