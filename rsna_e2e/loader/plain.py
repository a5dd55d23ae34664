"""Batches to images by torch's operator alone, for machines without DALI; the same bits."""

# N slices (packed), C windows, S image side

from collections.abc import Callable, Iterator, Sequence

import torch

from rsna_e2e import ops
from rsna_e2e.config import LoaderConfig
from rsna_e2e.loader.pixels import BufferPool, ReadBatch, read_batch, work_ahead
from rsna_e2e.loader.plan import BatchPlan
from rsna_e2e.loader.settings import ImageSettings
from rsna_e2e.store import Store


def torch_images(
    store: Store,
    plans: Sequence[Callable[[], BatchPlan]],
    settings: ImageSettings,
    buffers: BufferPool,
    config: LoaderConfig,
) -> Iterator[tuple[BatchPlan, torch.Tensor]]:
    """Yield each plan with its images [N, C, S, S], channels-last.

    On a CPU the threads transform too; for a GPU they only read, and int16 goes to the device.
    """

    def transform(batch: ReadBatch) -> tuple[BatchPlan, torch.Tensor]:
        images = _transform(batch, settings)
        buffers.give_back(batch.buffer, settings.device)
        return batch.plan, images

    def read(plan: Callable[[], BatchPlan]) -> ReadBatch:
        return read_batch(store, plan(), buffers)

    if settings.device.type == "cuda":
        yield from map(transform, work_ahead(read, plans, config))
    else:
        yield from work_ahead(lambda plan: transform(read(plan)), plans, config)


def _transform(batch: ReadBatch, settings: ImageSettings) -> torch.Tensor:
    """Images [N, C, S, S] of one batch, on the settings' device."""
    plan = batch.plan
    heights, widths = torch.from_numpy(plan.shapes).unbind(1)
    return ops.transform_slices_packed(
        torch.from_numpy(batch.values).to(settings.device, non_blocking=True),
        torch.from_numpy(plan.offsets),
        heights,
        widths,
        torch.from_numpy(plan.affine),
        settings.windows_hu,
        size=settings.size,
        mean=settings.mean,
        std=settings.std,
        border=settings.border,
        source_box=torch.from_numpy(plan.source_box),
        supersample=settings.supersample,
        dtype=settings.dtype,
        channels_last=True,
    )
