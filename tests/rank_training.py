"""What one rank does in test_train_ranks.py: trains on the store of FOLDER, once for each of CASES.

Usage: torchrun's variables in the environment, python rank_training.py FOLDER CASE...
"""

import os
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import small
import torch

from rsna_e2e.config import RunConfig
from rsna_e2e.loader.batch import SeriesBatch
from rsna_e2e.loader.division import Division
from rsna_e2e.loader.sampler import global_batches
from rsna_e2e.store import Store
from rsna_e2e.training.checkpoint import Checkpoint
from rsna_e2e.training.distributed import Ranks, joined
from rsna_e2e.training.loop import Trainer
from rsna_e2e.training.objectives import LabelObjective, Totals
from rsna_e2e.training.train import train

# 21 slices in batches of up to 8: 3 or 4 steps an epoch, some of them on one series.
EQUAL = ("model.batchnorm=frozen", "validation_fold=null", "chunk=4", "graph_slices=8", "epochs=7")
SGD = ("optimizer.name=sgd", "optimizer.learning_rate=0.05", "optimizer.head_learning_rate=0.05")
CASES = {
    "sgd": SGD,
    # every series by itself, one of them of a single slice
    "adam": (
        *("optimizer.name=adam", "optimizer.learning_rate=0.001", "optimizer.head_learning_rate=0.001"),
        "loader.slices_per_batch=1",
    ),
    "dropout": (
        *(*SGD, "model.backbone_dropout=0.3", "model.backbone_arguments={drop_path_rate: 0.3}"),
        *("model.study_loss_weight=0.5", "model.slice_loss_weight=0.5", "accumulate=2", "epochs=12"),
        *("chunk=3", "graph_slices=3", "loader.slices_per_batch=1"),  # some ranks have nothing in the last of two
    ),
    # Each chunk is normalised by itself, so it must be the same with any number of ranks. A backbone that learns fast
    # would enlarge rounding tenfold a step, by norms over the four values that a slice has in the end.
    "norms": (
        *(*SGD, "optimizer.learning_rate=0.001", "model.batchnorm=train", "image.size=64"),
        *("chunk=3", "graph_slices=5", "epochs=6"),
    ),
    "differs": SGD,
    "raises": (),
    "poisoned": ("optimizer.name=sgd", "optimizer.learning_rate=0.05"),
}
EQUAL_CASES = ("sgd", "adam", "dropout", "norms")
POISONED_RANK = DIFFERING_RANK = 1


def config(case: str) -> RunConfig:
    """The configuration of a case, the same with any number of ranks."""
    return small.config(*EQUAL, *CASES[case])


def run_folder(folder: Path, case: str, n_ranks: int) -> Path:
    """Where a case leaves its run."""
    return folder / f"{case}-{n_ranks}"


def train_case(folder: Path, case: str, ranks: Ranks, *, is_stopping: Callable[[], bool] = lambda: False) -> None:
    """Train in a folder of its own."""
    with closing(Store.open(folder / "store")) as store:
        run = run_folder(folder, case, ranks.n_ranks)
        train(store, run, config(case), device="cpu", ranks=ranks, is_stopping=is_stopping)


def poisoned_steps(store: Store, n_ranks: int) -> list[int]:
    """The first three steps in which the poisoned rank has slices."""
    settings = config("poisoned")
    lengths = [span.n_slices for span in store.series if span.split == "train"]
    batches = [
        batch
        for epoch in range(1, settings.epochs + 1)
        for batch in global_batches(lengths, slice_budget=8, seed=settings.seed, epoch=epoch)
    ]
    division = Division(rank=POISONED_RANK, n_ranks=n_ranks, chunk_size=4)
    shares = [division.chunks([lengths[i] for i in batch]) for batch in batches]
    return [step for step, share in enumerate(shares) if share][:3]


def _poison(folder: Path, n_ranks: int) -> None:
    """From now on, this rank's images are not finite in some steps."""
    with closing(Store.open(folder / "store")) as store:
        numbers = poisoned_steps(store, n_ranks)
    backward = LabelObjective.backward

    def poisoned(self: LabelObjective, batch: SeriesBatch, totals: Totals, *, step: int, **others: object) -> object:
        if step in numbers:
            batch = replace(batch, images=torch.full_like(batch.images[:], torch.nan))
        return backward(self, batch, totals, step=step, **others)

    LabelObjective.backward = poisoned


def _differ() -> None:
    """From now on, this rank's losses are a unit in the last place or so from what they are elsewhere."""
    losses = LabelObjective._losses

    def differing(self: LabelObjective, *arguments: object) -> tuple[torch.Tensor, torch.Tensor]:
        reported, objective = losses(self, *arguments)
        return reported, objective * (1 + 1e-7)

    LabelObjective._losses = differing  # in the cases that follow too: poisoned, raises


def _keep_weights(folder: Path) -> None:
    """From now on, leave what this rank has at the end of a run in `folder`."""
    fit = Trainer.fit

    def fit_and_keep(self: Trainer, last: Checkpoint | None) -> None:
        fit(self, last)
        torch.save(self._model.state_dict(), folder / f"{self._run.name}.rank-{self._ranks.rank}.pt")

    Trainer.fit = fit_and_keep


def _raise_at_step(step: int) -> Callable[[], bool]:
    """What raises when it is asked for the `step`th time whether to stop."""
    asked = iter(range(1, step))

    def is_stopping() -> bool:
        if next(asked, None) is None:
            raise RuntimeError("a fault of one rank alone")
        return False

    return is_stopping


if __name__ == "__main__":
    torch.set_num_threads(1)
    with joined(os.environ, "cpu", timeout_s=60.0) as me:
        _keep_weights(Path(sys.argv[1]))
        for name in sys.argv[2:]:
            if name == "differs" and me.rank == DIFFERING_RANK:
                _differ()
            if name == "poisoned" and me.rank == POISONED_RANK:
                _poison(Path(sys.argv[1]), me.n_ranks)
            is_faulty = name == "raises" and me.rank == 1
            train_case(Path(sys.argv[1]), name, me, is_stopping=_raise_at_step(5) if is_faulty else lambda: False)
