"""Windows of a task by the names that radiologists give them, for pages."""

from rsna_e2e.tasks.task import Task

# By center and width in HU
_NAMES = {
    (40.0, 80.0): "brain",
    (80.0, 200.0): "subdural",
    (40.0, 380.0): "soft tissue",
    (40.0, 400.0): "mediastinum",
    (-600.0, 1500.0): "lung",
    (100.0, 700.0): "pulmonary arteries",
}

_OF_HEADS = {  # by name, as radiologists look at heads
    "brain": (40.0, 80.0),
    "subdural": (80.0, 200.0),
    "soft tissue": (40.0, 380.0),
    "bone": (600.0, 2800.0),
    "stroke": (32.0, 8.0),
}


def named_windows(task: Task) -> dict[str, tuple[float, float]]:
    """Return center and width in HU of a task's windows by their names, such as brain; without one, channel 2."""
    windows_hu = task.inputs.windows_hu
    return {_NAMES.get(window, f"channel {number}"): window for number, window in enumerate(windows_hu, start=1)}


def viewing_windows(task: Task) -> dict[str, tuple[float, float]]:
    """Return the windows of a task, and of CT those beside them in which heads are looked at."""
    return named_windows(task) | (_OF_HEADS if task.inputs.values == "hu" else {})


def sharpest_window(task: Task) -> tuple[str, tuple[float, float]]:
    """Return the narrowest window of a task, which shows the least differences, and its name."""
    return min(named_windows(task).items(), key=lambda item: item[1][1])
