"""The tasks that this package comes with, and tasks of a user's own, which are YAML files."""

from rsna_e2e.core.errors import UsageError
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.tasks.pe import PE
from rsna_e2e.tasks.task import Task

TASKS = {task.name: task for task in (ICH, PE)}


def get_task(name: str) -> Task:
    """Return the task called `name`. Raises UsageError when there is none."""
    try:
        return TASKS[name]
    except KeyError:
        raise UsageError(f"unknown task {name!r}; known tasks: {', '.join(TASKS)}") from None
