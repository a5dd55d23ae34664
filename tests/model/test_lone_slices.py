"""A slice alone in its chunk, of which train-mode BatchNorm would see one value a channel: refused before any work."""

from collections.abc import Callable
from pathlib import Path

import pytest
import small
import timm
import torch

from rsna_e2e.config import RunConfig, save_config
from rsna_e2e.core.errors import UsageError
from rsna_e2e.loader.division import Division
from rsna_e2e.model.norms import refuses_one
from rsna_e2e.store import Store
from rsna_e2e.tools.bench.train import bench_train
from rsna_e2e.training.lr_range import find_learning_rate
from rsna_e2e.training.series_step import SeriesStep
from rsna_e2e.training.train import train

PHASE = "slice_phase={epochs: 1, slices_per_batch: 5, optimizer: {learning_rate: 0.01}}"
SLICES = ("model.head=none", "model.slice_loss_weight=1.0", "epochs=0", PHASE)
Begin = Callable[[Store, RunConfig, Path], object]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return small.make_store(tmp_path_factory.mktemp("lone"))


def _find_lr(store: Store, config: RunConfig, folder: Path) -> object:
    phase = "series" if config.epochs else "slices"
    return find_learning_rate(store, config, phase=phase, lowest=1e-5, highest=1e-2, n_steps=10, device="cpu")


def _bench(store: Store, config: RunConfig, folder: Path) -> object:
    save_config(config, path=folder / "bench.yaml")
    return bench_train(store.path, recipe=folder / "bench.yaml", steps=2, rounds=1, device="cpu")


def _train(store: Store, config: RunConfig, folder: Path) -> object:
    return train(store, folder / "run", config, device="cpu")


BEGIN: dict[str, Begin] = {
    "train": _train,
    "find-lr": _find_lr,
    "bench train": _bench,
    "a series": lambda store, config, folder: SeriesStep(config, n_slices=1, device="cpu"),
}
LONE = {  # settings that leave a slice alone, and what the message says
    "a series of one": (
        ("model.batchnorm=train", "chunk=8"),
        r"series of one slice \([0-9a-f]{8}\)?.*batchnorm=frozen",
    ),
    "a chunk of one": (("model.batchnorm=train", "chunk=1"), r"batchnorm=frozen, or larger images"),
    "chunks of one slice": ((*SLICES, "chunk=1"), r"chunk=1 in the phase on slices: .* 32 px .*Use chunk=3 or more"),
    "an odd batch": ((*SLICES, "chunk=2"), r"chunk=2 in the phase on slices: .*slice_phase=null"),
}


@pytest.mark.parametrize(
    ("begin", "lone"),
    [
        (begin, lone)
        for begin in BEGIN
        for lone in LONE
        if begin != "a series" or lone in ("a series of one", "a chunk of one")
    ],
)
def test_a_lone_slice_is_refused_before_anything_begins(begin: str, lone: str, store: Store, tmp_path: Path) -> None:
    settings, message = LONE[lone]
    if begin == "a series":  # a made-up one, of one slice
        message = "chunk=[18] in the phase on series"
    with pytest.raises(UsageError, match=message):
        BEGIN[begin](store, small.config(*settings), tmp_path)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "settings",
    [
        ("model.batchnorm=frozen", "chunk=1"),
        ("model.batchnorm=train", "chunk=8", "image.size=64"),  # 2 x 2 pixels are left of a slice
        ("model.batchnorm=train", "chunk=1", "freeze_backbone_epochs=1"),
        ("model.batchnorm=train", "chunk=1", "model.backbone=test_convnext"),  # LayerNorm
        (*SLICES, "chunk=3"),
        (*SLICES, "chunk=1", "image.size=64", "image.size_from_epoch={2: 32}"),  # there is no second epoch
    ],
)
def test_what_norms_can_do_is_done(settings: tuple[str, ...], store: Store, tmp_path: Path) -> None:
    train(store, tmp_path / "run", small.config(*settings), device="cpu")


def test_a_small_image_in_a_later_epoch_is_foreseen(store: Store, tmp_path: Path) -> None:
    config = small.config(
        "model.batchnorm=train", "chunk=8", "image.size=64", "epochs=3", "image.size_from_epoch={3: 32}"
    )
    with pytest.raises(UsageError, match=r"series of one slice .* at 32 px"):
        train(store, tmp_path / "run", config, device="cpu")


def test_a_backbone_that_averages_inside_refuses_a_slice_of_any_size() -> None:
    split_attention = timm.create_model("resnest14d", num_classes=0)
    before = [tensor.clone() for tensor in split_attention.state_dict().values()]
    assert refuses_one(split_attention, n_channels=3, size=64)
    assert all(torch.equal(a, b) for a, b in zip(before, split_attention.state_dict().values(), strict=True))
    assert split_attention.training
    assert not refuses_one(timm.create_model("test_resnet", num_classes=0).eval(), n_channels=3, size=64)


def test_the_smallest_chunk_is_of_any_rank() -> None:
    assert Division(rank=0, n_ranks=2, chunk_size=4).smallest_chunk([7]) == 3  # 3 and 4 slices
    assert Division(rank=0, n_ranks=2, chunk_size=2).smallest_chunk([7]) == 1  # 1 and 2, 2 and 2
    assert Division(chunk_size=4, keeps_series=True).smallest_chunk([8, 5]) == 2  # 4 and 4, 2 and 3
    assert Division(n_ranks=3).smallest_chunk([1]) == 1  # two of them have none
