"""Work that was done before, here or on another machine: taken where it is of the same plan, and only there."""

import errno
import os
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import encoders
import numpy as np
import phantoms
import pyarrow.parquet as pq
import pytest
from enhanced import enhanced_dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, RLELossless

from rsna_e2e.core.errors import BadInputError
from rsna_e2e.core.records import RawFile
from rsna_e2e.dicom.sources.files import RawFolder
from rsna_e2e.dicom.syntaxes import SYNTAXES
from rsna_e2e.store import Store, verify_store
from rsna_e2e.store.prepare import Part, prepare, prepare_part
from rsna_e2e.tasks.ich import ICH


@dataclass(frozen=True)
class WatchedFolder(RawFolder):
    """A folder that logs what is opened, and on this machine, at this time, has files that cannot be read."""

    log: Path
    unreadable: tuple[str, ...] = ()

    def open(self, raw_file: RawFile, *, head: bool = False) -> AbstractContextManager[BinaryIO]:
        """As any folder, but for these files."""
        with self.log.open("a") as log:
            log.write(f"{raw_file.name}\n")
        if raw_file.name in self.unreadable:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return RawFolder.open(self, raw_file, head=head)

    def n_opened(self) -> Counter[str]:
        """How often each file was opened."""
        return Counter(self.log.read_text().split())


def watch(monkeypatch: pytest.MonkeyPatch, raw: Path, *unreadable: str) -> WatchedFolder:
    """Let `raw` be read through a new WatchedFolder from now on."""
    source = WatchedFolder(raw, raw.with_name("opened"), unreadable)
    source.log.write_text("")
    monkeypatch.setattr("rsna_e2e.store.prepare.inputs.open_source", lambda path: source)
    return source


def contents(store: Path) -> dict[str, bytes]:
    return {str(path.relative_to(store)): path.read_bytes() for path in sorted(store.rglob("*")) if path.is_file()}


class InterruptedHereError(Exception):
    """What ends an attempt here."""


