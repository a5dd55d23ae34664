"""`rsna-e2e bench chunked`: memory and time of exact gradients in chunks, by the length of a series."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from rsna_e2e.config import RunConfig, load_config
from rsna_e2e.core.console import number, table
from rsna_e2e.core.process import in_fresh_process
from rsna_e2e.core.records import Progress, no_progress
from rsna_e2e.tools.bench.machine import Machine
from rsna_e2e.tools.bench.peak import peak_of
from rsna_e2e.tools.bench.timing import Entry, Rates, Summary, interleave, ratio, summarise
from rsna_e2e.tools.bench.write import check_out, spread, write_result
from rsna_e2e.training.series_step import SeriesStep, measure_peak

ONE_GRAPH, EAGER, COMPILED = "step in one graph", "step", "step, compiled"


@dataclass(frozen=True, slots=True, kw_only=True)
class PeakMemory:
    """Peak memory of a step on one series, MiB, each figure from a process of its own.

    whole_mib: of a whole step. heads_mib: of one without the backbone's chunks: inputs, optimiser state, and the heads
    over as many embeddings. chunks_mib: the difference, which the chunks need.
    """

    n_slices: int
    whole_mib: float
    heads_mib: float
    chunks_mib: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """Slices/s of whole steps. tflops: useful TFLOP/s at the median. peak_share: tflops over the device's peak."""

    rate: Summary
    tflops: float
    peak_share: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkedResult:
    """Memory by length of the series, and speed. All steps are the trainer's own.

    flatness: largest deviation of a `chunks_mib` from their mean, over that mean. overhead: time of a step in chunks
    over that of one in one graph, within each round. gflops_per_slice: of the backbone, one forward and backward pass.
    """

    machine: Machine
    recipe: str
    compute: str
    chunk: int
    graph_slices: int
    memory: tuple[PeakMemory, ...]
    flatness: float
    timed_slices: int
    overhead: Summary
    gflops_per_slice: float
    speed: dict[str, Speed]
    samples: dict[str, Rates]

    def __str__(self) -> str:
        job = (
            f"recipe {self.recipe} on {self.compute}; chunks of {self.chunk} slices, graphs of {self.graph_slices} kept"
        )
        memory = table(
            ("slices", "peak MiB", "heads alone MiB", "chunks MiB"),
            [
                (str(row.n_slices), number(row.whole_mib), number(row.heads_mib), number(row.chunks_mib))
                for row in self.memory
            ],
        )
        speed = table(
            (f"{self.timed_slices} slices", "slices/s (iqr)", "n", "TFLOPS", "of peak"),
            [
                (name, spread(s.rate), str(s.rate.n), number(s.tflops), _percent(s.peak_share))
                for name, s in self.speed.items()
            ],
        )
        return (
            f"{self.machine}\n{job}\n\n{memory}\nflat within {100 * self.flatness:.1f} %\n\n{speed}\n"
            f"a step in chunks takes {spread(self.overhead)} times as long as in one graph; "
            f"{number(self.gflops_per_slice)} GFLOP/slice"
        )


def bench_chunked(
    *,
    recipe: str | Path = "demo",
    overrides: Sequence[str] = (),
    slices: Sequence[int] = (30, 60, 120, 250, 400),
    timed_slices: int = 60,
    rounds: int = 5,
    device: str = "auto",
    out: Path | None = None,
    progress: Progress = no_progress,
) -> ChunkedResult:
    """Measure a recipe's model on random series of these lengths.

    On a GPU, and where the configuration has `compile`, the compiled backbone is timed too. Raises UsageError for an
    unknown recipe or setting.
    """
    check_out(out)
    machine = Machine.here()
    eager = SeriesStep(load_config(recipe, overrides), n_slices=timed_slices, device=device)
    config, flops = eager.config, eager.flops_per_slice()
    memory = [_peak_memory(config, device, n) for n in _counted(slices, progress)]
    rates = interleave(_entries(eager, device=device), rounds=rounds)
    result = ChunkedResult(
        machine=machine,
        recipe=config.recipe,
        compute=str(eager.compute),
        chunk=int(config.chunk),
        graph_slices=int(config.graph_slices),
        memory=tuple(memory),
        flatness=flatness([row.chunks_mib for row in memory]),
        timed_slices=timed_slices,
        overhead=ratio(rates[ONE_GRAPH], rates[EAGER]),
        gflops_per_slice=flops / 1e9,
        speed={name: _speed(values, flops, peak_of(eager.compute)) for name, values in rates.items()},
        samples=rates,
    )
    write_result(out, "chunked", asdict(result))
    return result


def flatness(values: Sequence[float]) -> float:
    """Largest deviation of a value from their mean, over that mean."""
    mean = float(np.mean(values))
    return max(abs(value - mean) for value in values) / mean


def _speed(slices_per_s: Rates, flops_per_slice: float, peak_tflops: float | None) -> Speed:
    rate = summarise(slices_per_s)
    tflops = rate.median * flops_per_slice / 1e12
    return Speed(rate=rate, tflops=tflops, peak_share=None if peak_tflops is None else tflops / peak_tflops)


def _peak_memory(config: RunConfig, device: str, n_slices: int) -> PeakMemory:
    whole, heads = (
        in_fresh_process(measure_peak, config, device, n_slices, is_whole=is_whole) for is_whole in (True, False)
    )
    return PeakMemory(n_slices=n_slices, whole_mib=whole, heads_mib=heads, chunks_mib=whole - heads)


def _counted(slices: Sequence[int], progress: Progress) -> Iterator[int]:
    for done, n in enumerate(slices):
        progress(done, len(slices), f"{n} slices")
        yield n
    progress(len(slices), len(slices))


def _entries(eager: SeriesStep, *, device: str) -> list[Entry]:
    """Steps over as many slices in one graph, in chunks, and, on a GPU or with `compile`, in compiled chunks."""
    config, n_slices = eager.config.model_copy(update={"compile": False}), eager.n_slices
    one_graph = config.model_copy(update={"chunk": n_slices, "graph_slices": n_slices})
    settings = {ONE_GRAPH: one_graph, EAGER: config}
    if eager.config.compile or eager.compute.device.type == "cuda":
        settings[COMPILED] = config.model_copy(update={"compile": True})
    return [
        _entry(name, eager if chosen == eager.config else SeriesStep(chosen, n_slices=n_slices, device=device))
        for name, chosen in settings.items()
    ]


def _entry(name: str, step: SeriesStep) -> Entry:
    def run_to_end() -> None:
        step.train()
        step.synchronise()

    return Entry(name=name, run=run_to_end, n_slices=step.n_slices)


def _percent(share: float | None) -> str:
    return "n/a" if share is None else f"{100 * share:.1f} %"
