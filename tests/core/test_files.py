"""Atomic writing: whole or not at all."""

import ctypes
import errno
import os
import struct
from pathlib import Path

import pytest

from rsna_e2e.core.errors import BadInputError, DiskFullError, OutOfResourcesError
from rsna_e2e.core.files import atomic_writer, begin_sync, full_disk_named, make_folder, prepare_file, remove_folder


def test_the_file_takes_its_place_only_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    path.write_text("old")
    with atomic_writer(path) as file:
        file.write(b"new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    path.write_text("old")
    with pytest.raises(TypeError), atomic_writer(path) as file:
        file.writelines([b"half", "not bytes"])  # type: ignore[list-item]
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_says_where_and_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", no_space)
    with (
        pytest.raises(OutOfResourcesError, match=r"metrics\.json: the disk is full\. Free"),
        atomic_writer(tmp_path / "metrics.json") as file,
    ):
        file.write(b"half")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_no_room_has_one_name(tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    with (
        pytest.raises(DiskFullError, match="out: 12 bytes are needed"),
        full_disk_named(Path("out"), "12 bytes are needed"),
    ):
        with full_disk_named(Path("inner")):
            no_room()
    with pytest.raises(BadInputError), full_disk_named(Path("out")):
        raise BadInputError("something else")
    monkeypatch.setattr(os, "fsync", no_room)
    with pytest.raises(DiskFullError, match=r"x: the disk is full\. Free"), atomic_writer(tmp_path / "x"):
        pass
    monkeypatch.setattr(Path, "mkdir", no_room)
    with pytest.raises(DiskFullError, match=r"y: the disk is full\. Free"):
        make_folder(tmp_path / "y")


def test_no_file_comes_in_the_place_of_a_device(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/null")
    for path in (tmp_path / "pipe", tmp_path / "link"):
        with pytest.raises(BadInputError, match="a device or pipe"), atomic_writer(path):
            pass
        with pytest.raises(BadInputError, match="a device or pipe"):
            prepare_file(path, example="x.csv")
    assert (tmp_path / "pipe").is_fifo()


def test_of_what_cannot_be_removed_the_content_is(tmp_path: Path) -> None:
    disk, link = tmp_path / "disk", tmp_path / "link"
    (disk / "lost+found").mkdir(parents=True)
    (disk / "run" / "deep").mkdir(parents=True)
    (disk / "config.yaml").write_text("")
    link.symlink_to(disk)
    remove_folder(link)
    assert [path.name for path in link.iterdir()] == ["lost+found"]


def test_the_disk_gets_to_work_without_being_waited_for(tmp_path: Path) -> None:
    with (tmp_path / "shard.h5").open("wb", buffering=0) as file:
        file.write(bytes(1 << 20))
        if n_dirty_pages(file.fileno()) == 0:
            pytest.skip("pages that are not on the disk yet cannot be counted here")
        begin_sync(file.fileno())
        assert n_dirty_pages(file.fileno()) == 0


def n_dirty_pages(descriptor: int) -> int:
    """Pages of a file that nobody has begun to write to the disk; 0 where that is not told. Source: cachestat(2)."""
    whole, counts = struct.pack("=2Q", 0, 0), ctypes.create_string_buffer(5 * 8)
    ctypes.CDLL(None).syscall(451, descriptor, whole, counts, 0)
    return int(struct.unpack("=5Q", counts.raw)[1])
