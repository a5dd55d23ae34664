"""Made-up predictions with some skill, for tests of what scores and shows them. Nothing here is a result."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rsna_e2e.core.records import Float64Array
from rsna_e2e.inference.predictions import (
    PredictionTable,
    SeriesTable,
    predictions_path,
    series_path,
    write_predictions,
    write_series,
)
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.tasks.labels import write_labels


@dataclass(frozen=True)
class MadeUpRun:
    """Files of one made-up prediction."""

    submission: Path
    truth: Path
    table: PredictionTable
    truth_values: Float64Array

    @property
    def predictions(self) -> Path:
        """The table beside the submission."""
        return predictions_path(self.submission)


def made_up_run(folder: Path, *, n_series: int, seed: int, skill: float = 2.5) -> MadeUpRun:
    """Write truth, submission and predictions table of `n_series` series with bleeds that span several slices."""
    rng = np.random.default_rng(seed)
    truths, logits, keys, indices, positions = [], [], [], [], []
    for series in range(n_series):
        n_slices = int(rng.integers(24, 42))
        truth = np.zeros((n_slices, len(ICH.slices.names)))
        for label in np.flatnonzero(rng.random(5) < [0.15, 0.25, 0.18, 0.22, 0.28]):
            start = int(rng.integers(2, n_slices - 6))
            truth[start : start + int(rng.integers(3, 12)), label] = 1
        truth[:, ICH.headline_index] = truth.max(axis=1)
        noise = rng.normal(size=(n_slices + 4, 6))
        smooth = sum(noise[shift : shift + n_slices] for shift in range(5)) / 2
        logits.append(-3.2 + skill * rng.normal(1, 0.4) * 2 * truth + smooth + rng.normal(0, 0.6))
        truths.append(truth)
        keys += [f"patient{series:03d}/study/series"] * n_slices
        indices.append(np.arange(n_slices))
        positions.append(np.arange(n_slices) * 5.0 - 40)
    probability = np.round(1 / (1 + np.exp(-np.concatenate(logits))), 6)
    order = rng.permutation(len(probability))  # files know no order
    table = PredictionTable(
        image_ids=[f"ID_{rng.integers(1 << 36):09x}" for _ in order],
        series_keys=[keys[row] for row in order],
        slice_index=np.concatenate(indices)[order],
        position_mm=np.concatenate(positions)[order],
        probability=probability[order],
    )
    run = MadeUpRun(folder / "submission.csv", folder / "truth.csv", table, np.concatenate(truths)[order])
    write_labels(run.submission, ICH, table.image_ids, table.probability, decimals=6)
    write_labels(run.truth, ICH, table.image_ids[::-1], run.truth_values[::-1])
    write_predictions(run.predictions, ICH, table)
    return run


def add_series_table(run: MadeUpRun, *, seed: int) -> SeriesTable:
    """Write beside the submission what a made-up series head says, whose series come in an order of their own."""
    rng = np.random.default_rng(seed)
    all_keys = np.array(run.table.series_keys)
    keys = rng.permutation(sorted(set(run.table.series_keys))).tolist()
    truth = np.array([run.truth_values[all_keys == key].max(axis=0) for key in keys])
    table = SeriesTable(
        series_keys=keys,
        n_slices=np.array([int((all_keys == key).sum()) for key in keys]),
        probability=1 / (1 + np.exp(2.0 - 4.0 * truth - rng.normal(size=truth.shape, scale=1.5))),
    )
    write_series(series_path(run.submission), ICH, table)
    return table
