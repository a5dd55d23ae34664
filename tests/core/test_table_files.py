"""Tables as they come: packed in what their first bytes say, out of pipes, refused where they cannot be read."""

import gzip
import hashlib
import io
import os
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from stores import make_store

from rsna_e2e.cli import main
from rsna_e2e.core.errors import BadInputError
from rsna_e2e.core.table_files import is_table, table_at
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.tasks.labels import read_labels

TEXT = b'ID,Label\n"a,b_any",1\n\n"c\nd_any",0\ne_any,1\n'


def zipped(*names: str, content: bytes = TEXT, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", method) as archive:
        for name in names:
            archive.writestr(name, content)
    return packed.getvalue()


def read(path: Path) -> bytes:
    with table_at(path).open() as stream:
        return stream.read()


PACKED = {
    "bare": TEXT,
    "gzip": gzip.compress(TEXT),
    "gzip_in_two": gzip.compress(TEXT[:9]) + gzip.compress(TEXT[9:]),
    "zip": zipped("train.csv"),
    "zip_in_a_folder": zipped("deep/train.csv", "deep/readme.txt", "__MACOSX/deep/._train.csv"),
    "zip_of_one_file": zipped("labels"),
    "gzip_in_zip": zipped("train.csv.gz", content=gzip.compress(TEXT)),
    "zip_in_gzip": gzip.compress(zipped("train.csv")),
}


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.csv.zip", "a"])
@pytest.mark.parametrize("packed", PACKED.values(), ids=PACKED)
def test_what_is_in_a_file_says_how_it_is_packed(tmp_path: Path, name: str, packed: bytes) -> None:
    (tmp_path / name).write_bytes(packed)
    table = table_at(tmp_path / name)
    assert read(tmp_path / name) == TEXT
    assert table.header() == ["ID", "Label"]
    assert table.sha256() == hashlib.sha256(packed).hexdigest()
    assert [table.line_of(row) for row in range(4)] == [2, 5, 6, 5]  # there is no fourth


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("ID;Intraventrikulär\na;1\n".encode("cp1252"), r"is not UTF-8 \(line 1\): save it as CSV UTF-8"),
        (b"ID,any\n" + b"a,1\n" * 10**6 + "ä,1\n".encode("cp1252"), r"is not UTF-8 \(line 1000002\): "),
        (b"ID,any\na,1\n\xc3", r"is not UTF-8 \(line 3\): "),  # it ends within a character
        ("ID,any\na,1\n".encode("utf-16"), "is UTF-16, not UTF-8: save it as CSV UTF-8"),
        ("ID,any\na,1\n".encode("utf-16-be"), "is UTF-16, not UTF-8: "),
    ],
    ids=["cp1252", "late", "cut", "utf-16", "utf-16-be"],
)
def test_a_table_that_is_not_utf8_is_refused_by_its_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "labels.csv"
    for packed in (content, gzip.compress(content)):
        path.write_bytes(packed)
        with pytest.raises(BadInputError, match=rf"labels\.csv: {message}"):
            read_labels(table_at(path, {"any": "Intraventrikulär"}), ICH)


