"""Our contestants in `bench transform`: the op by slices a call, instruction set and cores, and on a GPU."""

# N slices, C channels, S output size

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from rsna_e2e.loader.geometry import SliceParams, crop_squares
from rsna_e2e.loader.kernels import torch_ops
from rsna_e2e.tools.bench.job import CROP, Contestant, Images, Job

OURS = "ours"
BASELINE = "baseline"  # plain C++ for old CPUs: not timed

SLICES_A_CALL = 32  # about a series of head CT: 88 MB of images at 480 px
GPU_COPIES = 16  # of the job's slices in one launch: a GPU is measured on a batch

Packed = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def contestants(job: Job, *, available: int) -> list[Contestant]:
    """Contestants on the CPU, on one core, and on two where available. Ratios refer to the first, a plain loop."""
    rows = [_in_calls(job, OURS, SLICES_A_CALL)]
    for name in torch_ops.cpu_instruction_sets()[1:]:
        if name != BASELINE:
            rows.append(_in_calls(job, f"ours, {name}", SLICES_A_CALL, instruction_set=name))
    rows.append(_in_calls(job, "ours, one slice a call", 1))
    pieces = _pieces(job, SLICES_A_CALL)
    images = [_transform(job, packed, params) for packed, params in pieces]
    rows.append(
        Contestant(
            name="ours, into the same tensors",
            how="as ours, with out=: no memory is allocated",
            run=lambda: _one_by_one(
                _transform(job, *piece, out=out) for piece, out in zip(pieces, images, strict=True)
            ),
            boxes=job.boxes,
        )
    )
    rows.append(
        Contestant(
            name="ours, content searched",
            how="the crop squares are computed in each run, not read from the store",
            run=lambda: _one_by_one(_search_and_transform(job, packed) for packed, _ in pieces),
            boxes=job.boxes,
        )
    )
    if available >= 2:
        rows.append(
            replace(rows[0], name="ours, 2 cores", how=f"{rows[0].how}, rows divided over two threads", cores=2)
        )
    return rows


def gpu_contestants(job: Job) -> list[Contestant]:
    """Contestants on a GPU: input in its memory, many slices a launch, output as float32 or float16."""
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


def _in_calls(job: Job, name: str, n_per_call: int, *, instruction_set: str = "auto") -> Contestant:
    pieces = _pieces(job, n_per_call)
    return Contestant(
        name=name,
        how=f"{n_per_call} slices a call, channels-last",
        run=lambda: _one_by_one(
            _transform(job, packed, params, instruction_set=instruction_set) for packed, params in pieces
        ),
        boxes=job.boxes,
    )


def _pieces(job: Job, n_per_call: int) -> list[tuple[Packed, SliceParams]]:
    """The slices of each call, packed, with their geometry."""
    params = job.params(job.boxes)
    calls = [slice(k, k + n_per_call) for k in range(0, len(job.slices), n_per_call)]
    return [(_pack(replace(job, slices=job.slices[call])), params[call]) for call in calls]


def _one_by_one(batches: Iterable[torch.Tensor]) -> Images:
    return (image for images in batches for image in images)


def _search_and_transform(job: Job, packed: Packed) -> torch.Tensor:
    content = torch_ops.content_box_packed(*packed, job.task.inputs.windows_hu)
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
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Images [N,C,S,S]. An instruction set other than "auto" is an argument of torch.ops.rsna_e2e alone."""
    arguments = (*packed, torch.from_numpy(params.affine))
    source_box = torch.from_numpy(params.source_box)
    options: dict[str, Any] = {
        "size": job.size,
        "mean": torch.tensor(job.task.inputs.mean),
        "std": torch.tensor(job.task.inputs.std),
        "border": "replicate",
        "dtype": dtype,
        "channels_last": True,
    }
    if instruction_set == "auto":
        transform = torch_ops.Transform(windows=job.task.inputs.windows_hu, **options)
        return torch_ops.transform_slices_packed(*arguments, transform, source_box=source_box, out=out)
    windows = torch.tensor(job.task.inputs.windows_hu)
    images: torch.Tensor = torch.ops.rsna_e2e.transform_slices(
        *arguments, windows, **options, source_box=source_box, instruction_set=instruction_set
    )
    return images


def _pack(job: Job, *, copies: int = 1) -> Packed:
    """The slices' values concatenated, and their offsets, heights and widths."""
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
