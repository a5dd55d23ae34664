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


def named_windows(task: Task) -> dict[str, tuple[float, float]]:
    """Return center and width in HU of a task's windows by their names, such as brain; without one, channel 2."""
    windows_hu = task.inputs.windows_hu
    return {_NAMES.get(window, f"channel {number}"): window for number, window in enumerate(windows_hu, start=1)}


def sharpest_window(task: Task) -> tuple[str, tuple[float, float]]:
    """Return the narrowest window of a task, which shows the least differences, and its name."""
    return min(named_windows(task).items(), key=lambda item: item[1][1])
