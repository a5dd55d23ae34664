"""Boxes become masks and masks become boxes: hand-made ones, and there and back."""

import numpy as np
import pytest
import torch

from rsna_e2e.model.masks import components, filled


def _map(text: str) -> np.ndarray:
    """A map of tenths: 9 is 0.9."""
    return np.array([[int(cell) / 10 for cell in row] for row in text.split()], dtype=np.float32)


@pytest.mark.parametrize(
    ("edges", "rows", "columns"),
    [
        ((-0.5, -0.5, 1.5, 0.5), [0], [0, 1]),
        ((1.2, 2.0, 3.8, 3.0), [2], [2, 3]),  # a centre on the upper edge is in, one on the lower is not
        ((-9.0, -9.0, 9.0, 0.4), [0], [0, 1, 2, 3, 4]),
        ((1.1, 1.1, 1.9, 1.9), [], []),  # between centres
    ],
)
def test_a_box_holds_the_pixels_whose_centres_lie_in_it(
    edges: tuple[float, ...], rows: list[int], columns: list[int]
) -> None:
    expected = torch.zeros(5, 5, dtype=torch.bool)
    for row in rows:
        expected[row, columns] = True
    assert torch.equal(filled(torch.tensor([edges]), size=5), expected[None])


def test_no_boxes_are_no_masks() -> None:
    assert filled(torch.zeros(0, 4), size=7).shape == (0, 7, 7)


def test_connected_cells_become_boxes_by_falling_mean_probability() -> None:
    edges, scores = components(
        _map("""
        90000
        09006
        00008
        00000
        07000
        """),
        threshold=0.6,
    )
    assert edges.dtype == scores.dtype == np.float32
    np.testing.assert_array_equal(edges, [[3.5, 0.5, 4.5, 2.5], [0.5, 3.5, 1.5, 4.5], [-0.5, -0.5, 1.5, 1.5]])
    np.testing.assert_allclose(scores, [0.7, 0.7, 0.45], rtol=1e-6)  # of the last, which meets at a corner: 1.8 / 4


def test_small_boxes_are_dropped_and_cells_are_squares_of_pixels() -> None:
    cells = _map("800 000 088")
    edges, scores = components(cells, threshold=0.5, least_area_px=17, cell_px=4)
    np.testing.assert_array_equal(edges, [[3.5, 7.5, 11.5, 11.5]])
    assert len(components(cells, threshold=0.5, least_area_px=16, cell_px=4)[0]) == 2
    assert len(components(cells, threshold=0.9)[0]) == 0
    assert scores.shape == (1,)


def test_of_many_boxes_the_best_hundred_are_left() -> None:
    cells = np.zeros((32, 32), dtype=np.float32)
    cells[::2, ::2] = np.random.default_rng(0).uniform(0.5, 1, (16, 16))
    _, scores = components(cells, threshold=0.5)
    np.testing.assert_array_equal(scores, np.sort(cells[cells > 0])[::-1][:100])


@pytest.mark.parametrize("seed", range(5))
def test_boxes_on_the_edges_of_pixels_come_back_exactly(seed: int) -> None:
    """One in each quarter of the image, at a distance from the others."""
    rng = np.random.default_rng(seed)
    first = rng.integers(1, 8, (4, 2)) + np.array([[0, 0], [16, 0], [0, 16], [16, 16]])
    boxes = np.hstack([first, first + rng.integers(1, 8, (4, 2))]) - 0.5
    masks = filled(torch.from_numpy(boxes), size=32)
    scores = np.array([0.9, 0.8, 0.7, 0.6], dtype=np.float32)
    cells = (masks.numpy() * scores[:, None, None]).max(axis=0)
    edges, found = components(cells, threshold=0.5)
    np.testing.assert_array_equal(edges, boxes)
    np.testing.assert_allclose(found, scores, rtol=1e-6)
