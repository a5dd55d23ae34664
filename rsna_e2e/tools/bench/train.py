"""`rsna-e2e bench train`: training steps on resident batches, the loader alone, and both together, in turns."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from itertools import count, cycle, islice
from pathlib import Path

import torch

from rsna_e2e.config import OptimizerConfig, RunConfig, load_config, resolve_task
from rsna_e2e.core.console import table
from rsna_e2e.core.device import Compute, choose_compute
from rsna_e2e.core.records import Progress, no_progress
from rsna_e2e.loader.batch import SeriesBatch
from rsna_e2e.loader.image_loader import ImageLoader
from rsna_e2e.loader.sampler import Batch
from rsna_e2e.model.network import JointModel
from rsna_e2e.store import Store
from rsna_e2e.tasks.task import Task
from rsna_e2e.tools.bench.machine import Machine
from rsna_e2e.tools.bench.studies import opened_store
from rsna_e2e.tools.bench.timing import Entry, Rates, Summary, interleave, ratio, summarise
from rsna_e2e.tools.bench.write import check_out, spread, write_result
from rsna_e2e.training.chunk_size import resolve_chunks
from rsna_e2e.training.distributed import ALONE
from rsna_e2e.training.phases import Kind, check_norms, divide
from rsna_e2e.training.step import Stepper

RESIDENT, LOADER, END_TO_END = "resident data", "loader alone", "end to end"

EPOCH = 1  # augmented
POOL_BYTES = 2**30  # of resident images; a turn repeats them as often as it needs
SCHEDULE_STEPS = 10**6  # never reached: in the warm-up of so long a schedule the steps stay small
ENOUGH = 0.95  # of the resident rate: a loader that keeps up may cost the rest


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseResult:
    """Rates of one phase of training, slices/s. share: end-to-end rate over the resident one, within each round."""

    phase: str
    n_batches: int
    steps_per_turn: int
    resident: Summary
    loader: Summary
    end_to_end: Summary
    share: Summary
    bottleneck: str
    samples: dict[str, Rates]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    """Results of all phases of a recipe."""

    machine: Machine
    recipe: str
    compute: str
    backend: str
    phases: tuple[PhaseResult, ...]

    def __str__(self) -> str:
        header = ("phase", RESIDENT, LOADER, END_TO_END, "n", "of resident (iqr)", "bottleneck")
        lines = [
            (p.phase, spread(p.resident), spread(p.loader), spread(p.end_to_end), str(p.share.n), spread(p.share),
             p.bottleneck)
            for p in self.phases
        ]  # fmt: skip
        job = f"recipe {self.recipe} on {self.compute}, loader {self.backend}; slices/s (iqr)"
        return f"{self.machine}\n{job}\n\n{table(header, lines)}"


def bench_train(
    store: Path | None,
    *,
    recipe: str | Path = "demo",
    overrides: Sequence[str] = (),
    steps: int = 8,
    rounds: int = 5,
    device: str = "auto",
    out: Path | None = None,
    progress: Progress = no_progress,
) -> TrainResult:
    """Time each phase of a recipe, `steps` steps or more a turn, on a randomly initialised model.

    Raises BadInputError for an unusable store, UsageError for an unknown recipe or setting.
    """
    check_out(out)
    config = load_config(recipe, overrides)
    task, machine = resolve_task(config), Machine.here()
    compute = choose_compute(config.precision, device, cpu_threads=config.cpu_threads)
    model = compute.place(JointModel.for_task(config.model.without_initial_weights(), task))
    config = resolve_chunks(model, config, task, compute)
    with opened_store(store, task=config.task.name) as opened:
        loader = _loader(opened, model, config, task, compute)
        phases = _phases(opened, loader, config)
        chunks = {phase.kind: phase.smallest_chunk for phase in phases}
        check_norms(model, config, chunks, spans=opened.series, n_channels=len(task.inputs.windows_hu))
        results = []
        for index, phase in enumerate(phases):
            part = partial(_report_part, progress, index, len(phases))
            results.append(_time(phase, config, task, compute, steps=steps, rounds=rounds, progress=part))
    result = TrainResult(
        machine=machine, recipe=config.recipe, compute=str(compute), backend=loader.backend, phases=tuple(results)
    )
    write_result(out, "train", asdict(result))
    return result


def _report_part(progress: Progress, index: int, n_parts: int, done: int, total: int, note: str = "") -> None:
    """Report progress within part `index` of `n_parts` equal ones as progress of them all."""
    progress(index * total + done, n_parts * total, note)


def name_bottleneck(*, resident: float, loader: float, end_to_end: float, on_gpu: bool) -> str:
    """Name the bottleneck of training, from three rates.

    The loader, when it alone is slower than the steps; compute, when both together are nearly as fast as the steps
    alone; else the resource that both share.
    """
    if loader < resident:
        return "loader"
    if end_to_end >= ENOUGH * resident:
        return "compute"
    return "transfer" if on_gpu else "cores shared by loader and compute"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Phase:
    """Batches of one phase, and the function that loads them.

    smallest_chunk: slices of the smallest that goes through the backbone.
    """

    kind: Kind
    name: str
    batches: Sequence[Batch]
    smallest_chunk: int
    n_slices: Callable[[Batch], int]
    load: Callable[..., Iterator[SeriesBatch]]
    optimizer: OptimizerConfig


def _loader(store: Store, model: JointModel, config: RunConfig, task: Task, compute: Compute) -> ImageLoader:
    division = divide(model, config, ALONE)
    return ImageLoader(store, config, task=task, device=compute.device, dtype=compute.image_dtype, division=division)


def _phases(store: Store, loader: ImageLoader, config: RunConfig) -> list[_Phase]:
    everyone = range(len(store.series))
    division = loader.division
    phases = []
    if config.slice_phase is not None:
        batches = loader.group_slices(everyone, phase=config.slice_phase, epoch=EPOCH)
        phases.append(
            _Phase(
                kind="slices",
                name="single slices",
                batches=batches,
                smallest_chunk=min(division.by_slices().smallest_chunk([1] * len(batch)) for batch in batches),
                n_slices=len,
                load=loader.load_slices,
                optimizer=config.slice_phase.optimizer,
            )
        )
    if config.epochs > 0:
        batches = loader.group(everyone, epoch=EPOCH)
        phases.append(
            _Phase(
                kind="series",
                name="whole series",
                batches=batches,
                smallest_chunk=min(division.smallest_chunk(loader.lengths(batch)) for batch in batches),
                n_slices=loader.n_slices,
                load=loader.load,
                optimizer=config.optimizer,
            )
        )
    return phases


def _time(
    phase: _Phase, config: RunConfig, task: Task, compute: Compute, *, steps: int, rounds: int, progress: Progress
) -> PhaseResult:
    entries, n_batches, n_steps = _entries(phase, config, task, compute, steps=steps)
    rates = interleave(entries, rounds=rounds, min_turn_s=0.0, progress=progress)
    resident, loader, end_to_end = (summarise(rates[name]) for name in (RESIDENT, LOADER, END_TO_END))
    return PhaseResult(
        phase=phase.name,
        n_batches=n_batches,
        steps_per_turn=n_steps,
        resident=resident,
        loader=loader,
        end_to_end=end_to_end,
        share=ratio(rates[END_TO_END], rates[RESIDENT]),
        bottleneck=name_bottleneck(
            resident=resident.median,
            loader=loader.median,
            end_to_end=end_to_end.median,
            on_gpu=compute.device.type == "cuda",
        ),
        samples=rates,
    )


def _entries(
    phase: _Phase, config: RunConfig, task: Task, compute: Compute, *, steps: int
) -> tuple[list[Entry], int, int]:
    """The three contestants over the same batches, the number of batches, and the number of steps in a turn.

    A turn uses every batch equally often, so that all three count the same slices.
    """
    pool = list(_fitting(phase, config, task, compute, at_most=steps))
    n_steps = math.ceil(steps / len(pool)) * len(pool)
    n_slices = sum(map(phase.n_slices, pool)) * n_steps // len(pool)
    torch.manual_seed(config.seed)
    model = compute.place(JointModel.for_task(config.model.without_initial_weights(), task))
    is_joint = phase.kind == "series"
    stepper = Stepper(model, phase.optimizer, config, task, compute, n_steps=SCHEDULE_STEPS, is_joint=is_joint)
    numbers = count()

    def step(batch: SeriesBatch) -> None:
        stepper(next(numbers), [batch])

    n_ahead = config.loader.prefetch_batches + config.loader.threads
    # more than a turn takes, and than the two of a warm-up: the loader must not come to its end within either
    loading = _loading(phase, pool, n_batches=3 * n_steps + 2 * n_ahead)
    resident = list(phase.load(pool, epoch=EPOCH))
    feeds = [
        _Feed(lambda: cycle(resident), step, n_steps=n_steps, n_ahead=0),
        _Feed(loading, lambda batch: None, n_steps=n_steps, n_ahead=n_ahead),
        _Feed(loading, step, n_steps=n_steps, n_ahead=n_ahead),
    ]
    entries = [
        Entry(name=name, run=feed.run, n_slices=n_slices, setting=feed.opened)
        for name, feed in zip((RESIDENT, LOADER, END_TO_END), feeds, strict=True)
    ]
    return entries, len(pool), n_steps


def _loading(phase: _Phase, pool: Sequence[Batch], *, n_batches: int) -> Callable[[], Iterator[SeriesBatch]]:
    """A function that starts the loader on the pool's batches, again and again up to `n_batches`."""
    return lambda: phase.load(list(islice(cycle(pool), n_batches)), epoch=EPOCH)


