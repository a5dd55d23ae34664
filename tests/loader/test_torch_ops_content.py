"""content_box on the CPU, against NumPy and against boxes known beforehand."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from rsna_e2e.loader.kernels import torch_ops
from rsna_e2e.store.content_box import content_box, content_threshold_hu
from rsna_e2e.tasks.ich import ICH

WINDOWS = ICH.inputs.windows_hu
THRESHOLD_HU = content_threshold_hu(WINDOWS)
HEIGHT, WIDTH = 37, 70
Box = tuple[int, int, int, int]


def slice_with(box: Box, *, inside_hu: int = THRESHOLD_HU, outside_hu: int = THRESHOLD_HU - 1) -> torch.Tensor:
    """[HEIGHT, WIDTH] int16 whose content is this box."""
    x0, y0, x1, y1 = box
    hu = torch.full((HEIGHT, WIDTH), outside_hu, dtype=torch.int16)
    hu[y0:y1, x0:x1] = inside_hu
    return hu


BOXES: dict[str, Box] = {
    "air": (0, 0, 0, 0),
    "single_pixel": (33, 20, 34, 21),
    "top_left": (0, 0, 1, 1),
    "top_right": (WIDTH - 1, 0, WIDTH, 1),
    "bottom_left": (0, HEIGHT - 1, 1, HEIGHT),
    "bottom_right": (WIDTH - 1, HEIGHT - 1, WIDTH, HEIGHT),
    "full": (0, 0, WIDTH, HEIGHT),
    "middle": (5, 7, 66, 30),
}


@pytest.mark.parametrize("levels", [(THRESHOLD_HU, THRESHOLD_HU - 1), (32767, -32768)], ids=["closest", "widest"])
def test_boxes_known_beforehand(levels: tuple[int, int]) -> None:
    inside_hu, outside_hu = levels
    hu = torch.stack([slice_with(box, inside_hu=inside_hu, outside_hu=outside_hu) for box in BOXES.values()])
    boxes = torch_ops.content_box(hu, WINDOWS)
    assert boxes.dtype == torch.int32
    assert [tuple(box) for box in boxes.tolist()] == list(BOXES.values())


def test_separate_islands_share_one_box() -> None:
    hu = torch.maximum(slice_with((3, 30, 5, 31)), slice_with((60, 2, 61, 4)))
    assert torch_ops.content_box(hu[None], WINDOWS).tolist() == [[3, 2, 61, 31]]


@pytest.mark.parametrize("windows", [WINDOWS, [(40.0, 80.0)], [(127.5, 255.0)], [(-500.0, 1400.0), (600.0, 2800.0)]])
def test_slices_of_any_sizes_equal_the_twin(windows: list[tuple[float, float]]) -> None:
    rng = np.random.default_rng(3)
    slices = []
    for height, width in ((2, 2), (90, 33), (5, 300), (257, 129)):
        hu = rng.integers(-1100, -900, (height, width), dtype=np.int16)
        x, y = rng.integers(0, width, 3), rng.integers(0, height, 3)
        hu[y, x] = rng.integers(-200, 60, 3)
        slices.append(hu)
    extents = np.array([hu.shape for hu in slices], dtype=np.int32)
    boxes = torch_ops.content_box_packed(
        torch.from_numpy(np.concatenate([hu.reshape(-1) for hu in slices])),
        torch.from_numpy(np.cumsum([0, *(hu.size for hu in slices[:-1])])),
        torch.from_numpy(extents[:, 0].copy()),
        torch.from_numpy(extents[:, 1].copy()),
        windows,
    )
    assert boxes.tolist() == [list(content_box(hu, windows) or (0, 0, 0, 0)) for hu in slices]


@pytest.mark.parametrize(
    ("window", "expected"), [((40000.0, 100.0), [[0, 0, 0, 0]]), ((-40000.0, 100.0), [[0, 0, WIDTH, HEIGHT]])]
)
def test_windows_beyond_every_hu(window: tuple[float, float], expected: list[list[int]]) -> None:
    hu = torch.full((1, HEIGHT, WIDTH), -32768, dtype=torch.int16)
    hu[0, 3, 3] = 32767
    assert torch_ops.content_box(hu, [window]).tolist() == expected


def test_empty_batch() -> None:
    boxes = torch_ops.content_box(torch.empty(0, 8, 8, dtype=torch.int16), WINDOWS)
    assert boxes.shape == (0, 4)
    assert boxes.dtype == torch.int32


def test_input_need_not_be_contiguous() -> None:
    hu = slice_with(BOXES["middle"])
    assert torch_ops.content_box(hu.t().contiguous().t()[None], WINDOWS).tolist() == [list(BOXES["middle"])]


def test_opcheck() -> None:
    extents = (torch.tensor([extent], dtype=torch.int32) for extent in (HEIGHT, WIDTH))
    packed = (slice_with(BOXES["middle"]).reshape(-1), torch.tensor([0]), *extents, torch.tensor(WINDOWS))
    torch.library.opcheck(torch.ops.rsna_e2e.content_box.default, packed)


HU = torch.zeros(2, 8, 9, dtype=torch.int16)
BAD_ARGUMENTS: dict[str, tuple[tuple[torch.Tensor, Any], str]] = {
    "float_hu": ((HU.float(), WINDOWS), "content_box: values must be a contiguous int16"),
    "one_slice_without_n": ((HU[0], WINDOWS), r"hu must have shape \[N, H, W\]"),
    "one_pixel": ((HU[:, :1, :1], WINDOWS), "content_box: slice 0: height and width must be 1 to 32767"),
    "no_windows": ((HU, torch.empty(0, 2)), "content_box: windows must have shape .* C at least 1"),
    "windows_flat": ((HU, [40.0, 80.0]), "content_box: windows must have shape"),
    "width_zero": ((HU, [(40.0, 80.0), (40.0, 0.0)]), "content_box: window 1: its width"),
    "width_nan": ((HU, [(40.0, math.nan)]), "content_box: window 0: its width"),
    "center_infinite": ((HU, [(math.inf, 80.0)]), "content_box: window 0: its center"),
}


@pytest.mark.parametrize(("arguments", "message"), BAD_ARGUMENTS.values(), ids=BAD_ARGUMENTS)
def test_bad_arguments_are_named(arguments: tuple[torch.Tensor, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        torch_ops.content_box(*arguments)


def test_slices_outside_the_values_are_refused() -> None:
    extents = (torch.tensor([extent], dtype=torch.int32) for extent in (8, 9))
    with pytest.raises(ValueError, match="slice 0: its offset and size lie outside the values"):
        torch_ops.content_box_packed(HU.reshape(-1), torch.tensor([73]), *extents, WINDOWS)
