"""Labels by folders: the folder that a file lies in is called like what its image shows."""

# N files, L labels

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rsna_e2e.core.errors import BadInputError
from rsna_e2e.core.records import Float64Array, RawFile, printable, some
from rsna_e2e.dicom.image_ids import image_id_of, unique_image_ids
from rsna_e2e.store.prepare.find_labels import LabelFile
from rsna_e2e.store.prepare.match_labels import TableIds
from rsna_e2e.tasks.labels import LabelTable
from rsna_e2e.tasks.labels.layout import NONE, plain_name
from rsna_e2e.tasks.task import Task

_OTHERS = ("no", "non", "not")  # before a label: of a task with no other label


def labels_of_folders(raw: Path, files: Sequence[RawFile], task: Task) -> LabelFile:
    """Return the labels of files by the names of their folders; files at the top have none.

    A folder called like a label means that this label is 1 and all others 0, but for the one that is the or of the
    others; one of `NONE` means that all are 0. Case and punctuation make no difference. Raises BadInputError for a
    folder that is called otherwise, and where no file lies in a folder.
    """
    inside = [(file.name, file.name.split("/")[-2]) for file in files if "/" in file.name]
    if not inside:
        raise BadInputError(f"{raw}: no file lies in a folder, so none has a label. Leave out --labels folders")
    values_of = {folder: _values(folder, task) for folder in dict.fromkeys(folder for _, folder in inside)}
    if unknown := [folder for folder, values in values_of.items() if values is None]:
        raise BadInputError(
            f"{raw}: folders that are called like no label: {some(unknown, most=5)}. The task {task.name} has "
            f"{', '.join(task.slices.names)}, or {NONE[0]!r} where none of them holds. Rename or move them"
        )
    names = [file.name for file in files]
    id_of = dict(zip(names, unique_image_ids(list(map(image_id_of, names)), names), strict=True))
    rows = sorted((id_of[name], place) for place, (name, _) in enumerate(inside))
    places = np.array([place for _, place in rows], dtype=np.int64)
    image_ids = [image_id for image_id, _ in rows]
    values = np.array([values_of[inside[place][1]] for place in places.tolist()], dtype=np.float64)
    table = LabelTable(image_ids=image_ids, values=values, n_repeated_rows=0, places=places)
    return LabelFile(ids=TableIds(file=f"folders of {printable(str(raw))}", image_ids=image_ids), table=table)


def _values(folder: str, task: Task) -> Float64Array | None:
    """Return the labels [L] that a folder's name means, None where it means none."""
    names = {plain_name(name): i for i, name in enumerate(task.slices.names)}
    values = np.zeros(len(names))
    found = names.get(plain_name(folder))
    if found is not None:
        values[found] = 1.0
        if task.slices.any_name:
            values[task.slices.index(task.slices.any_name)] = 1.0
        return values
    negatives = {plain_name(word) for word in NONE}
    if len(names) == 1:
        negatives |= {f"{word}{name}" for word in _OTHERS for name in names}
        if plain_name(folder) == "1":
            return np.ones(1)
    return values if plain_name(folder) in negatives else None
