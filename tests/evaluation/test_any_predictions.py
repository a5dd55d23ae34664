"""Predictions by any program: series from a store or a CSV, images and labels that one of the files lacks."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from made_up import MadeUpRun, add_series_table, made_up_run
from pages import assert_numbers_are_those_of, parsed, pictures
from sklearn import metrics as judge

from rsna_e2e.cli import main
from rsna_e2e.core.errors import BadInputError
from rsna_e2e.evaluation.evaluate import evaluate
from rsna_e2e.evaluation.report import write_report
from rsna_e2e.evaluation.summary import summary
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.tasks.labels import write_labels

CLOSE = {"rel": 1e-9}  # float64, sums in another order
SUBDURAL, ANY = 4, 5


@pytest.fixture
def run(tmp_path: Path) -> MadeUpRun:
    return made_up_run(tmp_path, n_series=30, seed=3)


def store_of(run: MadeUpRun, **changes: np.ndarray) -> SimpleNamespace:
    """What evaluate asks of a store, which holds the images of a run in an order of its own, and one more."""
    order = np.random.default_rng(1).permutation(len(run.table.image_ids))
    index = {
        "image_id": np.array([*np.array(run.table.image_ids)[order], "ID_more"], dtype=object),
        "series_key": np.array([*np.array(run.table.series_keys)[order], "more"], dtype=object),
        "patient_id": np.array([*np.array(run.table.series_keys)[order], "more"], dtype=object),
        "slice_index": np.append(run.table.slice_index[order], 0).astype(np.int32),
        "position_mm": np.append(run.table.position_mm[order], 0.0),
    }
    return SimpleNamespace(path=Path("store"), index=index | changes)


def write_map(run: MadeUpRun, rows: Callable[[list[str]], list[str]] = lambda rows: rows) -> Path:
    """Write which series each image is in, with a column that nobody asked for; `rows` may change its lines."""
    pairs = zip(run.table.image_ids, run.table.series_keys, strict=True)
    lines = ["scanner,series,ID", *(f"A,{key},{image_id}" for image_id, key in pairs)]
    path = run.submission.with_name("map.csv")
    path.write_text("\n".join(rows(lines)), encoding="utf-8-sig")
    return path


def write_long(path: Path, run: MadeUpRun, values: np.ndarray, labels: list[int]) -> None:
    """Write a CSV of these labels alone, as another program would."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["ID", "Label"])
        for image_id, row in zip(run.table.image_ids, values.tolist(), strict=True):
            writer.writerows([f"{image_id}_{ICH.slices.names[label]}", row[label]] for label in labels)


def test_series_by_a_store_give_the_numbers_of_the_predictions_table(run: MadeUpRun) -> None:
    expected = evaluate(run.submission, run.truth, task=ICH)
    run.predictions.unlink()
    found = evaluate(run.submission, run.truth, task=ICH, store=store_of(run))  # type: ignore[arg-type]
    assert found.to_dict() == expected.to_dict() | {"resampled_unit": "patient"}  # each with one series
    assert found.layout is not None
    assert expected.layout is not None
    for series in range(30):
        slices = found.layout.slices_of(series)
        np.testing.assert_array_equal(slices, expected.layout.slices_of(series))
        np.testing.assert_array_equal(found.layout.position_mm[slices], np.arange(len(slices)) * 5.0 - 40)


def test_a_store_says_whose_series_are_resampled_together(run: MadeUpRun) -> None:
    """Three series of each patient, as files of one and the same: ten patients, as different as the series were."""
    plain = store_of(run)
    patients = np.array([f"p{int(key[7:10]) // 3}" if key != "more" else "" for key in plain.index["series_key"]])
    found = evaluate(run.submission, run.truth, task=ICH, store=store_of(run, patient_id=patients))  # type: ignore[arg-type]
    assert found.to_dict()["resampled_unit"] == "patient"
    assert found.by_unit.draws.shape == (2000, 10)
    assert found.layout is not None
    of_series = {f"p{int(key[7:10]) // 3}" for key in found.layout.series_keys}
    assert len(of_series) == 10
    for series, key in enumerate(found.layout.series_keys):  # sorted, as patients are
        assert sorted(of_series)[found.by_unit.cluster[series]] == f"p{int(key[7:10]) // 3}"
    assert "10 patients are few" in summary(found)


