"""Our own op at the job: slice by slice, in one call, with other instruction sets, on two cores, on a GPU."""

# N slices, C channels, S output size

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from rsna_e2e import ops
from rsna_e2e.augment import SliceParams, crop_squares
from rsna_e2e.bench.job import CROP, Contestant, Images, Job

OURS = "ours"
BASELINE = "baseline"  # plain C++ for CPUs that nobody trains on

GPU_COPIES = 16  # of the job's slices in one launch: a GPU is measured on a batch

Packed = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def contestants(job: Job, *, available: int) -> list[Contestant]:
    """Our rows on the CPU: on one core, and on two if so many are available. Ratios refer to the first."""
    pieces = [_pack_one(job, k) for k in range(len(job.slices))]
    rows = [_by_slice(job, OURS, instruction_set="auto")]
    for name in ops.cpu_instruction_sets()[1:]:
        if name != BASELINE:
            rows.append(_by_slice(job, f"ours, {name}", instruction_set=name))
    rows.append(
        Contestant(
            name="ours, content searched",
            how="the crop square is found at run time, not read from the store",
            run=lambda: (_search_and_transform(job, packed)[0] for packed in pieces),
            boxes=job.boxes,
        )
    )
    whole = _whole_batch(job, f"ours, {len(job.slices)} slices a call")
    rows.append(whole)
    if available >= 2:
        rows.append(_on_threads(job, cores=2))
        rows.append(replace(whole, name=f"{whole.name}, 2 cores", cores=2))
    return rows


def gpu_contestants(job: Job) -> list[Contestant]:
    """Our rows on a GPU: the values are there already, many slices a launch, float32 and what training takes."""
    values, offsets, heights, widths = _pack(job, copies=GPU_COPIES)
    packed = (values.cuda(), offsets, heights, widths)
    params = job.params(np.tile(job.boxes, (GPU_COPIES, 1)))
    how = f"values on the GPU, {len(params.affine)} slices a launch"
    return [
        Contestant(
            name=f"ours, GPU, {name}",
            how=f"{how}, channels-last",
            run=partial(_synchronised, partial(_transform, job, packed, params, dtype=dtype)),
            boxes=job.boxes,
            copies=GPU_COPIES,
        )
        for name, dtype in (("float32", torch.float32), ("float16", torch.float16))
    ]


def _by_slice(job: Job, name: str, *, instruction_set: str) -> Contestant:
    params = job.params(job.boxes)
    pieces = [(_pack_one(job, k), params.of_slice(k)) for k in range(len(job.slices))]
    return Contestant(
        name=name,
        how="one call per slice, channels-last",
        run=lambda: (_transform(job, packed, one, instruction_set=instruction_set)[0] for packed, one in pieces),
        boxes=job.boxes,
    )


def _on_threads(job: Job, *, cores: int) -> Contestant:
    pieces, params = [_pack_one(job, k) for k in range(len(job.slices))], job.params(job.boxes)

    def run() -> Images:
        # Within the run, so that the threads may use the cores of whoever runs it; they start in microseconds.
        with ThreadPoolExecutor(cores, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield from pool.map(lambda k: _transform(job, pieces[k], params.of_slice(k))[0], range(len(pieces)))

    return Contestant(
        name=f"ours, {cores} cores",
        how="one call per slice from as many threads, as the loader does",
        run=run,
        boxes=job.boxes,
        cores=cores,
    )


def _whole_batch(job: Job, name: str) -> Contestant:
    packed, params = _pack(job), job.params(job.boxes)
    return Contestant(
        name=name,
        how="one call for all slices, channels-last",
        run=lambda: _transform(job, packed, params).unbind(),
        boxes=job.boxes,
    )


def _search_and_transform(job: Job, packed: Packed) -> torch.Tensor:
    content = ops.content_box_packed(*packed, job.task.windows_hu)
    shapes = torch.stack(packed[2:], dim=1)
    boxes = crop_squares(content.numpy().astype(np.int64), shapes.numpy().astype(np.int64), CROP)
    return _transform(job, packed, job.params(boxes))


def _transform(
    job: Job,
    packed: Packed,
    params: SliceParams,
    *,
    instruction_set: str = "auto",
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """Images [N,C,S,S]. An instruction set that is not "auto" is an argument of the operator behind `ops` only."""
    arguments = (*packed, torch.from_numpy(params.affine))
    options: dict[str, Any] = {
        "size": job.size,
        "mean": torch.tensor(job.task.channel_mean),
        "std": torch.tensor(job.task.channel_std),
        "border": "replicate",
        "source_box": torch.from_numpy(params.source_box),
        "dtype": dtype,
        "channels_last": True,
    }
    if instruction_set == "auto":
        return ops.transform_slices_packed(*arguments, job.task.windows_hu, **options)
    windows = torch.tensor(job.task.windows_hu)
    images: torch.Tensor = torch.ops.rsna_e2e.transform_slices(
        *arguments, windows, **options, instruction_set=instruction_set
    )
    return images


def _pack_one(job: Job, k: int) -> Packed:
    return _pack(replace(job, slices=job.slices[k : k + 1]))


def _pack(job: Job, *, copies: int = 1) -> Packed:
    """Values one after another, offsets, heights, widths."""
    slices = job.slices * copies
    sizes = np.array([hu.size for hu in slices])
    shapes = np.array([hu.shape for hu in slices], dtype=np.int32)
    return (
        torch.from_numpy(np.concatenate([hu.ravel() for hu in slices])),
        torch.from_numpy(np.cumsum(sizes) - sizes),
        torch.from_numpy(shapes[:, 0].copy()),
        torch.from_numpy(shapes[:, 1].copy()),
    )


def _synchronised(work: Callable[[], torch.Tensor]) -> Images:
    """Run on the GPU and wait until it is done."""
    images = work()
    torch.cuda.synchronize()
    return images.unbind()
