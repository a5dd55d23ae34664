"""Stores that somebody made to harm whoever opens them: refused when they are opened, and nothing outside is read."""

import os
import resource
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from stores import edit_index, edit_manifest, make_store, sign

from rsna_e2e.hdf5 import NotPlainError, open_plain
from rsna_e2e.store import Store, StoreError, verify_store
from rsna_e2e.store.layout import INDEX_COLUMNS
from rsna_e2e.store.tables import write_table

SECRET = b"the passwords of everybody, canary 7391 ".ljust(8192)


@pytest.fixture
def store_path(tmp_path: Path) -> Path:
    (tmp_path / "secret.txt").write_bytes(SECRET)
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["hu_64x64"] = np.frombuffer(SECRET, dtype="<i2").reshape(1, 64, 64)
    make_store(tmp_path / "store")
    for secret in (tmp_path / "secret.txt", tmp_path / "secret.h5"):
        os.utime(secret, (0, 1_000_000_000))  # relatime: the next read shows in the access time
    return tmp_path / "store"


def _external_storage(file: h5py.File, secrets: Path) -> None:
    file.create_dataset("hu_64x64", (1, 64, 64), "<i2", external=[(str(secrets / "secret.txt"), 0, 8192)])


def _external_link(file: h5py.File, secrets: Path) -> None:
    file["hu_64x64"] = h5py.ExternalLink(str(secrets / "secret.h5"), "/hu_64x64")


def _soft_link(file: h5py.File, secrets: Path) -> None:
    file["hu_16x16"] = h5py.SoftLink("/hu_64x64")


def _virtual(file: h5py.File, secrets: Path) -> None:
    layout = h5py.VirtualLayout((1, 64, 64), "<i2")
    layout[:] = h5py.VirtualSource(str(secrets / "secret.h5"), "hu_64x64", (1, 64, 64))
    file.create_virtual_dataset("hu_64x64", layout)


def _filter(file: h5py.File, secrets: Path) -> None:
    file.create_dataset("hu_64x64", data=np.zeros((1, 64, 64), "<i2"), chunks=(1, 64, 64), compression="gzip")


def _huge_grid(file: h5py.File, secrets: Path) -> None:
    file.create_dataset("hu_512x512", (32768, 512, 512), "<i2", chunks=(1, 512, 512))  # 16 GiB


def _huge_chunk(file: h5py.File, secrets: Path) -> None:
    file.create_dataset("hu_64x64", (0, 64, 64), "<i2", chunks=(1 << 16, 64, 64), maxshape=(None, 64, 64))


def _group(file: h5py.File, secrets: Path) -> None:
    file.create_group("hu_64x64")


SHARDS = {
    _external_storage: "lie in other files",
    _external_link: "is a link",
    _soft_link: "is a link",
    _virtual: "lie in other files",
    _filter: "has filters",
    _huge_grid: "claims shape",
    _huge_chunk: "claims shape",
    _group: "is no dataset",
}


@pytest.mark.parametrize(("spoil", "message"), SHARDS.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_a_shard_that_leads_elsewhere(store_path: Path, spoil: Callable[[h5py.File, Path], None], message: str) -> None:
    shard = store_path / "shards" / "00000.h5"
    with h5py.File(shard, "w") as file:
        spoil(file, store_path.parent)
        file.create_dataset("pad", data=np.zeros(60_000, "i1"))  # so that every offset of the index lies in the file
        file.attrs["complete"] = 1
    sign(store_path)
    with pytest.raises(StoreError, match=f"00000.h5: refused: .*{message}"):
        Store.open(store_path)
    assert any(message in damage.what for damage in verify_store(store_path).damages)
    for secret in ("secret.txt", "secret.h5"):
        assert (store_path.parent / secret).stat().st_atime_ns == 0, f"{secret} was read"


def test_without_that_check_the_library_reads_the_secret(store_path: Path) -> None:
    with h5py.File(store_path.parent / "x.h5", "w") as file:
        _external_storage(file, store_path.parent)
    with h5py.File(store_path.parent / "x.h5") as file:
        assert file["hu_64x64"][:].tobytes() == SECRET
    assert (store_path.parent / "secret.txt").stat().st_atime_ns > 0
    with pytest.raises(NotPlainError), open_plain(store_path.parent / "x.h5"):
        pass


def _link_shard(path: Path) -> None:
    (path / "shards" / "00000.h5").rename(path.parent / "outside.h5")
    (path / "shards" / "00000.h5").symlink_to(path.parent / "outside.h5")


def _link_folder(path: Path) -> None:
    (path / "shards").rename(path.parent / "outside")
    (path / "shards").symlink_to(path.parent / "outside")


def _link_index(path: Path) -> None:
    (path / "index.parquet").rename(path.parent / "outside.parquet")
    (path / "index.parquet").symlink_to(path.parent / "outside.parquet")


def _fifo(path: Path) -> None:
    (path / "shards" / "00000.h5").unlink()
    os.mkfifo(path / "shards" / "00000.h5")


def _fifo_manifest(path: Path) -> None:
    (path / "store.json").unlink()
    os.mkfifo(path / "store.json")


def _named(name: str) -> Callable[[Path], None]:
    """Name a shard so that it leads out of the store, in manifest and index alike."""

    def spoil(path: Path) -> None:
        shutil.copy(path / "shards" / "00000.h5", path.parent / "outside.h5")
        place = name.format(outside=path.parent / "outside.h5")
        edit_index(path, lambda index: index.update(shard=np.array([place] * 5, dtype=object)))
        size = (path.parent / "outside.h5").stat().st_size
        edit_manifest(path, shards={place: size}, frames={place: "0" * 16})

    return spoil


def _huge_manifest(path: Path) -> None:
    os.truncate(path / "store.json", 1 << 30)


def _deep_manifest(path: Path) -> None:
    (path / "store.json").write_text('{"format": ' + "[" * 1_000_000)


@pytest.mark.parametrize(
    "spoil",
    [
        _link_shard,
        _link_folder,
        _link_index,
        _fifo,
        _fifo_manifest,
        _named("../../outside.h5"),
        _named("{outside}"),
        _huge_manifest,
        _deep_manifest,
    ],
)
def test_files_that_lead_elsewhere_or_have_no_end(store_path: Path, spoil: Callable[[Path], None]) -> None:
    Store.open(store_path).read_slice(0)
    spoil(store_path)
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(StoreError, match="missing or damaged") as error:
        Store.open(store_path)
    assert error.value.exit_code == 3
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak_kib < 128 << 10


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("shard", ["../../../etc/passwd", *["00000.h5"] * 4], "impossible shard"),
        ("shard", ["00001.h5"] * 5, "impossible shard"),
        ("byte_offset", [-4096] * 5, "impossible byte_offset"),
        ("byte_offset", [1 << 62] * 5, "impossible byte_offset"),
        ("byte_offset", [2**63 - 1] * 5, "impossible byte_offset"),
        ("rows", [-64] * 5, "impossible rows"),
        ("rows", [0] * 5, "impossible rows"),
        ("rows", [2**31 - 1] * 5, "impossible rows"),
        ("rows", [4096] * 5, "impossible stored_bytes"),
        ("stored_bytes", [1] * 5, "impossible stored_bytes"),
        ("stored_bytes", [2**63 - 1] * 5, "impossible stored_bytes"),
        ("slice_index", [0, 2, 1, 0, 1], "impossible slice_index"),
        ("series_key", ["a", "b", "a", "b", "b"], "impossible series_key"),
    ],
)
def test_an_index_that_points_where_nothing_can_be(
    store_path: Path, column: str, values: list[object], message: str
) -> None:
    edit_index(store_path, lambda index: index.update({column: np.array(values, dtype=index[column].dtype)}))
    with pytest.raises(StoreError, match=rf"index\.parquet: damaged \({message}"):
        Store.open(store_path)