def test_series_by_a_csv_give_the_numbers_of_the_predictions_table(run: MadeUpRun) -> None:
    expected = evaluate(run.submission, run.truth, task=ICH).to_dict()
    run.predictions.unlink()
    found = evaluate(run.submission, run.truth, task=ICH, series_map=write_map(run)).to_dict()
    assert found.pop("series_map")["name"] == "map.csv"
    assert found == expected


@pytest.mark.parametrize("header", ["scanner,Series,id", " SERIES,series,ID"])
def test_names_of_its_columns_are_read_as_those_of_labels(run: MadeUpRun, header: str) -> None:
    expected = evaluate(run.submission, run.truth, task=ICH, series_map=write_map(run)).to_dict()["n_series"]
    found = evaluate(run.submission, run.truth, task=ICH, series_map=write_map(run, lambda rows: [header, *rows[1:]]))
    assert found.to_dict()["n_series"] == expected > 1


def test_a_csv_that_is_given_counts_more_than_a_table_that_lies_there(run: MadeUpRun) -> None:
    one = write_map(run, lambda rows: [rows[0], *(f"A,one,{row.rsplit(',', 1)[1]}" for row in rows[1:])])
    assert evaluate(run.submission, run.truth, task=ICH, series_map=one).to_dict()["n_series"] == 1


def test_the_page_says_that_positions_are_not_known(run: MadeUpRun, tmp_path: Path) -> None:
    page = write_report(evaluate(run.submission, run.truth, task=ICH, series_map=write_map(run)), out=tmp_path / "out")
    text = page.read_text()
    axes = [picture for picture in pictures(text) if b"slices in the order of their image ids" in picture]
    assert len(axes) == text.count('class="card example"') > 0
    assert b"along the slice normal" not in b"".join(pictures(text))
    assert "map.csv <code>" in text
    assert "patient0" not in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[:-2], r"map\.csv: lacks 2 of the \d+ images to score \(ID_\w+, ID_\w+\); its first is ID_"),
        (
            lambda rows: [*rows, rows[-1].replace("series", "other")],
            r"map\.csv, line \d+: image 'ID_\w+' is in another",
        ),
        (lambda rows: [*rows, "A,,ID_x"], r"map\.csv, line \d+: no series of image 'ID_x'"),
        (lambda rows: ["a,b,ID", *rows[1:]], r"map\.csv: its columns are a, b, ID\. Expected the columns ID,series"),
        (lambda rows: [], r"map\.csv: its columns are none\."),
    ],
)
def test_a_csv_that_does_not_say_it_is_refused(
    run: MadeUpRun, change: Callable[[list[str]], list[str]], message: str
) -> None:
    with pytest.raises(BadInputError, match=message):
        evaluate(run.submission, run.truth, task=ICH, series_map=write_map(run, change))


def test_a_csv_that_is_missing_or_no_text_is_refused(run: MadeUpRun, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"none\.csv: no such file"):
        evaluate(run.submission, run.truth, task=ICH, series_map=tmp_path / "none.csv")
    (tmp_path / "map.csv").write_bytes(b"ID,series\n\xff,a\n")
    with pytest.raises(BadInputError, match=r"map\.csv: is not UTF-8 \(line 2\)"):
        evaluate(run.submission, run.truth, task=ICH, series_map=tmp_path / "map.csv")


def test_a_store_of_other_images_is_refused(run: MadeUpRun) -> None:
    run.predictions.unlink()
    lacking = store_of(run)
    first = sorted(run.table.image_ids)[0]
    lacking.index["image_id"][lacking.index["image_id"] == first] = "ID_other"
    with pytest.raises(BadInputError, match=rf"store: lacks 1 of the \d+ images to score \({first}\); its first is ID"):
        evaluate(run.submission, run.truth, task=ICH, store=lacking)  # type: ignore[arg-type]
    doubled = store_of(run)
    doubled.index["image_id"][-1] = first
    with pytest.raises(BadInputError, match=rf"store: several slices have the image id {first}\."):
        evaluate(run.submission, run.truth, task=ICH, store=doubled)  # type: ignore[arg-type]


