"""The published solution's 8-bit images as the loader makes them, beside the default, quirk by quirk."""

# N slices, C channels, H, W input, S output side

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small
import torch

from rsna_e2e.core.errors import UsageError
from rsna_e2e.loader.batch import SeriesBatch
from rsna_e2e.loader.division import Division
from rsna_e2e.loader.geometry import draw_augmentation, series_generator
from rsna_e2e.loader.image_loader import ImageLoader
from rsna_e2e.loader.kernels import numpy_twin, torch_ops
from rsna_e2e.loader.published_images import LEVELS, read_jpeg, write_jpeg
from rsna_e2e.store import Store
from rsna_e2e.tasks.ich import ICH

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = range(6)
CPU = torch.device("cpu")

RESIZE_ATOL = 1  # grey level: OpenCV's resize rounds its weights to 1/2048
TWIN_ATOL = 1  # grey level: fp32 and float64 may round to different sides,
TWIN_SHARE = 0.005  # of this many
WHOLE_LEVELS = {"rtol": 0, "atol": 1e-3}  # of 255: normalised in float32 and back
FP32 = {"rtol": 0, "atol": 2e-6}  # of values around 1
PUBLISHED = ("image.square=upper_left", "image.crop=slice")


@pytest.fixture(scope="module")
def golden() -> Any:
    with np.load(GOLDEN / "preprocessing.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def store(golden: Any, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A series of one slice for every golden case."""
    return small.make_store_of(tmp_path_factory.mktemp("published"), [[golden[f"hu_{case}"]] for case in CASES])


def batches_of(store: Store, *overrides: str, number: int = 0, **options: Any) -> SeriesBatch:
    """The series that was written as that `number`, by itself."""
    loader = ImageLoader(store, small.config(*overrides), task=ICH, device=CPU)
    (position,) = (
        p for p, s in enumerate(store.series) if store.index["image_id"][s.first_row] == f"ID_{number:02d}00"
    )
    (batch,) = loader.load([(position,)], epoch=options.pop("epoch", None), **options)
    return batch


def levels_of(images_NCSS: torch.Tensor) -> np.ndarray:
    """Grey levels [N, S, S, C] that normalised images were made from; whole numbers."""
    mean, std = (np.reshape(of, (1, -1, 1, 1)) for of in (ICH.inputs.mean, ICH.inputs.std))
    levels = (images_NCSS.numpy().astype(np.float64) * std + mean) * 255
    np.testing.assert_allclose(levels, levels.round(), **WHOLE_LEVELS)
    return levels.round().astype(np.uint8).transpose(0, 2, 3, 1)


def load_levels(store: Store, *overrides: str, **options: Any) -> np.ndarray:
    """Levels [N, S, S, C] of a series with values=uint8, unless overridden."""
    return levels_of(batches_of(store, "image.values=uint8", *overrides, **options).images[:])


def disc(side: int, *, centre: tuple[int, int], radius: int) -> np.ndarray:
    """A smooth disc of tissue in air, int16 HU."""
    y, x = np.meshgrid(np.arange(side), np.arange(side), indexing="ij")
    edge = np.clip((radius - np.hypot(x - centre[0], y - centre[1])) / 4, 0, 1)
    return (-1000 + 1060 * edge).astype(np.int16)


# Golden images


@pytest.mark.parametrize("case", CASES)
def test_every_level_is_the_published_one(golden: Any, store: Store, case: int) -> None:
    height, width = golden[f"hu_{case}"].shape
    side = max(height, width)
    (levels,) = load_levels(store, "image.crop=none", f"image.size={side}", number=case)
    left = (side - width) // 2  # what is not square lies in the middle by default
    assert np.array_equal(levels[::4, left : left + width : 4], golden[f"windowed_{case}"])


@pytest.mark.parametrize("case", CASES)
def test_every_crop_is_the_published_one(golden: Any, store: Store, case: int) -> None:
    (levels,) = load_levels(store, *PUBLISHED, f"image.size={golden[f'side_{case}']}", number=case)
    assert np.array_equal(levels[::4, ::4], golden[f"cropped_{case}"])


@pytest.mark.parametrize("crop", ["slice", "none"])
@pytest.mark.parametrize("case", CASES)
def test_resized_images_are_the_published_ones(golden: Any, store: Store, case: int, crop: str) -> None:
    name = f"resized480_{case}" if crop == "slice" else f"resized480_nocrop_{case}"
    (levels,) = load_levels(store, *PUBLISHED, f"image.crop={crop}", "image.size=480", number=case)
    sampled = levels[np.ix_(golden["kept"], golden["kept"])]
    np.testing.assert_allclose(sampled.astype(int), golden[name].astype(int), rtol=0, atol=RESIZE_ATOL)


# JPEG


def test_jpeg_has_opencvs_bytes_and_levels() -> None:
    with np.load(GOLDEN / "jpeg.npz") as file:
        arrays = dict(file)
    numbers = [int(name.removeprefix("image_")) for name in arrays if name.startswith("image_")]
    assert len(numbers) == 10
    for number in numbers:
        file = write_jpeg(arrays[f"image_{number}"].transpose(2, 0, 1))
        assert file == arrays[f"file_{number}"].tobytes()
        assert np.array_equal(read_jpeg(file).transpose(1, 2, 0), arrays[f"decoded_{number}"])


def test_the_window_of_levels_keeps_every_level() -> None:
    levels = torch.arange(256, dtype=torch.int16).reshape(1, 16, 16)
    identity = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]])
    again = torch_ops.transform_slices(levels, identity, LEVELS, size=16, dtype=torch.uint8)
    assert torch.equal(again[0, 0].short(), levels[0])


