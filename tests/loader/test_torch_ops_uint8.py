"""transform_slices with dtype uint8: the published solution's 8-bit images, level by level."""

# N slices, C channels, H, W input, S output size

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rsna_e2e.loader.kernels import numpy_twin, torch_ops
from rsna_e2e.tasks.ich import ICH

RESIZE_ATOL = 1  # grey level: OpenCV's resize rounds its weights to 1/2048
TWIN_ATOL = 1  # grey level: fp32 and float64 may round to different sides,
TWIN_SHARE = 0.005  # of this many: fp32 coordinates are off by 1e-5 px, which moves noise by up to 0.0025 levels

WINDOWS = ICH.inputs.windows_hu
GOLDEN = Path(__file__).parents[1] / "golden" / "preprocessing.npz"
IDENTITY = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]])


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    """HU of air to bone, which all windows tell apart."""
    return torch.from_numpy(np.random.default_rng(seed).integers(-160, 250, shape, dtype=np.int16))


def rotations(n: int) -> torch.Tensor:
    """[n, 2, 3]: turned and scaled; some of the output lies outside a slice of 90 x 80."""
    matrix = torch.tensor([[1.3, -0.6, 20.0], [0.55, 1.2, -10.0]])
    return matrix * (1 + 0.01 * torch.arange(n)[:, None, None])


def lowest(hu: torch.Tensor) -> torch.Tensor:
    return hu.amin((1, 2)).int()


def levels(hu: list[list[int]], **options: Any) -> Any:
    images = torch_ops.transform_slices(
        torch.tensor([hu], dtype=torch.int16), IDENTITY, [(40.0, 80.0)], size=2, dtype=torch.uint8, **options
    )
    return images[0, 0].tolist()


def test_values_worked_out_by_hand() -> None:
    # 255 / 80 levels per HU: 20 HU is 63.75, 41 is 130.6875; truncated
    assert levels([[0, 20], [41, 90]]) == [[0, 63], [130, 255]]
    # 10 HU subtracted after windowing: 10 HU is 31.875, 31 is 98.8125, 1 - 1/8 is 223.125
    lowest_hu = torch.tensor([10], dtype=torch.int32)
    assert levels([[10, 20], [41, 90]], lowest_hu=lowest_hu) == [[0, 31], [98, 223]]


def test_levels_are_truncated_before_they_are_interpolated_and_then_rounded() -> None:
    half_a_pixel_right = torch.tensor([[[1.0, 0.0, 0.5], [0.0, 1.0, 0.0]]])
    hu = torch.tensor([[[1, 2], [2, 80]]], dtype=torch.int16)  # levels 3.19 and 6.38, or 6.38 and 255
    images = torch_ops.transform_slices(hu, half_a_pixel_right, [(40.0, 80.0)], size=2, dtype=torch.uint8)
    assert images[0, 0].tolist() == [[5, 3], [131, 128]]  # of 4.5, 3 (half is outside: level 0), 130.5 and 127.5


@pytest.mark.parametrize("case", range(6))
def test_every_published_level_before_the_resize(case: int) -> None:
    with np.load(GOLDEN) as golden:
        hu, published = torch.from_numpy(golden[f"hu_{case}"]), torch.from_numpy(golden[f"windowed_{case}"])
    images = torch_ops.transform_slices(
        hu[None], IDENTITY, WINDOWS, size=max(hu.shape), dtype=torch.uint8, lowest_hu=lowest(hu[None])
    )
    height, width = hu.shape
    assert torch.equal(images[0, :, :height:4, :width:4].permute(1, 2, 0), published)


@pytest.mark.parametrize("crop", [True, False])
@pytest.mark.parametrize("case", range(6))
def test_published_images(case: int, crop: bool) -> None:
    with np.load(GOLDEN) as golden:
        hu, kept = torch.from_numpy(golden[f"hu_{case}"]), golden["kept"]
        published = golden[f"resized480_{case}" if crop else f"resized480_nocrop_{case}"]
    height, width = hu.shape
    x0, y0, x_extent, y_extent, source_box = 0, 0, width, height, None
    content = torch_ops.content_box(hu[None], WINDOWS)[0].tolist()
    if crop and any(content):  # the published solution keeps a slice of air as it is
        x0, y0 = content[:2]
        x_extent = y_extent = max(content[2] - x0, content[3] - y0)
        source_box = torch.tensor([[x0, y0, x_extent]], dtype=torch.int32)
    scale_x, scale_y = x_extent / 480, y_extent / 480  # OpenCV's resize: (x + 1/2) scale - 1/2
    affine = torch.tensor([[[scale_x, 0, x0 + 0.5 * scale_x - 0.5], [0, scale_y, y0 + 0.5 * scale_y - 0.5]]])
    options: dict[str, Any] = {"border": "replicate", "source_box": source_box, "lowest_hu": lowest(hu[None])}
    images = torch_ops.transform_slices(hu[None], affine, WINDOWS, size=480, dtype=torch.uint8, **options)
    sampled = images[0].permute(1, 2, 0).numpy()[np.ix_(kept, kept)]
    np.testing.assert_allclose(sampled.astype(int), published.astype(int), rtol=0, atol=RESIZE_ATOL)


