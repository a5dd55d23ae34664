"""transform_slices on the CPU: against the NumPy twin, against published images, and against itself."""

# N slices, C channels, H, W input, S output size

import math
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rsna_e2e.loader.kernels import numpy_twin, torch_ops
from rsna_e2e.store.content_box import content_box
from rsna_e2e.tasks.ich import ICH

NOISE_ATOL = 2e-4  # fp32 coordinates up to 2048 resolve 1.2e-4 px, and noise changes by up to 1 per pixel
PHANTOM_ATOL = 2e-5  # smooth inputs forgive that; what is left is the rounding of values
PUBLISHED_ATOL = 2 / 255  # the published images are truncated to 8 bits before and rounded after their resize

WINDOWS = ICH.inputs.windows_hu
GOLDEN = Path(__file__).parents[1] / "golden" / "preprocessing.npz"
IDENTITY = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]])
Boxes = list[tuple[int, int, int]]


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    """int16 over its whole range."""
    values = np.random.default_rng(seed).integers(-32768, 32768, shape, dtype=np.int16)
    return torch.from_numpy(values)


def affine_matrices(n: int, *, seed: int, scale: float, centre: float, size: int) -> torch.Tensor:
    """[n, 2, 3]: any rotation, scale to within 30 %, some flipped, the output's centre near `centre`."""
    rng = np.random.default_rng(seed)
    angle, flip = rng.uniform(0, 2 * math.pi, n), rng.choice([-1.0, 1.0], n)
    scale_n = scale * rng.uniform(0.7, 1.3, n)
    linear = np.stack([[np.cos(angle) * flip, -np.sin(angle)], [np.sin(angle) * flip, np.cos(angle)]]) * scale_n
    linear = linear.transpose(2, 0, 1)
    shift = centre * rng.uniform(0.5, 1.5, (n, 2, 1)) - linear.sum(axis=2, keepdims=True) * (size - 1) / 2
    return torch.from_numpy(np.concatenate([linear, shift], axis=2).astype(np.float32))


def expect(hu: torch.Tensor, affine: torch.Tensor, **options: Any) -> torch.Tensor:
    return torch.from_numpy(numpy_twin.transform_slices(list(hu.numpy()), affine.numpy(), WINDOWS, **options))


def assert_near(result: torch.Tensor, expected: torch.Tensor, atol: float) -> None:
    torch.testing.assert_close(result.double(), expected, rtol=0, atol=atol)


# Values


def test_values_worked_out_by_hand() -> None:
    hu = torch.tensor([[[0, 40], [80, 20]]], dtype=torch.int16)  # windowed by (40, 80): 0, 0.5, 1, 0.25
    half_a_pixel_right = torch.tensor([[[1.0, 0.0, 0.5], [0.0, 1.0, 0.0]]])
    zero = torch_ops.transform_slices(hu, half_a_pixel_right, [(40.0, 80.0)], size=2)
    assert zero.tolist() == [[[[0.25, 0.25], [0.625, 0.125]]]]
    replicate = torch_ops.transform_slices(hu, half_a_pixel_right, [(40.0, 80.0)], size=2, border="replicate")
    assert replicate.tolist() == [[[[0.25, 0.5], [0.625, 0.25]]]]
    normalised = torch_ops.transform_slices(hu, IDENTITY, [(40.0, 80.0)], size=2, mean=[0.5], std=[0.25])
    assert normalised.tolist() == [[[[-2.0, 0.0], [2.0, -1.0]]]]


def test_source_box_hides_what_is_outside_and_replicates_its_own_edge() -> None:
    hu = torch.full((1, 4, 4), 80, dtype=torch.int16)
    box = torch.tensor([[2, 1, 3]], dtype=torch.int32)  # columns 2, 3 and one beyond the slice; rows 1, 2, 3
    options: dict[str, Any] = {"size": 5, "source_box": box}
    zero = torch_ops.transform_slices(hu, IDENTITY, [(40.0, 80.0)], **options)[0, 0]
    expected = torch.zeros(5, 5)
    expected[1:4, 2:4] = 1
    assert torch.equal(zero, expected)
    replicate = torch_ops.transform_slices(hu, IDENTITY, [(40.0, 80.0)], border="replicate", **options)[0, 0]
    expected = torch.ones(5, 5)
    expected[:, 4] = 0
    assert torch.equal(replicate, expected)


