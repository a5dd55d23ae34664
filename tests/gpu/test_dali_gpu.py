"""DALI's operators on a GPU: the bits of the CPU, in the stream's order, in memory that torch may keep."""

from typing import Any

import numpy as np
import pytest
import torch
from dali_runs import SHAPES, TORCH_TYPES, batch_of, expect, pack, run_pipeline, to_torch

from rsna_e2e.loader.kernels import dali_plugin, torch_ops
from rsna_e2e.tasks.ich import ICH

pytestmark = [pytest.mark.needs_cuda, pytest.mark.needs_dali]


@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("layout", ["CHW", "HWC"])
@pytest.mark.parametrize("dtype", TORCH_TYPES)
def test_gpu_gives_the_bits_of_the_cpu(dtype: str, layout: str, shapes: list[tuple[int, int]]) -> None:
    batch = batch_of(shapes)
    batch["source_box"] = [np.array([0, 1, 38], dtype=np.int32)] * len(shapes)
    options: dict[str, Any] = {"border": "replicate", "supersample": 2}
    if dtype == "UINT8":
        batch["lowest_hu"] = [np.array(20 * k, dtype=np.int32) for k in range(len(shapes))]
    else:
        options.update(mean=[0.1, 0.2, 0.3], std=[0.5, 0.25, 2.0])
    types = dali_plugin.load().types
    (output,) = run_pipeline([batch], on_gpu=True, dtype=getattr(types, dtype), output_layout=layout, **options)
    images = to_torch(output).view(TORCH_TYPES[dtype])
    assert images.is_cuda
    images = images if layout == "CHW" else images.permute(0, 3, 1, 2)
    assert torch.equal(images.cpu(), expect(batch, dtype=TORCH_TYPES[dtype], **options))


def test_content_boxes_are_those_of_the_cpu() -> None:
    hu = batch_of(SHAPES["mixed_sizes"])["hu"]
    for image in hu:
        image[:, :1] = image[:1] = -1000
    hu[2][:] = -1000
    (output,) = run_pipeline([{"hu": hu}], operator="content_box", on_gpu=True)
    assert torch.equal(to_torch(output).cpu(), torch_ops.content_box_packed(*pack(hu), ICH.inputs.windows_hu))


def test_batches_of_any_length_are_not_overwritten_while_torch_holds_them() -> None:
    lengths = [3, 1, 8, 2, 8, 5, 1, 7, 8, 4, 6, 2]
    batches = [batch_of([(250 + k, 264)] * n, seed=k) for k, n in enumerate(lengths)]
    held = [to_torch(output) for output in run_pipeline(batches, on_gpu=True)]
    assert [len(images) for images in held] == lengths
    for images, batch in zip(held, batches, strict=True):
        assert torch.equal(images.cpu(), expect(batch))


def test_consumers_on_a_stream_of_their_own_see_finished_images() -> None:
    batches = [batch_of([(400, 400)] * 8, seed=k) for k in range(4)]
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        copies = [to_torch(output).clone() for output in run_pipeline(batches, on_gpu=True, size=300)]
    stream.synchronize()
    for images, batch in zip(copies, batches, strict=True):
        assert torch.equal(images.cpu(), expect(batch, size=300))


def test_bad_batches_are_named() -> None:
    batch = batch_of([(40, 40)] * 2)
    batch["affine"][1] = np.zeros((2, 3), dtype=np.float32)
    with pytest.raises(ValueError, match="slice 1: its affine matrix is singular"):
        list(run_pipeline([batch], on_gpu=True))
