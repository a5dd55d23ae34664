"""Class-activation maps: what they sum to, whose gradient they are, and where on the slice they lie."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small
import torch
from torch import nn

from rsna_e2e.config import ModelConfig, RunConfig
from rsna_e2e.core.device import choose_compute
from rsna_e2e.core.errors import UsageError
from rsna_e2e.inference import activation_maps as module
from rsna_e2e.inference.activation_maps import ActivationMaps, activation_maps, weigh
from rsna_e2e.inference.trained_model import TrainedModel
from rsna_e2e.loader.image_loader import ImageLoader
from rsna_e2e.model.network import JointModel
from rsna_e2e.store import Store
from rsna_e2e.tasks.ich import ICH

pytestmark = pytest.mark.usefixtures("one_thread")

MEANS = {"rtol": 0, "atol": 1e-5}  # float32 sums over places and channels, in another order
SAME = {"rtol": 1e-4, "atol": 1e-5}  # gradients of a series in another batch
TORCH = "loader.backend=torch"
SQUARES = (13, 36)  # their left edges
AS_IT_IS = np.array([[1, 0, 0], [0, 1, 0]], dtype=np.float32)  # a picture of the slice's own pixels


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return small.make_store(tmp_path_factory.mktemp("maps"))


def _untrained(config: RunConfig, network: nn.Module | None = None) -> TrainedModel:
    torch.manual_seed(0)
    return TrainedModel(
        run=Path("run"),
        config=config,
        task=ICH,
        compute=choose_compute("fp32", "cpu", cpu_threads=None),
        network=(network or JointModel.for_task(config.model, ICH)).eval(),
        embeddings=None,
        checkpoint=Path("run"),
        epoch=0,
        damaged=(),
    )


def _images(store: Store, config: RunConfig, position: int) -> torch.Tensor:
    loader = ImageLoader(store, config, task=ICH, device=torch.device("cpu"))
    return next(iter(loader.load([(position,)]))).images[:]


def test_mean_of_the_map_and_bias_are_the_logit_of_a_linear_head(store: Store) -> None:
    trained = _untrained(small.image_config("model.embedding_width=null", "image.size=96", TORCH))
    classifier = trained.network.slice_classifier
    assert classifier is not None
    made = activation_maps(trained, store, store.series[3], places=range(6), level="slice", label=2)
    with torch.inference_mode():
        logits = trained.network(_images(store, trained.config, 3), torch.tensor([6])).slices[:, 2]
    torch.testing.assert_close(torch.from_numpy(made.logits).float(), logits, **MEANS)
    means = torch.from_numpy(made.maps.mean(axis=(1, 2)))
    torch.testing.assert_close(means, (logits - classifier.bias[2]).detach(), **MEANS)


@pytest.mark.parametrize("level", ["slice", "series"])
@pytest.mark.parametrize("pool", ["avg", "max"])
def test_weights_are_the_gradients_of_the_graph_of_the_whole_series(
    store: Store, monkeypatch: pytest.MonkeyPatch, level: Any, pool: str
) -> None:
    monkeypatch.setattr(module, "_MOST_VALUES", 6 * 96 * 2)  # 96 features: two slices' gradients together
    monkeypatch.setattr(module, "EMBED_TOGETHER", 4)
    pooling = f"model.backbone_arguments={{global_pool: {pool}}}"
    trained = _untrained(small.config(pooling, "model.study_loss_weight=1", "image.size=96", TORCH))
    places = [0, 3, 5]
    made = activation_maps(trained, store, store.series[3], places=places, level=level, label=4)

    network, images = trained.network, _images(store, trained.config, 3)
    kept: list[torch.Tensor] = []
    network.backbone.layer4.register_forward_hook(lambda _, __, output: (output.retain_grad(), kept.append(output))[1])
    for k, place in enumerate(places):
        logits = network(images, torch.tensor([6]))
        logit = logits.slices[place, 4] if level == "slice" else logits.series[0, 4]
        logit.backward()
        maps_TKhw = kept[-1]
        weights_K = maps_TKhw.grad[place].sum(dim=(1, 2))
        expected = torch.einsum("k,khw->hw", weights_K, maps_TKhw[place])
        assert made.logits[k] == pytest.approx(float(logit.detach()), abs=1e-5)
        torch.testing.assert_close(torch.from_numpy(made.maps[k]), expected.detach(), **SAME)


class _Bright(nn.Module):
    """One feature: the mean brightness of blocks of 4 x 4 pixels, averaged over the image."""

    num_features = 1

    def forward_features(self, images: torch.Tensor) -> torch.Tensor:
        return nn.functional.avg_pool2d(images[:, :1], 4).relu()

    def forward_head(self, maps: torch.Tensor) -> torch.Tensor:
        return maps.mean(dim=(2, 3))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.forward_head(self.forward_features(images))


@pytest.fixture(scope="module")
def bright_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Slices of 40 x 60 px with their content beside the middle, and in it a bright square at rows 14 to 19, columns 13
    to 18 or 36 to 41."""
    slices = []
    for left in SQUARES:
        hu = np.full((40, 60), -1000, dtype=np.int16)
        hu[6:36, 10:50] = 5
        hu[14:20, left : left + 6] = 75
        slices.append(hu)
    return small.make_store_of(tmp_path_factory.mktemp("bright"), [slices, slices])