@pytest.mark.parametrize("border", ["zero", "replicate"])
@pytest.mark.parametrize("supersample", [1, 2])
@pytest.mark.parametrize("subtract_lowest", [True, False])
def test_equals_the_twin(border: str, supersample: int, subtract_lowest: bool) -> None:
    hu, affine, boxes = noise(2, 90, 80), rotations(2), [(5, 8, 60), (30, 30, 80)]
    options: dict[str, Any] = {"size": 70, "border": border, "supersample": supersample}
    images = torch_ops.transform_slices(
        hu,
        affine,
        WINDOWS,
        dtype=torch.uint8,
        source_box=torch.tensor(boxes, dtype=torch.int32),
        lowest_hu=lowest(hu) if subtract_lowest else None,
        **options,
    )
    expected = numpy_twin.transform_slices_uint8(
        list(hu.numpy()), affine.numpy(), WINDOWS, source_box=boxes, subtract_lowest=subtract_lowest, **options
    )
    difference = np.abs(images.numpy().astype(int) - expected)
    assert difference.max() <= TWIN_ATOL
    assert (difference > 0).mean() < TWIN_SHARE


@pytest.mark.parametrize("channels_last", [False, True])
def test_every_instruction_set_gives_the_same_bits(channels_last: bool) -> None:
    hu = noise(2, 90, 80)
    extents = (torch.full((2,), extent, dtype=torch.int32) for extent in (90, 80))
    packed = (hu.reshape(-1), torch.tensor([0, 7200]), *extents, rotations(2), torch.tensor(WINDOWS))
    options: dict[str, Any] = {"size": 300, "dtype": torch.uint8, "lowest_hu": lowest(hu)}
    usual = torch_ops.transform_slices(hu, rotations(2), WINDOWS, **options)
    for name in torch_ops.cpu_instruction_sets():
        other = torch.ops.rsna_e2e.transform_slices(
            *packed, **options, channels_last=channels_last, instruction_set=name
        )
        assert torch.equal(usual, other), name


def test_opcheck() -> None:
    hu = noise(1, 20, 30)
    extents = (torch.tensor([extent], dtype=torch.int32) for extent in (20, 30))
    packed = (hu.reshape(-1), torch.tensor([0]), *extents, rotations(1), torch.tensor(WINDOWS))
    options = {"size": 20, "dtype": torch.uint8, "lowest_hu": lowest(hu)}
    torch.library.opcheck(torch.ops.rsna_e2e.transform_slices.default, packed, options)


BAD_ARGUMENTS: dict[str, tuple[dict[str, Any], str]] = {
    "mean": ({"mean": [0.5]}, "mean and std must be left out with dtype uint8"),
    "std": ({"std": [0.5]}, "mean and std must be left out with dtype uint8"),
    "lowest_hu_of_floats": ({"dtype": torch.float16}, "lowest_hu is for dtype uint8 only"),
    "lowest_hu_int16": ({"lowest_hu": torch.zeros(2, dtype=torch.int16)}, "lowest_hu must be a contiguous int32"),
    "lowest_hu_of_other_n": ({"lowest_hu": torch.zeros(1, dtype=torch.int32)}, r"lowest_hu must be .* \[2\]"),
    "lowest_hu_no_int16": (
        {"lowest_hu": torch.tensor([0, 32768], dtype=torch.int32)},
        "slice 1: its lowest HU must be -32768 to 32767",
    ),
}


@pytest.mark.parametrize(("changes", "message"), BAD_ARGUMENTS.values(), ids=BAD_ARGUMENTS)
def test_bad_arguments_are_named(changes: dict[str, Any], message: str) -> None:
    hu = noise(2, 8, 9)
    options = {"size": 4, "dtype": torch.uint8, "lowest_hu": lowest(hu), **changes}
    with pytest.raises(ValueError, match=f"transform_slices: {message}"):
        torch_ops.transform_slices(hu, rotations(2), [(40.0, 80.0)], **options)