@pytest.fixture(scope="module")
def discs(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A series of three slices: a disc, air, and a larger disc elsewhere; and one of slices that are not square."""
    slices = [disc(160, centre=(61, 83), radius=30), np.full((160, 160), -1000), disc(160, centre=(90, 70), radius=41)]
    wide = np.pad(slices[0], ((0, 0), (0, 40)), constant_values=-1000)
    return small.make_store_of(tmp_path_factory.mktemp("discs"), [slices, [wide, wide[:100]]])


def content(levels_SSC: np.ndarray) -> tuple[int, int, int, int]:
    """x0, y0, x1, y1 of what is above 0."""
    rows, columns = np.flatnonzero(levels_SSC.any((1, 2))), np.flatnonzero(levels_SSC.any((0, 2)))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def test_jpeg_makes_boxes_grow_to_its_blocks(discs: Store) -> None:
    whole = ("image.crop=none", "image.size=160")
    plain, through = load_levels(discs, *whole), load_levels(discs, *whole, "image.values=jpeg")
    expected = read_jpeg(write_jpeg(plain[0].transpose(2, 0, 1))).transpose(1, 2, 0)
    assert np.array_equal(through[0], expected)
    x0, y0, x1, y1 = content(through[0])
    inner = content(plain[0])
    assert (x0 < inner[0], y0 < inner[1], x1 > inner[2], y1 > inner[3]) == (True,) * 4
    assert inner == (35, 57, 88, 110)  # soft tissue begins at -148 HU, 26.8 px from (61, 83)
    side = max(x1 - x0, y1 - y0)
    cropped = load_levels(discs, *PUBLISHED, "image.values=jpeg", f"image.size={side}")[0]
    assert np.array_equal(cropped[: y1 - y0, : x1 - x0], through[0, y0:y1, x0:x1])
    assert not cropped[y1 - y0 :].any()
    assert not cropped[:, x1 - x0 :].any()


def test_jpeg_lets_windows_bleed_into_each_other(tmp_path: Path) -> None:
    # columns of 160 and 175 HU: above brain and soft tissue at 230 alike, apart in the subdural window alone
    hu = np.full((32, 32), -1000, dtype=np.int16)
    hu[8:24, 8:24] = np.where(np.arange(16) % 2, 82, 120)
    store = small.make_store_of(tmp_path, [[hu]])
    whole = ("image.crop=none", "image.size=32")
    plain, through = load_levels(store, *whole), load_levels(store, *whole, "image.values=jpeg")
    assert (plain[0, 8:24, 8:24, 0] == 255).all()
    assert (through[0, 8:24, 8:24, 0] < 255).any()


# Quirks: the published way, and the default


def test_windows_count_from_the_slices_lowest_value_or_from_their_floor(tmp_path: Path) -> None:
    hu = np.full((4, 4), 10, dtype=np.int16)
    hu[1, 2] = 31
    store = small.make_store_of(tmp_path, [[hu]])
    whole = ("image.crop=none", "image.size=4")
    # brain window, 0 to 80 HU: 31 is 98.8 of 255, 10 is 31.875; their difference is 66.9
    (levels,) = load_levels(store, *whole)
    assert (levels[0, 0, 0], levels[1, 2, 0]) == (0, 66)
    default = batches_of(store, *whole).images[0, 0] * ICH.inputs.std[0] + ICH.inputs.mean[0]
    torch.testing.assert_close(default[[0, 1], [0, 2]], torch.tensor([10 / 80, 31 / 80]), **FP32)


def test_a_crop_counts_from_the_slices_lowest_value_too(tmp_path: Path) -> None:
    hu = np.full((40, 40), 10, dtype=np.int16)  # no air: the store finds content everywhere
    hu[10:20, 5:25] = 60
    store = small.make_store_of(tmp_path, [[hu]])
    (levels,) = load_levels(store, *PUBLISHED, "image.size=20")
    assert levels[:10].all()
    assert not levels[10:].any()
    default = batches_of(store, "image.crop=slice", "image.size=40").images[0, 0]
    assert default.unique().numel() == 2  # both, and nothing beyond


def test_levels_are_cut_off_or_not_made_at_all(tmp_path: Path) -> None:
    hu = np.array([[-1000, 20], [41, 90]], dtype=np.int16)
    store = small.make_store_of(tmp_path, [[hu]])
    whole = ("image.crop=none", "image.size=2")
    (levels,) = load_levels(store, *whole)
    assert levels[..., 0].tolist() == [[0, 63], [130, 255]]  # of 63.75 and 130.6875
    default = batches_of(store, *whole).images[0, 0] * ICH.inputs.std[0] + ICH.inputs.mean[0]
    torch.testing.assert_close(default, torch.tensor([[0, 0.25], [41 / 80, 1]]), **FP32)


def test_a_crop_lies_in_the_upper_left_of_its_square_or_in_the_middle(tmp_path: Path) -> None:
    hu = np.full((64, 64), -1000, dtype=np.int16)
    hu[10:50, 20:30] = 60  # 40 high, 10 wide
    store = small.make_store_of(tmp_path, [[hu]])
    upper_left = load_levels(store, *PUBLISHED, "image.size=40")[0]
    centred = load_levels(store, "image.crop=slice", "image.size=40")[0]
    assert content(upper_left) == (0, 0, 10, 40)
    assert content(centred) == (15, 0, 25, 40)
    for square, x0 in (("upper_left", 0), ("center", 15)):  # in full depth too, by whatever backend
        image = batches_of(store, "image.crop=slice", f"image.square={square}", "image.size=40").images[0]
        assert (image[0, 0] > 0).nonzero().flatten().tolist() == list(range(x0, x0 + 10))


def test_a_dot_is_cropped_to_three_pixels_or_to_one(tmp_path: Path) -> None:
    hu = np.full((16, 16), -1000, dtype=np.int16)
    hu[7, 7] = 60
    store = small.make_store_of(tmp_path, [[hu]])
    assert content(load_levels(store, *PUBLISHED, "image.size=3")[0]) == (0, 0, 1, 1)
    assert content(load_levels(store, "image.crop=slice", "image.size=3")[0]) == (0, 0, 3, 3)


def test_a_black_slice_stays_whole_and_does_not_disturb_its_series(discs: Store) -> None:
    published = load_levels(discs, *PUBLISHED, "image.size=60")
    assert not published[1].any()
    assert published[0].any()
    assert published[2].any()
    default = batches_of(discs, "image.size=60").images
    black = (torch.tensor(0.0) - torch.tensor(ICH.inputs.mean)) / torch.tensor(ICH.inputs.std)
    torch.testing.assert_close(default[1], black[:, None, None].expand(3, 60, 60), **FP32)


def test_each_slice_has_its_own_scale_or_the_series_has_one(discs: Store) -> None:
    published = load_levels(discs, *PUBLISHED, "image.size=80")
    assert content(published[0]) == content(published[2]) == (0, 0, 80, 80)
    default = load_levels(discs, "image.crop=series", "image.size=80")
    widths = [x1 - x0 for x0, _, x1, _ in (content(default[0]), content(default[2]))]
    assert widths[0] < 0.8 * widths[1]  # 59 and 81 pixels of one square


def test_slices_that_are_not_square_are_stretched_or_padded(discs: Store) -> None:
    # the disc is 53 px wide and high, from (35, 57) on, in 160 x 200 and in 100 x 200
    for values in ("hu", "uint8"):
        options = (f"image.values={values}", "image.crop=none", "image.size=100")
        images = batches_of(discs, *options, "image.square=upper_left", number=1).images
        for image, (height, width) in zip(images, ((160, 200), (100, 200)), strict=True):
            x0, y0, x1, y1 = content((image > image.amin((1, 2), keepdim=True)).permute(1, 2, 0).numpy())
            assert abs((x1 - x0) - 53 * 100 / width) <= 2  # a pixel more at each side that shows a bit of it
            assert abs((y1 - y0) - min(53, height - 57) * 100 / height) <= 2
        x0, y0, x1, y1 = content((batches_of(discs, *options, number=1).images[0] > 0).permute(1, 2, 0).numpy())
        assert abs((x1 - x0) - (y1 - y0)) <= 1


# What 8-bit images have in common with all


@pytest.mark.parametrize("values", ["uint8", "jpeg"])
@pytest.mark.parametrize("epoch", [None, 2])
@pytest.mark.parametrize("crop", ["none", "series", "slice"])
def test_images_are_the_same_whole_by_chunk_and_slice_by_slice(
    discs: Store, values: str, epoch: int | None, crop: str
) -> None:
    settings = (f"image.values={values}", *PUBLISHED, f"image.crop={crop}", "image.size=50")
    whole = batches_of(discs, *settings, epoch=epoch)
    lazy = batches_of(discs, *settings, "loader.transform=chunk", epoch=epoch)
    assert lazy.images.shape == whole.images.shape
    assert torch.equal(torch.cat([lazy.images[i : i + 2] for i in range(0, len(whole.labels), 2)]), whole.images)
    assert whole.images.is_contiguous(memory_format=torch.channels_last)
    loader = ImageLoader(discs, small.config(*settings), task=ICH, device=CPU)
    (mixed,) = loader.load_slices([(int(whole.rows[2]), int(whole.rows[0]))], epoch=epoch)
    assert torch.equal(mixed.images, whole.images[[2, 0]])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_images_in_half_precision_are_those_of_full_precision_rounded(discs: Store, dtype: torch.dtype) -> None:
    config = small.config("image.values=uint8")
    single, half = (
        next(ImageLoader(discs, config, task=ICH, device=CPU, dtype=of).load([(0,)], epoch=None)).images
        for of in (torch.float32, dtype)
    )
    assert torch.equal(half, single.to(dtype))


def assert_is_twin(
    hu: np.ndarray,
    folder: Path,
    *overrides: str,
    epoch: int | None,
    resize: np.ndarray,
    box: tuple[int, int, int] | None,
) -> None:
    """Images of 48 px are those of the float64 twin, with `resize` [3, 3] composed with the epoch's augmentation."""
    store = small.make_store_of(folder, [[hu]])
    settings = (*PUBLISHED, "image.size=48", "augment.affine_probability=1", *overrides)
    config, matrix = small.config(*settings), resize
    if epoch is not None:
        rng = series_generator(config.seed, epoch, store.series[0].series_key)
        matrix = resize @ draw_augmentation(rng, config.augment, size=48)
    expected = numpy_twin.transform_slices_uint8(
        [hu],
        matrix[None, :2].astype(np.float32),
        ICH.inputs.windows_hu,
        size=48,
        border="replicate",
        source_box=None if box is None else [box],
        subtract_lowest=True,
    )
    levels = load_levels(store, *settings, epoch=epoch)
    difference = np.abs(levels.transpose(0, 3, 1, 2).astype(int) - expected)
    assert difference.max() <= TWIN_ATOL
    assert (difference > 0).mean() < TWIN_SHARE


@pytest.mark.parametrize("epoch", [None, *range(1, 7)])
def test_in_training_the_squares_edges_are_repeated_and_what_is_beyond_the_crop_is_black(
    tmp_path: Path, epoch: int | None
) -> None:
    hu = np.full((64, 64), -1000, dtype=np.int16)
    hu[10:50, 20:40] = np.random.default_rng(0).integers(-100, 200, (40, 20))
    resize = np.array([[40 / 48, 0, 20 + 20 / 48 - 0.5], [0, 40 / 48, 10 + 20 / 48 - 0.5], [0, 0, 1]])
    assert_is_twin(hu, tmp_path, epoch=epoch, resize=resize, box=(20, 10, 40))


@pytest.mark.parametrize("epoch", [None, *range(1, 4)])
def test_the_edges_of_a_stretched_slice_are_its_own(tmp_path: Path, epoch: int | None) -> None:
    hu = np.random.default_rng(0).integers(-100, 200, (30, 60)).astype(np.int16)
    resize = np.array([[60 / 48, 0, 30 / 48 - 0.5], [0, 30 / 48, 15 / 48 - 0.5], [0, 0, 1]])
    assert_is_twin(hu, tmp_path, "image.crop=none", epoch=epoch, resize=resize, box=None)


def test_ranks_without_a_slice_get_an_empty_batch(discs: Store) -> None:
    config = small.config("image.values=jpeg", *PUBLISHED)
    divisions = [Division(rank=rank, n_ranks=4) for rank in range(4)]
    loaders = [ImageLoader(discs, config, task=ICH, device=CPU, division=division) for division in divisions]
    sizes = [len(next(loader.load([(0,)], epoch=1)).images) for loader in loaders]
    assert sizes == [0, 1, 1, 1]


def test_dali_does_not_make_8_bit_images(store: Store) -> None:
    assert ImageLoader(store, small.config("image.values=uint8"), task=ICH, device=CPU).backend == "torch"
    with pytest.raises(UsageError, match=r"image\.values=jpeg needs torch's operator"):
        batches_of(store, "image.values=jpeg", "loader.backend=dali")
    with pytest.raises(UsageError, match=r"image\.square=upper_left without a crop needs torch's"):
        batches_of(store, "image.square=upper_left", "image.crop=none", "loader.backend=dali")
