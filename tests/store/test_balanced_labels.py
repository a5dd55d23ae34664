"""`rsna-e2e label --balance`: as many slices with a label as without, by patient; and `--measure brain`."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import small
import torch
from stores import make_xray_store, sign

from rsna_e2e.cli import main
from rsna_e2e.core.errors import UsageError
from rsna_e2e.loader.holdout import filtered
from rsna_e2e.loader.image_loader import ImageLoader
from rsna_e2e.store import Store, StoreError, verify_store
from rsna_e2e.store.layout import BRAIN_SHARE, MEASURED
from rsna_e2e.store.prepare import Further, label
from rsna_e2e.store.set_manifest import read_set_manifest
from rsna_e2e.store.tables import read_table, write_table
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.tasks.labels import write_labels

SHARES = (0.0, 0.25, 0.5, 0.75)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Eight patients with six slices each, of which the share of brain runs through `SHARES`.

    The first patient has a hemorrhage in four slices, the second in two, the others none.
    """
    series = []
    for _ in range(8):
        slices = [np.full((16, 16), -1000) for _ in range(6)]
        for number, hu in enumerate(slices):
            hu.reshape(-1)[: int(256 * SHARES[number % 4])] = 40
            hu[15] = [0, 80] * 8  # the ends of the window are no part of it
        series.append(slices)
    small.make_store_of(tmp_path, series)
    ids = Store.open(tmp_path / "store").index["image_id"].tolist()
    values = np.zeros((len(ids), len(ICH.slices.names)))
    values[[ids.index(f"ID_00{number:02d}") for number in range(4)], -2:] = 1
    values[[ids.index(f"ID_01{number:02d}") for number in range(2)], -2:] = 1
    write_labels(tmp_path / "labels.csv", ICH, ids, values)
    return tmp_path / "store"


def relabel(store: Path, *options: str) -> int:
    labels = store.with_name("labels.csv")
    return main(["label", str(store), str(labels), "--replace", "--own-folds", "--folds", "2", *options])


def known(store: Path) -> dict[str, list[float]]:
    """The headline label of the slices of each patient that have one."""
    opened = Store.open(store)
    value = opened.labels[:, ICH.headline_index]
    of = {patient: value[opened.index["patient_id"] == patient] for patient in set(opened.index["patient_id"])}
    return {patient: of_one[~np.isnan(of_one)].tolist() for patient, of_one in of.items()}


def test_as_many_with_as_without_and_patients_are_whole_or_left_out(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert relabel(store, "--balance") == 0
    shown = capsys.readouterr().out
    found = known(store)
    values = [value for of_one in found.values() for value in of_one]
    assert (values.count(1), values.count(0)) == (6, 6)
    assert re.search(r"balanced +with any 6, without 6, slices left out 36, patients left out \d", shown)
    negative = [of_one for patient, of_one in found.items() if patient not in ("ID_p0", "ID_p1")]
    assert sum(len(of_one) not in (0, 6) for of_one in negative) <= 1  # one in part at most
    assert all(np.isnan(Store.open(store).labels).all(axis=1) == np.isnan(Store.open(store).labels).any(axis=1))
    assert verify_store(store).is_whole
    assert read_set_manifest(store, "ich").balanced_by == "any"


def test_patients_left_out_are_not_trained_on(store: Path) -> None:
    assert relabel(store, "--balance", "any") == 0
    splits = {span.patient_id: span.split for span in Store.open(store).series}
    assert splits == {patient: "train" if values else "test" for patient, values in known(store).items()}


def test_the_seed_alone_decides(store: Path) -> None:
    kept = []
    for seed in ("1", "1", "2", "3", "4"):
        relabel(store, "--balance", "--seed", seed)
        kept.append(known(store))
    assert kept[0] == kept[1]
    assert any(other != kept[0] for other in kept[2:])


def test_it_is_another_data_set(store: Path) -> None:
    relabel(store)
    before = Store.open(store).data_hash
    relabel(store, "--balance")
    assert Store.open(store).data_hash != before
    relabel(store)
    assert Store.open(store).data_hash == before
    assert "balanced" not in (store / "tasks/ich/set.json").read_text()


def test_a_cut_moves_no_patient_who_is_left(store: Path) -> None:
    assert relabel(store, "--holdout", "0.4", "--seed", "1") == 0
    before = {span.patient_id: span.fold for span in Store.open(store).series}
    full = Store.open(store).data_hash
    assert main(["label", str(store), str(store.with_name("labels.csv")), "--replace", "--balance"]) == 0
    left = {patient for patient, values in known(store).items() if values}
    after = {span.patient_id: span.fold for span in Store.open(store).series}
    assert after == {patient: fold if patient in left else -1 for patient, fold in before.items()}
    assert -1 in {before[patient] for patient in left}
    assert main(["label", str(store), str(store.with_name("labels.csv")), "--replace"]) == 0
    assert Store.open(store).data_hash == full


def test_what_cannot_be_divided_so_is_refused_before_pixels_are_read(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert relabel(store) == 0
    ids, other = Store.open(store).index["image_id"].tolist(), replace(ICH, name="other")
    for shard in (store / "shards").iterdir():
        shard.write_bytes(b"")
    assert relabel(store, "--measure", "brain") == 3  # they would be read
    assert relabel(store, "--measure", "brain", "--holdout", "0.999999") == 2
    assert "too few labelled patients" in capsys.readouterr().err
    write_labels(store.with_name("other.csv"), other, ids, np.zeros((len(ids), len(ICH.slices.names))))
    further = Further(measures_brain=True)
    with pytest.raises(UsageError, match="--folds: 8 of the patients keep the folds"):
        label(store, store.with_name("other.csv"), task=other, n_folds=3, further=further)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("bleed", "--balance bleed: is no label of slices. Choose one of epidural"),
        ("epidural", "--balance epidural: no slice is positive, so there is nothing to balance"),
    ],
)
def test_what_cannot_be_balanced_is_refused_and_the_labels_stay(
    store: Path, capsys: pytest.CaptureFixture[str], name: str, message: str
) -> None:
    before = Store.open(store).data_hash
    assert relabel(store, "--balance", name) == 2
    assert message in capsys.readouterr().err
    assert Store.open(store).data_hash == before


