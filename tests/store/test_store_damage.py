"""Damage of every kind: found before it reaches a model, named by verify, and mended from the raw files by repair."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import phantoms
import pytest

from rsna_e2e.cli import main
from rsna_e2e.core.files import lock_folder
from rsna_e2e.store import Compression, Store, StoreError, verify_store
from rsna_e2e.store.prepare import prepare, repair
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.tasks.labels import write_labels

SERIES = 4
BOTH = pytest.mark.parametrize("compression", ["none", "bitshuffle-lz4"])


def make(folder: Path, compression: Compression, *, n_slices: int = 3, side: int = 64) -> Path:
    """Prepare a store of one shard for each series, in a folder of its own; return the folder."""
    ids: list[str] = []
    for number in range(SERIES):
        ids += phantoms.write_series(
            folder / "raw",
            name=f"s{number}",
            n_slices=n_slices,
            shape=(side, side + 8 * number),
            patient_id=f"p{number}",
        )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rsna_e2e.store.prepare.run.SHARD_BYTES", 1)
        write_labels(folder / "labels.csv", ICH, ids[:n_slices], np.ones((n_slices, 6)))
        how = {"labels": folder / "labels.csv", "n_jobs": 1, "compression": compression}
        prepare(folder / "raw", folder / "store", task=ICH, **how)
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: make(tmp_path_factory.mktemp(name), name) for name in ("none", "bitshuffle-lz4")}


@pytest.fixture
def folder(made: dict[str, Path], compression: Compression, tmp_path: Path) -> Path:
    """A copy to damage, of store and raw files."""
    shutil.copytree(made[compression], tmp_path / "copy")
    return tmp_path / "copy"


def contents(store: Path) -> dict[str, bytes]:
    return {str(path.relative_to(store)): path.read_bytes() for path in sorted(store.rglob("*")) if path.is_file()}


def n_intact(store: Path, before: dict[str, bytes]) -> int:
    """Files that are as they were, in a store that is being mended."""
    n = 0
    for name, content in before.items():
        with suppress(FileNotFoundError):
            n += (store / name).read_bytes() == content
    return n


def flip(path: Path, byte: int, bit: int = 0) -> None:
    with path.open("r+b") as file:
        file.seek(byte)
        (value,) = file.read(1)
        file.seek(byte)
        file.write(bytes([value ^ (1 << bit)]))


def flip_pixels(store: Path, rows: list[int], rng: np.random.Generator) -> None:
    """Flip a random bit in each of these slices."""
    index = Store.open(store).index
    for row in rows:
        byte = int(index["byte_offset"][row] + rng.integers(index["stored_bytes"][row]))
        flip(store / "shards" / index["shard"][row], byte, int(rng.integers(8)))


def check_flips(folder: Path, n_rows: int) -> None:
    """Every flip is found by whoever reads the slice; verify names them and nothing else; repair undoes them."""
    store, before = folder / "store", contents(folder / "store")
    rng = np.random.default_rng(n_rows)
    opened = Store.open(store)
    rows = sorted(rng.choice(len(opened), n_rows, replace=False).tolist())
    flip_pixels(store, rows, rng)
    for row in range(len(opened)):
        if row in rows:
            name = (
                f"slice {opened.index['slice_index'][row]} of series {opened.index['series_key'][row][:8]} is damaged"
            )
            with pytest.raises(StoreError, match=name):
                Store.open(store).read_slice(row)
        else:
            Store.open(store).read_slice(row)
    found = verify_store(store, n_threads=2)
    assert [damage.row for damage in found.damages] == rows
    assert [(d.series, d.slice_index, d.file) for d in found.damages] == [
        (opened.index["series_key"][r][:8], opened.index["slice_index"][r], f"shards/{opened.index['shard'][r]}")
        for r in rows
    ]
    assert (found.n_slices, found.n_damaged_slices) == (len(opened), n_rows)
    report = repair(store, folder / "raw", n_jobs=2)
    assert (report.n_mended_slices, report.left) == (n_rows, ())
    assert contents(store) == before


@BOTH
def test_flipped_bits_are_found_named_and_mended(folder: Path) -> None:
    check_flips(folder, 8)


@pytest.mark.slow
@BOTH
def test_a_hundred_of_a_hundred(tmp_path: Path, compression: Compression) -> None:
    check_flips(make(tmp_path, compression, n_slices=40, side=200), 100)


@BOTH
@pytest.mark.parametrize("n_flips", [12, pytest.param(100, marks=pytest.mark.slow)])
def test_any_flipped_bit_outside_of_pixels_is_found_and_mended(folder: Path, n_flips: int) -> None:
    store, before = folder / "store", contents(folder / "store")
    index = Store.open(store).index
    rng = np.random.default_rng(n_flips)
    is_pixel = np.zeros(len(before["shards/00000.h5"]), dtype=bool)
    for row in np.flatnonzero(index["shard"] == "00000.h5"):
        is_pixel[index["byte_offset"][row] : index["byte_offset"][row] + index["stored_bytes"][row]] = True
    for byte in rng.choice(np.flatnonzero(~is_pixel), n_flips, replace=False).tolist():
        flip(store / "shards" / "00000.h5", byte, int(rng.integers(8)))
        (damage,) = verify_store(store).damages
        assert (damage.file, damage.row) == ("shards/00000.h5", None)
        assert repair(store, folder / "raw", n_jobs=1).left == ()
        assert contents(store) == before


@BOTH
@pytest.mark.parametrize("name", ["index.parquet", "refusals.parquet", "store.json"])
def test_a_flipped_bit_in_a_table(folder: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    store = folder / "store"
    flip(store / name, (store / name).stat().st_size // 2)
    for command in (["verify", str(store)], ["repair", str(store), str(folder / "raw")]):
        assert main(["store", *command]) == 3
    said = capsys.readouterr()
    assert name in said.err
    assert "prepare the store again" in said.err
    with pytest.raises(StoreError, match=name):
        Store.open(store)


@BOTH
@pytest.mark.parametrize("name", ["slices.parquet", "set.json"])
def test_a_flipped_bit_in_a_label_set(folder: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    store = folder / "store"
    flip(store / "tasks" / "ich" / name, (store / "tasks" / "ich" / name).stat().st_size // 2)
    before = contents(store)
    assert main(["store", "verify", str(store)]) == 3
    said = capsys.readouterr()
    assert f"tasks/ich/{name}" in said.out
    assert "label set ich: damaged. Make this label set again: rsna-e2e label STORE LABELS --task ich" in said.err
    assert "prepare the store again" not in said.err
    assert main(["store", "repair", str(store), str(folder / "raw")]) == 0
    assert contents(store) == before
    with pytest.raises(StoreError, match=name):
        Store.open(store)


def _cut(store: Path) -> None:
    os.truncate(store / "shards" / "00001.h5", 20_000)


def _empty(store: Path) -> None:
    os.truncate(store / "shards" / "00001.h5", 0)


def _lengthen(store: Path) -> None:
    os.truncate(store / "shards" / "00001.h5", 1 << 20)


def _remove(store: Path) -> None:
    (store / "shards" / "00001.h5").unlink()


def _remove_all(store: Path) -> None:
    shutil.rmtree(store / "shards")
    (store / "shards").mkdir()


def _another(store: Path) -> None:
    shutil.copy(store / "shards" / "00000.h5", store / "shards" / "00001.h5")


def _link(store: Path) -> None:
    (store / "shards" / "00001.h5").rename(store.parent / "away")
    (store / "shards" / "00001.h5").symlink_to(store.parent / "away")


def _header_and_pixels(store: Path) -> None:
    flip(store / "shards" / "00001.h5", 9)  # in the superblock
    with (store / "shards" / "00001.h5").open("r+b") as file:
        file.seek(8192)
        file.write(bytes(100))


@BOTH
@pytest.mark.parametrize("damage", [_cut, _empty, _lengthen, _remove, _remove_all, _another, _link, _header_and_pixels])
def test_shards_that_are_cut_missing_or_others_are_made_again(folder: Path, damage: Callable[[Path], None]) -> None:
    store, before = folder / "store", contents(folder / "store")
    damage(store)
    with pytest.raises(StoreError, match=r"0000[01]\.h5: .*rsna-e2e store repair"):
        Store.open(store)
    assert not verify_store(store).is_whole
    assert repair(store, folder / "raw", n_jobs=2).left == ()
    assert contents(store) == before


@pytest.mark.parametrize("compression", ["none"])
def test_what_the_command_line_says(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store, raw = str(folder / "store"), str(folder / "raw")
    assert main(["store", "verify", store]) == 0
    assert "intact: 12 slices" in capsys.readouterr().out
    series = Store.open(folder / "store").series[1]
    flip_pixels(folder / "store", [series.first_row, series.first_row + 1], np.random.default_rng(0))
    out = folder / "damage.json"
    assert main(["store", "verify", store, "--json", "--out", str(out)]) == 3
    said = capsys.readouterr()
    told = json.loads(said.out)
    assert told == json.loads(out.read_text())
    assert (told["is_whole"], told["n_slices"], told["n_damaged_slices"]) == (False, 12, 2)
    assert [(d["series"], d["slice_index"]) for d in told["damages"]] == [
        (series.series_key[:8], 0),
        (series.series_key[:8], 1),
    ]
    assert "2 of 12 slices" in said.err
    assert main(["store", "verify", store]) == 3
    assert f"{series.series_key[:8]}     0-1  pixels" in capsys.readouterr().out
    assert main(["store", "repair", store, raw]) == 0
    assert "repaired 2 slices; 1 shards are intact again" in capsys.readouterr().out
    assert main(["store", "repair", store, raw]) == 0
    assert "repaired 0 slices; 0 shards are intact again" in capsys.readouterr().out
    assert main(["store", "verify", str(folder)]) == 3
    assert main(["store", "repair", store, str(folder / "nothing")]) == 3
    (folder / "store" / "notes.txt").write_text("mine")
    assert main(["store", "verify", store]) == 3
    assert "not a file of the store" in capsys.readouterr().out


@BOTH
def test_raw_files_that_changed_change_nothing(folder: Path) -> None:
    store = folder / "store"
    index = Store.open(store).index
    flip_pixels(store, [0, 1, 4, 5], np.random.default_rng(0))
    damaged = contents(store)
    changed = folder / "raw" / f"{index['image_id'][0]}.dcm"
    changed.write_bytes(changed.read_bytes()[:-2] + b"\1\1")
    (folder / "raw" / f"{index['image_id'][4]}.dcm").unlink()
    renamed = folder / "raw" / f"{index['image_id'][5]}.dcm"
    renamed.rename(folder / "raw" / "another name")
    report = repair(store, folder / "raw", n_jobs=1)
    assert (report.n_mended_slices, report.n_mended_shards) == (2, 0)
    assert [(d.row, d.what) for d in report.left] == [
        (0, "the raw files no longer give the same pixels"),
        (4, "no raw file has a slice at this position"),
    ]
    mended = contents(store)
    for row in (0, 4):
        shard = f"shards/{index['shard'][row]}"
        pixels = slice(index["byte_offset"][row], index["byte_offset"][row] + index["stored_bytes"][row])
        assert mended[shard][pixels] == damaged[shard][pixels]
    with pytest.raises(StoreError, match="is damaged"):
        Store.open(store).read_slice(0)


@BOTH
def test_a_header_is_mended_without_raw_files(folder: Path) -> None:
    store, before = folder / "store", contents(folder / "store")
    flip(store / "shards" / "00001.h5", 9)
    shutil.rmtree(folder / "raw")
    (folder / "raw").mkdir()
    assert repair(store, folder / "raw", n_jobs=1).left == ()
    assert contents(store) == before
    (store / "shards" / "00001.h5").unlink()
    report = repair(store, folder / "raw", n_jobs=1)
    assert [damage.what for damage in report.left] == ["missing", *["no raw file has a slice at this position"] * 3]


@pytest.mark.parametrize("compression", ["none"])
def test_mended_from_an_archive_of_the_same_files(folder: Path) -> None:
    store, before = folder / "store", contents(folder / "store")
    flip_pixels(store, [0, 7], np.random.default_rng(0))
    archive = shutil.make_archive(str(folder / "files"), "zip", folder / "raw")
    assert repair(store, Path(archive), n_jobs=1).n_mended_slices == 2
    assert contents(store) == before


@pytest.mark.parametrize("compression", ["none"])
def test_two_do_not_mend_one_store(folder: Path) -> None:
    lock = lock_folder(folder / "store")
    with pytest.raises(StoreError, match="another process is mending it"):
        repair(folder / "store", folder / "raw", n_jobs=1)
    os.close(lock)
    repair(folder / "store", folder / "raw", n_jobs=1)


PROGRAM = """
import sys
from pathlib import Path
from rsna_e2e.store.prepare import repair
repair(Path(sys.argv[1]), Path(sys.argv[2]), n_jobs=2)
"""


@pytest.mark.parametrize("compression", ["none"])
@pytest.mark.parametrize(("n_kills", "at_random"), [(3, False), pytest.param(20, True, marks=pytest.mark.slow)])
def test_killed_at_any_moment_and_begun_again(folder: Path, n_kills: int, at_random: bool) -> None:
    """At a random moment, or as soon as one more shard is mended."""
    store, before = folder / "store", contents(folder / "store")
    flip_pixels(store, [0, 1, 2], np.random.default_rng(0))
    for name in ("00001.h5", "00002.h5"):
        flip(store / "shards" / name, 9)
    os.truncate(store / "shards" / "00003.h5", 100)
    shutil.copytree(folder, folder.parent / "damaged")
    command = [sys.executable, "-c", PROGRAM, str(store), str(folder / "raw")]
    began_s = time.monotonic()
    subprocess.run(command, check=True)
    whole_s = time.monotonic() - began_s
    _damage_again(folder)
    rng = np.random.default_rng(1)
    n_killed = n_mended = 0
    for _ in range(n_kills):
        process = subprocess.Popen(command, start_new_session=True)
        until_s = time.monotonic() + (rng.uniform(0.5, 1.0) * whole_s if at_random else 60)
        while process.poll() is None and time.monotonic() < until_s:
            if not at_random and n_intact(store, before) > 4 + n_mended:
                n_mended += 1
                break
            time.sleep(0.001)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        n_killed += process.wait() == -signal.SIGKILL
        if contents(store) == before:
            _damage_again(folder)
            n_mended = 0
    assert n_killed > n_kills / 4
    subprocess.run(command, check=True)
    assert contents(store) == before
    assert sorted(path.name for path in folder.iterdir()) == ["labels.csv", "raw", "store"]


def _damage_again(folder: Path) -> None:
    shutil.rmtree(folder / "store")
    shutil.copytree(folder.parent / "damaged" / "store", folder / "store")
