"""Packed shards: the same pixels and data hash, readable by any HDF5 tool with the filter, and safe to unpack."""

import struct
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import phantoms
import pytest
import xxhash
from stores import SHAPES, make_slices, make_store

from rsna_e2e.cli import main
from rsna_e2e.core.errors import MissingCapabilityError
from rsna_e2e.store import Store, StoreError, bytes_on_disk, codecs, read_pixels, write_shard
from rsna_e2e.store.prepare import prepare
from rsna_e2e.tasks.ich import ICH

PACKED = "bitshuffle-lz4"


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packed") / "raw"
    phantoms.write_series(folder, name="a", n_slices=4, shape=(128, 96))
    phantoms.write_series(folder, name="b", n_slices=2, shape=(17, 13), patient_id="another")
    return folder


def test_the_same_pixels_and_hash_and_any_hdf5_tool_reads_them(tmp_path: Path) -> None:
    assert make_store(tmp_path / "packed", compression=PACKED) == make_store(tmp_path / "plain")
    store = Store.open(tmp_path / "packed")
    assert store.compression == PACKED
    slices = make_slices()
    values = np.empty(sum(hu.size for hu in slices), dtype="<i2")
    store.read_slices(range(5), values)
    np.testing.assert_array_equal(values, np.concatenate([hu.reshape(-1) for hu in slices]))
    with h5py.File(tmp_path / "packed" / "shards" / "00000.h5") as file:
        np.testing.assert_array_equal(file["hu_64x64"], np.stack([slices[0], slices[1], slices[3]]))
        np.testing.assert_array_equal(file["hu_80x48"], slices[2][None])
        np.testing.assert_array_equal(file["hu_16x16"], slices[4][None])
        plist = file["hu_64x64"].id.get_create_plist()
        assert [plist.get_filter(i)[0] for i in range(plist.get_nfilters())] == [32008]


def test_prepare_compress_differs_in_storage_only(raw: Path, tmp_path: Path) -> None:
    for name, options in (("plain", []), ("packed", ["--compress"]), ("again", ["--compress"])):
        assert main(["prepare", str(raw), str(tmp_path / name), "--jobs", "1", *options]) == 0
    plain, packed = Store.open(tmp_path / "plain"), Store.open(tmp_path / "packed")
    assert plain.data_hash == packed.data_hash
    differing = {
        name
        for name, column in plain.index.items()
        if not np.array_equal(column, packed.index[name], equal_nan=column.dtype.kind == "f")
    }
    assert differing == {"byte_offset", "stored_bytes", "packed_checksum"}
    assert packed.index["stored_bytes"].sum() < plain.index["stored_bytes"].sum()
    for row in range(len(plain)):
        np.testing.assert_array_equal(plain.read_slice(row), packed.read_slice(row))
    shard = Path("shards") / "00000.h5"
    assert (tmp_path / "packed" / shard).read_bytes() == (tmp_path / "again" / shard).read_bytes()


