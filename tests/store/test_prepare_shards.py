"""HDF5 shards as the source of a store: what comes in again is what went out, in the order of the files."""

import csv
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
import pytest
import small
from stores import edit_index, edit_manifest

from rsna_e2e.cli import main
from rsna_e2e.core.errors import BadInputError
from rsna_e2e.core.table_files import table_at
from rsna_e2e.evaluation.inspection import inspect_store
from rsna_e2e.store import Store, StoreError, verify_store
from rsna_e2e.store.export_shards import export_shards
from rsna_e2e.store.prepare import count_raw, prepare, read_raw, repair
from rsna_e2e.store.pseudonyms import Pseudonyms
from rsna_e2e.tasks.ich import ICH

GEOMETRY = [
    *(f"ipp_{axis}_mm" for axis in "xyz"),
    *(f"iop_{way}_{axis}" for way in ("row", "column") for axis in "xyz"),
    *("spacing_row_mm", "spacing_column_mm"),
]


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store of DICOM files: six labelled series and one without labels, 25 slices."""
    return small.make_store(tmp_path_factory.mktemp("first"))


@pytest.fixture(scope="module")
def shards(first: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its slices in files of 10, in an order that is not that of the store, with the label table beside them."""
    out = tmp_path_factory.mktemp("shards") / "shards"
    labels = shuffled_labels(first, out.with_name("train.csv"))
    export_shards(first, out, slices_per_shard=10, labels=table_at(labels))
    labels.rename(out / "train.csv")
    return out


