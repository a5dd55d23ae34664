"""Stores that somebody made to harm whoever opens them: refused when they are opened, and nothing outside is read."""

import os
import resource
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from stores import DIVISION, edit_index, edit_labels, edit_manifest, edit_set, make_store, sign

from rsna_e2e.core.hdf5 import NotPlainError, open_plain
from rsna_e2e.core.records import printable
from rsna_e2e.dicom.elements import _CONTROL
from rsna_e2e.store import Store, StoreError, verify_store
from rsna_e2e.store.layout import INDEX_COLUMNS, SLICE_COLUMNS
from rsna_e2e.store.tables import read_table, write_table
from rsna_e2e.tasks.ich import ICH

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


def _link_set(path: Path) -> None:
    (path / "tasks/ich").rename(path.parent / "outside")
    (path / "tasks/ich").symlink_to(path.parent / "outside")


def _link_sets(path: Path) -> None:
    (path / "tasks").rename(path.parent / "outside")
    (path / "tasks").symlink_to(path.parent / "outside")


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
        _link_set,
        _link_sets,
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


# Of every column of numbers, values that no slice can have; of every column of text, some that are no such text. Where
# a value depends on others, or another column is found first, see below.
ESC, LINE, SPOOF = "\x1b[31m", "a\nb", "a\u202eb"
IMPOSSIBLE = {
    **dict.fromkeys(("series_key", "decoder", "shard"), (ESC, LINE, SPOOF, "a\u2028b", "a\0b")),
    "image_id": ("", ESC, LINE, SPOOF, "a\u2028b", "a\0b"),
    **dict.fromkeys(("patient_id", "study_uid", "series_uid", "sop_uid"), (LINE, "a\0b", "a\x7fb")),
    "split": ("x", "", "Train"),
    "csv_place": (-2, -(2**63)),
    "burned_in_annotation": (ESC, "<script>"),
    "transfer_syntax_uid": ("<script>x</script>", ESC, "1.2.x"),
    "repair": ("<b>", "a b"),
    "frame_number": (0, -1, 4097, 2**31 - 1),
    "fold": (-2, -5, -(2**31)),
    **dict.fromkeys(("rows", "columns"), (-1, 0, 4097, 2**31 - 1)),
    **dict.fromkeys((f"ipp_{axis}_mm" for axis in "xyz"), (10_001.0, -1e300, np.inf, np.nan)),
    **dict.fromkeys(
        (f"iop_{way}_{axis}" for way in ("row", "column") for axis in "xyz"), (1.1, -2.0, np.nan, np.inf, -np.inf)
    ),
    "position_mm": (1e6, np.nan, np.inf),
    **dict.fromkeys(("spacing_row_mm", "spacing_column_mm"), (0.0, -1.0, 1e-300, 101.0, np.nan, np.inf)),
    "slope": (0.0, np.nan, np.inf, -np.inf),
    "intercept": (np.nan, np.inf, -np.inf),
    "bits_stored": (-1, 0, 17),
    "pixel_representation": (-1, 2),
    "window_center_hu": (np.inf, -np.inf, 1e6),
    "window_width_hu": (np.inf, -1.0, 1e6),
    "slice_thickness_mm": (np.inf, 0.0, -5.0, 1e6),
    **dict.fromkeys(("n_rounded", "n_saturated", "n_padding"), (-1, 64 * 64 + 1, 2**31 - 1)),
    "hu_min": (-32769, 32768, 2),
    "hu_max": (-32769, 32768, 0),
    **dict.fromkeys((f"content_{corner}" for corner in ("x0", "y0", "x1", "y1")), (-1, 4097, -(2**31), 2**31 - 1)),
    "byte_offset": (-1, 2**62, 2**63 - 1),
    "stored_bytes": (-1, 0, 2**63 - 1),
    "slice_index": (-1, 7),
}
AMONG_OTHERS = {"hu_max": "hu_min"}  # what the message names instead
WITHOUT_LIMITS = {"checksum", "packed_checksum"}  # any hash may be one; pixels are held against it


def test_every_column_has_what_it_cannot_be() -> None:
    assert IMPOSSIBLE.keys() == (INDEX_COLUMNS | SLICE_COLUMNS).keys() - WITHOUT_LIMITS


