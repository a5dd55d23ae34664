"""What repair takes away and writes: nothing but damaged parts of a store, and all of these that can be mended."""

import errno
import os
import shutil
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stores import edit_manifest
from test_store_damage import contents, flip, flip_pixels, make

from rsna_e2e.cli import main
from rsna_e2e.core.errors import BadInputError
from rsna_e2e.store import Store, StoreError, manifest, shards, verify_store
from rsna_e2e.store.prepare import repair
from rsna_e2e.store.prepare.mend import LAID_OUT_OTHERWISE, NOT_FOUND
from rsna_e2e.store.verify import FOREIGN


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("repair"), "none")


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy to damage, of store and raw files."""
    shutil.copytree(made, tmp_path / "copy")
    return tmp_path / "copy"


def test_a_folder_that_is_no_store_is_left_alone(folder: Path) -> None:
    """As when the two arguments are swapped."""
    (folder / "raw.repair").mkdir()
    (folder / "raw.repair" / "mine").write_text("mine")
    (folder / "raw" / "shards").mkdir()
    (folder / "raw" / "shards" / "notes.tmp-2020").write_text("mine")
    before = contents(folder)
    with pytest.raises(StoreError, match="not a finished study store"):
        repair(folder / "raw", folder / "store", n_jobs=1)
    assert contents(folder) == before


def test_other_files_stay_and_fail_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = folder / "store"
    (folder / "store.repair").mkdir()
    (folder / "store.repair" / "mine").write_text("mine")
    for name in (".DS_Store", "shards/.DS_Store", "shards/notes.tmp-2020"):
        (store / name).write_text("mine")
    before = contents(folder)
    unfinished = store / "shards" / "00001.h5.tmp-mended.tmp-17"  # of a repair that was killed
    unfinished.write_text("half")
    flip_pixels(store, [3], np.random.default_rng(0))
    report = repair(store, folder / "raw", n_jobs=1)
    assert (report.n_mended_slices, report.n_mended_shards, report.left) == (1, 1, ())
    assert contents(folder) == before
    assert main(["store", "repair", str(store), str(folder / "raw")]) == 0
    capsys.readouterr()
    assert main(["store", "verify", str(store)]) == 3
    said = capsys.readouterr()
    assert said.out.count(FOREIGN) == 3
    assert "3 files do not belong to the store. Remove them" in said.err
    assert "store repair" not in said.err


def test_nothing_is_written_through_a_link(folder: Path) -> None:
    store, outside = folder / "store", folder / "outside"
    (store / "shards").rename(outside)
    (store / "shards").symlink_to(outside)
    (outside / "00000.h5.tmp-1").write_text("mine")
    flip(outside / "00000.h5", 9)
    before = contents(outside)
    with pytest.raises(StoreError, match="shards: a link; a store has a folder"):
        repair(store, folder / "raw", n_jobs=1)
    assert contents(outside) == before


def test_the_right_file_under_another_name_beside_a_wrong_one(folder: Path) -> None:
    store, before = folder / "store", contents(folder / "store")
    index = Store.open(store).index
    flip_pixels(store, [0, 1, 4], np.random.default_rng(0))
    (store / "shards" / index["shard"][11]).unlink()
    for row in (0, 10):
        called = folder / "raw" / f"{index['image_id'][row]}.dcm"
        (folder / "raw" / f"backup copy {row}.dcm").write_bytes(called.read_bytes())
        called.write_bytes(called.read_bytes()[:-2] + b"\1\1")
    report = repair(store, folder / "raw", n_jobs=1)
    assert (report.n_mended_slices, report.left) == (6, ())
    assert contents(store) == before


def test_a_shard_that_comes_out_otherwise_is_not_put_in_its_place(folder: Path) -> None:
    store, shard = folder / "store", folder / "store" / "shards" / "00001.h5"
    frames = manifest.read_manifest(store).frames
    edit_manifest(store, frames=frames | {"00001.h5": "0" * 16})
    number = shard.stat().st_ino
    report = repair(store, folder / "raw", n_jobs=1)
    assert [(damage.file, damage.row, damage.what) for damage in report.left] == [
        ("shards/00001.h5", None, LAID_OUT_OTHERWISE)
    ]
    assert shard.stat().st_ino == number
    shard.unlink()
    report = repair(store, folder / "raw", n_jobs=1)
    assert {damage.what for damage in report.left} == {LAID_OUT_OTHERWISE}
    assert (len(report.left), shard.exists()) == (4, False)


def test_slices_are_mended_where_the_file_around_them_cannot_be(folder: Path) -> None:
    store = folder / "store"
    index = Store.open(store).index
    rows = np.flatnonzero(index["shard"] == "00001.h5").tolist()
    flip_pixels(store, rows[:2], np.random.default_rng(0))
    flip(store / "shards" / "00001.h5", 9)
    (folder / "raw" / f"{index['image_id'][rows[0]]}.dcm").unlink()
    report = repair(store, folder / "raw", n_jobs=1)
    assert report.n_mended_slices == 1
    assert [(d.row, d.what) for d in report.left][1:] == [(rows[0], NOT_FOUND)]
    assert [d.row for d in verify_store(store).damages] == [None, rows[0]]


class ReadOnly:
    """A pool whose processes find the disk mounted so that nobody can write."""

    def __init__(self, n_workers: int) -> None: ...

    def __enter__(self) -> "ReadOnly":
        return self

    def __exit__(self, *_: object) -> None: ...

    def run(self, jobs: list[Any]) -> Iterator[Any]:
        for job in jobs:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(job.path))
        return iter(())


def test_a_disk_that_cannot_be_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flip(folder / "store" / "shards" / "00001.h5", 9)
    monkeypatch.setattr(import_module("rsna_e2e.store.prepare.repair"), "Pool", ReadOnly)
    with pytest.raises(BadInputError, match=r"00001\.h5: cannot be written. Mending a store needs to write there"):
        repair(folder / "store", folder / "raw", n_jobs=1)


def test_the_result_of_verify_is_not_written_into_the_store(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    before = contents(folder / "store")
    for out in ("store/store.json", "raw/../store/new/damage.json"):
        assert main(["store", "verify", "store", "--out", out]) == 2
        assert "must not lie inside store" in capsys.readouterr().err
    assert contents(folder / "store") == before
    assert not (folder / "store" / "new").exists()


def test_a_bad_sector_anywhere_is_told_as_damage(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such a disk gives all but one place of a file."""
    pread, checksum = os.pread, manifest.file_checksum
    bad = OSError(errno.EIO, os.strerror(errno.EIO))

    def read(descriptor: int, n_bytes: int, offset: int) -> bytes:
        if offset == 0:
            raise bad
        return pread(descriptor, n_bytes, offset)

    def read_table_file(path: Path) -> str:
        if path.name == "slices.parquet":
            raise bad
        return checksum(path)

    monkeypatch.setattr(shards.os, "pread", read)
    monkeypatch.setattr(manifest, "file_checksum", read_table_file)
    found = verify_store(folder / "store")
    names = [*(f"shards/0000{i}.h5" for i in range(4)), "tasks/ich/slices.parquet"]
    assert [(d.file, d.what) for d in found.damages] == [(name, "cannot be read: Input/output error") for name in names]
    assert found.n_slices == 12
    with pytest.raises(StoreError, match=r"slices\.parquet: missing or damaged"):
        Store.open(folder / "store")
