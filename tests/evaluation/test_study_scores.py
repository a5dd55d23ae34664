"""Evaluation of a task whose studies have labels of their own: numbers by plain Python, and what is refused."""

import csv
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_up_studies import MadeUpStudies, made_up_studies, write_rows
from sklearn import metrics as judge

from rsna_e2e.cli import main
from rsna_e2e.core.errors import BadInputError
from rsna_e2e.evaluation.evaluate import evaluate
from rsna_e2e.evaluation.scores import Evaluation
from rsna_e2e.evaluation.summary import summary
from rsna_e2e.tasks.pe import PE

CLOSE = {"rel": 1e-9}  # float64, sums in another order

# The weights of the competition's page, by row of the submission
IMAGE_WEIGHT = 0.07361963
WEIGHTS = {
    "negative_exam_for_pe": 0.0736196319,
    "indeterminate": 0.09202453988,
    "chronic_pe": 0.1042944785,
    "acute_and_chronic_pe": 0.1042944785,
    "central_pe": 0.1877300613,
    "leftsided_pe": 0.06257668712,
    "rightsided_pe": 0.06257668712,
    "rv_lv_ratio_gte_1": 0.2346625767,
    "rv_lv_ratio_lt_1": 0.0782208589,
}


@pytest.fixture
def made(tmp_path: Path) -> MadeUpStudies:
    return made_up_studies(tmp_path, n_studies=30, seed=3)


def scored(made: MadeUpStudies, **settings: object) -> Evaluation:
    return evaluate(made.submission, made.truth_file, task=PE, series_map=made.map, **settings)  # type: ignore[arg-type]


def values_of(path: Path) -> dict[str, float]:
    with path.open() as file:
        return {row["id"]: float(row["label"]) for row in csv.DictReader(file)}


def plain_score(made: MadeUpStudies) -> float:
    """The score from the files, row by row."""
    predicted, truth = values_of(made.submission), values_of(made.truth_file)
    with made.map.open() as file:
        study_of = {row["ID"]: row["series"] for row in csv.DictReader(file)}
    losses, weights = [], []
    for row_id, label in truth.items():
        if row_id in study_of:
            images = [image for image, study in study_of.items() if study == study_of[row_id]]
            weight = IMAGE_WEIGHT * sum(truth[image] for image in images) / len(images)
        else:
            weight = WEIGHTS[row_id.split("_", 1)[1]]
        p = predicted[row_id]
        losses.append(-weight * math.log(p if label else 1 - p))
        weights.append(weight)
    return math.fsum(losses) / math.fsum(weights)


def test_the_score_is_that_of_plain_python(made: MadeUpStudies) -> None:
    result = scored(made)
    assert result.weighted_log_loss.value == pytest.approx(plain_score(made), **CLOSE)
    assert result.weighted_log_loss.low < result.weighted_log_loss.value < result.weighted_log_loss.high
    ratio = result.weighted_log_loss.value / result.constant_weighted_log_loss
    assert result.ratio_to_constant.value == pytest.approx(ratio, **CLOSE)
    assert 0 < ratio < 1


def test_a_coin_toss_scores_the_logarithm_of_2(made: MadeUpStudies) -> None:
    made.write(np.full_like(made.probability, 0.5), np.full_like(made.study_probability, 0.5))
    result = scored(made)
    assert result.weighted_log_loss.value == pytest.approx(math.log(2), **CLOSE)
    assert result.weighted_log_loss.high == pytest.approx(math.log(2), **CLOSE)  # every resample says so


def test_no_constant_is_below_the_constant(made: MadeUpStudies) -> None:
    constant = scored(made).constant_weighted_log_loss
    prevalence = np.broadcast_to(made.study_truth.mean(axis=0), made.study_truth.shape)
    found = []
    for of_slices in np.linspace(0.1, 0.4, 13):
        made.write(np.full_like(made.probability, of_slices), prevalence)
        found.append(scored(made, n_bootstrap=1).weighted_log_loss.value)
    assert constant == pytest.approx(min(found), rel=1e-3)
    assert constant < min(found)


