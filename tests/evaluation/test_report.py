"""The report: self-contained, true to metrics.json, whole or absent."""

import csv
import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from made_up import MadeUpRun, add_series_table, made_up_run
from pages import PageParser, assert_numbers_are_those_of, assert_self_contained, parsed

from rsna_e2e.core.errors import BadInputError
from rsna_e2e.core.records import Int16Image
from rsna_e2e.evaluation import report
from rsna_e2e.evaluation.evaluate import evaluate
from rsna_e2e.evaluation.report import write_report
from rsna_e2e.evaluation.report.examples import choose_examples, series_name
from rsna_e2e.evaluation.report.page import around_peak
from rsna_e2e.evaluation.report.thumbnails import Thumbnails
from rsna_e2e.evaluation.scores import Evaluation
from rsna_e2e.tasks.ich import ICH

TEMPLATES = Path(report.__file__).parent / "templates"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> MadeUpRun:
    return made_up_run(tmp_path_factory.mktemp("run"), n_series=40, seed=3, skill=1.6)


@pytest.fixture(scope="module")
def evaluation(run: MadeUpRun) -> Evaluation:
    return evaluate(run.submission, run.truth, task=ICH, n_bootstrap=50)


@pytest.fixture(scope="module")
def folder(evaluation: Evaluation, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(evaluation, out=tmp_path_factory.mktemp("report")).parent


@dataclass
class FakeStore:
    """What the report asks of a store: every slice is a ramp of 0 to 80 HU from left to right."""

    path: Path
    index: dict[str, np.ndarray]
    values: str = "hu"

    def read_slice(self, row: int) -> Int16Image:
        return np.tile(np.linspace(0, 80, 90).astype(np.int16), (60, 1))


def parse(folder: Path) -> PageParser:
    return parsed((folder / "report.html").read_text())


def test_nothing_is_loaded_from_outside(folder: Path) -> None:
    assert len(parse(folder).sources) >= 4
    assert_self_contained((folder / "report.html").read_text())


def test_every_number_on_the_page_is_that_of_metrics_json(folder: Path) -> None:
    content = json.loads((folder / "metrics.json").read_text())
    numbers = parse(folder).numbers
    assert len(numbers) > 150
    assert_numbers_are_those_of(content, numbers)
    paths = {path for path, _, _ in numbers}
    assert {"weighted_log_loss.value", "ratio_to_constant.value", "labels.5.auc.value", "labels.11.auc.low"} <= paths


def test_the_csv_holds_the_same_rows(folder: Path) -> None:
    content = json.loads((folder / "metrics.json").read_text())
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["level"], row["label"]) for row in rows] == [(r["level"], r["label"]) for r in content["labels"]]
    for row, expected in zip(rows, content["labels"], strict=True):
        assert float(row["auc_high"]) == expected["auc"]["high"]
        assert float(row["average_precision"]) == expected["average_precision"]


def test_the_page_names_no_patient_and_carries_the_notice(folder: Path) -> None:
    page = (folder / "report.html").read_text()
    assert "For research use only" in page
    assert "patient0" not in page
    assert str(folder.parent) not in page


def test_the_page_shows_the_series_head_beside_the_highest_slice(tmp_path: Path) -> None:
    run = made_up_run(tmp_path, n_series=40, seed=3, skill=1.6)
    table = add_series_table(run, seed=5)
    page = write_report(evaluate(run.submission, run.truth, task=ICH, n_bootstrap=50), out=tmp_path / "out")
    text, content = page.read_text(), json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert_self_contained(text)
    numbers = parsed(text).numbers
    assert_numbers_are_those_of(content, numbers)
    of_head = [i for i, row in enumerate(content["labels"]) if row["level"] == "series_head"]
    assert of_head == [12, 13, 14, 15, 16, 17]
    assert {f"labels.{i}.auc.value" for i in of_head} <= {path for path, _, _ in numbers}
    for words in ("<h3>Series, by their highest slice</h3>", "<h3>Series, by the series head</h3>"):
        assert words in text
    assert "submission.csv.series.parquet <code>" in text
    shown = dict(
        re.findall(r"<code>([0-9a-f]{8})</code>\s*<span[^>]*>highest p\(any\) [0-9.]+, series head ([0-9.]+)", text)
    )
    expected = {
        series_name(key): f"{value:.2f}" for key, value in zip(table.series_keys, table.probability[:, 5], strict=True)
    }
    assert len(shown) == text.count('class="card example"') > 0
    assert shown.items() <= expected.items()


def test_without_a_series_table_the_page_does_not_speak_of_the_head(folder: Path) -> None:
    page = (folder / "report.html").read_text()
    assert "series head" not in page.lower()
    assert "<h3>Series</h3>" in page
    assert "This is the score of the RSNA 2019 competition" in page


