"""Files beside a submission: its predictions table, its series table, and notes on how it was made.

The predictions table, `<name>.predictions.parquet`, has one row per slice, and what the submission leaves out: the
series of each slice, and where in it the slice lies. The series table, `<name>.series.parquet`, has one row per series:
the probabilities by the series head. Only models with such a head have one. Both name their task in their metadata.
"""

# N slices, S series, L labels of slices, M of series

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from rsna_e2e.core.errors import BadInputError
from rsna_e2e.core.files import atomic_writer
from rsna_e2e.core.records import Float64Array, printable
from rsna_e2e.store.layout import EDGES
from rsna_e2e.tasks.catalogue import TASKS, task_option
from rsna_e2e.tasks.labels import BoxTable
from rsna_e2e.tasks.task import Inputs, Task, task_sha256

# What stands beside a submission: its tables, what it is the mean of, how it was calibrated, which images it lacks,
# and their truth
Derived = Literal[
    "predictions.parquet",
    "series.parquet",
    "boxes.parquet",
    "bag.json",
    "epochs.json",
    "runs.json",
    "calibrated.json",
    "missing.csv",
    "truth.csv",
]

# Columns of both tables; those of labels come after them
_TYPES = {
    "image_id": pa.string(),
    "series_key": pa.string(),
    "slice_index": pa.int64(),
    "position_mm": pa.float64(),
    "n_slices": pa.int64(),
    "study_uid": pa.string(),
    **dict.fromkeys(EDGES, pa.float64()),
    "score": pa.float64(),
    "class": pa.int64(),
}

# In the metadata of both tables. Tables of earlier versions have neither
_SHA256, _TITLE = b"task_sha256", b"task_title"
_ANY_INPUTS = Inputs(windows_hu=((0.0, 1.0),), mean=(0.0,), std=(1.0,))


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


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesTable:
    """Predictions of S series by a series head: key and number of slices of each, and probability [S, M] by label.

    study_uids: of tasks whose submissions have rows of studies; else empty.
    """

    series_keys: list[str]
    n_slices: npt.NDArray[np.int64]
    probability: Float64Array
    study_uids: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        assert self.probability.ndim == 2
        assert len(self.study_uids) in (0, len(self.series_keys))
        assert len(self.series_keys) == len(self.n_slices) == len(self.probability)


def beside(submission: Path, what: Derived) -> Path:
    """Return where a file stands that is derived together with `submission`: no two submissions share one."""
    return submission.with_name(f"{submission.name}.{what}")


def without_notes(paths: Sequence[Path]) -> list[Path]:
    """Return the paths of submissions, without what stands beside one of them: `*.csv` names truth as well."""
    notes = {beside(path, what) for path in paths for what in get_args(Derived)}
    return [path for path in paths if path not in notes]


def predictions_path(submission: Path) -> Path:
    """Return where the table of `submission` is written: `a.csv.gz` has `a.csv.gz.predictions.parquet`."""
    return beside(submission, "predictions.parquet")


def find_predictions(submission: Path) -> Path:
    """Return where the table of `submission` is, if there is one: `a.csv` and `a.csv.gz` once shared one."""
    own = predictions_path(submission)
    stem = submission.name.removesuffix(".gz").removesuffix(".csv")
    shared = submission.with_name(f"{stem}.predictions.parquet")
    return shared if shared.exists() and not own.exists() else own


def series_path(submission: Path) -> Path:
    """Return where the series table of `submission` is written."""
    return beside(submission, "series.parquet")


def find_series(submission: Path) -> Path | None:
    """Return where the series table of `submission` is; None where it has none."""
    path = series_path(submission)
    return path if path.exists() else None


def forget_notes(submission: Path) -> None:
    """Remove what stands beside a submission but for its tables: it was of one that had this name before."""
    for what in get_args(Derived):
        if not what.endswith(".parquet"):
            beside(submission, what).unlink(missing_ok=True)


