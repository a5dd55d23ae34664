"""The examples in docs/labels.md, run as they stand there, beside the files that they expect; and its tables."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import phantoms
import pytest
import small

from rsna_e2e.cli import main
from rsna_e2e.core.records import Float64Array
from rsna_e2e.store import Store
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.tasks.labels import read_labels, write_labels
from rsna_e2e.tasks.labels.layout import IMAGE_COLUMNS

PAGE = (Path(__file__).parents[1] / "docs/labels.md").read_text()
PROGRAMS = dict(re.findall(r"<!-- program: (\w+) -->\n```bash\n(.*?)```", PAGE, re.DOTALL))

Truth = dict[str, Float64Array]  # labels [L] by SOP instance UID


def run_program(name: str, folder: Path) -> str:
    """Run an example in `folder`, and return what it prints."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = ["bash", "-euo", "pipefail", "-c", PROGRAMS[name]]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env={**os.environ, "PATH": path})
    assert done.returncode == 0, done.stderr
    return done.stdout


def write_ct(folder: Path, name_of: Callable[[int, int, str], str]) -> Truth:
    """Write the small labelled series under `folder`, files named by number of series and slice and by UID."""
    small.write_raw(folder / "made", n_unlabelled=0)
    truth: Truth = {}
    table = read_labels(folder / "made/stage_2_train.csv", ICH)
    for image_id, values in zip(table.image_ids, table.values, strict=True):
        path = folder / f"made/{image_id}.dcm"
        sop_uid = str(phantoms.read(path).SOPInstanceUID)
        new = folder / "ct" / name_of(int(image_id[3:5]), int(image_id[5:]), sop_uid)
        new.parent.mkdir(parents=True, exist_ok=True)
        path.rename(new)
        truth[sop_uid] = values
    return truth


def as_on_a_cd(series: int, index: int, sop_uid: str) -> str:
    return f"PAT{series}/ST1/SE1/IM{index + 1:06d}"


def check_labels(store: Path, truth: Truth, *, known: tuple[str, ...] = ICH.slices.names) -> None:
    """Check that every slice has the labels of its SOP instance, and no others."""
    opened = Store.open(store)
    is_known = np.isin(ICH.slices.names, known)
    assert sorted(opened.index["sop_uid"]) == sorted(truth)
    for sop_uid, values in zip(opened.index["sop_uid"], opened.labels, strict=True):
        np.testing.assert_array_equal(values, np.where(is_known, truth[sop_uid], np.nan))


def test_these_are_the_examples_that_are_run_whole() -> None:
    """Blocks without a marker are checked by test_documents.py."""
    assert list(PROGRAMS) == ["uids", "paths", "spreadsheet", "studies", "completed", "holdout", "validation"]


def test_the_table_of_labels_has_those_of_the_task() -> None:
    names = re.findall(r"^\| `(\w+)` \| ", section("What a label says"), re.MULTILINE)
    assert tuple(names) == ICH.slices.names
    assert ICH.slices.weights[ICH.headline_index] == 2 * ICH.slices.weights[0]  # "counts double"
    columns = re.search(r"\| the image \| .*?: (.*) \|", PAGE)
    assert columns is not None
    assert tuple(re.findall(r"`(\w+)`", columns[1])) == IMAGE_COLUMNS


def test_the_tables_shown_are_read_as_it_says(tmp_path: Path) -> None:
    long, wide = re.findall(r"((?:^    .*\n)+)", section("The table"), re.MULTILINE)
    for name, text in (("long", long), ("wide", wide)):
        (tmp_path / name).write_text(textwrap.dedent(text))
    table = read_labels(tmp_path / "long", ICH)
    assert table.image_ids == ["IM0001"]
    np.testing.assert_array_equal(table.values, [[0, *[np.nan] * 4, 1]])
    table = read_labels(tmp_path / "wide", ICH)
    assert table.image_ids == ["1.2.840.99.1.17", "1.2.840.99.1.18"]
    np.testing.assert_array_equal(table.values[:, [0, 4, 5]], [[0, np.nan, 1], [0, 1, 1]])
    assert table.unused == ("PatientID",)


