"""The predictions table: what a submission leaves out, namely which series a slice belongs to and where it lies.

It stands beside a submission as `<name>.predictions.parquet`, one row per slice. So does all else that belongs to one.
"""

# N slices, L labels

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from rsna_e2e.core.errors import BadInputError
from rsna_e2e.core.files import atomic_writer
from rsna_e2e.core.records import Float64Array
from rsna_e2e.tasks.task import Task

# What stands beside a submission: its table, what it is the mean of, and which images it lacks
Derived = Literal["predictions.parquet", "bag.json", "epochs.json", "missing.csv"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionTable:
    """Predictions of N slices: ids, place in the series, and probability [N, L] of every label."""

    image_ids: list[str]
    series_keys: list[str]
    slice_index: npt.NDArray[np.int64]
    position_mm: Float64Array
    probability: Float64Array

    def __post_init__(self) -> None:
        assert self.probability.ndim == 2
        assert len({len(self.image_ids), len(self.series_keys), len(self.slice_index), len(self.position_mm)}) == 1
        assert len(self.image_ids) == len(self.probability)


def beside(submission: Path, what: Derived) -> Path:
    """Return where a file stands that is derived together with `submission`: no two submissions share one."""
    return submission.with_name(f"{submission.name}.{what}")


def predictions_path(submission: Path) -> Path:
    """Return where the table of `submission` is written: `a.csv.gz` has `a.csv.gz.predictions.parquet`."""
    return beside(submission, "predictions.parquet")


def find_predictions(submission: Path) -> Path:
    """Return where the table of `submission` is, if there is one: `a.csv` and `a.csv.gz` once shared one."""
    own = predictions_path(submission)
    stem = submission.name.removesuffix(".gz").removesuffix(".csv")
    shared = submission.with_name(f"{stem}.predictions.parquet")
    return shared if shared.exists() and not own.exists() else own


def forget_notes(submission: Path) -> None:
    """Remove what stands beside a submission but for its table: it was of one that had this name before."""
    for what in get_args(Derived):
        if what != "predictions.parquet":
            beside(submission, what).unlink(missing_ok=True)


def write_predictions(path: Path, task: Task, table: PredictionTable) -> None:
    """Write `table`; the file appears whole or not at all. Raises what `read_predictions` raises of what it holds."""
    _check(path, task, table)
    columns = {
        "image_id": pa.array(table.image_ids, pa.string()),
        "series_key": pa.array(table.series_keys, pa.string()),
        "slice_index": pa.array(table.slice_index, pa.int64()),
        "position_mm": pa.array(table.position_mm, pa.float64()),
    }
    for label, name in enumerate(task.label_names):
        columns[name] = pa.array(table.probability[:, label], pa.float64())
    with atomic_writer(path) as file:
        pq.write_table(pa.table(columns), file)


def read_predictions(path: Path, task: Task) -> PredictionTable:
    """Read the table of a submission of `task`.

    Raises BadInputError when the file is missing or no Parquet file, lacks a column, names an image twice, or holds a
    probability outside [0, 1] or a position that is not finite.
    """
    names = ["image_id", "series_key", "slice_index", "position_mm", *task.label_names]
    if path.exists() and not path.is_file():
        raise BadInputError(f"{path}: no file. Give the submission that predict wrote")
    try:
        stored = pq.read_table(path)
    except FileNotFoundError:
        raise BadInputError(f"{path}: no such predictions table. Check the path") from None
    except (pa.ArrowInvalid, OSError):
        raise BadInputError(f"{path}: not a readable Parquet file. Run predict again") from None
    missing = [name for name in names if name not in stored.column_names]
    if missing:
        raise BadInputError(f"{path}: no column {', '.join(missing)}. Run predict again for the task {task.name}")
    table = PredictionTable(
        image_ids=stored["image_id"].to_pylist(),
        series_keys=stored["series_key"].to_pylist(),
        slice_index=stored["slice_index"].to_numpy().astype(np.int64),
        position_mm=stored["position_mm"].to_numpy().astype(np.float64),
        probability=np.stack([stored[name].to_numpy() for name in task.label_names], axis=1).astype(np.float64),
    )
    _check(path, task, table)
    return table


def _check(path: Path, task: Task, table: PredictionTable) -> None:
    is_bad_NL = ~((table.probability >= 0) & (table.probability <= 1))
    if is_bad_NL.any():
        row, label = (int(index) for index in np.argwhere(is_bad_NL)[0])
        raise BadInputError(
            f"{path}: the {task.label_names[label]} probability of {table.image_ids[row]} is "
            f"{table.probability[row, label]}. Expected a number in [0, 1]; run predict again"
        )
    if not np.isfinite(table.position_mm).all():
        row = int(np.argmin(np.isfinite(table.position_mm)))
        raise BadInputError(f"{path}: position_mm of {table.image_ids[row]} is not finite. Run predict again")
    if len(set(table.image_ids)) < len(table.image_ids):
        n_more = len(table.image_ids) - len(set(table.image_ids))
        raise BadInputError(f"{path}: {n_more} rows repeat an image_id. Run predict again")
