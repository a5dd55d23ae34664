"""Windows cut out of a resized square, against area means of NumPy: the inputs of the source of the embolism system."""

from dataclasses import replace

import numpy as np
import pytest
import small
import torch

from rsna_e2e.config import AugmentConfig
from rsna_e2e.core.errors import UsageError
from rsna_e2e.loader.geometry import cut_window, draw_augmentation, series_generator
from rsna_e2e.loader.image_loader import ImageLoader
from rsna_e2e.store import Store
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.tasks.task import Inputs

CPU = torch.device("cpu")
BY_500 = Inputs(windows_hu=((1024.0, 4096.0),), mean=(0.25,), std=(500 / 4096,))  # HU / 500 from -1024 to 3072 HU
EC601 = (
    *("image.resize=256", "image.size=224", "image.crop=none", "image.supersample=2"),
    *("augment.vflip_probability=0.5", "augment.hflip_probability=0"),
    *("augment.transpose_probability=0", "augment.affine_probability=0"),
)
FP32 = {"rtol": 0, "atol": 1e-6}  # of values up to 6
N_DRAWS = 64


@pytest.fixture(scope="module")
def hu() -> np.ndarray:
    return np.random.default_rng(1).integers(-1024, 3072, (512, 512))


@pytest.fixture(scope="module")
def store(hu: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Store:
    return small.make_store_of(tmp_path_factory.mktemp("windows"), [[hu]])


@pytest.fixture(scope="module")
def area_means(hu: np.ndarray) -> np.ndarray:
    """The slice reduced to half, in units of 500 HU."""
    return hu.reshape(256, 2, 256, 2).mean(axis=(1, 3)) / 500


def image_of(store: Store, *overrides: str, epoch: int | None) -> np.ndarray:
    loader = ImageLoader(store, small.config(*EC601, *overrides), task=replace(ICH, inputs=BY_500), device=CPU)
    (batch,) = loader.load([(0,)], epoch=epoch)
    return batch.images.numpy()[0, 0]


def place_of(image: np.ndarray, area_means: np.ndarray) -> tuple[int, int, bool] | None:
    """Where the image is a window of the area means: column, row, and whether it is upside down."""
    for is_flipped in (False, True):
        upright = image[::-1] if is_flipped else image
        for y, x in np.argwhere(np.abs(area_means[:33, :33] - upright[0, 0]) < FP32["atol"]):
            if np.allclose(area_means[y : y + 224, x : x + 224], upright, **FP32):
                return int(x), int(y), is_flipped
    return None


def test_training_images_are_random_windows_of_area_means(store: Store, area_means: np.ndarray) -> None:
    places = [place_of(image_of(store, epoch=epoch), area_means) for epoch in range(1, N_DRAWS + 1)]
    assert None not in places
    x, y, is_flipped = np.array(places).T
    assert 20 < is_flipped.sum() < 44  # three standard deviations of 64 coin tosses
    for axis in (x, y):
        assert axis.min() < 4  # of 0 to 32: all of 64 draws above has a chance of 1 in 3,000
        assert axis.max() > 28
    assert abs(np.corrcoef(x, y)[0, 1]) < 0.4


def test_at_rest_the_window_is_in_the_middle(store: Store, area_means: np.ndarray) -> None:
    assert place_of(image_of(store, epoch=None), area_means) == (16, 16, False)


def test_a_window_as_large_as_its_square_is_the_square(store: Store, area_means: np.ndarray) -> None:
    whole = image_of(store, "image.size=256", epoch=None)
    np.testing.assert_allclose(whole, area_means, **FP32)
    assert np.array_equal(image_of(store, "image.size=256", "image.resize=null", epoch=None), whole)


def test_every_whole_pixel_is_as_likely_as_any_other() -> None:
    rng = series_generator(1, 1, "key")
    places = np.array([cut_window(rng, margin_px=2)[:2, 2] for _ in range(3000)])
    for axis in places.T:
        assert np.bincount(axis.astype(int)) == pytest.approx([1000] * 3, abs=110)  # 4 standard deviations


def test_new_draws_leave_those_before_them_as_they_were() -> None:
    # draws of the generator in the order in which the published augmentation took them, from before there were others
    rng = series_generator(7, 3, "key")
    expected = rng.random(3), rng.uniform(-1.0, 1.0, 4)
    flips = AugmentConfig(hflip_probability=1, vflip_probability=1, transpose_probability=0, affine_probability=0)
    matrix = draw_augmentation(series_generator(7, 3, "key"), flips, size=10)
    np.testing.assert_array_equal(matrix @ [2, 3, 1], [7, 6, 1])
    shifted = AugmentConfig(
        hflip_probability=0, transpose_probability=0, affine_probability=1, scale_limit=0, rotate_limit_deg=0
    )
    shift = draw_augmentation(series_generator(7, 3, "key"), shifted, size=100)[:2, 2]
    np.testing.assert_allclose(shift, -5 * expected[1][:2], rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["image.resize=16"], "resize=16 is less than size=32"),
        (["image.resize=64", "image.size_from_epoch={1: 16}"], "leave out one of the two"),
    ],
)
def test_windows_that_cannot_be_cut_are_refused(settings: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        small.config(*settings)
