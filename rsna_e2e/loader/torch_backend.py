"""Images by the torch operator: for machines without DALI, with the same bits, or on demand, chunk by chunk."""

# N slices (packed), C windows, S image side

import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch

from rsna_e2e.config import LoaderConfig
from rsna_e2e.loader.batch import SliceImages
from rsna_e2e.loader.batch_plan import BatchPlan
from rsna_e2e.loader.image_settings import ImageSettings
from rsna_e2e.loader.kernels.torch_ops import Transform, transform_slices_packed
from rsna_e2e.loader.published_images import LEVELS, as_published, normalise
from rsna_e2e.loader.rank_share import with_slice_named
from rsna_e2e.loader.read_ahead import BufferPool, ReadBatch, read_batch, work_ahead
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
        batch = read_batch(store, plan(), buffers)
        return batch if settings.image.values == "hu" else as_published(batch, settings, buffers)

    def transform(batch: ReadBatch) -> tuple[BatchPlan, SliceImages]:
        lazy = LazyImages(batch, settings, buffers)
        return batch.plan, lazy if config.transform == "chunk" else lazy[:]

    if settings.device.type == "cuda" or config.transform == "chunk":
        yield from map(transform, work_ahead(read, plans, config))
    else:
        yield from work_ahead(lambda plan: transform(read(plan)), plans, config)


class LazyImages:
    """The slices of a batch as int16 on the device; images of a range of slices are made on demand.

    On a CPU the values stay in the buffer that they were read into, which returns to its pool with the end of this.
    """

    def __init__(self, batch: ReadBatch, settings: ImageSettings, buffers: BufferPool) -> None:
        self._plan, self._settings, self._lowest_hu = batch.plan, settings, batch.lowest_hu
        self._values = torch.from_numpy(batch.values).to(settings.device, non_blocking=True)
        if settings.device.type == "cuda":
            buffers.give_back(batch.buffer, settings.device)
        else:
            weakref.finalize(self, buffers.give_back, batch.buffer, settings.device)

    @property
    def shape(self) -> torch.Size:
        """[N, C, S, S] of all images."""
        size = self._settings.image.size
        return torch.Size((len(self._plan.rows), len(self._settings.windows_hu), size, size))

    def __getitem__(self, rows: slice, /) -> torch.Tensor:
        """Make the images of slices `rows`."""
        settings = self._settings
        offsets = torch.from_numpy(self._plan.offsets[rows])
        to_levels = Transform(
            windows=settings.windows_hu,
            size=settings.image.size,
            border=settings.border,
            dtype=torch.uint8,
            channels_last=True,
            supersample=settings.image.supersample,
        )
        if settings.image.values == "hu":
            to_images = replace(to_levels, mean=settings.mean, std=settings.std, dtype=settings.dtype)
            return self._transform(rows, offsets, to_images)
        if self._lowest_hu is not None:
            levels = self._transform(rows, offsets, to_levels, lowest_hu=self._lowest_hu[rows])
        else:
            n_planes = len(settings.windows_hu)
            areas = torch.from_numpy(self._plan.areas[rows])
            planes = [n_planes * offsets + plane * areas for plane in range(n_planes)]
            of_levels = replace(to_levels, windows=LEVELS)
            levels = torch.cat([self._transform(rows, plane, of_levels) for plane in planes], dim=1)
        return normalise(levels, settings)

    def _transform(
        self, rows: slice, offsets: torch.Tensor, transform: Transform, *, lowest_hu: torch.Tensor | None = None
    ) -> torch.Tensor:
        plan = self._plan
        heights, widths = torch.from_numpy(plan.shapes[rows]).unbind(1)
        try:
            return transform_slices_packed(
                self._values,
                offsets,
                heights,
                widths,
                torch.from_numpy(plan.affine[rows]),
                transform,
                source_box=None if self._settings.image.is_stretched else torch.from_numpy(plan.source_box[rows]),
                lowest_hu=lowest_hu,
            )
        except ValueError as error:
            raise with_slice_named(error, plan, first=rows.start or 0) from error
