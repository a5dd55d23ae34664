"""Labels of images, and how cells of a label file become such a table."""

# N images, L labels, K cells of the file

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rsna_e2e.core.errors import BadInputError
from rsna_e2e.core.records import Float64Array, Rows, printable
from rsna_e2e.tasks.labels.layout import Layout
from rsna_e2e.tasks.task import Task

Strings = Any  # pyarrow.StringArray; pyarrow carries no types


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelTable:
    """Labels of N images: image_ids sorted, values [N, L] in [0, 1] with NaN where the file says nothing.

    columns: of a wide table, the column that is read as `ID` and as each label; unused: its other columns.
    """

    image_ids: list[str]
    values: Float64Array
    n_repeated_rows: int
    columns: Mapping[str, str] = field(default_factory=dict)
    unused: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        assert self.values.ndim == 2
        assert len(self.image_ids) == len(self.values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cells:
    """What a label file says [K]: each with its row in the file, its image, its label and its value.

    row_name: how a message calls what the file says of an image and a label.
    """

    layout: Layout
    rows: Rows
    images: Strings
    labels: Rows
    values: Float64Array
    row_name: Callable[[str, str], str]

    def joined(self, task: Task) -> tuple[list[str], Float64Array]:
        """Return the images, sorted, and their labels [N, L]. Raises BadInputError where two cells differ."""
        images = self.images.dictionary_encode()
        if not all(map(str.isprintable, images.dictionary.to_pylist())):
            images = escaped(images.dictionary).take(images.indices).dictionary_encode()
        order = pc.sort_indices(images.dictionary).to_numpy()
        cell_K = np.argsort(order)[images.indices.to_numpy()] * len(task.slices.names) + self.labels
        cells = np.full(len(order) * len(task.slices.names), np.nan)
        cells[cell_K] = self.values
        differs_K = cells[cell_K] != self.values
        image_ids = images.dictionary.take(pa.array(order)).to_pylist()
        if differs_K.any():
            cell = int(cell_K[np.argmax(differs_K)])
            image, label = divmod(cell, len(task.slices.names))
            lines = [self.layout.line_of(int(row)) for row in np.sort(self.rows[cell_K == cell])]
            raise BadInputError(
                f"{self.layout.file}: rows of ID {self.row_name(image_ids[image], task.slices.names[label])} differ "
                f"(lines {', '.join(map(str, lines))}). Keep the right one and remove the others"
            )
        return image_ids, cells.reshape(len(order), len(task.slices.names))


def escaped(texts: Strings) -> Strings:
    """Return texts without characters that no terminal can show, as image ids are."""
    return pa.array([printable(text) for text in texts.to_pylist()], pa.string())