def write_predictions(path: Path, task: Task, table: PredictionTable) -> None:
    """Write `table`; the file appears whole or not at all. Raises what `read_predictions` raises of what it holds."""
    _check(path, task, table)
    columns = {
        "image_id": table.image_ids,
        "series_key": table.series_keys,
        "slice_index": table.slice_index,
        "position_mm": table.position_mm,
    }
    _write(path, task, task.slices.names, columns, table.probability)


def read_predictions(path: Path, task: Task) -> PredictionTable:
    """Read the table of a submission of `task`.

    Raises BadInputError when the file is missing or no Parquet file, lacks a column or a value, names an image twice,
    or holds a probability outside [0, 1] or a position that is not finite.
    """
    columns = ("image_id", "series_key", "slice_index", "position_mm")
    stored = _read(path, task, columns, task.slices.names, what="predictions table")
    table = PredictionTable(
        image_ids=stored["image_id"].to_pylist(),
        series_keys=stored["series_key"].to_pylist(),
        slice_index=stored["slice_index"].to_numpy().astype(np.int64),
        position_mm=stored["position_mm"].to_numpy().astype(np.float64),
        probability=_probability(stored, task.slices.names),
    )
    _check(path, task, table)
    return table


def write_series(path: Path, task: Task, table: SeriesTable) -> None:
    """Write `table`; the file appears whole or not at all. Raises what `read_series` raises of what it holds."""
    _check_series(path, task, table)
    columns: dict[str, Any] = {"series_key": table.series_keys, "n_slices": table.n_slices}
    if task.csv.series_id:
        columns["study_uid"] = table.study_uids
    _write(path, task, task.series_labels.names, columns, table.probability)


def read_series(path: Path, task: Task, predictions: PredictionTable) -> SeriesTable:
    """Read the series table of a submission of `task` whose predictions table is `predictions`.

    Raises BadInputError when the file is missing or no Parquet file, lacks a column or a value, names a series twice,
    holds a probability outside [0, 1], or other series or numbers of slices than the predictions table.
    """
    columns = ("series_key", "n_slices", *(["study_uid"] if task.csv.series_id else []))
    stored = _read(path, task, columns, task.series_labels.names, what="series table")
    table = SeriesTable(
        series_keys=stored["series_key"].to_pylist(),
        n_slices=stored["n_slices"].to_numpy().astype(np.int64),
        probability=_probability(stored, task.series_labels.names),
        study_uids=stored["study_uid"].to_pylist() if task.csv.series_id else [],
    )
    _check_series(path, task, table)
    counted = Counter(predictions.series_keys)
    if other := sorted(dict(zip(table.series_keys, table.n_slices.tolist(), strict=True)).items() ^ counted.items()):
        raise BadInputError(
            f"{path}: does not hold the series of the predictions table beside it with their numbers of slices; the "
            f"first that differs is {other[0][0]}. Run predict again"
        )
    return table


def write_box_table(path: Path, task: Task, table: BoxTable) -> None:
    """Write the boxes of `table`, one row each, edges in px of the source image; of images without, nothing."""
    boxes = table.boxes
    columns: dict[str, Any] = {"image_id": [table.image_ids[image] for image in boxes.images.tolist()]}
    columns |= dict(zip(EDGES, boxes.edges.T, strict=True)) | {"score": boxes.scores, "class": boxes.classes}
    _write(path, task, (), columns, np.empty((len(boxes), 0)))


def _write(
    path: Path, task: Task, labels: Sequence[str], columns: Mapping[str, Any], probability: Float64Array
) -> None:
    """Write columns, and one column of probabilities per label after them."""
    arrays = {name: pa.array(values, _TYPES[name]) for name, values in columns.items()}
    for label, name in enumerate(labels):
        arrays[name] = pa.array(probability[:, label], pa.float64())
    with atomic_writer(path) as file:
        pq.write_table(pa.table(arrays, metadata={_SHA256: _sha256(task), _TITLE: task.title}), file)