def test_each_label_of_both_levels_has_its_scores(made: MadeUpStudies) -> None:
    content = scored(made).to_dict()
    rows = {row["label"]: row for row in content["labels"]}
    assert list(rows) == [*PE.slices.names, *PE.series.names]
    assert {row["level"] for row in rows.values()} == {"slice", "study"}
    truths = {PE.headline: made.truth[:, 0], **dict(zip(PE.series.names, made.study_truth.T, strict=True))}
    guesses = {PE.headline: made.probability[:, 0], **dict(zip(PE.series.names, made.study_probability.T, strict=True))}
    for name, row in rows.items():
        truth, probability = truths[name], guesses[name]
        tn, fp, fn, tp = judge.confusion_matrix(truth, probability >= 0.5, labels=[0, 1]).ravel().tolist()
        counts = [row[f"true_{kind}"] for kind in ("positives", "negatives")]
        counts += [row[f"false_{kind}"] for kind in ("positives", "negatives")]
        assert counts == [tp, tn, fp, fn]
        assert row["f1"] == pytest.approx(judge.f1_score(truth, probability >= 0.5), **CLOSE)
        assert row["auc"]["value"] == pytest.approx(judge.roc_auc_score(truth, probability), **CLOSE)
        assert row["log_loss"]["value"] == pytest.approx(judge.log_loss(truth, probability, labels=[0, 1]), **CLOSE)
    assert content["n_studies"] == 30
    assert content["resampled_unit"] == "study"
    assert content["label_weights"] == {PE.headline: IMAGE_WEIGHT} | WEIGHTS


def test_unknown_labels_of_studies_count_nowhere(made: MadeUpStudies) -> None:
    unknown = replace(made, study_truth=np.where(np.eye(30, 9) == 1, np.nan, made.study_truth))
    unknown.write()
    result = scored(unknown)
    assert result.weighted_log_loss.value == pytest.approx(plain_score(unknown), **CLOSE)
    assert result.studies is not None
    assert [scores.n for scores in result.studies.scores] == [29] * 9


