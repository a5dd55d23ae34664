"""Slices that came without positions: a recurrent head on them needs to be told that the order of files will do."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import small

from rsna_e2e.config import TwoStageConfig, load_two_stage
from rsna_e2e.core.errors import UsageError
from rsna_e2e.inference.predict import predict
from rsna_e2e.inference.predictions import predictions_path, read_predictions
from rsna_e2e.loader.choice import check_order
from rsna_e2e.store import Store
from rsna_e2e.store.prepare import prepare
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.tasks.labels import write_labels
from rsna_e2e.training.pipeline.checks import check_store
from rsna_e2e.training.train import train

pytestmark = pytest.mark.usefixtures("one_thread")

NO_ORDER = "these slices have no order, which a recurrent head needs"


@pytest.fixture(scope="module")
def unordered(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store of HDF5 shards: four labelled studies of three slices each, and one without labels."""
    folder = tmp_path_factory.mktemp("unordered")
    (folder / "raw").mkdir()
    rng = np.random.default_rng(0)
    with h5py.File(folder / "raw/npy-1.hdf5", "w") as file:
        for study in "abcde":
            for number in (2, 0, 1):
                file[f"{study}/{study}{number}"] = rng.integers(0, 80, (32, 32)).astype("<i2")
    ids = [f"{study}{number}" for study in "abcd" for number in range(3)]
    write_labels(folder / "raw/train.csv", ICH, ids, np.tile(np.eye(6)[[5, 0, 5]], (4, 1)))
    prepare(folder / "raw", folder / "store", task=ICH, n_folds=2, n_jobs=1)
    return Store.open(folder / "store")


@pytest.fixture(scope="module")
def ordered(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return small.make_store(tmp_path_factory.mktemp("ordered"))


def two_stage(*overrides: str) -> TwoStageConfig:
    return load_two_stage("demo", ["two_stage.folds=[0]", "two_stage.out_of_fold=false", *overrides])


@pytest.mark.parametrize("order", ["geometric", "published"])
def test_a_recurrent_head_is_not_trained_on_slices_without_order(unordered: Store, tmp_path: Path, order: str) -> None:
    config = small.config()
    config = config.model_copy(update={"loader": config.loader.model_copy(update={"slice_order": order})})
    with pytest.raises(UsageError, match=f"{NO_ORDER}.*--set loader.slice_order=file"):
        train(unordered, tmp_path / "run", config, device="cpu")
    assert not (tmp_path / "run").exists()


def test_it_is_trained_and_applied_in_the_order_of_files(unordered: Store, ordered: Store, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(unordered, run, small.config("loader.slice_order=file"), device="cpu")
    predict(run, unordered, split="test", out=tmp_path / "a.csv", device="cpu")
    assert read_predictions(predictions_path(tmp_path / "a.csv"), ICH).image_ids == ["e2", "e0", "e1"]
    with pytest.raises(UsageError, match=r"lie in geometric order, .*The run learned from slices in file order"):
        predict(run, ordered, split="test", out=tmp_path / "b.csv", device="cpu")


def test_a_head_of_ordered_slices_is_not_applied_to_others(unordered: Store, ordered: Store, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(ordered, run, small.config(), device="cpu")
    with pytest.raises(UsageError, match=f"{NO_ORDER}.*The run learned from slices in geometric order"):
        predict(run, unordered, split="test", out=tmp_path / "a.csv", device="cpu")


def test_classifiers_of_single_slices_need_no_order(unordered: Store, ordered: Store) -> None:
    for store in (unordered, ordered):
        check_order(store, small.image_config())
        check_order(store, small.image_config("loader.slice_order=file"))


def test_slices_with_positions_are_not_in_the_order_of_files(ordered: Store) -> None:
    with pytest.raises(UsageError, match=r"not in that of files\. --set loader.slice_order=geometric"):
        check_order(ordered, small.config("loader.slice_order=file"))


def test_a_two_stage_plan_is_refused_before_its_first_step(unordered: Store) -> None:
    with pytest.raises(UsageError, match=f"{NO_ORDER}.*--set sequences.loader.slice_order=file"):
        check_store(unordered, two_stage())
    check_store(unordered, two_stage("sequences.loader.slice_order=file"))


def test_a_plan_asks_for_the_order_of_both_heads(unordered: Store) -> None:
    of_slices_alone = load_two_stage("pe_demo", ["sequences.loader.slice_order=file"])
    with pytest.raises(UsageError, match=f"{NO_ORDER}.*--set series_sequences.loader.slice_order=file"):
        check_store(unordered, of_slices_alone)
    of_both = ["sequences.loader.slice_order=file", "series_sequences.loader.slice_order=file"]
    check_store(unordered, load_two_stage("pe_demo", of_both))
    check_store(unordered, load_two_stage("pe_demo", ["two_stage.match_reference=true"]))  # in the order of the labels