def _fitting(phase: _Phase, config: RunConfig, task: Task, compute: Compute, *, at_most: int) -> Iterator[Batch]:
    """The first batches whose images fit POOL_BYTES: at least one, at most `at_most`."""
    bytes_per_slice = len(task.inputs.windows_hu) * config.image.size**2 * compute.image_dtype.itemsize
    n_bytes = 0
    for k, batch in enumerate(phase.batches[:at_most]):
        n_bytes += phase.n_slices(batch) * bytes_per_slice
        if k and n_bytes > POOL_BYTES:
            return
        yield batch


class _Feed:
    """A source of batches and their consumer, with n_steps batches in a turn.

    The first n_ahead batches are consumed before the timing of a turn, so that the loader is in its steady state: its
    start and the batches that it has prefetched do not count.
    """

    def __init__(
        self,
        load: Callable[[], Iterator[SeriesBatch]],
        use: Callable[[SeriesBatch], object],
        *,
        n_steps: int,
        n_ahead: int,
    ) -> None:
        self._load, self._use = load, use
        self._n_steps, self._n_ahead = n_steps, n_ahead
        self._batches: Iterator[SeriesBatch] = iter(())

    @contextmanager
    def opened(self) -> Iterator[None]:
        """A turn: the loader starts with it and ends with it."""
        self._batches = self._load()
        try:
            self._take(self._n_ahead)
            yield
        finally:
            if (close := getattr(self._batches, "close", None)) is not None:
                close()

    def run(self) -> None:
        """Take a turn's batches and consume them."""
        self._take(self._n_steps)

    def _take(self, n_batches: int) -> None:
        for batch in islice(self._batches, n_batches):
            self._use(batch)
