"""A task as data: what identifies it."""

import hashlib
from dataclasses import replace

import pytest

from rsna_e2e.tasks.ich import ICH
from rsna_e2e.tasks.pe import PE
from rsna_e2e.tasks.task import Inputs, Labels, Task, task_sha256
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
