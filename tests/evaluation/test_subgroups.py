"""Scores by headers: which series a group has, its numbers, and what is said where one is worse."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from made_up import MadeUpRun, made_up_run
from pages import assert_numbers_are_those_of, parsed

from rsna_e2e.cli import main
from rsna_e2e.core.errors import BadInputError, UsageError
from rsna_e2e.core.table_files import table_at
from rsna_e2e.evaluation.evaluate import evaluate
from rsna_e2e.evaluation.report import write_report
from rsna_e2e.evaluation.scores import Evaluation
from rsna_e2e.evaluation.series_facts import read_series_facts
from rsna_e2e.evaluation.subgroups import tilt_deg, with_subgroups
from rsna_e2e.evaluation.summary import summary
from rsna_e2e.inference.predictions import write_predictions
from rsna_e2e.tasks import metrics
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.tasks.labels import write_labels

N_SERIES, ANY = 60, ICH.headline_index
LITTLE_ENDIAN, JPEG_2000 = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.4.91"


def store_of(run: MadeUpRun, **columns: np.ndarray) -> SimpleNamespace:
    """A store of the images, with what headers say of each series [60], all alike but for `columns`."""
    keys = np.array(run.table.series_keys)
    number_N = np.array([int(key[7:10]) for key in keys])
    same = {"transfer_syntax_uid": np.full(N_SERIES, LITTLE_ENDIAN, dtype=object)}
    same |= {name: np.full(N_SERIES, 0.5) for name in ("spacing_row_mm", "slice_thickness_mm")}
    same |= {f"iop_{direction}_{axis}": np.zeros(N_SERIES) for direction in ("row", "column") for axis in "xyz"}
    same |= {"iop_row_x": np.ones(N_SERIES), "iop_column_y": np.ones(N_SERIES)}
    index = {name: column[number_N] for name, column in (same | columns).items()}
    index |= {"image_id": np.array(run.table.image_ids, dtype=object), "series_key": keys.astype(object)}
    n_of = dict(zip(*np.unique(keys, return_counts=True), strict=True))
    series = [SimpleNamespace(series_key=key, n_slices=int(n)) for key, n in n_of.items()]
    return SimpleNamespace(path=Path("store"), index=index, series=series)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> MadeUpRun:
    """Predictions that know nothing of every third series."""
    run = made_up_run(tmp_path_factory.mktemp("run"), n_series=N_SERIES, seed=3)
    is_lost = np.array([int(key[7:10]) % 3 == 0 for key in run.table.series_keys])
    run.table.probability[is_lost] = np.round(np.random.default_rng(0).random((int(is_lost.sum()), 6)), 6)
    write_labels(run.submission, ICH, run.table.image_ids, run.table.probability, decimals=6)
    write_predictions(run.predictions, ICH, run.table)
    return run


@pytest.fixture(scope="module")
def evaluation(run: MadeUpRun) -> Evaluation:
    return evaluate(run.submission, run.truth, task=ICH, n_bootstrap=200)


def syntaxes() -> np.ndarray:
    return np.array([JPEG_2000 if series % 3 == 0 else LITTLE_ENDIAN for series in range(N_SERIES)], dtype=object)


def test_a_worse_group_is_found_and_said(run: MadeUpRun, evaluation: Evaluation, tmp_path: Path) -> None:
    found = with_subgroups(evaluation, store_of(run, transfer_syntax_uid=syntaxes()))  # type: ignore[arg-type]
    compressed, plain = (group for group in found.subgroups if group.by == "compression")
    assert (compressed.group, compressed.n_series, plain.n_series) == ("JPEG 2000", 20, 40)
    is_it = np.array([int(key[7:10]) % 3 == 0 for key in run.table.series_keys])
    truth, probability = run.truth_values[:, ANY], run.table.probability[:, ANY]
    areas = [metrics.auc(truth[mask], probability[mask]) for mask in (is_it, ~is_it)]
    assert [compressed.auc.value, compressed.auc_of_others.value] == pytest.approx(areas, rel=1e-12)
    assert compressed.difference.value == pytest.approx(areas[0] - areas[1], rel=1e-12)
    assert compressed.n_positive == truth[is_it].sum()
    assert (compressed.is_worse, plain.is_worse) == (True, False)
    assert plain.difference.low == pytest.approx(-compressed.difference.high)
    said = f"worse by compression, JPEG 2000: AUC of 'any' {areas[0]:.3f} ["
    assert said in summary(found)
    page = write_report(found, out=tmp_path).read_text()
    assert "Worse by compression, JPEG 2000" in page
    content = json.loads((tmp_path / "metrics.json").read_text())
    paths = parsed(page).numbers
    assert_numbers_are_those_of(content, paths)
    assert {"subgroups.0.auc.value", "subgroups.0.difference.low"} <= {path for path, _, _ in paths}


def test_numbers_are_divided_in_thirds_and_unknown_ones_left_out(run: MadeUpRun, evaluation: Evaluation) -> None:
    spacing = np.arange(N_SERIES) / 100
    spacing[:6] = np.nan
    found = with_subgroups(evaluation, store_of(run, spacing_row_mm=spacing))  # type: ignore[arg-type]
    groups = [group for group in found.subgroups if group.by == "pixel spacing"]
    assert [(group.group, group.n_series) for group in groups] == [
        ("0.06 to 0.23 mm", 18),
        ("0.24 to 0.41 mm", 18),
        ("0.42 to 0.59 mm", 18),
    ]
    is_known = np.array([int(key[7:10]) >= 6 for key in run.table.series_keys])
    is_first = np.array([int(key[7:10]) < 24 for key in run.table.series_keys])
    others = is_known & ~is_first
    expected = metrics.auc(run.truth_values[others, ANY], run.table.probability[others, ANY])
    assert groups[0].auc_of_others.value == pytest.approx(expected, rel=1e-12)


def test_few_numbers_are_a_group_each_and_few_series_too_small(run: MadeUpRun, evaluation: Evaluation) -> None:
    thickness = np.where(np.arange(N_SERIES) < 9, 2.5, 5.0)
    found = with_subgroups(evaluation, store_of(run, slice_thickness_mm=thickness))  # type: ignore[arg-type]
    thin, thick = (group for group in found.subgroups if group.by == "slice thickness")
    assert (thin.group, thin.n_series, thick.group, thick.n_series) == ("2.5 mm", 9, "5 mm", 51)
    assert math.isnan(thin.auc.value)  # and so the others have nothing to differ from
    assert math.isnan(thick.difference.value)
    assert thin.row()["auc"] == {"value": None, "low": None, "high": None}
    assert not thin.is_worse


@pytest.mark.parametrize(("n_thin", "said"), [(9, False), (30, True)])
def test_that_none_is_worse_is_said_of_groups_that_are_scored_alone(
    run: MadeUpRun, evaluation: Evaluation, tmp_path: Path, n_thin: int, said: bool
) -> None:
    thickness = np.where(np.arange(N_SERIES) < n_thin, 2.5, 5.0)
    found = with_subgroups(evaluation, store_of(run, slice_thickness_mm=thickness))  # type: ignore[arg-type]
    found = replace(found, subgroups=tuple(group for group in found.subgroups if group.by == "slice thickness"))
    assert not any(group.is_worse for group in found.subgroups)
    page = write_report(found, out=tmp_path).read_text()
    assert ("No group is worse than the others" in page) == said


def test_what_series_do_not_differ_in_is_left_out(run: MadeUpRun, evaluation: Evaluation) -> None:
    found = with_subgroups(evaluation, store_of(run))  # type: ignore[arg-type]
    assert {group.by for group in found.subgroups} == {"number of slices"}
    assert sum(group.n_series for group in found.subgroups) == N_SERIES


def test_a_store_without_the_images_adds_nothing(run: MadeUpRun, evaluation: Evaluation) -> None:
    store = store_of(run)
    store.index["image_id"] = np.array(["other"] * len(run.table.image_ids), dtype=object)
    assert with_subgroups(evaluation, store) == evaluation  # type: ignore[arg-type]


def test_a_tilt_by_hand(run: MadeUpRun, evaluation: Evaluation) -> None:
    tilt = np.radians(np.where(np.arange(N_SERIES) % 2, 20.0, 0.0))
    columns = {"iop_column_y": np.cos(tilt), "iop_column_z": -np.sin(tilt)}
    store = store_of(run, **columns)
    found = tilt_deg(store, np.arange(len(run.table.image_ids)))  # type: ignore[arg-type]
    expected = [20.0 * (int(key[7:10]) % 2) for key in run.table.series_keys]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)  # the arc cosine near 1
    groups = [group for group in with_subgroups(evaluation, store).subgroups if group.by == "gantry tilt"]  # type: ignore[arg-type]
    assert [(group.group, group.n_series) for group in groups] == [("straight", 30), ("tilted by 1° or more", 30)]


def written(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_table_divides_series_by_numbers_and_by_text(run: MadeUpRun, evaluation: Evaluation, tmp_path: Path) -> None:
    keys = sorted(set(run.table.series_keys))
    lines = [
        f"{key},{'lost' if int(key[7:10]) % 3 == 0 else 'known'},{n if n >= 12 else ''}" for n, key in enumerate(keys)
    ]
    facts = read_series_facts(table_at(written(tmp_path / "f.csv", "series,kind,ml", *reversed(lines))), keys)
    found = with_subgroups(evaluation, None, facts).subgroups
    known, lost = (group for group in found if group.by == "kind")
    by_header = with_subgroups(evaluation, store_of(run, transfer_syntax_uid=syntaxes())).subgroups  # type: ignore[arg-type]
    assert replace(lost, by="", group="") == replace(by_header[0], by="", group="")
    assert (known.group, known.n_series, lost.is_worse) == ("known", 40, True)
    assert [(group.group, group.n_series) for group in found if group.by == "ml"] == [
        ("12 to 27", 16),
        ("28 to 43", 16),
        ("44 to 59", 16),
    ]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (("series,ml", "a,1"), "lacks 1 of 2 series"),
        (("series,ml", "a,1", "b,2", "a,3"), "line 4: says other things of series 'a' than before"),
        (("image,ml", "a,1"), "its columns are image, ml"),
        (("series", "a"), "its columns are series. Expected the column SeriesInstanceUID"),
        ((), "its columns are none"),
    ],
)
def test_a_table_that_does_not_say_it_is_refused(tmp_path: Path, lines: tuple[str, ...], message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        read_series_facts(table_at(written(tmp_path / "f.csv", *lines)), ["a", "b"])


def test_a_table_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="no such file"):
        read_series_facts(table_at(tmp_path / "f.csv"), ["a"])


def test_the_verb_takes_a_table(run: MadeUpRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [f"{key},{int(int(key[7:10]) % 3 == 0)}" for key in sorted(set(run.table.series_keys))]
    facts = written(tmp_path / "f.csv", "SeriesInstanceUID,ward", *rows)
    words = ["evaluate", str(run.submission), str(run.truth), "--facts", str(facts)]
    assert main(words) == 0
    assert "worse by ward, 1: AUC of 'any'" in capsys.readouterr().out
    assert main([*words[:2], *words[1:]]) == UsageError.exit_code
    assert "--facts: is of one submission, and here are two" in capsys.readouterr().err
    shutil.copy(run.submission, tmp_path / "alone.csv")  # no table of series beside it
    assert main(["evaluate", str(tmp_path / "alone.csv"), *words[2:]]) == UsageError.exit_code
    assert "--facts: nothing says which series the images are of" in capsys.readouterr().err
