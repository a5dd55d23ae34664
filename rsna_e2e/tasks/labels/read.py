"""Reads a label file, whatever its layout."""

from pathlib import Path

import pyarrow as pa
import pyarrow.csv

from rsna_e2e.core.errors import BadInputError
from rsna_e2e.core.records import printable
from rsna_e2e.core.table_files import TableFile, table_at
from rsna_e2e.tasks.labels.layout import Layout, find_layout
from rsna_e2e.tasks.labels.long import read_long
from rsna_e2e.tasks.labels.table import LabelTable, Strings
from rsna_e2e.tasks.labels.wide import read_wide
from rsna_e2e.tasks.task import Task


def read_labels(path: Path | TableFile, task: Task) -> LabelTable:
    """Read a label file of `task`, packed or not; a byte order mark, CRLF and further columns do no harm.

    Its columns are separated by commas, semicolons or tabs. Image ids are escaped as those of files are (`printable`).
    Repeated rows must agree and are counted. Raises BadInputError naming file and line when a column is missing or
    there twice, a label name is unknown, a label is none, two rows of one ID differ, or the file is not UTF-8.
    """
    file = path if isinstance(path, TableFile) else table_at(path)
    layout, texts = _read(file, task)
    return read_long(layout, texts, task) if layout.is_long else read_wide(layout, texts, task)


def read_image_ids(file: TableFile, task: Task) -> list[str]:
    """Read the images that a label file seems to name, whatever its labels are. Raises BadInputError without IDs."""
    layout, texts = _read(file, task)
    row_ids = map(printable, texts["ID"].to_pylist() if "ID" in texts else [])
    return [row_id.rpartition("_")[0] for row_id in row_ids] if layout.is_long else list(row_ids)


def _read(file: TableFile, task: Task) -> tuple[Layout, dict[str, Strings]]:
    """Return the layout of a label file, and the columns that it names as text, by what they hold."""
    expected = f"Expected the header {','.join(task.csv.columns)} and one row per image and label, or a wide table"
    try:
        file.check_utf8()
        layout = find_layout(file, task)
        names = list(layout.columns.values())
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
    return layout, {target: table[column].combine_chunks() for target, column in layout.columns.items()}
