"""DALI's operators: the bits of torch_ops.py, in memory that torch may keep, and complaints that name the slice."""

# N slices, C channels, H, W input, S output size

from typing import Any

import numpy as np
import pytest
import torch
from dali_runs import SHAPES, TORCH_TYPES, Batch, batch_of, expect, pack, run_pipeline, to_torch

from rsna_e2e.loader.kernels import dali_plugin, torch_ops
from rsna_e2e.tasks.ich import ICH

pytestmark = pytest.mark.needs_dali

IDENTITY = np.array([[1, 0, 0], [0, 1, 0]], dtype=np.float32)
NORMALISED = {"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.25, 2.0]}


@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("layout", ["CHW", "HWC"])
@pytest.mark.parametrize("dtype", TORCH_TYPES)
def test_same_bits_as_torch_for_every_type_and_layout(dtype: str, layout: str, shapes: list[tuple[int, int]]) -> None:
    batch = batch_of(shapes)
    options = {} if dtype == "UINT8" else NORMALISED
    types = dali_plugin.load().types
    (output,) = run_pipeline([batch], dtype=getattr(types, dtype), output_layout=layout, **options)
    assert output.layout() == layout
    images = to_torch(output).view(TORCH_TYPES[dtype])
    images = images if layout == "CHW" else images.permute(0, 3, 1, 2)
    expected = expect(batch, dtype=TORCH_TYPES[dtype], channels_last=layout == "HWC", **options)
    assert images.stride() == expected.stride()
    assert torch.equal(images, expected)


@pytest.mark.parametrize("supersample", [1, 3])
@pytest.mark.parametrize("border", ["zero", "replicate"])
@pytest.mark.parametrize("with_box", [False, True])
def test_same_bits_as_torch_with_boxes_borders_and_supersampling(with_box: bool, border: str, supersample: int) -> None:
    batch = batch_of(SHAPES["mixed_sizes"])
    if with_box:
        boxes = [[-3, 5, 30], [0, 0, 1], [10, 40, 20], [20, 8, 60], [100, 0, 7]]
        batch["source_box"] = [np.array(box, dtype=np.int32) for box in boxes]
    options = {"border": border, "supersample": supersample, **NORMALISED}
    (output,) = run_pipeline([batch], **options)
    assert torch.equal(to_torch(output), expect(batch, **options))


def test_eight_bits_with_the_lowest_hu_subtracted() -> None:
    batch = batch_of(SHAPES["mixed_sizes"])
    batch["lowest_hu"] = [np.array(value, dtype=np.int32) for value in (-500, 0, 30, 70, 200)]
    (output,) = run_pipeline([batch], dtype=dali_plugin.load().types.UINT8)
    images = to_torch(output)
    assert torch.equal(images, expect(batch, dtype=torch.uint8))
    del batch["lowest_hu"]
    assert not torch.equal(images, expect(batch, dtype=torch.uint8))


def test_six_numbers_serve_all_slices() -> None:
    hu = batch_of(SHAPES["mixed_sizes"])["hu"]
    matrix = [1.5, 0.25, -3.0, -0.25, 1.25, 2.0]
    (output,) = run_pipeline([{"hu": hu}], affine=matrix)
    each = np.array(matrix, dtype=np.float32).reshape(2, 3)
    assert torch.equal(to_torch(output), expect({"hu": hu, "affine": [each] * len(hu)}))


@pytest.mark.parametrize("n_threads", [1, 4])
def test_content_boxes_are_those_of_torch(n_threads: int) -> None:
    hu = [np.full(shape, -1000, dtype=np.int16) for shape in SHAPES["mixed_sizes"]]
    for k, image in enumerate(hu[:4]):  # the last one stays empty
        image[k // 2 : k + 2, k // 2 : 2 * k + 1] = 100
    (output,) = run_pipeline([{"hu": hu}], operator="content_box", n_threads=n_threads)
    boxes = to_torch(output)
    assert boxes.tolist() == [[0, 0, 1, 2], [0, 0, 2, 2], [1, 1, 5, 4], [1, 1, 7, 5], [0, 0, 0, 0]]
    assert torch.equal(boxes, torch_ops.content_box_packed(*pack(hu), ICH.inputs.windows_hu))


@pytest.mark.parametrize("n_threads", [1, 4])
def test_batches_of_any_length_are_not_overwritten_while_torch_holds_them(n_threads: int) -> None:
    lengths = [3, 1, 8, 2, 8, 5, 1, 7, 8, 4, 6, 2]
    batches = [batch_of([(50 + k, 64)] * n, seed=k) for k, n in enumerate(lengths)]
    held = [to_torch(output) for output in run_pipeline(batches, n_threads=n_threads)]
    assert [len(images) for images in held] == lengths
    for images, batch in zip(held, batches, strict=True):
        assert torch.equal(images, expect(batch))


def test_the_manual_names_units_and_neutral_values() -> None:
    manual = dali_plugin.load().fn.rsna.transform_slices.__doc__
    for text in ("affine : ", "Neutral: [1, 0, 0, 0, 1, 0]", "Hounsfield units", "in HU", "thread_local", "Example::"):
        assert text in manual


def _two(**changes: Any) -> Batch:
    return {"hu": [np.zeros((8, 9), dtype=np.int16)] * 2, "affine": [IDENTITY] * 2, **changes}


BAD_BATCHES: dict[str, tuple[Batch, str]] = {
    "float_hu": (_two(hu=[np.zeros((8, 9), dtype=np.float32)] * 2), "hu must be int16"),
    "three_dimensions": (_two(hu=[np.zeros((1, 8, 9), dtype=np.int16)] * 2), r"shape \[H, W\], not 3 dimensions"),
    "one_pixel": (_two(hu=[np.zeros((1, 1), dtype=np.int16)] * 2), "slice 0: height and width must be 1 to 32767"),
    "singular": (_two(affine=[IDENTITY, IDENTITY * np.float32([[1], [0]])]), "slice 1: its affine matrix is singular"),
    "nan": (_two(affine=[IDENTITY, IDENTITY * np.float32(np.nan)]), "slice 1: its affine matrix is not finite"),
    "float64": (_two(affine=[IDENTITY.astype(float)] * 2), r"slice 0: its affine must be float32 of shape \[2, 3\]"),
    "flat_matrix": (_two(affine=[IDENTITY.ravel()] * 2), r"slice 0: its affine must be float32 of shape \[2, 3\]"),
    "box_outside": (
        _two(source_box=[np.array(box, dtype=np.int32) for box in ([0, 0, 4], [9, 0, 4])]),
        "slice 1: its source box lies outside the slice",
    ),
    "box_int64": (_two(source_box=[np.array([0, 0, 4])] * 2), r"slice 0: its source_box must be int32 of shape \[3\]"),
    "lowest_hu_with_floats": (_two(lowest_hu=[np.array(0, dtype=np.int32)] * 2), "lowest_hu is for dtype uint8 only"),
}
BAD_OPTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "width_zero": ({"windows": [40, 80, 40, 0]}, "window 1: its width"),
    "windows_odd": ({"windows": [40]}, "windows must be pairs"),
    "layout": ({"output_layout": "WHC"}, 'output_layout is "WHC"; it must be "CHW" or "HWC"'),
    "border": ({"border": "reflect"}, 'border is "reflect"; it must be "zero" or "replicate"'),
    "size": ({"size": 0}, "size must be 1 to 16384"),
    "supersample": ({"supersample": 17}, "supersample must be 1 to 16"),
    "mean_of_other_c": ({"mean": [0.5, 0.5]}, "mean must have one number per window"),
    "std_zero": ({"std": [1, 0, 1]}, "channel 1: its std"),
    "box_of_two": ({"source_box": [1, 2]}, "source_box must have 3 numbers, not 2"),
}


@pytest.mark.parametrize(("batch", "message"), BAD_BATCHES.values(), ids=BAD_BATCHES)
def test_bad_batches_are_named(batch: Batch, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        list(run_pipeline([batch]))


@pytest.mark.parametrize(("options", "message"), BAD_OPTIONS.values(), ids=BAD_OPTIONS)
def test_bad_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        list(run_pipeline([_two()], **options))


def test_an_unknown_type_is_named() -> None:
    types = dali_plugin.load().types
    with pytest.raises(ValueError, match="dtype must be FLOAT, FLOAT16, UINT16"):
        list(run_pipeline([_two()], dtype=types.INT32))
    with pytest.raises(ValueError, match="mean and std must be left out with dtype uint8"):
        list(run_pipeline([_two()], dtype=types.UINT8, **NORMALISED))


def test_content_box_names_bad_slices() -> None:
    with pytest.raises(ValueError, match="slice 0: height and width must be 1 to 32767"):
        list(run_pipeline([{"hu": [np.zeros((1, 1), dtype=np.int16)]}], operator="content_box"))


def test_memory_that_torch_has_dropped_is_used_again() -> None:
    batch = batch_of([(64, 64)] * 8)
    addresses = [to_torch(output).data_ptr() for output in run_pipeline([batch] * 40, size=160)]
    assert len(set(addresses[20:])) <= 4