def test_images_in_one_file_alone_are_refused_with_the_way_out(run: MadeUpRun) -> None:
    ids = run.table.image_ids
    write_labels(run.submission, ICH, [*ids[5:], "ID_new"], np.full((len(ids) - 4, 6), 0.5))
    message = (
        rf"5 images of \S+ missing \(ID_\w+, ID_\w+, ID_\w+, \.\.\.\) and 1 image not in \S+ \(ID_new\)\. To score the "
        rf"{len(ids) - 5} that are in both files: --allow-missing$"
    )
    with pytest.raises(BadInputError, match=message):
        evaluate(run.submission, run.truth, task=ICH)


def test_files_of_other_images_altogether_are_refused_even_so(run: MadeUpRun) -> None:
    write_labels(run.submission, ICH, ["scan1"], np.full((1, 6), 0.5))
    message = r"No image is in both files: the first of this is scan1, of the other ID_\w+\. IDs are <image>_<label>$"
    for allow_missing in (False, True):
        with pytest.raises(BadInputError, match=message):
            evaluate(run.submission, run.truth, task=ICH, allow_missing=allow_missing)


def test_what_both_files_have_is_scored_and_the_rest_is_said(run: MadeUpRun, tmp_path: Path) -> None:
    """As if both files had been cut by hand to the images of the first nineteen series and a half."""
    add_series_table(run, seed=5)
    keys = np.array(run.table.series_keys)
    chosen = sorted(set(keys))[:20]
    rows = np.flatnonzero(np.isin(keys, chosen))
    rows = rows[(keys[rows] != chosen[-1]) | (run.table.slice_index[rows] < 10)]
    ids = [run.table.image_ids[row] for row in rows]
    n_left = len(keys) - len(rows)
    write_labels(run.truth, ICH, [*ids, "ID_more"], np.vstack([run.truth_values[rows], np.zeros((1, 6))]))
    result = evaluate(run.submission, run.truth, task=ICH, allow_missing=True)
    (tmp_path / "cut").mkdir()
    write_labels(tmp_path / "cut" / "submission.csv", ICH, ids, run.table.probability[rows])
    write_labels(tmp_path / "cut" / "truth.csv", ICH, ids, run.truth_values[rows])
    expected = evaluate(
        tmp_path / "cut" / "submission.csv", tmp_path / "cut" / "truth.csv", task=ICH, series_map=write_map(run)
    )
    assert result.slices.scores == expected.slices.scores
    assert expected.series is not None
    assert result.series is not None
    assert result.series.scores == expected.series.scores
    assert result.series_head is not None
    assert len(result.series_head.truth) == 20
    content = result.to_dict()
    assert content["left_out"] == {"labels": (), "n_not_predicted": 1, "n_without_truth": n_left}
    said = f"images of the truth that are not predicted (1); predicted images that the truth does not have ({n_left})"
    assert summary(result).splitlines()[-1] == f"left out: {said}"
    assert f"<strong>Left out:</strong> {said}." in write_report(result, out=tmp_path / "out").read_text()
    assert "left_out" not in expected.to_dict()


@pytest.mark.parametrize("lacking", ["truth", "submission"])
def test_labels_that_a_file_lacks_are_left_out(run: MadeUpRun, tmp_path: Path, lacking: str) -> None:
    if lacking == "truth":
        write_long(run.truth, run, run.truth_values, [ANY, SUBDURAL])
    else:
        write_long(run.submission, run, run.table.probability, [ANY, SUBDURAL])
    result = evaluate(run.submission, run.truth, task=ICH)
    losses = [judge.log_loss(run.truth_values[:, label], run.table.probability[:, label]) for label in (SUBDURAL, ANY)]
    assert result.weighted_log_loss.value == pytest.approx((losses[0] + 2 * losses[1]) / 3, **CLOSE)
    assert [scores.label for scores in result.slices.scores] == ["subdural", "any"]
    lines = summary(result).splitlines()
    assert lines[0].startswith(f"weighted log loss of subdural, any alone {result.weighted_log_loss.value:.4f} [")
    assert lines[1].startswith("AUC of 'any' over slices: ")
    missing = "epidural, intraparenchymal, intraventricular, subarachnoid"
    assert lines[-1] == f"left out: labels that only one of the files has, or none ({missing})"
    page = write_report(result, out=tmp_path / "out").read_text()
    content = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert content["left_out"]["labels"] == missing.split(", ")
    assert content["label_weights"] == {"subdural": 1.0, "any": 2.0}
    assert_numbers_are_those_of(content, parsed(page).numbers)
    assert "of subdural, any alone" in page
    assert "the competition's score" not in page
    assert "score of the RSNA 2019 competition" not in page


