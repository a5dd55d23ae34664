"""Tables of boxes, and tables that say what each image shows, alone and together."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from real_tables import labels_zip

from rsna_e2e.core.errors import BadInputError, UsageError
from rsna_e2e.core.table_files import table_at
from rsna_e2e.tasks.boxes import make_boxes, placed
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.tasks.labels import LabelTable, read_image_ids, read_labels, task_of_header
from rsna_e2e.tasks.pe import PE
from rsna_e2e.tasks.pneumonia import PNEUMONIA
from rsna_e2e.tasks.task import Task

NAN = np.nan
HEAD = "patientId,x,y,width,height,Target\n"
BOXES = HEAD + "b,264.0,152.0,213.0,379.0,1\na,,,,,0\nb,562.0,152.0,256.0,453.0,1\nc,,,,,0\n"
CLASSES = """patientId,class
b,Lung Opacity
a,No Lung Opacity / Not Normal
b,Lung Opacity
d,Normal
"""


def read(folder: Path, text: str, also: str = "", task: Task = PNEUMONIA, **columns: str) -> LabelTable:
    (folder / "boxes.csv").write_text(text)
    (folder / "classes.csv").write_text(also)
    file = table_at(folder / "boxes.csv", columns)
    return read_labels(replace(file, also=table_at(folder / "classes.csv")) if also else file, task)


@pytest.mark.parametrize(
    "text",
    [
        BOXES,
        BOXES.replace(",", ";").replace("264.0", "264,0"),
        BOXES.replace("\n", "\r\n")
        .replace(",Target", ",Remark,Target")
        .replace(",1\r", ",seen,1\r")
        .replace(",0\r", ",,0\r"),
        BOXES.replace("b,562.0", " b,562").replace(" b", "b").replace(",,,,", ", ,nan,,"),
    ],
    ids=["plain", "semicolons", "further column", "spaces"],
)
def test_a_table_of_boxes(tmp_path: Path, text: str) -> None:
    """By hand: edges are half a pixel from the centres of the first and the last pixel that a box covers."""
    table = read(tmp_path, text)
    assert table.image_ids == ["a", "b", "c"]
    np.testing.assert_array_equal(table.values, [[0, NAN, NAN], [1, NAN, NAN], [0, NAN, NAN]])
    assert table.places.tolist() == [1, 0, 2]
    assert table.boxes.images.tolist() == [1, 1]
    np.testing.assert_array_equal(table.boxes.edges, [[263.5, 151.5, 476.5, 530.5], [561.5, 151.5, 817.5, 604.5]])
    np.testing.assert_array_equal(placed(table.boxes.edges), [[264, 152, 213, 379], [562, 152, 256, 453]])
    assert table.n_repeated_rows == 0
    assert table.box_lines is not None
    assert [table.box_lines.place(box).rpartition(" ")[2] for box in (0, 1)] == ["2", "4"]


def test_repeated_rows_are_one(tmp_path: Path) -> None:
    table = read(tmp_path, BOXES + "a,,,,,0\nb,264,152,213,379,1\n")
    assert len(table.boxes) == 2
    assert table.n_repeated_rows == 2


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("d,,,,,2", "line 6: d: Target is '2'. Expected 1 in a row with a box, 0 in that of an image without"),
        ("d,,,,,", "line 6: d: Target is ''. Expected 1"),
        ("d,1,1,5,5,0", "line 6: d: Target is 0, but there is a box. Make it 1, or leave x, y, width, height empty"),
        ("d,1,,5,5,1", "line 6: d: Target is 1, but x, y, width, height are not four numbers"),
        ("d,1,one,5,5,1", "line 6: d: Target is 1, but x, y, width, height are not four numbers"),
        ("d,1,1,5,inf,1", "line 6: d: Target is 1, but x, y, width, height are not four numbers"),
        ("d,1,1,0,5,1", "line 6: d: its box has no area (x, y, width, height are 1, 1, 0, 5)"),
        ("d,1,1,5,-5,1", "line 6: d: its box has no area"),
        ("d,-1,1,5,5,1", "line 6: d: its box begins outside of the image (x, y, width, height are -1, 1, 5, 5)"),
        (",1,1,5,5,1", "line 6: patientId is empty. Name the image, or remove the row"),
        ("b,,,,,0", "rows of ID b in Target differ (lines 2, 4, 6)"),
        ("d,1,1,5,5,1\ne,1,1,0,5,1\nf,,,,,9", "line 7: e: its box has no area"),  # the first that is wrong
    ],
)
def test_wrong_rows_are_named(tmp_path: Path, row: str, said: str) -> None:
    with pytest.raises(BadInputError) as error:
        read(tmp_path, f"{BOXES}{row}\n")
    assert str(error.value).removeprefix(str(tmp_path / "boxes.csv")).lstrip(":, ").startswith(said)


def test_columns_of_other_names(tmp_path: Path) -> None:
    text = BOXES.replace("x,y,width", "left,top,width").replace("patientId", "file")
    table = read(tmp_path, text, ID="file", x="left", y="top")
    np.testing.assert_array_equal(table.boxes.edges[0], [263.5, 151.5, 476.5, 530.5])
    with pytest.raises(UsageError, match=r"--columns left=x: nothing is called left\. Known are: .*, x, y, width, "):
        read(tmp_path, text, left="x")


def test_a_table_of_classes(tmp_path: Path) -> None:
    table = read(tmp_path, CLASSES)
    assert table.image_ids == ["a", "b", "d"]
    np.testing.assert_array_equal(table.values, [[0, 1, 0], [1, 0, 0], [0, 0, 1]])
    assert (len(table.boxes), table.n_repeated_rows, table.places.tolist()) == (0, 1, [1, 0, 2])


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("e,Opacity", "line 6: class of e is 'Opacity'. Expected one of: Lung Opacity, No Lung Opacity / Not Normal, "),
        ("d,Lung Opacity", "rows of ID d in class differ (lines 5, 6)"),
    ],
)
def test_wrong_classes_are_named(tmp_path: Path, row: str, said: str) -> None:
    with pytest.raises(BadInputError) as error:
        read(tmp_path, f"{CLASSES}{row}\n")
    assert said in str(error.value)


@pytest.mark.parametrize("texts", [(BOXES, CLASSES), (CLASSES, BOXES)], ids=["boxes first", "classes first"])
def test_both_together(tmp_path: Path, texts: tuple[str, str]) -> None:
    table = read(tmp_path, *(text.replace("\nd,", "\nA,") for text in texts))
    assert table.image_ids == ["A", "a", "b", "c"]
    np.testing.assert_array_equal(table.values, [[0, 0, 1], [0, 1, 0], [1, 0, 0], [0, NAN, NAN]])
    assert table.boxes.images.tolist() == [2, 2]
    assert table.places.tolist() == ([3, 1, 0, 2] if texts[0] == BOXES else [2, 1, 0, 3])
    assert table.n_repeated_rows == 1


def test_what_contradicts_is_named_with_both_lines(tmp_path: Path) -> None:
    with pytest.raises(BadInputError) as error:
        read(tmp_path, BOXES, CLASSES + "c,Lung Opacity\n")
    boxes, classes = tmp_path / "boxes.csv", tmp_path / "classes.csv"
    assert str(error.value) == (
        f"opacity of c differs: {boxes}, line 5 (0) and {classes}, line 6 (1). Correct one of them"
    )
    with pytest.raises(BadInputError, match=r"classes\.csv: has boxes, as .*boxes\.csv does\. Keep those of one of"):
        read(tmp_path, BOXES, BOXES)


def test_further_tables_are_for_tasks_without_labels_of_series(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="task pe has labels of series: join further tables"):
        read(tmp_path, "id,label\na,1\n", "id,label\nb,1\n", task=PE)
    table = read(tmp_path, "ID,any\na,1\nb,\n", "ID,subdural\nb,1\na,0\n", task=ICH)
    np.testing.assert_array_equal(table.values[:, 4:], [[0, 1], [1, NAN]])


def test_rows_that_are_taken_keep_their_boxes(tmp_path: Path) -> None:
    taken = read(tmp_path, BOXES + "d,1,2,3,4,1\n").taken([3, 2, 1], ["z", "y", "x"])
    assert taken.image_ids == ["z", "y", "x"]
    assert taken.boxes.images.tolist() == [0, 2, 2]
    assert taken.box_lines is not None
    assert [taken.box_lines.place(box)[-6:] for box in range(3)] == ["line 6", "line 2", "line 4"]


def test_boxes_of_images_by_hand() -> None:
    boxes = make_boxes([4, 2, 4], [[1, 0, 1, 1], [2, 0, 1, 1], [3, 0, 1, 1]], [0.1, 0.2, 0.3])
    found, rows = boxes.of_images(np.array([4, 7, 2, -1, 4]))
    assert (found.images.tolist(), rows.tolist()) == ([0, 0, 2, 4, 4], [0, 2, 1, 0, 2])
    np.testing.assert_array_equal(found.edges[:, 0], [0.5, 2.5, 1.5, 0.5, 2.5])
    assert found.scores.tolist() == [0.1, 0.3, 0.2, 0.1, 0.3]
    assert len(boxes.of_images(np.array([], dtype=np.int64))[0]) == 0


def test_the_header_tells_the_task(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(BOXES)
    (tmp_path / "b.csv").write_text("ID,x,y\n")
    found = [task_of_header(table_at(tmp_path / name)) for name in ("a.csv", "b.csv")]
    assert found == [PNEUMONIA, None]
    assert read_image_ids(table_at(tmp_path / "a.csv"), PNEUMONIA) == ["b", "a", "b", "c"]
    with pytest.raises(BadInputError, match="has the columns of a label file of task pneumonia, not of ich"):
        read_labels(tmp_path / "a.csv", ICH)
    with pytest.raises(BadInputError, match="; or one row per box: patientId,x,y,width,height,Target"):
        read_labels(tmp_path / "b.csv", PNEUMONIA)


@pytest.mark.needs_xrays
def test_the_labels_of_the_competition() -> None:
    table = read_labels(labels_zip(), PNEUMONIA)
    assert (len(table.image_ids), len(table.boxes), table.n_repeated_rows) == (26684, 9555, 0)
    assert np.nansum(table.values[:, 0]) == 6012
    n_boxes = np.bincount(np.bincount(table.boxes.images, minlength=26684))
    assert n_boxes.tolist() == [26684 - 6012, 2614, 3266, 119, 13]
    sizes = placed(table.boxes.edges)[:, 2:]
    assert (sizes.min(axis=0).tolist(), sizes.max(axis=0).tolist()) == ([40, 45], [528, 942])
