"""Batches to images by torch's operator alone: for machines without DALI, with the same bits, and chunk by chunk."""

# N slices (packed), C windows, S image side

import weakref
from collections.abc import Callable, Iterator, Sequence

import torch

from rsna_e2e import ops
from rsna_e2e.batch import SliceImages
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
) -> Iterator[tuple[BatchPlan, SliceImages]]:
    """Yield each plan with its images [N, C, S, S], channels-last.

    On a CPU the threads transform too; for a GPU they only read, and int16 goes to the device. With transform "chunk"
    it stays int16 there: see `LazyImages`.
    """

    def read(plan: Callable[[], BatchPlan]) -> ReadBatch:
        return read_batch(store, plan(), buffers)

    def transform(batch: ReadBatch) -> tuple[BatchPlan, SliceImages]:
        lazy = LazyImages(batch, settings, buffers)
        return batch.plan, lazy if config.transform == "chunk" else lazy[:]

    if settings.device.type == "cuda" or config.transform == "chunk":
        yield from map(transform, work_ahead(read, plans, config))
    else:
        yield from work_ahead(lambda plan: transform(read(plan)), plans, config)


class LazyImages:
    """The slices of a batch in int16 on their device; images are made for a range of them when it is asked for.

    On a CPU this is the memory that they were read into, which goes back to its pool when nobody holds this any more.
    """

    def __init__(self, batch: ReadBatch, settings: ImageSettings, buffers: BufferPool) -> None:
        self._plan, self._settings = batch.plan, settings
        self._values = torch.from_numpy(batch.values).to(settings.device, non_blocking=True)
        if settings.device.type == "cuda":
            buffers.give_back(batch.buffer, settings.device)
        else:
            weakref.finalize(self, buffers.give_back, batch.buffer, settings.device)

    @property
    def shape(self) -> torch.Size:
        """[N, C, S, S] of all images."""
        size = self._settings.size
        return torch.Size((len(self._plan.rows), len(self._settings.windows_hu), size, size))

    def __getitem__(self, rows: slice, /) -> torch.Tensor:
        """Make the images of slices `rows`."""
        plan, settings = self._plan, self._settings
        heights, widths = torch.from_numpy(plan.shapes[rows]).unbind(1)
        return ops.transform_slices_packed(
            self._values,
            torch.from_numpy(plan.offsets[rows]),
            heights,
            widths,
            torch.from_numpy(plan.affine[rows]),
            settings.windows_hu,
            size=settings.size,
            mean=settings.mean,
            std=settings.std,
            border=settings.border,
            source_box=torch.from_numpy(plan.source_box[rows]),
            supersample=settings.supersample,
            dtype=settings.dtype,
            channels_last=True,
        )
