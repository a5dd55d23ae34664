"""A store of X-rays: its further columns and VOI LUTs, what is checked of them, and that a store of HU has neither."""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from stores import LUTS, edit_index, edit_manifest, make_slices, make_store, make_xray_index, make_xray_store, sign

from rsna_e2e.core.errors import RsnaError
from rsna_e2e.core.records import Presentation, VoiLut, XrayRecord
from rsna_e2e.store import Store, StoreError, StoreWriter, luts, verify_store, write_shard
from rsna_e2e.store.layout import INDEX_COLUMNS, XRAY_COLUMNS


def test_it_holds_values_columns_and_luts(tmp_path: Path) -> None:
    make_xray_store(tmp_path / "store")
    store = Store.open(tmp_path / "store")
    assert (store.values, store.geometry, store.content_from_hu) == ("grey", "none", None)
    assert list(XRAY_COLUMNS) == list(XrayRecord.__dataclass_fields__)
    assert set(store.index) >= {*INDEX_COLUMNS, *XRAY_COLUMNS}
    for row, values in enumerate(make_slices()):
        np.testing.assert_array_equal(store.read_slice(row), values)
    assert {name: (lut.first, lut.bits, lut.entries.tolist()) for name, lut in store.luts.items()} == {
        LUTS[0].sha256: (0, 16, list(range(0, 50000, 5000))),
        LUTS[1].sha256: (-2, 8, [0, 9, 200, 255]),
    }
    assert verify_store(tmp_path / "store").is_whole


def test_equal_presentations_are_equal(tmp_path: Path) -> None:
    make_xray_store(tmp_path / "store")
    store = Store.open(tmp_path / "store")
    assert store.presentation(3) == Presentation(
        value_offset=0,
        slope=1.0,
        intercept=store.index["intercept"][3],
        bits_stored=16,
        pixel_representation=1,
        photometric="MONOCHROME2",
        voi_function="SIGMOID",
        window_center=-0.5,
        window_width=4096.0,
        low_grey=3,
        high_grey=4,
    )
    assert math.isnan(store.presentation(0).window_width)
    assert len({store.presentation(0), store.presentation(0)}) == 1


def test_a_store_of_hu_says_nothing_new(tmp_path: Path) -> None:
    make_store(tmp_path / "store")
    manifest = json.loads((tmp_path / "store/store.json").read_text())
    assert "values" not in manifest
    assert sorted(manifest["files"]) == ["index.parquet", "refusals.parquet"]
    store = Store.open(tmp_path / "store")
    assert (store.values, dict(store.luts)) == ("hu", {})
    assert pq.read_schema(tmp_path / "store/index.parquet").names == list(INDEX_COLUMNS)


@pytest.mark.parametrize("values", ["hu", "gray", None, 1])
def test_values_are_read_strictly(tmp_path: Path, values: object) -> None:
    make_xray_store(tmp_path / "store")
    edit_manifest(tmp_path / "store", values=values)
    with pytest.raises(StoreError, match=r"store\.json: missing or damaged"):
        Store.open(tmp_path / "store")


def test_xrays_have_no_place_in_the_patient(tmp_path: Path) -> None:
    make_xray_store(tmp_path / "store")
    edit_manifest(tmp_path / "store", geometry="patient")
    with pytest.raises(StoreError, match=r"store\.json: missing or damaged"):
        Store.open(tmp_path / "store")


WRONG: dict[str, tuple[str, Any]] = {
    "offset": ("value_offset", 5),
    "photometric": ("photometric", "RGB"),
    "function": ("voi_function", "CUBIC"),
    "function without window": ("voi_function", "LINEAR"),
    "LUT without table": ("voi_function", "LUT"),
    "table without LUT": ("voi_lut", "0" * 64),
    "name of a table": ("voi_lut", "../etc"),
    "width without center": ("window_width", 1.0),
    "center without width": ("window_center", 1.0),
    "width of nothing": ("window_width", 0.0),
    "padding": ("padding_low", 65536.0),
    "percentiles": ("low_grey", 65536),
    "order of percentiles": ("high_grey", 3),
    "view": ("view", "pa\n"),
    "sex": ("sex", "X"),
    "age": ("age_y", 91.0),
    "spacing": ("imager_spacing_mm", 0.0),
}


@pytest.mark.parametrize(("column", "value"), WRONG.values(), ids=WRONG)
def test_impossible_values_are_refused(tmp_path: Path, column: str, value: object) -> None:
    make_xray_store(tmp_path / "store")

    def edit(index: dict[str, np.ndarray]) -> None:
        index[column][4] = value

    edit_index(tmp_path / "store", edit)
    with pytest.raises(StoreError, match=r"impossible |LUTs are not those"):
        Store.open(tmp_path / "store")