def test_equal_input_gives_equal_bytes(evaluation: Evaluation, folder: Path, tmp_path: Path) -> None:
    write_report(evaluation, out=tmp_path)
    for name in ("report.html", "metrics.json", "metrics.csv"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_without_series_the_page_says_why(run: MadeUpRun, tmp_path: Path) -> None:
    for source in (run.submission, run.truth):
        (tmp_path / source.name).write_bytes(source.read_bytes())
    page = write_report(evaluate(tmp_path / "submission.csv", tmp_path / "truth.csv", task=ICH), out=tmp_path / "out")
    text = page.read_text()
    assert "It is not known which series the slices belong to" in text
    assert "a <code>--store</code> or a <code>--series</code> CSV" in text
    assert "Example series" not in text
    assert "[" not in re.sub(r"<style>.*?</style>|data:[^\"]+|−\[y.*?ε\]", "", text, flags=re.S)


def test_examples_follow_the_rule(evaluation: Evaluation) -> None:
    assert evaluation.layout is not None
    assert evaluation.series is not None
    truth, score = evaluation.series.truth[:, 5], evaluation.series.probability[:, 5]
    examples = choose_examples(evaluation, evaluation.layout)
    by_outcome: dict[str, list[int]] = {}
    for example in examples:
        by_outcome.setdefault(example.outcome, []).append(example.series)
    missed = sorted(np.flatnonzero((truth == 1) & (score < 0.5)), key=lambda series: score[series])
    alarmed = sorted(np.flatnonzero((truth == 0) & (score >= 0.5)), key=lambda series: -score[series])
    assert by_outcome["false negative"] == missed[:2]
    assert by_outcome["false positive"] == alarmed[:2]
    assert len(by_outcome["true positive"]) == 2
    assert all(truth[series] == 1 and score[series] >= 0.5 for series in by_outcome["true positive"])
    assert len(by_outcome["true negative"]) == 1


def test_slices_around_the_peak_by_hand() -> None:
    zeros = np.zeros(10)
    np.testing.assert_array_equal(around_peak(zeros, np.eye(10)[4]), [2, 3, 4, 5, 6, 7])
    np.testing.assert_array_equal(around_peak(zeros, np.eye(10)[0]), [0, 1, 2, 3, 4, 5])
    np.testing.assert_array_equal(around_peak(zeros, np.eye(10)[9]), [4, 5, 6, 7, 8, 9])
    # a missed bleed at slice 8 is shown, not the peak at slice 1
    np.testing.assert_array_equal(around_peak(np.eye(10)[8], np.eye(10)[1]), [4, 5, 6, 7, 8, 9])
    np.testing.assert_array_equal(around_peak(np.zeros(3), np.zeros(3)), [0, 1, 2])


def test_series_names_are_8_hex_digits_and_never_identifiers() -> None:
    assert series_name("0123456789abcdef") == "01234567"
    for key in ("deadbeef", "0123456789abcdeg", "patient/study/series"):
        assert re.fullmatch("[0-9a-f]{8}", series_name(key))
        assert not key.startswith(series_name(key))


def test_images_come_from_the_store_by_id(evaluation: Evaluation, tmp_path: Path) -> None:
    store = FakeStore(tmp_path / "store", {"image_id": np.array(evaluation.image_ids)})
    page = write_report(evaluation, out=tmp_path / "out", store=store)  # type: ignore[arg-type]
    n_examples = page.read_text().count('class="card example"')
    assert page.read_text().count("data:image/jpeg;base64,") == 6 * n_examples
    assert page.stat().st_size < 3e6


def test_a_thumbnail_is_windowed_and_keeps_its_shape(tmp_path: Path) -> None:
    store = FakeStore(tmp_path, {"image_id": np.array(["ID_a"])})
    picture = Thumbnails(store, (40.0, 80.0)).picture("ID_a")  # type: ignore[arg-type]
    side = picture.shape[0]
    assert picture.shape == (side, side)
    np.testing.assert_array_equal(picture[: side // 6 - 1], 0)  # 60 rows of 90: a sixth above and below is empty
    ramp = picture[side // 2]
    expected = (np.arange(side) + 0.5) / side
    # the outermost pixels mix with the empty surroundings; 0.02 is 1.6 HU: a column's width, and rounding to whole HU
    np.testing.assert_allclose(ramp[1:-1], expected[1:-1], rtol=0, atol=0.02)


def test_a_store_without_the_images_leaves_nothing_behind(evaluation: Evaluation, tmp_path: Path) -> None:
    store = FakeStore(tmp_path / "store", {"image_id": np.array(["ID_other"])})
    with pytest.raises(BadInputError, match=r"store: holds no image ID_\w+\. Give the store"):
        write_report(evaluation, out=tmp_path / "out", store=store)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_a_file_in_place_of_the_folder_is_refused(evaluation: Evaluation, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    for out in (tmp_path / "out", tmp_path / "out" / "below"):
        with pytest.raises(BadInputError, match="out: is a file"):
            write_report(evaluation, out=out)
    assert (tmp_path / "out").read_text() == "mine"


@pytest.mark.parametrize("page", sorted(TEMPLATES.glob("*")), ids=lambda path: path.name)
def test_columns_shrink_with_a_narrow_screen(page: Path) -> None:
    """A track of 1fr is as wide as its widest word or picture; minmax(0, 1fr) is not."""
    for columns in re.findall(r"grid-template-columns:([^;}]*)", page.read_text()):
        assert "1fr" not in re.sub(r"minmax\([^()]*(\([^()]*\))?[^()]*\)", "", columns), columns
