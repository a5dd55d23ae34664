"""The task as a setting: a name or a file when it is given, the whole task where it is used and saved."""

from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

from rsna_e2e.core.errors import RsnaError, UsageError
from rsna_e2e.tasks.catalogue import TASKS, get_task, is_of_package, task_of
from rsna_e2e.tasks.task import Task, plain


def _taken(value: Any) -> Any:
    """Return the task that is meant by a name, a path or plain data. Raises BadInputError for a file that is none."""
    try:
        if isinstance(value, str):
            return get_task(value)
    except UsageError as error:
        raise ValueError(str(error)) from None
    try:
        return value if isinstance(value, Task) else task_of(value)
    except RsnaError as error:
        raise ValueError(str(error)) from None


def _saved(task: Task) -> Any:
    """Return the name of a task of this package, and all of another one: its file may change or move."""
    return task.name if is_of_package(task) else plain(task)


TaskSetting = Annotated[
    Task,
    BeforeValidator(_taken),
    PlainSerializer(_saved),
    WithJsonSchema({"type": "string", "format": f"{', '.join(TASKS)} or a YAML file"}),
]