def test_without_the_or_of_the_labels_the_first_is_at_the_head(run: MadeUpRun, tmp_path: Path) -> None:
    write_long(run.truth, run, run.truth_values, [SUBDURAL, 1])
    result = evaluate(run.submission, run.truth, task=ICH)
    expected = judge.roc_auc_score(run.truth_values[:, 1], run.table.probability[:, 1])
    assert summary(result).splitlines()[1].startswith(f"AUC of 'intraparenchymal' over slices: {expected:.3f} [")
    assert "highest p(intraparenchymal)" in write_report(result, out=tmp_path / "out").read_text()


def test_the_series_head_is_scored_on_the_labels_that_are_left(run: MadeUpRun) -> None:
    table = add_series_table(run, seed=5)
    write_long(run.truth, run, run.truth_values, [ANY])
    result = evaluate(run.submission, run.truth, task=ICH)
    assert result.series_head is not None
    assert result.layout is not None
    rows = [table.series_keys.index(key) for key in result.layout.series_keys]
    np.testing.assert_array_equal(result.series_head.probability, table.probability[rows][:, [ANY]])


def test_a_table_of_other_predictions_is_noticed_by_the_labels_that_are_there(run: MadeUpRun) -> None:
    write_long(run.submission, run, run.table.probability * 0.9, [ANY])
    with pytest.raises(BadInputError, match=r"predictions\.parquet: probabilities differ .* --store$"):
        evaluate(run.submission, run.truth, task=ICH)


def test_a_label_of_some_images_alone_is_refused(run: MadeUpRun) -> None:
    write_long(run.truth, run, run.truth_values, [ANY])
    with run.truth.open("a") as file:
        file.write(f"{run.table.image_ids[0]}_epidural,0\n")
    n = len(run.table.image_ids) - 1
    with pytest.raises(BadInputError, match=rf"truth\.csv: {n} rows missing, the first is ID_\w+_epidural\. A label"):
        evaluate(run.submission, run.truth, task=ICH)


def test_files_without_a_common_label_are_refused(run: MadeUpRun) -> None:
    write_long(run.truth, run, run.truth_values, [0])
    write_long(run.submission, run, run.table.probability, [ANY])
    with pytest.raises(BadInputError, match=r"submission\.csv: has no label that \S+truth\.csv has too"):
        evaluate(run.submission, run.truth, task=ICH)


def test_without_a_folder_the_scores_are_printed_alone(
    run: MadeUpRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run.predictions.unlink()
    before = sorted(tmp_path.iterdir())
    assert main(["evaluate", str(run.submission), str(run.truth)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:-1] == summary(evaluate(run.submission, run.truth, task=ICH)).splitlines()
    assert lines[-1].startswith("no intervals and no scores of series: give --store STORE or --series CSV")
    assert sorted(tmp_path.iterdir()) == before


def test_a_store_and_a_csv_at_once_are_refused(
    run: MadeUpRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["evaluate", str(run.submission), str(run.truth), "--store", str(tmp_path), "--series", "map.csv"])
    assert end.value.code == 2
    assert "--series: not allowed with argument --store" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("n_series", "said"),
    [
        (1, "one series alone: nothing is known of how the scores vary, so there are no intervals"),
        (19, "19 series are few: the true intervals are wider than these"),
        (20, ""),
    ],
)
def test_few_series_are_said_and_one_gives_no_interval(tmp_path: Path, n_series: int, said: str) -> None:
    """Resamples of one series are all the same: their interval would have no width."""
    run = made_up_run(tmp_path, n_series=n_series, seed=3)
    found = evaluate(run.submission, run.truth, task=ICH)
    page = write_report(found, out=tmp_path / "report").read_text()
    assert found.few_series == said
    assert said in summary(found)
    assert (said[4:] in page) is True
    metrics = found.to_dict()
    assert (metrics["n_bootstrap"], metrics["weighted_log_loss"]["low"] is None) == (
        (0, True) if n_series == 1 else (2000, False)
    )
    assert ('<span class="interval">' in page) == (n_series > 1)
    assert 'interval">[<span' not in page  # an interval has two ends, or is not there
