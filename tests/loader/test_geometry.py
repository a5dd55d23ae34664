import numpy as np
import pytest
import torch

from rsna_e2e.config import AugmentConfig
from rsna_e2e.loader.geometry import crop_affine, crop_squares, draw_augmentation, series_generator, slice_params

FLIP = AugmentConfig(hflip_probability=1, transpose_probability=0, affine_probability=0)
TRANSPOSE = AugmentConfig(hflip_probability=0, transpose_probability=1, affine_probability=0)
BOTH = AugmentConfig(hflip_probability=1, transpose_probability=1, affine_probability=0)
AFFINE = AugmentConfig(hflip_probability=0, transpose_probability=0, affine_probability=1)
F64 = {"rtol": 0, "atol": 1e-9}  # matrices near 1, a few float64 roundings


def _draw(config: AugmentConfig, *, size: int = 100, seed: int = 0) -> np.ndarray:
    return draw_augmentation(series_generator(seed, 1, "series"), config, size=size)


def test_flip_reads_from_the_other_side() -> None:
    np.testing.assert_allclose(_draw(FLIP) @ [0, 7, 1], [99, 7, 1], **F64)


def test_transpose_comes_after_the_flip() -> None:
    # out[y, x] = flipped[x, y] = image[x, 99 - y]
    np.testing.assert_allclose(_draw(TRANSPOSE) @ [3, 7, 1], [7, 3, 1], **F64)
    np.testing.assert_allclose(_draw(BOTH) @ [3, 7, 1], [92, 3, 1], **F64)


def test_affine_draws_stay_in_their_ranges_and_rotate_about_the_centre() -> None:
    no_shift = AFFINE.model_copy(update={"shift_limit": 0.0})
    angles, scales = [], []
    for seed in range(300):
        matrix = np.linalg.inv(_draw(no_shift, seed=seed))
        np.testing.assert_allclose(matrix @ [49.5, 49.5, 1], [49.5, 49.5, 1], **F64)
        scales.append(np.sqrt(np.linalg.det(matrix)))
        angles.append(np.rad2deg(np.arctan2(matrix[0, 1], matrix[0, 0])))
    assert 0.95 <= min(scales) < 0.955
    assert 1.045 < max(scales) <= 1.05
    assert -20 <= min(angles) < -18
    assert 18 < max(angles) <= 20


def test_probabilities_are_kept_over_many_draws() -> None:
    matrices = np.stack([_draw(AugmentConfig(), seed=seed) for seed in range(4000)])
    transposed = np.abs(matrices[:, 0, 1]) > np.abs(matrices[:, 0, 0])
    assert transposed.mean() == pytest.approx(0.5, abs=0.03)  # 4 standard deviations of 4,000 coin tosses
    plain = np.isin(np.abs(matrices[:, :2, :2]), (0.0, 1.0)).all(axis=(1, 2))
    assert plain.mean() == pytest.approx(0.7, abs=0.03)


def test_draw_is_a_pure_function_of_seed_epoch_and_series() -> None:
    def draw(seed: int, epoch: int, key: str) -> np.ndarray:
        return draw_augmentation(series_generator(seed, epoch, key), AFFINE, size=64)

    assert np.array_equal(draw(1, 2, "a"), draw(1, 2, "a"))
    for other in ((2, 2, "a"), (1, 3, "a"), (1, 2, "b")):
        assert not np.array_equal(draw(1, 2, "a"), draw(*other))


def test_resize_keeps_corners_at_corners() -> None:
    # 4 px onto 2: output pixel 0 covers input 0 and 1, so its centre reads at 0.5 past the square's corner
    params = slice_params(np.array([[10, 20, 4]], dtype=np.int32), None, size=2)
    np.testing.assert_allclose(params.affine[0], [[2, 0, 10.5], [0, 2, 20.5]], **F64)


def test_crop_affine_by_hand() -> None:
    content = [[10, 20, 40, 40], [12, 10, 30, 60], [0, 0, 0, 0]]
    # union x 10..40, y 10..60: a square of 50 px from (0, 10) on, each output pixel two of them wide
    affine = crop_affine(torch.tensor(content, dtype=torch.int32), (64, 128), size=25)
    assert (affine.dtype, affine.flags.c_contiguous) == (np.float32, True)
    np.testing.assert_allclose(affine, [[[2, 0, 0.5], [0, 2, 10.5]]] * 3, rtol=0, atol=0)
    # the third slice is empty: it stays whole, a square of 128 px from (0, -32) on
    whole = crop_affine(content, (64, 128), size=64, crop="slice")[2]
    np.testing.assert_allclose(whole, [[2, 0, 0.5], [0, 2, -31.5]], rtol=0, atol=0)


def test_crop_squares_by_hand() -> None:
    content = np.array([[10, 20, 40, 40], [12, 10, 30, 60], [0, 0, 0, 0]])
    shapes = np.array([[64, 128]] * 3)
    assert crop_squares(content, shapes, "none").tolist() == [[0, -32, 128]] * 3
    # union x 10..40, y 10..60: side 50, centred on x = 25
    assert crop_squares(content, shapes, "series").tolist() == [[0, 10, 50]] * 3
    # third slice is empty: it stays whole
    assert crop_squares(content, shapes, "slice").tolist() == [[10, 15, 30], [-4, 10, 50], [0, -32, 128]]


def test_a_series_of_air_stays_whole() -> None:
    assert crop_squares(np.zeros((2, 4), int), np.array([[64, 64]] * 2), "series").tolist() == [[0, 0, 64]] * 2


def test_slices_of_other_matrices_are_cropped_to_the_same_share_of_them() -> None:
    content = np.array([[20, 30, 60, 70], [40, 90, 160, 120], [0, 0, 0, 0]])  # 100 px, 200 px, and air of 50 px
    shapes = np.array([[100, 100], [200, 200], [50, 50]])
    # shares of the matrix: x 0.2..0.8, y 0.3..0.7, so the side is 0.6, centred at 0.5
    assert crop_squares(content, shapes, "series").tolist() == [[20, 20, 60], [40, 40, 120], [10, 10, 30]]
    content[1] = [41, 90, 159, 120]  # 0.205..0.795 lies inside; rounding is outwards
    assert crop_squares(content, shapes, "series").tolist()[2] == [10, 10, 30]