BOXES: dict[str, Boxes | None] = {
    "none": None,
    "inside": [(10, 20, 90), (0, 0, 50), (5, 5, 1)],
    "partly_outside": [(-30, 40, 400), (40, -20, 60), (95, 120, 50)],
}


@pytest.mark.parametrize("border", ["zero", "replicate"])
@pytest.mark.parametrize("boxes", BOXES.values(), ids=BOXES)
@pytest.mark.parametrize("supersample", [1, 3])
def test_noise_equals_float64(border: str, boxes: Boxes | None, supersample: int) -> None:
    hu = noise(3, 131, 97)
    affine = affine_matrices(3, seed=1, scale=1.5, centre=50, size=90)
    tensor = None if boxes is None else torch.tensor(boxes, dtype=torch.int32)
    options: dict[str, Any] = {"size": 90, "border": border, "supersample": supersample}
    result = torch_ops.transform_slices(hu, affine, WINDOWS, source_box=tensor, **options)
    assert_near(result, expect(hu, affine, source_box=boxes, **options), NOISE_ATOL)


@pytest.mark.parametrize(("height", "width"), [(1, 97), (97, 1), (1, 2), (2, 1)])
@pytest.mark.parametrize("border", ["zero", "replicate"])
@pytest.mark.parametrize("supersample", [1, 3])
def test_a_single_row_or_column_equals_float64(border: str, supersample: int, height: int, width: int) -> None:
    hu = noise(4, height, width)
    affine = affine_matrices(4, seed=2, scale=0.05, centre=0.5, size=40)  # about a pixel and its surroundings
    affine[:, 0, 2] += 0.4 * width
    affine[:, 1, 2] += 0.4 * height
    for boxes in (None, [(0, 0, 60), (-5, -5, 6), (0, 0, 1), (-1, 0, 2)]):
        tensor = None if boxes is None else torch.tensor(boxes, dtype=torch.int32)
        options: dict[str, Any] = {"size": 40, "border": border, "supersample": supersample}
        result = torch_ops.transform_slices(hu, affine, WINDOWS, source_box=tensor, **options)
        expected = expect(hu, affine, source_box=boxes, **options)
        assert expected.max() > 0
        assert_near(result, expected, NOISE_ATOL)


@pytest.mark.parametrize(
    ("n", "size"), [(2, 256), pytest.param(24, 480, marks=pytest.mark.slow)], ids=["scaled_down", "full"]
)
@pytest.mark.parametrize("border", ["zero", "replicate"])
def test_noise_of_768_px_equals_float64_with_coordinates_to_2048(n: int, size: int, border: str) -> None:
    for seed in range(n):
        hu = noise(1, 768, 768, seed=seed)
        affine = affine_matrices(1, seed=seed, scale=1200 / size, centre=500, size=size)
        corners = affine[0].double() @ torch.tensor([[0.0, size, 0, size], [0, 0, size, size], [1, 1, 1, 1]]).double()
        affine *= min(1.0, 2048 / corners.abs().max().item())
        result = torch_ops.transform_slices(hu, affine, WINDOWS, size=size, border=border)
        assert_near(result, expect(hu, affine, size=size, border=border), NOISE_ATOL)


def test_phantoms_equal_float64() -> None:
    """Discs of tissue in a shell of bone in air, their edges blurred over some pixels as a scanner's are."""
    y, x = np.meshgrid(np.arange(512.0), np.arange(512.0), indexing="ij")
    hu = []
    for k in range(3):
        radius = np.hypot(x - 250 - 9 * k, (y - 260) * 1.2)
        shell, brain = (1 / (1 + np.exp((radius - edge) / 1.5)) for edge in (200, 185 - 5 * k))
        hu.append(np.rint(-1000 + 2000 * shell - 965 * brain + 20 * np.sin(x / 9) * np.cos(y / 7)).astype(np.int16))
    hu_NHW = torch.from_numpy(np.stack(hu))
    affine = affine_matrices(3, seed=4, scale=1.0, centre=256, size=240)
    options: dict[str, Any] = {"size": 240, "border": "replicate"}
    assert_near(
        torch_ops.transform_slices(hu_NHW, affine, WINDOWS, **options), expect(hu_NHW, affine, **options), PHANTOM_ATOL
    )


