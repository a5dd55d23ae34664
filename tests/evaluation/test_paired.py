"""Two submissions against one truth: numbers as by the metrics alone, files, and what is refused."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest
from made_up import MadeUpRun, made_up_run

from rsna_e2e.cli import main
from rsna_e2e.core.errors import BadInputError
from rsna_e2e.core.files import sha256_of
from rsna_e2e.core.records import Float64Array
from rsna_e2e.evaluation.evaluate import evaluate
from rsna_e2e.evaluation.paired import Paired, paired
from rsna_e2e.evaluation.scores import Evaluation
from rsna_e2e.evaluation.summary import paired_summary
from rsna_e2e.inference.predictions import predictions_path, write_predictions
from rsna_e2e.tasks import metrics
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.tasks.labels import write_labels
from rsna_e2e.tasks.metrics.delong import paired_delong
from rsna_e2e.tasks.metrics.permute import compare_ratios, draw_swaps, permutation_p

ANY = ICH.headline_index
EXPANDED = NormalDist().cdf(-2.0686576 * math.sqrt(24 / 23))  # Student's quantile of 23 degrees of freedom


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> MadeUpRun:
    return made_up_run(tmp_path_factory.mktemp("run"), n_series=24, seed=3, skill=1.2)


def other(run: MadeUpRun, probability: Float64Array) -> Path:
    """Another submission of the same images, with its table."""
    path = run.submission.with_name("other.csv")
    write_labels(path, ICH, run.table.image_ids, probability, decimals=9)
    write_predictions(predictions_path(path), ICH, replace(run.table, probability=probability))
    return path


def noisy(run: MadeUpRun) -> Float64Array:
    noise = np.random.default_rng(0).random(run.table.probability.shape)
    mixed: Float64Array = np.round(0.6 * run.table.probability + 0.4 * noise, 6)
    return mixed


@pytest.fixture(scope="module")
def both(run: MadeUpRun) -> tuple[Evaluation, Evaluation]:
    first, second = (
        evaluate(path, run.truth, task=ICH, n_bootstrap=100) for path in (run.submission, other(run, noisy(run)))
    )
    return first, second


@pytest.fixture(scope="module")
def found(both: tuple[Evaluation, Evaluation]) -> Paired:
    return paired(*both, n_permutations=99)


def test_numbers_of_both_are_those_of_their_evaluations(found: Paired, both: tuple[Evaluation, Evaluation]) -> None:
    first, second = both
    score = found.weighted_log_loss
    assert (score.first, score.second) == (first.weighted_log_loss.value, second.weighted_log_loss.value)
    assert [(label.level, label.label) for label in found.labels] == [
        (level, name) for level in ("slice", "series") for name in ICH.slices.names
    ]
    for label in found.labels:
        of_both = [
            next(scores for scores in one.levels[label.level].scores if scores.label == label.label) for one in both
        ]
        assert [label.auc.first, label.auc.second] == [scores.auc.value for scores in of_both]
        expected = [scores.average_precision.value for scores in of_both]
        assert [label.average_precision.first, label.average_precision.second] == expected
        assert label.auc.difference.value == pytest.approx(label.auc.first - label.auc.second)
        assert label.n_positive == of_both[0].n_positive
    any_label = found.labels[ANY]
    of_slices = first.slices.truth[:, ANY], first.slices.probability[:, ANY], second.slices.probability[:, ANY]
    assert any_label.delong == paired_delong(*of_slices)


def test_intervals_and_p_of_a_label_against_a_plain_loop(found: Paired, both: tuple[Evaluation, Evaluation]) -> None:
    """Of the AUC of `any` over series: resampled and swapped series by series, ranks in place of probabilities."""
    first, second = both
    assert first.series is not None
    assert second.series is not None
    truth = first.series.truth[:, ANY]
    scores = [one.probability[:, ANY] for one in (first.series, second.series)]
    differences = []
    for draw in first.by_unit.draws:
        rows = np.repeat(np.arange(len(truth)), draw)
        areas = [metrics.auc(truth[rows], score[rows]) for score in scores]
        differences.append(areas[0] - areas[1])
    label = found.labels[len(ICH.slices.names) + ANY]
    np.testing.assert_allclose(
        [label.auc.difference.low, label.auc.difference.high],
        np.nanquantile(differences, [EXPANDED, 1 - EXPANDED]),
        rtol=1e-6,
    )
    ranked = [
        np.searchsorted(np.sort(score), score) + np.searchsorted(np.sort(score), score, "right") for score in scores
    ]
    permuted = []
    for swap in draw_swaps(len(truth), n_permutations=99, seed=0):
        areas = [metrics.auc(truth, np.where(swap, *pair)) for pair in (ranked[::-1], ranked)]
        permuted.append(areas[0] - areas[1])
    observed = metrics.auc(truth, ranked[0]) - metrics.auc(truth, ranked[1])
    assert label.auc.p == (1 + (np.abs(permuted) >= abs(observed) - 1e-12).sum()) / 100


def test_a_submission_against_itself_differs_in_nothing(both: tuple[Evaluation, Evaluation]) -> None:
    same = paired(both[0], both[0], n_permutations=49)
    for one in (same.weighted_log_loss, *(label.auc for label in same.labels)):
        assert (one.difference.value, one.difference.low, one.difference.high, one.p) == (0, 0, 0, 1)
    assert {label.delong.p for label in same.labels} == {1}


def test_order_turns_the_sign_alone(found: Paired, both: tuple[Evaluation, Evaluation]) -> None:
    turned = paired(both[1], both[0], n_permutations=99)
    assert turned.weighted_log_loss.p == found.weighted_log_loss.p
    for one, back in zip(found.labels, turned.labels, strict=True):
        assert back.auc.p == one.auc.p
        assert back.auc.difference.low == pytest.approx(-one.auc.difference.high)


def test_a_ratio_by_hand() -> None:
    """Two clusters, losses 3 and 1 against 1 and 2, weights 1 and 3: swapping the first turns +2 into -2."""
    swaps = np.array([[False, False], [True, False], [False, True], [True, True]])
    draws = np.array([[2, 0], [0, 2]], dtype=np.int32)
    found = compare_ratios(np.array([3.0, 1]), np.array([1.0, 2]), np.array([1.0, 3]), np.array([0, 1]), draws, swaps)
    assert (found.first, found.second, found.difference.value) == (1, 0.75, 0.25)
    # sums of 1, -3, 3 and -1: all are as extreme as 1
    assert found.p == 1
    # resamples of either cluster alone, 2 and -1/3; of two, the interval is as wide as it can be
    assert (found.difference.low, found.difference.high) == pytest.approx((-1 / 3, 2))


def test_p_counts_what_is_as_extreme() -> None:
    assert permutation_p(0.2, np.array([0.1, -0.2, 0.3, 0.0])) == 3 / 5
    assert math.isnan(permutation_p(math.nan, np.zeros(3)))
    assert math.isnan(permutation_p(0.2, np.zeros(0)))


def test_what_differs_in_scale_alone_does_not_differ_in_ranks(
    run: MadeUpRun, both: tuple[Evaluation, Evaluation]
) -> None:
    lowered = evaluate(other(run, run.table.probability / 8), run.truth, task=ICH, n_bootstrap=20)
    found = paired(both[0], lowered, n_permutations=49)
    assert {label.auc.p for label in found.labels} == {1}
    assert found.weighted_log_loss.p < 0.05


def test_the_command_prints_a_table_and_writes_the_numbers(
    run: MadeUpRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [str(path) for path in (run.submission, other(run, noisy(run)), run.truth)]
    assert main(["evaluate", *paths, "--out", str(tmp_path / "out")]) == 0
    lines = capsys.readouterr().out.splitlines()
    content = json.loads((tmp_path / "out" / "paired.json").read_text())
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["paired.json"]
    assert content["second"] == {"name": "other.csv", "sha256": sha256_of(Path(paths[1]))}
    assert (content["n_bootstrap"], content["n_permutations"], content["n_clusters"]) == (2000, 2000, 24)
    assert content["labels"][ANY]["auc"]["p"] <= 0.01
    row = next(line for line in lines if line.startswith("any, slice"))
    auc = content["labels"][ANY]["auc"]
    assert f"{auc['first']:.3f} {auc['second']:.3f} {auc['difference']['value']:.3f} [" in " ".join(row.split())
    assert row.endswith(" <0.0001")
    assert "2000 resamples of 24 series; p: of 2000 permutations" in lines[-3]
    assert "slices as independent" in lines[-2]
    assert lines[-1] == f"numbers: {tmp_path / 'out' / 'paired.json'}"


def test_without_series_there_is_delong_alone(
    run: MadeUpRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (run.submission, run.truth):
        shutil.copy(path, tmp_path)
    write_labels(tmp_path / "b.csv", ICH, run.table.image_ids, noisy(run), decimals=6)
    assert main(["evaluate", *(str(tmp_path / name) for name in (run.submission.name, "b.csv", run.truth.name))]) == 0
    said = capsys.readouterr().out
    assert "give --store STORE or --series CSV" in said
    assert "permutations" not in said
    assert "[" not in said


@pytest.mark.parametrize(
    ("rows", "labels", "message"),
    [
        (slice(4, None), slice(None), "4 of the images to score are in one of them"),
        (slice(None), slice(1, None), "only one of them has the labels"),
    ],
)
def test_what_is_not_the_same_is_refused(
    run: MadeUpRun, tmp_path: Path, rows: slice, labels: slice, message: str, both: tuple[Evaluation, Evaluation]
) -> None:
    path, names = tmp_path / "part.csv", ICH.slices.names[labels]
    values = noisy(run)[rows][:, labels]
    lines = [
        f"{image}_{name},{value}"
        for image, row in zip(run.table.image_ids[rows], values, strict=True)
        for name, value in zip(names, row, strict=True)
    ]
    path.write_text("\n".join(["ID,Label", *lines]))
    part = evaluate(path, run.truth, task=ICH, n_bootstrap=2, allow_missing=True)
    with pytest.raises(BadInputError, match=message):
        paired(both[0], part)


def test_series_that_are_named_in_another_order_are_refused(
    run: MadeUpRun, both: tuple[Evaluation, Evaluation], tmp_path: Path
) -> None:
    names = {key: f"series{100 - number}" for number, key in enumerate(sorted(set(run.table.series_keys)))}
    rows = [f"{image},{names[key]}" for image, key in zip(run.table.image_ids, run.table.series_keys, strict=True)]
    (tmp_path / "map.csv").write_text("\n".join(["ID,series", *rows]))
    mapped = evaluate(run.submission, run.truth, task=ICH, n_bootstrap=2, series_map=tmp_path / "map.csv")
    with pytest.raises(BadInputError, match="are in different series, or name series differently"):
        paired(both[0], mapped)


def test_a_second_submission_that_is_not_there_is_refused(
    run: MadeUpRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "evaluate",
        str(run.submission),
        str(tmp_path / "none.csv"),
        str(run.truth),
        "--out",
        str(tmp_path / "out"),
    ]
    assert main(words) == 3
    assert "none.csv" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_summary_has_a_line_for_each_score(found: Paired) -> None:
    lines = paired_summary(found).splitlines()
    assert lines[0] == "A: submission.csv   B: other.csv   " + f"{found.n_slices} slices"
    assert lines[1].split() == ["A", "B", "A", "-", "B", "p", "p", "DeLong"]
    assert len(lines) == 3 + 2 * len(found.labels) + 2
