"""Nobody is named where nobody should be: words planted in files are looked for in everything that comes out."""

import shutil
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
import small
from canaries import (
    EVERY_CANARY,
    FOLDER,
    IDENTIFIERS,
    IMAGE,
    LENGTHS,
    PATIENT,
    REFUSED,
    SECRETS,
    UIDS,
    found_in,
    write_raw,
)

from rsna_e2e.cli import main
from rsna_e2e.core.errors import DivergedError
from rsna_e2e.store import Store
from rsna_e2e.store.prepare import repair
from rsna_e2e.store.prepare.tables import read_note
from rsna_e2e.store.pseudonyms import load_key
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.tasks.labels import write_labels
from rsna_e2e.training.train import train


@dataclass(frozen=True)
class Outputs:
    """Everything that came of the files: folders, and what was said on the terminal."""

    raw: Path
    folder: Path
    said: str

    def __truediv__(self, name: str) -> Path:
        return self.folder / name


@pytest.fixture(scope="module")
def outputs(one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Outputs:
    """Prepare, inspect, train, diverge, predict and evaluate, with names and without."""
    folder = tmp_path_factory.mktemp("privacy")
    raw, key, said = write_raw(folder), folder / "keys" / "k", folder / "said.txt"
    with said.open("a") as terminal, redirect_stdout(terminal), redirect_stderr(terminal):
        _process(terminal, "prepare", raw, folder / "named", "--folds", 2, "--jobs", 1)
        _process(terminal, "prepare", raw, folder / "hashed", "--folds", 2, "--jobs", 1, "--deidentify", key)
        _process(terminal, "inspect", raw, "--out", folder / "report of raw", "--jobs", 1)
        store = Store.open(folder / "named")
        train(store, folder / "run", small.config())
        wild = ("optimizer.learning_rate=1e30", "optimizer.warmup_fraction=0", "epochs=9", "max_skipped_steps=2")
        with pytest.raises(DivergedError) as diverged:
            train(store, folder / "diverged", small.config(*wild))
        terminal.write(f"{diverged.value}\n")
        for name in ("named", "hashed"):
            _command("inspect", folder / name, "--out", folder / f"report of {name}")
            _command("predict", folder / "run", folder / name, "--out", folder / f"{name}.csv")
        submission, truth = folder / "named.csv", folder / "truth.csv"
        _write_truth(Store.open(folder / "named"), truth)
        _command("evaluate", submission, truth, "--out", folder / "evaluation", "--store", folder / "named")
    return Outputs(raw, folder, said.read_text())


def _command(*arguments: object) -> None:
    assert main([str(argument) for argument in arguments]) == 0


def _process(terminal: IO[str], *arguments: object) -> None:
    """A command whose worker processes could say something too."""
    words = [sys.executable, "-m", "rsna_e2e.cli", *map(str, arguments)]
    subprocess.run(words, check=True, stdout=terminal, stderr=terminal)


def _write_truth(store: Store, path: Path) -> None:
    ids = store.index["image_id"][store.index["split"] == "test"].tolist()
    write_labels(path, ICH, ids, np.eye(len(ids), 6))


def test_more_than_thirty_words_are_in_the_files(outputs: Outputs) -> None:
    assert len(SECRETS) >= 30
    slices = [path for path in (outputs.raw / FOLDER).glob(f"{IMAGE}*.dcm")]
    planted = set().union(*found_in(slices, EVERY_CANARY).values())
    assert planted == {*SECRETS.values(), *IDENTIFIERS} - {SECRETS["report"], SECRETS["code"]}
    assert SECRETS["report"] in found_in([outputs.raw / FOLDER / f"{REFUSED}-report.dcm"], EVERY_CANARY).popitem()[1]
    assert len(Store.open(outputs / "named")) == sum(LENGTHS)
    assert len(Store.open(outputs / "named").read_refusals()) == 7


def test_a_store_with_names_holds_identifiers_alone(outputs: Outputs) -> None:
    assert found_in([outputs / "named"], EVERY_CANARY) == {
        "index.parquet": {PATIENT, *UIDS, IMAGE},
        "slices.parquet": {IMAGE},
        "refusals.parquet": {FOLDER, REFUSED},
    }


def test_a_store_of_hashed_names_holds_nothing(outputs: Outputs) -> None:
    assert found_in([outputs / "hashed"], EVERY_CANARY) == {}


def test_reports_name_nobody(outputs: Outputs) -> None:
    for name in ("report of raw", "report of named", "report of hashed", "evaluation"):
        assert len(list((outputs / name).iterdir())) >= 2
        assert found_in([outputs / name], EVERY_CANARY) == {}, name


def test_runs_and_their_debug_bundles_name_nobody(outputs: Outputs) -> None:
    for name in ("run", "diverged"):
        assert (outputs / name / "metrics.jsonl").stat().st_size
        assert found_in([outputs / name], EVERY_CANARY) == {}, name
    assert list((outputs / "diverged" / "debug").glob("*/rank-0.json"))


def test_a_submission_names_images_because_it_must(outputs: Outputs) -> None:
    for name in ("named.csv", "named.csv.predictions.parquet"):
        assert found_in([outputs / name], EVERY_CANARY) == {name: {IMAGE}}
    assert found_in([outputs / "named.csv.missing.csv"], EVERY_CANARY) == {"named.csv.missing.csv": {REFUSED}}
    for name in ("hashed.csv", "hashed.csv.predictions.parquet", "hashed.csv.missing.csv"):
        assert (outputs / name).stat().st_size
        assert found_in([outputs / name], EVERY_CANARY) == {}, name


def test_nothing_is_said_on_the_terminal(outputs: Outputs) -> None:
    assert "refusals" in outputs.said
    assert "on series" in outputs.said  # of the run that diverged
    assert found_in([outputs / "said.txt"], EVERY_CANARY) == {}


def test_nothing_else_is_left(outputs: Outputs) -> None:
    """No notes of preparing, which hold names."""
    known = {"raw", "keys", "said.txt", "run", "diverged", "report of raw", "evaluation", "truth.csv"}
    for name in ("named", "hashed"):
        known |= {name, f"report of {name}", f"{name}.csv"}
        known |= {f"{name}.csv.predictions.parquet", f"{name}.csv.missing.csv"}
    assert {path.name for path in outputs.folder.iterdir()} == known


def _say(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> str:
    assert main([str(argument) for argument in arguments]) == code
    captured = capsys.readouterr()
    return captured.err if code else captured.out


def test_the_owner_learns_who_it_is(outputs: Outputs, capsys: pytest.CaptureFixture[str]) -> None:
    """By a store with names, by raw files, and by raw files and key of a store without."""
    named, hashed = (Store.open(outputs / name) for name in ("named", "hashed"))
    for span, blind in zip(named.series, hashed.series, strict=True):
        ids = named.index["image_id"][span.rows].tolist()
        wanted = [span.patient_id, span.study_uid, span.series_uid, *ids]
        who = span.series_key[:8]
        by_store = _say(capsys, "inspect", outputs / "named", "--who", who)
        by_raw = _say(capsys, "inspect", outputs.raw, "--who", who, "--jobs", 1)
        assert by_store == by_raw
        key = ("--raw", outputs.raw, "--key", outputs / "keys" / "k", "--jobs", 1)
        by_key = _say(capsys, "inspect", outputs / "hashed", "--who", blind.series_key[:8], *key)
        for said in (by_store, by_key):
            assert [line.split(maxsplit=2)[2] for line in said.splitlines()][1:] == wanted


def test_repair_of_a_store_without_names_leaves_none_beside_it(
    outputs: Outputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Headers are needed to find slices again; they lie where only their user may read, and not for long."""
    store = tmp_path / "hashed"
    shutil.copytree(outputs / "hashed", store)
    index = Store.open(store).index
    with (store / "shards" / index["shard"][0]).open("r+b") as file:
        file.seek(index["byte_offset"][0])
        file.write(b"damaged")
    kept: list[Path] = []

    def look(part: Path) -> Any:
        assert part.is_file()
        assert part.parent.stat().st_mode & 0o077 == 0
        assert found_in([tmp_path], EVERY_CANARY) == {}
        kept.append(part)
        return read_note(part)

    monkeypatch.setattr(import_module("rsna_e2e.store.prepare.repair"), "read_note", look)
    assert repair(store, outputs.raw, n_jobs=1).n_mended_slices == 1
    assert kept
    assert not any(part.parent.exists() for part in kept)
    assert [path.name for path in tmp_path.iterdir()] == ["hashed"]
    assert found_in([store], EVERY_CANARY) == {}


def test_without_the_key_nobody_does(outputs: Outputs, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hashed = outputs / "hashed"
    who = Store.open(hashed).series[0].series_key[:8]
    ask = ("inspect", hashed, "--who", who)
    assert "holds hashed names. Give --raw" in _say(capsys, *ask, code=2)
    with_raw = (*ask, "--raw", outputs.raw, "--jobs", 1, "--key")
    assert "none: no such key file" in _say(capsys, *with_raw, tmp_path / "none", code=3)
    (tmp_path / "other").write_text("x" * 64)
    assert "prepared with another key" in _say(capsys, *with_raw, tmp_path / "other", code=3)
    assert not (tmp_path / "none").exists()


def test_raw_files_that_lack_the_series_are_named(
    outputs: Outputs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small.write_raw(tmp_path / "raw")
    who = Store.open(outputs / "hashed").series[0].series_key[:8]
    key = ("--raw", tmp_path / "raw", "--key", outputs / "keys" / "k", "--jobs", 1)
    said = _say(capsys, "inspect", outputs / "hashed", "--who", who, *key, code=3)
    assert f"series {who} is not in the raw files" in said
    assert load_key(outputs / "keys" / "k").check == Store.open(outputs / "hashed").key_check
