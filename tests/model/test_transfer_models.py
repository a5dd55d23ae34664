"""Networks for transfer on few images: bodies of torchvision, mean beside maximum, the classifier of two layers."""

from pathlib import Path

import pytest
import small
import torch
import torchvision
from pydantic import ValidationError
from torch import nn

from rsna_e2e.config import ModelConfig
from rsna_e2e.core.errors import BadInputError, UsageError
from rsna_e2e.core.weights_file import encode
from rsna_e2e.model.heads import make_classifier
from rsna_e2e.model.network import JointModel
from rsna_e2e.model.torchvision_bodies import torchvision_body
from rsna_e2e.training.train import train

BOTH = {"global_pool": "catavgmax"}
FP32 = {"rtol": 1e-5, "atol": 1e-5}  # float32 sums in another order


def config(backbone: str = "torchvision.squeezenet1_0", **changes: object) -> ModelConfig:
    plain = {"backbone": backbone, "backbone_arguments": BOTH, "head": "none", "slice_loss_weight": 1.0}
    return ModelConfig.model_validate(plain | {"classifier": "mlp"} | changes)


def n_weights(module: nn.Module | None) -> int:
    assert module is not None
    return sum(weight.numel() for weight in module.parameters())


def test_squeezenet_with_two_layers_has_the_published_number_of_weights() -> None:
    """As the source prints them: 1,263,808, of which 528,384 learn while the backbone is frozen."""
    model = JointModel(config(), n_channels=3, n_labels=2)
    assert (n_weights(model), n_weights(model.slice_classifier)) == (1_263_808, 528_384)
    assert model.n_features == 1024


@pytest.mark.parametrize("name", ["alexnet", "squeezenet1_0", "squeezenet1_1"])
def test_a_body_of_torchvision_is_its_convolutions_pooled(name: str) -> None:
    torch.manual_seed(0)
    whole = torchvision.models.get_model(name, weights=None).eval()
    body = torchvision_body(name, BOTH, n_channels=3, pretrained=False).eval()
    body.features.load_state_dict(whole.features.state_dict())
    images = torch.randn(2, 3, 67, 64)
    maps = whole.features(images)
    torch.testing.assert_close(body(images), torch.cat([maps.mean((2, 3)), maps.amax((2, 3))], dim=1), **FP32)


def test_weights_of_torchvision_fit_by_name_and_are_added_up_for_one_channel(tmp_path: Path) -> None:
    torch.manual_seed(0)
    whole = torchvision.models.alexnet(weights=None).eval()
    file = tmp_path / "alexnet.safetensors"
    file.write_bytes(encode(whole.state_dict()))
    grey = config("torchvision.alexnet", weights_file=str(file), backbone_arguments={})
    model = JointModel(grey, n_channels=1, n_labels=2).eval()
    image = torch.randn(1, 1, 70, 70)
    expected = whole.features(image.expand(1, 3, 70, 70)).mean((2, 3))
    torch.testing.assert_close(model.embed(image), expected, **FP32)


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "squeezenet.safetensors"
    file.write_bytes(encode(torchvision.models.squeezenet1_1(weights=None).state_dict()))
    with pytest.raises(BadInputError, match=r"squeezenet\.safetensors: weights do not fit this model"):
        JointModel(config(weights_file=str(file)), n_channels=3, n_labels=2)


def test_an_untrained_body_of_one_channel_begins_as_one_of_three_equal_channels() -> None:
    grey, colour = (
        torchvision_body("alexnet", {}, n_channels=n, pretrained=False).features[0]
        for n in (1, 3)
        if torch.manual_seed(0)
    )
    torch.testing.assert_close(grey(torch.ones(1, 1, 20, 20)), colour(torch.ones(1, 3, 20, 20)), **FP32)


def test_the_classifier_of_two_layers_is_what_it_says() -> None:
    torch.manual_seed(0)
    classifier = make_classifier(6, 2, kind="mlp", dropout=0.5)
    for norm in (classifier[0], classifier[4]):
        nn.init.uniform_(norm.weight)
        nn.init.uniform_(norm.bias)
        nn.init.uniform_(norm.running_mean)
        nn.init.uniform_(norm.running_var, 0.5, 2.0)
    first, last = classifier[2], classifier[6]
    assert first.bias is None
    assert last.bias is None
    assert [classifier[1].p, classifier[5].p] == [0.25, 0.5]

    def normed(x: torch.Tensor, norm: nn.BatchNorm1d) -> torch.Tensor:
        assert norm.running_mean is not None
        assert norm.running_var is not None
        return (x - norm.running_mean) / torch.sqrt(norm.running_var + 1e-5) * norm.weight + norm.bias

    x = torch.randn(3, 6)
    hidden = torch.relu(normed(x, classifier[0]) @ first.weight.T)
    torch.testing.assert_close(classifier.eval()(x), normed(hidden, classifier[4]) @ last.weight.T, **FP32)


@pytest.mark.parametrize(
    ("backbone", "arguments", "message"),
    [
        ("torchvision.resnet18", {}, r"torchvision\.squeezenet1_1 are taken; timm has its others"),
        ("torchvision.alexnet", {"stem_width": 16}, "only global_pool, one of avg, max, avgmax, catavgmax"),
        ("torchvision.alexnet", {"global_pool": "token"}, "only global_pool"),
    ],
)
def test_other_bodies_of_torchvision_are_refused(backbone: str, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        JointModel(config(backbone, backbone_arguments=arguments), n_channels=3, n_labels=2)


def test_two_layers_are_for_classifiers_of_slices_alone() -> None:
    with pytest.raises(ValidationError, match=r"classifier mlp is of slices alone: .*set model\.head=none"):
        config(head="lstm")


@pytest.mark.usefixtures("one_thread")
def test_such_a_network_trains(tmp_path: Path) -> None:
    store = small.make_store(tmp_path)
    settings = ["model.backbone=torchvision.squeezenet1_1", "model.backbone_arguments={global_pool: catavgmax}"]
    done = train(store, tmp_path / "run", small.image_config(*settings, "model.classifier=mlp", epochs=1))
    assert (done.steps, done.skipped) == (3, 0)  # 12 to 15 slices, four at a time
