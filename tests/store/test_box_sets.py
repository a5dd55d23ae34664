"""Boxes in a label set: from the tables of labels into the store, and out of it."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import small
from stores import sign

from rsna_e2e.cli import main
from rsna_e2e.core.errors import BadInputError
from rsna_e2e.core.table_files import table_at
from rsna_e2e.store import Store, StoreError, verify_store
from rsna_e2e.store.layout import BOX_COLUMNS
from rsna_e2e.store.prepare import LabelFacts, label, prepare
from rsna_e2e.store.tables import read_table, write_table
from rsna_e2e.tasks.files import task_as_yaml
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.tasks.pneumonia import PNEUMONIA

SPOTS = replace(PNEUMONIA, name="spots", inputs=ICH.inputs)  # the same labels and boxes, on CT
BOXES = """patientId,x,y,width,height,Target
ID_0001,3,4,10,20,1
ID_0000,,,,,0
ID_0001,0,0,32,32,1
ID_0300,1.5,2,4,5,1
"""
CLASSES = """patientId,class
ID_0000,Normal
ID_0001,Lung Opacity
ID_0001,Lung Opacity
ID_0100,Normal
ID_0101,Lung Opacity
ID_0300,Lung Opacity
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, LabelFacts]:
    """A store whose labels are boxes and classes."""
    folder = tmp_path_factory.mktemp("boxes")
    small.write_raw(folder / "raw")
    (folder / "boxes.csv").write_text(BOXES)
    (folder / "classes.csv").write_text(CLASSES)
    labels = replace(table_at(folder / "boxes.csv"), also=table_at(folder / "classes.csv"))
    return folder, prepare(folder / "raw", folder / "store", task=SPOTS, labels=labels, n_folds=2, n_jobs=1)


@pytest.fixture
def copy(made: tuple[Path, LabelFacts], tmp_path: Path) -> Path:
    return Path(shutil.copytree(made[0] / "store", tmp_path / "store"))


def by_image(store: Store) -> dict[str, list[list[float]]]:
    ids = store.index["image_id"]
    return {
        image: store.boxes.edges[ids[store.boxes.images] == image].tolist() for image in set(ids[store.boxes.images])
    }


def test_boxes_lie_in_the_store(made: tuple[Path, LabelFacts]) -> None:
    store = Store.open(made[0] / "store")
    assert by_image(store) == {
        "ID_0001": [[-0.5, -0.5, 31.5, 31.5], [2.5, 3.5, 12.5, 23.5]],
        "ID_0300": [[1.0, 1.5, 5.0, 6.5]],
    }
    known = set(store.index["image_id"][store.boxes_known])
    assert known == {"ID_0000", "ID_0001", "ID_0100", "ID_0300"}  # not 0101, of which nobody says where it is
    labels = dict(zip(store.index["image_id"], store.labels.tolist(), strict=True))
    assert labels["ID_0001"] == [1, 0, 0]
    assert labels["ID_0100"] == [0, 0, 1]
    assert verify_store(store.path).is_whole


def test_the_report_counts_boxes(made: tuple[Path, LabelFacts]) -> None:
    folder, report = made
    assert report.boxes == {"all": 3, "slices with boxes": 2, "without": 2}
    assert report.label_file == f"{folder / 'boxes.csv'} and {folder / 'classes.csv'}"


def test_labels_may_come_later(made: tuple[Path, LabelFacts], tmp_path: Path) -> None:
    folder = made[0]
    prepare(folder / "raw", tmp_path / "store", task=ICH, labels="none", n_jobs=1)
    (tmp_path / "spots.yaml").write_text(task_as_yaml(SPOTS))
    boxes, classes = str(folder / "boxes.csv"), str(folder / "classes.csv")
    words = ["label", str(tmp_path / "store"), boxes, "--also", classes, "--task", str(tmp_path / "spots.yaml")]
    assert main([*words, "--folds", "2"]) == 0
    for name in ("set.json", "slices.parquet", "boxes.parquet"):
        one, other = (place / "store/tasks/spots" / name for place in (tmp_path, folder))
        assert one.read_bytes() == other.read_bytes()
    shutil.rmtree(tmp_path / "store/tasks/spots")
    label(tmp_path / "store", folder / "boxes.csv", task=SPOTS)
    store = Store.open(tmp_path / "store")
    assert set(store.index["image_id"][store.boxes_known]) == {"ID_0000", "ID_0001", "ID_0300"}


def test_sets_of_other_tasks_stay_as_they_were(made: tuple[Path, LabelFacts]) -> None:
    folder = made[0]
    prepare(folder / "raw", folder / "other", task=ICH, n_jobs=1)
    content = json.loads((folder / "other/tasks/ich/set.json").read_text())
    assert not {"boxes", "n_boxes"} & content.keys()
    assert sorted(path.name for path in (folder / "other/tasks/ich").iterdir()) == ["set.json", "slices.parquet"]
    store = Store.open(folder / "other")
    assert len(store.boxes) == 0
    assert not store.boxes_known.any()
    assert (
        store.difference(
            replace(
                ICH, boxes=("any",), csv=replace(ICH.csv, box_columns=PNEUMONIA.only(PNEUMONIA.boxes).csv.box_columns)
            )
        )
        == "its boxes is (), not ('any',)"
    )


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("ID_0302,3,0,30,32,1", "line 6: ID_0302: its box reaches beyond the image, which has 32 columns and 32 rows."),
        ("ID_0302,3,0,29,32.1,1", "line 6: ID_0302: its box reaches beyond the image"),
    ],
)
def test_boxes_beyond_the_image_are_refused(made: tuple[Path, LabelFacts], tmp_path: Path, row: str, said: str) -> None:
    (tmp_path / "boxes.csv").write_text(f"{BOXES}{row}\n")
    with pytest.raises(BadInputError) as error:
        label(made[0] / "store", tmp_path / "boxes.csv", task=replace(SPOTS, name="again"))
    assert f"{tmp_path / 'boxes.csv'}, {said}" in str(error.value)
    with pytest.raises(BadInputError, match="its box reaches beyond the image"):  # before a pixel is read
        prepare(made[0] / "raw", tmp_path / "s", task=SPOTS, labels=tmp_path / "boxes.csv", n_jobs=1)
    assert not list((tmp_path / "s.partial").rglob("*.h5"))


DAMAGES: dict[str, Callable[[dict[str, np.ndarray]], object]] = {
    "row": lambda boxes: boxes["row"].__setitem__(0, 99),
    "class": lambda boxes: boxes["class"].__setitem__(0, 1),
    "edges": lambda boxes: boxes["x1"].__setitem__(0, 32),
    "label of a slice with a box": lambda boxes: boxes["row"].__setitem__(slice(None), 0),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_what_no_table_of_boxes_may_hold_is_refused(copy: Path, name: str) -> None:
    place = copy / "tasks/spots/boxes.parquet"
    boxes = {name: column.copy() for name, column in read_table(place, BOX_COLUMNS, n_rows=3).items()}
    DAMAGES[name](boxes)
    write_table(place, boxes)
    with pytest.raises(StoreError, match=r"boxes\.parquet: missing or damaged\. Make this label set again"):
        Store.open(copy)
    assert [damage.file for damage in verify_store(copy).damages] == ["tasks/spots/boxes.parquet"]
    sign(copy)
    with pytest.raises(StoreError, match=rf"boxes\.parquet: damaged \(impossible {name}, row 0\)\. Make this label"):
        Store.open(copy)


def test_also_asks_for_labels(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prepare", "raw", "store", "--also", "classes.csv"]) == 2
    assert "--also: beside which table? Name it with --labels" in capsys.readouterr().err
