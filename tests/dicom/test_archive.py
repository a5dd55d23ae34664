"""Archives read in place: what is right comes out bit for bit, what lies is refused by name, nothing is unpacked."""

import io
import os
import resource
import stat
import struct
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import archives
import numpy as np
import pytest

from rsna_e2e.core.errors import BadInputError
from rsna_e2e.core.limits import HARMLESS_BYTES, MAX_MEMBER_BYTES, MAX_RATIO
from rsna_e2e.core.records import RawFile
from rsna_e2e.dicom.elements import RefusedError
from rsna_e2e.dicom.sources.files import RawArchive, open_source

NOISE = np.random.default_rng(0).integers(0, 256, 700_000, dtype=np.uint8).tobytes()  # does not deflate
FILES = {"a.dcm": NOISE, "b/c.dcm": b"text " * 40_000, "b/empty": b"", "b/d/e": b"x"}


def read(source: RawArchive, raw_file: RawFile) -> bytes:
    with source.open(raw_file) as stream:
        return stream.read()


def source_of(path: Path) -> RawArchive:
    source = open_source(path)
    assert isinstance(source, RawArchive)
    return source


@pytest.fixture
def small_zip64(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes, offsets and the directory's end in 64 bits, as in archives beyond 4 GiB."""
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 10)
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 1)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("streamed", [False, True])
def test_every_byte_of_every_member(tmp_path: Path, method: int, streamed: bool) -> None:
    for name, content in FILES.items():
        (tmp_path / "raw" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "raw" / name).write_bytes(content)
    path = archives.zip_folder(tmp_path / "raw", tmp_path / "a.zip", method=method, streamed=streamed)
    source = source_of(path)
    files, refusals = source.find()
    assert refusals == []
    assert [(file.name, file.n_bytes) for file in files] == [(name, len(FILES[name])) for name in sorted(FILES)]
    assert {file.name: read(source, file) for file in files} == FILES


@pytest.mark.usefixtures("small_zip64")
def test_archives_of_64_bits(tmp_path: Path) -> None:
    path = archives.zip_files(tmp_path / "a.zip", FILES)
    assert b"PK\6\6" in path.read_bytes()
    assert archives.entry(path, "b/c.dcm", "offset") == 0xFFFFFFFF
    source = source_of(path)
    assert {file.name: read(source, file) for file in source.find()[0]} == FILES


@pytest.mark.parametrize("head", [False, True])
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_streams_go_anywhere(tmp_path: Path, method: int, head: bool) -> None:
    source = source_of(archives.zip_files(tmp_path / "a.zip", {"a": NOISE}, method=method))
    expected = io.BytesIO(NOISE)
    rng = np.random.default_rng(1)
    with source.open(source.find()[0][0], head=head) as stream:
        for _ in range(200):
            place, n_bytes = int(rng.integers(0, 720_000)), int(rng.integers(0, 9000))
            whence = int(rng.integers(0, 3))
            offset = place - (0, expected.tell(), len(NOISE))[whence]
            assert stream.seek(offset, whence) == expected.seek(offset, whence) == stream.tell()
            assert stream.read(n_bytes) == expected.read(n_bytes)


def test_of_a_head_no_more_is_inflated_than_is_asked_for(tmp_path: Path) -> None:
    source = source_of(archives.zip_files(tmp_path / "a.zip", {"a": bytes(100_000_000) + NOISE * 2}))
    (raw_file,), _ = source.find()
    tracemalloc.start()
    with source.open(raw_file, head=True) as stream:
        assert stream.read(4) == bytes(4)
        _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20_000_000  # 4 KiB of zeros inflate to 4 MB


def spoil(path: Path, name: str) -> None:
    """Change a byte in the middle of a member's own bytes."""
    content = bytearray(path.read_bytes())
    offset = archives.entry(path, name, "offset") + 30 + len(name) + archives.entry(path, name, "n_packed") // 2
    content[offset] ^= 1
    path.write_bytes(content)


