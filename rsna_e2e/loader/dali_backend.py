"""Images by DALI: threads read slices, and a pipeline moves them to the device as int16 and transforms them there."""

# N slices (packed), C windows, S image side

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

import torch

from rsna_e2e.config import LoaderConfig
from rsna_e2e.core.records import Int16Image
from rsna_e2e.loader.batch_plan import BatchPlan
from rsna_e2e.loader.image_settings import ImageSettings, empty_images
from rsna_e2e.loader.kernels import dali_plugin
from rsna_e2e.loader.rank_share import with_slice_named
from rsna_e2e.loader.read_ahead import BufferPool, ReadBatch, read_batch, work_ahead
from rsna_e2e.store import Store

_TYPE_NAMES = {
    torch.float32: "FLOAT",
    torch.float16: "FLOAT16",
    torch.bfloat16: "UINT16",
}  # DALI has no bfloat16: its bits
_IN_FLIGHT = 2  # batches inside the pipeline: one that the consumer has yet to take, one being made


def dali_images(
    store: Store,
    plans: Sequence[Callable[[], BatchPlan]],
    settings: ImageSettings,
    buffers: BufferPool,
    config: LoaderConfig,
    *,
    max_slices: int,
) -> Iterator[tuple[BatchPlan, torch.Tensor]]:
    """Yield each plan with its images [N, C, S, S], channels-last, in the memory that DALI wrote.

    max_slices: of the largest batch. A plan without slices bypasses the pipeline and gives an empty tensor.
    """
    waiting: deque[ReadBatch] = deque()  # read, not yet yielded; the pipeline reads from their arrays

    def feed() -> Generator[tuple[Any, Any, Any], None, None]:
        for batch in work_ahead(lambda plan: read_batch(store, plan(), buffers), plans, config):
            waiting.append(batch)
            if len(batch.plan.rows):
                yield _slices(batch), batch.plan.affine, batch.plan.source_box

    def empty_batches() -> Iterator[tuple[BatchPlan, torch.Tensor]]:
        while waiting and len(waiting[0].plan.rows) == 0:
            yield waiting.popleft().plan, empty_images(settings)

    source = feed()
    pipeline = _build(source, settings, max_slices=max_slices, n_threads=config.threads)
    try:
        for output in _run(pipeline, settings.device):
            yield from empty_batches()
            images = torch.utils.dlpack.from_dlpack(output.as_tensor()).view(settings.dtype).permute(0, 3, 1, 2)
            batch = waiting.popleft()
            buffers.give_back(batch.buffer, settings.device)
            yield batch.plan, images
        yield from empty_batches()
    except ValueError as error:  # of the first batch that is still in the pipeline
        raise with_slice_named(error, next(batch.plan for batch in waiting if len(batch.plan.rows))) from error
    finally:
        del pipeline  # stops its work before the arrays that it may still read are freed
        source.close()


def _build(source: Iterator[Any], settings: ImageSettings, *, max_slices: int, n_threads: int) -> Any:
    """A pipeline from the slices that `source` yields to an image [S, S, C] of each."""
    dali = dali_plugin.load()
    fn, types = dali.fn, dali.types
    is_cuda = settings.device.type == "cuda"
    pipeline = dali.Pipeline(
        batch_size=max(max_slices, 1),
        num_threads=n_threads,
        device_id=_gpu_number(settings.device) if is_cuda else None,
        exec_dynamic=True,  # without it, memory that torch still holds is written to again
        prefetch_queue_depth=_IN_FLIGHT,
    )
    with pipeline:
        hu, affine, source_box = fn.external_source(
            source=source,
            num_outputs=3,
            batch=True,
            no_copy=True,
            dtype=[types.INT16, types.FLOAT, types.INT32],
            ndim=[2, 2, 1],
        )
        images = fn.rsna.transform_slices(
            hu.gpu() if is_cuda else hu,
            affine=affine,
            source_box=source_box,
            windows=[number for window in settings.windows_hu for number in window],
            mean=list(settings.mean),
            std=list(settings.std),
            size=settings.image.size,
            supersample=settings.image.supersample,
            border=settings.border,
            dtype=getattr(types, _TYPE_NAMES[settings.dtype]),
            output_layout="HWC",
        )
        pipeline.set_outputs(images)
    pipeline.build()
    return pipeline


def _gpu_number(device: torch.device) -> int:
    """The number of a GPU; torch's current one where the device names none."""
    return torch.cuda.current_device() if device.index is None else device.index


def _run(pipeline: Any, device: torch.device) -> Iterator[Any]:
    """Yield the pipeline's outputs until its source ends; on a GPU in the order of torch's current stream."""
    while True:
        stream = torch.cuda.current_stream(device) if device.type == "cuda" else None
        try:
            (output,) = pipeline.run(stream)
        except StopIteration:
            return
        yield output


def _slices(batch: ReadBatch) -> Int16Image | list[Int16Image]:
    """The slices [H, W] of a batch, without a copy: one array where all have the same size."""
    shapes = batch.plan.shapes
    if (shapes == shapes[0]).all():
        return batch.values.reshape(-1, *shapes[0])
    return batch.slices
