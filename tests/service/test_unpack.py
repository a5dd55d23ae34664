"""Zip archives that were sent: what is in them comes out under names that are ours, and hostile ones do no harm."""

import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import archives
import pytest

from rsna_e2e.core.errors import BadInputError
from rsna_e2e.core.reasons import Reason
from rsna_e2e.service.unpack import TooLargeError, Unpack, Unpacked, unpack

MIB = 1 << 20


def _unpack(archive: Path, folder: Path, *, most_files: int = 100, most_bytes: int = MIB) -> Unpacked:
    folder.mkdir()
    job = Unpack(archive=archive, folder=folder, most_files=most_files, most_bytes=most_bytes)
    return job(lambda item: None, {})


def test_members_come_out_under_other_names_in_another_process(tmp_path: Path) -> None:
    archive = archives.zip_files(tmp_path / "a.zip", {"x/a": b"1", "../b": b"22", "/c": b"333", "C:\\d": b""})
    folder = tmp_path / "out"
    folder.mkdir()
    unpacked = unpack(Unpack(archive=archive, folder=folder, most_files=9, most_bytes=MIB))
    assert sorted(path.read_bytes() for path in unpacked.paths) == [b"", b"1", b"22", b"333"]
    assert sorted(unpacked.paths) == sorted(folder.iterdir())
    assert sorted(tmp_path.iterdir()) == [archive, folder]
    assert all(path.name.isdigit() for path in unpacked.paths)


def test_what_a_file_kills_its_reader_for_is_refused_alone(tmp_path: Path) -> None:
    archive = archives.zip_files(tmp_path / "a.zip", {"a": b"1", "b": b"2"})
    (tmp_path / "out").mkdir()
    job = Unpack(archive=archive, folder=tmp_path / "out", most_files=9, most_bytes=MIB)
    unpacked = job(lambda item: None, {1: Reason.TIMEOUT})
    assert [path.read_bytes() for path in unpacked.paths] == [b"1"]
    assert [(refusal.path, refusal.reason) for refusal in unpacked.refusals] == [("", Reason.TIMEOUT)]


def _bomb(path: Path) -> Path:
    return archives.zip_files(path, {"Mrs Example.dcm": bytes(64 * MIB), "b": b"2"})


def _forged(path: Path) -> Path:
    archives.zip_files(path, {"Mrs Example.dcm": b"1" * 999, "b": b"2"})
    archives.forge(path, "Mrs Example.dcm", "n_bytes", 5)
    return path


def _link(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        info = zipfile.ZipInfo("Mrs Example.dcm")
        info.create_system, info.external_attr = 3, 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
        archive.writestr("b", b"2")
    return path


def _overlapping(path: Path) -> Path:
    archives.zip_files(path, {"Mrs Example.dcm": b"1" * 999, "Mrs Exampl2.dcm": b"1" * 999, "b": b"2"})
    archives.forge(path, "Mrs Exampl2.dcm", "offset", 0)
    return path


@pytest.mark.parametrize("make", [_bomb, _forged, _link, _overlapping])
def test_hostile_members_are_refused_without_their_names(make: Callable[[Path], Path], tmp_path: Path) -> None:
    tracemalloc.start()
    unpacked = _unpack(make(tmp_path / "a.zip"), tmp_path / "out", most_bytes=1 << 40)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [path.read_bytes() for path in unpacked.paths] == [b"2"]
    assert unpacked.refusals
    assert not any("Exam" in f"{refusal.path} {refusal.detail}" for refusal in unpacked.refusals)
    assert sum(path.stat().st_size for path in (tmp_path / "out").iterdir()) == 1
    assert peak < 130 * MIB  # the bomb itself was made before


def test_too_much_is_refused_before_any_of_it_is_written(tmp_path: Path) -> None:
    archive = archives.zip_files(tmp_path / "a.zip", {str(number): b"123" for number in range(5)})
    with pytest.raises(TooLargeError):
        _unpack(archive, tmp_path / "files", most_files=4)
    with pytest.raises(TooLargeError):
        _unpack(archive, tmp_path / "bytes", most_bytes=14)
    assert not any((tmp_path / "files").iterdir())
    assert len(_unpack(archive, tmp_path / "all", most_files=5, most_bytes=15).paths) == 5


def test_what_is_no_archive_is_said_to_be_none(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"PK\3\4" + bytes(99))
    with pytest.raises(BadInputError):
        _unpack(tmp_path / "a.zip", tmp_path / "out")
