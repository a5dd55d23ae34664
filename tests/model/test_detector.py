"""Detectors: torchvision's networks see the images and boxes that the loader made, and any backbone will do."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from rsna_e2e.config import DetectorConfig, ModelConfig
from rsna_e2e.core.errors import UsageError
from rsna_e2e.loader.batch import BatchBoxes
from rsna_e2e.model.backbones import create_backbone
from rsna_e2e.model.box_model import FoundBoxes
from rsna_e2e.model.detector import LOSSES, Detector
from rsna_e2e.model.norms import freeze_norms

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = {"channels": (16, 32, 32, 64), "stem_width": 8}
ANCHORS = (12, 24, 48)
# of four images, the second and the last without
BOXES = BatchBoxes(
    edges=torch.tensor([[4.5, 6.5, 30.5, 28.5], [33.5, 30.5, 60.5, 59.5], [10.5, 12.5, 28.5, 50.5]]),
    classes=torch.zeros(3, dtype=torch.int64),
    images=torch.tensor([0, 0, 2]),
    known=torch.ones(4, dtype=torch.bool),
)


def make(name: str, backbone: str = "resnet10t", **arguments: object) -> Detector:
    torch.manual_seed(0)
    detector = DetectorConfig.model_validate(
        {"name": name, "pyramid_width": 16, "anchor_sides_px": ANCHORS, "regions_per_image": 16}
    )
    config = ModelConfig(backbone=backbone, backbone_arguments=arguments, head="none", detector=detector)
    return Detector(config, n_channels=1, n_classes=1)


def images(n: int = 4) -> torch.Tensor:
    return torch.randn(n, 1, 64, 64, generator=torch.Generator().manual_seed(1))


@contextmanager
def seen_by(detector: Detector) -> Iterator[list[torch.Tensor]]:
    """Note what goes into the pyramid."""
    seen: list[torch.Tensor] = []
    hook = detector.network.backbone.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    yield seen
    hook.remove()


@pytest.mark.parametrize("name", LOSSES)
def test_images_are_seen_as_they_are_in_training_and_afterwards(name: str) -> None:
    detector, given = make(name, **SMALL), images()
    with seen_by(detector) as seen, torch.no_grad():
        detector.train().losses(given, BOXES)
        detector.eval().find(given)
    assert len(seen) == 2
    assert all(torch.equal(each, given) for each in seen)


@pytest.mark.parametrize("name", LOSSES)
def test_losses_have_their_names_and_gradients_reach_every_weight(name: str) -> None:
    detector = make(name, **SMALL).train()
    losses = detector.losses(images(), BOXES)
    assert tuple(losses) == detector.loss_names
    torch.stack(list(losses.values())).sum().backward()
    assert all(weight.grad is not None and torch.isfinite(weight.grad).all() for weight in detector.parameters())


@pytest.mark.parametrize("name", LOSSES)
def test_images_without_boxes_are_learned_from(name: str) -> None:
    detector = make(name, **SMALL).train()
    none = BatchBoxes(
        edges=torch.zeros(0, 4),
        classes=torch.zeros(0, dtype=torch.int64),
        images=torch.zeros(0, dtype=torch.int64),
        known=torch.ones(2, dtype=torch.bool),
    )
    losses = detector.losses(images(2), none)
    total = torch.stack(list(losses.values())).sum()
    assert total > 0
    total.backward()
    assert any(
        bool(weight.grad.abs().sum() > 0) for weight in detector.backbone.parameters() if weight.grad is not None
    )


def test_losses_of_parts_of_a_batch_add_up() -> None:
    detector = make("retinanet", **SMALL).train()  # which draws nothing at random
    freeze_norms(detector)
    given = images()
    whole = detector.losses(given, BOXES)
    first = BatchBoxes(edges=BOXES.edges[:2], classes=BOXES.classes[:2], images=BOXES.images[:2], known=BOXES.known[:1])
    rest = BatchBoxes(
        edges=BOXES.edges[2:], classes=BOXES.classes[2:], images=BOXES.images[2:] - 1, known=BOXES.known[1:]
    )
    parts = detector.losses(given[:1], first), detector.losses(given[1:], rest)
    for name in detector.loss_names:
        torch.testing.assert_close(parts[0][name] + parts[1][name], whole[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_boxes_are_found_in_the_pixels_of_the_image(name: str) -> None:
    detector = make(name, **SMALL).eval()
    with torch.inference_mode():
        found = detector.find(images(3))
    assert len(found) == 3
    for boxes in found:
        assert isinstance(boxes, FoundBoxes)
        assert len(boxes.edges) == len(boxes.scores) == len(boxes.classes) <= 10
        assert boxes.scores.tolist() == sorted(boxes.scores.tolist(), reverse=True)
        assert bool((boxes.classes == 0).all())
        assert bool(((boxes.edges >= -0.5) & (boxes.edges <= 63.5)).all())


def test_places_are_computed_in_float32_whatever_the_precision_of_the_backbone() -> None:
    detector = make("retinanet", **SMALL).eval()
    with torch.inference_mode():
        exact = detector.find(images())
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough = detector.find(images().to(torch.bfloat16))
        levels = []
        hook = detector.network.backbone.register_forward_hook(lambda *given: levels.append(given[2]))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            detector.find(images().to(torch.bfloat16))
        hook.remove()
    assert {level.dtype for level in levels[0].values()} == {torch.float32}
    assert {boxes.edges.dtype for boxes in rough} == {torch.float32}
    # Both find their boxes from the same anchors, which are whole numbers wide, and move them little
    for one, other in zip(rough, exact, strict=True):
        nearest = torch.cdist(one.edges, other.edges).min(dim=1).values
        assert bool((nearest < 1.0).any())


@pytest.mark.parametrize("name", LOSSES)
def test_an_image_without_finite_numbers_does_not_pass_for_one_without_boxes(name: str) -> None:
    detector, given = make(name, **SMALL).eval(), images(2)
    given[1, 0, 5, 5] = torch.inf
    with torch.inference_mode():
        found = detector.find(given)
    assert bool(torch.isfinite(found[0].edges).all())
    assert bool(torch.isnan(found[1].edges).all())
    assert len(found[1].scores) == 1


@pytest.mark.parametrize("backbone", ["densenet121", "torchvision.squeezenet1_1", "efficientnet_b0"])
def test_other_backbones_find_boxes_too(backbone: str) -> None:
    detector = make("retinanet", backbone).eval()
    with torch.inference_mode():
        assert len(detector.find(images(1))) == 1


def test_its_backbone_is_that_of_a_classifier() -> None:
    names = set(create_backbone(ModelConfig(backbone="resnet10t", backbone_arguments=SMALL), 1).state_dict())
    state = make("faster_rcnn", **SMALL).state_dict()
    assert {name.removeprefix("backbone.") for name in state if name.startswith("backbone.")} == names
    assert len({tensor.data_ptr() for tensor in state.values() if tensor.numel()}) == len(state)  # none is saved twice


@pytest.mark.parametrize("backbone", ["vit_tiny_patch16_224", "test_vit"])
def test_a_backbone_without_maps_at_several_scales_is_refused(backbone: str) -> None:
    with pytest.raises(UsageError, match="no feature maps at several scales"):
        make("retinanet", backbone)


def test_more_anchors_than_maps_are_refused() -> None:
    config = ModelConfig(
        backbone="resnet10t", head="none", detector=DetectorConfig(anchor_sides_px=(2, 4, 8, 16, 32, 64, 128))
    )
    with pytest.raises(UsageError, match="give 2 to 6 sides"):
        Detector(config, n_channels=1, n_classes=1)