def test_files_named_by_uid_from_a_folder_to_a_trained_model(tmp_path: Path) -> None:
    truth = write_ct(tmp_path, lambda series, index, sop_uid: sop_uid)
    write_labels(tmp_path / "labels.csv", ICH, list(truth), np.stack(list(truth.values())))
    assert run_program("uids", tmp_path).startswith("ID,Label\n1.2.3.")
    check_labels(tmp_path / "store", truth)
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["steps"] == 2
    assert 0 < summary["best"]["weighted_log_loss"] < 1


def test_names_that_repeat(tmp_path: Path) -> None:
    truth = write_ct(tmp_path, as_on_a_cd)
    with (tmp_path / "labels.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["Path", *ICH.slices.names])
        for sop_uid, values in truth.items():
            series, index = map(int, sop_uid.split(".")[-2:])  # 1.2.3.series.index
            rows.writerow([as_on_a_cd(series, index, sop_uid), *map(int, values)])
    header = re.search(r"# (Path,.*)", PROGRAMS["paths"])
    assert run_program("paths", tmp_path).startswith(f"{header and header[1]}\nPAT0/ST1/SE1/IM000001,")
    check_labels(tmp_path / "store", truth)


def test_a_spreadsheet(tmp_path: Path) -> None:
    truth = write_ct(tmp_path, as_on_a_cd)
    with (tmp_path / "spreadsheet.csv").open("w", newline="", encoding="utf-8-sig") as file:
        rows = csv.writer(file, delimiter=";")
        columns = re.search(r"`(Patient;.*)`", PAGE)
        assert columns is not None
        rows.writerow(columns[1].split(";"))
        for sop_uid, values in truth.items():
            cells = [
                "yes" if values[ICH.slices.names.index(name)] else "no" for name in ("epidural", "subdural", "any")
            ]
            rows.writerow(["P", sop_uid, *cells, "seen; by two, or three"])
    printed = run_program("spreadsheet", tmp_path)
    assert "unused columns          Patient, Remark\n" in printed
    check_labels(tmp_path / "store", truth, known=("epidural", "subdural", "any"))
    content = json.loads((tmp_path / "inspection/inspection.json").read_text())
    assert content["truth"]["n_labelled"] == len(truth)


def test_labels_of_studies_become_labels_of_slices(tmp_path: Path) -> None:
    truth = write_ct(tmp_path, as_on_a_cd)
    study_of = {}
    for path in (tmp_path / "ct").rglob("IM*"):
        dataset = phantoms.read(path)
        study_of[str(dataset.SOPInstanceUID)] = str(dataset.StudyInstanceUID)
    positive = sorted(set(study_of.values()))[0]
    for sop_uid in truth:
        truth[sop_uid] = np.full(len(ICH.slices.names), 1.0 if study_of[sop_uid] == positive else 0.0)
    lines = ["StudyInstanceUID,bleed", *(f"{uid},{int(uid == positive)}" for uid in sorted(set(study_of.values())))]
    (tmp_path / "studies.csv").write_text("\n".join(lines) + "\n")
    run_program("studies", tmp_path)
    slices = (tmp_path / "slices.csv").read_text()
    assert slices.count(",,,,,,\n") == list(study_of.values()).count(positive) < len(truth)
    (tmp_path / "slices.csv").write_text(slices.replace(",,,,,,\n", ",1,1,1,1,1,1\n"))  # as read by a radiologist
    run_program("completed", tmp_path)
    check_labels(tmp_path / "unlabelled", truth)


@pytest.mark.slow  # two of the commands train or predict
def test_a_test_set_and_the_validation_fold_are_scored(tmp_path: Path) -> None:
    truth = write_ct(tmp_path, as_on_a_cd)
    write_labels(tmp_path / "labels.csv", ICH, list(truth), np.stack(list(truth.values())))
    run_program("holdout", tmp_path)
    run_program("validation", tmp_path)
    check_labels(tmp_path / "store", truth)
    store = Store.open(tmp_path / "store")
    index = store.index
    of = {"test": index["split"] == "test", "validation": index["fold"] == 0}
    assert not set(index["patient_id"][of["test"]]) & set(index["patient_id"][index["split"] == "train"])
    for name, is_in in of.items():
        assert 0 < is_in.sum() < len(truth) / 2
        table = read_labels(tmp_path / f"{name}.csv.truth.csv", ICH)
        assert (
            table.image_ids == sorted(index["image_id"][is_in]) == read_labels(tmp_path / f"{name}.csv", ICH).image_ids
        )
        for image_id, values in zip(table.image_ids, table.values, strict=True):
            np.testing.assert_array_equal(values, truth[image_id])
    metrics = json.loads((tmp_path / "report/metrics.json").read_text())
    assert metrics["weighted_log_loss"]["value"] > 0


# Tables of labels of files named by UID, each with the messages that it leads to, in prepare or in training
REPEATED = "ID,Label\nIM000001_any,1\n"  # of files as on a CD
COPIED = "ID,any\nPAT0/ST1/SE1/IM000001,1\nPAT0/ST2/SE1/IM000001,0\n"  # one of these twice
ONE_PATIENT = "ID,any\n1.2.3.0.0,1\n1.2.3.0.1,0\n"
FAULTS = {
    "ID,EDH\n1.2.3.0.0,1\n": ["no column is called Label or like a label. Found columns: ..."],
    "id,label\n1.2.3.0.0,1\n": ["has the columns of a label file of task ..., not of ..."],
    "name,any\n1.2.3.0.0,1\n": ["this looks like a wide table ... but no column is known to hold IDs"],
    "StudyInstanceUID,any\n1.2.4.0,1\n": ["its IDs are those of studies, series or patients"],
    "ID,any\n1.2.4.0,1\n": ["so it has labels of whole ..."],
    REPEATED: ["its IDs are file names, but these repeat"],
    "ID,any\n1.2.3.0.0,1\nct/1.2.3.0.0,1\n": ["are one image"],
    COPIED: ["are copies of one image"],
    "ID,Label\nnowhere_any,1\n": ["names none of the images"],
    "ID,Label\n1.2.3.0.0_bleed,1\n": ["does not end in a known label"],
    "ID,any\n1.2.3.0.0,1\n1.2.3.0.0,0\n": ["rows of ID ... differ"],
    "ID,Schädel,any\n1.2.3.0.0,0,1\n": ["is not UTF-8 (line ...): save it as CSV UTF-8"],
    "WORKBOOK": ["an Excel workbook"],
    ONE_PATIENT: [
        "no slice of the store has a label for ...",
        "all ... labelled series are in fold ...",
        "no series in fold ...",
    ],
    "ID,any,subdural\n1.2.3.0.0,1,\n1.2.3.0.1,,0\n1.2.3.1.0,1,0\n": [
        "no slice of the store is positive for ...",
        "fold ... cannot be scored",
    ],
    "": ["none of its series has a label"],
}


def test_the_messages_in_the_last_table_are_all_that_lead_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = re.findall(
        r"^\| `(.*?)`(?: \(train\))? \| .+ \|$", section("What goes wrong, and the way out"), re.MULTILINE
    )
    assert sorted(rows) == sorted(message for messages in FAULTS.values() for message in messages)
    write_ct(tmp_path, lambda series, index, sop_uid: sop_uid)
    write_ct(tmp_path / "cd", as_on_a_cd)
    shutil.copytree(tmp_path / "cd/ct/PAT0/ST1", tmp_path / "cd/ct/PAT0/ST2")
    for number, (text, messages) in enumerate(FAULTS.items()):
        store, labels = tmp_path / f"store{number}", tmp_path / "labels.csv"
        labels.write_bytes(text.encode("cp1252"))
        if text == "WORKBOOK":
            with zipfile.ZipFile(labels, "w") as book:
                book.writestr("xl/workbook.xml", "")
        given = ["--labels", str(labels)] if text else []
        raw = tmp_path / ("cd/ct" if text in (REPEATED, COPIED) else "ct")
        code = main(["prepare", str(raw), str(store), "--jobs", "1", *given])
        if code == 0:
            for fold in (0, 4):
                main(["train", str(store), str(tmp_path / "run"), "--set", f"validation_fold={fold}"])
        said = capsys.readouterr().err
        for message in messages:
            pattern = ".*".join(map(re.escape, message.split("...")))
            assert re.search(pattern, said), (message, said)
    assert not (tmp_path / "run").exists()


def section(title: str) -> str:
    return PAGE.split(f"## {title}\n")[1].split("\n## ")[0]
