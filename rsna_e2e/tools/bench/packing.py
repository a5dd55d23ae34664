"""`rsna-e2e bench packing`: size and speed of shards of the same slices, plain and compressed."""

import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import get_args

import numpy as np

from rsna_e2e.core.console import number, table
from rsna_e2e.core.process import available_cores
from rsna_e2e.core.records import Int16Image, Progress, no_progress
from rsna_e2e.store import Compression, StoredPixels, read_pixels, write_shard
from rsna_e2e.tools.bench.machine import Machine
from rsna_e2e.tools.bench.studies import opened_store, scratch_folder
from rsna_e2e.tools.bench.timing import Entry, Rates, Summary, interleave, ratio, summarise
from rsna_e2e.tools.bench.write import check_out, spread, write_result

PLAIN: Compression = "none"
TOGETHER = 8  # slices that a thread reads in one call


@dataclass(frozen=True, slots=True, kw_only=True)
class PackingRow:
    """Slices/s of a compression at a job. of_plain: its rate over that of plain pixels, within each round."""

    job: str
    compression: Compression
    rate: Summary
    of_plain: Summary


@dataclass(frozen=True, slots=True, kw_only=True)
class PackingResult:
    """Sizes and rates. A turn writes and syncs a shard of n_slices, or reads and verifies it from the page cache.

    bytes: size of the shard by compression. hu_bytes: size of the HU in it.
    """

    machine: Machine
    folder: str
    n_slices: int
    hu_bytes: int
    bytes: dict[str, int]
    rows: tuple[PackingRow, ...]
    samples: dict[str, Rates]

    def __str__(self) -> str:
        sizes = ", ".join(f"{name} {number(self.hu_bytes / size)}" for name, size in self.bytes.items())
        job = f"{self.n_slices} slices, {self.hu_bytes:,} bytes of HU, in {self.folder}; HU bytes per stored: {sizes}"
        rates = table(
            ("job", "pixels", "slices/s (iqr)", "n", "of plain (iqr)"),
            [(row.job, row.compression, spread(row.rate), str(row.rate.n), spread(row.of_plain)) for row in self.rows],
        )
        return f"{self.machine}\n{job}\n\n{rates}"


def bench_packing(
    store: Path | None,
    *,
    folder: Path | None = None,
    n_slices: int = 256,
    rounds: int = 7,
    out: Path | None = None,
    progress: Progress = no_progress,
) -> PackingResult:
    """Time writing and reading the first slices of a store, plain and packed, in shards under `folder`.

    Raises BadInputError when `folder` is no folder, MissingCapabilityError when hdf5plugin is not installed.
    """
    check_out(out)
    machine, threads = Machine.here(), sorted({1, available_cores()})
    with scratch_folder(folder) as place:
        with opened_store(store) as opened:
            slices = [opened.read_slice(row) for row in range(min(n_slices, len(opened)))]
        sizes, entries = _entries(place, slices, threads)
        rates = interleave(entries, rounds=rounds, progress=progress)
    jobs = ["write", *map(_reading_name, threads)]
    result = PackingResult(
        machine=machine,
        folder=str(folder or tempfile.gettempdir()),
        n_slices=len(slices),
        hu_bytes=sum(hu.nbytes for hu in slices),
        bytes=sizes,
        rows=tuple(_row(job, compression, rates) for job in jobs for compression in get_args(Compression)),
        samples=rates,
    )
    write_result(out, "packing", asdict(result))
    return result


def _entries(place: Path, slices: Sequence[Int16Image], threads: Sequence[int]) -> tuple[dict[str, int], list[Entry]]:
    """Size of a shard of the slices by compression, and the contestants that write and read one of each."""
    sizes, entries = {}, []
    for compression in get_args(Compression):
        path = place / f"{compression}.h5"
        stored = write_shard(path, slices, compression=compression)
        sizes[compression] = path.stat().st_size
        entries.append(_entry("write", compression, slices, _writing(place / "new.h5", slices, compression)))
        entries += [
            _entry(_reading_name(n), compression, slices, _reading(path, stored, slices, compression, n_threads=n))
            for n in threads
        ]
    return sizes, entries


def _row(job: str, compression: Compression, rates: dict[str, Rates]) -> PackingRow:
    own, plain = rates[f"{job} {compression}"], rates[f"{job} {PLAIN}"]
    return PackingRow(job=job, compression=compression, rate=summarise(own), of_plain=ratio(own, plain))


def _reading_name(n_threads: int) -> str:
    return f"read, {n_threads} thread" + ("" if n_threads == 1 else "s")


def _entry(job: str, compression: Compression, slices: Sequence[Int16Image], run: Callable[[], object]) -> Entry:
    return Entry(name=f"{job} {compression}", run=run, n_slices=len(slices))


def _writing(path: Path, slices: Sequence[Int16Image], compression: Compression) -> Callable[[], object]:
    return lambda: write_shard(path, slices, compression=compression)


def _reading(
    path: Path,
    stored: Sequence[StoredPixels],
    slices: Sequence[Int16Image],
    compression: Compression,
    *,
    n_threads: int,
) -> Callable[[], object]:
    """Read all slices into preallocated memory, as the loader does."""
    into = [(pixels, np.empty(hu.size, dtype="<i2")) for pixels, hu in zip(stored, slices, strict=True)]
    parts = [into[i : i + TOGETHER] for i in range(0, len(into), TOGETHER)]

    def read() -> None:
        with ThreadPoolExecutor(n_threads) as pool:
            for damaged in pool.map(lambda part: read_pixels(path, part, compression=compression), parts):
                assert not damaged

    return read
