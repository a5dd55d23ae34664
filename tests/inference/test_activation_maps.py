"""Class-activation maps: whose gradient they are, in how much memory, and where on the slice they lie."""

import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import small
import torch
from torch import nn

from rsna_e2e.config import ModelConfig, RunConfig
from rsna_e2e.core.device import choose_compute
from rsna_e2e.inference import activation_maps as module
from rsna_e2e.inference.activation_maps import ActivationMaps, activation_maps
from rsna_e2e.inference.trained_model import TrainedModel
from rsna_e2e.loader.image_loader import ImageLoader
from rsna_e2e.model.network import JointModel
from rsna_e2e.store import Store
from rsna_e2e.tasks.ich import ICH

pytestmark = pytest.mark.usefixtures("one_thread")

ONE_GRAPH = 1e-5  # of the largest value: float32, slices in other batches
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


@pytest.fixture(scope="module")
def long_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """One series of 40 slices."""
    rng = np.random.default_rng(0)
    slices = [rng.integers(0, 80, (32, 32)).astype(np.int16) for _ in range(40)]
    return small.make_store_of(tmp_path_factory.mktemp("long"), [slices])


def _in_one_graph(trained: TrainedModel, store: Store, position: int, label: Any, target: str) -> list[torch.Tensor]:
    """Maps of each slice from the one graph of the whole series, kept from images to logits."""
    network, (level, index) = trained.network, label
    n_slices = store.series[position].n_slices
    kept: list[torch.Tensor] = []
    hook = network.backbone.layer1.register_forward_hook(lambda _, __, output: kept.append(output))
    logits = network(_images(store, trained.config, position), torch.tensor([n_slices]))
    hook.remove()
    own = target == "slice" and level == "slice"
    values = logits.slices[:, index] if level == "slice" else logits.series[:, index]
    gradients = [
        torch.autograd.grad(each, kept[0], retain_graph=True)[0] for each in (values if own else [values.sum()])
    ]
    picked = [gradients[place if own else 0][place] for place in range(n_slices)]
    return [(gradient.relu() * kept[0][place].detach()).sum(dim=0) for place, gradient in enumerate(picked)]


@pytest.mark.parametrize("head", ["lstm", "one_way", "none"])
@pytest.mark.parametrize("n_slices", [1, 5, 40])
def test_maps_made_in_chunks_are_those_of_one_graph(
    store: Store, long_store: Store, monkeypatch: pytest.MonkeyPatch, head: str, n_slices: int
) -> None:
    monkeypatch.setattr(module, "EMBED_TOGETHER", 4)
    asked = "image.size=64", TORCH  # 16 cells at the first stage of blocks
    trained = _untrained(small.image_config(*asked) if head == "none" else small.config(f"model.head={head}", *asked))
    found = long_store if n_slices == 40 else store
    position = next(i for i, span in enumerate(found.series) if span.n_slices == n_slices)
    (made,) = activation_maps(trained, found, found.series[position], labels=[("slice", 2)])
    expected = torch.stack(_in_one_graph(trained, found, position, ("slice", 2), "sum"))
    assert expected.shape == (n_slices, 16, 16)
    assert expected.max() > 0
    np.testing.assert_allclose(made.maps, expected, rtol=0, atol=ONE_GRAPH * float(expected.max()))


@pytest.mark.parametrize(("label", "target"), [(("slice", 4), "slice"), (("series", 4), "sum")])
def test_own_logits_and_those_of_series_are_explained_by_their_own_graph(
    store: Store, monkeypatch: pytest.MonkeyPatch, label: Any, target: Any
) -> None:
    monkeypatch.setattr(module, "EMBED_TOGETHER", 4)
    monkeypatch.setattr(module, "_MOST_VALUES", 6 * 96 * 2)  # 96 features: two slices' gradients together
    trained = _untrained(small.config("model.study_loss_weight=1", "image.size=64", TORCH))
    both = activation_maps(trained, store, store.series[3], labels=[("slice", 0), label], target=target)
    expected = torch.stack(_in_one_graph(trained, store, 3, label, target))
    np.testing.assert_allclose(both[1].maps, expected, rtol=0, atol=ONE_GRAPH * float(expected.max()))
    logits = trained.network(_images(store, trained.config, 3), torch.tensor([6]))
    values = logits.slices[:, 4] if label[0] == "slice" else logits.series[0, 4].expand(6)
    np.testing.assert_allclose(both[1].logits, values.detach(), atol=1e-5)


