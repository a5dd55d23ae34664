"""A backbone cut at a stage: which one it is, and that nothing before or beside it counts."""

import pytest
import torch

from rsna_e2e.config import ModelConfig
from rsna_e2e.core.errors import UsageError
from rsna_e2e.model.network import JointModel
from rsna_e2e.model.stages import find_stage, layer_maps

pytestmark = pytest.mark.usefixtures("one_thread")

SIDES = {  # cells of 64 px at the stage, and its name
    "test_resnet": (16, "layer1"),
    "test_efficientnet": (16, "blocks.1"),
    "test_convnext": (16, "stages.0"),
    "test_mambaout": (16, "stages.0"),
    "test_nfnet": (16, "stages.0"),
    "densenet121": (16, "features.denseblock1"),
    "torchvision.squeezenet1_1": (31, "features.1"),
}


def _network(backbone: str) -> JointModel:
    torch.manual_seed(0)
    return JointModel(ModelConfig(backbone=backbone), n_channels=3, n_labels=6).eval()


@pytest.mark.parametrize("backbone", SIDES)
def test_maps_at_the_last_fine_stage_are_those_of_the_uncut_graph(backbone: str) -> None:
    """Whatever the order of axes, and though layers work in place."""
    network, images = _network(backbone), torch.randn(2, 3, 64, 64)
    stage = find_stage(network, images)
    side, name = SIDES[backbone]
    assert stage is network.backbone.get_submodule(name)
    gradients = [torch.ones(2, network.n_features), torch.randn(2, network.n_features)]
    maps = layer_maps(network, stage, images, gradients)
    assert maps.shape == (2, 2, side, side)

    kept: list[torch.Tensor] = []
    copy = stage.register_forward_hook(lambda _, __, output: (kept.append(output), output.clone())[1])
    embeddings = network.embed(images)
    copy.remove()
    channels = 3 if backbone == "test_mambaout" else 1
    for made, gradient in zip(maps, gradients, strict=True):
        (of_maps,) = torch.autograd.grad(embeddings, kept[0], gradient, retain_graph=True)
        expected = (of_maps.relu() * kept[0].detach()).sum(dim=channels)
        torch.testing.assert_close(made, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


def test_where_no_stage_is_fine_enough_the_finest_counts() -> None:
    network = _network("test_convnext")
    assert find_stage(network, torch.zeros(1, 3, 48, 48)) is network.backbone.stages[0]


def test_a_network_is_as_before_when_its_maps_are_made() -> None:
    network, images = _network("test_resnet"), torch.randn(2, 3, 64, 64)
    before = network.embed(images)
    layer_maps(network, find_stage(network, images), images, [torch.ones(2, network.n_features)])
    assert torch.is_grad_enabled()
    assert torch.equal(network.embed(images), before)
    assert not any(module._forward_hooks for module in network.modules())
    assert all(weight.grad is None for weight in network.parameters())


def test_a_backbone_without_feature_maps_is_refused() -> None:
    with pytest.raises(UsageError, match="makes no feature maps"):
        find_stage(_network("test_vit"), torch.zeros(1, 3, 160, 160))
