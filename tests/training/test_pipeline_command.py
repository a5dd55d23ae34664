"""`rsna-e2e pipeline`, `bag` and `smooth` as a user meets them."""

import shlex
from pathlib import Path

import archives
import numpy as np
import pytest
import small
from submissions import member, series_of

from rsna_e2e.cli.program import main
from rsna_e2e.inference.predictions import beside
from rsna_e2e.store import Store
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.tasks.labels import read_labels


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.make_store(tmp_path_factory.mktemp("command")).path


def test_a_dry_run_shows_the_plan_and_leaves_nothing(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["pipeline", "single", "--data", str(store), "--out", str(out), "--dry-run", "--no-probe"]) == 0
    shown = capsys.readouterr().out
    assert shown.splitlines()[3].split()[:2] == ["images/series-all", "to"]
    assert "to be run: 11 of 11 steps" in shown
    assert not out.exists()


def test_an_archive_is_prepared_in_place(store: Path, tmp_path: Path) -> None:
    archive = archives.zip_folder(store.parent / "raw", tmp_path / "raw.zip")
    assert main(["pipeline", "full", "--data", str(archive), "--out", str(tmp_path / "out"), "--part", "prepare"]) == 0
    made, expected = Store.open(tmp_path / "out" / "store"), Store.open(store)
    assert made.index["checksum"].tolist() == expected.index["checksum"].tolist()
    np.testing.assert_array_equal(made.labels, expected.labels)


