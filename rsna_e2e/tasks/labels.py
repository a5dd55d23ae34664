"""Label files in the competition's long form: columns `ID,Label`, one row per image and label.

Truth files and submissions share this form; in a submission `Label` is a probability.
"""

# N images, L labels, R rows of the file

import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from rsna_e2e.core.errors import BadInputError, UsageError
from rsna_e2e.core.files import atomic_writer, csv_blocks, prepare_file
from rsna_e2e.core.records import Float64Array, Rows, printable
from rsna_e2e.core.table_files import TableFile, table_at
from rsna_e2e.tasks.task import Task

COLUMNS = ("ID", "Label")
_WHOLE = {0.0: "0", 1.0: "1"}

_Strings = Any  # pyarrow.StringArray; pyarrow carries no types


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelTable:
    """Labels of N images: image_ids sorted, values [N, L] in [0, 1] with NaN where the file has no row."""

    image_ids: list[str]
    values: Float64Array
    n_repeated_rows: int

    def __post_init__(self) -> None:
        assert self.values.ndim == 2
        assert len(self.image_ids) == len(self.values)


def read_labels(path: Path | TableFile, task: Task) -> LabelTable:
    """Read a label file of `task`, packed or not; a byte order mark, CRLF and further columns do no harm.

    Image ids are escaped as those of files are (`printable`). Repeated rows must agree and are counted. Raises
    BadInputError naming file and line when a column is missing or there twice, a label name is unknown, a Label is no
    number in [0, 1], or two rows of one ID differ.
    """
    file = path if isinstance(path, TableFile) else table_at(path)
    row_ids, row_texts = _read_columns(file)
    values_R = _parse_values(file, row_ids, row_texts)
    row_R, label_R, stems = _split_ids(file, row_ids, task)
    images = stems.dictionary_encode()
    if not all(map(str.isprintable, images.dictionary.to_pylist())):
        images = _escaped(images.dictionary).take(images.indices).dictionary_encode()
    order = pc.sort_indices(images.dictionary).to_numpy()
    cell_R = np.argsort(order)[images.indices.to_numpy()] * len(task.label_names) + label_R
    cells = np.full(len(order) * len(task.label_names), np.nan)
    cells[cell_R] = values_R[row_R]
    differs_R = cells[cell_R] != values_R[row_R]
    if differs_R.any():
        _fail_on_conflict(file, row_ids, int(row_R[np.argmax(differs_R)]))
    return LabelTable(
        image_ids=images.dictionary.take(pa.array(order)).to_pylist(),
        values=cells.reshape(len(order), len(task.label_names)),
        n_repeated_rows=len(cell_R) - int(np.count_nonzero(~np.isnan(cells))),
    )


def read_ids(file: TableFile) -> list[str]:
    """Read the column ID alone, whatever else a table holds. Raises BadInputError when it has none."""
    row_ids, _ = _read_columns(file)
    return [printable(row_id) for row_id in row_ids.to_pylist()]


def has_label_columns(file: TableFile) -> bool:
    """Whether a table's first line names the columns of a label file. Raises OSError when it cannot be read."""
    return set(COLUMNS) <= {word.strip() for word in file.header()}


def is_label_file(file: TableFile) -> bool:
    """Whether a table has the columns of a label file; False also for one that is no table.

    Raises BadInputError for one that its archive does not give out.
    """
    try:
        return has_label_columns(file)
    except OSError:
        return False


def prepare_submission(path: Path, *, example: str) -> None:
    """Make the folder of a submission that is to be written, which takes the place of no other file than one.

    Raises what `prepare_file` raises, and UsageError where there is another file.
    """
    prepare_file(path, example=example)
    if path.is_file() and path.stat().st_size and not is_label_file(table_at(path)):
        raise UsageError(f"{path}: is there and no submission, and would be lost. Choose another name")


def write_labels(
    path: Path, task: Task, image_ids: Sequence[str], values: npt.ArrayLike, *, decimals: int | None = None
) -> None:
    """Write `values` [N, L] in [0, 1] as a label file, the rows of an image in task order, images in the order given.

    `decimals` is the number of digits after the point; None writes the shortest text that reads back as the same
    number. A name that ends in `.gz` is compressed. Equal input gives equal bytes; a file appears whole or never.
    """
    values_NL = np.asarray(values, dtype=np.float64)
    assert values_NL.shape == (len(image_ids), len(task.label_names))
    assert all(image_ids), "an image id is not empty"
    assert bool(((values_NL >= 0) & (values_NL <= 1)).all()), "labels and probabilities lie in [0, 1]"
    suffixes = [task.label_id("", name) for name in task.label_names]
    ids = (image_id + suffix for image_id in image_ids for suffix in suffixes)
    values = values_NL.ravel().tolist()
    if decimals is None:
        texts = (_WHOLE.get(value) or repr(value) for value in values)
    else:
        texts = (f"{value:.{decimals}f}" for value in values)
    blocks = csv_blocks(chain([COLUMNS], zip(ids, texts, strict=True)))
    with atomic_writer(path) as file:
        if path.suffix == ".gz":
            with gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as packed:
                packed.writelines(blocks)
        else:
            file.writelines(blocks)


