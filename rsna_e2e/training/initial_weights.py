"""Weights that a run starts from: those of a file, of a run for the same labels, or the backbone of any other run; and
those that its heads start from when slices were learned."""

import logging
from pathlib import Path

from torch.optim.swa_utils import AveragedModel

from rsna_e2e.config import RunConfig
from rsna_e2e.core.errors import BadInputError, UsageError
from rsna_e2e.core.weights_file import load_weights
from rsna_e2e.loader.choice import count_channels
from rsna_e2e.model.make import Network
from rsna_e2e.model.network import JointModel
from rsna_e2e.tasks.task import Task
from rsna_e2e.training.checkpoint import find_checkpoint, load_model
from rsna_e2e.training.run_folder import read_config, read_task

logger = logging.getLogger(__name__)


def report_damage(error: BadInputError) -> None:
    """Tell the operator that a damaged checkpoint was skipped."""
    logger.warning("damaged checkpoint skipped: %s", error)


def load_all(model: Network, source: Path, task: Task) -> None:
    """Copy all weights of a run's best checkpoint, or of a safetensors file, into a model of `task`.

    Raises BadInputError when they do not fit, or the run predicts other labels.
    """
    if not source.is_dir():
        load_weights(model, source)
        return
    checkpoint = find_checkpoint(source, on_damaged=report_damage)
    other = read_task(source, read_config(source))
    for ours, theirs in ((task.slices, other.slices), (task.series_labels, other.series_labels)):
        if (ours.names, ours.tree) != (theirs.names, theirs.tree):
            raise BadInputError(
                f"{source}: predicts {', '.join(theirs.names)} (task {other.name}), not {', '.join(ours.names)} (task "
                f"{task.name}). --init-backbone {source} takes its backbone alone"
            )
    load_model(model, checkpoint)


def start_head(config: RunConfig, model: Network, average: AveragedModel | None) -> None:
    """Start the recurrent head of a model and of its average as the slice classifier, if that is set."""
    if config.slice_phase is None or not config.slice_phase.starts_head:
        return
    for module in (model, None if average is None else average.module):
        if isinstance(module, JointModel):
            module.start_head()


def load_backbone_of(model: Network, run: Path, config: RunConfig, *, n_channels: int) -> None:
    """Copy the backbone of a run for any task into the model of `config`, whose images have `n_channels`.

    Raises BadInputError when it is another backbone, or one of other channels; UsageError for a model without one.
    """
    if config.model.backbone == "none":
        raise UsageError("--init-backbone: a model with backbone none has none to start")
    checkpoint = find_checkpoint(run, on_damaged=report_damage)
    theirs = read_config(run)
    if theirs.model.backbone != config.model.backbone:
        raise BadInputError(
            f"{run}: its backbone is {theirs.model.backbone}, not {config.model.backbone}. Give the run of such a "
            f"backbone, or --set model.backbone={theirs.model.backbone}"
        )
    n_theirs = count_channels(theirs, read_task(run, theirs), None)
    if n_theirs != n_channels:
        raise BadInputError(
            f"{run}: its backbone takes images of {n_theirs} channels, not {n_channels}. Give the run of a task with "
            f"{n_channels} windows, or inputs of {n_theirs} with --set inputs.windows_hu, inputs.mean and inputs.std"
        )
    load_model(model.backbone, checkpoint, part="backbone.")
