"""Bags and rolling means, by hand."""

import gzip
import json
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from submissions import member, series_of, table_of

from rsna_e2e.cli import main
from rsna_e2e.core.errors import BadInputError, UsageError
from rsna_e2e.core.files import sha256_of
from rsna_e2e.inference.average import bag, rolling_mean, smooth
from rsna_e2e.inference.predictions import (
    Derived,
    beside,
    find_series,
    predictions_path,
    read_predictions,
    read_series,
    series_path,
)
from rsna_e2e.inference.submission import write_submission
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.tasks.labels import read_labels

ROUNDING = 1e-12


def test_a_bag_is_the_clipped_mean_by_image_id(tmp_path: Path) -> None:
    first = member(tmp_path, "first", [0.0, 0.2, 1.0])
    second = tmp_path / "second.csv"
    table = table_of([1.0, 0.0, 0.6], keys=["b", "a", "a"], index=[0, 0, 1])  # another order
    write_submission(second, ICH, table)
    done = bag([first, second], task=ICH, out=tmp_path / "out" / "bag.csv.gz", clip=0.01)
    assert (done.n_members, done.n_slices) == (2, 3)
    labels = read_labels(done.submission, ICH)
    assert labels.image_ids == ["ID_a0", "ID_a1", "ID_b0"]
    np.testing.assert_allclose(labels.values[:, 0], [0.01, 0.4, 0.99], atol=ROUNDING)
    np.testing.assert_allclose(labels.values[:, 1:], 0.5, atol=ROUNDING)
    np.testing.assert_allclose(
        read_predictions(predictions_path(done.submission), ICH).probability, labels.values, atol=ROUNDING
    )
    manifest = json.loads(done.manifest.read_text())
    assert manifest["members"] == [
        {"name": path.name, "sha256": sha256_of(path)}
        for path in (tmp_path / "first.csv.predictions.parquet", tmp_path / "second.csv.predictions.parquet")
    ]
    assert (manifest["clip"], manifest["n_slices"]) == (0.01, 3)


