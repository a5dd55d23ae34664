"""Labels with errors planted into them, by a seed, and which they are.

With real models: `plant_in_file(raw/stage_2_train.csv, flipped.csv, ICH, share=0.05, seed=1)`, prepare a store with
these labels, train a run for each fold, predict each held-out fold, and give all to find_suspects.
"""

# N images, L labels

from pathlib import Path

import numpy as np
import numpy.typing as npt

from rsna_e2e.core.records import Float64Array
from rsna_e2e.tasks.labels import read_labels, write_labels
from rsna_e2e.tasks.task import Task

Planted = set[tuple[str, str]]  # image and label


def plant(labels_NL: Float64Array, *, share: float, seed: int) -> tuple[Float64Array, npt.NDArray[np.bool_]]:
    """Labels with a share of them, drawn alike from all, turned into the other value; and which ones."""
    is_planted = np.random.default_rng(seed).random(labels_NL.shape) < share
    return np.where(is_planted, 1.0 - labels_NL, labels_NL), is_planted


def plant_in_file(labels: Path, out: Path, task: Task, *, share: float, seed: int) -> Planted:
    """Write the label file `out`, like `labels` but for the errors that are returned."""
    table = read_labels(labels, task)
    values, is_planted = plant(table.values, share=share, seed=seed)
    write_labels(out, task, table.image_ids, values)
    return {(table.image_ids[n], task.slices.names[label]) for n, label in np.argwhere(is_planted).tolist()}


def precision(order: list[tuple[str, str]], planted: Planted, *, n: int = 20) -> float:
    """Share of the first n that were planted."""
    return sum(one in planted for one in order[:n]) / n
