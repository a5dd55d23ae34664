"""Label files: what is read, what is refused, and that writing is exact."""

import gzip
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rsna_e2e.core.errors import BadInputError
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.tasks.labels import read_labels, write_labels
from rsna_e2e.tasks.task import Labels

EXACT = {"rtol": 0, "atol": 0}  # the file holds every digit


def rows(image_id: str, *values: object) -> str:
    names = ("epidural", "intraparenchymal", "intraventricular", "subarachnoid", "subdural", "any")
    return "".join(f"{image_id}_{name},{value}\n" for name, value in zip(names, values, strict=True))


GOOD = "ID,Label\n" + rows("ID_b", 0, 1, 0, 0, 0.25, 1) + rows("ID_a", 0, 0, 0, 0, 0, 0)


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_images_are_sorted_and_labels_in_task_order(tmp_path: Path) -> None:
    table = read_labels(write(tmp_path / "labels.csv", GOOD), ICH)
    assert table.image_ids == ["ID_a", "ID_b"]
    np.testing.assert_allclose(table.values, [[0] * 6, [0, 1, 0, 0, 0.25, 1]], **EXACT)
    assert table.n_repeated_rows == 0


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbf" + GOOD.encode(),
        GOOD.replace("\n", "\r\n").encode(),
        GOOD.rstrip("\n").encode(),
        GOOD.replace("ID_a_any", "\nID_a_any").encode(),
        f"\n{GOOD}".encode(),
        ("x,Label,ID\n" + "".join(f"7,{b},{a}\n" for a, b in (r.split(",") for r in GOOD.split()[1:]))).encode(),
    ],
    ids=["bom", "crlf", "no_last_newline", "empty_line", "empty_first_line", "further_column"],
)
def test_spellings_of_the_same_file_read_equal(tmp_path: Path, content: bytes) -> None:
    plain = read_labels(write(tmp_path / "plain.csv", GOOD), ICH)
    for path in (write(tmp_path / "other.csv", content), write(tmp_path / "other.csv.gz", gzip.compress(content))):
        table = read_labels(path, ICH)
        assert table.image_ids == plain.image_ids
        np.testing.assert_allclose(table.values, plain.values, **EXACT)


@pytest.mark.parametrize("path", ["plain.csv.gz", "packed.csv"])
def test_what_a_file_is_called_does_not_say_whether_it_is_packed(tmp_path: Path, path: str) -> None:
    content = GOOD.encode() if path.startswith("plain") else gzip.compress(GOOD.encode())
    assert read_labels(write(tmp_path / path, content), ICH).image_ids == ["ID_a", "ID_b"]


def test_ids_are_escaped_as_those_of_files_are(tmp_path: Path) -> None:
    text = 'ID,Label\n"a,b_any",1\n"c\nd_any",0\n"say ""x""_any",1\n\t_any,0\n'
    table = read_labels(write(tmp_path / "labels.csv", text), ICH)
    assert table.image_ids == ["\\t", "a,b", "c\\nd", 'say "x"']
    assert table.values[:, ICH.headline_index].tolist() == [0, 1, 0, 1]
    with pytest.raises(BadInputError, match=r"rows of ID c\\nd_any differ"):
        read_labels(write(tmp_path / "labels.csv", text + "c\\nd_any,1\n"), ICH)


def test_repeated_rows_that_agree_are_counted(tmp_path: Path) -> None:
    table = read_labels(write(tmp_path / "labels.csv", GOOD + rows("ID_b", 0, 1, 0, 0, "0.250", 1)), ICH)
    assert table.n_repeated_rows == 6
    assert table.image_ids == ["ID_a", "ID_b"]


def test_repeated_rows_that_differ_are_refused_with_id_and_lines(tmp_path: Path) -> None:
    path = write(tmp_path / "labels.csv", GOOD + "ID_b_any,0\n")
    with pytest.raises(BadInputError, match=r"labels\.csv: rows of ID ID_b_any differ \(lines 7, 14\)"):
        read_labels(path, ICH)


