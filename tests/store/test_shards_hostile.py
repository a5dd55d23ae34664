"""HDF5 shards that are damaged, or made to harm whoever reads them: each is refused in one line, with exit code 3."""

import os
import re
import signal
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import phantoms
import pytest

from rsna_e2e.cli import main
from rsna_e2e.core.errors import BadInputError
from rsna_e2e.core.hdf5 import NotPlainError, int16_places
from rsna_e2e.core.records import Modality, RawFile
from rsna_e2e.dicom.sources.files import RawFolder, open_source
from rsna_e2e.dicom.sources.hdf5 import RawShards
from rsna_e2e.store.prepare import Reading, prepare
from rsna_e2e.store.prepare.jobs import ReadHeaders
from rsna_e2e.store.prepare.pool import Begin, Lost, Pool
from rsna_e2e.store.prepare.tables import read_note, to_numpy
from rsna_e2e.tasks.ich import ICH

SECRET = b"the passwords of everybody, canary 7391 ".ljust(4096)
HU = np.arange(64, dtype="<i2").reshape(8, 8)

Make = Callable[[Path], object]  # writes a file; beside it lie secret.txt and secret.hdf5


def whole(path: Path) -> bytearray:
    """Write a good shard of two slices, `s/a` and `s/b`, and return its bytes."""
    with h5py.File(path, "w") as file:
        file["s/a"], file["s/b"] = HU, HU + 100
    return bytearray(path.read_bytes())


def of_bytes(content: bytes) -> Make:
    return lambda path: path.write_bytes(content)


def edited(edit: Callable[[bytearray], object]) -> Make:
    """A good shard with other bytes."""

    def make(path: Path) -> None:
        content = whole(path)
        edit(content)
        path.write_bytes(content)

    return make


def held(write: Callable[[h5py.File, Path], object], **how: Any) -> Make:
    """A file that was written by the HDF5 library."""

    def make(path: Path) -> None:
        with h5py.File(path, "w", **how) as file:
            file["s/good"] = HU
            write(file, path.parent)

    return make


def a_slice(**how: Any) -> Make:
    """A file with one more slice, made so."""
    return held(lambda file, _: file.create_dataset("s/a", **how))


def named(study: str | bytes, name: str | bytes) -> Make:
    return held(lambda file, _: file.create_group(study).create_dataset(name, data=HU))


def replaced(old: bytes, new: bytes) -> Make:
    def edit(content: bytearray) -> None:
        assert old in content
        content[:] = content.replace(old, new)

    return edited(edit)


def address_of_a(path: Path) -> int:
    with h5py.File(path) as file:
        return int(file["s/a"].id.get_offset())


def at_address(address: Callable[[int], int]) -> Make:
    """A good shard in which the values of `s/a` lie elsewhere: address: of the old one."""

    def make(path: Path) -> None:
        content, old = whole(path), address_of_a(path)
        where = struct.pack("<QQ", old, HU.nbytes)
        assert content.count(where) == 1
        path.write_bytes(content.replace(where, struct.pack("<QQ", address(old), HU.nbytes)))

    return make


def dicom(path: Path) -> None:
    phantoms.write_dicom(path, phantoms.slice_dataset(HU))