@pytest.mark.parametrize(
    ("column", "value"), [(column, value) for column, values in IMPOSSIBLE.items() for value in values]
)
def test_what_no_column_can_hold(store_path: Path, column: str, value: object) -> None:
    row = 1
    edit_index(store_path, lambda index: index[column].__setitem__(row, value))
    if column == "image_id":
        edit_labels(store_path, lambda labels: labels[column].__setitem__(row, value))
    names = rf"{column}|{AMONG_OTHERS.get(column, column)}"
    table = "slices" if column in DIVISION else "index"
    with pytest.raises(StoreError, match=rf"{table}\.parquet: damaged \(impossible (?:{names}), row {row}\b") as error:
        Store.open(store_path)
    assert error.value.exit_code == 3
    assert str(error.value).isprintable()


def _set(**values: object) -> Callable[[dict[str, np.ndarray]], None]:
    def edit(index: dict[str, np.ndarray]) -> None:
        for name, value in values.items():
            index[name][:] = value

    return edit


# What single columns may hold and together cannot
CONTRADICTIONS: dict[str, tuple[Callable[[dict[str, np.ndarray]], None], str]] = {
    "a box outside the slice": (_set(content_x0=70, content_x1=71, content_y0=0, content_y1=1), "content box, row 0"),
    "a box beyond its end": (_set(content_x0=0, content_x1=65, content_y0=0, content_y1=1), "content box, row 0"),
    "a box of nothing": (_set(content_x0=3, content_x1=3), "content box, row 0"),
    "axes of no length": (
        _set(**{f"iop_{way}_{axis}": 0 for way in ("row", "column") for axis in "xyz"}),
        "orientation, row 0",
    ),
    "axes that are one": (_set(iop_row_x=0, iop_row_y=1), "orientation, row 0"),
    "positions that fall": (lambda index: index.update(position_mm=-index["position_mm"]), "position_mm, row 1"),
    "one position twice": (_set(position_mm=5), "position_mm, row 1"),
    "overlapping pixels": (lambda index: index["byte_offset"].__setitem__(1, index["byte_offset"][0]), "byte_offset"),
    "pixels inside of others": (
        lambda index: index["byte_offset"].__setitem__(3, index["byte_offset"][0] + 2),
        "byte_o",
    ),
    "a fold for each atom": (lambda index: index["fold"].__setitem__(slice(3), 2**31 - 1), "fold, row 0"),
    "a fold to test on": (_set(fold=0), "fold, row 3: slice 0 of series b"),
    "no fold to train in": (_set(fold=-1), "fold, row 0"),
    "a series in two splits": (
        lambda index: (index["fold"].__setitem__(1, -1), index["split"].__setitem__(1, "test")),
        "split, row 1",
    ),
    "a series of two patients": (lambda index: index["patient_id"].__setitem__(2, "b"), "patient_id, row 2"),
    "a split without labels": (_set(split="train", fold=0), "split, row 3: slice 0 of series b"),
    "labels without a split": (_set(split="test", fold=-1), "split, row 0: slice 0 of series a"),
}