def test_an_attempt_without_it_is_not_gone_on_with(raw: Path, tmp_path: Path) -> None:
    def interrupt(done: int, total: int, note: str = "") -> None:
        if note.startswith("pixels"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(raw, tmp_path / "store", task=ICH, n_jobs=1, progress=interrupt)
    prepare(raw, tmp_path / "store", task=ICH, n_jobs=1, compression=PACKED)
    store = Store.open(tmp_path / "store")
    for row in range(len(store)):
        store.read_slice(row)


def test_threads_read_at_the_same_time(tmp_path: Path) -> None:
    make_store(tmp_path, compression=PACKED)
    store = Store.open(tmp_path)
    with ThreadPoolExecutor(4) as pool:
        read = list(pool.map(store.read_slice, [row % 5 for row in range(400)]))
    assert all(np.array_equal(hu, make_slices()[row % 5]) for row, hu in enumerate(read))


@pytest.fixture
def no_hdf5plugin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(sys.modules, "hdf5plugin", None)
    codecs._library.cache_clear()
    yield
    codecs._library.cache_clear()


def test_without_the_library(
    raw: Path, tmp_path: Path, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    make_store(tmp_path / "packed", compression=PACKED)
    make_store(tmp_path / "plain")
    request.getfixturevalue("no_hdf5plugin")
    install = r"pip install 'rsna_e2e\[compress\]'"
    with pytest.raises(MissingCapabilityError, match=install):
        Store.open(tmp_path / "packed")
    Store.open(tmp_path / "plain").read_slice(0)
    for command in (
        ["prepare", str(raw), str(tmp_path / "new"), "--compress"],
        ["store", "verify", str(tmp_path / "packed")],
    ):
        assert main(command) == 4
        assert "pip install 'rsna_e2e[compress]'" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


LENGTHS = [1, 7, 8, 9, 255, 4096, 8191, 8192, 8193, 8200, 16391, 65536]


@pytest.mark.parametrize("n_values", LENGTHS)
def test_any_length_comes_back_and_takes_no_more_than_foreseen(n_values: int) -> None:
    rng = np.random.default_rng(n_values)
    for values in (
        rng.integers(-32768, 32768, n_values).astype("<i2"),  # noise, the worst there is
        np.full(n_values, -1000, dtype="<i2"),
    ):
        chunk = codecs.as_stored(values, PACKED)
        assert len(chunk) <= codecs.longest_packed(n_values, PACKED) <= bytes_on_disk(n_values, PACKED)
        back = np.empty_like(values)
        assert codecs.unpack(chunk, back)
        np.testing.assert_array_equal(back, values)


def ct_like(n_values: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.where(np.arange(n_values) % 512 < 300, -1000, rng.normal(40, 9, n_values)).astype("<i2")


@pytest.mark.parametrize("n_changes", [2_000, pytest.param(200_000, marks=pytest.mark.slow)])
def test_bytes_from_anywhere_neither_crash_nor_pass_for_the_slice(n_changes: int) -> None:
    values = ct_like(20_003)
    chunk = codecs.as_stored(values, PACKED)
    checksum = xxhash.xxh3_64_intdigest(values.data)
    rng = np.random.default_rng(n_changes)
    back = np.empty_like(values)
    n_taken = 0
    for _ in range(n_changes):
        changed = chunk.copy()
        for place in rng.integers(0, len(chunk), rng.integers(1, 4)):
            changed[place] = rng.integers(256)
        changed = changed[: rng.integers(len(chunk)) if rng.random() < 0.2 else None]
        is_right = codecs.unpack(changed, back) and xxhash.xxh3_64_intdigest(back.data) == checksum
        n_taken += is_right and not np.array_equal(back, values)
    assert n_taken == 0


@pytest.mark.parametrize("length", [0, 1, 1 << 20, (1 << 31) - 1, (1 << 32) - 1])
@pytest.mark.parametrize("n_values", [8_000, 20_003])  # one block, and three
def test_a_block_that_says_it_is_longer_than_the_chunk_never_reaches_the_library(
    n_values: int, length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = ct_like(n_values)
    chunk = codecs.as_stored(values, PACKED).copy()
    assert codecs.unpack(chunk, values.copy())
    chunk[12:16] = np.frombuffer(struct.pack(">I", length), np.uint8)
    monkeypatch.setattr(codecs, "_library", lambda: pytest.fail("was called"))
    assert not codecs.unpack(chunk, values.copy())
    for size in (0, 3, 11, 12, 15, len(chunk) - 1):
        assert not codecs.unpack(chunk[:size], values.copy())


def test_every_bit_counts_even_where_lz4_has_several_spellings_of_one_thing(tmp_path: Path) -> None:
    hu = np.full((64, 64), -1000, dtype="<i2")
    path = tmp_path / "00000.h5"
    (pixels,) = write_shard(path, [hu], compression=PACKED)
    whole = path.read_bytes()
    back = np.empty(hu.size, dtype="<i2")
    n_right = 0
    for bit in range(8 * pixels.n_bytes):
        content = bytearray(whole)
        content[pixels.byte_offset + bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)
        assert read_pixels(path, [(pixels, back)], compression=PACKED) == [0]
        chunk = np.frombuffer(content, np.uint8, pixels.n_bytes, pixels.byte_offset)
        n_right += codecs.unpack(chunk, back) and np.array_equal(back, hu.reshape(-1))
    assert n_right > 0  # the checksum of the HU alone would have let these pass


def test_a_slice_under_another_ones_name(tmp_path: Path) -> None:
    """Whole and well packed, but not what the index says."""
    make_store(tmp_path, compression=PACKED)
    store = Store.open(tmp_path)
    first, second = (int(store.index["byte_offset"][row]) for row in (0, 1))
    shard = tmp_path / "shards" / "00000.h5"
    content = bytearray(shard.read_bytes())
    n_bytes = int(store.index["stored_bytes"][:2].min())
    content[first : first + n_bytes] = content[second : second + n_bytes]
    shard.write_bytes(content)
    assert SHAPES[0] == SHAPES[1]
    with pytest.raises(StoreError, match="slice 0 of series a is damaged"):
        store.read_slice(0)
