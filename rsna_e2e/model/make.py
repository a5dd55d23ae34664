"""Makes the network that a configuration describes, for the labels or boxes of a task."""

from rsna_e2e.config import ModelConfig
from rsna_e2e.model.box_model import BoxModel
from rsna_e2e.model.network import JointModel
from rsna_e2e.model.segmenter import Segmenter
from rsna_e2e.tasks.task import Task

Network = JointModel | BoxModel


def make_network(config: ModelConfig, task: Task, *, n_channels: int | None = None) -> Network:
    """Return the network of `config` for a task, whose channels are its windows, unless given."""
    n_channels = n_channels or len(task.inputs.windows_hu)
    if config.detector is not None:
        from rsna_e2e.model.detector import Detector  # torchvision's detectors take a second to load

        return Detector(config, n_channels=n_channels, n_classes=len(task.boxes))
    if config.segmenter is not None:
        return Segmenter(config.segmenter, n_channels=n_channels)
    return JointModel.for_task(config, task, n_channels=n_channels)