@pytest.mark.parametrize(("crop", "values"), [("none", "hu"), ("series", "hu"), ("slice", "jpeg")])
def test_the_map_is_highest_on_a_bright_square(bright_store: Store, crop: str, values: str) -> None:
    """Whatever is cropped; the cells of the map are 4 px of 32."""
    config = small.image_config(f"image.crop={crop}", f"image.values={values}", TORCH)
    network = JointModel(
        ModelConfig(backbone="none", head="none", slice_loss_weight=1.0), n_channels=1, n_labels=len(ICH.slices)
    )
    network.backbone = _Bright()
    nn.init.ones_(network.slice_classifier.weight)
    made = activation_maps(
        _untrained(config, network),
        bright_store,
        bright_store.series[0],
        places=[0, 1],
        level="slice",
        label=ICH.headline_index,
    )
    for place, left in enumerate(SQUARES):
        shown = made.on_picture(place, AS_IT_IS, side=60)
        row, column = np.unravel_index(shown.argmax(), shown.shape)
        assert abs(row - 16.5) <= 4  # half a cell, where 60 px become 32
        assert abs(column - (left + 2.5)) <= 4


def test_a_map_lies_where_the_matrix_says() -> None:
    """Image pixel x is at 2 x + 10 of the slice, y at 2 y + 20. Cell (row 1, column 2) of 4 x 4 is x = 4.5, y = 2.5."""
    map_hw = np.ones((4, 4), dtype=np.float32)
    map_hw[1, 2] = 3
    affine = np.array([[2, 0, 10], [0, 2, 20]], dtype=np.float32)
    maps = ActivationMaps(logits=np.zeros(1), maps=map_hw[None], affine=affine[None], size=8)
    shown = maps.on_picture(0, AS_IT_IS, side=64)
    assert np.unravel_index(shown.argmax(), shown.shape) == (25, 19)
    assert shown[25, 19] == pytest.approx(3)
    assert shown[25, 17] == pytest.approx(2)  # half a cell beside
    seen = np.zeros((64, 64), dtype=bool)
    seen[19:36, 9:26] = True  # from the edge of pixel 0, at -0.5, to that of pixel 7
    np.testing.assert_array_equal(shown > 0, seen)
    halved = np.array([[4, 0, 1.5], [0, 4, 1.5]], dtype=np.float32)  # a picture of 16 px
    # pixel (4, 6) is at (17.5, 25.5) of the slice, (3.75, 2.75) of the image, (1.625, 1.125) of the map
    by_hand = 0.875 * (0.375 * 1 + 0.625 * 3) + 0.125 * 1
    assert maps.on_picture(0, halved, side=16)[6, 4] == pytest.approx(by_hand)


@pytest.mark.parametrize("backbone", ["test_efficientnet", "test_convnext", "test_mambaout"])
def test_embeddings_are_made_of_the_feature_maps(backbone: str) -> None:
    torch.manual_seed(0)
    model = JointModel(ModelConfig(backbone=backbone), n_channels=3, n_labels=6).eval()
    images = torch.randn(2, 3, 64, 64)
    maps = model.feature_maps(images)
    assert maps.shape[2:] == (2, 2)
    torch.testing.assert_close(model.embed_maps(maps), model.embed(images), **MEANS)
    assert weigh(model, maps, torch.ones(2, model.n_features)).shape == (2, 2, 2)


def test_a_backbone_without_feature_maps_is_refused() -> None:
    model = JointModel(ModelConfig(backbone="test_vit"), n_channels=3, n_labels=6)
    with pytest.raises(UsageError, match="makes no feature maps"):
        model.feature_maps(torch.zeros(1, 3, 160, 160))
