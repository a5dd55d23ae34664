"""Evaluation of a submission: numbers against hand and scikit-learn, and every kind of bad input."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_up import MadeUpRun, add_series_table, made_up_run
from sklearn import metrics as judge

from rsna_e2e.cli import main
from rsna_e2e.core.errors import BadInputError
from rsna_e2e.core.files import sha256_of
from rsna_e2e.evaluation.evaluate import evaluate
from rsna_e2e.evaluation.summary import summary
from rsna_e2e.inference.predictions import (
    PredictionTable,
    predictions_path,
    series_path,
    write_predictions,
    write_series,
)
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.tasks.labels import write_labels

CLOSE = {"rel": 1e-9}  # float64, sums in another order


@pytest.fixture
def run(tmp_path: Path) -> MadeUpRun:
    return made_up_run(tmp_path, n_series=30, seed=3)


def hand_made(folder: Path) -> tuple[Path, Path]:
    """Two series of two slices: p is right about `any` in all but the last slice, 0.5 everywhere else."""
    truth, probability = np.zeros((4, 6)), np.full((4, 6), 0.5)
    truth[[0, 3], 5] = 1
    probability[:, 5] = [0.8, 0.2, 0.2, 0.2]
    ids = ["ID_a", "ID_b", "ID_c", "ID_d"]
    submission = folder / "submission.csv"
    write_labels(submission, ICH, ids, probability)
    write_labels(folder / "truth.csv", ICH, ids, truth)
    table = PredictionTable(
        image_ids=ids,
        series_keys=["x", "x", "y", "y"],
        slice_index=np.array([0, 1, 0, 1]),
        position_mm=np.array([0.0, 5, 0, 5]),
        probability=probability,
    )
    write_predictions(predictions_path(submission), ICH, table)
    return submission, folder / "truth.csv"


def test_numbers_by_hand(tmp_path: Path) -> None:
    result = evaluate(*hand_made(tmp_path), task=ICH)
    any_loss = (3 * -math.log(0.8) - math.log(0.2)) / 4
    assert result.weighted_log_loss.value == pytest.approx((5 * math.log(2) + 2 * any_loss) / 7, **CLOSE)
    assert result.constant_weighted_log_loss == pytest.approx(2 * math.log(2) / 7, **CLOSE)
    assert result.ratio_to_constant.value == pytest.approx(
        (5 * math.log(2) + 2 * any_loss) / (2 * math.log(2)), **CLOSE
    )
    scores = result.slices.scores[ICH.headline_index]
    assert (scores.n, scores.n_positive, scores.prevalence) == (4, 2, 0.5)
    assert scores.auc.value == 3 / 4  # four pairs: two right, two tied
    assert (scores.decisions.sensitivity, scores.decisions.specificity) == (0.5, 1.0)
    assert result.series is not None
    np.testing.assert_array_equal(result.series.truth[:, 5], [1, 1])
    np.testing.assert_array_equal(result.series.probability[:, 5], [0.8, 0.2])
    assert math.isnan(result.series.scores[5].auc.value)  # both series are positive


def test_the_truth_may_be_a_wide_table(tmp_path: Path) -> None:
    submission, truth = hand_made(tmp_path)
    wide = tmp_path / "wide.csv"
    head = ";".join(["file", "Bleed", *ICH.slices.names[:5]])
    wide.write_text(f"{head}\nID_b;no;;;;;\nID_c;0;0;0;0;0;0\nID_a;yes;0;0;0;0;0\nID_d;1;0;0;0;0;0\nID_b;0;0;0;0;0;0\n")
    words = ["evaluate", str(submission), str(wide), "--columns", "any=Bleed", "--out", str(tmp_path / "report")]
    assert main(words) == 0
    metrics = json.loads((tmp_path / "report/metrics.json").read_text())
    expected = evaluate(submission, truth, task=ICH).to_dict()
    assert metrics["weighted_log_loss"] == expected["weighted_log_loss"]
    assert metrics["truth"] == {"name": "wide.csv", "sha256": sha256_of(wide)}
    assert metrics["n_repeated_truth_rows"] == 1


def test_predictions_may_be_a_wide_table(tmp_path: Path) -> None:
    submission, truth = hand_made(tmp_path)
    probability = {"ID_a": 0.8, "ID_b": 0.2, "ID_c": 0.2, "ID_d": 0.2}
    rows = [f"{image_id},0.5,0.5,0.5,0.5,0.5,{p}" for image_id, p in probability.items()]
    (tmp_path / "mine.csv").write_text("\n".join([f"image,{','.join(ICH.slices.names)}", *rows]))
    expected = evaluate(submission, truth, task=ICH).weighted_log_loss.value
    assert evaluate(tmp_path / "mine.csv", truth, task=ICH).weighted_log_loss.value == expected


def test_numbers_against_scikit_learn(run: MadeUpRun) -> None:
    result = evaluate(run.submission, run.truth, task=ICH)
    losses = []
    for label, scores in enumerate(result.slices.scores):
        truth, probability = run.truth_values[:, label], run.table.probability[:, label]
        losses.append(judge.log_loss(truth, probability, labels=[0, 1]))
        assert scores.log_loss.value == pytest.approx(losses[-1], **CLOSE)
        assert scores.auc.value == pytest.approx(judge.roc_auc_score(truth, probability), **CLOSE)
        assert scores.average_precision.value == pytest.approx(
            judge.average_precision_score(truth, probability), **CLOSE
        )
        assert scores.decisions.sensitivity == pytest.approx(judge.recall_score(truth, probability >= 0.5), **CLOSE)
    assert result.weighted_log_loss.value == pytest.approx(np.average(losses, weights=ICH.slices.weights), **CLOSE)


def test_series_numbers_against_a_plain_loop(run: MadeUpRun) -> None:
    result = evaluate(run.submission, run.truth, task=ICH)
    assert result.series is not None
    assert result.layout is not None
    keys = np.array(run.table.series_keys)
    for row, key in enumerate(result.layout.series_keys):
        of_series = keys == key
        np.testing.assert_array_equal(result.series.truth[row], run.truth_values[of_series].max(axis=0))
        np.testing.assert_array_equal(result.series.probability[row], run.table.probability[of_series].max(axis=0))
        slices = result.layout.slices_of(row)
        np.testing.assert_array_equal(result.layout.slice_index[slices], np.arange(of_series.sum()))
        np.testing.assert_array_equal(result.layout.position_mm[slices], np.arange(of_series.sum()) * 5.0 - 40)
    expected = judge.roc_auc_score(result.series.truth[:, 5], result.series.probability[:, 5])
    assert result.series.scores[5].auc.value == pytest.approx(expected, **CLOSE)


def test_intervals_hold_the_value_and_depend_on_the_seed_only(run: MadeUpRun) -> None:
    first, again, other = (evaluate(run.submission, run.truth, task=ICH, seed=seed) for seed in (1, 1, 2))
    assert first.to_dict() == again.to_dict()
    assert first.weighted_log_loss != other.weighted_log_loss
    for estimate in (first.weighted_log_loss, first.ratio_to_constant, first.slices.scores[5].auc):
        assert estimate.low < estimate.value < estimate.high


def test_the_order_of_rows_changes_nothing(run: MadeUpRun, tmp_path: Path) -> None:
    before = evaluate(run.submission, run.truth, task=ICH).to_dict()
    write_labels(run.submission, ICH, run.table.image_ids[::-1], run.table.probability[::-1], decimals=6)
    after = evaluate(run.submission, run.truth, task=ICH).to_dict()
    del before["submission"], after["submission"]
    assert before == after


def test_without_a_table_there_are_no_series_and_no_intervals(run: MadeUpRun) -> None:
    run.predictions.unlink()
    result = evaluate(run.submission, run.truth, task=ICH)
    assert result.series is None
    assert result.layout is None
    assert math.isnan(result.weighted_log_loss.low)
    content = result.to_dict()
    assert content["weighted_log_loss"]["low"] is None
    assert content["n_series"] is None
    assert {row["level"] for row in content["labels"]} == {"slice"}


def test_the_dictionary_is_strict_json_and_names_no_folder(run: MadeUpRun, tmp_path: Path) -> None:
    text = json.dumps(evaluate(run.submission, run.truth, task=ICH).to_dict(), allow_nan=False)
    assert str(tmp_path) not in text
    assert "patient" not in text


def test_the_summary_by_hand(tmp_path: Path) -> None:
    submission, truth = hand_made(tmp_path)
    predictions_path(submission).unlink()
    loss = (5 * math.log(2) + 2 * (3 * -math.log(0.8) - math.log(0.2)) / 4) / 7
    assert summary(evaluate(submission, truth, task=ICH)).splitlines() == [
        f"weighted log loss {loss:.4f}: {100 * loss / (2 * math.log(2) / 7):.0f} % of what always predicting the "
        f"prevalence gives ({2 * math.log(2) / 7:.4f})",
        "AUC of 'any' over slices: 0.750, 2 of 4 positive",
    ]


def test_truth_without_positives_has_losses_but_no_ratio(run: MadeUpRun) -> None:
    write_labels(run.truth, ICH, run.table.image_ids, np.zeros_like(run.truth_values))
    result = evaluate(run.submission, run.truth, task=ICH)
    assert math.isnan(result.ratio_to_constant.value)
    assert "]: nothing to compare it with, because every label is the same" in summary(result).splitlines()[0]
    assert math.isnan(result.slices.scores[0].auc.value)
    assert result.weighted_log_loss.value > 0


def test_different_images_are_refused_with_counts_and_ids(run: MadeUpRun) -> None:
    ids = [*run.table.image_ids[4:], "ID_new"]
    write_labels(run.submission, ICH, ids, np.full((len(ids), 6), 0.5))
    shown = ", ".join(sorted(run.table.image_ids[:4])[:3])
    message = rf"submission\.csv: 4 images of \S+truth\.csv missing \({shown}, \.\.\.\) and 1 image not in .*\(ID_new\)"
    with pytest.raises(BadInputError, match=message):
        evaluate(run.submission, run.truth, task=ICH)


def test_an_image_without_all_labels_is_refused(run: MadeUpRun) -> None:
    lines = run.submission.read_text().splitlines(keepends=True)
    run.submission.write_text("".join(lines[:1] + lines[2:]))
    with pytest.raises(BadInputError, match=r"submission\.csv: 1 row missing, the first is ID_\w+_epidural"):
        evaluate(run.submission, run.truth, task=ICH)


def test_swapped_files_are_noticed(run: MadeUpRun) -> None:
    with pytest.raises(BadInputError, match=r"but truth is 0 or 1\. Give the submission first"):
        evaluate(run.truth, run.submission, task=ICH)


@pytest.mark.parametrize("value", ["1.2", "-0.1", "nan"])
def test_a_probability_outside_0_1_is_refused(run: MadeUpRun, value: str) -> None:
    lines = run.submission.read_text().splitlines()
    lines[3] = lines[3].split(",")[0] + "," + value
    run.submission.write_text("\n".join(lines))
    with pytest.raises(BadInputError, match=rf"line 4: Label of .* is '{value}'"):
        evaluate(run.submission, run.truth, task=ICH)


def test_a_table_of_other_images_or_other_predictions_is_refused(run: MadeUpRun) -> None:
    ids = ["ID_other", *run.table.image_ids[1:]]
    write_predictions(run.predictions, ICH, replace(run.table, image_ids=ids))
    with pytest.raises(BadInputError, match=r"predictions\.parquet: 1 image of \S+submission\.csv missing"):
        evaluate(run.submission, run.truth, task=ICH)
    write_predictions(run.predictions, ICH, replace(run.table, probability=run.table.probability * 0.9))
    with pytest.raises(BadInputError, match="belong to different predictions"):
        evaluate(run.submission, run.truth, task=ICH)


def test_a_table_asked_for_must_exist(run: MadeUpRun, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="no such predictions table"):
        evaluate(run.submission, run.truth, task=ICH, predictions=tmp_path / "none.parquet")


def test_the_series_head_is_scored_beside_the_highest_slice(run: MadeUpRun) -> None:
    before = evaluate(run.submission, run.truth, task=ICH)
    table = add_series_table(run, seed=5)
    result = evaluate(run.submission, run.truth, task=ICH)
    assert result.layout is not None
    assert result.series is not None
    assert result.series_head is not None
    rows = [table.series_keys.index(key) for key in result.layout.series_keys]
    np.testing.assert_array_equal(result.series_head.probability, table.probability[rows])
    np.testing.assert_array_equal(result.series_head.truth, result.series.truth)
    for label, scores in enumerate(result.series_head.scores):
        truth, probability = result.series.truth[:, label], table.probability[rows, label]
        assert scores.n == 30
        assert scores.auc.value == pytest.approx(judge.roc_auc_score(truth, probability), **CLOSE)
        assert scores.log_loss.value == pytest.approx(judge.log_loss(truth, probability, labels=[0, 1]), **CLOSE)
        assert scores.auc.low <= scores.auc.value <= scores.auc.high
    content = result.to_dict()
    assert {row["level"] for row in content["labels"]} == {"slice", "series", "series_head"}
    place = series_path(run.submission)
    assert content.pop("series_table") == {"name": place.name, "sha256": sha256_of(place)}
    content["labels"] = [row for row in content["labels"] if row["level"] != "series_head"]
    assert content == before.to_dict()  # all else is as without it
    lines = summary(result).splitlines()
    highest, head = result.series.scores[5].auc, result.series_head.scores[5].auc
    assert lines[2].startswith(f"AUC of 'any' over series, by their highest slice: {highest.value:.3f} [")
    assert lines[3].startswith(f"AUC of 'any' over series, by the series head: {head.value:.3f} [")
    assert len(lines) == 4


def test_a_series_table_of_other_series_is_refused(run: MadeUpRun) -> None:
    table = add_series_table(run, seed=5)
    write_series(series_path(run.submission), ICH, replace(table, n_slices=table.n_slices + 1))
    with pytest.raises(BadInputError, match=r"series\.parquet: does not hold the series of the predictions table"):
        evaluate(run.submission, run.truth, task=ICH)


def test_a_series_table_alone_says_nothing(run: MadeUpRun) -> None:
    """Without a predictions table the truth of a series is not known."""
    add_series_table(run, seed=5)
    run.predictions.unlink()
    assert evaluate(run.submission, run.truth, task=ICH).series_head is None