def lie_about_the_name(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"first", b"other", 1))


def cut_local_header(path: Path) -> None:
    """Point at the last 20 bytes, where no local header fits any more."""
    archives.forge(path, "last", "n_bytes", 0)
    archives.forge(path, "last", "n_packed", 0)
    archives.forge(path, "last", "offset", path.stat().st_size - 20)


DAMAGED = "damaged_member"


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize(
    ("spoil", "reasons"),
    [
        (lambda p: archives.forge(p, "first", "flags", 1), {"first": "encrypted_member"}),
        (lambda p: archives.forge(p, "first", "method", 12), {"first": "unsupported_compression"}),
        (lambda p: archives.forge(p, "first", "n_bytes", MAX_MEMBER_BYTES + 1), {"first": "inflates_too_far"}),
        (lambda p: archives.forge(p, "last", "n_packed", 9000), {"last": DAMAGED}),
        (lambda p: archives.forge(p, "first", "n_bytes", 5001), {"first": DAMAGED}),
        (lambda p: archives.forge(p, "first", "n_bytes", 4999), {"first": DAMAGED}),
        (lambda p: archives.forge(p, "first", "crc", 7), {"first": DAMAGED}),
        (lambda p: archives.forge(p, "last", "offset", 0), {"first": DAMAGED, "last": DAMAGED}),
        (lambda p: archives.forge(p, "last", "offset", 40), {"first": DAMAGED, "last": DAMAGED}),
        (lambda p: archives.forge(p, "last", "offset", 1 << 31), {"last": DAMAGED}),
        (cut_local_header, {"last": DAMAGED}),
        (lambda p: spoil(p, "first"), {"first": DAMAGED}),
        (lie_about_the_name, {"first": DAMAGED}),
    ],
)
def test_members_that_lie_are_refused_and_others_are_read(
    tmp_path: Path, method: int, spoil: Callable[[Path], None], reasons: dict[str, str]
) -> None:
    files = {"first": NOISE[:5000], "middle": NOISE[5000:6000], "last": NOISE[6000:9000]}
    path = archives.zip_files(tmp_path / "a.zip", files, method=method)
    spoil(path)
    source = source_of(path)
    found, refusals = source.find()
    told = {refusal.path: str(refusal.reason) for refusal in refusals}
    for raw_file in found:
        try:
            assert read(source, raw_file) == files[raw_file.name]
        except RefusedError as error:
            told[raw_file.name] = str(error.reason)
    assert told == reasons


def test_a_member_that_claims_the_bytes_of_others_is_refused_with_them(tmp_path: Path) -> None:
    path = archives.zip_files(tmp_path / "a.zip", {"first": NOISE[:5000], "middle": NOISE[:99], "last": NOISE[:3000]})
    archives.forge(path, "first", "n_packed", 5050)
    found, refusals = source_of(path).find()
    assert [(refusal.path, refusal.reason) for refusal in refusals] == [("first", DAMAGED), ("middle", DAMAGED)]
    assert [file.name for file in found] == ["last"]


def test_bombs_are_refused_unread_and_harmless_slices_of_one_value_are_not(tmp_path: Path) -> None:
    slice_of_air = bytes(2 * 512 * 512)
    files = {"air": slice_of_air, "bomb": bytes(HARMLESS_BYTES + 1), "large": NOISE * 7}
    path = archives.zip_files(tmp_path / "a.zip", files)
    assert archives.entry(path, "air", "n_packed") * MAX_RATIO < len(slice_of_air)
    source = source_of(path)
    found, refusals = source.find()
    assert [(refusal.path, refusal.reason) for refusal in refusals] == [("bomb", "inflates_too_far")]
    assert {file.name: read(source, file) for file in found} == {"air": files["air"], "large": files["large"]}


