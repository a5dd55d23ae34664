"""Wide label tables of two levels: labels of a study stand in every row of its slices."""

from pathlib import Path

import numpy as np
import pytest

from rsna_e2e.core.errors import BadInputError
from rsna_e2e.core.table_files import table_at
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.tasks.labels import LabelTable, read_image_ids, read_labels
from rsna_e2e.tasks.pe import PE

NAN = np.nan
NAMES = (*PE.series.names, *PE.series.notes)

# Two studies of two and one slices, in the competition's order of columns: the second is negative
COMPETITION = """StudyInstanceUID,SeriesInstanceUID,SOPInstanceUID,pe_present_on_image,negative_exam_for_pe,qa_motion,\
qa_contrast,flow_artifact,rv_lv_ratio_gte_1,rv_lv_ratio_lt_1,leftsided_pe,chronic_pe,true_filling_defect_not_pe,\
rightsided_pe,acute_and_chronic_pe,central_pe,indeterminate
st2,se2,s3,0,1,1,0,0,0,0,0,0,0,0,0,0,0
st1,se1,s2,1,0,0,0,0,0,1,1,0,0,1,0,0,0
st1,se1,s1,0,0,0,0,0,0,1,1,0,0,1,0,0,0
"""


def read(folder: Path, text: str, **columns: str) -> LabelTable:
    (folder / "train.csv").write_text(text)
    return read_labels(table_at(folder / "train.csv", columns), PE)


def of(table: LabelTable, name: str) -> list[float]:
    return np.hstack([table.study_values, table.study_notes])[:, NAMES.index(name)].tolist()


def test_the_competitions_table(tmp_path: Path) -> None:
    table = read(tmp_path, COMPETITION)
    assert table.image_ids == ["s1", "s2", "s3"]
    assert table.values.tolist() == [[0], [1], [0]]
    assert table.study_ids == ["st1", "st2"]
    positive = {name for name in NAMES if of(table, name)[0] == 1}
    assert positive == {"rv_lv_ratio_lt_1", "leftsided_pe", "rightsided_pe"}
    assert {name for name in NAMES if of(table, name)[1] == 1} == {"negative_exam_for_pe", "qa_motion"}
    assert (table.study_values.shape, table.study_notes.shape, table.notes.shape) == ((2, 9), (2, 4), (3, 0))
    assert (table.n_repeated_rows, table.unused) == (0, ("SeriesInstanceUID",))
    assert read_image_ids(table_at(tmp_path / "train.csv"), PE) == ["s3", "s2", "s1"]


def test_columns_in_any_order_others_absent_and_cells_unknown(tmp_path: Path) -> None:
    text = """Site,central_pe,SOPInstanceUID,negative_exam_for_pe,StudyInstanceUID,pe_present_on_image,chronic_pe
a,1,s1,,st1,nan,0
a,,s2,,st1,1,
b,NaN,s3,,st2,0,
"""
    table = read(tmp_path, text)
    assert table.image_ids == ["s2", "s3"]
    assert table.study_ids == ["st1"]  # nothing is known of the other
    assert (of(table, "central_pe"), of(table, "chronic_pe")) == ([1], [0])
    np.testing.assert_array_equal(of(table, "negative_exam_for_pe"), [NAN])
    assert table.unused == ("Site",)


def test_studies_alone(tmp_path: Path) -> None:
    table = read(tmp_path, "exam,negative_exam_for_pe\nst2,1\nst1,0\nst1,0\n", StudyInstanceUID="exam")
    assert (table.image_ids, table.study_ids, of(table, "negative_exam_for_pe")) == ([], ["st1", "st2"], [0, 1])
    assert table.values.shape == (0, 1)
    assert read_image_ids(table_at(tmp_path / "train.csv", {"StudyInstanceUID": "exam"}), PE) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            COMPETITION.replace("st1,se1,s1,0,0,0,0,0,0,1,1,0", "st1,se1,s1,0,0,0,0,0,0,1,1,1"),
            r"rows of study st1 differ in chronic_pe \(lines 3, 4\)\. Keep the right value",
        ),
        (COMPETITION.replace("s3,0,1,1", "s3,0,2,1"), "line 2: negative_exam_for_pe of s3 is '2'"),
        (COMPETITION.replace("s3,0,1,1", "s3,0,1,-1"), "line 2: qa_motion of s3 is '-1'"),
        (COMPETITION.replace("s3,0", "s3,x"), "line 2: pe_present_on_image of s3 is 'x'"),
        (COMPETITION.replace("st1,se1,s1", ",se1,s1"), "line 4: StudyInstanceUID is empty. Name the study"),
        (COMPETITION + "st1,se1,s1,1" + 13 * ",", r"rows of ID s1 in pe_present_on_image differ \(lines 4, 5\)"),
        (
            COMPETITION.replace("StudyInstanceUID", "Exam"),
            "labels of studies .* no column is known to hold the IDs of st",
        ),
        (COMPETITION.replace("SOPInstanceUID", "Image number"), "no column is known to hold the IDs of slices"),
        ("SOPInstanceUID,StudyInstanceUID,chronic_pe\na,b,\n", "no label in it, all cells are empty"),
        ("SOPInstanceUID,StudyInstanceUID\na,b\n", "no column is called label or like a label"),
        ("image,label\na,1\n", r"no column is called id\. Found columns: image, label\. Needed: id,label with"),
        ("ID,Label\na,1\n", r"has the columns of a label file of task ich, not of pe\..*--task ich .*Needed: id,label"),
    ],
)
def test_bad_tables_are_refused_with_their_lines(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(BadInputError, match=message) as error:
        read(tmp_path, text)
    assert str(error.value).isprintable()


def test_a_row_that_is_said_twice_is_counted(tmp_path: Path) -> None:
    again = COMPETITION.splitlines()[-1]
    assert read(tmp_path, f"{COMPETITION}{again}\n").n_repeated_rows == 1


def test_a_table_of_many_slices_of_a_study_is_read_in_one_pass(tmp_path: Path) -> None:
    rows = [f"st{number // 250:03d},s{number:06d},{number % 2},{number // 250 % 2}" for number in range(20_000)]
    table = read(tmp_path, "StudyInstanceUID,SOPInstanceUID,pe_present_on_image,central_pe\n" + "\n".join(rows))
    assert (len(table.image_ids), len(table.study_ids)) == (20_000, 80)
    assert of(table, "central_pe") == [0, 1] * 40


def test_a_table_of_another_task_names_that_task(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text(COMPETITION)
    with pytest.raises(
        BadInputError, match=r"line 1: has the columns of a label file of task pe, not of ich\..*--task pe"
    ):
        read_labels(table_at(tmp_path / "train.csv"), ICH)
