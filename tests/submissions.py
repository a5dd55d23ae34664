"""Made-up submissions with their predictions tables."""

from pathlib import Path

import numpy as np

from rsna_e2e.inference.predictions import PredictionTable, SeriesTable
from rsna_e2e.inference.submission import write_submission
from rsna_e2e.tasks.ich import ICH


def table_of(first_label: list[float], *, keys: list[str], index: list[int]) -> PredictionTable:
    probability = np.full((len(first_label), 6), 0.5)
    probability[:, 0] = first_label
    return PredictionTable(
        image_ids=[f"ID_{key}{i}" for key, i in zip(keys, index, strict=True)],
        series_keys=keys,
        slice_index=np.array(index),
        position_mm=5.0 * np.array(index),
        probability=probability,
    )


def series_of(first_label: list[float], *, keys: list[str], n_slices: list[int]) -> SeriesTable:
    probability = np.full((len(first_label), 6), 0.5)
    probability[:, 0] = first_label
    return SeriesTable(series_keys=keys, n_slices=np.array(n_slices), probability=probability)


def member(folder: Path, name: str, first_label: list[float], *, series: SeriesTable | None = None) -> Path:
    path = folder / f"{name}.csv"
    write_submission(path, ICH, table_of(first_label, keys=["a", "a", "b"], index=[0, 1, 0]), series=series)
    return path
