"""The demos and the script of boxes, run whole with few studies; set-up aside, which is that of the tests."""

from pathlib import Path

import pytest
import rectangles
from scripts import run_script

from rsna_e2e.core.files import read_json
from rsna_e2e.core.table_files import table_at
from rsna_e2e.store import Store
from rsna_e2e.tasks.labels import read_box_submission
from rsna_e2e.tasks.pneumonia import PNEUMONIA


@pytest.mark.slow
def test_every_step_of_the_demo_of_embolism_works(tmp_path: Path) -> None:
    done = run_script(tmp_path, "demo_pe.sh", "out", STUDIES="8")
    assert done.returncode == 0, done.stderr
    assert "demo_pe: all steps work. 8 studies are too few" in done.stderr
    out = tmp_path / "out"
    with_pages = ("inspection/inspection.html", "report/report.html")
    for name in ("sheet.png", *with_pages, "report/metrics.csv", "run/summary.json", "submission.csv"):
        assert (out / name).stat().st_size > 0, name
    store, scores = Store.open(out / "store", "pe"), read_json(out / "report/metrics.json")
    assert len({span.study_uid for span in store.series}) == 8
    assert scores["task"] == "pe"
    assert scores["n_slices"] == sum(span.n_slices for span in store.series if span.split == "test") > 0


@pytest.mark.slow
def test_every_step_of_the_demo_of_radiographs_works(tmp_path: Path) -> None:
    done = run_script(tmp_path, "demo_xray.sh", "out", STUDIES="40")
    assert done.returncode == 0, done.stderr
    assert "demo_xray: all steps work. 40 studies are too few" in done.stderr
    out = tmp_path / "out"
    store = Store.open(out / "store")
    n_test = sum(span.split == "test" for span in store.series)
    assert len(store) == 40
    assert len(read_box_submission(table_at(out / "submission.csv"), PNEUMONIA).image_ids) == n_test
    for split in ("test", "balanced"):
        for name in ("classes", "boxes", "submission", "baseline"):
            folder = out / f"report-{name}-{split}"
            assert "report.html" in {path.name for path in folder.iterdir()}
            assert read_json(folder / "metrics.json")["task"] == "pneumonia"
    assert "validation" in {path.name for path in out.iterdir()}


@pytest.mark.slow
def test_boxes_are_found_by_one_command(tmp_path: Path) -> None:
    rectangles.make_store(tmp_path / "data", 12, n_unknown=3)  # for its images and their table
    # scored on a fold of three images, which are few for a network that has learned nothing
    tiny = ("image.size=64", "model.detector.pyramid_width=8", "slice_phase.sampling=all", "slice_phase.epochs=1")
    words = [word for setting in tiny for word in ("--set", setting)]
    given = {"DATA": "data/raw", "LABELS": "data/boxes.csv", "ALSO": "none", "CLASSIFIER": "none"}
    done = run_script(tmp_path, "run_51_xray_boxes.sh", *words, "--device", "cpu", RECIPE="xray_boxes_demo", **given)
    assert done.returncode == 0, done.stderr
    out = tmp_path / "out"
    found = read_box_submission(table_at(out / "submission.csv"), PNEUMONIA)
    assert found.image_ids == ["image009", "image010", "image011"]
    assert read_json(out / "validation/metrics.json")["task"] == "pneumonia"
    assert (out / "inspection/inspection.html").exists()


def test_the_script_of_boxes_without_data_says_so(tmp_path: Path) -> None:
    done = run_script(tmp_path, "run_51_xray_boxes.sh", DATA="")
    assert done.returncode == 2
    assert done.stderr.startswith("run_51_xray_boxes: DATA is not set; it must be a folder of radiographs and their")
    assert not (tmp_path / "out").exists()
