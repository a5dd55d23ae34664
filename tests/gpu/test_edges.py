"""The short form of the arithmetic, taken inside a slice, gives the bits of the long one wherever it is taken.

What judges is a build in which is_inside never holds, so that every sample goes the long way.
"""

# N slices, H, W input, S output size

import ctypes
import itertools
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import emulation
import numpy as np
import on_host
import pytest
import torch
from on_host import Fault
from transform_cases import TYPES, noise, options, windows

from rsna_e2e.loader.kernels import torch_ops

MATH = "csrc/ct_math.h"
NEVER_INSIDE = Fault(MATH, "return slice.x.pair_low <= source_x", "return false && slice.x.pair_low <= source_x")
WRONG_EDGES = {
    "past_the_last_pair": Fault(MATH, "source_x < slice.x.pair_high + 1.0f", "source_x <= slice.x.pair_high + 1.0f"),
    "before_the_first_pair": Fault(MATH, "slice.y.pair_low <= source_y", "slice.y.pair_low - 0.5f <= source_y"),
    "index_not_exact": Fault(MATH, "kExact = 16777216.0f", "kExact = 33554432.0f"),
    "single_pixel": Fault(MATH, "slice.y.gain_first + slice.y.gain_second == 2.0f", "true"),
}


def compared(folder: Path, n_slices: int, *, seed: int = 1, fault: Fault | None = None) -> tuple[int, str]:
    """Exit code and output of edges.cpp; 0 where no sample differs."""
    root = on_host.ROOT if fault is None else on_host.with_faults(folder / "source", fault)
    flags = ["-O2", "-march=x86-64-v3"]
    objects = on_host.compile_all(
        folder / "objects", "tests/gpu/edges.cpp", "csrc/ct_params.cpp", root=root, flags=flags
    )
    program = on_host.link(folder / "edges", objects)
    done = subprocess.run([program, str(seed), str(n_slices)], capture_output=True, text=True)
    return done.returncode, done.stdout


@pytest.mark.parametrize("n_slices", [1_000_000, pytest.param(30_000_000, marks=pytest.mark.slow)])
def test_short_form_gives_the_bits_of_the_long_one(tmp_path: Path, n_slices: int) -> None:
    code, output = compared(tmp_path, n_slices)
    assert code == 0, output
    n_compared, n_at_edge = map(int, output.split())
    assert n_compared > n_slices
    assert n_at_edge > n_compared / 2


@pytest.mark.parametrize("fault", WRONG_EDGES.values(), ids=WRONG_EDGES)
def test_a_wrong_edge_is_found(tmp_path: Path, fault: Fault) -> None:
    code, output = compared(tmp_path, 1_000_000, fault=fault)
    assert code == 1
    assert output.startswith("width ")


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return emulation.load(tmp_path_factory.mktemp("usual"))


