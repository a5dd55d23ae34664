"""What one rank does in test_rank_sharing.py: trains on long series, and says what its steps took.

Usage: torchrun's variables in the environment, python rank_sharing.py FOLDER SIDE (px of an image)
"""

import json
import os
import sys
from pathlib import Path

import numpy as np
import torch

from rsna_e2e.config import RunConfig, load_config
from rsna_e2e.core.device import Compute
from rsna_e2e.core.process import Memory, reset_peak, return_freed_memory
from rsna_e2e.loader.batch import SeriesBatch, series_targets
from rsna_e2e.loader.division import Division
from rsna_e2e.model.network import JointModel
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.tasks.pe import PE
from rsna_e2e.tasks.task import Task
from rsna_e2e.training.distributed import Ranks, joined
from rsna_e2e.training.step import Stepper

CPU = torch.device("cpu")
LENGTHS = (3, 120, 17, 64, 31, 8, 90, 45)
N_STEPS = 20
LONGEST, LONG_SIDE = 120, 128


def config(side: int, *overrides: str) -> RunConfig:
    """The demo's backbone, in chunks that fit no length of a series, every graph kept."""
    return load_config(
        "demo",
        [
            *(f"image.size={side}", "slice_phase=null", "chunk=7", "graph_slices=999", "model.batchnorm=frozen"),
            *("model.backbone_dropout=0.2", "model.study_loss_weight=0.5", "model.slice_loss_weight=0.5"),
            *("model.backbone_arguments={channels: [16, 32, 48, 64], stem_width: 8, drop_path_rate: 0.1}",),
            *("optimizer.name=sgd", "optimizer.learning_rate=0.02", "optimizer.head_learning_rate=0.02"),
            *("optimizer.warmup_fraction=0", "optimizer.schedule=constant", *overrides),
        ],
    )


def batch_of(
    lengths: tuple[int, ...], side: int, ranks: Ranks, chunk_size: int, *, seed: int, task: Task = ICH
) -> SeriesBatch:
    """Made-up series: noise, brighter in some places of slices whose label is set."""
    n, n_labels = sum(lengths), len(task.slices)
    rng = np.random.default_rng(seed)
    labels = torch.from_numpy(rng.integers(0, 2, (n, n_labels)).astype(np.float32))
    chunks = Division(rank=ranks.rank, n_ranks=ranks.n_ranks, chunk_size=chunk_size).chunks(lengths)
    rows = np.arange(n) + 1000 * seed
    own = [row for chunk in chunks for row in range(chunk.start, chunk.stop)]
    noise = [np.random.default_rng(rows[place]).normal(size=(3, side, side)).astype(np.float32) for place in own]
    images = torch.from_numpy(np.stack(noise))
    for label in range(n_labels):
        images[:, :, label * side // n_labels : (label + 1) * side // n_labels] += labels[own, label, None, None, None]
    mask = torch.ones_like(labels, dtype=torch.bool)
    series_labels, series_mask = series_targets(labels, mask, torch.tensor(lengths))
    if task.series_truth == "own":
        series_labels = torch.from_numpy(rng.integers(0, 2, (len(lengths), len(task.series))).astype(np.float32))
        series_mask = series_labels > -1
    return SeriesBatch(
        images=images.contiguous(memory_format=torch.channels_last),
        chunks=chunks,
        series_lengths=torch.tensor(lengths),
        labels=labels,
        label_mask=mask,
        series_labels=series_labels,
        series_mask=series_mask,
        series_keys=tuple(f"{seed}-{number}" for number in range(len(lengths))),
        rows=rows,
    )


def stepper_of(settings: RunConfig, ranks: Ranks, task: Task = ICH) -> tuple[JointModel, Stepper]:
    torch.manual_seed(0)
    model = JointModel.for_task(settings.model, task)
    arguments = (model, settings.optimizer, settings, task, Compute(CPU, None))
    return model, Stepper(*arguments, n_steps=1000, is_joint=True, ranks=ranks)


def losses_and_weights(ranks: Ranks, side: int) -> tuple[list[float], dict[str, torch.Tensor]]:
    """After steps on batches of one series or several, long and short."""
    settings = config(side)
    model, step = stepper_of(settings, ranks)
    losses = []
    for number in range(N_STEPS):
        lengths = (LENGTHS[number % len(LENGTHS)],) if number % 2 else LENGTHS[number % 5 : number % 5 + 2]
        batch = batch_of(lengths, side, ranks, settings.chunk, seed=number)
        result = step(number, [batch])
        losses.append(result.loss + result.series_loss)
    return losses, model.state_dict()


def study_losses_and_weights(ranks: Ranks, side: int) -> tuple[list[float], dict[str, torch.Tensor]]:
    """The same of a task whose score is of slices and series at once, after steps on two batches each."""
    settings = config(side)
    model, step = stepper_of(settings, ranks, PE)
    losses = []
    for number, lengths in enumerate((((31, 8), (17,)), ((45,), (3, 17)), ((64,), (31,)))):
        batches = [
            batch_of(some, side, ranks, settings.chunk, seed=10 * number + place, task=PE)
            for place, some in enumerate(lengths)
        ]
        result = step(number, batches)
        losses += [result.loss, result.series_loss]
    return losses, model.state_dict()


def peak_mib(ranks: Ranks) -> float:
    """What a step on one long series takes beside its inputs and the heads: those alone are a step that rests."""
    return_freed_memory()
    settings = config(LONG_SIDE)
    _, step = stepper_of(settings, ranks)
    batch = batch_of((LONGEST,), LONG_SIDE, ranks, settings.chunk, seed=1)
    peaks = []
    for is_frozen in (True, True, False):
        step.freeze_backbone(is_frozen)
        assert reset_peak()
        before = Memory.read().now_mib
        step(0, [batch])
        peaks.append(Memory.read().peak_mib - before)
    return peaks[2] - peaks[1]


if __name__ == "__main__":
    torch.set_num_threads(1)
    with joined(os.environ, "cpu", timeout_s=120.0) as me:
        folder = Path(sys.argv[1])
        for name, steps in (("", losses_and_weights), ("study-", study_losses_and_weights)):
            trained = steps(me, int(sys.argv[2]))
            if me.is_main:
                torch.save(trained[1], folder / f"{name}{me.n_ranks}.pt")
                (folder / f"{name}{me.n_ranks}.json").write_text(json.dumps(trained[0]))
        (folder / f"{me.n_ranks}.{me.rank}.mib").write_text(str(peak_mib(me)))
