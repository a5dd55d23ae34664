"""Embeddings by a trained backbone: of the right slices and views, gone on with after a kill, never mixed."""

from pathlib import Path

import numpy as np
import pytest
import small
import torch

from rsna_e2e.core.errors import UsageError
from rsna_e2e.inference import embed as extract_module
from rsna_e2e.inference.embed import extract
from rsna_e2e.loader.image_loader import ImageLoader
from rsna_e2e.model.network import JointModel
from rsna_e2e.model.views import turned
from rsna_e2e.store import Store
from rsna_e2e.store.embeddings import EmbeddingFolder, EmbeddingsError
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.training.checkpoint import find_checkpoint, load_model
from rsna_e2e.training.train import train

pytestmark = pytest.mark.usefixtures("one_thread")

# One image in a batch or another is another order of sums in a convolution.
SAME = {"rtol": 1e-4, "atol": 1e-5}
VIEWS = ("plain", "hflip", "transpose")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return small.make_store(tmp_path_factory.mktemp("extract"))


@pytest.fixture(scope="module")
def run(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "images"
    train(store, folder, small.image_config())
    return folder


@pytest.mark.parametrize("view", VIEWS)
def test_embeddings_are_the_backbones_features_of_the_view(store: Store, run: Path, tmp_path: Path, view: str) -> None:
    done = extract(run, store, tmp_path / "e", checkpoint="epoch-1", views=(view,))
    assert (done.n_slices, done.n_embedded, done.views) == (len(store), len(store), (view,))
    model = JointModel(small.image_config().model, n_channels=3, n_labels=6)
    load_model(model, find_checkpoint(run, "epoch-1"))
    loader = ImageLoader(store, small.image_config(), task=ICH, device=torch.device("cpu"))
    folder = EmbeddingFolder.open(tmp_path / "e", store)
    for batch in loader.load([(position,) for position in range(len(store.series))], epoch=None):
        images = batch.images[:]
        images = {"plain": images, "hflip": images[..., range(31, -1, -1)], "transpose": images.mT}[view]
        with torch.inference_mode():
            expected = model.eval().backbone(images)
        torch.testing.assert_close(torch.from_numpy(folder.read(batch.rows)), expected, **SAME)


def test_views_lie_beside_each_other_and_are_averaged(store: Store, run: Path, tmp_path: Path) -> None:
    extract(run, store, tmp_path / "all", views=VIEWS)
    for view in VIEWS:
        extract(run, store, tmp_path / view, views=(view,))
    rows = np.arange(len(store))
    each = [EmbeddingFolder.open(tmp_path / view, store).read(rows) for view in VIEWS]
    assert not np.allclose(each[0], each[1], **SAME)
    mean = EmbeddingFolder.open(tmp_path / "all", store).read(rows)
    np.testing.assert_allclose(mean, np.mean(each, axis=0), rtol=1e-5, atol=1e-6)
    with pytest.raises(
        UsageError, match=r"already holds the views .*\. Continue it with --views plain,hflip,transpose,"
    ):
        extract(run, store, tmp_path / "all", views=("plain",))


def test_splits(store: Store, run: Path, tmp_path: Path) -> None:
    for split in ("train", "test"):
        done = extract(run, store, tmp_path / split, split=split)
        assert done.n_slices == sum(span.n_slices for span in store.series if span.split == split)
    with pytest.raises(UsageError, match="holds embeddings of another selection of slices"):
        extract(run, store, tmp_path / "train", split="all")


def test_stopped_in_the_midst_extraction_goes_on_and_ends_the_same(
    store: Store, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extract_module, "SHARD_SLICES", 8)
    monkeypatch.setattr(extract_module, "EMBED_TOGETHER", 4)
    unbroken = extract(run, store, tmp_path / "unbroken", views=VIEWS)

    def stop(done: int, total: int, note: str = "") -> None:
        assert total == 3 * len(store)
        if done >= 36:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract(run, store, tmp_path / "broken", views=VIEWS, progress=stop)
    assert len(list((tmp_path / "broken").glob("*.h5"))) == 3  # the first 8 slices in all views
    done = extract(run, store, tmp_path / "broken", views=VIEWS)
    assert done.n_embedded == 3 * (len(store) - 8)
    rows = np.arange(len(store))
    folders = [EmbeddingFolder.open(tmp_path / name, store) for name in ("unbroken", "broken")]
    np.testing.assert_array_equal(folders[0].read(rows), folders[1].read(rows))
    assert folders[0].manifest == folders[1].manifest
    assert extract(run, store, tmp_path / "broken", views=VIEWS).n_embedded == 0
    assert unbroken.n_embedded == 3 * len(store)


def test_another_epoch_of_the_run_is_another_source(store: Store, run: Path, tmp_path: Path) -> None:
    extract(run, store, tmp_path / "e", checkpoint="epoch-1")
    with pytest.raises(EmbeddingsError, match="made from another run, epoch, store or precision"):
        extract(run, store, tmp_path / "e", checkpoint="epoch-2")


def test_folds_of_one_configuration_are_one_kind(store: Store, run: Path, tmp_path: Path) -> None:
    other = small.image_config("validation_fold=1")
    train(store, tmp_path / "other", other)
    extract(run, store, tmp_path / "0")
    extract(tmp_path / "other", store, tmp_path / "1")
    sources = [EmbeddingFolder.open(tmp_path / name, store).manifest.source for name in "01"]
    assert sources[0].kind == sources[1].kind
    assert [s.held_out_fold for s in sources] == [0, 1]
    assert sources[0].weights_sha256 != sources[1].weights_sha256


def test_channels_stay_last_in_every_view() -> None:
    images = torch.rand(2, 3, 8, 8).to(memory_format=torch.channels_last)
    for view in VIEWS:
        assert turned(images, view).is_contiguous(memory_format=torch.channels_last), view