def test_patients_are_resampled_where_a_store_says_them(made: MadeUpStudies) -> None:
    pairs = [study // 2 for study in range(30)]
    result = evaluate(made.submission, made.truth_file, task=PE, store=made.store(pairs))  # type: ignore[arg-type]
    assert result.weighted_log_loss.value == pytest.approx(plain_score(made), **CLOSE)
    assert result.to_dict()["resampled_unit"] == "patient"
    assert summary(result).splitlines()[-1] == "15 patients are few: the true intervals are wider than these"
    one = evaluate(made.submission, made.truth_file, task=PE, store=made.store([0] * 30))  # type: ignore[arg-type]
    assert math.isnan(one.weighted_log_loss.low)
    assert one.few_series.startswith("one patient alone: ")


def test_the_score_before_and_after_projection(made: MadeUpStudies) -> None:
    slices, studies = made.projected()
    made.write(slices, studies)
    of_projected = scored(made).weighted_log_loss.value
    made.write()
    found = scored(made).consistency
    assert found is not None
    assert (found.before.value, found.after.value) == pytest.approx((plain_score(made), of_projected), **CLOSE)
    assert found.n_before > found.n_after == found.n_truth == 0
    moved = np.unique(made.study_of_slice[(slices != made.probability)[:, 0]]).tolist()
    moved += np.flatnonzero((studies != made.study_probability).any(axis=1)).tolist()
    assert found.n_before == len(set(moved))


def test_tables_hold_what_the_model_said_before_projection(made: MadeUpStudies) -> None:
    raw_score = plain_score(made)
    made.write_tables()
    made.write(*made.projected())
    result = evaluate(made.submission, made.truth_file, task=PE)
    assert result.weighted_log_loss.value == pytest.approx(plain_score(made), **CLOSE)
    assert result.consistency is not None
    assert result.consistency.before.value == pytest.approx(raw_score, **CLOSE)
    assert result.consistency.after == result.weighted_log_loss
    assert result.to_dict()["series_table"]["name"] == "submission.csv.series.parquet"
    made.write(*(np.clip(part + 0.01, 0, 1) for part in made.projected()))
    with pytest.raises(BadInputError, match=r"predictions\.parquet: probabilities differ .* up to 0\.01 \("):
        evaluate(made.submission, made.truth_file, task=PE)


def test_a_study_of_several_series_is_one_study(made: MadeUpStudies) -> None:
    places = np.concatenate([np.arange(n) for n in np.bincount(made.study_of_slice)])
    several = replace(made, series=2 * made.study_of_slice + (places >= 10))
    several.write_tables()
    result = evaluate(made.submission, made.truth_file, task=PE)
    assert result.weighted_log_loss.value == pytest.approx(plain_score(made), **CLOSE)
    assert result.layout is not None
    assert result.layout.position_mm is None
    ids = np.array(result.image_ids)
    for study, key in enumerate(result.layout.series_keys):
        in_order = [image for image in made.image_ids if made.study_ids[int(image.split(".")[2])] == key]
        assert ids[result.layout.slices_of(study)].tolist() == in_order


def test_truth_that_breaks_the_rules_is_counted_and_shown(made: MadeUpStudies) -> None:
    truth = made.study_truth.copy()
    truth[:2, PE.series.index("indeterminate")] = [1, 1]  # the first is so already, the second has an embolus
    truth[3, PE.series.index("negative_exam_for_pe")] = 1
    replace(made, study_truth=truth).write()
    result = scored(made)
    assert result.consistency is not None
    assert result.consistency.n_truth == 2
    assert "the truth breaks them in 2 of 30 studies" in summary(result).splitlines()


def test_without_the_studies_of_images_there_is_no_score(made: MadeUpStudies) -> None:
    with pytest.raises(BadInputError, match=r"^submission\.csv: the score of the task pe needs the study of each"):
        evaluate(made.submission, made.truth_file, task=PE)


def test_a_map_may_have_the_columns_of_a_label_table(made: MadeUpStudies) -> None:
    expected = scored(made)
    lines = made.map.read_text().replace("ID,series", "SOPInstanceUID,StudyInstanceUID,SeriesInstanceUID").splitlines()
    made.map.write_text("\n".join([lines[0], *(f"{line},{row}" for row, line in enumerate(lines[1:]))]))
    assert scored(made).weighted_log_loss == expected.weighted_log_loss
    made.map.write_text(made.map.read_text().replace("StudyInstanceUID", "study"))
    with pytest.raises(BadInputError, match=r"map\.csv: its columns are SOPInstanceUID, study, SeriesInstanceUID"):
        scored(made)


def test_labels_of_studies_that_a_file_lacks_are_left_out(made: MadeUpStudies) -> None:
    truth = made.study_truth.copy()
    truth[:, PE.series.index("chronic_pe")] = np.nan
    replace(made, study_truth=truth).write()
    result = scored(made)
    assert result.left_out.labels == ("chronic_pe",)
    assert result.weighted_log_loss.value == pytest.approx(plain_score(made), **CLOSE)
    assert result.consistency is None  # the tree is of all labels
    assert summary(result).startswith("weighted log loss of pe_present_on_image, negative_exam_for_pe, indeterminate, ")


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        ("9.7_", r"submission\.csv: 1 study of \S*truth\.csv missing \(9\.7\)\. To score the 29 .*--allow-missing"),
        ("1.2.7.", r"submission\.csv: \d+ images of \S*truth\.csv missing .*--allow-missing"),
    ],
)
def test_studies_in_one_file_alone_are_refused_with_the_way_out(made: MadeUpStudies, gone: str, message: str) -> None:
    rows = made.rows(made.probability, made.study_probability)
    write_rows(made.submission, [row for row in rows if not row[0].startswith(gone)])
    with pytest.raises(BadInputError, match=message):
        scored(made)
    result = scored(made, allow_missing=True)
    assert result.layout is not None
    assert result.layout.series_keys == sorted(set(made.study_ids) - {"9.7"})
    assert result.left_out.n_studies == 1


def test_a_study_without_images_is_refused(made: MadeUpStudies) -> None:
    for path, slices, studies in (
        (made.submission, made.probability, made.study_probability),
        (made.truth_file, made.truth, made.study_truth),
    ):
        write_rows(path, [row for row in made.rows(slices, studies) if not row[0].startswith("1.2.7.")])
    with pytest.raises(BadInputError, match=r"truth\.csv: 1 study without images among those to score \(9\.7\)"):
        scored(made)
    assert scored(made, allow_missing=True).left_out.n_studies == 1


def test_the_command_knows_the_task_by_the_columns_of_the_submission(
    made: MadeUpStudies, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["evaluate", str(made.submission), str(made.truth_file), "--series", str(made.map)]
    assert main(words) == 0
    by_columns = capsys.readouterr().out
    assert f"weighted log loss {plain_score(made):.4f} [" in by_columns
    assert main([*words, "--task", "pe"]) == 0
    assert capsys.readouterr().out == by_columns
    assert main(["evaluate", "none.csv", *words[2:]]) == 3
    assert "none.csv: no such submission. Check the path" in capsys.readouterr().err
    (made.submission.parent / "empty.csv").touch()
    assert main(["evaluate", str(made.submission.parent / "empty.csv"), *words[2:]]) == 3
    assert "empty.csv: empty. Needed" in capsys.readouterr().err
    assert main([*words, "--task", "ich"]) == 3
    assert "Needed: ID,Label" in capsys.readouterr().err