@pytest.mark.parametrize("crop", [True, False])
@pytest.mark.parametrize("case", range(6))
def test_published_images(case: int, crop: bool) -> None:
    with np.load(GOLDEN) as golden:
        hu, kept = golden[f"hu_{case}"], golden["kept"]
        published = golden[f"resized480_{case}" if crop else f"resized480_nocrop_{case}"]
    height, width = hu.shape
    x0, y0, x_extent, y_extent, source_box = 0, 0, width, height, None
    content = content_box(hu, WINDOWS)
    if crop and content is not None:  # the published solution keeps a slice of air as it is
        x0, y0 = content[:2]
        x_extent = y_extent = max(content[2] - x0, content[3] - y0)
        source_box = torch.tensor([[x0, y0, x_extent]], dtype=torch.int32)
    scale_x, scale_y = x_extent / 480, y_extent / 480  # OpenCV's resize: (x + 1/2) scale - 1/2
    affine = torch.tensor(
        [[[scale_x, 0, x0 + 0.5 * scale_x - 0.5], [0, scale_y, y0 + 0.5 * scale_y - 0.5]]], dtype=torch.float32
    )
    result = torch_ops.transform_slices(
        torch.from_numpy(hu)[None], affine, WINDOWS, size=480, border="replicate", source_box=source_box
    )
    sampled = result[0][:, kept][:, :, kept].permute(1, 2, 0)
    assert_near(sampled, torch.from_numpy(published).double() / 255, PUBLISHED_ATOL)


# One arithmetic: however it is computed, the same bits


def sample_arguments(n: int = 4) -> tuple[torch.Tensor, torch.Tensor, dict[str, Any]]:
    affine = affine_matrices(n, seed=2, scale=1.2, centre=60, size=61)
    return noise(n, 120, 133), affine, {"size": 61, "mean": ICH.inputs.mean, "std": ICH.inputs.std}


