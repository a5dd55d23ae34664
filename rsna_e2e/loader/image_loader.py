"""Batches of images: whole series, or single slices across series, prepared ahead of their consumer."""

# N slices (packed), B series, L labels

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch

from rsna_e2e.config import RunConfig, SlicePhaseConfig
from rsna_e2e.core.errors import UsageError
from rsna_e2e.loader.batch import SeriesBatch, SliceImages
from rsna_e2e.loader.batch_plan import BatchPlan, Planner
from rsna_e2e.loader.boxes import batch_boxes
from rsna_e2e.loader.dali_backend import dali_images
from rsna_e2e.loader.division import WHOLE, Division
from rsna_e2e.loader.holdout import by_headline, filtered
from rsna_e2e.loader.image_settings import ImageSettings
from rsna_e2e.loader.kernels import dali_plugin
from rsna_e2e.loader.label_file_order import in_label_file_order
from rsna_e2e.loader.rank_share import make_series_batch
from rsna_e2e.loader.read_ahead import BufferPool
from rsna_e2e.loader.sampler import Batch, balanced_rows, balanced_shard_rows, slice_batches
from rsna_e2e.loader.series_loader import SeriesLoader
from rsna_e2e.loader.torch_backend import torch_images
from rsna_e2e.store import Store, rows_of
from rsna_e2e.tasks.task import Task


class ImageLoader(SeriesLoader):
    """Loads the images of one rank's share of each batch, of whole series or of single slices.

    Batches are passed as a sequence, so that position k in the data is `batches[k:]`. epoch: whose augmentation is
    drawn, None for none. backend: dali or torch, as chosen. Raises MissingCapabilityError when `loader.backend` is dali
    and DALI or its plugin is not installed.
    """

    def __init__(
        self,
        store: Store,
        config: RunConfig,
        *,
        task: Task,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        division: Division = WHOLE,
    ) -> None:
        super().__init__(store, config, division=division)
        self._task = task
        self._planner = Planner(store, config, division=division)
        self._settings = ImageSettings(
            windows_hu=task.inputs.windows_hu,
            mean=task.inputs.mean,
            std=task.inputs.std,
            image=config.image,
            border="zero",
            dtype=dtype,
            device=device,
        )
        self.backend = _choose_backend(config)
        self._buffers = BufferPool(is_pinned=device.type == "cuda")

    def group_slices(self, positions: Sequence[int], *, phase: SlicePhaseConfig, epoch: int) -> list[Batch]:
        """Group single slices of these series, shuffled, into batches of store rows, as `phase` samples an epoch.

        A slice is positive or negative by its headline label; where that is unknown it is neither. Slices that
        `training_filter` leaves out are in none. Raises UsageError when they cannot be balanced, and as `filtered`.
        """
        seed = self._config.seed
        all_rows = rows_of(self._store.series[position] for position in positions)
        rows = filtered(self._store, self._config, all_rows).tolist()
        if phase.sampling == "balanced":
            rows = balanced_rows(*by_headline(self._store, self._task, rows), seed=seed, epoch=epoch)
        elif phase.sampling == "balanced_shards":
            positives, negatives = by_headline(self._store, self._task, in_label_file_order(self._store, rows))
            n_shards = phase.negative_shards
            rows = balanced_shard_rows(positives, negatives, n_shards=n_shards, seed=seed, epoch=epoch)
        return slice_batches(rows, batch_size=phase.slices_per_batch, seed=seed, epoch=epoch)

    def load(self, batches: Sequence[Batch], *, epoch: int | None = None) -> Iterator[SeriesBatch]:
        """Yield the batches, each of positions in `store.series`, in the given order."""
        plans = [partial(self._planner.series, batch, epoch=epoch) for batch in batches]
        shares = (self.division.largest_share(self.lengths(batch)) for batch in batches)
        return self._load(plans, max_slices=max(shares, default=0), epoch=epoch)

    def load_slices(self, batches: Sequence[Batch], *, epoch: int | None) -> Iterator[SeriesBatch]:
        """Yield the batches, each of store rows, in the given order."""
        return self._load(self._slices(batches, epoch), max_slices=self._most_slices(batches), epoch=epoch)

    def images_of(self, batches: Sequence[Batch]) -> Iterator[tuple[BatchPlan, SliceImages]]:
        """Yield the un-augmented images of the batches, each of store rows, with the geometry that made them."""
        return self._images(self._slices(batches, None), max_slices=self._most_slices(batches), epoch=None)

    def _slices(self, batches: Sequence[Batch], epoch: int | None) -> list[Callable[[], BatchPlan]]:
        return [partial(self._planner.slices, rows, epoch=epoch) for rows in batches]

    def _most_slices(self, batches: Sequence[Batch]) -> int:
        return max((self.division.by_slices().largest_share([1] * len(rows)) for rows in batches), default=0)

    def _load(
        self, plans: Sequence[Callable[[], BatchPlan]], *, max_slices: int, epoch: int | None
    ) -> Iterator[SeriesBatch]:
        for plan, images_NCSS in self._images(plans, max_slices=max_slices, epoch=epoch):
            device = self._settings.device
            boxes = batch_boxes(self._store, plan, size=images_NCSS.shape[-1], device=device)
            yield make_series_batch(self._store, plan, images_NCSS, device, boxes=boxes, affine=plan.affine)

    def _images(
        self, plans: Sequence[Callable[[], BatchPlan]], *, max_slices: int, epoch: int | None
    ) -> Iterator[tuple[BatchPlan, SliceImages]]:
        is_zero = epoch is None and self._config.image.values == "hu"  # OpenCV's resize of 8-bit images replicates
        settings = replace(self._settings, border="zero" if is_zero else "replicate")
        arguments = (self._store, plans, settings, self._buffers, self._config.loader)
        is_dali = self.backend == "dali"
        return dali_images(*arguments, max_slices=max_slices) if is_dali else torch_images(*arguments)


def _choose_backend(config: RunConfig) -> str:
    """Dali or torch. DALI makes whole batches of squares from HU; chunked, 8-bit and stretched images need torch."""
    wanted, reason = config.loader.backend, None
    if config.loader.transform == "chunk":
        reason = "loader.transform=chunk"
    elif config.image.values != "hu":
        reason = f"image.values={config.image.values}"
    elif config.image.is_stretched:
        reason = "image.square=upper_left without a crop"
    if reason is not None and wanted == "dali":
        raise UsageError(f"{reason} needs torch's operator. Leave out loader.backend=dali")
    if wanted == "torch" or reason is not None or (wanted == "auto" and not dali_plugin.is_installed()):
        return "torch"
    dali_plugin.load()
    return "dali"
