"""The store: what is written comes back, and what was damaged, cut or half-written is refused."""

import errno
import os
import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import pytest
from stores import LABELS, SERIES, SHAPES, edit_manifest, make_index, make_labels, make_slices, make_store

from rsna_e2e.core.errors import BadInputError, DiskFullError
from rsna_e2e.store import Store, StoreError, StoreWriter, verify_store, write_shard
from rsna_e2e.store.layout import INDEX_COLUMNS
from rsna_e2e.tasks.ich import ICH


@pytest.fixture
def store_path(tmp_path: Path) -> Path:
    make_store(tmp_path / "store")
    return tmp_path / "store"


def test_slices_labels_and_columns_come_back(store_path: Path) -> None:
    store = Store.open(store_path)
    for row, hu in enumerate(make_slices()):
        np.testing.assert_array_equal(store.read_slice(row), hu)
        assert store.read_slice(row).dtype == np.int16
    np.testing.assert_array_equal(store.labels, LABELS)
    assert store.label_names == ICH.slices.names
    assert len(store) == 5
    assert set(store.index) == {*INDEX_COLUMNS, "split", "fold", "csv_place"}
    assert store.task_name == "ich"
    assert store.series_labels.shape == (2, 0)
    assert store.index["image_id"].tolist() == [f"image_id{row}" for row in range(5)]
    first, second = store.series
    assert (first.series_key, first.first_row, first.n_slices, first.split, first.fold) == ("a", 0, 3, "train", 4)
    assert (second.series_key, second.first_row, second.n_slices, second.split, second.fold) == ("b", 3, 2, "test", -1)
    assert second.patient_id == "patient_idb"


def test_any_hdf5_tool_reads_the_same_and_chunks_lie_on_pages(store_path: Path) -> None:
    slices = make_slices()
    offsets = Store.open(store_path).index["byte_offset"]
    with h5py.File(store_path / "shards" / "00000.h5") as file:
        np.testing.assert_array_equal(file["hu_64x64"], np.stack([slices[0], slices[1], slices[3]]))
        np.testing.assert_array_equal(file["hu_80x48"], slices[2][None])
        assert file["hu_64x64"].chunks == (1, 64, 64)
        assert file["hu_64x64"].compression is None
        assert file.attrs["complete"] == 1
    assert (offsets[:4] % 4096 == 0).all()


def test_a_pickled_store_opens_itself_and_threads_may_share_it(store_path: Path) -> None:
    store = pickle.loads(pickle.dumps(Store.open(store_path)))
    with ThreadPoolExecutor(4) as pool:
        read = list(pool.map(store.read_slice, [row % 5 for row in range(200)]))
    assert all(np.array_equal(hu, make_slices()[row % 5]) for row, hu in enumerate(read))


def test_the_hash_is_that_of_the_data(tmp_path: Path) -> None:
    assert make_store(tmp_path / "one") == make_store(tmp_path / "two") == Store.open(tmp_path / "one").data_hash
    others = LABELS.copy()
    others[0, 0] = 1
    assert make_store(tmp_path / "three", labels=others) != Store.open(tmp_path / "one").data_hash


def test_every_flipped_bit_of_the_pixels_is_found_and_named(store_path: Path) -> None:
    store = Store.open(store_path)
    shard = store_path / "shards" / "00000.h5"
    whole = shard.read_bytes()
    rng = np.random.default_rng(1)
    for row in rng.integers(0, 5, 40):
        n_bytes = 2 * SHAPES[row][0] * SHAPES[row][1]
        byte = int(store.index["byte_offset"][row] + rng.integers(n_bytes))
        flipped = bytes([whole[byte] ^ (1 << int(rng.integers(8)))])
        shard.write_bytes(whole[:byte] + flipped + whole[byte + 1 :])
        with pytest.raises(StoreError, match=f"slice {store.index['slice_index'][row]} of series {SERIES[row]}"):
            store.read_slice(row)
    shard.write_bytes(whole)
    store.read_slice(0)


def test_a_shard_cut_after_opening(store_path: Path) -> None:
    store = Store.open(store_path)
    shard = store_path / "shards" / "00000.h5"
    shard.write_bytes(shard.read_bytes()[: int(store.index["byte_offset"][0]) + 100])
    with pytest.raises(StoreError, match="damaged"):
        store.read_slice(0)
    shard.unlink()
    with pytest.raises(StoreError, match="cannot be read"):
        store.read_slice(0)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


def test_a_folder_that_never_was_a_store_is_said_to_be_none(tmp_path: Path) -> None:
    (tmp_path / "1.dcm").write_bytes(b"raw")
    with pytest.raises(StoreError, match=r"is no study store \(no store.json\)\. Make one: rsna-e2e prepare RAW STORE"):
        Store.open(tmp_path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: (path / "store.json").unlink(), "not a finished study store"),
        (lambda path: edit_manifest(path, format_version=3), "store version 3, this program reads 4. Prepare it again"),
        (lambda path: edit_manifest(path, format_version=5), "store version 5, this program reads 4"),
        (lambda path: edit_manifest(path, format="something else"), "not the store.json of a study store"),
        (lambda path: (path / "store.json").write_text("{"), "store.json: missing or damaged"),
        (lambda path: (path / "store.json").write_text("[]"), "not the store.json of a study store"),
        (lambda path: flip(path / "index.parquet"), "index.parquet: missing or damaged"),
        (
            lambda path: flip(path / "tasks/ich/slices.parquet"),
            "slices.parquet: missing or damaged. Make this label set",
        ),
        (lambda path: (path / "tasks/ich/slices.parquet").unlink(), "slices.parquet: missing or damaged"),
        (
            lambda path: flip(path / "tasks/ich/set.json"),
            "set.json: missing or damaged. .* rsna-e2e label STORE LABELS",
        ),
        (lambda path: (path / "tasks/ich/set.json").unlink(), "set.json: missing or damaged"),
        (lambda path: (path / "refusals.parquet").unlink(), "refusals.parquet: missing or damaged"),
        (lambda path: cut(path / "shards" / "00000.h5"), "00000.h5: missing or damaged"),
        (lambda path: (path / "shards" / "00000.h5").unlink(), "00000.h5: missing or damaged"),
    ],
)
def test_what_is_no_whole_store_is_refused(store_path: Path, damage: Callable[[Path], None], message: str) -> None:
    damage(store_path)
    with pytest.raises(StoreError, match=message) as error:
        Store.open(store_path)
    assert error.value.exit_code == BadInputError.exit_code == 3
    assert str(store_path) in str(error.value)
    assert "\n" not in str(error.value)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no such folder"):
        Store.open(tmp_path / "nothing")