def _read_columns(file: TableFile) -> tuple[_Strings, _Strings]:
    """Return the ID and Label columns as text."""
    convert = pa.csv.ConvertOptions(include_columns=COLUMNS, column_types=dict.fromkeys(COLUMNS, pa.string()))
    parse = pa.csv.ParseOptions(newlines_in_values=True)
    advice = f"Expected the header {','.join(COLUMNS)} and one row per image and label"
    try:
        twice = [name for name in COLUMNS if file.header().count(name) > 1]
        with file.open() as stream:
            table = pa.csv.read_csv(stream, convert_options=convert, parse_options=parse)
    except FileNotFoundError:
        raise BadInputError(f"{file}: no such label file. Check the path") from None
    except KeyError as error:
        raise BadInputError(f"{file}, line 1: a column is missing: {_one_line(error)}. {advice}") from None
    except (pa.ArrowInvalid, OSError) as error:
        raise BadInputError(f"{file}: not a readable CSV file: {_one_line(error)}. {advice}") from None
    if twice:
        raise BadInputError(f"{file}, line 1: several columns are called {twice[0]}. Keep the right one")
    if table.num_rows == 0:
        raise BadInputError(f"{file}: no rows after the header. {advice}")
    return table["ID"].combine_chunks(), table["Label"].combine_chunks()


def _escaped(row_ids: _Strings) -> _Strings:
    return pa.array([printable(row_id) for row_id in row_ids.to_pylist()], pa.string())


def _split_ids(file: TableFile, row_ids: _Strings, task: Task) -> tuple[Rows, Rows, _Strings]:
    """Split each `<image_id>_<label>`; return rows grouped by label, and for each of them the label and the image id.

    A label name may end like another one, so longer names are tried first.
    """
    is_open_R = np.ones(len(row_ids), dtype=bool)
    rows, labels, stems = [], [], []
    for label in sorted(range(len(task.label_names)), key=lambda index: -len(task.label_names[index])):
        suffix = task.label_id("", task.label_names[label])
        fits = pc.and_(pc.ends_with(row_ids, suffix), pc.not_equal(row_ids, suffix))
        fits_R = fits.to_numpy(zero_copy_only=False) & is_open_R
        is_open_R &= ~fits_R
        rows.append(np.flatnonzero(fits_R))
        labels.append(np.full(len(rows[-1]), label, dtype=np.int64))
        stems.append(pc.utf8_slice_codeunits(row_ids.filter(pa.array(fits_R)), 0, -len(suffix)))
    if is_open_R.any():
        row = int(np.argmax(is_open_R))
        raise BadInputError(
            f"{file}, line {file.line_of(row)}: ID {row_ids[row].as_py()!r} does not end in a known label. "
            f"Expected <image>_<label> with a label of: {', '.join(task.label_names)}"
        )
    return np.concatenate(rows), np.concatenate(labels), pa.concat_arrays(stems)


def _parse_values(file: TableFile, row_ids: _Strings, row_texts: _Strings) -> Float64Array:
    try:
        values_R: Float64Array = pc.cast(row_texts, pa.float64()).to_numpy()
    except pa.ArrowInvalid:
        row = _first_without_number(row_texts)
    else:
        is_bad_R = ~((values_R >= 0) & (values_R <= 1))
        if not is_bad_R.any():
            return values_R
        row = int(np.argmax(is_bad_R))
    raise BadInputError(
        f"{file}, line {file.line_of(row)}: Label of {printable(row_ids[row].as_py())} is {row_texts[row].as_py()!r}. "
        "Expected a number in [0, 1]"
    )


def _first_without_number(texts: _Strings) -> int:
    """Bisect for the first text that is no number: each half is cast as a whole."""
    low, high = 0, len(texts)
    while high - low > 1:
        middle = (low + high) // 2
        try:
            pc.cast(texts[low:middle], pa.float64())
        except pa.ArrowInvalid:
            high = middle
        else:
            low = middle
    return low


def _fail_on_conflict(file: TableFile, row_ids: _Strings, row: int) -> NoReturn:
    row_ids = _escaped(row_ids)
    same = np.flatnonzero(pc.equal(row_ids, row_ids[row]).to_numpy(zero_copy_only=False))
    lines = ", ".join(str(file.line_of(int(other))) for other in same)
    raise BadInputError(
        f"{file}: rows of ID {row_ids[row].as_py()} differ (lines {lines}). Keep the right one and remove the others"
    )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