def _change(store: Path, change: Callable[[list[dict[str, Any]]], object]) -> None:
    rows = pq.read_table(store / "luts.parquet").to_pylist()
    change(rows)
    pq.write_table(pa.Table.from_pylist(rows, pq.read_schema(store / "luts.parquet")), store / "luts.parquet")
    sign(store)


DAMAGE: dict[str, tuple[Callable[[list[dict[str, Any]]], object], str]] = {
    "entry": (lambda rows: rows[0].update(entries=b"\1" * 20), "impossible LUT"),
    "half an entry": (lambda rows: rows[0].update(entries=b"\1"), "some values are missing"),
    "no entry": (lambda rows: rows[0].update(entries=b""), "impossible LUT"),
    "null": (lambda rows: rows[0].update(first=None), "some values are missing"),
    "bits": (lambda rows: rows[1].update(bits=17), "impossible LUT"),
    "one too few": (lambda rows: rows.pop(), "rows or columns are not those of the index"),
    "another": (lambda rows: rows.__setitem__(0, rows[1]), "LUTs are not those of the index"),
}


@pytest.mark.parametrize(("change", "what"), DAMAGE.values(), ids=DAMAGE)
def test_luts_are_checked(tmp_path: Path, change: Callable[[list[dict[str, Any]]], object], what: str) -> None:
    make_xray_store(tmp_path / "store")
    _change(tmp_path / "store", change)
    with pytest.raises(StoreError, match=rf"luts\.parquet: damaged \(.*{re.escape(what)}"):
        Store.open(tmp_path / "store")
    (damage,) = verify_store(tmp_path / "store").damages
    assert damage.file == "luts.parquet"
    assert what in damage.what


@pytest.mark.parametrize(
    "lut",
    [
        VoiLut(0, 17, np.ones(3, np.uint16)),
        VoiLut(0, 7, np.ones(3, np.uint16)),
        VoiLut(0, 8, np.array([0, 256], np.uint16)),
        VoiLut(65536, 8, np.ones(3, np.uint16)),
        VoiLut(0, 16, np.ones(65537, np.uint16)),
    ],
)
def test_luts_beyond_the_standard_are_not_possible(lut: VoiLut) -> None:
    assert not luts.is_possible(lut)


@pytest.mark.parametrize("kept", [[], [VoiLut(0, 7, np.ones(3, np.uint16))]], ids=["missing", "impossible"])
def test_luts_are_read_back_before_the_store_is_made(tmp_path: Path, kept: list[VoiLut]) -> None:
    with StoreWriter(tmp_path / "store") as writer:
        stored = write_shard(writer.shards_folder / "00000.h5", iter(make_slices()), values="grey")
        index = make_xray_index(stored)
        index["voi_lut"][:2] = [lut.sha256 for lut in kept] * 2 or index["voi_lut"][:2]
        tables = [luts.luts_to_table({lut.sha256: lut for lut in kept})]
        with pytest.raises(RsnaError, match="does not read back"):
            writer.commit(index=index, refusals=[], luts=tables)


def test_a_file_that_claims_too_much_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_xray_store(tmp_path / "store")
    monkeypatch.setattr(luts, "MOST_BYTES", 1 << 20)
    bombs = [{"entries": bytes([i]) * (1 << 20)} for i in range(2)]  # packs to nearly nothing
    _change(tmp_path / "store", lambda rows: [row.update(bomb) for row, bomb in zip(rows, bombs, strict=True)])
    with pytest.raises(StoreError, match="claims more than LUTs can hold"):
        Store.open(tmp_path / "store")


def test_a_dictionary_that_expands_beyond_what_luts_can_hold_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An entry that stands in the file once, and in each row: what it claims is half of what it holds."""
    make_xray_store(tmp_path / "store")
    long = np.arange(65536, dtype=np.uint16)
    new = {old.sha256: VoiLut(first, 16, long) for first, old in enumerate(LUTS)}

    def rename(index: dict[str, np.ndarray]) -> None:
        index["voi_lut"] = np.array([new[name].sha256 if name in new else name for name in index["voi_lut"]], object)

    edit_index(tmp_path / "store", rename)
    rows = luts.luts_to_table({lut.sha256: lut for lut in new.values()}).to_pylist()
    _change(tmp_path / "store", lambda old: old.__setitem__(slice(None), rows))
    group = pq.ParquetFile(tmp_path / "store" / "luts.parquet").metadata.row_group(0)
    assert group.column(3).has_dictionary_page
    assert Store.open(tmp_path / "store").luts.keys() == {lut.sha256 for lut in new.values()}  # as stores were written
    monkeypatch.setattr(luts, "MOST_BYTES", int(1.5 * long.nbytes))
    assert group.total_byte_size < luts.MOST_BYTES
    with pytest.raises(StoreError, match=r"luts\.parquet: damaged \(it holds more than LUTs can\)"):
        Store.open(tmp_path / "store")
