"""`rsna-e2e bench loader`: the loader alone, beside the bare operator on the same slices and threads."""

# N slices (packed)

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import torch

from rsna_e2e.config import RunConfig, load_config, resolve_task
from rsna_e2e.core.console import number, table
from rsna_e2e.core.device import Compute, choose_compute
from rsna_e2e.core.process import Memory, reset_peak
from rsna_e2e.core.records import Progress, no_progress
from rsna_e2e.loader.batch_plan import BatchPlan, Planner
from rsna_e2e.loader.division import WHOLE
from rsna_e2e.loader.image_loader import ImageLoader
from rsna_e2e.loader.kernels import dali_plugin, torch_ops
from rsna_e2e.loader.sampler import Batch
from rsna_e2e.store import Store
from rsna_e2e.tasks.task import Task
from rsna_e2e.tools.bench.machine import Machine
from rsna_e2e.tools.bench.studies import opened_store
from rsna_e2e.tools.bench.timing import Entry, Summary, interleave, ratio, summarise
from rsna_e2e.tools.bench.write import check_out, spread, write_result

BARE = "bare operator"
EPOCH = 1  # augmented
MEMORY_PASSES = 4
BATCH_SIZES = (8, 16, 32, 64, 128, 256)  # about the lengths of series: head CT has 20 to 60 slices, chest CT hundreds


@dataclass(frozen=True, slots=True, kw_only=True)
class LoaderRow:
    """A backend of the loader, or the bare operator. of_bare: its rate over the bare operator's, within each round."""

    name: str
    slices_per_s: Summary
    of_bare: Summary
    samples: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeRow:
    """Time of a batch of n_slices on the backend that `auto` chooses."""

    n_slices: int
    ms_per_batch: Summary
    slices_per_s: Summary


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryRow:
    """Resident memory over MEMORY_PASSES passes of a backend: before them, after each, and the peak."""

    name: str
    before_mib: float
    after_mib: tuple[float, ...]
    peak_mib: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LoaderResult:
    """Rates by backend and by batch size, and memory. A pass is n_slices in n_batches, checksums verified."""

    machine: Machine
    compute: str
    threads: int
    image_size: int
    supersample: int
    n_slices: int
    n_batches: int
    rows: tuple[LoaderRow, ...]
    sizes: tuple[SizeRow, ...]
    memory: tuple[MemoryRow, ...]

    def __str__(self) -> str:
        job = (
            f"{self.n_slices} slices in {self.n_batches} batches a pass, {self.image_size} px, supersample "
            f"{self.supersample}, {self.threads} threads, {self.compute}; checksums verified"
        )
        rates = table(
            ("way", "slices/s (iqr)", "n", "of the bare operator (iqr)"),
            [(row.name, spread(row.slices_per_s), str(row.slices_per_s.n), spread(row.of_bare)) for row in self.rows],
        )
        sizes = table(
            ("slices a batch", "ms a batch (iqr)", "slices/s (iqr)"),
            [(str(row.n_slices), spread(row.ms_per_batch), spread(row.slices_per_s)) for row in self.sizes],
        )
        memory = table(
            ("resident MiB", "before", "after passes", "peak"),
            [
                (m.name, number(m.before_mib), " ".join(map(number, m.after_mib)), number(m.peak_mib))
                for m in self.memory
            ],
        )
        return f"{self.machine}\n{job}\n\n{rates}\n\n{sizes}\n\n{memory}"


def bench_loader(
    store: Path | None,
    *,
    recipe: str | Path = "demo",
    overrides: Sequence[str] = (),
    n_slices: int = 2048,
    rounds: int = 5,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    device: str = "auto",
    out: Path | None = None,
    progress: Progress = no_progress,
) -> LoaderResult:
    """Time the loader's installed backends, each over the same batches of at least n_slices in all.

    Raises BadInputError for an unusable store, UsageError for an unknown recipe or setting.
    """
    check_out(out)
    config = load_config(recipe, overrides)
    machine, compute = Machine.here(), choose_compute(config.precision, device)
    with opened_store(store, task=config.task.name) as opened:
        bench = _Bench(opened, config, compute)
        batches = bench.batches(n_slices)
        memory = [bench.watch_memory(backend, batches) for backend in bench.backends]
        rates = interleave(bench.entries(batches), rounds=rounds, progress=progress)
        sizes = interleave(bench.size_entries(batch_sizes), rounds=rounds, min_turn_s=0.0)
    result = LoaderResult(
        machine=machine,
        compute=str(compute),
        threads=config.loader.threads,
        image_size=config.image.size,
        supersample=config.image.supersample,
        n_slices=bench.n_slices(batches),
        n_batches=len(batches),
        rows=tuple(_row(name, rates) for name in rates),
        sizes=tuple(_size_row(int(size), samples) for size, samples in sizes.items()),
        memory=tuple(memory),
    )
    write_result(out, "loader", asdict(result))
    return result


