"""Writes label files in the long form, submissions among them."""

# N images, L labels

import gzip
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rsna_e2e.core.errors import UsageError
from rsna_e2e.core.files import atomic_writer, csv_blocks, prepare_file
from rsna_e2e.core.table_files import TableFile, table_at
from rsna_e2e.tasks.labels.layout import LONG_COLUMNS
from rsna_e2e.tasks.task import Task

_WHOLE = {0.0: "0", 1.0: "1"}


def prepare_submission(path: Path, *, example: str) -> None:
    """Make the folder of a submission that is to be written, which takes the place of no other file than one.

    Raises what `prepare_file` raises, and UsageError where there is another file.
    """
    prepare_file(path, example=example)
    if path.is_file() and path.stat().st_size and not _is_submission(table_at(path)):
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
    blocks = csv_blocks(chain([LONG_COLUMNS], zip(ids, texts, strict=True)))
    with atomic_writer(path) as file:
        if path.suffix == ".gz":
            with gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as packed:
                packed.writelines(blocks)
        else:
            file.writelines(blocks)


def _is_submission(file: TableFile) -> bool:
    try:
        return set(LONG_COLUMNS) <= {word.strip() for word in file.header()}
    except OSError:
        return False
