"""Reads a label file, whatever its layout."""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.csv

from rsna_e2e.core.errors import BadInputError
from rsna_e2e.core.records import printable
from rsna_e2e.core.table_files import TableFile, table_at
from rsna_e2e.tasks.labels.box_submissions import BoxTable, read_predictions, refuse_predictions
from rsna_e2e.tasks.labels.boxes import read_boxes, read_classes
from rsna_e2e.tasks.labels.joined import joined
from rsna_e2e.tasks.labels.layout import LONG_COLUMNS, Layout, find_layout, plain_name
from rsna_e2e.tasks.labels.long import read_long
from rsna_e2e.tasks.labels.table import LabelTable, Strings
from rsna_e2e.tasks.labels.wide import read_wide
from rsna_e2e.tasks.task import Task

PATIENT = "patientid"  # as `plain_name` spells the column
_READERS = {
    "long": read_long,
    "wide": read_wide,
    "boxes": read_boxes,
    "classes": read_classes,
    "predictions": refuse_predictions,
}


def read_labels(path: Path | TableFile, task: Task) -> LabelTable:
    """Read a label file of `task`, packed or not; a byte order mark, CRLF and further columns do no harm.

    Its columns are separated by commas, semicolons or tabs. Image ids are escaped as those of files are (`printable`).
    Repeated rows must agree and are counted. `TableFile.also` is joined to it. Raises BadInputError naming file and
    line when a column is missing or there twice, a label name is unknown, a label or box is none, two rows of one ID
    differ, or the file is not UTF-8.
    """
    file = path if isinstance(path, TableFile) else table_at(path)
    layout, texts = _read(file, task)
    table = _READERS[layout.form](layout, texts, task)
    return joined(table, read_labels(file.also, task), task) if file.also else table


def read_box_submission(path: Path | TableFile, task: Task) -> BoxTable:
    """Read a submission of boxes of `task`. Raises BadInputError, naming the line, for what is none."""
    file = path if isinstance(path, TableFile) else table_at(path)
    layout, texts = _read(file, task)
    if layout.form != "predictions":
        raise BadInputError(f"{file}: no submission of boxes, which has the columns {_spelled(task)}")
    return read_predictions(layout, texts)


def is_box_submission(file: TableFile, task: Task) -> bool:
    """Whether a table has the columns of a submission of boxes of `task`; False for one that cannot be read."""
    try:
        return find_layout(file, task).form == "predictions"
    except (BadInputError, OSError):
        return False


def _spelled(task: Task) -> str:
    columns = task.csv.box_columns
    return f"{columns.image},{columns.prediction}" if columns else "of no submission, for its task has no boxes"


def read_image_ids(file: TableFile, task: Task) -> list[str]:
    """Read the images that a label file seems to name, whatever its labels are. Raises BadInputError without IDs."""
    layout, texts = _read(file, task)
    row_ids = map(printable, texts["ID"].to_pylist() if "ID" in texts else [])
    return [row_id.rpartition("_")[0] for row_id in row_ids] if layout.form == "long" else list(row_ids)


def read_patients(file: TableFile, task: Task) -> dict[str, str]:
    """Read which patient each image is of, where a label file with rows of images has a column `PATIENT`, in whatever
    spelling, beside that of its IDs; nothing of others. Images whose cell is empty are left out.

    Raises BadInputError where rows of one image name different patients.
    """
    layout, texts = _read(file, task, further=_patient_columns)
    if not (column := _patient_columns(layout)):
        return {}
    patient_of: dict[str, str] = {}
    for image_id, patient in zip(texts["ID"].to_pylist(), texts[column[0]].to_pylist(), strict=True):
        if patient and patient_of.setdefault(printable(image_id), patient) != patient:
            raise BadInputError(
                f"{file}: rows of image {printable(image_id)} name different patients ({column[0]}). Keep the right one"
            )
    return patient_of


def _patient_columns(layout: Layout) -> list[str]:
    """Return the column of patients, if there is one beside that of images."""
    if "ID" not in layout.columns or LONG_COLUMNS[1] in layout.columns:
        return []
    return [word for word in layout.header if plain_name(word) == PATIENT and word not in layout.columns.values()][:1]


def _no_columns(layout: Layout) -> list[str]:
    return []


def _read(
    file: TableFile, task: Task, *, further: Callable[[Layout], list[str]] = _no_columns
) -> tuple[Layout, dict[str, Strings]]:
    """Return the layout of a label file, and the columns that it names as text, by what they hold; `further` ones by
    their own names."""
    expected = f"Expected the header {','.join(task.csv.columns)} and one row per image and label, or a wide table"
    try:
        file.check_utf8()
        layout = find_layout(file, task)
        names = [*layout.columns.values(), *further(layout)]
        convert = pa.csv.ConvertOptions(include_columns=names, column_types=dict.fromkeys(names, pa.string()))
        parse = pa.csv.ParseOptions(newlines_in_values=True, delimiter=layout.delimiter)
        # In this thread: one of Arrow's own may let go of the stream while the interpreter ends, and aborts the process
        here = pa.csv.ReadOptions(use_threads=False)
        with file.open() as stream:
            table = pa.csv.read_csv(stream, read_options=here, convert_options=convert, parse_options=parse)
    except FileNotFoundError:
        raise BadInputError(f"{file}: no such label file. Check the path") from None
    except (pa.ArrowInvalid, OSError, KeyError) as error:
        raise BadInputError(
            f"{file}: not a readable CSV file: {' '.join(str(error).split())}. {expected}: see docs/labels.md"
        ) from None
    if table.num_rows == 0:
        raise BadInputError(f"{file}: no rows after the header. {expected}: see docs/labels.md")
    targets = {**layout.columns, **{name: name for name in further(layout)}}
    return layout, {target: table[column].combine_chunks() for target, column in targets.items()}