def test_of_equal_names_equal_files_count_once_and_different_ones_never(tmp_path: Path) -> None:
    contents = {"same": b"x", "other": b"x", "SAME": b"x", "OTHER": b"y", "one": b"z"}
    path = archives.zip_files(tmp_path / "a.zip", contents)
    path.write_bytes(path.read_bytes().replace(b"SAME", b"same").replace(b"OTHER", b"other"))
    source = source_of(path)
    found, refusals = source.find()
    assert [(refusal.path, refusal.reason) for refusal in refusals] == [
        ("other", "duplicate_name"),
        ("other", "duplicate_name"),
        ("same", "duplicate_name"),
    ]
    assert {file.name: read(source, file) for file in found} == {"one": b"z", "same": b"x"}


def test_names_are_labels_and_links_are_refused(tmp_path: Path) -> None:
    names = ["../../up.dcm", "/etc/absolute.dcm", "C:\\x.dcm", "line\nbreak\x1b[2J.dcm", "folder/"]
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in names:
            archive.writestr(zipfile.ZipInfo(name), b"" if name.endswith("/") else name.encode())
        link = zipfile.ZipInfo("link.dcm")
        link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    before = sorted(tmp_path.rglob("*"))
    source = source_of(tmp_path / "a.zip")
    found, refusals = source.find()
    assert {file.name: read(source, file) for file in found} == {name: name.encode() for name in names[:-1]}
    assert [(refusal.path, refusal.reason) for refusal in refusals] == [("link.dcm", "not_regular_file")]
    assert sorted(tmp_path.rglob("*")) == before
    archives.forge(tmp_path / "a.zip", "line\nbreak", "flags", 1)
    assert "line\\nbreak\\x1b[2J.dcm" in {refusal.path for refusal in source.find()[1]}


def test_backslashes_set_folders_apart_where_no_slash_does(tmp_path: Path) -> None:
    def found_in(*names: str) -> list[str]:
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            for name in names:
                info = zipfile.ZipInfo("x")
                info.filename = name
                archive.writestr(info, b"" if name.endswith(("/", "\\")) else name.encode())
        source = source_of(tmp_path / "a.zip")
        found, refusals = source.find()
        assert refusals == []
        assert [read(source, raw_file).decode().replace("\\", "/") for raw_file in found] == [
            raw_file.name.replace("\\", "/") for raw_file in found
        ]
        return [raw_file.name for raw_file in found]

    assert found_in("a.dcm", "b\\", "b\\c.dcm", "b\\d\\e.dcm") == ["a.dcm", "b/c.dcm", "b/d/e.dcm"]
    assert found_in("b/c.dcm", "b/d\\e.dcm") == ["b/c.dcm", "b/d\\e.dcm"]  # of Unix, where it belongs to the name


def test_a_name_may_be_any_bytes(tmp_path: Path) -> None:
    path = archives.zip_files(tmp_path / "a.zip", {"ab.dcm": b"x"})
    path.write_bytes(path.read_bytes().replace(b"ab.dcm", b"a\xff.dcm"))
    source = source_of(path)
    ((raw_file,), _) = source.find()
    assert (os.fsencode(raw_file.name), read(source, raw_file)) == (b"a\xff.dcm", b"x")


def _cut(path: Path, n_bytes: int) -> None:
    path.write_bytes(path.read_bytes()[:n_bytes])


@pytest.mark.parametrize("share", [0.001, 0.3, 0.9, 0.98, 0.999])
def test_an_archive_that_is_cut_short(tmp_path: Path, share: float) -> None:
    path = archives.zip_files(tmp_path / "a.zip", {f"{i}.dcm": NOISE[:3000] for i in range(20)})
    _cut(path, int(path.stat().st_size * share))
    with pytest.raises(BadInputError, match=r"a\.zip: the archive is cut short or damaged"):
        source_of(path).find()


