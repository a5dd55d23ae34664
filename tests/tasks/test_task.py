"""A task as data: what identifies it."""

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from rsna_e2e.core.files import sealed, write_json
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.tasks.pe import PE
from rsna_e2e.tasks.pneumonia import PNEUMONIA
from rsna_e2e.tasks.task import Inputs, Labels, Task, plain, task_sha256
from rsna_e2e.tasks.tree import Choice, Some

TASK = Task(
    name="own",
    title="An example",
    slices=Labels(names=("dense",), weights=(1.0,)),
    headline="dense",
    inputs=Inputs(windows_hu=((40.0, 80.0),), mean=(0.25,), std=(0.5,)),
)
# By hand: sorted keys, and nothing that a task may leave out and has left out
CANONICAL = (
    '{"headline": "dense", "inputs": {"mean": [0.25], "std": [0.5], "windows_hu": [[40.0, 80.0]]}, "name": "own", '
    '"slices": {"names": ["dense"], "weights": [1.0]}, "title": "An example"}'
)


def test_the_hash_is_of_what_a_task_says() -> None:
    assert task_sha256(TASK) == hashlib.sha256(CANONICAL.encode()).hexdigest()


@pytest.mark.parametrize(
    ("task", "sha256", "of_file"),
    [
        (
            ICH,
            "685e7f5165718441e8b76566122c552d9bf1ec738a2f6c73e742ade4117ed847",
            "c7b25f4c7f969371a331ee5c174dbb10a2e3f3ce3551354c509ec87fffc1097b",
        ),
        (
            PE,
            "75184463e036a1333556daca695c206f0b3c3ed099c901be8c8bbcd0d4e06d59",
            "eef66fdc14bf2ad66984ba5ca6dcfcc5a1208c035bc5ac9b762dbfff2e2d7ddc",
        ),
    ],
    ids=["ich", "pe"],
)
def test_a_task_stays_the_same_task(task: Task, sha256: str, of_file: str, tmp_path: Path) -> None:
    """What checkpoints, tables and runs that there are hold of a task, and the bytes of task.json."""
    assert task_sha256(task) == sha256
    write_json(tmp_path / "task.json", sealed(plain(task)))
    assert hashlib.sha256((tmp_path / "task.json").read_bytes()).hexdigest() == of_file


def test_files_hold_what_differs_of_fields_that_came_later() -> None:
    assert plain(PNEUMONIA)["inputs"]["values"] == "grey"
    assert plain(PNEUMONIA)["csv"]["box_columns"]["image"] == "patientId"
    assert plain(PNEUMONIA)["boxes"] == ("opacity",)
    others = [
        replace(PNEUMONIA, inputs=replace(PNEUMONIA.inputs, values="hu")),
        replace(PNEUMONIA, boxes=("normal",)),
        replace(PNEUMONIA, boxes=(), csv=replace(PNEUMONIA.csv, box_columns=None)),
    ]
    assert len({task_sha256(one) for one in (PNEUMONIA, *others)}) == 4


def test_groups_of_a_tree_are_told_apart() -> None:
    """A group of one kind, with the same branches where the same holds, is not one of the other."""
    root, own = Choice(branches=("a", "b*")), Labels(names=("a", "c", "d"), weights=(1.0, 1.0, 1.0))
    hashes = {
        task_sha256(
            replace(TASK, series=replace(own, tree=(root, kind(branches=("c", "d"), given="b*"))), series_truth="own")
        )
        for kind in (Choice, Some)
    }
    assert len(hashes) == 2


@pytest.mark.parametrize("task", [ICH, PE], ids=lambda task: task.name)
def test_every_change_is_another_task(task: Task) -> None:
    others = [
        replace(task, title="Other"),
        replace(task, slices=replace(task.slices, weights=tuple(2 * weight for weight in task.slices.weights))),
        replace(task, slices=replace(task.slices, notes=("motion",))),
        replace(task, inputs=replace(task.inputs, mean=(0.5, 0.5, 0.5))),
        replace(task, csv=replace(task.csv, columns=("a", "b"))),
    ]
    assert len({task_sha256(one) for one in (task, *others)}) == len(others) + 1


def test_a_task_with_boxes_may_be_of_some_of_its_labels() -> None:
    """As where a store knows nothing of the others, and predictions are scored."""
    alone = PNEUMONIA.only(("opacity",))
    assert (alone.slices.names, alone.boxes) == (("opacity",), ("opacity",))
    assert alone.csv.box_columns == replace(PNEUMONIA.csv.box_columns, class_column="", class_words=())
    without = PNEUMONIA.only(("other_abnormal", "normal"))
    assert (without.headline, without.boxes, without.slices.tree) == ("other_abnormal", (), ())
    assert without.csv.box_columns is None
    assert PNEUMONIA.only(PNEUMONIA.slices.names) == PNEUMONIA
