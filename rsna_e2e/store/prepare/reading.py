"""How raw files are read into a store: of which modality they have to be, and what else is refused or left out."""

from dataclasses import dataclass
from pathlib import Path

from rsna_e2e.core.errors import UsageError
from rsna_e2e.core.records import Modality, Values
from rsna_e2e.tasks.task import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How files are read.

    modality: that they have to be of; all others are refused. requires_hu: refuse CT that leaves the unit unspecified.
    refuse_formulas: refuse files whose image ids, by whichever rule, a spreadsheet would run. without_demographics:
    leave out sex and age, which X-rays have. Raises UsageError for what has no meaning for the modality.
    """

    modality: Modality = "ct"
    requires_hu: bool = False
    refuse_formulas: bool = False
    without_demographics: bool = False

    def __post_init__(self) -> None:
        if self.requires_hu and self.modality == "xr":
            raise UsageError("--require-hu: X-rays have no HU. Leave it out, or read CT: --modality ct")
        if self.without_demographics and self.modality == "ct":
            raise UsageError("--without-demographics: of CT neither sex nor age is read. Leave it out")

    @property
    def values(self) -> Values:
        """What a store of such files holds."""
        return "grey" if self.modality == "xr" else "hu"


_IMAGES: dict[Values, str] = {"hu": "CT", "grey": "radiographs"}


def check_is_about(task: Task, values: Values, images: Path) -> None:
    """Raise UsageError where labels of a task are for images of the other modality, of which it cannot be learned.
    values: of the store that `images` are in, or are made into."""
    if task.inputs.values != values:
        raise UsageError(
            f"{images}: read as {_IMAGES[values]}, and the task {task.name}, whose labels these would be, is about "
            f"{_IMAGES[task.inputs.values]}. Give the --task that they are of, or leave the labels out: --labels none"
        )


def modality_of(task: Task) -> Modality:
    """Return the modality of the images that a task is about."""
    return "xr" if task.inputs.values == "grey" else "ct"