@pytest.mark.parametrize(("place", "value"), [(4, 1), (8, 9), (12, 1 << 20), (16, 1 << 20), (10, 60_000)])
def test_a_directory_that_contradicts_itself(tmp_path: Path, place: int, value: int) -> None:
    path = archives.zip_files(tmp_path / "a.zip", {"a": b"x", "b": b"y"})
    content = bytearray(path.read_bytes())
    end = content.rfind(b"PK\5\6")
    struct.pack_into("<H" if place < 12 else "<L", content, end + place, value)
    if place == 10:
        struct.pack_into("<H", content, end + 8, value)
    path.write_bytes(content)
    with pytest.raises(
        BadInputError, match=r"a\.zip: (the archive is cut short or damaged|one file of a split archive)"
    ):
        source_of(path).find()


def test_every_cut_and_every_changed_byte_ends_well(tmp_path: Path) -> None:
    path = archives.zip_files(tmp_path / "a.zip", {"a.dcm": NOISE[:200], "b.dcm": b"y" * 300})
    whole = path.read_bytes()
    contents = {"a.dcm": NOISE[:200], "b.dcm": b"y" * 300}
    for place in range(len(whole)):
        for changed in (whole[:place], whole[:place] + bytes([whole[place] ^ 0x81]) + whole[place + 1 :]):
            path.write_bytes(changed)
            source = RawArchive(path)
            try:
                for raw_file in source.find()[0]:
                    assert read(source, raw_file) in contents.values()
            except (BadInputError, RefusedError):
                continue


def write_sparse_archive(path: Path, n_members: int, *, n_packed: int) -> None:
    """Write a directory as the competition's has it, beyond 4 GiB, of members that are not there."""
    central = struct.Struct("<4sHHHHHHLLLHHHHHLL")
    start = n_members * n_packed
    with path.open("wb") as file:
        file.write(b"PK\3\4")
        file.seek(start)
        n_directory = 0
        for i in range(n_members):
            name = b"rsna-intracranial-hemorrhage-detection/stage_2_train/ID_%09x.dcm" % (i * 2654435761 % (1 << 36))
            extra = struct.pack("<HHQ", 1, 8, i * n_packed)
            sizes = (n_packed - 200, 526_000, len(name), len(extra))
            head = central.pack(b"PK\1\2", 3 << 8, 45, 0, 8, 0, 0, i, *sizes, 0, 0, 0, 0, 0xFFFFFFFF)
            n_directory += file.write(head + name + extra)
        numbers = (n_members, n_members, n_directory, start)
        file.write(struct.pack("<4sQHHLLQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, *numbers))
        file.write(struct.pack("<4sLQL", b"PK\6\7", 0, start + n_directory, 1))
        file.write(struct.pack("<4sHHHHLLH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0))


def test_a_large_directory_is_listed_in_order(tmp_path: Path) -> None:
    write_sparse_archive(tmp_path / "a.zip", 20_000, n_packed=300_000)  # 6 GB that take no room
    began_s = time.process_time()
    files, refusals = source_of(tmp_path / "a.zip").find()
    assert time.process_time() - began_s < 2.0  # measured: 0.15 s
    assert refusals == []
    assert len(files) == 20_000
    assert [file.name for file in files] == sorted(file.name for file in files)
    assert {file.offset // 300_000 for file in files} == set(range(20_000))
    assert all(file.offset == file.stamp * 300_000 for file in files)


@pytest.mark.slow
def test_the_directory_of_the_whole_competition(tmp_path: Path) -> None:
    write_sparse_archive(tmp_path / "a.zip", 874_035, n_packed=206_000)  # files and bytes of the 2019 archive
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began_s = time.process_time()
    files, refusals = source_of(tmp_path / "a.zip").find()
    elapsed_s = time.process_time() - began_s
    assert (len(files), refusals) == (874_035, [])
    assert elapsed_s < 30.0  # measured: 7 s
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 600_000  # KB; measured: 350,000
