"""Labels on their way into a store: exact counts of what does not fit, and no patient both trained on and scored."""

import gzip
import shutil
from pathlib import Path

import numpy as np
import phantoms
import pytest
import small
from stores import edit_index

from rsna_e2e.cli import main
from rsna_e2e.store import Store, StoreError
from rsna_e2e.store.prepare import prepare
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.tasks.labels import write_labels


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three studies of three slices of three patients."""
    folder = tmp_path_factory.mktemp("labels") / "raw"
    for name in ("a", "b", "c"):
        phantoms.write_series(folder, name=name, patient_id=f"p_{name}")
    return folder


def label_text(image_ids: list[str]) -> str:
    return "ID,Label\n" + "".join(f"{i}_{name},{int(i[-1]) % 2}\n" for i in image_ids for name in ICH.slices.names)


LABELLED = [f"ID_{name}_00{number}" for name in ("a", "b", "absent") for number in (1, 2, 3)]


@pytest.mark.parametrize(
    ("name", "spell"),
    [
        ("plain.csv", str.encode),
        ("spelt.csv", lambda text: b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode()),
        ("packed.csv.gz", lambda text: gzip.compress(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())),
    ],
)
def test_missing_extra_and_repeated_labels_are_counted(tmp_path: Path, raw: Path, name: str, spell: object) -> None:
    assert callable(spell)
    text = label_text(LABELLED) + "".join(f"ID_a_002_{label},0\n" for label in ICH.slices.names)
    (tmp_path / name).write_bytes(spell(text))
    report = prepare(raw, tmp_path / "store", task=ICH, labels=tmp_path / name, n_folds=2, n_jobs=1)
    assert report.n_unlabelled == 3  # study c
    assert report.n_labels_without_image == 3  # study absent
    assert report.n_repeated_label_rows == 6  # those of one image
    assert report.label_file == str(tmp_path / name)
    store = Store.open(tmp_path / "store")
    for image_id, values in zip(store.index["image_id"], store.labels.tolist(), strict=True):
        expected = np.nan if "_c_" in image_id else int(image_id[-1]) % 2
        np.testing.assert_array_equal(values, [expected] * 6)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("ID_a_001_any,2\n", r"line 56: Label of ID_a_001_any is '2'"),
        ("ID_a_001_any,0\n", r"rows of ID ID_a_001_any differ (lines 7, 56)"),
        ("ID_a_001_none,0\n", r"line 56: ID 'ID_a_001_none' does not end in a known label"),
    ],
)
def test_labels_that_cannot_be_end_before_a_file_is_read(
    tmp_path: Path, raw: Path, line: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "labels.csv").write_text(label_text(LABELLED) + line)
    words = ["prepare", str(raw), str(tmp_path / "store"), "--labels", str(tmp_path / "labels.csv")]
    assert main(words) == 3
    assert message in capsys.readouterr().err
    assert not (tmp_path / "store").exists()


def test_a_wide_table_gives_the_store_of_its_long_form(tmp_path: Path, raw: Path) -> None:
    rng = np.random.default_rng(0)
    values = {image_id: rng.choice(["0", "1", "0.25", ""], size=6).tolist() for image_id in LABELLED}
    long = "".join(
        f"{image_id}_{name},{value}\n"
        for image_id, row in values.items()
        for name, value in zip(ICH.slices.names, row, strict=True)
        if value
    )
    (tmp_path / "long.csv").write_text(f"ID,Label\n{long}")
    columns = dict(zip(ICH.slices.names, ("EDH", "IPH", "IVH", "SAH", "SDH", "Any; of these"), strict=True))
    wide = [[*columns.values(), "Slice", "Note"], *([*row, image_id, "a"] for image_id, row in values.items())]
    (tmp_path / "wide.csv").write_text("".join("\t".join(row) + "\n" for row in wide))
    mapped = ["--columns", "ID=Slice", *(f"{name}={column}" for name, column in columns.items())]
    for name, words in (("long", []), ("wide", mapped)):
        labels = ["--labels", str(tmp_path / f"{name}.csv"), *words]
        assert main(["prepare", str(raw), str(tmp_path / name), "--jobs", "1", *labels]) == 0
    long_store, wide_store = Store.open(tmp_path / "long"), Store.open(tmp_path / "wide")
    assert not np.isnan(long_store.labels).all()
    assert wide_store.data_hash == long_store.data_hash


@pytest.mark.parametrize(
    ("name", "text", "is_taken"),
    [
        ("raw/train.csv", "Image;any\nID_a_001;yes\n", True),
        ("raw/train/our_train.csv", "Image,any\nID_a_001,yes\n", True),
        ("training_table.csv", "File Name\tany\nID_a_001\tyes\n", True),
        ("training_table.csv", "File Name,any\nID_of_others,yes\n", False),
        ("training_table.csv", "File Name,bleed\nID_a_001,yes\n", False),
        ("training_table.csv", "PatientID,any\np_a,yes\n", False),
    ],
)
def test_wide_tables_are_found_as_others_are(tmp_path: Path, raw: Path, name: str, text: str, is_taken: bool) -> None:
    shutil.copytree(raw, tmp_path / "raw")
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(text)
    report = prepare(tmp_path / "raw", tmp_path / "store", task=ICH, n_jobs=1)
    assert report.label_file == (str(tmp_path / name) if is_taken else "none")
    assert report.n_unlabelled == report.n_slices - is_taken


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--columns", "ID=Slice"], 2, "--columns: of which table? Name it with --labels"),
        (["--labels", "none", "--columns", "ID=Slice"], 2, "--columns: of which table? Name it with --labels"),
        (["--labels", "LABELS", "--columns", "ID=a", "ID=b"], 2, "--columns: ID is given twice. Keep the right one"),
        (["--labels", "LABELS", "--columns", "ID=Name"], 3, "no column is called Name, which --columns names. Found"),
    ],
)
def test_columns_that_cannot_be_are_refused(
    tmp_path: Path, raw: Path, words: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "labels.csv").write_text("Slice,any\nID_a_001,1\n")
    words = [word.replace("LABELS", str(tmp_path / "labels.csv")) for word in words]
    assert main(["prepare", str(raw), str(tmp_path / "store"), *words]) == code
    assert message in capsys.readouterr().err


def test_columns_name_what_they_hold(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["prepare", "raw", "store", "--labels", "a.csv", "--columns", "ID"])
    assert "'ID' is not ID=COLUMN or LABEL=COLUMN, such as any=Hemorrhage" in capsys.readouterr().err


def test_what_is_wrong_with_the_labels_is_said_at_the_end(
    tmp_path: Path, raw: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = ["ID_a_001,1,0,0,x", "ID_a_002,1,1,0,x", "ID_b_001,0,0,0,x"]
    (tmp_path / "labels.csv").write_text("\n".join(["file,epidural,any,SAH,IPH", *rows]))
    words = ["--labels", str(tmp_path / "labels.csv"), "--columns", "subarachnoid=SAH"]
    assert main(["prepare", str(raw), str(tmp_path / "store"), "--jobs", "1", *words]) == 0
    said = capsys.readouterr()
    assert "label columns           ID=file, epidural, subarachnoid=SAH, any\n" in said.out
    assert "unused columns          IPH\n" in said.out
    assert "positive slices         epidural 2 of 3, subarachnoid 0 of 3, any 1 of 3\n" in said.out
    assert [line for line in said.err.splitlines() if line.startswith("warning")] == [
        "warning: no slice of the store has a label for intraparenchymal, intraventricular, subdural: a model does not "
        "learn these, and its predictions of them mean nothing. Columns of the table that were not used: IPH. If one "
        "holds a label: --columns intraparenchymal=COLUMN",
        "warning: no slice of the store is positive for subarachnoid: a model only learns to predict 0 for these",
        "warning: labels contradict each other in 1 of the slices: any is 0 and another label is not. They are stored "
        "as they are. Correct them, and replace them: rsna-e2e label STORE LABELS --task ich --replace",
    ]


def test_a_patient_in_two_folds_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small.make_store(tmp_path)

    def mix(index: dict[str, np.ndarray]) -> None:
        series = np.cumsum(index["slice_index"] == 0) - 1
        index["fold"][index["split"] == "train"] = (series % 2)[index["split"] == "train"]
        index["patient_id"][:] = [f"ID_p{number // 2}" for number in series]

    edit_index(tmp_path / "store", mix)
    with pytest.raises(StoreError, match="3 patients are in more than one fold") as caught:
        Store.open(tmp_path / "store")
    assert "ID_p" not in str(caught.value)
    assert main(["train", str(tmp_path / "store"), str(tmp_path / "run")]) == 3
    assert "scores would include patients that were trained on" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_studies_of_one_patient_are_in_one_fold_or_none(tmp_path: Path) -> None:
    labelled: list[str] = []
    for number in range(12):
        name = f"s{number:02d}"
        hu = phantoms.write_series(tmp_path / "raw", name=name, patient_id=f"p{number % 4}")
        labelled += sorted(hu) if number % 4 else []
    write_labels(tmp_path / "raw" / "train.csv", ICH, labelled, np.zeros((len(labelled), 6)))
    prepare(tmp_path / "raw", tmp_path / "store", task=ICH, n_folds=3, n_jobs=1)
    store = Store.open(tmp_path / "store")
    assert len(store.series) == 12
    for patient in ("p0", "p1", "p2", "p3"):
        folds = {span.fold for span in store.series if span.patient_id == patient}
        assert len(folds) == 1
        assert (folds == {-1}) == (patient == "p0")