def packed_arguments() -> tuple[torch.Tensor, ...]:
    hu, affine, _ = sample_arguments()
    n, height, width = hu.shape
    sizes = (torch.full((n,), extent, dtype=torch.int32) for extent in (height, width))
    return hu.reshape(-1), torch.arange(n) * height * width, *sizes, affine, torch.tensor(WINDOWS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("channels_last", [False, True])
def test_every_instruction_set_gives_the_same_bits(dtype: torch.dtype, channels_last: bool) -> None:
    options: dict[str, Any] = {"size": 61, "dtype": dtype, "channels_last": channels_last, "border": "replicate"}
    arguments = packed_arguments()
    usual = torch.ops.rsna_e2e.transform_slices(*arguments, **options)
    assert torch_ops.cpu_instruction_sets()[-1] == "baseline"
    for name in torch_ops.cpu_instruction_sets():
        other = torch.ops.rsna_e2e.transform_slices(*arguments, instruction_set=name, **options)
        assert torch.equal(usual, other), name


def test_any_number_of_threads_gives_the_same_bits() -> None:
    hu, affine, options = sample_arguments(8)
    n_threads = torch.get_num_threads()
    results = []
    try:
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            results.append(torch_ops.transform_slices(hu, affine, WINDOWS, **options))
    finally:
        torch.set_num_threads(n_threads)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_calls_from_several_python_threads_do_not_disturb_each_other() -> None:
    hu, affine, options = sample_arguments(8)
    expected = torch_ops.transform_slices(hu, affine, WINDOWS, **options)
    results: list[torch.Tensor] = []

    def work() -> None:
        results.extend(torch_ops.transform_slices(hu, affine, WINDOWS, **options) for _ in range(5))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 20
    assert all(torch.equal(result, expected) for result in results)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("std", [1.0, 1e-6, 1e6, 300.0], ids=["usual", "overflow", "subnormal", "small"])
def test_half_types_are_float32_rounded_to_nearest(dtype: torch.dtype, std: float) -> None:
    hu, affine, options = sample_arguments()
    options.update(mean=[0.25] * 3, std=[std] * 3)
    rounded = torch_ops.transform_slices(hu, affine, WINDOWS, **options).to(dtype)
    assert torch.equal(torch_ops.transform_slices(hu, affine, WINDOWS, dtype=dtype, **options), rounded)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("n_channels", [1, 2, 3, 5])
def test_channels_last_holds_the_same_values(dtype: torch.dtype, n_channels: int) -> None:
    hu, affine, _ = sample_arguments()
    windows = [(40.0 + 5 * c, 80.0 + c) for c in range(n_channels)]
    plain = torch_ops.transform_slices(hu, affine, windows, size=61, dtype=dtype)
    last = torch_ops.transform_slices(hu, affine, windows, size=61, dtype=dtype, channels_last=True)
    assert last.is_contiguous(memory_format=torch.channels_last)
    assert plain.shape == (4, n_channels, 61, 61)
    assert torch.equal(plain, last)


def test_slices_of_different_sizes_in_one_call() -> None:
    slices = [noise(2, 2), noise(70, 33), noise(5, 300)]
    affine = affine_matrices(3, seed=5, scale=1.0, centre=20, size=40)
    packed = torch_ops.transform_slices_packed(
        torch.cat([hu.reshape(-1) for hu in slices]),
        torch.tensor([0, 4, 4 + 70 * 33]),
        torch.tensor([2, 70, 5], dtype=torch.int32),
        torch.tensor([2, 33, 300], dtype=torch.int32),
        affine,
        torch_ops.Transform(windows=WINDOWS, size=40),
    )
    for n, hu in enumerate(slices):
        alone = torch_ops.transform_slices(hu[None], affine[n : n + 1], WINDOWS, size=40)
        assert torch.equal(packed[n], alone[0])
        assert_near(alone, expect(hu[None], affine[n : n + 1], size=40), NOISE_ATOL)


def test_output_wider_than_a_block_equals_its_parts() -> None:
    hu = noise(1, 64, 64)
    wide = torch_ops.transform_slices(hu, IDENTITY * 0.1, WINDOWS, size=600)
    shifted = IDENTITY * 0.1
    shifted[0, 0, 2] = 0.1 * 590
    part = torch_ops.transform_slices(hu, shifted, WINDOWS, size=10)
    assert_near(wide[..., :10, 590:], part.double(), NOISE_ATOL)


def test_input_need_not_be_contiguous() -> None:
    hu, affine, options = sample_arguments()
    strided = torch.empty(4, 133, 120, dtype=torch.int16).transpose(1, 2).copy_(hu)
    assert not strided.is_contiguous()
    expected = torch_ops.transform_slices(hu, affine, WINDOWS, **options)
    assert torch.equal(torch_ops.transform_slices(strided, affine, WINDOWS, **options), expected)


@pytest.mark.parametrize("channels_last", [False, True])
def test_empty_batch(channels_last: bool) -> None:
    hu = torch.empty(0, 64, 64, dtype=torch.int16)
    images = torch_ops.transform_slices(hu, torch.empty(0, 2, 3), WINDOWS, size=32, channels_last=channels_last)
    assert images.shape == (0, 3, 32, 32)


# The operator in torch


@pytest.mark.parametrize("channels_last", [False, True])
def test_opcheck(channels_last: bool) -> None:
    options = {"size": 20, "dtype": torch.float16, "channels_last": channels_last, "mean": torch.zeros(3)}
    torch.library.opcheck(torch.ops.rsna_e2e.transform_slices.default, packed_arguments(), options)


def test_compiles_without_a_graph_break() -> None:
    hu, affine, options = sample_arguments()

    def double(hu: torch.Tensor, affine: torch.Tensor) -> torch.Tensor:
        return 2 * torch_ops.transform_slices(hu, affine, WINDOWS, **options)

    compiled = torch.compile(double, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(hu, affine), double(hu, affine))
