"""What slices are called: by the names of their files, each once in a store, and as labels call them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import phantoms
import pytest
from enhanced import enhanced_dataset

from rsna_e2e.core.records import ID_RULES, IdRule
from rsna_e2e.dicom.image_ids import image_id_of, may_be_formula, names_of, unique_image_ids
from rsna_e2e.store import Store
from rsna_e2e.store.prepare import PrepareReport, prepare, read_raw
from rsna_e2e.store.pseudonyms import Pseudonyms
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.tasks.labels import write_labels

KEY = Pseudonyms(b"k" * 32)


def write_slices(raw: Path, names: Sequence[str], *, series: int = 0) -> None:
    """Write a slice under each name, feet first, all of one series."""
    for index, name in enumerate(names):
        phantoms.write_numbered(raw / name, series=series, index=index, side=16)


def write_train_labels(raw: Path, image_ids: Sequence[str]) -> None:
    write_labels(raw / "train.csv", ICH, image_ids, np.zeros((len(image_ids), 6)))


def ids_of(folder: Path, **options: object) -> tuple[list[str], PrepareReport]:
    """Prepare `folder`/raw; return image ids in the order of the store, and the report."""
    report = prepare(folder / "raw", folder / "store", task=ICH, n_jobs=1, **options)
    return Store.open(folder / "store").index["image_id"].tolist(), report


@pytest.mark.parametrize(
    ("name", "image_id"),
    [
        ("ID_000012eaf.dcm", "ID_000012eaf"),
        ("deep/down/ID_1.DCM", "ID_1"),
        ("IM000001", "IM000001"),
        ("1.2.840.113619.2.55.3.7", "1.2.840.113619.2.55.3.7"),
        ("1.2.840.1.2.dcm", "1.2.840.1.2"),
        ("Doe^J.CT.0001.20190501.IMA", "Doe^J.CT.0001.20190501"),
        ("a.dicom", "a"),
        ("a.img", "a"),
        ("a.dcm.dcm", "a.dcm"),
        ("scan.v2", "scan.v2"),
        (".dcm", ".dcm"),
        ("dcm", "dcm"),
        ("a b.dcm", "a b"),
        ("a\x1b[2J.dcm", "a\\x1b[2J"),
        ("a\udcff.dcm", "a\\udcff"),
    ],
)
def test_nothing_but_a_suffix_of_dicom_files_is_cut_off(name: str, image_id: str) -> None:
    assert image_id_of(name) == image_id
    assert image_id in names_of(name)


@pytest.mark.parametrize("name", ["=1+1.dcm", "deep/+1.dcm", "@sum/IM1", "-2", "\uff1d1"])
def test_what_a_spreadsheet_would_run(name: str) -> None:
    assert may_be_formula(name)
    assert not may_be_formula(name.replace("+", "p").translate(dict.fromkeys(map(ord, "=@-\uff1d"), "I")))


@pytest.mark.parametrize(
    ("files", "unique"),
    [
        ({"a.dcm": "a", "b/c.dcm": "c"}, ["a", "c"]),
        ({"a.dcm": "a", "x/a.dcm": "a", "y/z/a.dcm": "a"}, ["a", "x/a", "y/z/a"]),
        ({"x/a.dcm": "a", "x/a.IMA": "a", "b": "b"}, ["x/a.dcm", "x/a.IMA", "b"]),
        ({"a.dcm": "a_1", "a_1.dcm": "a_1"}, ["a.dcm_1", "a_1.dcm"]),
        ({"a\x1b.dcm": "a\\x1b", "a\\x1b.dcm": "a\\x1b"}, ["a\\x1b.dcm~1", "a\\x1b.dcm~2"]),
    ],
)
def test_ids_that_are_there_twice_get_longer_until_they_are_not(files: dict[str, str], unique: list[str]) -> None:
    assert unique_image_ids(list(files.values()), list(files)) == unique


@pytest.mark.parametrize(
    ("rule", "unique"),
    [
        ("path", ["x/a.dcm", "x/a.IMA", "x/e_1", "x/e_2", "b"]),
        ("sop_uid", ["1.1", "x/1.2", "1.3_1", "1.3_2", "1.2"]),
    ],
)
def test_ids_by_path_and_uid(rule: IdRule, unique: list[str]) -> None:
    """Paths that differ in their suffix alone, frames, and a UID that is there twice, which has the folder if any."""
    names = ["x/a.dcm", "x/a.IMA", "x/e.dcm", "x/e.dcm", "b"]
    image_ids = ["a", "a", "e_1", "e_2", "b"]
    sop_uids = ["1.1", "1.2", "1.3", "1.3", "1.2"]
    assert unique_image_ids(image_ids, names, rule=rule, sop_uids=sop_uids) == unique


def test_arbitrary_names_give_ids_of_which_no_two_are_equal() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        parts = rng.choice(["a", "b", "a_1", "~1", ".", ".dcm", ".IMA", "/", "/", "\x1b", "\\x1b"], size=(20, 4))
        names = sorted({"".join(row).strip("/") or "x" for row in parts})
        frames = rng.choice(["", "_1", "_2"], size=len(names))
        image_ids = [image_id_of(n) + f for n, f in zip(names, frames, strict=True)]
        sop_uids = [str(n) for n in rng.integers(0, 9, size=len(names))]
        for rule in ID_RULES:
            unique = unique_image_ids(image_ids, names, rule=rule, sop_uids=sop_uids)
            assert len(set(unique)) == len(names)


def test_files_called_by_uids_keep_all_of_them_and_find_their_labels(tmp_path: Path) -> None:
    names = [f"1.2.826.0.1.9.{number}" for number in range(1, 5)]
    write_slices(tmp_path / "raw", names)
    write_train_labels(tmp_path / "raw", names)
    image_ids, report = ids_of(tmp_path)
    assert image_ids == names
    assert (report.n_unlabelled, report.n_labels_without_image) == (0, 0)


def test_equal_names_in_two_folders_are_told_apart_by_these(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    for series in range(2):
        write_slices(raw / f"s{series}", ["IM1.dcm", "IM2.dcm"], series=series)
    write_slices(raw, ["IM3.dcm"], series=2)
    expected = ["s0/IM1", "s0/IM2", "s1/IM1", "s1/IM2", "IM3"]
    image_ids, _ = ids_of(tmp_path)
    assert image_ids == expected
    assert read_raw(raw, task=ICH, n_jobs=1).columns["image_id"].tolist() == expected
    prepare(raw, tmp_path / "again", task=ICH, n_jobs=1)
    assert (tmp_path / "again" / "index.parquet").read_bytes() == (tmp_path / "store" / "index.parquet").read_bytes()
    prepare(raw, tmp_path / "hashed", task=ICH, n_jobs=1, pseudonyms=KEY)
    assert Store.open(tmp_path / "hashed").index["image_id"].tolist() == [KEY.of("image", one) for one in expected]
    write_train_labels(raw, expected)
    report = prepare(raw, tmp_path / "labelled", task=ICH, n_jobs=1)
    assert (report.n_slices, report.n_unlabelled, report.n_labels_without_image, report.refusals) == (5, 0, 0, {})


def test_a_frame_and_a_file_of_the_same_name(tmp_path: Path) -> None:
    stored = np.stack([phantoms.stored_image(16, 16, seed=i, form=phantoms.SIGNED_16) for i in range(2)])
    phantoms.write_dicom(tmp_path / "raw" / "a.dcm", enhanced_dataset(stored, SeriesInstanceUID="1.2.5.8"))
    write_slices(tmp_path / "raw", ["a_1.dcm"], series=1)
    assert sorted(ids_of(tmp_path)[0]) == ["a.dcm_1", "a_1.dcm", "a_2"]


def test_a_copy_in_another_folder_changes_no_name(tmp_path: Path) -> None:
    for folder in ("x", "y"):
        write_slices(tmp_path / "raw" / folder, ["IM1.dcm", "IM2.dcm"])
    image_ids, report = ids_of(tmp_path)
    assert image_ids == ["IM1", "IM2"]
    assert report.refusals == {"duplicate_sop_uid": 2}


def test_labels_may_leave_out_a_suffix_that_nobody_knows(tmp_path: Path) -> None:
    write_slices(tmp_path / "raw", ["a.scan", "b.scan", "c", "c.scan", "d.1", "d.2"])
    write_train_labels(tmp_path / "raw", ["a", "b.scan", "c", "d"])
    image_ids, report = ids_of(tmp_path)
    assert image_ids == ["a.scan", "b.scan", "c", "c.scan", "d.1", "d.2"]
    labels = Store.open(tmp_path / "store").labels
    assert np.isnan(labels).all(axis=1).tolist() == [False, False, False, True, True, True]
    assert report.n_labels_without_image == 1  # d could mean either


def test_an_instance_in_two_series_has_its_labels_in_both(tmp_path: Path) -> None:
    for series in range(2):
        write_slices(tmp_path / "raw" / f"s{series}", ["IM1.dcm"], series=series)
        path = tmp_path / "raw" / f"s{series}" / "IM1.dcm"
        dataset = phantoms.read(path)
        dataset.SOPInstanceUID = "1.2.3.9"
        dataset.save_as(path)
    write_train_labels(tmp_path / "raw", ["IM1"])
    image_ids, report = ids_of(tmp_path)
    assert image_ids == ["s0/IM1", "s1/IM1"]
    assert (report.n_unlabelled, report.n_labels_without_image) == (0, 0)
