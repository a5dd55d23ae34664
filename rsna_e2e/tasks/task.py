"""What is predicted: label names, their weights and levels, and how label files spell them.

Only this module knows label names. Intracranial hemorrhage (`ich`) is the first task.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rsna_e2e.core.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One prediction task.

    label_names: in the order of the model's outputs (L labels). label_weights: weight of each in loss and metric.
    any_label: the label that is the logical or of the others.
    has_series_labels: whether series have labels of their own; else those of their slices are all there is.
    windows_hu: (center, width) of each input channel (C channels). channel_mean, channel_std: of the windowed values in
    [0, 1], per channel.
    """

    name: str
    label_names: tuple[str, ...]
    label_weights: tuple[float, ...]
    any_label: str
    windows_hu: tuple[tuple[float, float], ...]
    channel_mean: tuple[float, ...]
    channel_std: tuple[float, ...]
    has_series_labels: bool = False

    @property
    def any_index(self) -> int:
        """Position of `any_label` among the labels."""
        return self.label_names.index(self.any_label)

    def only(self, label_names: Sequence[str]) -> "Task":
        """Return the task with these of its labels alone. Without `any_label` among them, the first takes its place."""
        weight_of = dict(zip(self.label_names, self.label_weights, strict=True))
        return replace(
            self,
            label_names=tuple(label_names),
            label_weights=tuple(weight_of[name] for name in label_names),
            any_label=self.any_label if self.any_label in label_names else label_names[0],
        )

    def label_id(self, image_id: str, label_name: str) -> str:
        """Row id of the long form CSV: `<image_id>_<label>`."""
        return f"{image_id}_{label_name}"


# RSNA Intracranial Hemorrhage Detection 2019: label order and metric weights ('any' counts double); windows and
# normalisation constants are those of the published 2nd-place solution (brain, subdural, soft tissue).
ICH = Task(
    name="ich",
    label_names=("epidural", "intraparenchymal", "intraventricular", "subarachnoid", "subdural", "any"),
    label_weights=(1.0, 1.0, 1.0, 1.0, 1.0, 2.0),
    any_label="any",
    windows_hu=((40.0, 80.0), (80.0, 200.0), (40.0, 380.0)),
    channel_mean=(0.22363983, 0.18190407, 0.2523437),
    channel_std=(0.32451536, 0.2956294, 0.31335256),
)

TASKS = {task.name: task for task in (ICH,)}


def get_task(name: str) -> Task:
    """Return the task called `name`. Raises UsageError when there is none."""
    try:
        return TASKS[name]
    except KeyError:
        raise UsageError(f"unknown task {name!r}; known tasks: {', '.join(TASKS)}") from None
