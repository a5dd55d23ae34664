"""Submissions of boxes: written, read back, and scored against the truth; and what headers say of real radiographs."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from real_tables import labels_zip, read_headers, read_rows

from rsna_e2e.cli import main
from rsna_e2e.core.errors import BadInputError, UsageError
from rsna_e2e.core.files import sha256_of
from rsna_e2e.core.records import Float64Array
from rsna_e2e.evaluation import baselines
from rsna_e2e.evaluation.boxes import evaluate_boxes
from rsna_e2e.inference.predictions import PredictionTable
from rsna_e2e.inference.submission import prepare_submission, write_box_submission, write_submission
from rsna_e2e.tasks.boxes import make_boxes
from rsna_e2e.tasks.labels import BoxTable, read_box_submission, read_labels
from rsna_e2e.tasks.metrics import auc
from rsna_e2e.tasks.pneumonia import PNEUMONIA

TRUTH = "patientId,x,y,width,height,Target\na,0,0,10,10,1\nb,,,,,0\nc,0,0,10,10,1\nc,20,0,10,10,1\nd,,,,,0\n"
# a: found at every threshold; b: found nothing; c: one of two found at 0.40 and 0.45 alone, IoU 0.5; d: nothing
SUBMISSION = "patientId,PredictionString\na,0.9 0.0 0.0 10.0 10.0\nb,0.8 1.0 2.0 3.0 4.0\nc,0.5 20.0 0.0 10.0 5.0\nd,\n"
LABELS = ("opacity", "other_abnormal", "normal")
PRECISION = {"a": 1.0, "b": 0.0, "c": 2 / 8 * 1 / 2}


def write(folder: Path, submission: str = SUBMISSION, truth: str = TRUTH) -> tuple[Path, Path]:
    (folder / "s.csv").write_text(submission)
    (folder / "t.csv").write_text(truth)
    return folder / "s.csv", folder / "t.csv"


def test_what_is_written_reads_back(tmp_path: Path) -> None:
    """Edges to a thousandth of a pixel, boxes by falling score, images without boxes; and the table beside it."""
    table = BoxTable(
        image_ids=["b", "a"], boxes=make_boxes([1, 1], [[0.1, 2, 30.25, 4.0001], [5, 6, 7, 8]], [0.25, 0.5])
    )
    write_box_submission(tmp_path / "s.csv", PNEUMONIA, table)
    assert (tmp_path / "s.csv").read_text() == (
        "patientId,PredictionString\nb,\na,0.5 5.0 6.0 7.0 8.0 0.25 0.1 2.0 30.25 4.0\n"
    )
    read = read_box_submission(tmp_path / "s.csv", PNEUMONIA)
    assert read.image_ids == ["a", "b"]
    assert read.boxes.images.tolist() == [0, 0]
    np.testing.assert_allclose(read.boxes.edges, table.boxes.edges[::-1], rtol=0, atol=6e-4)
    assert read.boxes.scores.tolist() == [0.5, 0.25]
    stored = pq.read_table(tmp_path / "s.csv.boxes.parquet")
    assert stored.column_names == ["image_id", "x0", "y0", "x1", "y1", "score", "class"]
    assert stored["image_id"].to_pylist() == ["a", "a"]
    assert stored["x1"].to_pylist() == table.boxes.edges[:, 2].tolist()
    prepare_submission(tmp_path / "s.csv", PNEUMONIA, example="s.csv")  # it may be written again
    (tmp_path / "t.csv").write_text(TRUTH)
    with pytest.raises(UsageError, match=r"t\.csv: is there and no submission, and would be lost"):
        prepare_submission(tmp_path / "t.csv", PNEUMONIA, example="s.csv")


@pytest.mark.parametrize(
    "boxes",
    ["0.5 1 2 3", "0.5 1 2 3 4 0.5", "0.5 1 2 3 0", "0.5 1 2 -3 4", "1.5 1 2 3 4", "0.5 1 nan 3 4", "0.5 1 x 3 4"],
)
def test_boxes_that_are_none_are_named(tmp_path: Path, boxes: str) -> None:
    submission, _ = write(tmp_path, f"{SUBMISSION}e,{boxes}\n")
    with pytest.raises(BadInputError, match=r"s\.csv, line 6: e: PredictionString is '.*'\. Expected of each box its"):
        read_box_submission(submission, PNEUMONIA)


def test_an_image_is_there_once(tmp_path: Path) -> None:
    submission, _ = write(tmp_path, f"{SUBMISSION}b,\n")
    with pytest.raises(BadInputError, match=r"s\.csv, line 6: b: is there twice\. One row has all boxes of an image"):
        read_box_submission(submission, PNEUMONIA)


def test_submissions_and_labels_are_told_apart(tmp_path: Path) -> None:
    submission, truth = write(tmp_path)
    with pytest.raises(BadInputError, match=r"s\.csv: holds 4 predictions of boxes, no labels of the task pneumonia"):
        read_labels(submission, PNEUMONIA)
    with pytest.raises(BadInputError, match=r"t\.csv: no submission of boxes, which has the columns patientId,Pred"):
        read_box_submission(truth, PNEUMONIA)


def test_scores_by_hand(tmp_path: Path) -> None:
    found = evaluate_boxes(*write(tmp_path), task=PNEUMONIA, n_bootstrap=100)
    assert found.image_ids == ["a", "b", "c", "d"]
    assert (found.n_scored, len(found.true), len(found.predicted), found.n_images_with_boxes) == (3, 3, 3, 2)
    assert found.box_precision.value == pytest.approx(sum(PRECISION.values()) / 3, abs=1e-12)
    assert found.box_precision.low < found.box_precision.value < found.box_precision.high
    # What boxes cover: a all; c 50 of the 200 that are true, and nothing else
    expected = {"all": (1 + 0 + 0.25 + 1) / 4, "with boxes": (1 + 0.25) / 2, "without boxes": 1 / 2}
    assert {name: one.value for name, one in found.union_iou.items()} == pytest.approx(expected, abs=1e-12)
    # By falling score: found, missed, missed (IoU 0.5 is not above it); four images
    assert found.average_precision == pytest.approx(1 / 3, abs=1e-12)
    assert found.sensitivity[0.125] == pytest.approx(1 / 3, abs=1e-12)
    # Of a, b and c: 1, 0, and a half until IoU 0.5 is not above the threshold
    expected = {at: (1.5 if at < 0.5 else 1.0) / 3 for at in found.precision_by_iou}
    assert found.precision_by_iou == pytest.approx(expected, abs=1e-12)
    assert np.mean(list(found.precision_by_iou.values())) == pytest.approx(found.box_precision.value, abs=1e-12)
    # Highest scores of a and c, with boxes, 0.9 and 0.5; of b and d, without, 0.8 and 0: 3 of 4 pairs are in order
    assert found.image_auc.value == 0.75
    assert found.by_view == ()
    none, medians = found.floors
    assert none.box_precision == 0.0
    assert medians.name == "the median boxes on every image"
    # Left of the middle, 15 px: (0, 0, 10, 10); right of it: (20, 0, 10, 10). a: 1/2, b: 0, c: 1, d: 0
    assert medians.box_precision == pytest.approx((0.5 + 1) / 4, abs=1e-12)


def test_scores_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    submission, truth = write(tmp_path)
    assert main(["evaluate", str(submission), str(truth), "--out", str(tmp_path / "report")]) == 0
    said = capsys.readouterr().out
    assert said.startswith("box precision 0.3750 [")
    assert "over 3 of 4 images, those with boxes, 3 true and 3 predicted" in said
    assert "without pixels: no boxes 0.0000, the median boxes on every image 0.3750" in said
    assert said.endswith(f"report: {tmp_path}/report/report.html\n")
    assert "AUC of an image's highest score for whether it has boxes: 0.750 [" in said
    content = json.loads((tmp_path / "report/metrics.json").read_text())
    assert content["box_precision"]["value"] == pytest.approx(0.375, abs=1e-12)
    assert content["task"] == "pneumonia"
    words = ["evaluate", str(submission), str(truth), "--series", str(truth)]
    assert main(words) == 2
    assert "--series: boxes are scored image by image" in capsys.readouterr().err
    for name in ("--run", "--facts"):
        assert main([*words[:3], name, str(truth)]) == 2
        assert f"{name}: is of labels, and these are boxes" in capsys.readouterr().err


def test_nothing_of_an_earlier_evaluation_stays_beside_that_of_boxes(tmp_path: Path) -> None:
    boxes, truth = write(tmp_path)
    images = tmp_path / "p.csv"
    images.write_text("ID,Label\na_opacity,0.9\nb_opacity,0.2\nc_opacity,0.8\nd_opacity,0.1\n")
    report = tmp_path / "report"
    for submission, expected in ((images, "metrics.csv metrics.json report.html"), (boxes, "metrics.json report.html")):
        assert main(["evaluate", str(submission), str(truth), "--task", "pneumonia", "--out", str(report)]) == 0
        assert sorted(path.name for path in report.iterdir()) == expected.split()


def test_a_further_table_of_truth_tells_the_labels_without_boxes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, truth = write(tmp_path)
    words = {"a": "Lung Opacity", "b": "Normal", "c": "Lung Opacity", "d": "No Lung Opacity / Not Normal"}
    (tmp_path / "d.csv").write_text("\n".join(["patientId,class", *(f"{one},{word}" for one, word in words.items())]))
    values = {"a": (0.8, 0.1, 0.1), "b": (0.3, 0.4, 0.3), "c": (0.6, 0.3, 0.1), "d": (0.1, 0.2, 0.7)}
    rows = [f"{one}_{name},{value}" for one, three in values.items() for name, value in zip(LABELS, three, strict=True)]
    (tmp_path / "p.csv").write_text("\n".join(["ID,Label", *rows]))
    evaluate = ["evaluate", str(tmp_path / "p.csv"), str(truth), "--task", "pneumonia", "--out", str(tmp_path / "out")]
    assert main(evaluate) == 0
    assert "other_abnormal" not in (tmp_path / "out/metrics.csv").read_text()
    assert main([*evaluate, "--also", str(tmp_path / "d.csv")]) == 0
    content = json.loads((tmp_path / "out/metrics.json").read_text())
    found = {one["label"]: one["auc"]["value"] for one in content["labels"] if one["level"] == "slice"}
    # of three pairs each: d, which is abnormal, is below b and c and above a; b, which is normal, below d alone
    assert found == pytest.approx({"opacity": 1.0, "other_abnormal": 1 / 3, "normal": 2 / 3})
    assert content["further_truth"] == {"name": "d.csv", "sha256": sha256_of(tmp_path / "d.csv")}
    assert "d.csv" in (tmp_path / "out/report.html").read_text()
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path / "s.csv"), str(truth), "--also", str(tmp_path / "d.csv")]) == 0
    assert capsys.readouterr().out.startswith("box precision 0.3750 [")


def test_a_submission_of_probabilities_takes_the_place_of_one_of_boxes_with_its_tables(tmp_path: Path) -> None:
    table = PredictionTable(
        image_ids=["a"],
        series_keys=["s"],
        slice_index=np.zeros(1, np.int64),
        position_mm=np.zeros(1),
        probability=np.full((1, 3), 0.5),
    )
    write_box_submission(tmp_path / "s.csv", PNEUMONIA, BoxTable(image_ids=["a"], boxes=make_boxes([], [])))
    write_submission(tmp_path / "s.csv", PNEUMONIA, table)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s.csv", "s.csv.predictions.parquet"]


def test_images_without_known_boxes_and_missing_ones(tmp_path: Path) -> None:
    submission, truth = write(tmp_path, SUBMISSION.replace("d,\n", "e,\n"))
    with pytest.raises(
        BadInputError, match=r"1 image of .*t\.csv missing \(d\) and 1 image not in .*t\.csv \(e\)\. To "
    ):
        evaluate_boxes(submission, truth, task=PNEUMONIA)
    found = evaluate_boxes(submission, truth, task=PNEUMONIA, allow_missing=True)
    assert (found.image_ids, str(found.left_out).count("(1)")) == (["a", "b", "c"], 2)


def test_intervals_are_of_patients_where_a_store_says_them(tmp_path: Path) -> None:
    """All images are of one patient: there is nothing to resample."""
    index = {"image_id": np.array(list("abcd"), dtype=object), "patient_id": np.array(["p"] * 4, dtype=object)}
    store: Any = SimpleNamespace(index=index, path=Path("store"))
    found = evaluate_boxes(*write(tmp_path), task=PNEUMONIA, store=store)
    assert (found.resampled, np.isnan(found.box_precision.low)) == ("patient", True)


@pytest.mark.needs_xrays
def test_two_median_boxes_on_the_labels_of_the_competition(tmp_path: Path) -> None:
    """0.0180, and 0.0000 without boxes, as they were worked out with other code."""
    image_ids = sorted({row["patientId"] for row in read_rows()})
    two = [[213, 374, 212, 282.5], [599, 356, 224, 318]]
    boxes = make_boxes(np.repeat(np.arange(26684), 2), two * 26684, np.tile([0.9, 0.8], 26684))
    write_box_submission(tmp_path / "s.csv", PNEUMONIA, BoxTable(image_ids=image_ids, boxes=boxes))
    found = evaluate_boxes(tmp_path / "s.csv", labels_zip(), task=PNEUMONIA, n_bootstrap=20)
    assert round(found.box_precision.value, 4) == 0.0180
    assert found.box_precision.low < 0.0180 < found.box_precision.high
    assert [round(floor.box_precision, 4) for floor in found.floors] == [0.0, 0.0180]


def real_features() -> tuple[Float64Array, Float64Array]:
    """What the headers of the competition's images say, as the floor takes it from a store, and the label [N, 1]."""
    target = {row["patientId"]: float(row["Target"]) for row in read_rows()}
    rows = [row for row in read_headers() if row["PatientID"] in target]
    n = len(rows)
    index = {name: np.zeros(n) for name in (*baselines.HEADER, "slice_index")} | {
        "view": np.array([row["ViewPosition"] for row in rows], dtype=object),
        "sex": np.array([row["PatientSex"] for row in rows], dtype=object),
        "age_y": np.array([min(int(row["PatientAge"]), 90) for row in rows], dtype=np.int32),
        "imager_spacing_mm": np.array([float(row["PixelSpacing"]) for row in rows]),
    }
    store: Any = SimpleNamespace(index=index, series=[SimpleNamespace(n_slices=1)] * n)
    return baselines.features(store), np.array([[target[row["PatientID"]]] for row in rows])