def test_characters_of_two_bytes_lie_anywhere(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("x" + "ä" * (1 << 20))  # no chunk ends between two characters
    table_at(tmp_path / "labels.csv").check_utf8()


def with_name(name: bytes, *, in_directory: bool) -> bytes:
    """An archive whose table has another name of as many bytes, in one of the two places where it stands."""
    content = bytearray(zipped("é.csv"))
    at = content.rfind("é.csv".encode()) if in_directory else content.find("é.csv".encode())
    content[at : at + len(name)] = name
    return bytes(content)


def without_name() -> bytes:
    content = bytearray(zipped("a"))
    at = content.find(b"PK\1\2")
    content[at + 28 : at + 34] = bytes((0, 0, 1, 0, 0, 0))  # its byte counts as an extra field
    return bytes(content)


def damaged_lzma() -> bytes:
    content = bytearray(zipped("a.csv", content=TEXT * 99, method=zipfile.ZIP_LZMA))
    content[60:80] = b"\xff" * 20  # behind the local header and the properties
    return bytes(content)


def encrypted() -> bytes:
    content = bytearray(zipped("a.csv"))
    content[6] |= 1  # flags of the local header, then of the directory
    content[content.find(b"PK\1\2") + 8] |= 1
    return bytes(content)


@pytest.mark.parametrize(
    "packed",
    [
        zipped("a.csv", "b.csv"),
        zipped(),
        zipped("a", "b"),
        encrypted(),
        zipped("a.csv", content=bytes(20_000_000)),
        zipped("a.csv")[:-30],
        gzip.compress(TEXT)[:-9],
        gzip.compress(TEXT)[:12] + b"\xff" * 20,
        damaged_lzma(),
        with_name(b"\xff\xff", in_directory=True),
        with_name(b"\xff\xff", in_directory=False),
        without_name(),
    ],
    ids=[
        *("two", "none", "two_others", "encrypted", "bomb", "cut", "cut_gzip", "bad_gzip", "bad_lzma"),
        *("no_utf8", "no_utf8_there", "no_name"),
    ],
)
def test_what_cannot_be_unpacked_is_an_error_of_the_file(tmp_path: Path, packed: bytes) -> None:
    (tmp_path / "a.csv").write_bytes(packed)
    with pytest.raises(OSError, match=r"."):
        read(tmp_path / "a.csv")


def test_a_table_that_inflates_without_end_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.csv").write_bytes(gzip.compress(b"ID,Label\n" + bytes(1 << 20)))
    read(tmp_path / "a.csv")
    monkeypatch.setattr("rsna_e2e.core.table_files.MAX_MEMBER_BYTES", 1 << 20)
    with pytest.raises(OSError, match="inflates further than any table"):
        read(tmp_path / "a.csv")
    with pytest.raises(BadInputError, match="inflates further than any table"):
        read_labels(table_at(tmp_path / "a.csv"), ICH)


def test_a_pipe_is_read_once_and_may_be_looked_at_often(tmp_path: Path) -> None:
    content = gzip.compress(TEXT * 20_000, compresslevel=0)  # more than a pipe holds
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(content))
    writer.start()
    table = table_at(pipe)
    writer.join()
    for _ in range(2):
        with table.open() as stream:
            assert stream.read() == TEXT * 20_000
    assert table.sha256() == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (os.mkfifo, r"a\.csv: a pipe without a writer"),
        (lambda path: path.symlink_to("/dev/zero"), r"a\.csv: a device"),
    ],
)
def test_what_would_never_end_is_refused(
    tmp_path: Path, make: Callable[[Path], object], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rsna_e2e.core.table_files.WAIT_FOR_WRITER_S", 0.05)
    make(tmp_path / "a.csv")
    with pytest.raises(BadInputError, match=message):
        table_at(tmp_path / "a.csv")


def test_names_of_tables() -> None:
    assert all(map(is_table, ("a.csv", "A.CSV", "a.csv.gz", "a.Csv.Zip")))
    assert not any(map(is_table, ("csv", "a.zip", "a.gz", "a.dcm")))


READERS: dict[str, Callable[[Path, Path], list[object]]] = {
    "prepare": lambda pipe, folder: ["prepare", folder / "raw", folder / "out", "--labels", pipe],
    "inspect": lambda pipe, folder: ["inspect", folder / "raw", "--out", folder / "out", "--labels", pipe],
    "pipeline": lambda pipe, folder: [
        *("pipeline", "joint", "--data", folder / "raw", "--out", folder / "out", "--labels", pipe, "--dry-run")
    ],
    "submission": lambda pipe, folder: ["evaluate", pipe, folder / "a.csv", "--out", folder / "out"],
    "truth": lambda pipe, folder: ["evaluate", folder / "a.csv", pipe, "--out", folder / "out"],
    "bag": lambda pipe, folder: ["bag", pipe, "--out", folder / "out"],
    "smooth": lambda pipe, folder: ["smooth", pipe, "--out", folder / "out"],
    "gate": lambda pipe, folder: ["gate", pipe, folder / "a.csv", "--least", "0.5", "--out", folder / "out"],
    "ids": lambda pipe, folder: [
        *("import-embeddings", folder / "a.npz", folder / "out", "--store", folder / "store", "--part", "test"),
        *("--ids", pipe, "--name", "x"),
    ],
}


@pytest.mark.parametrize("reader", READERS)
def test_nobody_waits_for_a_pipe_without_a_writer(
    tmp_path: Path, reader: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rsna_e2e.core.table_files.WAIT_FOR_WRITER_S", 0.05)
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a.dcm").write_bytes(b"")
    (tmp_path / "a.csv").write_text("ID,Label\n" + "".join(f"a_{name},0\n" for name in ICH.slices.names))
    make_store(tmp_path / "store")
    for name in ("pipe", "pipe.predictions.parquet"):
        os.mkfifo(tmp_path / name)
    assert main([str(word) for word in READERS[reader](tmp_path / "pipe", tmp_path)]) == 3
    assert "pipe" in capsys.readouterr().err
    assert not (tmp_path / "out").is_file()
