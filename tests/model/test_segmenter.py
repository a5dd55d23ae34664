"""The segmenter: its shape and losses are those of the published network, and it learns where boxes are."""

import math
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch.nn import functional

from rsna_e2e.config import SegmenterConfig
from rsna_e2e.core.errors import UsageError
from rsna_e2e.loader.batch import BatchBoxes
from rsna_e2e.model.masks import filled
from rsna_e2e.model.segmenter import Segmenter
from rsna_e2e.tasks.boxes import make_boxes
from rsna_e2e.tasks.metrics.boxes import union_iou

SIDE = 64
SMALL = {"width": 4, "depth": 2, "blocks": 1}
BOXES = [[(8, 12, 24, 20)], [], [(4, 4, 16, 16), (40, 36, 20, 24)]]  # x, y, width, height on three images


@pytest.fixture(autouse=True)
def _one_thread(one_thread: None) -> None:
    torch.manual_seed(0)


def _boxes(placed: list[list[tuple[int, ...]]]) -> BatchBoxes:
    flat = [(image, *box) for image, of_image in enumerate(placed) for box in of_image]
    values = torch.tensor(flat, dtype=torch.float32).reshape(-1, 5)
    corners = values[:, 1:3] - 0.5
    return BatchBoxes(
        edges=torch.hstack([corners, corners + values[:, 3:]]),
        classes=torch.zeros(len(flat), dtype=torch.int64),
        images=values[:, 0].to(torch.int64),
        known=torch.ones(len(placed), dtype=torch.bool),
    )


def _images(placed: list[list[tuple[int, ...]]]) -> torch.Tensor:
    """Noise, brighter in boxes."""
    images = 0.3 * torch.randn(len(placed), 1, SIDE, SIDE)
    for image, of_image in zip(images, placed, strict=True):
        for x, y, width, height in of_image:
            image[0, y : y + height, x : x + width] += 1
    return images


def _segmenter(**changes: object) -> Segmenter:
    return Segmenter(SegmenterConfig.model_validate({**SMALL, **changes}), n_channels=1)


def _total(losses: Mapping[str, torch.Tensor]) -> torch.Tensor:
    return torch.stack(list(losses.values())).sum()