def test_what_a_packed_slice_cannot_be(tmp_path: Path) -> None:
    """Its own bytes would have to unpack to more than LZ4 makes of them."""
    make_store(tmp_path, compression="bitshuffle-lz4")
    Store.open(tmp_path)
    edit_index(tmp_path, lambda index: index.update(stored_bytes=np.full(5, 10)))
    with pytest.raises(StoreError, match="impossible stored_bytes"):
        Store.open(tmp_path)


@pytest.mark.parametrize(
    "values",
    [
        {"shards": {"00000.h5": -1}},
        {"shards": {"00000.h5": "1"}},
        {"shards": {"00000.h5": 1e300}},
        {"shards": ["00000.h5"]},
        {"frames": {}},
        {"frames": {"00000.h5": 0}},
        {"files": {}},
        {"files": {"/etc/passwd": "0" * 16}},
        {"n_slices": -5},
        {"n_slices": True},
        {"n_slices": 1 << 60},
        {"label_names": []},
        {"label_names": ["a", "a"]},
        {"label_names": [["a"]]},
        {"content_windows_hu": [[40]]},
        {"content_windows_hu": [[40, 1e400]]},
        {"compression": "zip"},
        {"compression": ["none"]},
        {"data_hash": None},
        {"task": {"$ref": "x"}},
    ],
    ids=str,
)
def test_a_manifest_that_says_what_cannot_be(store_path: Path, values: dict[str, object]) -> None:
    edit_manifest(store_path, **values)
    with pytest.raises(StoreError, match=r"store\.json: missing or damaged"):
        Store.open(store_path)


def test_a_version_of_any_length_is_told_in_one_short_line(store_path: Path) -> None:
    edit_manifest(store_path, format_version="9\n" * 100_000)
    with pytest.raises(StoreError, match="this program reads") as error:
        Store.open(store_path)
    assert len(str(error.value)) < 500
    assert "\n" not in str(error.value)


def test_a_table_that_claims_more_rows_than_its_bytes_can_hold(store_path: Path) -> None:
    n = 200_000

    columns = {
        name: np.full(n, "x" if kind == "str" else 1, dtype=object if kind == "str" else kind)
        for name, kind in INDEX_COLUMNS.items()
    }
    write_table(store_path / "index.parquet", columns)
    sign(store_path)
    edit_manifest(store_path, n_slices=n)
    assert (store_path / "index.parquet").stat().st_size < n
    with pytest.raises(StoreError, match="claims more than a file of its size can hold"):
        Store.open(store_path)


@pytest.mark.parametrize("columns", [{"a": np.arange(5)}, {"image_id": np.arange(5)}, {}])
def test_a_table_of_other_columns(store_path: Path, columns: dict[str, np.ndarray]) -> None:
    write_table(store_path / "index.parquet", columns)
    sign(store_path)
    with pytest.raises(StoreError, match="columns are not those of a store"):
        Store.open(store_path)


def test_labels_of_other_slices(store_path: Path) -> None:
    edit_index(store_path, lambda index: index.update(image_id=index["image_id"][::-1]))
    with pytest.raises(StoreError, match="labels of other images"):
        Store.open(store_path)


def test_what_is_no_parquet_at_all(store_path: Path) -> None:
    (store_path / "index.parquet").write_bytes(b"PAR1" + bytes(1000) + b"PAR1")
    sign(store_path)
    with pytest.raises(StoreError, match=r"index\.parquet: damaged"):
        Store.open(store_path)
