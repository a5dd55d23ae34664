"""The results of the study: scores, paired differences and costs of its ways, from what its runs left."""

from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rsna_e2e.core.errors import BadInputError
from rsna_e2e.evaluation.evaluate import evaluate
from rsna_e2e.evaluation.floors import with_floors
from rsna_e2e.inference.predictions import beside
from rsna_e2e.loader.holdout import hold_out
from rsna_e2e.store import Store
from rsna_e2e.tools.study.design import WAYS, Design, Way, slices_learned
from rsna_e2e.tools.study.plan import TEST_TRUTH, Member
from rsna_e2e.tools.study.run import Part
from rsna_e2e.tools.study.scores import MEASURES, N_RESAMPLES, Scores, detectable
from rsna_e2e.training.pipeline.ledger import Ledger
from rsna_e2e.training.pipeline.run import STEPS
from rsna_e2e.training.run_folder import read_config
from rsna_e2e.training.train import read_summary

COMPARED: tuple[tuple[Way, Way], ...] = (
    ("warm", "in_sample"),
    ("warm", "out_of_fold"),
    ("warm", "mean"),
    ("warm", "slices"),
    ("scratch", "in_sample"),
    ("frozen", "in_sample"),
    ("in_sample", "slices"),
    ("mean", "slices"),
    ("out_of_fold", "in_sample"),
    ("warm", "frozen"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a way took, all of its runs together. n_slices: that its backbones learned from, counted each time.
    peak_mib: of the largest process."""

    n_slices: int
    elapsed_s: float
    peak_mib: float


def results_of(part: Part, design: Design, *, seed: int = 0) -> dict[str, Any]:
    """Return plain numbers: of each way its scores, seed by seed and their mean, its costs and its learning curve; of
    each pair of ways the difference over the seeds that both have; and floors.

    Raises BadInputError where there is no truth of the test.
    """
    members = {(one.way, one.seed, one.epoch): one for one in part.members}
    task = design.joint.task
    with closing(Store.open(part.folders.store, task.name)) as store:
        scores = {
            key: Scores.of(
                *(one.submission, _truth(part, one), task),
                store=store,
                n_resamples=N_RESAMPLES if one.epoch is None else 0,  # of curves no interval is shown
                seed=seed,
            )
            for key, one in members.items()
        }
        costs = {(one.way, one.seed): _cost(store, part, one) for one in part.members if one.epoch is None}
        first = members["slices", design.seeds[0], None]
        alone = evaluate(first.submission, _truth(part, first), task=task, allow_missing=True, n_bootstrap=0)
        floors = with_floors(alone, store).floors
    ways = {
        way: {
            "seeds": [{"seed": s, **scores[way, s, None].values} for s in design.seeds_of(way)],
            "mean": _row(Scores.mean(scores[way, s, None] for s in design.seeds_of(way))),
            "cost": _mean_cost([costs[way, s] for s in design.seeds_of(way)]),
            "curve": [{"epoch": e, **scores[w, s, e].values} for w, s, e in sorted(_curve(members, way))],
        }
        for way in WAYS
    }
    return {
        "data": part.name,
        "n_patients": scores["slices", design.seeds[0], None].n_clusters,
        "ways": ways,
        "differences": [_difference(scores, design, *pair) for pair in COMPARED],
        "floors": [floor.row() for floor in floors],
    }


def _truth(part: Part, member: Member) -> Path:
    """The truth that was simulated, or that a store has of its split test, which predict writes beside a submission."""
    if part.folders.raw is not None:
        return part.folders.raw / TEST_TRUTH
    truth = beside(member.submission, "truth.csv")
    if not truth.exists():
        raise BadInputError(f"{part.folders.store}: its split test has no labels. Prepare it with --holdout")
    return truth


def _curve(members: Iterable[tuple[Way, int, int | None]], way: Way) -> list[tuple[Way, int, int]]:
    return [(name, seed, epoch) for name, seed, epoch in members if name == way and epoch is not None]


def _difference(
    scores: dict[tuple[Way, int, int | None], Scores], design: Design, first: Way, second: Way
) -> dict[str, Any]:
    seeds = [seed for seed in design.seeds_of(first) if seed in design.seeds_of(second)]
    each = [scores[first, seed, None].minus(scores[second, seed, None]) for seed in seeds]
    mean = Scores.mean(each)
    return {
        "first": first,
        "second": second,
        "n_seeds": len(seeds),
        "by_seed": [one.values for one in each],
        "mean": _row(mean),
        "detectable": {measure: detectable(each, measure) for measure in MEASURES},
    }


def _row(scores: Scores) -> dict[str, Any]:
    found = {measure: scores.estimate(measure) for measure in MEASURES}
    return {name: {"value": one.value, "low": one.low, "high": one.high} for name, one in found.items()}


def _cost(store: Store, part: Part, member: Member) -> Cost:
    """Return what the runs of a member took, by their own summaries, and embedding on the way."""
    ledger = Ledger(part.folders.out / STEPS)
    summaries = [read_summary(run) for run in member.runs]
    n_slices = 0
    for config in map(read_config, member.runs):
        training, _ = hold_out(store, config)
        n_slices += slices_learned(config) * sum(store.series[position].n_slices for position in training)
    return Cost(
        n_slices=n_slices,
        elapsed_s=sum(map(ledger.elapsed_s, member.embedded)) + sum(one.elapsed_s or 0.0 for one in summaries),
        peak_mib=max(one.peak_mib or 0.0 for one in summaries),
    )


def _mean_cost(costs: Sequence[Cost]) -> dict[str, float]:
    return {
        "n_slices": sum(cost.n_slices for cost in costs) / len(costs),
        "elapsed_s": sum(cost.elapsed_s for cost in costs) / len(costs),
        "peak_mib": max(cost.peak_mib for cost in costs),
    }
