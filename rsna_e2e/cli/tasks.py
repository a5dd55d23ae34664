"""The verb that lists tasks, checks one of a user's own, and prints one as YAML to start from."""

import argparse

from rsna_e2e.cli.verbs import Verbs, add_verb, tell
from rsna_e2e.tasks.catalogue import TASKS, get_task
from rsna_e2e.tasks.task import Task


def add_tasks(verbs: Verbs) -> None:
    """Add `rsna-e2e tasks`."""
    verb = add_verb(
        verbs,
        "tasks",
        _tasks,
        "List what can be predicted; of one task, print all that it is as YAML, and check a task of your own.",
        "rsna-e2e tasks",
        "rsna-e2e tasks pe         # as YAML, to start from; give yours a name of its own",
        "rsna-e2e tasks own.yaml   # what is wrong with it, or all of it",
    )
    verb.add_argument("task", nargs="?", metavar="NAME|FILE", help="name of a task, or YAML file of one")


def _tasks(options: argparse.Namespace) -> None:
    if options.task is None:
        tell(*map(_in_a_line, TASKS.values()))
        return
    from rsna_e2e.tasks.files import task_as_yaml

    tell(*task_as_yaml(get_task(options.task)).splitlines())


def _in_a_line(task: Task) -> str:
    of_series = f", {len(task.series)} of series" if task.series else ""
    of_boxes = f"; boxes: {', '.join(task.boxes)}" if task.boxes else ""
    return f"{task.name}: {task.title} (labels: {len(task.slices)} of slices{of_series}{of_boxes})"
