"""`rsna-e2e bench embed`: extraction of embeddings to a folder, beside the bare backbone on one resident batch."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from rsna_e2e.config import RunConfig, View, load_config, resolve_task, save_config
from rsna_e2e.core.console import number, table
from rsna_e2e.core.process import Memory, in_fresh_process, return_freed_memory
from rsna_e2e.core.records import Progress, Rows, no_progress
from rsna_e2e.inference.embed import Extractor, embed_block
from rsna_e2e.model.forward import EMBED_TOGETHER
from rsna_e2e.model.network import JointModel
from rsna_e2e.store import Store
from rsna_e2e.store.embeddings import EmbeddingWriter
from rsna_e2e.tools.bench.machine import Machine
from rsna_e2e.tools.bench.studies import opened_store, scratch_folder
from rsna_e2e.tools.bench.timing import Entry, Rates, Summary, interleave, ratio, summarise
from rsna_e2e.tools.bench.write import check_out, spread, write_result
from rsna_e2e.training.checkpoint import CheckpointState, save_checkpoint
from rsna_e2e.training.run_folder import read_config
from rsna_e2e.training.run_layout import CONFIG

BARE = "bare backbone"
VIEWS: tuple[tuple[View, ...], ...] = (("plain",), ("plain", "hflip", "transpose"))
MEMORY_SLICES = (512, 2048)  # with fewer, the loader never reaches its full read-ahead


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedRow:
    """Extraction in some views, embeddings/s. of_bare: its rate over the bare backbone's, within each round."""

    views: tuple[View, ...]
    rate: Summary
    of_bare: Summary


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedMemory:
    """Peak resident memory, MiB, of a process that embedded n_slices in one view."""

    n_slices: int
    peak_mib: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedResult:
    """Rates and memory. A turn embeds and stores n_slices, with the start of the loader and the sync to disk."""

    machine: Machine
    recipe: str
    compute: str
    n_slices: int
    together: int
    bare: Summary
    rows: tuple[EmbedRow, ...]
    memory: tuple[EmbedMemory, ...]
    samples: dict[str, Rates]

    def __str__(self) -> str:
        job = f"recipe {self.recipe} on {self.compute}; {self.n_slices} slices a turn, {self.together} together"
        rates = table(
            ("way", "embeddings/s (iqr)", "n", "of the bare backbone (iqr)"),
            [
                (BARE, spread(self.bare), str(self.bare.n), ""),
                *((_name(row.views), spread(row.rate), str(row.rate.n), spread(row.of_bare)) for row in self.rows),
            ],
        )
        memory = table(("slices", "peak MiB"), [(str(m.n_slices), number(m.peak_mib)) for m in self.memory])
        return f"{self.machine}\n{job}\n\n{rates}\n\n{memory}"


def bench_embed(
    store: Path | None,
    *,
    recipe: str | Path = "demo",
    overrides: Sequence[str] = (),
    n_slices: int = 2048,
    rounds: int = 5,
    device: str = "auto",
    out: Path | None = None,
    progress: Progress = no_progress,
) -> EmbedResult:
    """Time extraction with a recipe's backbone, untrained, on at least `n_slices` slices of a store, some repeated.

    Raises BadInputError for an unusable store, UsageError for an unknown recipe or setting.
    """
    check_out(out)
    config, machine = load_config(recipe, overrides), Machine.here()
    with opened_store(store, task=config.task.name) as opened, scratch_folder() as folder:
        run = make_run(folder / "run", opened, config)
        memory = tuple(
            EmbedMemory(n_slices=n, peak_mib=in_fresh_process(measure_peak, run, opened.path, device, n))
            for n in MEMORY_SLICES
        )
        extractor = Extractor(run, opened, device=device)
        rows = repeated_rows(opened, n_slices)
        entries = [_bare(extractor, rows), *(_extraction(extractor, opened, rows, views) for views in VIEWS)]
        rates = interleave(entries, rounds=rounds, min_turn_s=0.0, progress=progress)
    result = EmbedResult(
        machine=machine,
        recipe=config.recipe,
        compute=str(extractor.compute),
        n_slices=len(rows),
        together=EMBED_TOGETHER,
        bare=summarise(rates[BARE]),
        rows=tuple(_row(views, rates) for views in VIEWS),
        memory=memory,
        samples=rates,
    )
    write_result(out, "embed", asdict(result))
    return result


def _row(views: tuple[View, ...], rates: dict[str, Rates]) -> EmbedRow:
    own = rates[_name(views)]
    return EmbedRow(views=views, rate=summarise(own), of_bare=ratio(own, rates[BARE]))


def measure_peak(run: Path, store: Path, device: str, n_slices: int) -> float:
    """Return the peak resident memory, MiB, of extraction in this process, which must be a fresh one."""
    return_freed_memory()
    with closing(Store.open(store, read_config(run).task.name)) as opened:
        extractor = Extractor(run, opened, device=device)
        with _shards(extractor, opened, repeated_rows(opened, n_slices), VIEWS[0]) as done:
            sum(done)
    return Memory.read().peak_mib


def make_run(run: Path, store: Store, config: RunConfig) -> Path:
    """Make a run folder with a checkpoint of a randomly initialised model."""
    task = resolve_task(config)
    torch.manual_seed(config.seed)
    model = JointModel.for_task(config.model.without_initial_weights(), task)
    run.mkdir()
    save_config(config, path=run / CONFIG)
    save_checkpoint(run, CheckpointState(step=0, epoch=0, phase="slices", data_hash=store.data_hash), model=model)
    return run


def repeated_rows(store: Store, n_slices: int) -> Rows:
    """The store's rows, repeated in order, to whole batches of at least `n_slices` in all."""
    n = -(-n_slices // EMBED_TOGETHER) * EMBED_TOGETHER
    return np.arange(n, dtype=np.int64) % len(store)


def _bare(extractor: Extractor, rows: Rows) -> Entry:
    images = next(extractor.images(rows[:EMBED_TOGETHER])).clone()

    def run() -> None:
        for _ in range(len(rows) // EMBED_TOGETHER):
            embeddings = extractor.embed(images)
        embeddings.cpu()  # waits for the device

    return Entry(name=BARE, run=run, n_slices=len(rows))


def _extraction(extractor: Extractor, store: Store, rows: Rows, views: tuple[View, ...]) -> Entry:
    def run() -> None:
        with _shards(extractor, store, rows, views) as done:
            sum(done)

    return Entry(name=_name(views), run=run, n_slices=len(rows) * len(views))


@contextmanager
def _shards(extractor: Extractor, store: Store, rows: Rows, views: tuple[View, ...]) -> Iterator[Iterator[int]]:
    """Open shards in a temporary folder; yield the iterator that embeds their rows, batch by batch."""
    with (
        scratch_folder() as folder,
        EmbeddingWriter(folder, source=extractor.source, width=extractor.width, store=store) as writer,
        ExitStack() as stack,
    ):
        appends = [stack.enter_context(writer.shard(view, "00000", rows)) for view in views]
        yield embed_block(extractor, rows, views, appends)


def _name(views: Sequence[View]) -> str:
    return "stored, " + ", ".join(views)
