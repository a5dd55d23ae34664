"""prepare --deidentify: other names, and everything else as it was."""

import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import small

from rsna_e2e.cli import main
from rsna_e2e.store import Store
from rsna_e2e.store.layout import INDEX_COLUMNS
from rsna_e2e.store.prepare import prepare
from rsna_e2e.store.prepare.index import Column, index_columns
from rsna_e2e.store.pseudonyms import Pseudonyms, load_key
from rsna_e2e.store.series_order import series_key
from rsna_e2e.tasks.ich import ICH

KEY = Pseudonyms(b"k" * 32)
NAMES = ("patient_id", "study_uid", "series_uid", "sop_uid", "image_id", "series_key")


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("deidentify") / "raw"
    small.write_raw(folder)
    (folder / "Doe^John.txt").write_text("no image")
    return folder


@pytest.fixture(scope="module")
def stores(raw: Path) -> tuple[Store, Store]:
    """The same files with their names, and without."""
    for name, pseudonyms in (("named", None), ("hashed", KEY)):
        prepare(raw, raw.parent / name, task=ICH, n_folds=3, n_jobs=1, pseudonyms=pseudonyms)
    return Store.open(raw.parent / "named"), Store.open(raw.parent / "hashed")


def test_order_folds_labels_and_pixels_stay(stores: tuple[Store, Store]) -> None:
    named, hashed = stores
    for name in INDEX_COLUMNS:
        if name in NAMES:
            assert not set(named.index[name]) & set(hashed.index[name]), name
        else:
            np.testing.assert_array_equal(named.index[name], hashed.index[name], err_msg=name)
    np.testing.assert_array_equal(named.labels, hashed.labels)
    for row in range(len(named)):
        np.testing.assert_array_equal(named.read_slice(row), hashed.read_slice(row))
    assert [span.rows for span in named.series] == [span.rows for span in hashed.series]
    assert set(named.index["fold"].tolist()) == {-1, 0, 1, 2}


def test_names_are_those_of_the_key(stores: tuple[Store, Store]) -> None:
    named, hashed = stores
    assert hashed.index["patient_id"].tolist() == [KEY.of("patient", name) for name in named.index["patient_id"]]
    assert hashed.index["sop_uid"].tolist() == [KEY.of("instance", name) for name in named.index["sop_uid"]]
    labelled = pq.read_table(hashed.path / "tasks/ich/slices.parquet")["image_id"].to_pylist()
    assert labelled == hashed.index["image_id"].tolist() == [KEY.of("image", i) for i in named.index["image_id"]]
    assert (named.key_check, hashed.key_check) == ("", KEY.check)


def test_series_keys_follow_from_hashed_names(stores: tuple[Store, Store]) -> None:
    for span in stores[1].series:
        assert span.series_key == series_key((span.patient_id, span.study_uid, span.series_uid))


def test_paths_of_refused_files_are_hashed(stores: tuple[Store, Store]) -> None:
    named, hashed = (store.read_refusals() for store in stores)
    assert [refusal.path for refusal in named] == ["Doe^John.txt"]
    assert [refusal.path for refusal in hashed] == [KEY.of("path", "Doe^John.txt")]
    assert named[0].reason == hashed[0].reason


def test_stores_of_one_key_can_be_joined(raw: Path, stores: tuple[Store, Store], tmp_path: Path) -> None:
    prepare(raw, tmp_path / "again", task=ICH, n_folds=3, n_jobs=1, pseudonyms=KEY)
    assert Store.open(tmp_path / "again").data_hash == stores[1].data_hash
    prepare(raw, tmp_path / "other", task=ICH, n_folds=3, n_jobs=1, pseudonyms=Pseudonyms(b"x" * 32))
    assert not set(Store.open(tmp_path / "other").index["patient_id"]) & set(stores[1].index["patient_id"])


def test_the_command_makes_a_key_and_says_so(raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key, store = tmp_path / "keys" / "k", tmp_path / "store"
    assert main(["prepare", str(raw), str(store), "--deidentify", str(key), "--jobs", "1"]) == 0
    assert f"identifiers are hashed with the key in {key}: keep it" in capsys.readouterr().out
    assert Store.open(store).key_check == load_key(key).check


@pytest.mark.parametrize(
    ("key", "more", "says"),
    [
        ("store/key", (), "the key must not lie inside the store"),
        ("raw/key", (), "the key must not lie inside the raw folder"),
        ("key", ("--shard", "1/2"), "Give it where they are merged"),
    ],
)
def test_misuse_is_named(
    key: str, more: tuple[str, ...], says: str, raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "raw").symlink_to(raw)
    paths = [str(tmp_path / name) for name in ("raw", "store")]
    assert main(["prepare", *paths, "--deidentify", str(tmp_path / key), *more]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "store").exists()
    assert not (tmp_path / key).exists()


def test_a_key_that_others_can_read_is_warned_of(raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = tmp_path / "k"
    key.write_text("x" * 40)
    key.chmod(0o644)
    assert main(["prepare", str(raw), str(tmp_path / "store"), "--deidentify", str(key), "--jobs", "1"]) == 0
    assert f"Run: chmod 600 {key}" in capsys.readouterr().err


def test_burned_in_annotation_is_counted_and_warned_of(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def flagged(stored: dict[str, Column]) -> dict[str, Column]:
        flags = ["", "NO", "YES", "YES"] + [""] * (len(stored["image_id"]) - 4)
        return index_columns(stored) | {"burned_in_annotation": np.array(flags, dtype=object)}

    monkeypatch.setattr("rsna_e2e.store.prepare.run.index_columns", flagged)
    assert main(["prepare", str(raw), str(tmp_path / "store"), "--jobs", "1"]) == 0
    captured = capsys.readouterr()
    assert re.search(r"n burned in +2\n", captured.out)
    assert "warning: 2 slices declare text burned into their pixels" in captured.err