def test_an_absent_row_is_nan(tmp_path: Path) -> None:
    table = read_labels(write(tmp_path / "labels.csv", "ID,Label\nID_a_any,1\n"), ICH)
    np.testing.assert_allclose(table.values, [[np.nan] * 5 + [1]], **EXACT)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "ID,Target\nID_a_any,1\n",
            r"labels\.csv, line 1: no column is called Label.*Found columns: ID, Target\. Needed: ID,Label",
        ),
        ("image,Label\nID_a_any,1\n", r"labels\.csv, line 1: no column is called ID\. Found columns: image, Label"),
        ("", r"labels\.csv: empty"),
        ("ID,Label\n", r"labels\.csv: no rows after the header"),
        ("ID,Label\nID_a_any,1\n\nID_a_all,1\n", r"line 4: ID 'ID_a_all' does not end in a known label.*epidural"),
        ("ID,Label\nany,1\n", r"line 2: ID 'any' does not end in a known label"),
        ("ID,Label\n_any,1\n", r"line 2: ID '_any' does not end in a known label"),
        ("ID,Label\nID_a_any,1\nID_b_any,\n", r"line 3: Label of ID_b_any is ''.*number in \[0, 1\]"),
        ("ID,Label\nID_a_any,0\nID_b_any,yes\nID_c_any,no\n", r"line 3: Label of ID_b_any is 'yes'"),
        ("ID,Label\nID_a_any,1\nID_b_any,2\n", r"line 3: Label of ID_b_any is '2'"),
        ("ID,Label\nID_a_any,-0.1\n", r"line 2: Label of ID_a_any is '-0\.1'"),
        ("ID,Label\nID_a_any,nan\n", r"line 2: Label of ID_a_any is 'nan'"),
        ("ID,Label\nID_a_any,1,3\n", r"labels\.csv: not a readable CSV file.*columns"),
        (b"ID,Label\nID_\xff_any,1\n", r"labels\.csv: is not UTF-8 \(line 2\): save it as CSV UTF-8"),
        (
            "ID,Label,Label\nID_a_any,0,1\n",
            r"labels\.csv, line 1: several columns are called Label. Keep the right one",
        ),
        ('ID,Label,"ID"\nID_a_any,0,ID_b_any\n', r"line 1: several columns are called ID"),
        ('ID,Label\n"a\nb_any",1\nc_any,2\n', r"line 4: Label of c_any is '2'"),
        ("ID,Label\rID_a_any,1\r\rID_a_any,0\r", r"rows of ID ID_a_any differ \(lines 2, 4\)"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(BadInputError, match=message) as caught:
        read_labels(write(tmp_path / "labels.csv", text), ICH)
    assert "\n" not in str(caught.value)


def test_a_missing_file_a_folder_and_a_damaged_archive_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="no such label file"):
        read_labels(tmp_path / "none.csv", ICH)
    with pytest.raises(BadInputError, match="not a readable CSV file"):
        read_labels(tmp_path, ICH)
    cut = write(tmp_path / "cut.csv.gz", gzip.compress(GOOD.encode() * 50)[:60])
    with pytest.raises(BadInputError, match=r"cut\.csv\.gz: not a readable CSV file"):
        read_labels(cut, ICH)


def test_a_label_name_that_ends_like_another_is_told_apart(tmp_path: Path) -> None:
    task = replace(ICH, slices=Labels(names=("left", "any_left"), weights=(1.0, 1.0)), headline="left")
    table = read_labels(write(tmp_path / "labels.csv", "ID,Label\nx_any_left,1\nx_left,0\n"), task)
    assert table.image_ids == ["x"]
    np.testing.assert_allclose(table.values, [[0, 1]], **EXACT)


def test_written_text_is_the_competition_form(tmp_path: Path) -> None:
    path = tmp_path / "submission.csv"
    write_labels(path, ICH, ["ID_b", "ID_a"], [[0, 1, 0, 0, 0.25, 1], [0] * 6])
    assert path.read_text() == GOOD
    write_labels(path, ICH, ["ID_a"], [[0, 1, 1e-7, 0.123456789, 0.5, 1]], decimals=6)
    assert path.read_text() == "ID,Label\n" + rows(
        "ID_a", "0.000000", "1.000000", "0.000000", "0.123457", "0.500000", "1.000000"
    )


def test_what_is_written_reads_back_bit_for_bit(tmp_path: Path) -> None:
    values = np.random.default_rng(0).random((50, 6)) ** 8
    image_ids = [f"ID_{index:03d}" for index in range(50)]
    write_labels(tmp_path / "a.csv.gz", ICH, image_ids, values)
    np.testing.assert_allclose(read_labels(tmp_path / "a.csv.gz", ICH).values, values, **EXACT)


def test_compressed_bytes_depend_on_nothing_but_the_content(tmp_path: Path) -> None:
    for name in ("a.csv.gz", "b.csv.gz"):
        write_labels(tmp_path / name, ICH, ["ID_a"], [[0, 0, 0, 0, 0, 1]])
    content = (tmp_path / "a.csv.gz").read_bytes()
    assert content == (tmp_path / "b.csv.gz").read_bytes()
    assert content[4:8] == bytes(4)  # no time in the header (RFC 1952)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = write(tmp_path / "submission.csv", "old")
    with pytest.raises(UnicodeEncodeError):  # the second ID cannot be written
        write_labels(path, ICH, ["ID_a", "\ud800"], np.zeros((2, 6)))
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.slow
def test_a_full_size_file_reads_in_seconds(tmp_path: Path) -> None:
    n_images = 752_803  # stage 2 training images of the competition
    values = (np.random.default_rng(0).random((n_images, 6)) < 0.1).astype(np.float64)
    image_ids = [f"ID_{index:09x}" for index in range(n_images)]
    write_labels(tmp_path / "a.csv", ICH, image_ids, values)
    table = read_labels(tmp_path / "a.csv", ICH)
    assert table.image_ids == image_ids
    np.testing.assert_allclose(table.values, values, **EXACT)


def test_reading_leaves_no_thread_that_could_let_go_of_the_file_at_the_end(tmp_path: Path) -> None:
    """Arrow's threads for computing abort a process that ends while one of them lets go of the stream."""
    path = write(tmp_path / "labels.csv", GOOD)
    program = f"""
import os
from pathlib import Path
from rsna_e2e.tasks.labels import read_labels
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.tasks.task import Labels
before = len(os.listdir("/proc/self/task"))
read_labels(Path({str(path)!r}), ICH)
print(len(os.listdir("/proc/self/task")) - before)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(done.stdout) <= 1  # one that reads ahead, and ends before the read does
