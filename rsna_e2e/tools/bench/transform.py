"""`rsna-e2e bench transform`: the fused op and its peers at the same job, on one core."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rsna_e2e.core.console import table
from rsna_e2e.core.device import choose_compute
from rsna_e2e.core.process import keep_freed_memory
from rsna_e2e.core.records import Progress, no_progress
from rsna_e2e.tools.bench import ours
from rsna_e2e.tools.bench.job import AGREEMENT_LIMIT, Contestant, DisagreementError, Job, check_agreement
from rsna_e2e.tools.bench.machine import Machine, pinned
from rsna_e2e.tools.bench.peers.registry import INSTALL_COMMAND, PEERS, Peer, find_contestants
from rsna_e2e.tools.bench.studies import opened_store
from rsna_e2e.tools.bench.timing import MIN_TURN_S, Entry, Summary, interleave, ratio, summarise
from rsna_e2e.tools.bench.write import check_out, spread, write_result


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One contestant's result. ours_is_faster: rate of the first of our contestants over this one's, within each round.

    difference: mean absolute difference of its images from ours, before normalisation.
    """

    name: str
    how: str
    cores: int
    slices_per_s: Summary
    ours_is_faster: Summary
    difference: float
    samples: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformResult:
    """A row for each contestant, and the reason for each that was not timed."""

    machine: Machine
    n_slices: int
    size: int
    keeps_freed: bool
    rows: tuple[Row, ...]
    not_timed: dict[str, str]

    def __str__(self) -> str:
        lines = [
            (row.name, spread(row.slices_per_s), str(row.slices_per_s.n), spread(row.ours_is_faster),
             f"{row.difference:.2g}")
            for row in self.rows
        ]  # fmt: skip
        header = ("contestant", "slices/s (iqr)", "n", "ours is faster by (iqr)", "difference")
        missing = "".join(f"\nnot timed: {name}: {reason}" for name, reason in self.not_timed.items())
        memory = "told to keep freed memory" if self.keeps_freed else "left as it is"
        job = f"{self.n_slices} slices to {self.size} px, the C library {memory}"
        return f"{self.machine}\n{job}\n\n{table(header, lines)}{missing}"


def bench_transform(
    store: Path | None,
    *,
    n_slices: int = 16,
    size: int = 480,
    rounds: int = 7,
    device: str = "auto",
    keeps_freed: bool = False,
    out: Path | None = None,
    min_turn_s: float = MIN_TURN_S,
    peers: Sequence[Peer] = PEERS,
    progress: Progress = no_progress,
) -> TransformResult:
    """Time every contestant that does the same job, and write the result to `out`, too.

    keeps_freed: make the C library keep freed memory, for the rest of this process; this serves the peers alone.
    Raises BadInputError for an unusable store, MissingCapabilityError for a device that is not there.
    """
    check_out(out)
    machine = Machine.here()
    if keeps_freed:
        keep_freed_memory()
    on_gpu = choose_compute("fp32", device).device.type == "cuda"
    with opened_store(store) as opened:
        job = Job.of_store(opened, n_slices=n_slices, size=size)
    with pinned(1):
        contestants, missing = _find(peers, job, cores=machine.cores, on_gpu=on_gpu)
        differences, disagreeing = _check(contestants, job)
    timed = [contestant for contestant in contestants if contestant.name in differences]
    rates = interleave([_entry(c) for c in timed], rounds=rounds, min_turn_s=min_turn_s, progress=progress)
    result = TransformResult(
        machine=machine,
        n_slices=n_slices,
        size=size,
        keeps_freed=keeps_freed,
        rows=tuple(_row(c, rates, differences[c.name]) for c in timed),
        not_timed=missing | disagreeing,
    )
    write_result(out, "transform", _content(result))
    return result


def _entry(contestant: Contestant) -> Entry:
    return Entry(
        name=contestant.name,
        run=partial(_exhaust, contestant),
        n_slices=contestant.n_slices,
        setting=partial(pinned, contestant.cores),
    )


def _exhaust(contestant: Contestant) -> None:
    for _ in contestant.run():
        pass


def _find(peers: Sequence[Peer], job: Job, *, cores: int, on_gpu: bool) -> tuple[list[Contestant], dict[str, str]]:
    """Our contestants and those of the installed peers, and why each other peer is missing."""
    contestants = ours.contestants(job, available=cores) + (ours.gpu_contestants(job) if on_gpu else [])
    missing: dict[str, str] = {}
    for peer in peers:
        if peer.is_for_gpu and not on_gpu:
            missing[peer.name] = "no GPU"
            continue
        found = find_contestants(peer, job)
        if found is None:
            missing[peer.name] = f"{peer.library} is not installed; {INSTALL_COMMAND}"
        else:
            contestants += found
    return contestants, missing


def _check(contestants: Sequence[Contestant], job: Job) -> tuple[dict[str, float], dict[str, str]]:
    """Difference of each contestant that does the job, and why each other one disagrees."""
    differences: dict[str, float] = {}
    disagreeing: dict[str, str] = {}
    for contestant in contestants:
        try:
            differences[contestant.name] = check_agreement(contestant, job)
        except DisagreementError as error:
            disagreeing[contestant.name] = str(error)
    return differences, disagreeing


def _row(contestant: Contestant, rates: dict[str, tuple[float, ...]], difference: float) -> Row:
    samples = rates[contestant.name]
    return Row(
        name=contestant.name,
        how=contestant.how,
        cores=contestant.cores,
        slices_per_s=summarise(samples),
        ours_is_faster=ratio(rates[ours.OURS], samples),
        difference=difference,
        samples=samples,
    )


def _content(result: TransformResult) -> dict[str, Any]:
    return {
        "machine": asdict(result.machine),
        "job": {
            "n_slices": result.n_slices,
            "size": result.size,
            "keeps_freed": result.keeps_freed,
            "agreement_limit": AGREEMENT_LIMIT,
        },
        "rows": [asdict(row) for row in result.rows],
        "not_timed": result.not_timed,
    }