class _Alive:
    """Bytes of feature maps that graphs keep for their backward passes: now, and at most."""

    def __init__(self) -> None:
        self.now = self.most = 0

    def pack(self, tensor: torch.Tensor) -> "_Kept":
        kept = _Kept(tensor)
        if tensor.ndim == 4 and not isinstance(tensor, nn.Parameter):
            self.now += tensor.nbytes
            self.most = max(self.most, self.now)
            weakref.finalize(kept, self._drop, tensor.nbytes)
        return kept

    def _drop(self, n_bytes: int) -> None:
        self.now -= n_bytes


class _Kept:
    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor


def test_only_one_chunk_has_feature_maps_in_memory(long_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = _untrained(small.config("image.size=64", TORCH))
    peaks = {}
    for together in (4, 8, 40):
        monkeypatch.setattr(module, "EMBED_TOGETHER", together)
        alive = _Alive()
        with torch.autograd.graph.saved_tensors_hooks(alive.pack, lambda kept: kept.tensor):
            activation_maps(trained, long_store, long_store.series[0], labels=[("slice", 2), ("slice", 3)])
        assert alive.now == 0
        peaks[together] = alive.most
    assert peaks[8] == 2 * peaks[4]
    assert peaks[40] == 10 * peaks[4]  # of whose ten chunks there was one at a time


PEAK = """
import resource, sys
sys.path[:0] = {tests!r}
import test_activation_maps as tests
from rsna_e2e.store import Store
tests.module.EMBED_TOGETHER = 40
n_slices, config = int(sys.argv[2]), tests.small.config("image.size=256", tests.TORCH)
store = Store.open(sys.argv[1])
span = next(span for span in store.series if span.n_slices == n_slices)
tests.activation_maps(tests._untrained(config), store, span, labels=[("slice", 2)])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_the_peak_of_memory_does_not_grow_with_the_series(tmp_path: Path) -> None:
    """400 slices take at most 1.2 times what 40 do, of 256 px; processes of their own, whose peaks are theirs."""
    rng = np.random.default_rng(0)
    slices = [rng.integers(0, 80, (32, 32)).astype(np.int16) for _ in range(440)]
    made = small.make_store_of(tmp_path, [slices[:40], slices[40:]])
    program = PEAK.format(tests=[str(Path(__file__).parent), str(Path(small.__file__).parent)])
    peaks: dict[int, int] = {}
    for n_slices in (40, 400):  # one chunk and ten
        command = [sys.executable, "-c", program, str(made.path), str(n_slices)]
        peaks[n_slices] = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert peaks[400] <= 1.2 * peaks[40]


class _Bright(nn.Module):
    """One feature: the mean brightness of blocks of 4 x 4 pixels, averaged over the image."""

    num_features = 1
    feature_info: ClassVar = [{"module": "blocks"}]

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(nn.AvgPool2d(4), nn.ReLU())

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.blocks(images[:, :1]).mean(dim=(2, 3))


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
    headline = ("slice", ICH.headline_index)
    (made,) = activation_maps(_untrained(config, network), bright_store, bright_store.series[0], labels=[headline])
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


def test_all_but_a_thousandth_of_the_values_of_a_series_are_below_the_brightest() -> None:
    """Of 2,000 values 0 to 1,999 over two slices, the second and third highest are next to that quantile."""
    maps = np.arange(2000, dtype=np.float32).reshape(2, 25, 40)
    made = ActivationMaps(logits=np.zeros(2), maps=maps, affine=np.zeros((2, 2, 3), dtype=np.float32), size=8)
    assert made.brightest == pytest.approx(0.999 * 1999)


def test_probabilities_are_those_of_the_logits() -> None:
    logits = np.array([0.0, np.log(3), -1000.0])
    made = ActivationMaps(logits=logits, maps=np.zeros((3, 1, 1)), affine=np.zeros((3, 2, 3)), size=1)
    np.testing.assert_allclose(made.probabilities, [0.5, 0.75, 0])