def test_what_is_there_is_not_overwritten(store_path: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="prepared store already exists"):
        make_store(store_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("x")
    with pytest.raises(StoreError, match="not empty"):
        make_store(tmp_path / "full")
    (tmp_path / "empty").mkdir()
    make_store(tmp_path / "empty")
    Store.open(tmp_path / "empty")


def test_two_writers_of_one_store(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "store"), pytest.raises(StoreError, match="another process"):
        StoreWriter(tmp_path / "store").__enter__()
    assert list(tmp_path.iterdir()) == []


def test_a_failure_leaves_nothing_and_a_killed_writer_nothing_that_matters(tmp_path: Path) -> None:
    def interrupted() -> Iterator[np.ndarray]:
        yield make_slices()[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), StoreWriter(tmp_path / "store") as writer:
        write_shard(writer.shards_folder / "00000.h5", interrupted())
    assert list(tmp_path.iterdir()) == []
    # What SIGKILL leaves is a folder of another name, which the next run clears away.
    (tmp_path / "store.partial" / "shards").mkdir(parents=True)
    (tmp_path / "store.partial" / "shards" / "00007.h5").write_text("half")
    (tmp_path / "store.partial" / "index.parquet").write_text("half")
    make_store(tmp_path / "store")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["store"]
    assert [path.name for path in (tmp_path / "store" / "shards").iterdir()] == ["00000.h5"]


def test_on_a_full_disk_only_what_was_finished_stays(tmp_path: Path) -> None:
    def fill(folder: Path) -> None:
        for name in ("00000.h5", "00001.h5.tmp-7"):  # the latter by a process that was killed
            (folder / name).write_text(name)
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left"), StoreWriter(tmp_path / "store", inputs="of these") as writer:
        fill(writer.shards_folder)
    assert [path.name for path in writer.shards_folder.iterdir()] == ["00000.h5"]


def test_a_shard_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    def slices() -> Iterator[np.ndarray]:
        yield make_slices()[0]
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(DiskFullError, match=r"00000\.h5: the disk is full"):
        write_shard(tmp_path / "00000.h5", slices())
    assert list(tmp_path.iterdir()) == []


def test_the_disk_writes_while_slices_are_still_coming(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    monkeypatch.setattr(
        "rsna_e2e.store.shards.begin_sync", lambda descriptor: sizes.append(os.fstat(descriptor).st_size)
    )
    write_shard(tmp_path / "00000.h5", (make_slices()[0] for _ in range(40)))
    slice_bytes = make_slices()[0].nbytes
    assert [size // slice_bytes for size in sizes] == [16, 32]


def test_a_shard_that_does_not_read_back_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rsna_e2e.store.shards.read_pixels", lambda *args, **options: [0])
    with pytest.raises(StoreError, match="does not read back"):
        write_shard(tmp_path / "00000.h5", iter(make_slices()[:1]))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "columns",
    [
        {"position_mm": [0.0, 2.0, 1.0, 0.0, 1.0]},
        {"position_mm": [0.0, 1.0, 1.0, 0.0, 1.0]},
        {"sop_uid": ["x", "y", "x", "x", "y"], "frame_number": [1, 1, 1, 1, 1]},
        {"series_key": ["a", "a", "b", "a", "a"]},
    ],
    ids=["falling", "level", "a slice twice", "a series in two places"],
)
def test_an_index_that_no_store_may_have_is_not_committed(tmp_path: Path, columns: dict[str, list[object]]) -> None:
    with StoreWriter(tmp_path / "store") as writer:
        stored = write_shard(writer.shards_folder / "00000.h5", iter(make_slices()))
        index = make_index(stored) | {name: np.array(values) for name, values in columns.items()}
        with pytest.raises(StoreError, match="not made, because series a"):
            writer.commit(index=index, labels=make_labels(index), refusals=[])
    assert list(tmp_path.iterdir()) == []


def test_slices_that_only_differ_in_series_or_frame_are_committed(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "store") as writer:
        stored = write_shard(writer.shards_folder / "00000.h5", iter(make_slices()))
        same = {"sop_uid": np.array(["x"] * 5), "frame_number": np.array([1, 2, 3, 1, 2])}
        index = make_index(stored) | same
        writer.commit(index=index, labels=make_labels(index), refusals=[])
    assert len(Store.open(tmp_path / "store")) == 5


def test_a_shard_all_of_whose_slices_were_refused(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "store") as writer:
        stored = write_shard(writer.shards_folder / "00000.h5", iter(make_slices()))
        assert write_shard(writer.shards_folder / "00001.h5", iter([])) == []
        index = make_index(stored)
        writer.commit(index=index, labels=make_labels(index), refusals=[])
    np.testing.assert_array_equal(Store.open(tmp_path / "store").read_slice(4), make_slices()[4])
    assert verify_store(tmp_path / "store").is_whole
