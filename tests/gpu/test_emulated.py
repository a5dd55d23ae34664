"""The CUDA kernels' source, run on the host: the bits of the CPU kernel, and no value written outside the output."""

import ctypes
from typing import Any

import emulation
import pytest
import torch
from emulation import pointer
from transform_cases import BOX, SIZES, TYPES, content, noise, options, turned, windows

from rsna_e2e.loader.kernels import torch_ops

BITS = {torch.float32: torch.int32, torch.bfloat16: torch.int16, torch.uint8: torch.uint8}


@pytest.fixture(scope="module")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return emulation.load(tmp_path_factory.mktemp("emulated"))


def check(emulated: ctypes.CDLL, hu: torch.Tensor, affine: torch.Tensor, *, shift: int = 0, **chosen: Any) -> None:
    """Runs both and compares. shift: the output begins so many values after a multiple of 16 bytes."""
    result = emulation.transform(emulated, hu, affine, shift=shift, **chosen)
    n_channels = chosen.pop("n_channels")
    lowest_hu = options(n_channels, chosen["dtype"], hu).get("lowest_hu")
    expected = torch_ops.transform_slices(hu, affine, windows(n_channels), lowest_hu=lowest_hu, **chosen)
    assert result.stride() == expected.stride()
    assert torch.equal(result, expected)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("n_channels", [1, 3])
def test_sizes_inside_and_across_the_border(
    emulated: ctypes.CDLL, n_channels: int, dtype: torch.dtype, channels_last: bool
) -> None:
    hu = noise(2, 40, 53)
    for size in SIZES:
        for zoom in (1.0, 3.0):
            affine = turned(2, 40, 53, size, zoom=zoom)
            check(emulated, hu, affine, size=size, n_channels=n_channels, dtype=dtype, channels_last=channels_last)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(("n_channels", "supersample"), [(2, 1), (3, 1), (1, 2), (6, 3)])
@pytest.mark.parametrize("dtype", TYPES)
def test_boxes_and_supersampling(
    emulated: ctypes.CDLL, dtype: torch.dtype, n_channels: int, supersample: int, channels_last: bool
) -> None:
    hu, affine = noise(4, 40, 53), turned(4, 40, 53, 33)
    chosen: dict[str, Any] = {"size": 33, "dtype": dtype, "channels_last": channels_last, "source_box": BOX}
    for border in ("zero", "replicate"):
        check(emulated, hu, affine, n_channels=n_channels, supersample=supersample, border=border, **chosen)


@pytest.mark.parametrize(("height", "width"), [(1, 53), (53, 1), (1, 2), (2, 1)])
@pytest.mark.parametrize("dtype", TYPES)
def test_a_single_row_or_column(emulated: ctypes.CDLL, dtype: torch.dtype, height: int, width: int) -> None:
    hu, affine = noise(4, height, width), turned(4, height, width, 33, zoom=0.1)
    for n_channels, border in ((3, "replicate"), (2, "zero")):
        check(emulated, hu, affine, size=33, n_channels=n_channels, dtype=dtype, channels_last=True, border=border)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shift", [1, 2, 3])
def test_output_that_is_not_aligned(emulated: ctypes.CDLL, shift: int, dtype: torch.dtype) -> None:
    hu, affine = noise(2, 40, 53), turned(2, 40, 53, 64)
    # The kernel stores pairs of values; torch and DALI hand out memory that is aligned to more than that.
    check(emulated, hu, affine, shift=shift, size=64, n_channels=3, dtype=dtype, channels_last=True)


def check_one_writer(emulated: ctypes.CDLL, **chosen: Any) -> None:
    """Every value is written by blocks of one colour. A value may be like one fill, but not like two."""
    hu, affine = noise(2, 40, 53), turned(2, 40, 53, 264)
    n_writers = torch.zeros(2, chosen["n_channels"], 264, 264, dtype=torch.int32)
    try:
        for colour in range(8):
            emulated.choose_colour(colour)
            one, other = (
                emulation.transform(emulated, hu, affine, size=264, fill=fill, **chosen) for fill in (0xA5, 0x5A)
            )
            n_writers += one.view(BITS[one.dtype]) == other.view(BITS[one.dtype])
    finally:
        emulated.choose_colour(-1)
    assert (n_writers == 1).all()


@pytest.mark.parametrize("dtype", BITS)
@pytest.mark.parametrize(("n_channels", "channels_last"), [(1, False), (3, False), (3, True)])
def test_no_value_is_written_by_two_blocks(
    emulated: ctypes.CDLL, dtype: torch.dtype, n_channels: int, channels_last: bool
) -> None:
    check_one_writer(emulated, n_channels=n_channels, dtype=dtype, channels_last=channels_last)


@pytest.mark.slow
def test_more_slices_than_a_grid_holds(emulated: ctypes.CDLL) -> None:
    n = 65_537
    check(emulated, noise(n, 2, 2), turned(n, 2, 2, 1), size=1, n_channels=1, dtype=torch.float32)


def test_no_slices(emulated: ctypes.CDLL) -> None:
    pairs = windows(1)
    nothing = (None, ctypes.c_int64(0), 8, 8)
    assert emulated.emulate(*nothing, None, None, 1, pointer(pairs), *(1, 1, 0, 0, 0), None, None) == 0
    assert emulated.emulate_content(*nothing, 1, pointer(pairs), None) == 0


@pytest.mark.parametrize(("height", "width", "offset"), [(30, 41, 0), (30, 264, 0), (30, 264, 1), (2, 8, 0), (2, 2, 0)])
def test_search_for_content(emulated: ctypes.CDLL, height: int, width: int, offset: int) -> None:
    memory = torch.empty(5 * height * width + offset, dtype=torch.int16)
    hu = memory[offset:].view(5, height, width).copy_(content(5, height, width))
    pairs = windows(1)
    expected = torch_ops.content_box(hu, pairs)
    boxes = torch.full_like(expected, -1)
    failure = emulated.emulate_content(
        *(pointer(hu), ctypes.c_int64(5), height, width, 1, pointer(pairs), pointer(boxes))
    )
    assert failure == 0
    assert torch.equal(boxes, expected)
    assert (expected[3] == 0).all()
    assert expected[0].tolist() == [0, 0, width, height]
