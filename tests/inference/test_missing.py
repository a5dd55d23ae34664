"""What a submission lacks is counted, and listed beside it; and one that would name slices twice is not begun."""

import csv
import shutil
from pathlib import Path

import numpy as np
import phantoms
import pytest
import small

from rsna_e2e.cli import main
from rsna_e2e.core.errors import BadInputError
from rsna_e2e.core.records import IdRule
from rsna_e2e.inference.missing import list_missing
from rsna_e2e.inference.predict import predict
from rsna_e2e.store import Store
from rsna_e2e.store.prepare import prepare
from rsna_e2e.store.pseudonyms import Pseudonyms
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.tasks.labels import write_labels
from rsna_e2e.training.train import train

TEST, TRAIN = "stage_2_test_images", "stage_2_train_images"


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A labelled and an unlabelled series; of each one slice is cut short, and what else lies about."""
    raw = tmp_path_factory.mktemp("missing") / "raw"
    hu = phantoms.write_series(raw / TRAIN, name="a", patient_id="p1")
    phantoms.write_series(raw / TEST, name="b", patient_id="p2", n_slices=5)
    write_labels(raw / "stage_2_train.csv", ICH, sorted(hu), np.zeros((3, 6)))
    for name in (f"{TRAIN}/ID_a_002.dcm", f"{TEST}/ID_b_004.dcm"):
        (raw / name).write_bytes((raw / name).read_bytes()[:-100])
    (raw / TEST / "ID_b_005.dcm").write_bytes(b"")
    (raw / TEST / "ID_b_006.dcm").symlink_to("nowhere")
    (raw / TEST / "notes.txt").write_text("no image")
    shutil.copy(raw / TEST / "ID_b_001.dcm", raw / "ID_b_001.dcm")  # once more
    scout = phantoms.read(raw / TEST / "ID_b_001.dcm")
    scout.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    scout.save_as(raw / TEST / "ID_b_scout.dcm")
    return raw


def test_refused_files_that_may_be_asked_for_are_missing(raw: Path, tmp_path: Path) -> None:
    prepare(raw, tmp_path / "store", task=ICH, n_jobs=1)
    store = Store.open(tmp_path / "store")
    for split, expected in (
        ("test", {"ID_b_004": "truncated", "ID_b_005": "not_dicom", "ID_b_006": "not_regular_file"}),
        ("train", {"ID_a_002": "truncated"}),
    ):
        missing = list_missing(store, split, submission=tmp_path / f"{split}.csv")
        assert missing.file == tmp_path / f"{split}.csv.missing.csv"
        with missing.file.open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert {row["ID"]: row["reason"] for row in rows} == expected
        assert all(row["detail"] for row in rows)
        assert sum(missing.reasons.values()) == len(expected)
    missing = list_missing(store, "validation", submission=tmp_path / "validation.csv")  # no fold is known of any
    assert (missing.reasons, missing.file) == ({}, None)


@pytest.mark.parametrize("rule", ["path", "sop_uid"])
def test_missing_images_are_called_as_those_in_the_store(raw: Path, tmp_path: Path, rule: IdRule) -> None:
    """By path; by name where the UID is not known. A copy is there already, though it has another path."""
    prepare(raw, tmp_path / "store", task=ICH, labels="none", image_ids=rule, n_jobs=1)
    missing = list_missing(Store.open(tmp_path / "store"), "test", submission=tmp_path / "test.csv")
    assert missing.file is not None
    with missing.file.open(newline="") as file:
        listed = {row["ID"]: row["reason"] for row in csv.DictReader(file)}
    test, train = (f"{TEST}/", f"{TRAIN}/") if rule == "path" else ("", "")
    expected = {f"{test}ID_b_004": "truncated", f"{test}ID_b_005": "not_dicom", f"{test}ID_b_006": "not_regular_file"}
    assert listed == expected | {f"{train}ID_a_002": "truncated"}


@pytest.mark.parametrize("names", [["IM_1", "IM_2"], ["IM_1", "other"]])
def test_copies_whose_names_repeat_are_there(tmp_path: Path, names: list[str]) -> None:
    """The slices of `a` once more in `b`, and `c` with others of the same names."""
    phantoms.write_series(tmp_path / "raw" / "a", name="a", n_slices=2)
    phantoms.write_series(tmp_path / "raw" / "c", name="c", n_slices=2)
    for folder in "ac":
        for path in sorted((tmp_path / "raw" / folder).iterdir()):
            path.rename(path.with_name(f"IM_{path.stem[-1]}.dcm"))
    (tmp_path / "raw" / "b").mkdir()
    for number, name in enumerate(names, 1):
        shutil.copy(tmp_path / "raw" / "a" / f"IM_{number}.dcm", tmp_path / "raw" / "b" / f"{name}.dcm")
    report = prepare(tmp_path / "raw", tmp_path / "store", task=ICH, labels="none", n_jobs=1)
    assert report.refusals == {"duplicate_sop_uid": 2}
    for split in ("train", "test"):
        assert list_missing(Store.open(tmp_path / "store"), split, submission=tmp_path / "sub.csv").reasons == {}


def test_a_copy_that_a_label_names_by_its_path_is_missing(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        phantoms.write_series(tmp_path / "raw" / folder, name="a", n_slices=2)
    write_labels(tmp_path / "labels.csv", ICH, ["b/ID_a_001", "b/ID_a_002"], np.zeros((2, 6)))
    prepare(tmp_path / "raw", tmp_path / "store", task=ICH, labels=tmp_path / "labels.csv", n_jobs=1)
    missing = list_missing(Store.open(tmp_path / "store"), "train", submission=tmp_path / "sub.csv")
    assert missing.reasons == {"duplicate_sop_uid": 2}


def test_a_file_called_as_a_slice_of_another_series_is_missing_all_the_same(tmp_path: Path) -> None:
    for name in "abc":
        phantoms.write_series(tmp_path / "raw" / name, name=name, n_slices=2)
        for path in sorted((tmp_path / "raw" / name).iterdir()):
            path.rename(path.with_name(f"IM_{path.stem[-1]}.dcm"))
    for name in "bc":
        (cut := tmp_path / "raw" / name / "IM_2.dcm").write_bytes(cut.read_bytes()[:-100])
    prepare(tmp_path / "raw", tmp_path / "store", task=ICH, n_jobs=1)
    missing = list_missing(Store.open(tmp_path / "store"), "test", submission=tmp_path / "sub.csv")
    assert missing.reasons == {"truncated": 2}
    assert missing.file is not None
    assert [line.split(",")[0] for line in missing.file.read_text().splitlines()] == ["ID", "b/IM_2", "c/IM_2"]


def test_of_hashed_paths_only_reasons_are_known(raw: Path, tmp_path: Path) -> None:
    prepare(raw, tmp_path / "store", task=ICH, n_jobs=1, pseudonyms=Pseudonyms(b"k" * 32))
    missing = list_missing(Store.open(tmp_path / "store"), "test", submission=tmp_path / "sub.csv")
    assert missing.reasons == {"truncated": 1}
    assert missing.file is not None
    assert "ID_" not in missing.file.read_text()


def test_predict_says_what_is_missing_until_nothing_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], one_thread: None
) -> None:
    small.write_raw(tmp_path / "raw", n_unlabelled=2)
    prepare(tmp_path / "raw", tmp_path / "whole", task=ICH, n_folds=3, n_jobs=1)
    (cut := tmp_path / "raw" / "ID_0600.dcm").write_bytes(cut.read_bytes()[:-100])
    prepare(tmp_path / "raw", tmp_path / "store", task=ICH, n_folds=3, n_jobs=1)
    train(Store.open(tmp_path / "whole"), tmp_path / "run", small.config("checkpoint.keep_epochs=true"))
    out = tmp_path / "sub.csv"
    for options in ([], ["--checkpoint", "epochs"]):
        for store, n_missing in (("store", 1), ("whole", 0)):
            words = ["predict", tmp_path / "run", tmp_path / store, "--out", out, "--device", "cpu", *options]
            assert main([str(word) for word in words]) == 0
            said = capsys.readouterr().out
            expected = f"submission: 1 image that prepare refused (1 truncated); see {out}.missing.csv"
            assert (expected in said) == (n_missing == 1)
            assert Path(f"{out}.missing.csv").exists() == (n_missing == 1)


def test_slices_of_one_name_are_refused_before_anything_is_predicted(tmp_path: Path, one_thread: None) -> None:
    """As stores hold them that were made before names were told apart."""
    store = small.make_store(tmp_path)
    train(store, tmp_path / "run", small.config())
    store.index["image_id"][:] = "same"
    with pytest.raises(BadInputError, match="store: 3 slices have the image id of another"):
        predict(tmp_path / "run", store, split="test", out=tmp_path / "sub.csv", device="cpu")
    assert not (tmp_path / "sub.csv").exists()
