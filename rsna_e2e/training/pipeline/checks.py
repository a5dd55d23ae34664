"""Checks, before anything is run, that store, settings and weights are what a plan needs."""

import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch

from rsna_e2e.config import ModelConfig, TwoStageConfig, resolve_task
from rsna_e2e.core.errors import RsnaError, UsageError
from rsna_e2e.core.records import N_FOLDS
from rsna_e2e.loader.choice import check_order
from rsna_e2e.loader.holdout import series_folds
from rsna_e2e.model.backbones import load_backbone
from rsna_e2e.model.network import JointModel
from rsna_e2e.model.pretrained import check_pretrained
from rsna_e2e.store import Store
from rsna_e2e.tasks.task import Task
from rsna_e2e.training.pipeline.planned_step import PlannedStep
from rsna_e2e.training.pipeline.run import Standing


def check_store(store: Store, config: TwoStageConfig | None) -> None:
    """Raise UsageError unless a store has series to predict, to train on, and the folds and order that `config` asks
    for.

    config: of a two-stage plan.
    """
    splits = {span.split for span in store.series}
    if splits != {"train", "test"}:
        raise UsageError(
            f"{store.path}: has no labelled series to train on. Add labels with: rsna-e2e label (docs/labels.md)"
            if "train" not in splits
            else f"{store.path}: has no series to predict (split test). Prepare series without labels together with "
            "those that have some, or hold labelled patients out: rsna-e2e prepare RAW STORE --holdout 0.2"
        )
    if config is not None:
        for section in config.head_runs:
            head = config.sequence_run(fold=None, section=section)
            check_order(store, head, setting=f"{section}.loader.slice_order")
        _check_folds({fold for fold in series_folds(store, config.images_folds) if fold >= 0}, config, f"{store.path}:")


def check_folds_to_come(config: TwoStageConfig) -> None:
    """Raise UsageError when a store that is still to be made will lack folds of `config`."""
    _check_folds(set(range(N_FOLDS)), config, "a new store")


def check_weights(standings: Iterable[Standing], *, asks_network: bool = True) -> None:
    """Raise an RsnaError when weights that a step to come starts from are missing, damaged or of another model.

    asks_network: also find out whether weights that are not here can be downloaded.
    """
    checked: list[ModelConfig] = []
    for standing in standings:
        step = standing.step
        is_begun = standing.state == "begun"
        if step.settings is None or not standing.is_needed or is_begun or step.settings.model in checked:
            continue
        checked.append(step.settings.model)
        with naming_settings_of(step):
            _check_weights(step.settings.model, resolve_task(step.settings), asks_network=asks_network)


@contextmanager
def naming_settings_of(step: PlannedStep) -> Iterator[None]:
    """Let messages of the block name settings as the whole plan does: `--set images.…` in place of `--set …`."""
    try:
        yield
    except RsnaError as error:
        if not step.section:
            raise
        raise type(error)(re.sub(r"--set (?=\w)", f"--set {step.section}.", str(error))) from None


def _check_weights(config: ModelConfig, task: Task, *, asks_network: bool) -> None:
    if config.backbone == "none":
        return
    if config.weights_file is not None:
        with torch.device("meta"):
            model = JointModel.for_task(config.without_initial_weights(), task)
        with warnings.catch_warnings(action="ignore", category=UserWarning):  # names and shapes are compared
            load_backbone(model.backbone, config.weights_file)  # and, as torch warns, nothing is copied
    elif config.pretrained and asks_network:
        check_pretrained(config.backbone)


def _check_folds(found: set[int], config: TwoStageConfig, where: str) -> None:
    if config.two_stage.folds is None:
        return
    wanted = set(config.two_stage.folds)
    if wanted - found:
        raise UsageError(f"{where} has folds {sorted(found)}; two_stage.folds asks for {sorted(wanted)}")
    if config.two_stage.out_of_fold and found - wanted:
        raise UsageError(
            f"two_stage.out_of_fold needs a classifier for every fold: --set two_stage.folds={sorted(found)}"
        )