def _sha256(task: Task) -> str:
    """Return what tells tasks apart by what is predicted: predictions of models that see other windows are of one."""
    return task_sha256(replace(task, inputs=_ANY_INPUTS))


def _check_task(path: Path, metadata: Mapping[bytes, bytes], task: Task) -> None:
    sha256, title = (metadata.get(key, b"").decode(errors="replace") for key in (_SHA256, _TITLE))
    if sha256 not in ("", _sha256(task)):
        is_version = title == task.title
        others = "another version of the task" if is_version else "the task"
        name = next((one.name for one in TASKS.values() if one.title == title), "")
        raise BadInputError(
            f"{path}: holds predictions of {others} {printable(title)!r}, and {task.title!r} is asked for. Name its "
            f"task with {'--task' if is_version else task_option(name)}, or give a submission of this one"
        )


def _read(path: Path, task: Task, columns: Sequence[str], labels: Sequence[str], *, what: str) -> Any:
    """Return a Parquet file's columns, and those of labels, in their types and without missing values."""
    names = [*columns, *labels]
    if path.exists() and not path.is_file():
        raise BadInputError(f"{path}: no file. Give the submission that predict wrote")
    try:
        stored = pq.read_table(path)
    except FileNotFoundError:
        raise BadInputError(f"{path}: no such {what}. Check the path") from None
    except (pa.ArrowException, OSError):
        raise BadInputError(f"{path}: not a readable Parquet file. Run predict again") from None
    _check_task(path, stored.schema.metadata or {}, task)
    missing = [name for name in names if name not in stored.column_names]
    if missing:
        raise BadInputError(f"{path}: no column {', '.join(missing)}. Run predict again for the task {task.name}")
    schema = pa.schema([(name, _TYPES.get(name, pa.float64())) for name in names])
    try:
        stored = stored.select(names).cast(schema)
    except pa.ArrowException as error:
        reason = str(error).splitlines()[0]
        raise BadInputError(f"{path}: a column is of another type than predict writes ({reason})") from None
    for name in names:
        if n := stored[name].null_count:
            raise BadInputError(f"{path}: {name} lacks {n} of its values. Run predict again")
    return stored


def _probability(stored: Any, labels: Sequence[str]) -> Float64Array:
    return np.stack([stored[name].to_numpy() for name in labels], axis=1).astype(np.float64)


def _check(path: Path, task: Task, table: PredictionTable) -> None:
    _check_probability(path, task.slices.names, table.image_ids, table.probability)
    if not np.isfinite(table.position_mm).all():
        row = int(np.argmin(np.isfinite(table.position_mm)))
        raise BadInputError(f"{path}: position_mm of {table.image_ids[row]} is not finite. Run predict again")
    _check_distinct(path, "an image_id", table.image_ids)


def _check_series(path: Path, task: Task, table: SeriesTable) -> None:
    _check_probability(path, task.series_labels.names, table.series_keys, table.probability)
    _check_distinct(path, "a series_key", table.series_keys)


def _check_probability(path: Path, labels: Sequence[str], names: Sequence[str], probability: Float64Array) -> None:
    """Raise BadInputError unless all lie in [0, 1]. names: of the rows."""
    is_bad = ~((probability >= 0) & (probability <= 1))
    if is_bad.any():
        row, label = (int(index) for index in np.argwhere(is_bad)[0])
        raise BadInputError(
            f"{path}: the {labels[label]} probability of {names[row]} is {probability[row, label]}. "
            "Expected a number in [0, 1]; run predict again"
        )


def _check_distinct(path: Path, what: str, names: Sequence[str]) -> None:
    if n_more := len(names) - len(set(names)):
        raise BadInputError(f"{path}: {n_more} rows repeat {what}. Run predict again")
