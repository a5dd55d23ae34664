"""A task of two levels: labels of studies go to every series of theirs, beside those of slices."""

import shutil
from pathlib import Path

import numpy as np
import phantoms
import pytest
from stores import sign

from rsna_e2e.cli import main
from rsna_e2e.store import Store, StoreError, verify_store
from rsna_e2e.store.layout import SERIES_COLUMNS
from rsna_e2e.store.prepare import LabelFacts, label, prepare
from rsna_e2e.store.pseudonyms import Pseudonyms
from rsna_e2e.store.tables import read_table, write_table
from rsna_e2e.tasks.pe import PE

HEAD = "StudyInstanceUID,SeriesInstanceUID,SOPInstanceUID,pe_present_on_image,negative_exam_for_pe,indeterminate,\
rv_lv_ratio_gte_1,rv_lv_ratio_lt_1,central_pe,chronic_pe,acute_and_chronic_pe,leftsided_pe,rightsided_pe,qa_motion\n"
NEGATIVE, POSITIVE = "1,0,0,0,0,0,0,0,0,", "0,0,1,0,1,0,0,0,0,"
SERIES = {"1.1": ("1.1.1", "1.1.2"), "1.2": ("1.2.1",), "1.3": ("1.3.1",), "1.4": ("1.4.1",)}  # of each study


def write_raw(folder: Path) -> Path:
    """Four studies of two slices a series, in the competition's layout, and labels.

    1.1 is positive, of two series, of which the second has no labels of slices; 1.2 is negative; 1.3 has no labels;
    1.4 is negative, and has a positive slice all the same. 1.9 is not there.
    """
    for number, (study, all_series) in enumerate(SERIES.items()):
        for series in all_series:
            for index in range(2):
                dataset = phantoms.slice_dataset(
                    np.full((16, 16), 40, "<i2"),
                    SOPInstanceUID=f"{series}.{index}",
                    PatientID=f"p{number}",
                    StudyInstanceUID=study,
                    SeriesInstanceUID=series,
                    ImagePositionPatient=[0.0, 0.0, 5.0 * index],
                )
                phantoms.write_dicom(folder / "train" / study / series / f"{series}.{index}.dcm", dataset)
    rows = [
        ("1.1", "1.1.1.0", "1", POSITIVE + "1"),
        ("1.1", "1.1.1.1", "0", POSITIVE + "1"),
        ("1.2", "1.2.1.0", "0", NEGATIVE + "0"),
        ("1.2", "1.2.1.1", "0", NEGATIVE + "0"),
        ("1.4", "1.4.1.0", "1", NEGATIVE + "0"),
        ("1.4", "1.4.1.9", "0", NEGATIVE + "0"),  # no such slice
        ("1.9", "1.9.1.0", "0", NEGATIVE + "0"),
    ]
    lines = [f"{study},{sop.rpartition('.')[0]},{sop},{value},{rest}\n" for study, sop, value, rest in rows]
    (folder / "train.csv").write_text(HEAD + "".join(lines))
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, LabelFacts]:
    raw = write_raw(tmp_path_factory.mktemp("studies") / "raw")
    return raw, prepare(raw, raw.parent / "store", task=PE, n_folds=2, n_jobs=1)


@pytest.fixture
def copy(made: tuple[Path, LabelFacts], tmp_path: Path) -> Path:
    return Path(shutil.copytree(made[0].parent / "store", tmp_path / "store"))


def column(store: Store, name: str) -> list[float]:
    return store.series_labels[:, store.series_label_names.index(name)].tolist()


def test_labels_of_studies_are_those_of_their_series(made: tuple[Path, LabelFacts]) -> None:
    store = Store.open(made[0].parent / "store")
    assert [span.series_uid for span in store.series] == ["1.1.1", "1.1.2", "1.2.1", "1.3.1", "1.4.1"]
    assert store.series_label_names == PE.series.names
    nan = np.nan
    np.testing.assert_array_equal(column(store, "negative_exam_for_pe"), [0, 0, 1, nan, 1])
    np.testing.assert_array_equal(column(store, "central_pe"), [1, 1, 0, nan, 0])
    notes = store.series_notes[:, store.note_names.index("qa_motion")]
    np.testing.assert_array_equal(notes, [1, 1, 0, nan, 0])
    assert np.isnan(store.series_notes[:, store.note_names.index("flow_artifact")]).all()  # no column of the table
    np.testing.assert_array_equal(store.labels[:, 0], [1, 0, nan, nan, 0, 0, nan, nan, 1, nan])
    assert [span.split for span in store.series] == ["train", "train", "train", "test", "train"]
    assert {span.fold for span in store.series if span.split == "train"} == {0, 1}
    assert verify_store(store.path).is_whole


def test_what_is_missing_or_contradicts_itself_is_counted(made: tuple[Path, LabelFacts]) -> None:
    report = made[1]
    assert report.studies == {
        "labelled": 3,
        "without labels": 1,
        "with several series": 1,
        "not in the store": 1,
        "series that break the rules": 1,  # 1.4; of 1.1.2 no slice is known, which may be positive
    }
    assert (report.n_unlabelled, report.n_labels_without_image) == (5, 2)
    assert str(report.positive_slices) == "pe_present_on_image 2 of 5"
    assert report.positive_series.known["central_pe"] == 4
    assert report.positive_series.positive["central_pe"] == 2
    said = report.label_warnings("pe")
    assert any(text.startswith("no series of the store is positive for indeterminate") for text in said)
    assert said[-1].endswith("replace them: rsna-e2e label STORE LABELS --task pe --replace")


