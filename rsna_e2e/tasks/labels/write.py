"""Writes label files in the long form, submissions among them."""

# N images, L labels, E studies, M labels of studies

import gzip
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, compress
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rsna_e2e.core.files import atomic_writer, csv_blocks
from rsna_e2e.core.records import Float64Array
from rsna_e2e.tasks.task import Task

_WHOLE = {0.0: "0", 1.0: "1"}

Rows = Iterator[tuple[str, float]]


def write_labels(
    path: Path,
    task: Task,
    image_ids: Sequence[str],
    values: npt.ArrayLike,
    *,
    study_ids: Sequence[str] = (),
    study_values: Float64Array | None = None,
    decimals: int | None = None,
) -> None:
    """Write `values` [N, L] in [0, 1] as a label file, the rows of an image in task order, images in the order given.

    study_ids, study_values [E, M]: the same of studies, whose rows come first. NaN has no row. `decimals` is the number
    of digits after the point; None writes the shortest text that reads back as the same number, so that it is on the
    same side of 0.5. A name that ends in `.gz` is compressed. Equal input gives equal bytes; a file appears whole or
    never.
    """
    spelled = [task.label_id("", name) for name in task.slices.names]
    ids = (image_id + suffix for image_id in image_ids for suffix in spelled)
    rows = _rows(ids, values, (len(image_ids), len(task.slices)))
    assert all(image_ids), "an image id is not empty"
    if study_values is not None:
        names = task.series.names
        ids_of_studies = (task.study_label_id(study_id, name) for study_id in study_ids for name in names)
        rows = chain(_rows(ids_of_studies, study_values, (len(study_ids), len(names))), rows)
    if decimals is None:
        texts = ((row_id, _WHOLE.get(value) or repr(value)) for row_id, value in rows)
    else:
        texts = ((row_id, f"{value:.{decimals}f}") for row_id, value in rows)
    write_csv(path, task.csv.columns, texts)


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write rows of texts, packed where the name ends in `.gz`; the file appears whole or never."""
    blocks = csv_blocks(chain([header], rows))
    with atomic_writer(path) as file:
        if path.suffix == ".gz":
            with gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as packed:
                packed.writelines(blocks)
        else:
            file.writelines(blocks)


def _rows(ids: Iterator[str], values: npt.ArrayLike, shape: tuple[int, int]) -> Rows:
    """Return the rows of what is known."""
    values_2d = np.asarray(values, dtype=np.float64)
    is_known = ~np.isnan(values_2d)
    assert values_2d.shape == shape
    assert bool(((values_2d >= 0) & (values_2d <= 1) | ~is_known).all()), "labels and probabilities lie in [0, 1]"
    return compress(zip(ids, values_2d.ravel().tolist(), strict=True), is_known.ravel().tolist())