def test_the_share_of_brain_is_measured_of_every_slice(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert relabel(store) == 0
    before = Store.open(store)
    assert before.brain_share is None
    assert relabel(store, "--measure", "brain") == 0
    assert re.search(r"brain share +a quarter below 0, median 0\.25, a quarter above 0\.5", capsys.readouterr().out)
    opened = Store.open(store)
    assert opened.brain_share is not None
    expected = [SHARES[number % 4] for number in opened.index["slice_index"].tolist()]
    np.testing.assert_array_equal(opened.brain_share, np.float32(expected))
    assert opened.data_hash == before.data_hash  # it follows from the pixels
    assert verify_store(store).is_whole


def test_radiographs_have_none(tmp_path: Path) -> None:
    make_xray_store(tmp_path / "store")
    ids = Store.open(tmp_path / "store").index["image_id"].tolist()
    write_labels(tmp_path / "labels.csv", ICH, ids, np.zeros((len(ids), 6)))
    task, further = replace(ICH, inputs=replace(ICH.inputs, values="grey")), Further(measures_brain=True)
    with pytest.raises(UsageError, match=r"holds radiographs, and brain is measured in HU\. Leave out --measure"):
        label(tmp_path / "store", tmp_path / "labels.csv", task=task, replaces=True, further=further)


def test_damaged_pixels_are_named_and_the_labels_stay(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    relabel(store)
    before = (store / "tasks/ich/set.json").read_bytes()
    (shard,) = (store / "shards").iterdir()
    content = bytearray(shard.read_bytes())
    place = int(Store.open(store).index["byte_offset"][3])
    content[place] ^= 1
    shard.write_bytes(content)
    assert relabel(store, "--measure", "brain") == 3
    assert re.search(r"slice \d of series \w{8} is damaged\. Find all damage with", capsys.readouterr().err)
    assert (store / "tasks/ich/set.json").read_bytes() == before


@pytest.mark.parametrize("wrong", [-0.1, 1.5, np.nan])
def test_impossible_shares_are_refused(store: Path, wrong: float) -> None:
    relabel(store, "--measure", "brain")

    place = store / "tasks/ich/slices.parquet"
    kinds = {"image_id": "str", "split": "str", "fold": "int32", "csv_place": "int64"}
    kinds |= dict.fromkeys((*ICH.slices.names, MEASURED + BRAIN_SHARE), "float32")
    columns = dict(read_table(place, kinds, n_rows=48))
    assert set(pq.read_schema(place).names) == set(columns)
    columns[MEASURED + BRAIN_SHARE] = np.append(np.float32(wrong), columns[MEASURED + BRAIN_SHARE][1:])
    write_table(place, columns)
    sign(store)
    with pytest.raises(StoreError, match="impossible share of brain, row 0: slice 0 of series"):
        Store.open(store)


def test_single_slices_below_the_share_are_left_out_and_series_stay_whole(store: Path) -> None:
    phase = "slice_phase={epochs: 1, slices_per_batch: 4, optimizer: {learning_rate: 0.01}}"
    config = small.config(phase, "model.slice_loss_weight=1.0", "training_filter={min_brain_share: 0.3}")
    assert config.slice_phase is not None
    opened = Store.open(store)
    with pytest.raises(UsageError, match=r"Measure it: rsna-e2e label \S+ LABELS --task ich --replace --measure brain"):
        filtered(opened, config, np.arange(len(opened)))
    relabel(store, "--measure", "brain")
    opened = Store.open(store)
    loader = ImageLoader(opened, config, task=ICH, device=torch.device("cpu"))
    rows = np.concatenate(loader.group_slices(range(8), phase=config.slice_phase, epoch=1))
    assert set(opened.index["slice_index"][rows].tolist()) == {2, 3}
    assert len(rows) == 16
    ((first, *_), *_) = loader.group([0], epoch=2)
    assert loader.lengths([first]) == [6]
    above = small.config(phase, "model.slice_loss_weight=1.0", "training_filter={min_brain_share: 0.9}")
    with pytest.raises(UsageError, match=r"none of 48 training slices has training_filter\.min_brain_share=0\.9"):
        filtered(opened, above, np.arange(len(opened)))


def test_a_filter_needs_the_phase_that_it_filters() -> None:
    with pytest.raises(UsageError, match="training_filter is for the phase on single slices: give a slice_phase"):
        small.config("training_filter={min_brain_share: 0.02}")