def test_columns_of_the_labels_may_be_named(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = Store.open(store)
    known = ~np.isnan(expected.labels).any(axis=1)
    rows = zip(expected.index["image_id"][known], expected.labels[known, ICH.headline_index].astype(int), strict=True)
    table = tmp_path / "table.csv"
    table.write_text("".join(["name,Bleed\n", *(f"{image_id},{label}\n" for image_id, label in rows)]))
    words = ["pipeline", "joint", "--out", str(tmp_path / "out"), "--labels", str(table), "--device", "cpu"]
    words += ["--data", str(store.parent / "raw"), "--set", "model.pretrained=false"]
    assert main([*words, "--dry-run", "--no-probe"]) == 3
    assert "no column is known to hold IDs" in capsys.readouterr().err
    words += ["--columns", "ID=name", "any=Bleed"]
    assert main([*words, "--dry-run", "--no-probe"]) in (0, 5)
    assert f"{(~known).sum()} in split test: to predict" in capsys.readouterr().out
    assert main([*words, "--part", "prepare"]) == 0
    made = Store.open(tmp_path / "out" / "store").labels[:, ICH.headline_index]
    np.testing.assert_array_equal(made, expected.labels[:, ICH.headline_index])


def test_folders_may_be_the_labels(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = Store.open(store)
    is_bleed = dict(zip(expected.index["image_id"], expected.labels[:, ICH.headline_index] == 1, strict=True))
    for path in (store.parent / "raw").rglob("*.dcm"):
        place = tmp_path / "raw" / ("subdural" if is_bleed[path.stem] else "no") / path.name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(path.read_bytes())
    words = ["pipeline", "joint", "--out", str(tmp_path / "out"), "--labels", "folders", "--device", "cpu"]
    words += ["--data", str(tmp_path / "raw"), "--set", "model.pretrained=false"]
    assert main([*words, "--dry-run", "--no-probe"]) in (0, 5)
    assert "0 in split test: to predict" in capsys.readouterr().out
    assert main([*words, "--part", "prepare"]) == 0
    made = Store.open(tmp_path / "out" / "store")
    found = dict(zip(made.index["image_id"], made.labels[:, ICH.headline_index] == 1, strict=True))
    assert found == is_bleed
    capsys.readouterr()
    assert main([*words, "--part", "prepare"]) == 0  # nothing is done twice
    assert " + " not in capsys.readouterr().out
    assert main([*words, "--part", "prepare", "--labels", str(tmp_path / "none.csv")]) == 3
    assert "none.csv: no such file. Check the path" in capsys.readouterr().err


@pytest.mark.parametrize("options", [["--labels", "none"], ["--columns", "ID=name"], ["--labels", "x.csv"]])
def test_labels_that_would_not_be_read_are_refused(
    store: Path, options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """None at all, columns of no table, and those of a store, which has its own."""
    assert main(["pipeline", "joint", "--data", str(store), "--out", str(tmp_path / "out"), *options]) == 2
    assert options[0] in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["full"], "--data RAW is missing"),
        (["full", "--embeddings", "somewhere"], "--embeddings are what mode fast learns from"),
        (["full", "--set", "two_stage.clip=2"], "two_stage.clip"),
        (["joint", "--recipe", "none_such"], "unknown recipe 'none_such'; known: demo, reference"),
    ],
)
def test_what_makes_no_sense_is_said(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "raw").mkdir()
    data = [] if "missing" in message else ["--data", str(tmp_path / "raw")]
    assert main(["pipeline", *options, *data, "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err


def test_fast_without_embeddings_says_where_they_come_from(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pipeline", "fast", "--data", str(store), "--out", str(tmp_path)]) == 2
    assert "Run mode full or single up to --part embeddings" in capsys.readouterr().err


def test_bag_says_when_it_leaves_the_series_tables_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    series = series_of([0.0, 0.2], keys=["a", "b"], n_slices=[2, 1])
    first, second = (member(tmp_path, name, [0.0, 0.2, 1.0], series=series) for name in ("first", "second"))
    third = member(tmp_path, "third", [0.0, 0.2, 1.0])
    for members in ((first, second), (third,)):
        assert main(["bag", *map(str, members), "--out", str(tmp_path / "bag.csv")]) == 0
        assert "no series table" not in capsys.readouterr().out
    assert main(["bag", *map(str, (first, second, third)), "--out", str(tmp_path / "bag.csv")]) == 0
    assert "no series table is written: 2 of 3 submissions have one, not all" in capsys.readouterr().out


def test_truth_is_taken_over_where_the_members_agree(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    members = [member(tmp_path, name, [0.0, 0.2, 1.0]) for name in ("first", "second", "third")]
    rows = ["ID_a0_any,0", "ID_b0_any,1"]
    for path, lines in zip(members, (rows, rows[::-1], []), strict=True):  # as of another store, and without any
        if lines:
            beside(path, "truth.csv").write_text("\n".join(["ID,Label", *lines]))
            beside(path, "missing.csv").write_text("ID,reason,detail\nID_c0,truncated,\n")
    bagged, smoothed = tmp_path / "bag.csv", tmp_path / "smooth.csv"
    for words, out in ((["bag", *map(str, members)], bagged), (["smooth", str(bagged)], smoothed)):
        assert main([*words, "--out", str(out)]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[-2].startswith("without truth: 1 of 3 slices")
        command = shlex.split(lines[-1].removeprefix("to score it: rsna-e2e "))
        assert command == ["evaluate", str(out), f"{out}.truth.csv", "--out", "report", "--allow-missing"]
        assert main([*command[:3], "--allow-missing"]) == 0
        assert read_labels(beside(out, "truth.csv"), ICH).image_ids == ["ID_a0", "ID_b0"]
        assert beside(out, "missing.csv").read_bytes() == beside(members[0], "missing.csv").read_bytes()
        capsys.readouterr()
    beside(members[1], "truth.csv").write_text("ID,Label\nID_a0_any,1\nID_b0_any,1\n")
    beside(members[1], "missing.csv").write_text("ID,reason,detail\n")
    assert main(["bag", *map(str, members), "--out", str(bagged)]) == 0
    assert "to score it" not in capsys.readouterr().out
    assert not beside(bagged, "truth.csv").exists()
    assert not beside(bagged, "missing.csv").exists()


def test_bag_and_smooth(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = member(tmp_path, "first", [0.0, 0.2, 1.0]), member(tmp_path, "second", [0.6, 0.0, 0.0])
    bagged = tmp_path / "bag.csv"
    assert main(["bag", str(first), str(second), "--out", str(bagged), "--clip", "0.01"]) == 0
    assert "mean of 2 submissions of 3 slices" in capsys.readouterr().out
    assert read_labels(bagged, ICH).values[:, 0] == pytest.approx([0.3, 0.1, 0.5])
    assert main(["smooth", str(bagged), "--out", str(tmp_path / "smooth.csv.gz")]) == 0
    assert read_labels(tmp_path / "smooth.csv.gz", ICH).values[:, 0] == pytest.approx([0.25, 0.15, 0.5])
    with pytest.raises(SystemExit) as left:
        main(["bag", str(first), "--out", str(bagged), "--clip", "0.5"])
    assert left.value.code == 2
