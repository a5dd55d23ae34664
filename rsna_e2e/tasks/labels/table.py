"""Labels of images and studies, and how cells of a label file become such a table."""

# N images, L labels, Q notes of images, E studies, M labels and K notes of studies, C cells of the file

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rsna_e2e.core.errors import BadInputError
from rsna_e2e.core.records import Float64Array, Rows, printable
from rsna_e2e.tasks.boxes import NO_BOXES, ImageBoxes
from rsna_e2e.tasks.labels.layout import Layout

Strings = Any  # pyarrow.StringArray; pyarrow carries no types


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelTable:
    """Labels of N images: image_ids sorted, values [N, L] in [0, 1] with NaN where the file says nothing, notes [N, Q].

    lines [N]: of the first row of each image, not of joined tables. places [N]: of the images in the order in which the
    file first names them, from 0. study_ids: sorted StudyInstanceUIDs of a task whose series have labels of their own,
    study_values [E, M] and study_notes [E, K]. columns: of a wide table, the column that is read as `ID` and as each
    label; unused: its others. boxes: of images by their row here; box_lines [B]: of each.
    """

    image_ids: list[str]
    values: Float64Array
    n_repeated_rows: int
    places: Rows = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    notes: Float64Array = field(default_factory=lambda: np.empty((0, 0)))
    study_ids: list[str] = field(default_factory=list)
    study_values: Float64Array = field(default_factory=lambda: np.empty((0, 0)))
    study_notes: Float64Array = field(default_factory=lambda: np.empty((0, 0)))
    columns: Mapping[str, str] = field(default_factory=dict)
    unused: tuple[str, ...] = ()
    boxes: ImageBoxes = NO_BOXES
    lines: "Lines | None" = None
    box_lines: "Lines | None" = None

    def __post_init__(self) -> None:
        assert self.values.ndim == 2
        assert len(self.image_ids) == len(self.values)
        assert len(self.study_ids) == len(self.study_values)

    @property
    def file(self) -> str:
        """The file that it is from."""
        return str(self.lines.layout.file) if self.lines else ""

    def line_of(self, image_id: str) -> str:
        """Return the file, and the line in it that first names an image."""
        return self.lines.place(self.image_ids.index(image_id)) if self.lines else ""

    def taken(self, rows: Sequence[int], image_ids: list[str]) -> "LabelTable":
        """Return the table with these rows of images alone, under other ids."""
        notes = self.notes[rows] if len(self.notes) else self.notes
        places = self.places[rows] if len(self.places) else self.places
        wanted = np.asarray(rows, dtype=np.int64)
        boxes, box_rows = self.boxes.of_images(wanted)
        return replace(
            self,
            image_ids=image_ids,
            values=self.values[rows],
            places=places,
            notes=notes,
            lines=self.lines and self.lines.at(wanted),
            boxes=boxes,
            box_lines=self.box_lines and self.box_lines.at(box_rows),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Lines:
    """Where things are said in a file: the data rows of it that say them."""

    layout: Layout
    rows: Rows

    def at(self, wanted: Rows) -> "Lines":
        """Return where some of them are said."""
        return Lines(layout=self.layout, rows=self.rows[wanted])

    def place(self, number: int) -> str:
        """Return the file and line of one of them."""
        return f"{self.layout.file}, line {self.layout.line_of(int(self.rows[number]))}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cells:
    """What a label file says [K] of the images, or of the studies: each with its row in the file, its image or study,
    its label and its value.

    row_name: how a message calls what the file says of an image, or study, and a label.
    """

    layout: Layout
    rows: Rows
    images: Strings
    labels: Rows
    values: Float64Array
    row_name: Callable[[str, str], str]

    def joined(self, names: Sequence[str]) -> tuple[list[str], Float64Array, Rows]:
        """Return the images, sorted, their labels [N, L] of these names, and the first row of each in the file.

        Raises BadInputError where two cells differ.
        """
        image_ids, image_K = numbered(self.images)
        cell_K = image_K * len(names) + self.labels
        cells = np.full(len(image_ids) * len(names), np.nan)
        cells[cell_K] = self.values
        differs_K = cells[cell_K] != self.values
        if differs_K.any():
            cell = int(cell_K[np.argmax(differs_K)])
            image, label = divmod(cell, len(names))
            lines = [self.layout.line_of(int(row)) for row in np.sort(self.rows[cell_K == cell])]
            raise BadInputError(
                f"{self.layout.file}: rows of ID {self.row_name(image_ids[image], names[label])} differ "
                f"(lines {', '.join(map(str, lines))}). Keep the right one and remove the others"
            )
        first_N = np.full(len(image_ids), np.iinfo(np.int64).max)
        np.minimum.at(first_N, image_K, self.rows)
        return image_ids, cells.reshape(len(image_ids), len(names)), first_N


def places_of(rows_N: Rows) -> Rows:
    """Return the place of images in the order of their first rows in the file, from 0."""
    return np.asarray(rows_N.argsort().argsort())


def numbered(texts: Strings) -> tuple[list[str], Rows]:
    """Return the distinct texts, sorted, as image ids are written: without characters that no terminal can show; and
    the number of each text among these."""
    encoded = texts.dictionary_encode()
    if not all(map(str.isprintable, encoded.dictionary.to_pylist())):
        distinct = pa.array([printable(text) for text in encoded.dictionary.to_pylist()], pa.string())
        encoded = distinct.take(encoded.indices).dictionary_encode()
    order = pc.sort_indices(encoded.dictionary).to_numpy()
    return encoded.dictionary.take(pa.array(order)).to_pylist(), np.argsort(order)[encoded.indices.to_numpy()]
