"""The operators on a GPU: the bits of the CPU, on the caller's stream and device, with the same complaints."""

# N slices, C channels, H, W input, S output size

from typing import Any

import pytest
import torch
from transform_cases import BOX, SIZES, TYPES, content, noise, options, turned, windows

from rsna_e2e.loader.kernels import torch_ops
from rsna_e2e.tasks.ich import ICH

pytestmark = pytest.mark.needs_cuda


def check(hu: torch.Tensor, affine: torch.Tensor, *, n_channels: int = 3, **chosen: Any) -> None:
    """Runs on both and compares bits: float16 and bfloat16 too, which are rounded from the same float32."""
    chosen = {**options(n_channels, chosen.get("dtype", torch.float32), hu), **chosen}
    on_gpu = torch_ops.transform_slices(hu.cuda(), affine, windows(n_channels), **chosen)
    on_cpu = torch_ops.transform_slices(hu, affine, windows(n_channels), **chosen)
    assert on_gpu.is_cuda
    assert on_gpu.stride() == on_cpu.stride()
    assert torch.equal(on_gpu.cpu(), on_cpu)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("n_channels", range(1, 7))
def test_sizes(n_channels: int, channels_last: bool, dtype: torch.dtype) -> None:
    for size in (*SIZES, 301, 480):
        for zoom in (1.0, 3.0):
            affine = turned(4, 160, 153, size, zoom=zoom)
            check(
                noise(4, 160, 153), affine, size=size, n_channels=n_channels, dtype=dtype, channels_last=channels_last
            )


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("border", ["zero", "replicate"])
@pytest.mark.parametrize("supersample", [1, 2, 3])
@pytest.mark.parametrize("source_box", [None, BOX], ids=["whole", "box"])
def test_borders_boxes_and_supersampling(
    source_box: torch.Tensor | None, supersample: int, border: str, channels_last: bool, dtype: torch.dtype
) -> None:
    for n_channels, size in ((1, 64), (3, 97), (3, 128), (5, 40)):
        check(
            noise(4, 160, 153),
            turned(4, 160, 153, size, zoom=0.8),
            **{"size": size, "n_channels": n_channels, "dtype": dtype, "channels_last": channels_last},
            **{"border": border, "source_box": source_box, "supersample": supersample},
        )


@pytest.mark.parametrize("dtype", TYPES)
def test_full_size(dtype: torch.dtype) -> None:
    check(noise(16, 512, 512), turned(16, 512, 512, 480), size=480, dtype=dtype, channels_last=True)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("first", [0, 1, 3, 5])
def test_slices_of_mixed_sizes_at_odd_addresses(first: int, dtype: torch.dtype) -> None:
    """Packed slices of odd sizes, in a view that begins at any multiple of 2 bytes."""
    shapes = [(50, 37), (2, 2), (3, 301), (1, 37), (128, 128), (33, 2), (37, 1)]
    heights, widths = (torch.tensor(extents, dtype=torch.int32) for extents in zip(*shapes, strict=True))
    counts = heights.long() * widths
    values = noise(1, 1, first + int(counts.sum())).reshape(-1)
    packed = (counts.cumsum(0) - counts, heights, widths)
    affine = torch.cat([turned(1, height, width, 64, zoom=0.9) for height, width in shapes])
    lowest_hu = torch.full((len(shapes),), -2000, dtype=torch.int32) if dtype == torch.uint8 else None
    transform = torch_ops.Transform(windows=windows(3), size=64, dtype=dtype, channels_last=True)
    arguments = (*packed, affine, transform)
    on_gpu = torch_ops.transform_slices_packed(values.cuda()[first:], *arguments, lowest_hu=lowest_hu)
    on_cpu = torch_ops.transform_slices_packed(values[first:], *arguments, lowest_hu=lowest_hu)
    assert torch.equal(on_gpu.cpu(), on_cpu)
    boxes = torch_ops.content_box_packed(values.cuda()[first:], *packed, windows(3))
    assert torch.equal(boxes.cpu(), torch_ops.content_box_packed(values[first:], *packed, windows(3)))


@pytest.mark.parametrize(("height", "width"), [(512, 512), (500, 333), (2, 2), (31, 1000), (1000, 8), (1, 9), (9, 1)])
def test_content_box(height: int, width: int) -> None:
    hu = content(9, height, width)
    boxes = torch_ops.content_box(hu.cuda(), windows(2))
    assert boxes.is_cuda
    assert torch.equal(boxes.cpu(), torch_ops.content_box(hu, windows(2)))
    assert boxes[0].tolist() == [0, 0, width, height]
    assert boxes[3].tolist() == [0, 0, 0, 0]