def interrupted_after(word: str) -> Callable[[int, int, str], None]:
    """Return a progress that ends the attempt as soon as it tells of `word`."""

    def progress(done: int, total: int, note: str = "") -> None:
        if note.startswith(word):
            raise InterruptedHereError

    return progress


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four series of three slices, each a shard, prepared undisturbed into `whole`; headers are read four at a time."""
    monkeypatch.setattr("rsna_e2e.store.prepare.run.SHARD_BYTES", 1)
    monkeypatch.setattr("rsna_e2e.store.prepare.run.HEADERS_PER_JOB", 4)
    for name in "abcd":
        phantoms.write_series(tmp_path / "raw", name=name, patient_id=f"p{name}")
    prepare(tmp_path / "raw", tmp_path / "whole", task=ICH, n_jobs=1)
    return tmp_path / "raw"


SERIES_B = tuple(f"ID_b_00{number}.dcm" for number in (1, 2, 3))


@pytest.mark.parametrize("sick", [1, 2], ids=["the first cannot read a series", "the second"])
def test_parts_of_different_plans_make_the_right_store(raw: Path, monkeypatch: pytest.MonkeyPatch, sick: int) -> None:
    parts = []
    for number in (1, 2):
        watch(monkeypatch, raw, *(SERIES_B if number == sick else ()))
        parts.append(prepare_part(raw, raw.with_name("store"), Part(number, 2), task=ICH, n_jobs=1).part)
    watch(monkeypatch, raw)
    report = prepare(raw, raw.with_name("store"), task=ICH, n_jobs=1, parts=parts)
    assert report.refusals == {}
    assert contents(raw.with_name("store")) == contents(raw.with_name("whole"))


def test_shards_of_a_plan_with_more_of_them_are_left_out(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = prepare_part(raw, raw.with_name("store"), Part(1, 1), task=ICH, n_jobs=1).part
    for note in part.glob("notes/headers-*.arrow"):
        note.unlink()
    watch(monkeypatch, raw, *SERIES_B)
    report = prepare(raw, raw.with_name("store"), task=ICH, n_jobs=1, parts=[part])
    assert (report.n_series, report.refusals) == (3, {"unreadable_file": 3})
    assert verify_store(raw.with_name("store")).is_whole


def test_an_attempt_goes_on_with_a_plan_of_its_own(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watch(monkeypatch, raw, *SERIES_B)
    with pytest.raises(InterruptedHereError):
        prepare(raw, raw.with_name("store"), task=ICH, n_jobs=1, progress=interrupted_after("pixels"))
    source = watch(monkeypatch, raw)
    report = prepare(raw, raw.with_name("store"), task=ICH, n_jobs=1)
    assert report.refusals == {}  # what could not be read is read again
    assert source.n_opened()["ID_a_001.dcm"] == 1  # its header, in one job with some of the others; its shard stays
    assert source.n_opened()["ID_d_003.dcm"] == 1  # its pixels
    assert contents(raw.with_name("store")) == contents(raw.with_name("whole"))


def test_slices_that_are_called_otherwise_now_are_written_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in (1, 2):
        phantoms.write_series(tmp_path / "raw" / f"s{number}", name="a", patient_id=f"p{number}", n_slices=1)
    raw, store = tmp_path / "raw", tmp_path / "store"
    monkeypatch.setattr("rsna_e2e.store.prepare.run.SHARD_BYTES", 1)
    watch(monkeypatch, raw, "s2/ID_a_001.dcm")  # so that the other is the only one of its name
    with pytest.raises(InterruptedHereError):
        prepare(raw, store, task=ICH, n_jobs=1, progress=interrupted_after("pixels"))
    watch(monkeypatch, raw)
    prepare(raw, store, task=ICH, n_jobs=1)
    assert Store.open(store).index["image_id"].tolist() == ["s1/ID_a_001", "s2/ID_a_001"]


@pytest.mark.parametrize("change", ["another version", "one is missing"])
def test_parts_of_other_decoders_are_refused(raw: Path, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    part = prepare_part(raw, raw.with_name("store"), Part(1, 2), task=ICH, n_jobs=1).part
    if change == "another version":
        monkeypatch.setattr(
            "rsna_e2e.store.prepare.inputs.decoder_version", lambda decoder: f"{decoder.distribution} 0.0"
        )
    else:
        monkeypatch.delitem(SYNTAXES, RLELossless)
    with pytest.raises(BadInputError, match=r"not a part of this store: .* version of the program or a decoder"):
        prepare(raw, raw.with_name("store"), task=ICH, n_jobs=1, parts=[part])


def write_copies(raw: Path) -> None:
    """Every file a second time, one of them with other pixels."""
    for path in sorted(raw.glob("*.dcm")):
        (raw / f"copy_{path.name}").write_bytes(path.read_bytes())
    other = phantoms.read(raw / "copy_ID_c_002.dcm")
    other.PixelData = bytes(len(other.PixelData))
    other.save_as(raw / "copy_ID_c_002.dcm")


def test_copies_are_compared_by_all_workers_and_once(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rsna_e2e.store.prepare.store_plan.COPIES_PER_JOB", 2)
    write_copies(raw)
    source = watch(monkeypatch, raw)
    store, calls = raw.with_name("store"), []
    prepare(raw, store, task=ICH, n_jobs=2, progress=lambda done, total, note="": calls.append((done, total, note)))
    assert (24, 24, "copies compared, 0 refused") in calls
    assert source.n_opened()["ID_a_001.dcm"] == 3  # header, comparison, shard
    assert source.n_opened()["copy_ID_c_002.dcm"] == 2
    refused = pq.read_table(store / "refusals.parquet").to_pylist()
    assert Counter(row["reason"] for row in refused) == {"duplicate_sop_uid": 11, "conflicting_sop_uid": 2}
    assert {row["path"] for row in refused if row["reason"] == "conflicting_sop_uid"} == {
        "ID_c_002.dcm",
        "copy_ID_c_002.dcm",
    }


def test_copies_are_not_compared_again(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_copies(raw)
    with pytest.raises(InterruptedHereError):
        prepare(raw, raw.with_name("store"), task=ICH, n_jobs=1, progress=interrupted_after("pixels"))
    source = watch(monkeypatch, raw)
    report = prepare(raw, raw.with_name("store"), task=ICH, n_jobs=1)
    assert report.refusals == {"duplicate_sop_uid": 11, "conflicting_sop_uid": 2}
    assert not [name for name in source.n_opened() if name.startswith("copy_")]


def test_a_copy_that_cannot_be_decoded_says_nothing_of_the_slice(tmp_path: Path) -> None:
    hu = phantoms.write_series(tmp_path / "raw", name="a", shape=(66, 70))
    dataset = phantoms.read(tmp_path / "raw" / "ID_a_002.dcm")
    dataset.compress(RLELossless, generate_instance_uid=False)
    frame = dataset.PixelData.rindex(b"\xfe\xff\x00\xe0") + 8
    dataset.PixelData = dataset.PixelData[:frame] + bytes(4) + dataset.PixelData[frame + 4 :]  # of no segments
    dataset.save_as(tmp_path / "raw" / "ID_a_000.dcm")
    report = prepare(tmp_path / "raw", tmp_path / "store", task=ICH, n_jobs=1)
    assert report.refusals == {"codestream_mismatch": 1}
    assert pq.read_table(tmp_path / "store" / "refusals.parquet")["path"].to_pylist() == ["ID_a_000.dcm"]
    store = Store.open(tmp_path / "store")
    assert store.index["image_id"].tolist() == list(hu)
    np.testing.assert_array_equal(store.read_slice(1), hu["ID_a_002"])


@pytest.mark.filterwarnings("ignore:.*:UserWarning")  # pydicom's advice to whoever writes such files
def test_a_file_of_many_frames_is_opened_once_for_all_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = np.stack([phantoms.stored_image(10, 12, seed=f, form=phantoms.SIGNED_16) for f in range(5)])
    encoders.write_in(tmp_path / "raw" / "e.dcm", enhanced_dataset(stored), DeflatedExplicitVRLittleEndian)
    source = watch(monkeypatch, tmp_path / "raw")
    assert prepare(tmp_path / "raw", tmp_path / "store", task=ICH, n_jobs=1).n_slices == 5
    assert source.n_opened() == {"e.dcm": 2}  # headers, then pixels
    store = Store.open(tmp_path / "store")
    for row, frame in enumerate(store.index["frame_number"]):
        np.testing.assert_array_equal(store.read_slice(row), stored[frame - 1])