class _Bench:
    """The loaders of one store and configuration, one for each installed backend, and the operator alone."""

    def __init__(self, store: Store, config: RunConfig, compute: Compute) -> None:
        self._store, self._config, self._compute = store, config, compute
        self._task: Task = resolve_task(config)
        self._planner = Planner(store, config, division=WHOLE)
        names = ("dali", "torch") if dali_plugin.is_installed() else ("torch",)
        self.backends = {name: self._loader(name) for name in names}

    def _loader(self, backend: str) -> ImageLoader:
        loader = self._config.loader.model_copy(update={"backend": backend})
        config = self._config.model_copy(update={"loader": loader})
        compute = self._compute
        return ImageLoader(self._store, config, task=self._task, device=compute.device, dtype=compute.image_dtype)

    def batches(self, n_slices: int) -> list[Batch]:
        """An epoch's batches, repeated or cut short to at least n_slices."""
        loader = next(iter(self.backends.values()))
        epoch = cycle(loader.group(range(len(self._store.series)), epoch=EPOCH))
        chosen: list[Batch] = []
        while self.n_slices(chosen) < n_slices:
            chosen.append(next(epoch))
        return chosen

    def n_slices(self, batches: Sequence[Batch]) -> int:
        """Slices in all of them."""
        return sum(self._store.series[position].n_slices for batch in batches for position in batch)

    def entries(self, batches: Sequence[Batch]) -> list[Entry]:
        """A pass of each backend, and of the operator over the same slices, read beforehand."""
        plans = {batch: self._planner.series(batch, epoch=EPOCH) for batch in batches}
        values = {batch: self._read(plan) for batch, plan in plans.items()}

        def bare() -> None:
            for batch in batches:
                self._transform(plans[batch], values[batch])
            self._wait()

        n_slices = self.n_slices(batches)
        backends = [
            Entry(name=f"loader, {name}", run=partial(self._take, name, batches), n_slices=n_slices)
            for name in self.backends
        ]
        setting = partial(_torch_threads, self._config.loader.threads)
        return [*backends, Entry(name=BARE, run=bare, n_slices=n_slices, setting=setting)]

    def size_entries(self, sizes: Sequence[int]) -> list[Entry]:
        """A few batches of each size, of the store's slices in order."""
        loader = next(iter(self.backends.values()))
        entries = []
        for size in sizes:
            n_batches = max(4, 2 * max(sizes) // size)
            rows = list(islice(cycle(range(len(self._store))), size * n_batches))
            batches = [tuple(rows[k : k + size]) for k in range(0, len(rows), size)]
            run = partial(self._drop, partial(loader.load_slices, batches, epoch=EPOCH))
            entries.append(Entry(name=str(size), run=run, n_slices=len(rows)))
        return entries

    def watch_memory(self, backend: str, batches: Sequence[Batch]) -> MemoryRow:
        """Run a backend's first passes and record resident memory."""
        before = Memory.read()
        reset_peak()
        after = []
        for _ in range(MEMORY_PASSES):
            self._take(backend, batches)
            after.append(Memory.read())
        return MemoryRow(
            name=backend,
            before_mib=before.now_mib,
            after_mib=tuple(memory.now_mib for memory in after),
            peak_mib=max(memory.peak_mib for memory in after),  # Linux counts loosely: a later one may be lower
        )

    def _take(self, backend: str, batches: Sequence[Batch]) -> None:
        self._drop(partial(self.backends[backend].load, batches, epoch=EPOCH))

    def _drop(self, load: Callable[[], Iterator[object]]) -> None:
        for _ in load():
            pass
        self._wait()

    def _wait(self) -> None:
        if self._compute.device.type == "cuda":
            torch.cuda.synchronize()

    def _read(self, plan: BatchPlan) -> torch.Tensor:
        values = np.empty(plan.n_values, dtype=np.int16)
        self._store.read_slices(plan.rows.tolist(), values)
        return torch.from_numpy(values).to(self._compute.device)

    def _transform(self, plan: BatchPlan, values: torch.Tensor) -> torch.Tensor:
        heights, widths = torch.from_numpy(plan.shapes).unbind(1)
        transform = torch_ops.Transform(
            windows=self._task.inputs.windows_hu,
            size=self._config.image.size,
            mean=self._task.inputs.mean,
            std=self._task.inputs.std,
            border="replicate",
            supersample=self._config.image.supersample,
            dtype=self._compute.image_dtype,
            channels_last=True,
        )
        offsets, affine, source_box = map(torch.from_numpy, (plan.offsets, plan.affine, plan.source_box))
        return torch_ops.transform_slices_packed(
            values, offsets, heights, widths, affine, transform, source_box=source_box
        )


@contextmanager
def _torch_threads(threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _row(name: str, rates: dict[str, tuple[float, ...]]) -> LoaderRow:
    return LoaderRow(
        name=name,
        slices_per_s=summarise(rates[name]),
        of_bare=ratio(rates[name], rates[BARE]),
        samples=rates[name],
    )


def _size_row(size: int, samples: Sequence[float]) -> SizeRow:
    return SizeRow(
        n_slices=size,
        ms_per_batch=summarise([1000 * size / rate for rate in samples]),
        slices_per_s=summarise(samples),
    )