@pytest.fixture(scope="module")
def long_way(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    folder = tmp_path_factory.mktemp("long_way")
    return emulation.load(folder / "objects", on_host.with_faults(folder / "source", NEVER_INSIDE))


def on_cpu(hu: torch.Tensor, affine: torch.Tensor, **chosen: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """The result of every instruction set of this machine."""
    n_channels = chosen.pop("n_channels")
    n, height, width = hu.shape
    extents = (torch.full((n,), extent, dtype=torch.int32) for extent in (height, width))
    packed = (hu.reshape(-1), torch.arange(n) * height * width, *extents)
    lowest_hu = options(n_channels, chosen["dtype"], hu).get("lowest_hu")
    for name in torch_ops.cpu_instruction_sets():
        yield (
            name,
            torch.ops.rsna_e2e.transform_slices(
                *packed, affine, windows(n_channels), instruction_set=name, lowest_hu=lowest_hu, **chosen
            ),
        )


# Units in the last place, and pixels, by which an output's first pixel lies beside the slice's.
BESIDE = ((-2, 0.0), (-1, 0.0), (0, 0.0), (1, 0.0), (2, 0.0), (0, -0.25), (0, 0.25))


def from_edge_to_edge(extent: int, size: int, sign: int, beside: tuple[int, float]) -> tuple[float, np.float32]:
    """Step and first coordinate of an output that is as long as the slice; sign: from which end."""
    n_units, n_pixels = beside
    first = np.float32((0 if sign > 0 else extent - 1) + n_pixels)
    for _ in range(abs(n_units)):
        first = np.nextafter(first, np.float32(n_units * np.inf))
    return sign * (extent - 1) / (size - 1), first


def at_the_edges(height: int, width: int, size: int) -> torch.Tensor:
    """[N, 2, 3]: outputs from edge to edge in x, in y or in both, else in the middle half; of any hand, turned or not.

    In both, no warp is inside: the way in y alone shows what warps do whose rows end at the edge, that in x their last.
    """
    matrices = []
    for swap, sign_x, sign_y in itertools.product((0, 1), (1, -1), (1, -1)):
        for axes, beside in itertools.product(((0,), (1,), (0, 1)), BESIDE):
            matrix = np.zeros((2, 3), dtype=np.float32)
            for axis, (extent, sign) in enumerate(((width, sign_x), (height, sign_y))):
                step, first = from_edge_to_edge(extent, size, sign, beside)
                if axis not in axes:
                    step, first = step / 2, np.float32((extent - 1) * (0.5 - sign / 4))
                matrix[axis, axis ^ swap], matrix[axis, 2] = step, first
            matrices.append(matrix)
    return torch.from_numpy(np.stack(matrices))


def check_edges(usual: ctypes.CDLL, long_way: ctypes.CDLL, height: int, width: int, **chosen: Any) -> None:
    affine = at_the_edges(height, width, chosen["size"])
    hu = noise(len(affine), height, width)
    expected = emulation.transform(long_way, hu, affine, **chosen)
    assert torch.equal(emulation.transform(usual, hu, affine, **chosen), expected)
    for name, result in on_cpu(hu, affine, **chosen):
        assert torch.equal(result, expected), name


EXTENTS = ((33, 40), (64, 64), (2, 2))


@pytest.mark.parametrize(("height", "width"), EXTENTS)
def test_outputs_that_end_at_the_slices_edges(
    usual: ctypes.CDLL, long_way: ctypes.CDLL, height: int, width: int
) -> None:
    for size, channels_last in ((32, True), (33, False)):
        chosen = {"size": size, "n_channels": 3, "dtype": torch.float32, "channels_last": channels_last}
        check_edges(usual, long_way, height, width, **chosen)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("height", "width"), EXTENTS)
def test_outputs_that_end_at_the_slices_edges_in_every_type(
    usual: ctypes.CDLL, long_way: ctypes.CDLL, height: int, width: int, dtype: torch.dtype
) -> None:
    for size in (16, 33, 64, 128):
        for n_channels, channels_last in ((1, False), (3, True)):
            chosen = {"size": size, "n_channels": n_channels, "dtype": dtype, "channels_last": channels_last}
            check_edges(usual, long_way, height, width, **chosen)


def check_far_from_the_anchor(
    usual: ctypes.CDLL, long_way: ctypes.CDLL, hu: torch.Tensor, affine: torch.Tensor, size: int
) -> None:
    chosen: dict[str, Any] = {"size": size, "n_channels": 1, "dtype": torch.float32}
    expected = emulation.transform(long_way, hu, affine, **chosen)
    assert expected.unique().numel() > size  # not all alike
    assert torch.equal(emulation.transform(usual, hu, affine, **chosen), expected)
    for name, result in on_cpu(hu, affine, **chosen):
        assert torch.equal(result, expected), name


@pytest.mark.parametrize("angle", [0, 90, 180, 270, 3])
def test_indices_to_the_last_that_fp32_counts(usual: ctypes.CDLL, long_way: ctypes.CDLL, angle: int) -> None:
    """Rows of 32,767 pixels: 2^24 is passed 512 rows from the anchor, and the output reaches 550."""
    height, width, size = 1101, 32767, 200
    turn = np.deg2rad(angle)
    linear = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) * 1100 / (size - 1)
    middle = np.array([width - 400 if angle == 0 else width / 2, height / 2])
    shift = middle - linear.sum(axis=1) * (size - 1) / 2
    affine = torch.from_numpy(np.column_stack([linear, shift]).astype(np.float32))[None]
    check_far_from_the_anchor(usual, long_way, noise(1, height, width), affine, size)


@pytest.mark.slow
@pytest.mark.parametrize("angle", [0, 90])
def test_the_largest_slice(usual: ctypes.CDLL, long_way: ctypes.CDLL, angle: int) -> None:
    """32,767 x 32,767 pixels, 2.1 GB, of which only the pages with noise in them take memory."""
    extent, size = 32767, 64
    positions = np.linspace(0, extent - 1, size)
    hu = torch.zeros(1, extent, extent, dtype=torch.int16)
    near = np.unique(np.clip(np.concatenate([np.floor(positions), np.floor(positions) + 1]), 0, extent - 1)).astype(int)
    hu[0, near[:, None], near] = noise(1, len(near), len(near))[0]
    step = (extent - 1) / (size - 1)
    rows = [[step, 0.0, 0.0], [0.0, step, 0.0]]
    affine = torch.tensor([rows if angle == 0 else rows[::-1]])
    check_far_from_the_anchor(usual, long_way, hu, affine, size)
