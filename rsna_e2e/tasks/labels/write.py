"""Writes label files in the long form, submissions among them."""

# N images, L labels

import gzip
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rsna_e2e.core.files import atomic_writer, csv_blocks
from rsna_e2e.tasks.labels.layout import LONG_COLUMNS
from rsna_e2e.tasks.task import Task

_WHOLE = {0.0: "0", 1.0: "1"}


def write_labels(
    path: Path, task: Task, image_ids: Sequence[str], values: npt.ArrayLike, *, decimals: int | None = None
) -> None:
    """Write `values` [N, L] in [0, 1] as a label file, the rows of an image in task order, images in the order given.

    `decimals` is the number of digits after the point; None writes the shortest text that reads back as the same
    number. A name that ends in `.gz` is compressed. Equal input gives equal bytes; a file appears whole or never.
    """
    values_NL = np.asarray(values, dtype=np.float64)
    assert values_NL.shape == (len(image_ids), len(task.slices.names))
    assert all(image_ids), "an image id is not empty"
    assert bool(((values_NL >= 0) & (values_NL <= 1)).all()), "labels and probabilities lie in [0, 1]"
    suffixes = [task.label_id("", name) for name in task.slices.names]
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
