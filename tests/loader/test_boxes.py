"""Boxes in the images of the network: against rectangles that the kernel moves, and back to the slice."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import small
import torch

from rsna_e2e.config import AugmentConfig
from rsna_e2e.core.records import Float64Array
from rsna_e2e.loader.batch import BatchBoxes
from rsna_e2e.loader.boxes import source_boxes, transform_boxes
from rsna_e2e.loader.geometry import SliceParams, crop_squares, cut_window, draw_augmentation, slice_params
from rsna_e2e.loader.image_loader import ImageLoader
from rsna_e2e.loader.kernels import torch_ops
from rsna_e2e.store import Store
from rsna_e2e.store.prepare import prepare
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.tasks.pneumonia import PNEUMONIA

N, HEIGHT, WIDTH, SIZE = 1000, 150, 170, 80
WINDOW = [(0.5, 1.0)]  # center, width: the painted 1 stays 1


def random_params(
    rng: np.random.Generator, *, affine_probability: float = 1.0, resized: int = SIZE + 10
) -> SliceParams:
    """Every kind of geometry that images are made with, of N slices: crops, flips, turns, windows of larger squares."""
    augment = AugmentConfig(
        hflip_probability=0.5,
        vflip_probability=0.5,
        transpose_probability=0.5,
        affine_probability=affine_probability,
        shift_limit=0.1,
        scale_limit=0.2,
        rotate_limit_deg=20.0,
    )
    low = rng.integers(0, 30, (N, 2))
    content = np.hstack([low, low + rng.integers(90, 120, (N, 2))])
    squares = crop_squares(content, np.full((N, 2), (HEIGHT, WIDTH)), "slice")
    matrices = [
        cut_window(rng, margin_px=resized - SIZE) @ draw_augmentation(rng, augment, size=SIZE) for _ in range(N)
    ]
    return slice_params(squares, np.stack(matrices), size=resized)


def random_boxes(rng: np.random.Generator) -> Float64Array:
    """Whole pixels, away from the borders of the slice."""
    low = rng.integers(5, 110, (N, 2))
    high = np.minimum(low + rng.integers(10, 50, (N, 2)), (WIDTH - 5, HEIGHT - 5))
    return np.hstack([low, high]).astype(np.float64) - 0.5


def painted(boxes: Float64Array, params: SliceParams) -> Float64Array:
    """The smallest boxes [N, 4] round what the kernel makes of rectangles, NaN where nothing of one is in the image."""
    slices = np.zeros((N, HEIGHT, WIDTH), dtype=np.int16)
    for row, (x0, y0, x1, y1) in enumerate((boxes + 0.5).astype(int)):
        slices[row, y0:y1, x0:x1] = 1
    images = torch_ops.transform_slices(torch.from_numpy(slices), torch.from_numpy(params.affine), WINDOW, size=SIZE)
    found = np.full((N, 4), np.nan)
    for row, image in enumerate(images[:, 0].numpy() > 0.5):
        if image.any():
            y, x = np.nonzero(image)
            found[row] = x.min() - 0.5, y.min() - 0.5, x.max() + 0.5, y.max() + 0.5
    return found


def test_painted_rectangles_are_where_the_matrix_says() -> None:
    """Within a pixel; where a turned rectangle is cut by the border, its box holds what is seen of it."""
    rng = np.random.default_rng(7)
    params, boxes = random_params(rng), random_boxes(rng)
    edges, is_left = transform_boxes(boxes, params.affine, size=SIZE)
    seen = painted(boxes, params)[is_left]
    is_whole = ((edges > -0.5) & (edges < SIZE - 0.5)).all(axis=1)
    assert is_whole.sum() > 250
    assert 0 < (~is_left).sum() < 500
    np.testing.assert_array_less(np.abs(edges - seen)[is_whole], 1.0)
    assert (seen[:, :2] > edges[:, :2] - 1).all()
    assert (seen[:, 2:] < edges[:, 2:] + 1).all()


def test_flipped_and_cropped_rectangles_are_where_the_matrix_says_also_at_the_border() -> None:
    rng = np.random.default_rng(8)
    params, boxes = random_params(rng, affine_probability=0.0), random_boxes(rng)
    edges, is_left = transform_boxes(boxes, params.affine, size=SIZE)
    is_cut = ((edges == -0.5) | (edges == SIZE - 0.5)).any(axis=1)
    assert is_cut.sum() > 100
    np.testing.assert_array_less(np.abs(edges - painted(boxes, params)[is_left]), 1.0)


def test_boxes_come_back() -> None:
    """Exactly where nothing is turned and cut; what was turned lies inside of what comes back."""
    rng = np.random.default_rng(9)
    for probability in (0.0, 1.0):
        params, boxes = random_params(rng, affine_probability=probability), random_boxes(rng)
        edges, is_left = transform_boxes(boxes, params.affine, size=SIZE)
        is_whole = ((edges > -0.5) & (edges < SIZE - 0.5)).all(axis=1)
        kept, matrices = boxes[is_left][is_whole], params.affine[is_left][is_whole]
        back = source_boxes(edges[is_whole], matrices)
        assert len(back) > 250
        assert (back[:, :2] <= kept[:, :2] + 1e-4).all()
        assert (back[:, 2:] >= kept[:, 2:] - 1e-4).all()
        if probability == 0.0:
            np.testing.assert_allclose(back, kept, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("affine", "expected"),
    [
        ([[1, 0, 0], [0, 1, 0]], [1.5, 2.5, 5.5, 4.5]),
        ([[-1, 0, 9], [0, 1, 0]], [3.5, 2.5, 7.5, 4.5]),  # flipped in ten columns: pixels 2 to 5 become 4 to 7
        ([[0, 1, 0], [1, 0, 0]], [2.5, 1.5, 4.5, 5.5]),  # transposed
        ([[0.5, 0, -0.25], [0, 0.5, -0.25]], [3.5, 5.5, 9.5, 9.5]),  # twice as large, cut at the border: 3/4 are left
        ([[1, 0, 2.8], [0, 1, 0]], [-0.5, 2.5, 2.7, 4.5]),  # 80 % are left
        ([[1, 0, 4.7], [0, 1, 0]], [-0.5, 2.5, 0.8, 4.5]),  # 32.5 %
        ([[1, 0, 4.9], [0, 1, 0]], None),  # 27.5 %
    ],
)
def test_boxes_by_hand(affine: list[list[float]], expected: list[float] | None) -> None:
    """Pixels 2 to 5 of rows 3 and 4, in an image of ten pixels a side."""
    edges, is_left = transform_boxes(np.array([[1.5, 2.5, 5.5, 4.5]]), np.array(affine), size=10)
    assert is_left.tolist() == [expected is not None]
    np.testing.assert_allclose(edges, [expected] if expected else np.empty((0, 4)), rtol=0, atol=1e-12)


def test_a_batch_has_the_boxes_of_its_images(tmp_path: Path) -> None:
    """Images are the slices as they are, in one batch of single slices and one of whole series."""
    small.write_raw(tmp_path / "raw")
    (tmp_path / "boxes.csv").write_text(
        "patientId,x,y,width,height,Target\nID_0001,3,4,10,20,1\nID_0001,0,0,32,32,1\nID_0000,,,,,0\nID_0102,1,2,3,4,1\n"
    )
    task = replace(PNEUMONIA, name="spots", inputs=ICH.inputs)
    prepare(tmp_path / "raw", tmp_path / "store", task=task, labels=tmp_path / "boxes.csv", n_folds=2, n_jobs=1)
    store = Store.open(tmp_path / "store")
    row_of = {image: row for row, image in enumerate(store.index["image_id"])}
    config = small.config("image.size=32", "image.crop=none")
    loader = ImageLoader(store, config, task=task, device=torch.device("cpu"))
    names = ("ID_0102", "ID_0100", "ID_0001", "ID_0000")
    (batch,) = loader.load_slices([tuple(row_of[name] for name in names)], epoch=None)
    assert batch.boxes is not None
    assert batch.boxes.images.tolist() == [0, 2, 2]
    assert batch.boxes.classes.tolist() == [0, 0, 0]
    assert batch.boxes.known.tolist() == [True, False, True, True]
    whole, part = [-0.5, -0.5, 31.5, 31.5], [2.5, 3.5, 12.5, 23.5]
    assert batch.boxes.edges.tolist() == [[0.5, 1.5, 3.5, 5.5], whole, part]
    position = next(p for p, span in enumerate(store.series) if span.first_row <= row_of["ID_0001"] < span.rows.stop)
    (batch,) = loader.load([(position,)])
    assert batch.boxes is not None
    place = row_of["ID_0001"] - store.series[position].first_row
    assert batch.boxes.images.tolist() == [place, place]
    assert len(batch.boxes.known) == len(batch.rows)
    with pytest.raises(ValueError, match="boxes must be of the rank's images"):
        replace(batch, boxes=replace(batch.boxes, known=torch.ones(9, dtype=torch.bool)))
    prepare(tmp_path / "raw", tmp_path / "other", task=ICH, n_folds=2, n_jobs=1)
    loader = ImageLoader(Store.open(tmp_path / "other"), config, task=ICH, device=torch.device("cpu"))
    (batch,) = loader.load_slices([(0,)], epoch=None)
    assert batch.boxes is None


def batch(**changed: torch.Tensor) -> BatchBoxes:
    parts = {
        "edges": torch.zeros(2, 4),
        "classes": torch.zeros(2, dtype=torch.int64),
        "images": torch.tensor([0, 2]),
        "known": torch.tensor([True, False, True]),
    }
    return BatchBoxes(**(parts | changed))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"edges": torch.zeros(3, 4)}, r"boxes must be float32 \[K, 4\]"),
        ({"edges": torch.zeros(2, 4, dtype=torch.float64)}, r"boxes must be float32 \[K, 4\]"),
        ({"classes": torch.zeros(2)}, "classes and images of boxes must be int64"),
        ({"images": torch.tensor([0, 3])}, "every box must be of an image"),
        ({"images": torch.tensor([0, 1])}, "an image with a box must be known"),
        ({"known": torch.ones(3)}, "known must be bool"),
    ],
)
def test_boxes_of_a_batch_are_checked(changed: dict[str, torch.Tensor], said: str) -> None:
    assert len(batch().images) == 2
    with pytest.raises(ValueError, match=said):
        batch(**changed)