@pytest.fixture(scope="module")
def again(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store of these shards."""
    store = tmp_path_factory.mktemp("again") / "store"
    prepare(shards, store, task=ICH, n_folds=3, n_jobs=1)
    return Store.open(store)


def shuffled_labels(store: Store, path: Path) -> Path:
    """Write the labels of a store by SOP instance UID, slices in random order."""
    rows = np.random.default_rng(0).permutation(len(store))
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["ID", *store.label_names])
        table.writerows([store.index["sop_uid"][row], *store.labels[row]] for row in rows if store.labels[row, 0] >= 0)
    return path


def checksums(store: Store) -> dict[tuple[str, str], int]:
    names = zip(store.index["study_uid"], store.index["sop_uid"], strict=True)
    return dict(zip(names, store.index["checksum"].tolist(), strict=True))


def write_shard(path: Path, keys: Sequence[str], *, side: int = 4) -> None:
    """Write slices as the published program does, without keeping their order; each holds its number."""
    path.parent.mkdir(exist_ok=True)
    with h5py.File(path, "w") as file:
        for number, key in enumerate(keys):
            file[key] = np.full((side, side), number, dtype="<i2")


def test_every_slice_comes_in_again(first: Store, again: Store) -> None:
    assert checksums(again) == checksums(first)
    assert len(again) == 25
    assert verify_store(again.path).is_whole
    by_instance = {sop_uid: row for row, sop_uid in enumerate(first.index["sop_uid"].tolist())}
    rows = [by_instance[sop_uid] for sop_uid in again.index["sop_uid"].tolist()]
    np.testing.assert_array_equal(again.labels, first.labels[rows])
    for name in ("content_x0", "content_y0", "content_x1", "content_y1", "hu_min", "hu_max"):
        np.testing.assert_array_equal(again.index[name], first.index[name][rows])


def test_the_positives_are_those_of_the_store(first: Store, shards: Path) -> None:
    expected = {
        f"{first.index['study_uid'][row]}/{first.index['sop_uid'][row]}": first.read_slice(row)
        for row in np.flatnonzero(first.labels[:, ICH.headline_index] == 1)
    }
    assert expected
    with h5py.File(shards / "npy-pe-pos.hdf5") as file:
        found = {f"{study}/{name}": one[:] for study, group in file.items() for name, one in group.items()}
    assert found.keys() == expected.keys()
    for key, hu in expected.items():
        np.testing.assert_array_equal(found[key], hu)


def test_slices_are_in_the_order_of_the_files(again: Store, shards: Path) -> None:
    with (shards / "train.csv").open(newline="") as file:
        places = {row["ID"]: place for place, row in enumerate(csv.DictReader(file))}
    for series in again.series[:-1]:  # the last has no labels
        found = [places[sop_uid] for sop_uid in again.index["image_id"][series.rows]]
        assert found == sorted(found)
        np.testing.assert_array_equal(again.index["position_mm"][series.rows], np.arange(series.n_slices))
    assert again.geometry == "none"
    for name in GEOMETRY:
        assert np.isnan(again.index[name]).all()


def test_a_study_is_a_patient_and_a_series(again: Store) -> None:
    for series in again.series:
        assert series.patient_id == series.study_uid == series.series_uid
    assert set(again.index["repair"].tolist()) == {"patient_by_study"}


def test_the_report_says_that_there_are_no_positions(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["prepare", str(shards), str(tmp_path / "store"), "--jobs", "1"]) == 0
    said = capsys.readouterr()
    assert "no positions: order of the files 7" in said.out
    assert "and nothing else tells it" in said.err


def test_a_data_report_knows_nothing_of_its_geometry(again: Store) -> None:
    content, _ = inspect_store(again, n_sampled=5)
    geometry = content["geometry"]
    assert geometry["n_series_without_positions"] == 7
    for name in ("pixel_spacing_mm", "slice_spacing_mm", "tilt_deg", "shear_deg"):
        assert geometry[name]["n"] == 0
    assert (geometry["n_not_square"], geometry["n_uneven"], geometry["widest_gaps"]) == (0, 0, [])
    assert geometry["planes"]["values"] == []
    assert "No positions" in [finding["title"] for finding in content["findings"]]


def test_a_store_says_whether_it_has_positions(first: Store, again: Store) -> None:
    for store, geometry in ((first, "patient"), (again, "none")):
        assert store.geometry == json.loads((store.path / "store.json").read_text())["geometry"] == geometry


def test_files_that_keep_no_order_are_read_in_the_order_of_their_bytes(tmp_path: Path) -> None:
    """Files come by number, 10 after 2; in one, names rise otherwise than slices were written."""
    write_shard(tmp_path / "raw/npy-10.hdf5", ["s/a"])
    write_shard(tmp_path / "raw/npy-2.hdf5", ["s/d", "t/x", "s/c", "s/b"], side=64)
    prepare(tmp_path / "raw", tmp_path / "store", task=ICH, n_jobs=1)
    store = Store.open(tmp_path / "store")
    assert store.index["sop_uid"].tolist() == ["d", "c", "b", "a", "x"]
    assert [int(store.read_slice(row)[0, 0]) for row in range(5)] == [0, 2, 3, 0, 1]


def test_a_slice_that_is_there_twice(tmp_path: Path) -> None:
    write_shard(tmp_path / "raw/npy-1.hdf5", ["s/a", "s/b"])
    write_shard(tmp_path / "raw/npy-2.hdf5", ["t/b"])
    with pytest.raises(BadInputError, match=r"such as npy-1\.hdf5/s/b and npy-2\.hdf5/t/b"):
        prepare(tmp_path / "raw", tmp_path / "store", task=ICH, n_jobs=1)
    assert not (tmp_path / "store").exists()


def test_what_else_lies_there(tmp_path: Path) -> None:
    """Positives and tables are known; all else is counted. A link to a shard is followed, as one to a DICOM file is."""
    write_shard(tmp_path / "elsewhere.hdf5", ["s/b"])
    write_shard(tmp_path / "raw/npy-1.hdf5", ["s/a"])
    write_shard(tmp_path / "raw/npy-pe-pos.hdf5", ["s/a"])
    (tmp_path / "raw/npy-2.hdf5").symlink_to(tmp_path / "elsewhere.hdf5")
    (tmp_path / "raw/test.csv").write_text("a,b\n")
    (tmp_path / "raw/train.csv").symlink_to("nowhere")
    (tmp_path / "raw/notes.txt").write_text("x")
    report = prepare(tmp_path / "raw", tmp_path / "store", task=ICH, n_jobs=1)
    assert (report.n_slices, report.refusals) == (2, {"not_dicom": 1})


def test_a_shard_that_is_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_shard(tmp_path / "raw/npy-1.hdf5", ["s/a"])
    os.mkfifo(tmp_path / "raw/npy-2.hdf5")
    words = ["prepare", str(tmp_path / "raw"), str(tmp_path / "store")]
    assert main(words) == 3
    assert "npy-2.hdf5: not a regular file, but has the name of a shard" in capsys.readouterr().err
    (tmp_path / "raw/npy-2.hdf5").unlink()
    (tmp_path / "raw/npy-2.hdf5").symlink_to("nowhere")
    assert main(words) == 3
    assert "npy-2.hdf5: No such file or directory" in capsys.readouterr().err


def test_slices_of_shards_are_counted_one_by_one(shards: Path) -> None:
    counts = count_raw(shards, task=ICH)
    assert (counts.n_files, counts.n_labelled, counts.is_estimate) == (25, 21, False)


def test_hashed_identifiers_are_the_keys_of_shards(shards: Path, again: Store, tmp_path: Path) -> None:
    """Of a store of shards too; what comes in a third time is what went out first."""
    pseudonyms = Pseudonyms(bytes(32))
    prepare(shards, tmp_path / "store", task=ICH, n_jobs=1, pseudonyms=pseudonyms)
    export_shards(Store.open(tmp_path / "store"), tmp_path / "out")
    prepare(tmp_path / "out", tmp_path / "third", task=ICH, n_jobs=1)
    expected = {
        (pseudonyms.of("study", study), pseudonyms.of("instance", sop_uid)): checksum
        for (study, sop_uid), checksum in checksums(again).items()
    }
    assert checksums(Store.open(tmp_path / "third")) == expected


def test_raw_headers_are_those_of_the_store(shards: Path, again: Store) -> None:
    found = read_raw(shards, task=ICH, n_jobs=1)
    for name in ("image_id", "series_key", "slice_index", "position_mm"):
        np.testing.assert_array_equal(found.columns[name], again.index[name])


def test_a_store_of_shards_is_mended_from_them(shards: Path, tmp_path: Path) -> None:
    prepare(shards, tmp_path / "store", task=ICH, n_jobs=1)
    store = Store.open(tmp_path / "store")
    path = tmp_path / "store/shards" / store.index["shard"][3]
    content = bytearray(path.read_bytes())
    content[int(store.index["byte_offset"][3])] ^= 1
    path.write_bytes(content)
    assert repair(tmp_path / "store", shards, n_jobs=1).n_mended_slices == 1
    assert verify_store(tmp_path / "store").is_whole


def test_positions_that_a_store_without_geometry_cannot_have(again: Store, tmp_path: Path) -> None:
    shutil.copytree(again.path, tmp_path / "a")
    edit_index(tmp_path / "a", lambda index: index["ipp_z_mm"].__setitem__(4, 1.0))
    with pytest.raises(StoreError, match="impossible ipp_z_mm, row 4"):
        Store.open(tmp_path / "a")
    edit_manifest(again.path, geometry="patient")
    with pytest.raises(StoreError, match="impossible ipp_x_mm, row 0"):
        Store.open(again.path)
    edit_manifest(again.path, geometry="none")