def archive(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a", b"b")


def virtual(file: h5py.File, folder: Path) -> None:
    layout = h5py.VirtualLayout(HU.shape, "<i2")
    layout[:] = h5py.VirtualSource(folder / "secret.hdf5", "s/a", HU.shape)
    file.create_virtual_dataset("s/a", layout)


def compact(file: h5py.File, _: Path) -> None:
    how = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    how.set_layout(h5py.h5d.COMPACT)
    h5py.h5d.create(file["s"].id, b"a", h5py.h5t.STD_I16LE, h5py.h5s.create_simple(HU.shape), how).write(
        h5py.h5s.ALL, h5py.h5s.ALL, HU
    )


def twelve_bits(file: h5py.File, _: Path) -> None:
    kind = h5py.h5t.STD_I16LE.copy()
    kind.set_precision(12)
    h5py.h5d.create(file["s"].id, b"a", kind, h5py.h5s.create_simple(HU.shape)).write(h5py.h5s.ALL, h5py.h5s.ALL, HU)


def references(file: h5py.File, _: Path) -> None:
    file.create_dataset("s/a", (8, 8), h5py.ref_dtype)[0, 0] = file["s"].ref


FILES: dict[str, tuple[Make, str]] = {
    # not HDF5 at all
    "empty": (of_bytes(b""), "no HDF5 file"),
    "text": (of_bytes(b"StudyInstanceUID,SOPInstanceUID\n"), "no HDF5 file"),
    "dicom": (dicom, "no HDF5 file"),
    "zip": (archive, "no HDF5 file"),
    "user_block": (held(lambda file, _: None, userblock_size=512), "no HDF5 file"),
    # damaged
    "signature_alone": (of_bytes(b"\x89HDF\r\n\x1a\n"), "damaged, or cut short"),
    "half": (edited(lambda content: content.__delitem__(slice(len(content) // 2, None))), "damaged, or cut short"),
    "one_byte_short": (edited(lambda content: content.pop()), "damaged, or cut short"),
    "no_superblock": (edited(lambda content: content.__setitem__(slice(8, 96), bytes(88))), "damaged, or cut short"),
    "no_heap": (replaced(b"HEAP", b"XXXX"), "damaged, or cut short"),
    "no_symbols": (replaced(b"SNOD", b"XXXX"), "damaged, or cut short"),
    # links and groups
    "soft_group": (held(lambda file, _: file.__setitem__("t", h5py.SoftLink("/s"))), "'t' is a link"),
    "external_group": (
        held(lambda file, _: file.__setitem__("t", h5py.ExternalLink("secret.hdf5", "/s"))),
        "'t' is a link",
    ),
    "soft_slice": (held(lambda file, _: file.__setitem__("s/a", h5py.SoftLink("/s/good"))), "'a' is a link"),
    "external_slice": (
        held(lambda file, _: file.__setitem__("s/a", h5py.ExternalLink("secret.hdf5", "/s/a"))),
        "'a' is a link",
    ),
    "slice_twice": (held(lambda file, _: file.__setitem__("s/a", file["s/good"])), "'a' and 'good' share bytes"),
    "group_twice": (held(lambda file, _: file.__setitem__("t", file["s"])), "share bytes"),
    "group_in_itself": (held(lambda file, _: file["s"].__setitem__("t", file["/"])), "'t' is no dataset"),
    "slice_at_the_top": (held(lambda file, _: file.__setitem__("a", HU)), "'a' is no group"),
    "series_below_studies": (held(lambda file, _: file.__setitem__("s/t/a", HU)), "'t' is no dataset"),
    "type_at_the_top": (held(lambda file, _: file.__setitem__("t", np.dtype("<i2"))), "'t' is no group"),
    "type_in_a_group": (held(lambda file, _: file.__setitem__("s/t", np.dtype("<i2"))), "'t' is no dataset"),
    "no_slices": (held(lambda file, _: file["s"].__delitem__("good")), "holds no slices"),
    # where values lie
    "virtual": (held(virtual), "the values of 'a' lie in other files"),
    "external_storage": (
        held(
            lambda file, folder: file.create_dataset("s/a", (8, 8), "<i2", external=[(folder / "secret.txt", 0, 128)])
        ),
        "the values of 'a' lie in other files",
    ),
    "gzip": (a_slice(data=HU, compression="gzip"), r"'a' has filters \[1\]"),
    "bomb": (a_slice(data=np.zeros((4096, 4096), "<i2"), compression="gzip"), r"'a' has filters \[1\]"),
    "lzf": (a_slice(data=HU, compression="lzf"), r"'a' has filters \[32000\]"),
    "fletcher32": (a_slice(data=HU, fletcher32=True), r"'a' has filters \[3\]"),
    "chunks": (a_slice(data=HU, chunks=(4, 4)), "'a' is not stored in one piece. Convert it with: h5repack"),
    "compact": (held(compact), "'a' is not stored in one piece"),
    "never_written": (a_slice(shape=(8, 8), dtype="<i2"), "'a' is not stored in one piece"),
    "never_written_and_huge": (a_slice(shape=(4096, 4096), dtype="<i2"), "'a' claims shape .4096, 4096., more than"),
    "beyond_the_end": (at_address(lambda old: old + 1_000_000), "damaged, or cut short"),
    "at_the_end_of_all": (at_address(lambda old: 2**63), "damaged, or cut short"),
    "bytes_of_another": (at_address(lambda old: old + HU.nbytes), "'a' and 'b' share bytes"),
    # what values are
    "uint16": (
        a_slice(data=HU.astype("<u2")),
        "the values of 'a' are uint16; expected int16, all 16 bits, little endian",
    ),
    "big_endian": (
        a_slice(data=HU.astype(">i2")),
        "the values of 'a' are >i2; expected int16, all 16 bits, little endian",
    ),
    "int8": (a_slice(data=HU.astype("i1")), "the values of 'a' are int8; expected int16, all 16 bits, little endian"),
    "float16": (
        a_slice(data=HU.astype("<f2")),
        "the values of 'a' are float16; expected int16, all 16 bits, little endian",
    ),
    "twelve_bits": (held(twelve_bits), "the values of 'a' are int16; expected int16, all 16 bits, little endian"),
    "references": (held(references), "the values of 'a' are object; expected int16, all 16 bits, little endian"),
    "text_values": (
        a_slice(data=["a", "b"]),
        "the values of 'a' are object; expected int16, all 16 bits, little endian",
    ),
    "pairs": (
        a_slice(data=np.zeros((8, 8), "<i2,<i2")),
        "the values of 'a' are .*; expected int16, all 16 bits, little endian",
    ),
    # their shape
    "scalar": (a_slice(data=np.int16(5)), r"shape \(\)"),
    "no_shape": (a_slice(data=h5py.Empty("<i2")), "'a' is not stored in one piece"),
    "flat": (a_slice(data=HU.reshape(-1)), r"shape \(64,\)"),
    "volume": (a_slice(data=HU.reshape(4, 4, 4)), r"shape \(4, 4, 4\)"),
    "one_pixel": (a_slice(data=HU[:1, :1]), r"shape \(1, 1\)"),
    "no_rows": (a_slice(data=HU[:0]), "'a' is not stored in one piece"),
    "too_wide": (a_slice(data=np.zeros((1, 4097), "<i2")), r"shape \(1, 4097\)"),
    # names
    "name_of_65": (named("t", "1" * 65), "'1{65}' is no UID"),
    "study_of_a_megabyte": (named("x" * 60_000, "a"), "is no UID"),
    "folders": (named("..", "a"), r"'\.\.' is no UID"),
    "formula": (named("t", "=1+1"), "'=1.1' is no UID"),
    "escape": (named("t", "a\x1b[31m"), "is no UID"),
    "line_break": (named("t\nrsna-e2e: all is well", "a"), "is no UID"),
    "not_utf8": (named("t", b"a\xff"), "damaged, or cut short"),
}


@dataclass(frozen=True)
class Read:
    """Job: read every folder's first shard, and return the message of each, empty where it is taken. Reading is done
    in a worker process, as `prepare` does it: a damaged file may end it."""

    folders: list[Path]

    def __call__(self, begin: Begin, lost: Lost) -> dict[str, str]:
        messages = {}
        for item, folder in enumerate(self.folders):
            begin(item)
            assert item not in lost, f"{folder.name} ended the process"
            source = RawShards(folder)
            job = ReadHeaders(source, source.find()[0][:1], folder / "note.arrow", Reading())
            try:
                job(lambda _: None, {})
                messages[folder.name] = ""
            except BadInputError as error:
                messages[folder.name] = str(error)
        return messages


def read(folders: list[Path]) -> dict[str, str]:
    with Pool(1) as pool:
        ((_, messages),) = pool.run([Read(folders)])
    return messages


@pytest.fixture(scope="module")
def messages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What each of the files is refused with."""
    folders = []
    for name, (make, _) in FILES.items():
        folder = tmp_path_factory.mktemp(name, numbered=False)
        (folder / "secret.txt").write_bytes(SECRET)
        whole(folder / "secret.hdf5")
        make(folder / "npy-1.hdf5")
        folders.append(folder)
    return read(folders)


@pytest.mark.parametrize("name", FILES)
def test_a_bad_shard_is_refused(name: str, messages: dict[str, str]) -> None:
    message, (_, why) = messages[name], FILES[name]
    assert re.search(rf"{name}/npy-1\.hdf5: refused: .*{why}", message), message
    assert message.isprintable()
    assert len(message) < 500


@pytest.mark.parametrize("name", ["half", "external_storage", "gzip", "escape"])
def test_the_program_says_so_in_one_line(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also where all other shards are whole."""
    make, why = FILES[name]
    raw = tmp_path / "raw"
    raw.mkdir()
    whole(raw / "npy-1.hdf5")
    make(raw / "npy-2.hdf5")
    assert main(["prepare", str(raw), str(tmp_path / "store"), "--jobs", "1"]) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert re.match(rf"rsna-e2e prepare: {raw}/npy-2\.hdf5: refused: .*{why}", line), line
    assert os.listdir(tmp_path) == ["raw"]


def test_good_files_are_taken(tmp_path: Path) -> None:
    """What the bad ones differ from."""
    for name, make in {"a": whole, "b": held(lambda *_: None), "c": named("1.2.826.0.1", "ID_00-a")}.items():
        (tmp_path / name).mkdir()
        make(tmp_path / name / "npy-1.hdf5")
    assert read(sorted(tmp_path.iterdir())) == {"a": "", "b": "", "c": ""}


def test_any_byte_may_be_another(tmp_path: Path) -> None:
    """A mutant is refused in one line, or all that it holds lies in it. None of 10,000 ended the process."""
    rng = np.random.default_rng(0)
    for number in range(25):
        (tmp_path / str(number)).mkdir()
        content = whole(tmp_path / str(number) / "npy-1.hdf5")
        for place in rng.integers(0, len(content), size=8):
            content[place] = rng.integers(0, 256)
        (tmp_path / str(number) / "npy-1.hdf5").write_bytes(content)
    found = read(sorted(tmp_path.iterdir()))
    assert len(found) == 25
    assert 5 < sum(map(bool, found.values())) < 25
    for name, message in found.items():
        assert message.isprintable()
        if not message:
            table, _ = read_note(tmp_path / name / "note.arrow")
            ends = to_numpy(table, "pixel_offset") + to_numpy(table, "pixel_length")
            assert ends.max() <= (tmp_path / name / "npy-1.hdf5").stat().st_size


def test_more_names_than_any_real_file_has(tmp_path: Path) -> None:
    whole(tmp_path / "a")
    assert len(int16_places(tmp_path / "a", most=3, still_alive=lambda: None)) == 2
    for most, what in ((2, "'s' has 2 members"), (0, "the file has 1 members")):
        with pytest.raises(NotPlainError, match=what):
            int16_places(tmp_path / "a", most=most, still_alive=lambda: None)


def test_offsets_in_a_file_with_a_user_block_are_not_trusted(tmp_path: Path) -> None:
    held(lambda *_: None, userblock_size=512)(tmp_path / "a")
    with pytest.raises(NotPlainError, match="user block"):
        int16_places(tmp_path / "a", most=10, still_alive=lambda: None)


def test_a_large_file_is_not_taken_for_a_slow_one(tmp_path: Path) -> None:
    """The time that a file may take is counted anew from each slice on."""
    whole(tmp_path / "a")
    told: list[None] = []
    int16_places(tmp_path / "a", most=10, still_alive=lambda: told.append(None))
    assert len(told) == 2


@dataclass(frozen=True)
class DeadlyShards(RawShards):
    """Shards of which one ends whoever reads it, as a fault of the HDF5 library would."""

    def read_headers(self, raw_file: RawFile, still_alive: Callable[[], None], modality: Modality) -> Any:
        if raw_file.name == "npy-2.hdf5":
            os.kill(os.getpid(), signal.SIGSEGV)
        return RawShards.read_headers(self, raw_file, still_alive, modality)


def test_a_file_that_ends_its_reader_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    for number in (1, 2):
        whole(raw / f"npy-{number}.hdf5")
    monkeypatch.setattr("rsna_e2e.store.prepare.inputs.open_source", lambda path: DeadlyShards(path))
    with pytest.raises(BadInputError, match=r"npy-2\.hdf5: refused: reading it ended its process"):
        prepare(raw, tmp_path / "store", task=ICH, n_jobs=1)


@pytest.mark.parametrize("name", ["npy-1.h5", "npy-1.hdf5.gz", "npy-one.hdf5", "npy-0.hdf5", "npy-pe-pos.hdf5"])
def test_a_folder_of_files_of_other_names_holds_no_shards(name: str, tmp_path: Path) -> None:
    whole(tmp_path / name)
    assert isinstance(open_source(tmp_path), RawFolder)


def test_a_shard_of_another_name_is_no_dicom_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "raw").mkdir()
    whole(tmp_path / "raw/npy-1.h5")
    assert main(["prepare", str(tmp_path / "raw"), str(tmp_path / "store"), "--jobs", "1"]) == 3
    assert "no CT slice in DICOM form found there: 1 not_dicom, such as npy-1.h5" in capsys.readouterr().err
