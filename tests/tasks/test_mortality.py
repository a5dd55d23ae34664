"""The task mortality: its two columns from label file over store to submission and scores."""

import json
from pathlib import Path

import numpy as np
import pytest
from radiographs import chest, write_image

from rsna_e2e.cli import main
from rsna_e2e.core.errors import BadInputError
from rsna_e2e.core.table_files import table_at
from rsna_e2e.store import Store
from rsna_e2e.tasks.labels import read_labels, task_of_header, write_labels
from rsna_e2e.tasks.mortality import MORTALITY

IDS = ["a1", "a2", "b1", "b2"]


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    path = tmp_path / "train.csv"
    path.write_text("PATIENT ID,hospital_outcome\n" + "".join(f"{one},{row % 2}\n" for row, one in enumerate(IDS)))
    return path


def test_its_table_is_known_by_its_columns_and_read(labels: Path) -> None:
    assert task_of_header(table_at(labels)) == MORTALITY
    table = read_labels(table_at(labels), MORTALITY)
    assert dict(zip(table.image_ids, table.values[:, 0].tolist(), strict=True)) == {"a1": 0, "a2": 1, "b1": 0, "b2": 1}


def test_a_submission_has_the_same_columns(tmp_path: Path) -> None:
    write_labels(tmp_path / "s.csv", MORTALITY, IDS[:2], np.array([[0.25], [1.0]]))
    assert (tmp_path / "s.csv").read_text().splitlines() == ["PATIENT ID,hospital_outcome", "a1,0.25", "a2,1"]


def test_an_outcome_is_no_other_word(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text("PATIENT ID,hospital_outcome\na1,dead\n")
    with pytest.raises(BadInputError, match=r"s\.csv, line 2: .*dead"):
        read_labels(table_at(tmp_path / "s.csv"), MORTALITY)


def test_from_images_to_scores(labels: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed, one in enumerate(IDS):
        write_image(tmp_path / f"raw/{one}.png", (chest(seed=seed) >> 4).astype(np.uint8))
    prepare = ["prepare", str(tmp_path / "raw"), str(tmp_path / "store"), "--task", "mortality", "--jobs", "1"]
    assert main([*prepare, "--labels", str(labels), "--folds", "2"]) == 0
    store = Store.open(tmp_path / "store")
    assert dict(zip(store.index["image_id"], store.labels[:, 0], strict=True)) == {"a1": 0, "a2": 1, "b1": 0, "b2": 1}
    write_labels(tmp_path / "s.csv", MORTALITY, IDS, np.array([[0.25], [0.5], [0.25], [0.5]]))
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path / "s.csv"), str(labels), "--out", str(tmp_path / "report")]) == 0
    found = json.loads((tmp_path / "report/metrics.json").read_text())
    assert found["task"] == "mortality"
    expected = (-np.log(0.75) - np.log(0.5)) / 2
    assert found["weighted_log_loss"]["value"] == pytest.approx(expected, rel=1e-12)