def out_of_fold_auc(features: Float64Array, labels: Float64Array, *, n_folds: int) -> float:
    """The AUC of the floor's forest over images of which it has seen none, in the first `n_folds` of five folds."""
    fold = np.random.default_rng(0).permutation(len(labels)) % 5
    scores = np.full(len(labels), np.nan)
    for held in range(n_folds):
        learned, out = fold != held, fold == held
        ones = np.ones(int(learned.sum()))
        scores[out] = baselines.by_forest(features[learned], labels[learned], ones, features[out], seed=0)[:, 0]
    is_scored = ~np.isnan(scores)
    return auc(labels[is_scored, 0], scores[is_scored])


@pytest.mark.needs_xrays
def test_what_headers_alone_say_of_real_radiographs(monkeypatch: pytest.MonkeyPatch) -> None:
    """In small, a fifth of the images and of the trees; by the shuffled labels, chance."""
    monkeypatch.setattr(baselines, "N_TREES", 40)
    features, labels = real_features()
    assert labels.shape == (26684, 1)
    assert 0.70 < out_of_fold_auc(features, labels, n_folds=1) < 0.75
    shuffled = np.random.default_rng(1).permutation(features)
    assert abs(out_of_fold_auc(shuffled, labels, n_folds=1) - 0.5) < 0.03


@pytest.mark.slow
@pytest.mark.needs_xrays
def test_what_headers_alone_say_of_all_real_radiographs() -> None:
    """Of 12,173 AP images 38.3 % are positive, of 14,511 PA 9.3 %: so the view alone has an AUC of 0.706. By other code
    a forest of trees without a least leaf has 0.7252, and boosted trees 0.733, as this forest with leaves of ten."""
    features, labels = real_features()
    positive, negative = 0.383 * 12173 / 6012, 0.617 * 12173 / 20672  # shares that are AP
    assert auc(labels[:, 0], -features[:, len(baselines.HEADER)]) == pytest.approx(
        0.5 + (positive - negative) / 2, abs=5e-4
    )
    assert 0.7252 < out_of_fold_auc(features, labels, n_folds=5) < 0.74
    shuffled = np.random.default_rng(1).permutation(features)
    assert abs(out_of_fold_auc(shuffled, labels, n_folds=5) - 0.5) < 0.02