@pytest.mark.parametrize(("edit", "message"), CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_columns_that_contradict_each_other(
    store_path: Path, edit: Callable[[dict[str, np.ndarray]], None], message: str
) -> None:
    edit_index(store_path, edit)
    table = "slices" if message.startswith(DIVISION) else "index"
    with pytest.raises(StoreError, match=rf"{table}\.parquet: damaged \(impossible {message}"):
        Store.open(store_path)


@pytest.mark.parametrize("value", [7.0, -1.0, np.inf, -np.inf, 1.0001, -1e-6])
def test_labels_that_are_no_probability(store_path: Path, value: float) -> None:
    edit_labels(store_path, lambda labels: labels["any"].__setitem__(1, value))
    with pytest.raises(StoreError, match=r"slices\.parquet: damaged \(impossible label, row 1: slice 1 of series a\)"):
        Store.open(store_path)
    assert any(damage.file == "tasks/ich/slices.parquet" for damage in verify_store(store_path).damages)


def test_labels_between_no_and_yes_stay(store_path: Path) -> None:
    edit_labels(store_path, lambda labels: labels["any"].__setitem__(1, 0.5))
    assert Store.open(store_path).labels[1, 5] == 0.5


def test_what_may_be_unknown_or_at_its_end(store_path: Path) -> None:
    edit_index(
        store_path,
        _set(window_center_hu=np.nan, window_width_hu=np.nan, slope=-1e308, bits_stored=1, frame_number=4096),
    )
    Store.open(store_path)


def test_every_name_that_is_written_is_read(tmp_path: Path) -> None:
    """What any file may be called, and any patient: no writer writes what its reader refuses."""
    codes = (*range(1, 0x3000), *range(0x3000, 0xD800, 7), *range(0xE000, 0x110000, 7))
    characters = list(map(chr, codes))
    patient = "".join(c for c in characters if not _CONTROL.search(c))
    columns = {
        "image_id": printable("".join(characters)),
        "path": "".join(map(printable, "a\nb\x1b")),
        "sop_uid": patient,
    }
    write_table(tmp_path / "t", {name: np.array([text], dtype=object) for name, text in columns.items()})
    found = read_table(tmp_path / "t", dict.fromkeys(columns, "str"), n_rows=1)
    assert {name: column[0] for name, column in found.items()} == columns


@pytest.mark.parametrize(("column", "value"), [("path", ESC), ("detail", LINE), ("reason", "<script>")])
def test_refusals_are_printable(store_path: Path, column: str, value: str) -> None:
    columns = {"path": "a", "reason": "not_ct", "detail": "x", column: value}
    write_table(store_path / "refusals.parquet", {name: np.array([v], dtype=object) for name, v in columns.items()})
    sign(store_path)
    with pytest.raises(StoreError, match=rf"refusals\.parquet: damaged \(impossible {column}, row 0\)"):
        Store.open(store_path).read_refusals()


def test_refusals_of_a_store_without_labels_have_none(store_path: Path) -> None:
    edit_set(store_path, refused_with_label=[0])
    assert [refusal.has_label for refusal in Store.open(store_path).read_refusals()] == [True]
    shutil.rmtree(store_path / "tasks")
    assert [refusal.has_label for refusal in Store.open(store_path).read_refusals()] == [False]


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
        {"n_slices": 5.0},
        {"n_slices": "5"},
        {"frames": {"../00000.h5": "0" * 16}},
        {"pixels_hash": "0" * 64 + "\n"},
        {"key_check": "0"},
        {"content_from_hu": [40]},
        {"content_from_hu": 1e400},
        {"content_from_hu": True},
        {"content_from_hu": "40"},
        {"content_from_hu": 1 << 15},
        {"image_ids": "uid"},
        {"compression": "zip"},
        {"compression": ["none"]},
        {"pixels_hash": None},
    ],
    ids=str,
)
def test_a_manifest_that_says_what_cannot_be(store_path: Path, values: dict[str, object]) -> None:
    edit_manifest(store_path, **values)
    with pytest.raises(StoreError, match=r"store\.json: missing or damaged"):
        Store.open(store_path)


def test_a_manifest_may_say_more(store_path: Path) -> None:
    """What a later program adds without a new version."""
    edit_manifest(store_path, added_later={"a": [1]})
    edit_set(store_path, added_later={"a": [1]})
    assert Store.open(store_path).label_names == ICH.slices.names


def _labels_of_slices(**values: object) -> dict[str, object]:
    return {"slices": {"names": list(ICH.slices.names), "any_name": "any", "tree": [], "notes": []} | values}


@pytest.mark.parametrize(
    "values",
    [
        {"format_version": 3},
        {"format": "rsna_e2e study store"},
        {"task": "a\nb"},
        {"task": "other"},
        {"task": {"$ref": "x"}},
        {"number": 0},
        _labels_of_slices(names=[]),
        _labels_of_slices(names=["any", "any"]),
        _labels_of_slices(names=["any", "a\x1b[31m"]),
        _labels_of_slices(names=[["any"]]),
        _labels_of_slices(notes=["any"]),
        _labels_of_slices(tree=[{"branches": ["any", "b"], "kind": "choice"}]),
        {"headline": "other"},
        {"series_truth": "own"},
        {"n_folds": 0},
        {"holdout": 1.0},
        {"folds_of": "../ich"},
        {"refused_with_label": "0"},
        {"refused_with_label": [-1]},
        {"labels_hash": "0" * 63},
        {"files": {}},
        {"files": {"/etc/passwd": "0" * 16}},
    ],
    ids=str,
)
def test_a_manifest_of_a_set_that_says_what_cannot_be(store_path: Path, values: dict[str, object]) -> None:
    edit_set(store_path, **values)
    with pytest.raises(StoreError, match=r"set\.json: missing or damaged") as error:
        Store.open(store_path)
    assert str(error.value).isprintable()


def test_the_labels_of_another_store_are_refused(store_path: Path) -> None:
    edit_set(store_path, pixels_hash="0" * 64)
    with pytest.raises(StoreError, match=r"set\.json: of another store, or of this one prepared otherwise"):
        Store.open(store_path)


@pytest.mark.parametrize("name", ["slices.parquet", "set.json"])
def test_files_of_a_set_that_lie_elsewhere(store_path: Path, name: str) -> None:
    place = store_path / "tasks" / "ich" / name
    place.rename(store_path.parent / name)
    place.symlink_to(store_path.parent / name)
    with pytest.raises(StoreError, match=rf"{name}: missing or damaged"):
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