def test_the_network_has_the_published_number_of_weights() -> None:
    """Convolutions: 9 x 32, then of each level 1x1 from half its maps, and four 3x3; norms have two for each map; the
    last layer has 512 and a bias. It gives one logit for 16 x 16 px."""
    network = Segmenter(SegmenterConfig(), n_channels=1).eval()
    levels = [64, 128, 256, 512]
    convolutions = 9 * 32 + sum(w // 2 * w + 4 * 9 * w * w for w in levels)
    norms = 2 * (sum(w // 2 + 4 * w for w in levels) + 512)
    assert sum(weight.numel() for weight in network.parameters()) == convolutions + norms + 513
    assert sum(weight.numel() for weight in network.backbone.parameters()) == convolutions + norms
    with torch.no_grad():
        assert network(torch.zeros(2, 1, 96, 96)).shape == (2, 6, 6)


def test_losses_are_those_of_the_enlarged_map() -> None:
    """As the published code computes them, image by image."""
    network, images, boxes = _segmenter().eval(), _images(BOXES), _boxes(BOXES)
    logits = functional.interpolate(network(images)[:, None], scale_factor=4, mode="nearest")[:, 0]
    expected = {"bce": 0.0, "iou": 0.0}
    for image, image_logits in enumerate(logits):
        truth = filled(boxes.edges[boxes.images == image], size=SIDE).any(0).float()
        p = image_logits.sigmoid()
        both, either = (p * truth).sum(), (p + truth - p * truth).sum()
        expected["bce"] += 0.4 * functional.binary_cross_entropy_with_logits(image_logits, truth).item()
        expected["iou"] += 0.6 * (1 - (both + 1) / (either + 1)).item()
    losses = network.losses(images, boxes)
    assert tuple(losses) == network.loss_names
    for name, value in losses.items():
        assert value.dtype == torch.float32
        assert value.item() == pytest.approx(expected[name], rel=1e-5)


def test_losses_of_parts_of_a_batch_add_up_to_those_of_the_batch() -> None:
    network, images = _segmenter().eval(), _images(BOXES)
    whole = network.losses(images, _boxes(BOXES))
    parts = [network.losses(images[rows], _boxes(BOXES[rows])) for rows in (slice(0, 2), slice(2, 3))]
    for name in network.loss_names:
        assert whole[name].item() == pytest.approx(sum(part[name].item() for part in parts), rel=1e-6)


@pytest.mark.parametrize("placed", [BOXES, [[], []]], ids=["boxes", "no boxes"])
@pytest.mark.parametrize("precision", [None, torch.bfloat16], ids=["fp32", "bf16"])
def test_gradients_are_finite_and_reach_every_weight(
    placed: list[list[tuple[int, ...]]], precision: torch.dtype | None
) -> None:
    network = _segmenter(dropout=0.2).train()
    with torch.autocast("cpu", dtype=precision, enabled=precision is not None):
        losses = network.losses(_images(placed), _boxes(placed))
    assert all(loss.dtype == torch.float32 for loss in losses.values())
    _total(losses).backward()
    for name, weight in network.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.isfinite().all(), name
        assert weight.grad.any(), name


def test_an_image_without_boxes_costs_what_is_wrongly_found_in_it() -> None:
    network = _segmenter().eval()
    torch.nn.init.zeros_(network.to_logits.weight)
    torch.nn.init.constant_(network.to_logits.bias, -20.0)
    images, boxes = _images([[]]), _boxes([[]])
    assert _total(network.losses(images, boxes)).item() < 1e-4
    assert [len(found.edges) for found in network.find(images)] == [0]
    torch.nn.init.constant_(network.to_logits.bias, 0.0)  # 0.5 everywhere
    losses = network.losses(images, boxes)
    assert losses["bce"].item() == pytest.approx(0.4 * math.log(2))
    assert losses["iou"].item() == pytest.approx(0.6 * (1 - 1 / (SIDE * SIDE / 2 + 1)))
    (found,) = network.find(images)
    assert found.edges.tolist() == [[-0.5, -0.5, SIDE - 0.5, SIDE - 0.5]]
    assert found.scores.tolist() == [0.5]
    assert found.classes.tolist() == [0]
    assert (found.edges.dtype, found.scores.dtype, found.classes.dtype) == (torch.float32, torch.float32, torch.int64)


def test_images_that_are_not_made_of_cells_are_refused_with_the_way_out() -> None:
    with pytest.raises(UsageError, match=r"squares of 16 px\. Set image\.size=96 or image\.size=112, or a smaller"):
        Segmenter(SegmenterConfig(width=2), n_channels=1)(torch.zeros(1, 1, 100, 100))
    with pytest.raises(UsageError, match=r"Set image\.size=16, or"):
        Segmenter(SegmenterConfig(width=2), n_channels=1)(torch.zeros(1, 1, 9, 9))


def test_it_learns_eight_images_by_heart() -> None:
    """Boxes whose edges are those of cells; IoU of what boxes cover at least 0.9 in each of them."""
    rng = np.random.default_rng(0)
    placed: list[list[tuple[int, ...]]] = [
        [tuple(4 * v for v in rng.integers((1, 1, 3, 3), 8).tolist())] for _ in range(6)
    ]
    placed += [[], [(4, 8, 16, 20), (36, 32, 24, 28)]]
    network, images, boxes = _segmenter(width=8).train(), _images(placed), _boxes(placed)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        _total(network.losses(images, boxes)).backward()
        optimizer.step()
    found = network.eval().find(images)
    images_K = np.repeat(np.arange(8), [len(one.scores) for one in found])
    edges = torch.cat([one.edges for one in found]).numpy().astype(np.float64)
    predicted = make_boxes(images_K, np.hstack([edges[:, :2] + 0.5, edges[:, 2:] - edges[:, :2]]))
    truth = make_boxes(boxes.images, [box for of_image in placed for box in of_image])
    assert union_iou(truth, predicted, 8).min() >= 0.9
