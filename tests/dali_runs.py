"""Runs DALI's operators on made-up slices, and torch_ops.py on the same."""

# N slices, C channels, H, W input, S output size

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from rsna_e2e.loader.kernels import dali_plugin, torch_ops
from rsna_e2e.tasks.ich import ICH

WINDOWS = [number for window in ICH.inputs.windows_hu for number in window]
TORCH_TYPES = {
    "FLOAT": torch.float32,
    "FLOAT16": torch.float16,
    "UINT16": torch.bfloat16,
    "UINT8": torch.uint8,
}
Batch = dict[str, Any]  # hu: a list of slices; other arguments of the operator: one array for each slice


def batch_of(shapes: Sequence[tuple[int, int]], *, seed: int = 0) -> Batch:
    """Slices of int16 noise, each with a matrix that turns, scales and shifts it."""
    rng = np.random.default_rng(seed)
    hu = [rng.integers(-1500, 2500, shape, dtype=np.int16) for shape in shapes]
    affine = []
    for height, width in shapes:
        linear = rng.normal(0, 1.5, (2, 2)) + 2 * np.eye(2)
        shift = np.array([[width], [height]]) / 2 - linear.sum(axis=1, keepdims=True) * 10
        affine.append(np.concatenate([linear, shift], axis=1).astype(np.float32))
    return {"hu": hu, "affine": affine}


def run_pipeline(
    batches: list[Batch],
    *,
    operator: str = "transform_slices",
    n_threads: int = 2,
    on_gpu: bool = False,
    **options: Any,
) -> Iterator[Any]:
    """Yield DALI's output for each batch; on a GPU in the order of torch's current stream."""
    dali = dali_plugin.load()
    options = {"windows": WINDOWS, "size": 21, **options} if operator == "transform_slices" else {"windows": WINDOWS}
    names = list(batches[0])
    source = (tuple(batch[name] for name in names) for batch in batches)
    pipeline = dali.Pipeline(batch_size=8, num_threads=n_threads, device_id=0 if on_gpu else None, exec_dynamic=True)
    with pipeline:
        inputs = dali.fn.external_source(source=source, num_outputs=len(names), batch=True, no_copy=True)
        arguments = dict(zip(names, inputs, strict=True))
        hu = arguments.pop("hu")
        pipeline.set_outputs(getattr(dali.fn.rsna, operator)(hu.gpu() if on_gpu else hu, **arguments, **options))
    pipeline.build()
    for _ in batches:
        yield pipeline.run(torch.cuda.current_stream() if on_gpu else None)[0]


def to_torch(output: Any) -> torch.Tensor:
    """The output in the memory where DALI made it."""
    dense = output.as_tensor()
    tensor = torch.from_dlpack(dense)
    assert tensor.data_ptr() == dense.data_ptr()
    return tensor


def pack(hu: list[np.ndarray]) -> tuple[torch.Tensor, ...]:
    """values, offsets, heights and widths as torch_ops.py takes them."""
    heights, widths = (torch.tensor([one.shape[axis] for one in hu], dtype=torch.int32) for axis in (0, 1))
    sizes = torch.tensor([one.size for one in hu])
    return torch.from_numpy(np.concatenate([one.ravel() for one in hu])), sizes.cumsum(0) - sizes, heights, widths


def expect(batch: Batch, **options: Any) -> torch.Tensor:
    """The same by torch_ops.py: [N, C, S, S]."""
    arguments = {name: torch.from_numpy(np.stack(batch[name])) for name in batch if name != "hu"}
    affine = arguments.pop("affine")
    transform = torch_ops.Transform(**{"windows": ICH.inputs.windows_hu, "size": 21, **options})
    return torch_ops.transform_slices_packed(*pack(batch["hu"]), affine, transform, **arguments)


SHAPES = {
    "one_size": [(40, 53)] * 4,
    "mixed_sizes": [(40, 53), (2, 2), (97, 31), (40, 53), (3, 300)],
    "batch_of_one": [(61, 40)],
}
