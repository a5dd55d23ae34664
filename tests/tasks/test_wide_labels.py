"""Wide label tables: one row per image, one column per label, as spreadsheets and data frames hold them."""

import gzip
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rsna_e2e.core.errors import BadInputError, UsageError
from rsna_e2e.core.table_files import table_at
from rsna_e2e.inference.submission import prepare_submission
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.tasks.labels import LabelTable, has_label_columns, read_image_ids, read_labels
from rsna_e2e.tasks.task import Labels

EXACT = {"rtol": 0, "atol": 0}  # the file holds every digit
NAN = np.nan

WIDE = """SOPInstanceUID,epidural,intraparenchymal,intraventricular,subarachnoid,subdural,any
1.2.10,0,1,0,0,,1
1.2.9,0,0,0,0,0.25,0
"""
VALUES = [[0, 1, 0, 0, NAN, 1], [0, 0, 0, 0, 0.25, 0]]  # 1.2.10, 1.2.9: as texts are sorted

# As a hospital may have it: other names, other columns, semicolons, words, and a comma as the decimal sign
OTHER = """No;File;Site, ward;EDH;IPH;Bleed
1;b.dcm;A, 1;no;0,75;yes
2;a.dcm;"B;2";;0;No
"""
MAPPED = {"ID": "File", "epidural": "EDH", "intraparenchymal": "IPH", "any": "Bleed"}


def read(folder: Path, content: str | bytes, **columns: str) -> LabelTable:
    path = folder / "labels.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_labels(table_at(path, columns), ICH)


@pytest.mark.parametrize(
    "content",
    [
        WIDE,
        b"\xef\xbb\xbf" + WIDE.replace("\n", "\r\n").encode(),
        gzip.compress(WIDE.encode()),
        WIDE.replace(",", "\t"),
        WIDE.replace(",", ";").replace("0.25", "0,25"),
        WIDE.replace("SOPInstanceUID", "sop instance_uid").replace("any", "Any").replace("subdural", " SUB-DURAL "),
        WIDE.replace("SOPInstanceUID", "PatientID,SOPInstanceUID").replace("1.2.", "p1,1.2."),
        WIDE.replace("SOPInstanceUID", "id"),
        "any,subdural,subarachnoid,intraventricular,intraparenchymal,epidural,path\n"
        "1,,0,0,1,0,1.2.10\n0,.25,0,0,0,0,1.2.9\n",
        WIDE.replace(",,1", ",  ,TRUE").replace("1.2.9,0,0,0", "1.2.9,No,negative,false"),
        WIDE + "1.2.11,,,nan,NaN,,\n",  # nothing is known of this image: it is none with labels
    ],
    ids=["plain", "bom", "gzip", "tab", "semicolon", "case", "patient", "id", "order", "words", "unknown"],
)
def test_spellings_of_one_wide_table_read_equal(tmp_path: Path, content: str | bytes) -> None:
    table = read(tmp_path, content)
    assert table.image_ids == ["1.2.10", "1.2.9"]
    np.testing.assert_allclose(table.values, VALUES, **EXACT)
    assert table.n_repeated_rows == 0


def test_columns_of_other_names_are_mapped_and_what_is_not_there_is_unknown(tmp_path: Path) -> None:
    table = read(tmp_path, OTHER, **MAPPED)
    assert table.image_ids == ["a.dcm", "b.dcm"]
    np.testing.assert_allclose(table.values, [[NAN, 0, NAN, NAN, NAN, 0], [0, 0.75, NAN, NAN, NAN, 1]], **EXACT)
    assert table.columns == MAPPED
    assert table.unused == ("No", "Site, ward")


def test_columns_that_are_not_mapped_go_by_their_names(tmp_path: Path) -> None:
    table = read(tmp_path, "ID,image,any,bleed,epidural\n1,x,0,1,1\n", ID="image", any="bleed")
    assert table.image_ids == ["x"]
    np.testing.assert_allclose(table.values, [[1, NAN, NAN, NAN, NAN, 1]], **EXACT)
    assert table.unused == ("ID", "any")
    table = read(tmp_path, "ID,any,subdural\nx,0,1\n", any="subdural")  # which then holds no subdural
    np.testing.assert_allclose(table.values, [[NAN] * 5 + [1]], **EXACT)


