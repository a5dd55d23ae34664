"""Chooses the loader for a configuration, of images or of stored embeddings, and checks that a store suits it."""

from rsna_e2e.config import RunConfig
from rsna_e2e.core.device import Compute
from rsna_e2e.core.errors import UsageError
from rsna_e2e.loader.division import WHOLE, Division
from rsna_e2e.loader.embedding_loader import EmbeddingLoader
from rsna_e2e.loader.image_loader import ImageLoader
from rsna_e2e.loader.present import check_values
from rsna_e2e.loader.series_loader import SeriesLoader
from rsna_e2e.store import Store
from rsna_e2e.store.embeddings import Embeddings
from rsna_e2e.tasks.task import Task


def choose_loader(
    store: Store,
    config: RunConfig,
    *,
    task: Task,
    compute: Compute,
    embeddings: Embeddings | None = None,
    division: Division = WHOLE,
) -> SeriesLoader:
    """Return the loader of images, or of `embeddings` where they are given.

    Raises UsageError where images are not what the task or the augmentation is for.
    """
    if embeddings is not None:
        return EmbeddingLoader(store, embeddings, config, device=compute.device, division=division)
    check_values(store, task)
    _check_augmentation(store, config)
    return ImageLoader(store, config, task=task, device=compute.device, dtype=compute.image_dtype, division=division)


def _check_augmentation(store: Store, config: RunConfig) -> None:
    of_slices = None if config.slice_phase is None else config.slice_phase.augment
    grey = [(a.brightness_limit, a.contrast_limit, a.gamma_limit) for a in (config.augment, of_slices) if a is not None]
    if store.values == "hu" and any(map(any, grey)):
        raise UsageError("augment.brightness_limit, contrast_limit and gamma_limit are for radiographs: leave them out")


def count_channels(config: RunConfig, task: Task, embeddings: Embeddings | None) -> int:
    """Return the number of input channels of the model: windows of images, or the width of embeddings.

    Raises UsageError where there are no embeddings and the model has no backbone, or the other way round.
    """
    if (config.model.backbone == "none") != (embeddings is not None):
        raise UsageError(
            f"recipe {config.recipe} learns from images. Leave out --embeddings, or --set model.backbone=none"
            if embeddings is not None
            else f"recipe {config.recipe} has no backbone: it learns from stored embeddings. Give --embeddings FOLDER"
        )
    return len(task.inputs.windows_hu) if embeddings is None else embeddings.width


def check_order(store: Store, config: RunConfig, *, setting: str = "loader.slice_order") -> None:
    """Raise UsageError where a recurrent head would see slices in another order than is configured.

    setting: what `--set` calls the order, empty where a run has settled it.
    """
    has_positions, order = store.geometry == "patient", config.loader.slice_order
    if config.model.head == "none" or order == "csv" or has_positions == (order != "file"):
        return
    if has_positions:
        why, way_out = "these slices lie in geometric order, not in that of files", f"--set {setting}=geometric"
    else:
        why = "these slices have no order, which a recurrent head needs: they came without positions"
        way_out = (
            f"If the order of their files means something, take it: --set {setting}=file. Otherwise train a classifier "
            "of single slices (model.head=none)"
        )
    if not setting:
        way_out = f"The run learned from slices in {config.loader.slice_order} order. Give a store of such"
    raise UsageError(f"{store.path}: {why}. {way_out}")
