"""Files that leave out what the standard lets them: whose slices they are, and in which unit."""

from pathlib import Path

import phantoms
import pyarrow.parquet as pq
import pytest
import small

from rsna_e2e.cli import main
from rsna_e2e.core.errors import BadInputError
from rsna_e2e.evaluation.inspection import inspect_raw
from rsna_e2e.store import Store
from rsna_e2e.store.folds import patients_in_several_folds
from rsna_e2e.store.prepare import prepare
from rsna_e2e.store.pseudonyms import Pseudonyms
from rsna_e2e.tasks.ich import ICH

STUDIES = [f"1.2.4.{series}" for series in range(len(small.LENGTHS) + 1)]


def without_patients(raw: Path, *, but: tuple[str, ...] = ()) -> Path:
    small.write_raw(raw)
    for path in raw.glob("*.dcm"):
        if path.stem not in but:
            dataset = phantoms.read(path)
            dataset.PatientID = ""
            dataset.save_as(path)
    return raw


def test_a_study_without_a_patient_stands_for_one(tmp_path: Path) -> None:
    named, open_ = tmp_path / "named", without_patients(tmp_path / "open")
    small.write_raw(named)
    reports = {raw.name: prepare(raw, tmp_path / f"{raw.name}-store", task=ICH, n_jobs=1) for raw in (named, open_)}
    assert {name: report.n_studies_as_patients for name, report in reports.items()} == {"named": 0, "open": 7}
    assert reports["open"].repairs == {"patient_by_study": sum(small.LENGTHS) + 4}
    stores = [Store.open(tmp_path / f"{name}-store") for name in ("named", "open")]
    assert stores[1].index["patient_id"].tolist() == stores[1].index["study_uid"].tolist()
    # Each study is of another patient, so nothing else is changed.
    for name in ("image_id", "split", "position_mm", "checksum"):
        assert stores[1].index[name].tolist() == stores[0].index[name].tolist()
    assert patients_in_several_folds(stores[1].index["patient_id"].tolist(), stores[1].index["fold"].tolist()) == []
    assert stores[1].labels.tobytes() == stores[0].labels.tobytes()


def test_other_slices_of_a_study_name_the_patient(tmp_path: Path) -> None:
    raw = without_patients(tmp_path / "raw", but=("ID_0002",))
    assert prepare(raw, tmp_path / "store", task=ICH, n_jobs=1).n_patients == 7
    store = Store.open(tmp_path / "store")
    assert [span.patient_id for span in store.series] == sorted(["ID_p0", *STUDIES[1:]])
    _, slices = inspect_raw(raw, task=ICH, n_jobs=1)
    assert slices["patient_id"].tolist() == store.index["patient_id"].tolist()


def test_two_patients_of_one_study_leave_the_rest_to_the_study(tmp_path: Path) -> None:
    raw = without_patients(tmp_path / "raw")
    for image_id in ("ID_0000", "ID_0001"):
        dataset = phantoms.read(raw / f"{image_id}.dcm")
        dataset.PatientID = image_id
        dataset.save_as(raw / f"{image_id}.dcm")
    prepare(raw, tmp_path / "store", task=ICH, n_jobs=1)
    store = Store.open(tmp_path / "store")
    assert {span.patient_id for span in store.series} == {"ID_0000", "ID_0001", *STUDIES}


def test_hashed_patients_are_those_of_hashed_studies(tmp_path: Path) -> None:
    raw, pseudonyms = without_patients(tmp_path / "raw"), Pseudonyms(bytes(32))
    report = prepare(raw, tmp_path / "store", task=ICH, n_jobs=1, pseudonyms=pseudonyms)
    assert report.n_studies_as_patients == report.n_patients == 7
    index = Store.open(tmp_path / "store").index
    patient_of = dict(zip(index["study_uid"].tolist(), index["patient_id"].tolist(), strict=True))
    assert patient_of == {pseudonyms.of("study", study): pseudonyms.of("patient", study) for study in STUDIES}


def test_prepare_says_it_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = without_patients(tmp_path / "raw")
    assert main(["prepare", str(raw), str(tmp_path / "store"), "--jobs", "1"]) == 0
    told = capsys.readouterr()
    assert told.err.count("studies that name no patient (PatientID is empty): 7.") == 1
    assert "n studies as patients   7" in told.out
    assert "so studies of one patient may be in several folds\n" in told.err


def test_with_patients_held_out_it_says_where_theirs_may_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = without_patients(tmp_path / "raw")
    assert main(["prepare", str(raw), str(tmp_path / "store"), "--jobs", "1", "--holdout", "0.3"]) == 0
    assert "may be in several folds, or both in training and among the held-out\n" in capsys.readouterr().err


def test_whoever_wants_hu_by_name_alone_can_have_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = tmp_path / "raw"
    for name, unit in (("a", "US"), ("b", "HU")):
        phantoms.write_series(raw, name=name, patient_id=name)
        for path in raw.glob(f"ID_{name}_*"):
            dataset = phantoms.read(path)
            dataset.RescaleType = unit
            dataset.save_as(path)
    assert prepare(raw, tmp_path / "both", task=ICH, n_jobs=1).repairs == {"unspecified_unit": 3}
    assert main(["prepare", str(raw), str(tmp_path / "one"), "--jobs", "1", "--require-hu"]) == 0
    assert set(Store.open(tmp_path / "one").index["patient_id"].tolist()) == {"b"}
    assert set(pq.read_table(tmp_path / "one" / "refusals.parquet")["reason"].to_pylist()) == {"not_hounsfield"}


def test_inspect_gives_reasons_with_examples_too(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    dataset = phantoms.slice_dataset(phantoms.stored_image(9, 9, seed=0, form=phantoms.SIGNED_16), Modality="MR")
    phantoms.write_dicom(raw / "a.dcm", dataset)
    with pytest.raises(BadInputError, match=r"1 not_ct, such as a\.dcm \(Modality is MR\)"):
        inspect_raw(raw, task=ICH, n_jobs=1)