def test_the_long_form_may_have_other_names_and_delimiters(tmp_path: Path) -> None:
    table = read(tmp_path, "image;any;p\nx_any;9;0,5\ny_any;9;1\n", ID="image", Label="p")
    assert table.image_ids == ["x", "y"]
    assert table.values[:, ICH.headline_index].tolist() == [0.5, 1]
    with pytest.raises(BadInputError, match=r"line 3: Label of y_any is '2'"):
        read(tmp_path, "ID;Label\nx_any;0,5\ny_any;2\n")


def test_a_header_with_label_is_of_the_long_form(tmp_path: Path) -> None:
    table = read(tmp_path, 'ID,Label,any,"a;b;c;d;e;ID;epidural"\nx_any,1,0,0\n')
    assert table.image_ids == ["x"]
    assert table.values[:, ICH.headline_index].tolist() == [1]


def test_repeated_rows_are_counted_where_they_agree_and_add_to_each_other(tmp_path: Path) -> None:
    table = read(tmp_path, "ID,epidural,any\nb,1,1\na,,0\nb,1.0,yes\na,0,\nc,,\n")
    assert table.image_ids == ["a", "b"]
    np.testing.assert_allclose(table.values[:, [0, 5]], [[0, 0], [1, 1]], **EXACT)
    assert table.n_repeated_rows == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ID,epidural,any\na,0,1\nb,0,0\n\na,1,1\n", r"rows of ID a in epidural differ \(lines 2, 5\)\. Keep"),
        (
            'n;ID;any\n1;"a\nb";1\n2;c;2\n',
            r"line 4: any of c is '2'\. Expected a number in \[0, 1\], a word of yes, no",
        ),
        (
            "ID;any;Blutung;Intraventrikulär\na;ja;nein;ja\n",  # all that is wrong with it, at once
            r"line 2: any of a is 'ja'\. .* unknown\. Columns that are not read, unless --columns names them: Blutung, "
            r"Intraventrikulär$",
        ),
        ("ID,any\na,1\nb,maybe\n", r"line 3: any of b is 'maybe'.* or nothing where it is unknown$"),
        ("ID,any\na,1\nb,-0.5\n", r"line 3: any of b is '-0\.5'"),
        ("ID,any\na,nane\n", r"line 2: any of a is 'nane'"),
        ("ID,any\na,1_0\n", r"line 2: any of a is '1_0'"),
        ('ID,any\na,"0,5"\n', r"line 2: any of a is '0,5'"),
        ("ID,any\na,1\n,0\n", r"line 3: ID is empty\. Name the image, or remove the row"),
        ("ID,any,epidural\na,,\nb,,\n", r"no label in it, all cells are empty"),
        ("ID,any\n", r"no rows after the header"),
        (
            "ID,any,Any\na,0,1\n",
            r"line 1: several columns could be any: any, Any\. Keep one; .*: --columns any=",
        ),
        (
            "file,File,any\na,b,1\n",
            r"line 1: several columns could be ID: file, File\. Keep one; .*: --columns ID=",
        ),
        ("ID,any,any\na,0,1\n", r"line 1: several columns are called any\. Keep the right one"),
        ("ID,ID,any\na,b,1\n", r"line 1: several columns are called ID"),
        (
            "name,any,epidural\na,0,1\n",
            r"line 1: this looks like a wide table \(it has columns for epidural, any\), but no column is known to "
            r"hold IDs\. Found columns: name, any, epidural\. Needed: ID,Label .*Rename .*--columns ID=COLUMN any=C",
        ),
        (OTHER, r"line 1: no column is called Label or like a label\. Found columns: No, File, Site, ward, EDH, IPH,"),
        ("a,b\n1,2\n", r"no column is known to hold IDs, none to hold labels\. Found columns: a, b\. Needed"),
        (
            "StudyInstanceUID,epidural,any\n1.2,0,1\n",
            r"its IDs are those of studies, series or patients \(StudyInstanceUID\)\. The task ich learns from labels "
            r"of slices and has none of series: .*which of its slices show it.*call it ID; or, .*: --columns ID=COLUMN",
        ),
        (
            "StudyInstanceUID,bleed\n1.2,1\n",  # mapping bleed would not help
            r"its IDs are those of studies, series or patients \(StudyInstanceUID\)\. The task ich learns from labels",
        ),
        ("Series Instance UID,EDH,note\n1.2,1,\n", r"its IDs are those of studies, .* \(Series Instance UID\)"),
        ("PatientID,File,bleed\n1,a,1\n", r"no column is called Label or like a label"),
        ("patient id,any\n1.2,1\n", r"its IDs are those of studies, series or patients \(patient id\)"),
    ],
)
def test_bad_wide_tables_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(BadInputError, match=message) as caught:
        read(tmp_path, text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("columns", "error", "message"),
    [
        ({"ID": "Pile"}, BadInputError, r"no column is called Pile, which --columns names\. Found columns: No, File,"),
        ({"all": "Bleed"}, UsageError, r"--columns all=Bleed: nothing is called all\. Known are: ID, Label, epidural,"),
        ({"ID": "File", "any": "File"}, UsageError, r"--columns: File is named twice"),
    ],
)
def test_mapped_columns_are_checked(
    tmp_path: Path, columns: dict[str, str], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        read(tmp_path, OTHER, **columns)


def test_study_labels_that_are_named_as_ids_are_refused_too_unless_the_task_has_them(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"those of studies, series or patients \(Study Instance UID\)"):
        read(tmp_path, "ID,Study Instance UID,bleed\n1,1.2,1\n", ID="Study Instance UID")
    with pytest.raises(BadInputError, match=r"those of studies, series or patients \(Study Instance UID\)"):
        read(tmp_path, "n,Study Instance UID,any\n1,1.2,1\n", ID="Study Instance UID")
    task = replace(ICH, series=Labels(names=("severe",), weights=(1.0,)), series_truth="own")
    with pytest.raises(
        BadInputError, match=r"labels of slices \(any\), but no column is known to hold the IDs of slices"
    ):
        read_labels(tmp_path / "labels.csv", task)
    (tmp_path / "labels.csv").write_text("n,Study Instance UID,severe\n1,1.2,1\n")
    table = read_labels(tmp_path / "labels.csv", task)
    assert (table.image_ids, table.study_ids, table.study_values.tolist()) == ([], ["1.2"], [[1.0]])


def test_ids_are_escaped_and_wide_tables_known_by_their_header(tmp_path: Path) -> None:
    table = read(tmp_path, 'Image Name,any\n"a\nb",1\na\x1b_any,0\n')
    assert table.image_ids == ["a\\nb", "a\\x1b_any"]
    file = table_at(tmp_path / "labels.csv")
    assert has_label_columns(file)
    assert read_image_ids(file, ICH) == ["a\\nb", "a\\x1b_any"]
    (tmp_path / "long.csv").write_text("ID,Label\na_b_any,x\n")
    assert read_image_ids(table_at(tmp_path / "long.csv"), ICH) == ["a_b"]
    (tmp_path / "labels.csv").write_text("name,any\na,1\n")
    assert not has_label_columns(file)


def test_a_wide_table_is_no_submission_and_is_not_written_over(tmp_path: Path) -> None:
    read(tmp_path, WIDE)
    with pytest.raises(UsageError, match="is there and no submission"):
        prepare_submission(tmp_path / "labels.csv", ICH, example="submission.csv")


def test_a_workbook_is_said_to_be_one(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "labels.xlsx", "w") as book:
        for name in ("[Content_Types].xml", "xl/workbook.xml", "xl/worksheets/sheet1.xml"):
            book.writestr(name, "<x/>")
    with pytest.raises(BadInputError, match=r"an Excel workbook\. Save its sheet as CSV"):
        read_labels(tmp_path / "labels.xlsx", ICH)
