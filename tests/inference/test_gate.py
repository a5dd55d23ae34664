"""A classifier as a gate of boxes: those of images that it calls negative are dropped, and nothing else changes."""

from pathlib import Path

import numpy as np
import pytest

from rsna_e2e.cli import main
from rsna_e2e.config import load_config, save_config
from rsna_e2e.core.errors import BadInputError, UsageError
from rsna_e2e.inference.gate import gate, thresholds_of
from rsna_e2e.inference.predictions import beside
from rsna_e2e.inference.submission import write_box_submission
from rsna_e2e.tasks.boxes import make_boxes
from rsna_e2e.tasks.labels import BoxTable, read_box_submission, write_labels
from rsna_e2e.tasks.pneumonia import PNEUMONIA
from rsna_e2e.training.operating_points import write_operating_points
from rsna_e2e.training.run_layout import CONFIG

BOXES = "patientId,PredictionString\nb,0.9 1.0 2.0 3.0 4.0 0.1 5.0 6.0 7.0 8.0\na,\nc,0.5 1.0 1.0 1.0 1.0\n"
KEPT = "patientId,PredictionString\na,\nb,0.9 1.0 2.0 3.0 4.0 0.1 5.0 6.0 7.0 8.0\nc,\n"
LABEL = PNEUMONIA.boxes[0]
PROBABILITY = {"a": 0.01, "b": 0.3, "c": 0.2999}


def _write(folder: Path, probability: dict[str, float] = PROBABILITY) -> tuple[Path, Path]:
    (folder / "boxes.csv").write_text(BOXES)
    rows = "".join(f"{image_id}_{LABEL},{p}\n" for image_id, p in probability.items())
    (folder / "classes.csv").write_text(f"ID,Label\n{rows}")
    return folder / "boxes.csv", folder / "classes.csv"


def test_boxes_of_images_below_the_threshold_are_dropped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An image at the threshold keeps its boxes; one without boxes stays in the submission."""
    boxes, classes = _write(tmp_path)
    beside(boxes, "truth.csv").write_text("patientId,x,y,width,height,Target\na,,,,,0\n")
    out = tmp_path / "out/gated.csv"
    assert main(["gate", str(boxes), str(classes), "--least", "0.3", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert f"dropped 1 of 3 boxes, in 1 of 3 images: the probability is below 0.3 ({LABEL})" in said
    assert f"to score it: rsna-e2e evaluate {out} {out}.truth.csv" in said
    assert out.read_text() == KEPT
    assert beside(out, "boxes.parquet").is_file()


def test_the_threshold_is_that_of_the_classifier(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    boxes, classes = _write(tmp_path)
    run, out = tmp_path / "run", tmp_path / "gated.csv"
    run.mkdir()
    save_config(load_config("xray_classify_demo"), path=run / CONFIG)
    words = ["gate", str(boxes), str(classes), "--run", str(run), "--out", str(out)]
    assert main(words) == 3
    assert f"run: has no threshold of {LABEL}, as a classifier's run does that held a fold" in capsys.readouterr().err
    assert not out.exists()
    write_operating_points(run, epoch=1, thresholds={LABEL: 0.2999, "other": 0.9})
    assert main(words) == 0
    assert "dropped 0 of 3 boxes, in 0 of 3 images" in capsys.readouterr().out
    assert thresholds_of(run, PNEUMONIA) == {LABEL: 0.2999}


def test_the_scores_of_a_detector_are_no_probabilities(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    boxes, classes = _write(tmp_path)
    (tmp_path / "run").mkdir()
    save_config(load_config("xray_boxes_demo"), path=tmp_path / "run" / CONFIG)
    write_operating_points(tmp_path / "run", epoch=1, thresholds={LABEL: 0.05})
    out = tmp_path / "gated.csv"
    assert main(["gate", str(boxes), str(classes), "--run", str(tmp_path / "run"), "--out", str(out)]) == 2
    assert "--run is for networks that predict labels" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize("words", [[], ["--least", "0.2", "--run", "run"], ["--least", "1.5"]])
def test_one_threshold_is_asked_for(tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["gate", *map(str, _write(tmp_path)), "--out", str(tmp_path / "out.csv"), *words])
    assert end.value.code == 2
    assert "--least" in capsys.readouterr().err.splitlines()[-1]


def test_every_image_needs_a_probability(tmp_path: Path) -> None:
    boxes, classes = _write(tmp_path, {"b": 0.3, "c": 0.2, "z": 0.1})
    with pytest.raises(BadInputError, match=r"classes\.csv: does not say how probable .* 1 of 3 images, such as a\. "):
        gate(boxes, classes, task=PNEUMONIA, least={LABEL: 0.5}, out=tmp_path / "out.csv")
    assert not (tmp_path / "out.csv").exists()


def test_what_is_read_is_not_written_over(tmp_path: Path) -> None:
    boxes, classes = _write(tmp_path)
    for out in (boxes, classes):
        with pytest.raises(UsageError, match=r"itself to be written|would be lost"):
            gate(boxes, classes, task=PNEUMONIA, least={LABEL: 0.5}, out=out)
    assert boxes.read_text() == BOXES
    with pytest.raises(BadInputError, match="no submission of boxes"):
        gate(classes, boxes, task=PNEUMONIA, least={LABEL: 0.5}, out=tmp_path / "out.csv")


@pytest.mark.parametrize("seed", range(10))
def test_what_is_left_is_as_it_was(tmp_path: Path, seed: int) -> None:
    """All images in their order, and the very boxes, with equal scores, of those at or above the threshold."""
    rng = np.random.default_rng(seed)
    n, n_boxes = 30, 50
    image_ids = [f"i{number:02d}" for number in range(n)]
    probability = rng.random(n).round(2)
    places = rng.uniform(1, 500, (n_boxes, 4)).round(3)
    made = make_boxes(rng.integers(0, n, n_boxes), places, rng.random(n_boxes))
    write_box_submission(tmp_path / "boxes.csv", PNEUMONIA, BoxTable(image_ids=image_ids, boxes=made))
    values = np.full((n, len(PNEUMONIA.slices)), np.nan)
    values[:, PNEUMONIA.slices.index(LABEL)] = probability
    write_labels(tmp_path / "classes.csv", PNEUMONIA, image_ids[::-1], values[::-1])
    least = float(rng.choice(probability))
    out = tmp_path / "gated.csv.gz"
    done = gate(tmp_path / "boxes.csv", tmp_path / "classes.csv", task=PNEUMONIA, least={LABEL: least}, out=out)
    before, after = (read_box_submission(path, PNEUMONIA) for path in (tmp_path / "boxes.csv", out))
    assert after.image_ids == before.image_ids == image_ids
    is_kept = probability[before.boxes.images] >= least
    expected = before.boxes.at(is_kept)
    for name in ("images", "edges", "classes", "scores"):
        np.testing.assert_array_equal(getattr(after.boxes, name), getattr(expected, name))
    assert (done.n_boxes, done.n_dropped) == (n_boxes, int((~is_kept).sum()))
    assert done.n_images_dropped == len(set(before.boxes.images[~is_kept].tolist()))
