"""The tasks that this package comes with, and tasks of a user's own, which are YAML files."""

import os
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from rsna_e2e.core.errors import BadInputError, UsageError
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.tasks.mortality import MORTALITY
from rsna_e2e.tasks.pe import PE
from rsna_e2e.tasks.pneumonia import PNEUMONIA
from rsna_e2e.tasks.task import Task, first_difference

TASKS = {task.name: task for task in (ICH, PE, PNEUMONIA, MORTALITY)}
DEFAULT_TASK = ICH.name  # where nothing says another


def get_task(name: str) -> Task:
    """Return the task called `name`, or the one that a YAML file of this path describes.

    Raises UsageError when there is none; BadInputError, naming file and field, for a file that describes none, and for
    a task that has the name of one of this package and is another.
    """
    if name in TASKS:
        return TASKS[name]
    if not os.path.isfile(name):  # unlike Path's, it takes any text
        near = get_close_matches(name, TASKS, n=1)
        meant = f"; did you mean {near[0]}?" if near else ";"
        raise UsageError(f"unknown task {name!r:.80}{meant} known: {', '.join(TASKS)}, or the path of a YAML file")
    from rsna_e2e.tasks.files import read_task_file

    return _not_of_ours(read_task_file(Path(name)), where=f"{name}: ")


def task_option(name: str) -> str:
    """Return the option that names a task on a command line, for messages: FILE stands for that of a user's own."""
    return f"--task {name if name in TASKS else 'FILE'}"


def is_of_package(task: Task) -> bool:
    """Whether a task is one that this package comes with, so that its name says all of it."""
    return TASKS.get(task.name) == task


def task_of(content: Any) -> Task:
    """Return the task that plain data describes, as a configuration holds it. Raises BadInputError naming the field."""
    from rsna_e2e.tasks.files import make_task

    return _not_of_ours(make_task(content), where="")


def _not_of_ours(task: Task, *, where: str) -> Task:
    difference = first_difference(task, TASKS.get(task.name, task))
    if difference:
        raise BadInputError(
            f"{where}name: this package has a task {task.name}, and this one is another: {difference}. Give it a "
            "name of its own"
        )
    return task