def test_prepare_finds_the_competitions_table_and_says_what_it_took(
    made: tuple[Path, LabelFacts], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["prepare", str(made[0] / "train"), str(tmp_path / "store"), "--task", "pe", "--jobs", "1"]
    assert main(command) == 0  # the table lies beside the folder
    said = capsys.readouterr()
    assert "studies" in said.out
    assert "break the rules of the task" in said.err
    store = Store.open(tmp_path / "store")
    np.testing.assert_array_equal(store.series_labels, Store.open(made[0].parent / "store").series_labels)
    assert main(["store", "sets", str(store.path)]) == 0
    assert "4 of 5" in capsys.readouterr().out


def test_the_same_labels_may_come_later(made: tuple[Path, LabelFacts], tmp_path: Path) -> None:
    raw, store = made[0], Store.open(made[0].parent / "store")
    for name, key in (("bare", None), ("hashed", Pseudonyms(b"k" * 32))):
        prepare(raw, tmp_path / name, task=PE, labels="none", n_jobs=1, pseudonyms=key)
        label(tmp_path / name, raw / "train.csv", task=PE, n_folds=2, pseudonyms=key)
        later = Store.open(tmp_path / name)
        for one in ("labels", "series_labels", "series_notes"):
            np.testing.assert_array_equal(getattr(later, one), getattr(store, one), err_msg=one)
        assert (later.data_hash == store.data_hash) == (key is None)
        (tmp_path / "exams.csv").write_text("StudyInstanceUID,central_pe\n1.2,0\n1.3,1\n")
        label(tmp_path / name, tmp_path / "exams.csv", task=PE, pseudonyms=key, replaces=True)
        assert np.isfinite(column(Store.open(tmp_path / name), "central_pe")).sum() == 2


def test_studies_alone_are_labels_too(made: tuple[Path, LabelFacts], copy: Path, tmp_path: Path) -> None:
    (tmp_path / "exams.csv").write_text("StudyInstanceUID,central_pe\n1.2,0\n1.3,1\n")
    label(copy, tmp_path / "exams.csv", task=PE, replaces=True)
    store = Store.open(copy)
    np.testing.assert_array_equal(column(store, "central_pe"), [np.nan, np.nan, 0, 1, np.nan])
    assert np.isnan(store.labels).all()
    assert [span.split for span in store.series] == ["test", "test", "train", "train", "test"]
    (tmp_path / "exams.csv").write_text("StudyInstanceUID,central_pe\n7,0\n")
    assert main(["label", str(copy), str(tmp_path / "exams.csv"), "--task", "pe", "--replace"]) == 3
    assert Store.open(copy).data_hash == store.data_hash


def test_labels_of_studies_that_are_not_there_are_refused_though_the_slices_are(
    copy: Path, made: tuple[Path, LabelFacts], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = Store.open(copy).data_hash
    (tmp_path / "train.csv").write_text((made[0] / "train.csv").read_text().replace("\n1.", "\n9.1."))
    assert main(["label", str(copy), str(tmp_path / "train.csv"), "--task", "pe", "--replace"]) == 3
    said = capsys.readouterr().err
    assert "names none of the studies in" in said
    assert "Its first is '9.1.1'; one there is '1.1'" in said
    assert Store.open(copy).data_hash == before


def test_a_level_without_labels_and_columns_that_may_have_them_are_said(copy: Path, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("SOPInstanceUID,pe_present_on_image\n1.2.1.0,1\n")
    said = label(copy, tmp_path / "a.csv", task=PE, replaces=True).label_warnings("pe")
    assert any(text.startswith("no series of the store has a label of its own: ") for text in said)
    (tmp_path / "b.csv").write_text("StudyInstanceUID,central_pe,Chronic\n1.2,1,0\n")
    said = label(copy, tmp_path / "b.csv", task=PE, replaces=True).label_warnings("pe")
    assert any(text.startswith("no slice of the store has a label of its own: ") for text in said)
    assert any("not used: Chronic. If one holds a label: --columns negative_exam_for_pe=C" in text for text in said)


def test_rows_of_a_study_that_differ_leave_no_store(
    made: tuple[Path, LabelFacts], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (made[0] / "train.csv").read_text().replace("1.1.1.1,0,0", "1.1.1.1,0,1")
    (tmp_path / "labels.csv").write_text(text)
    words = ["--labels", str(tmp_path / "labels.csv"), "--task", "pe", "--jobs", "1"]
    assert main(["prepare", str(made[0]), str(tmp_path / "store"), *words]) == 3
    assert "rows of study 1.1 differ in negative_exam_for_pe (lines 2, 3)" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["labels.csv"]


def test_a_table_of_series_that_cannot_be(copy: Path) -> None:
    place = copy / "tasks" / "pe" / "series.parquet"
    kinds = SERIES_COLUMNS | dict.fromkeys((*PE.series.names, *PE.series.notes), "float32")
    series = {name: values.copy() for name, values in read_table(place, kinds, n_rows=5).items()}
    place.write_bytes(place.read_bytes()[:-1])
    with pytest.raises(StoreError, match=r"series\.parquet: missing or damaged\. Make this label set again"):
        Store.open(copy)
    assert [damage.file for damage in verify_store(copy).damages] == ["tasks/pe/series.parquet"]
    for name, value, message in (
        ("central_pe", 7.0, "impossible label of series"),
        ("series_key", "x", "other series"),
    ):
        write_table(place, series | {name: np.array([value, *series[name][1:]], dtype=series[name].dtype)})
        sign(copy)
        with pytest.raises(StoreError, match=rf"series\.parquet: damaged \(.*{message}"):
            Store.open(copy)