def test_all_csv_files_of_a_folder_of_predictions_can_be_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Truth and missing images are CSV files too, and no members."""
    for name in ("first", "second"):
        path = member(tmp_path, name, [0.0, 0.2, 1.0])
        for what in ("truth.csv", "missing.csv"):
            beside(path, what).write_bytes(path.read_bytes())
    paths = sorted(map(str, tmp_path.glob("*.csv")))
    assert len(paths) == 6
    assert main(["bag", *paths, "--out", str(tmp_path / "out/bag.csv")]) == 0
    assert capsys.readouterr().out.startswith("mean of 2 submissions of 3 slices")


def test_a_bag_averages_the_series_tables_of_all_by_key(tmp_path: Path) -> None:
    of_first = series_of([0.0, 0.2], keys=["a", "b"], n_slices=[2, 1])
    of_second = series_of([0.6, 0.0], keys=["b", "a"], n_slices=[1, 2])  # another order
    members = [
        member(tmp_path, name, [0.0, 0.2, 1.0], series=series)
        for name, series in (("first", of_first), ("second", of_second))
    ]
    done = bag(members, task=ICH, out=tmp_path / "bag.csv", clip=0.01)
    assert (done.n_members, done.n_with_series) == (2, 2)
    mean = read_series(series_path(done.submission), ICH, read_predictions(predictions_path(done.submission), ICH))
    assert mean.series_keys == ["a", "b"]
    assert mean.n_slices.tolist() == [2, 1]
    np.testing.assert_allclose(mean.probability[:, 0], [0.01, 0.4], atol=ROUNDING)
    np.testing.assert_allclose(mean.probability[:, 1:], 0.5, atol=ROUNDING)
    named = json.loads(done.manifest.read_text())["members"]
    assert [entry["series_sha256"] for entry in named] == [sha256_of(series_path(path)) for path in members]


def test_a_bag_of_which_one_has_no_series_table_has_none(tmp_path: Path) -> None:
    series = series_of([0.0, 0.2], keys=["a", "b"], n_slices=[2, 1])
    members = [
        member(tmp_path, "first", [0.0, 0.2, 1.0], series=series),
        member(tmp_path, "second", [0.0, 0.2, 1.0]),
    ]
    done = bag(members, task=ICH, out=tmp_path / "bag.csv")
    assert (done.n_members, done.n_with_series) == (2, 1)
    assert find_series(done.submission) is None
    assert all(set(entry) == {"name", "sha256"} for entry in json.loads(done.manifest.read_text())["members"])


def test_series_tables_of_other_series_are_not_averaged(tmp_path: Path) -> None:
    series = series_of([0.0, 0.2], keys=["a", "b"], n_slices=[2, 1])
    first = member(tmp_path, "first", [0.0, 0.2, 1.0], series=series)
    second = member(tmp_path, "second", [0.0, 0.2, 1.0], series=replace(series, series_keys=["a", "c"]))
    with pytest.raises(BadInputError, match=r"second\.csv\.series\.parquet: does not hold the series"):
        bag([first, second], task=ICH, out=tmp_path / "bag.csv")
    table = table_of([0.0, 0.2, 1.0], keys=["a", "a", "c"], index=[0, 1, 0])
    regrouped = replace(table, image_ids=["ID_a0", "ID_a1", "ID_b0"])
    write_submission(second, ICH, regrouped, series=replace(series, series_keys=["a", "c"]))
    with pytest.raises(BadInputError, match=r"does not hold the same series as first.*; 2 .* such as b, c\."):
        bag([first, second], task=ICH, out=tmp_path / "bag.csv")
    assert not (tmp_path / "bag.csv").exists()


def test_a_series_table_that_is_linked_counts_once(tmp_path: Path) -> None:
    series = series_of([0.0, 0.2], keys=["a", "b"], n_slices=[2, 1])
    first, second = (member(tmp_path, name, [0.0, 0.2, 1.0], series=series) for name in ("first", "second"))
    series_path(second).unlink()
    os.link(series_path(first), series_path(second))
    with pytest.raises(UsageError, match="twice"):
        bag([first, second], task=ICH, out=tmp_path / "bag.csv")


@pytest.mark.parametrize("combine", [lambda path, out: bag([path], task=ICH, out=out), partial(smooth, task=ICH)])
def test_nobody_waits_for_a_series_table_that_is_a_pipe(combine: Callable[..., object], tmp_path: Path) -> None:
    first = member(tmp_path, "first", [0.0, 0.2, 1.0], series=series_of([0.0, 0.2], keys=["a", "b"], n_slices=[2, 1]))
    series_path(first).unlink()
    os.mkfifo(series_path(first))
    with pytest.raises(BadInputError, match=r"first\.csv\.series\.parquet"):
        combine(first, out=tmp_path / "out.csv")


def test_a_series_table_of_another_submission_of_that_name_is_removed(tmp_path: Path) -> None:
    first = member(tmp_path, "first", [0.0, 0.2, 1.0], series=series_of([0.0, 0.2], keys=["a", "b"], n_slices=[2, 1]))
    assert find_series(first) is not None
    member(tmp_path, "first", [0.0, 0.2, 1.0])
    assert find_series(first) is None


def test_members_must_hold_the_same_slices(tmp_path: Path) -> None:
    first = member(tmp_path, "first", [0.0, 0.2, 1.0])
    second = tmp_path / "second.csv"
    write_submission(second, ICH, table_of([0.5, 0.5], keys=["a", "c"], index=[0, 7]))
    with pytest.raises(BadInputError, match=r"3 are in one of them only, such as ID_a1, ID_b0, ID_c7"):
        bag([first, second], task=ICH, out=tmp_path / "bag.csv")
    assert not (tmp_path / "bag.csv").exists()


def test_no_member_counts_twice_or_is_overwritten(tmp_path: Path) -> None:
    first = member(tmp_path, "first", [0.0, 0.2, 1.0])
    for submissions, out in (([first, first], tmp_path / "bag.csv"), ([first], first)):
        with pytest.raises(UsageError, match="twice"):
            bag(submissions, task=ICH, out=out)


@pytest.mark.parametrize("link", [os.link, os.symlink])
@pytest.mark.parametrize("linked", ["", ".predictions.parquet"])
def test_links_are_the_same_submission_or_table(
    tmp_path: Path, link: Callable[[Path, Path], None], linked: str
) -> None:
    first, second = member(tmp_path, "first", [0.0, 0.2, 1.0]), member(tmp_path, "second", [0.0, 0.2, 1.0])
    other = Path(f"{second}{linked}")
    other.unlink()
    link(Path(f"{first}{linked}"), other)
    with pytest.raises(UsageError, match="twice"):
        bag([first, second], task=ICH, out=tmp_path / "bag.csv")
    if not linked:
        with pytest.raises(UsageError, match="twice"):
            smooth(first, task=ICH, out=second)
    assert read_labels(first, ICH).image_ids


def test_a_table_that_two_submissions_share_counts_once(tmp_path: Path) -> None:
    """As they did before each had one of its own."""
    first = member(tmp_path, "sub", [0.0, 0.2, 1.0])
    predictions_path(first).rename(tmp_path / "sub.predictions.parquet")
    (tmp_path / "sub.csv.gz").write_bytes(gzip.compress(first.read_bytes()))
    assert bag([first], task=ICH, out=tmp_path / "bag.csv").n_slices == 3
    with pytest.raises(UsageError, match="twice"):
        bag([first, tmp_path / "sub.csv.gz"], task=ICH, out=tmp_path / "bag.csv")
    for make in (smooth, lambda path, **how: bag([path], **how)):  # whose own table would take its place
        with pytest.raises(UsageError, match="twice"):
            make(first, task=ICH, out=tmp_path / "sub")


@pytest.mark.parametrize("name", ["first.csv.predictions.parquet", "store.json", "broken.csv.gz"])
def test_no_submission_comes_in_the_place_of_something_else(tmp_path: Path, name: str) -> None:
    first, second = member(tmp_path, "first", [0.0, 0.2, 1.0]), member(tmp_path, "second", [0.1, 0.2, 1.0])
    (tmp_path / "store.json").write_text("{}")
    (tmp_path / "broken.csv.gz").write_bytes(b"\x1f\x8b no gzip")
    before = (tmp_path / name).read_bytes()
    with pytest.raises(UsageError, match="is there and no submission, and would be lost"):
        smooth(first, task=ICH, out=tmp_path / name)
    with pytest.raises(UsageError, match="no submission"):
        bag([first, second], task=ICH, out=tmp_path / name)
    assert (tmp_path / name).read_bytes() == before
    (tmp_path / "empty.csv").touch()
    for out in (tmp_path / "empty.csv", second):
        smooth(first, task=ICH, out=out)


@pytest.mark.parametrize("rows", [["ID_a_any,0", "ID_b_any,1.0"], ["ID_a_any,0", "ID_b_any,0.3"]])
def test_labels_are_not_written_over(tmp_path: Path, rows: list[str]) -> None:
    """Where all are 0 or 1 a table may be the only copy of them; made by predict, it has its predictions table."""
    first, out = member(tmp_path, "first", [0.0, 0.2, 1.0]), tmp_path / "out.csv"
    for path in (out, tmp_path / "out.csv.gz"):
        text = "\n".join(["ID,Label", *rows]).encode()
        path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
        if rows[1].endswith("1.0"):
            with pytest.raises(UsageError, match=r"holds labels, each 0 or 1, which would be lost\. Choose another"):
                smooth(first, task=ICH, out=path)
            predictions_path(path).touch()
        smooth(first, task=ICH, out=path)
        assert path.read_bytes() != text


def test_truth_that_was_not_made_with_a_submission_is_not_removed(tmp_path: Path) -> None:
    first, out = member(tmp_path, "first", [0.0, 0.2, 1.0]), tmp_path / "out.csv"
    truth = beside(out, "truth.csv")
    truth.write_text("ID,Label\nID_a0_any,0\n")
    with pytest.raises(UsageError, match=r"out\.csv\.truth\.csv: is there without the predictions table"):
        smooth(first, task=ICH, out=out)
    assert truth.exists()
    predictions_path(out).touch()
    smooth(first, task=ICH, out=out)
    assert not truth.exists()


NAMES = ("sub.csv", "sub.csv.gz", "sub", "sub.CSV", "sub.predictions.csv")


def test_no_two_submissions_of_a_folder_share_a_file(tmp_path: Path) -> None:
    for number, name in enumerate(NAMES):
        table = table_of([number / 10, 0.2, 1.0], keys=["a", "a", "b"], index=[0, 1, 0])
        write_submission(tmp_path / name, ICH, table)
    for number, name in enumerate(NAMES):
        stored = read_predictions(predictions_path(tmp_path / name), ICH)
        for values in (stored.probability, read_labels(tmp_path / name, ICH).values):
            np.testing.assert_array_equal(values[:, 0], [number / 10, 0.2, 1.0])
    derived = {beside(tmp_path / name, what) for name in NAMES for what in get_args(Derived)}
    assert len(derived) == len(NAMES) * len(get_args(Derived))


def test_notes_of_another_submission_of_that_name_are_removed(tmp_path: Path) -> None:
    first = member(tmp_path, "first", [0.0, 0.2, 1.0])
    manifest = bag([first], task=ICH, out=tmp_path / "out.csv").manifest
    assert manifest.exists()
    member(tmp_path, "out", [0.0, 0.2, 1.0])
    assert not manifest.exists()


def test_slices_of_one_name_are_not_written(tmp_path: Path) -> None:
    table = replace(table_of([0.0, 0.2], keys=["a", "b"], index=[0, 0]), image_ids=["ID_x", "ID_x"])
    with pytest.raises(BadInputError, match="repeat an image_id"):
        write_submission(tmp_path / "sub.csv", ICH, table)
    assert list(tmp_path.iterdir()) == []


def test_a_rolling_mean_by_hand_whatever_the_order_of_rows() -> None:
    table = table_of([1.0, 0.0, 0.5, 0.25], keys=["a", "a", "a", "b"], index=[0, 1, 2, 0])
    expected = [
        (1.8 * 1.0 + 0.6 * 0.0) / 2.4,
        (0.6 * 1.0 + 1.8 * 0.0 + 0.6 * 0.5) / 3.0,
        (0.6 * 0.0 + 1.8 * 0.5) / 2.4,
        0.25,  # alone in its series
    ]
    np.testing.assert_allclose(rolling_mean(table)[:, 0], expected, atol=ROUNDING)
    rows = [2, 3, 0, 1]
    mixed = replace(
        table,
        image_ids=[table.image_ids[row] for row in rows],
        series_keys=[table.series_keys[row] for row in rows],
        slice_index=table.slice_index[rows],
        position_mm=table.position_mm[rows],
        probability=table.probability[rows],
    )
    np.testing.assert_allclose(rolling_mean(mixed)[:, 0], np.array(expected)[rows], atol=ROUNDING)


def test_smoothing_writes_a_submission_and_its_table(tmp_path: Path) -> None:
    first = member(tmp_path, "first", [1.0, 0.0, 0.3])
    assert smooth(first, task=ICH, out=tmp_path / "smooth.csv").n_slices == 3
    np.testing.assert_allclose(read_labels(tmp_path / "smooth.csv", ICH).values[:, 0], [0.75, 0.25, 0.3], atol=ROUNDING)
    assert predictions_path(tmp_path / "smooth.csv").is_file()


def test_smoothing_leaves_the_series_table_as_it_is(tmp_path: Path) -> None:
    series = series_of([0.0, 0.2], keys=["a", "b"], n_slices=[2, 1])
    first = member(tmp_path, "first", [1.0, 0.0, 0.3], series=series)
    smooth(first, task=ICH, out=tmp_path / "smooth.csv")
    smoothed = read_predictions(predictions_path(tmp_path / "smooth.csv"), ICH)
    stored = read_series(series_path(tmp_path / "smooth.csv"), ICH, smoothed)
    assert stored.series_keys == ["a", "b"]
    np.testing.assert_array_equal(stored.probability, series.probability)