def test_more_slices_than_a_grid_holds() -> None:
    n = 70_001
    check(noise(n, 2, 3), turned(n, 2, 3, 2), size=2, dtype=torch.float16, channels_last=True)
    check(noise(n, 2, 3), turned(n, 2, 3, 2), size=2, n_channels=2)
    hu = content(n, 2, 3)
    assert torch.equal(torch_ops.content_box(hu.cuda(), windows(1)).cpu(), torch_ops.content_box(hu, windows(1)))


def test_more_output_than_32_bits_count() -> None:
    """The last of many slices is where indices would have wrapped; slices are alike, so one shows what all must be."""
    size, n = 1024, 700  # 2.2e9 values
    if torch.cuda.mem_get_info()[0] < 2 * 3 * n * size * size + 2**30:
        pytest.skip("needs 5.4 GB of free GPU memory")
    hu, affine = noise(1, 64, 64), turned(1, 64, 64, size)
    chosen: dict[str, Any] = {"size": size, "dtype": torch.float16, "channels_last": True}
    expected = torch_ops.transform_slices(hu, affine, windows(3), **chosen).cuda()
    many = torch_ops.transform_slices(hu.cuda().repeat(n, 1, 1), affine.repeat(n, 1, 1), windows(3), **chosen)
    for i in (0, 681, 682, 683, n - 1):
        assert torch.equal(many[i : i + 1], expected)


@pytest.mark.parametrize("search", [False, True], ids=["transform_slices", "content_box"])
def test_work_goes_to_the_callers_stream(search: bool) -> None:
    """A long wait is queued before the input is written: only work that queues behind it sees the input."""
    hu, affine = content(4, 512, 500), turned(4, 512, 500, 301)

    def compute(values: torch.Tensor) -> torch.Tensor:
        if search:
            return torch_ops.content_box(values, ICH.inputs.windows_hu)
        return torch_ops.transform_slices(values, affine, ICH.inputs.windows_hu, size=301)

    expected = compute(hu)
    hu_gpu = torch.full_like(hu, -1000, device="cuda")
    pinned = hu.pin_memory()
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)
        hu_gpu.copy_(pinned, non_blocking=True)
        result = compute(hu_gpu)
    stream.synchronize()
    assert torch.equal(result.cpu(), expected)


def test_the_values_device_computes() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs a second GPU")
    hu, affine = noise(4, 160, 153), turned(4, 160, 153, 64)
    result = torch_ops.transform_slices(hu.to("cuda:1"), affine, windows(3), size=64)
    assert result.device == torch.device("cuda:1")
    assert torch.equal(result.cpu(), torch_ops.transform_slices(hu, affine, windows(3), size=64))
    assert torch.cuda.current_device() == 0


@pytest.mark.parametrize("dtype", TYPES)
def test_empty_batch(dtype: torch.dtype) -> None:
    hu = torch.empty(0, 64, 64, dtype=torch.int16, device="cuda")
    result = torch_ops.transform_slices(hu, torch.empty(0, 2, 3), ICH.inputs.windows_hu, size=32, dtype=dtype)
    assert result.is_cuda
    assert result.shape == (0, 3, 32, 32)
    assert torch_ops.content_box(hu, ICH.inputs.windows_hu).shape == (0, 4)


def test_parameters_must_stay_on_the_host() -> None:
    hu, affine = noise(4, 160, 153), turned(4, 160, 153, 32)
    with pytest.raises(ValueError, match=r"affine must be .* on the CPU"):
        torch_ops.transform_slices(hu.cuda(), affine.cuda(), ICH.inputs.windows_hu, size=32)
    with pytest.raises(ValueError, match="values must be on the GPU"):
        torch_ops.transform_slices(hu, affine.cuda(), ICH.inputs.windows_hu, size=32)


def test_opcheck() -> None:
    hu, affine = noise(2, 40, 40), turned(2, 40, 40, 20)
    extents = torch.full((2,), 40, dtype=torch.int32)
    packed = (hu.reshape(-1).cuda(), torch.tensor([0, 1600]), extents, extents)
    pairs = torch.tensor(ICH.inputs.windows_hu)
    for dtype in TYPES:
        chosen = {"size": 20, "dtype": dtype}
        torch.library.opcheck(torch.ops.rsna_e2e.transform_slices.default, (*packed, affine, pairs), chosen)
    torch.library.opcheck(torch.ops.rsna_e2e.content_box.default, (*packed, pairs))
