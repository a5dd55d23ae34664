"""What cells of a terminal show is what NumPy says that they show."""

import numpy as np
import pytest

from rsna_e2e.terminal.picture import (
    MODEL_COLOURS,
    half_blocks,
    mapped_picture,
    model_colour,
    outline,
    overlay,
    plain_picture,
    shaded,
)


def test_a_cell_shows_two_pixels() -> None:
    picture = np.random.default_rng(0).random((6, 4, 3)).astype(np.float32)
    upper, lower = half_blocks(picture)
    assert upper.shape == lower.shape == (3, 4, 3)
    for row in range(3):
        for column in range(4):
            for channel in range(3):
                assert upper[row, column, channel] == round(255 * float(picture[2 * row, column, channel]))
                assert lower[row, column, channel] == round(255 * float(picture[2 * row + 1, column, channel]))


def test_what_is_beyond_black_and_white_is_black_and_white() -> None:
    upper, lower = half_blocks(np.array([[[-0.2, 0.5, 1.3]], [[0.0, 1.0, 1.0]]], dtype=np.float32))
    assert upper.tolist() == [[[0, 128, 255]]]
    assert lower.tolist() == [[[0, 255, 255]]]


def test_an_outline_is_the_edge_of_a_region() -> None:
    region = np.array([[0, 0, 0, 0, 0], [0, 1, 1, 1, 0], [0, 1, 1, 1, 0], [0, 1, 1, 1, 1]], dtype=bool)
    expected = np.array([[0, 0, 0, 0, 0], [0, 1, 1, 1, 0], [0, 1, 0, 1, 0], [0, 1, 1, 1, 1]], dtype=bool)
    np.testing.assert_array_equal(outline(region), expected)


def test_the_overlay_has_the_mean_in_red_and_each_model_in_its_colour() -> None:
    grey = np.full((4, 4), 0.5, dtype=np.float32)
    first, second = np.zeros((2, 4, 4), dtype=np.float32)
    first[0, 0], first[2, 2], second[2, 3], second[3, 0] = 1.0, 0.4, 0.6, 0.3
    picture = overlay(grey, [first, second])
    expected = np.full((4, 4, 3), 0.5)
    for place, mean in (((2, 2), 0.2), ((3, 0), 0.15)):  # below half of their brightest: no outline
        expected[place] = 0.5 * (1 - 0.6 * mean) + np.array([1, 0, 0]) * 0.6 * mean
    expected[0, 0] = np.array(MODEL_COLOURS[0][1]) / 255
    expected[2, 3] = np.array(MODEL_COLOURS[1][1]) / 255
    np.testing.assert_allclose(picture, expected, rtol=0, atol=1e-6)


def test_colours_begin_again_after_the_last() -> None:
    assert model_colour(len(MODEL_COLOURS)) == MODEL_COLOURS[0]
    assert len({colour for _, colour in MODEL_COLOURS}) == len(MODEL_COLOURS)


def test_without_a_heatmap_a_picture_is_grey() -> None:
    grey = np.random.default_rng(1).random((4, 4)).astype(np.float32)
    np.testing.assert_array_equal(mapped_picture(grey, np.zeros_like(grey)), plain_picture(grey))
    assert not np.array_equal(mapped_picture(grey, np.ones_like(grey)), plain_picture(grey))


@pytest.mark.parametrize("share", [None, 0.0, 0.49])
def test_characters_are_fuller_where_it_is_brighter(share: float | None) -> None:
    grey = np.array([[0.0, 0.5, 1.0], [0.0, 0.5, 0.5]], dtype=np.float32)
    assert shaded(grey, None if share is None else np.full_like(grey, share)) == [" =#"]


def test_characters_tell_the_tenths_of_a_heatmap() -> None:
    grey = np.zeros((4, 3), dtype=np.float32)
    share = np.array([[0.5, 0.0, 1.0], [0.0, 0.77, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.6001]], dtype=np.float32)
    assert shaded(grey, share) == ["579", "  6"]
