"""What users point at: folders, the competition's zip, both of its layouts, labels wherever they lie. One store."""

import gzip
import io
import os
import shutil
import socket
import zipfile
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import archives
import numpy as np
import phantoms
import pyarrow.parquet as pq
import pytest

from rsna_e2e.cli import main
from rsna_e2e.core.errors import BadInputError
from rsna_e2e.dicom.sources.files import open_source
from rsna_e2e.store import Store
from rsna_e2e.store.prepare import Part, prepare, prepare_part
from rsna_e2e.store.prepare.find_labels import LabelSearch
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.tasks.labels import write_labels

NESTED = "rsna-intracranial-hemorrhage-detection"
STORED_FILES = ("index.parquet", "tasks/ich/slices.parquet")


def label_file_of(raw: Path) -> str | None:
    """The first table that prepare would try as labels."""
    files = LabelSearch(open_source(raw)).read(ICH).files
    return files[0].ids.file if files else None


def write_files(root: Path, *, train: str, test: str) -> None:
    """Write two labelled series and one without labels, and the competition's tables: labels, and a submission."""
    hu = phantoms.write_series(root / train, name="a", patient_id="p1")
    hu |= phantoms.write_series(root / train, name="b", patient_id="p2", form=phantoms.UNSIGNED_12, shape=(24, 20))
    unlabelled = phantoms.write_series(root / test, name="c", patient_id="p3", orientation=phantoms.TILTED)
    values = np.random.default_rng(0).integers(0, 2, size=(len(hu), 6))
    write_labels(root / "stage_2_train.csv", ICH, sorted(hu), values)
    write_labels(root / "stage_2_sample_submission.csv", ICH, sorted(unlabelled), np.full((len(unlabelled), 6), 0.5))


def first_layout(folder: Path) -> Path:
    """`stage_2_train_images` and `stage_2_test_images`, with the tables beside them."""
    write_files(folder / "raw", train="stage_2_train_images", test="stage_2_test_images")
    return folder / "raw"


def second_layout(folder: Path) -> Path:
    """The same one folder down, by other names: what the competition gives since."""
    write_files(folder / "raw" / NESTED, train="stage_2_train", test="stage_2_test")
    return folder / "raw"


def tables_above(folder: Path) -> Path:
    raw = second_layout(folder)
    for table in (raw / NESTED).glob("*.csv"):
        table.rename(raw / table.name)
    return raw


def tables_outside(folder: Path) -> Path:
    return tables_above(folder) / NESTED


def zipped(layout: Callable[[Path], Path], *, method: int = zipfile.ZIP_DEFLATED) -> Callable[[Path], Path]:
    def pack(folder: Path) -> Path:
        raw = layout(folder)
        archives.zip_folder(raw, folder / "data.zip", method=method)
        shutil.rmtree(raw)
        return folder / "data.zip"

    return pack


def zip_with_backslashes(folder: Path) -> Path:
    raw = first_layout(folder)
    archives.zip_with_backslashes(raw, folder / "data.zip")
    shutil.rmtree(raw)
    return folder / "data.zip"


def zip_without_tables(folder: Path) -> Path:
    raw = tables_above(folder)
    archives.zip_folder(raw / NESTED, folder / "data.zip")
    shutil.copy(raw / "stage_2_train.csv", folder)
    shutil.rmtree(raw)
    return folder / "data.zip"


def folder_of_zip(folder: Path) -> Path:
    archive = zip_without_tables(folder)
    (folder / "downloads").mkdir()
    for path in (archive, folder / "stage_2_train.csv"):
        path.rename(folder / "downloads" / path.name)
    return folder / "downloads"


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of the first layout."""
    folder = tmp_path_factory.mktemp("expected")
    prepare(first_layout(folder), folder / "store", task=ICH, n_jobs=1)
    return folder / "store"


@pytest.mark.parametrize(
    "layout",
    [
        second_layout,
        tables_above,
        tables_outside,
        zipped(first_layout),
        zipped(first_layout, method=zipfile.ZIP_STORED),
        zipped(second_layout),
        zipped(tables_above),
        zip_with_backslashes,
        zip_without_tables,
        folder_of_zip,
    ],
    ids=[
        "nested",
        "tables_above",
        "tables_outside",
        "zip",
        "stored_zip",
        "nested_zip",
        "tables_above_zip",
        "zip_with_backslashes",
        "zip_beside_labels",
        "folder_of_zip_and_labels",
    ],
)
def test_every_way_to_keep_the_data_gives_the_same_store(
    tmp_path: Path, layout: Callable[[Path], Path], expected: Path
) -> None:
    raw = layout(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    report = prepare(raw, tmp_path / "store", task=ICH, n_jobs=1)
    store = Store.open(tmp_path / "store")
    assert store.data_hash == Store.open(expected).data_hash
    for name in STORED_FILES:
        assert (store.path / name).read_bytes() == (expected / name).read_bytes()
    for shard in (expected / "shards").iterdir():
        assert (store.path / "shards" / shard.name).read_bytes() == shard.read_bytes()
    assert report.label_file.endswith("stage_2_train.csv")
    assert (report.n_slices, report.n_unlabelled, report.n_labels_without_image, report.refusals) == (9, 3, 0, {})
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert {path: content for path, content in after.items() if "store" not in path.parts} == before


def as_zip(table: bytes) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("stage_2_train.csv", table)
        archive.writestr("__MACOSX/._stage_2_train.csv", b"\0\5\x16\7")
    return packed.getvalue()


@pytest.mark.parametrize(
    ("name", "pack", "place"),
    [
        ("stage_2_train.csv.zip", as_zip, "in the folder"),  # by Kaggle's client
        ("stage_2_train.csv.zip", as_zip, "in the archive"),
        ("stage_2_train.csv", as_zip, "in the archive"),  # by kagglehub
        ("stage_2_train.csv", gzip.compress, "one folder down"),
        ("stage_2_train.csv.gz", bytes, "in the folder"),  # unpacked on its way
        ("Stage_2_Train.CSV", bytes, "in the folder"),
        ("Stage_2_Train.CSV", bytes, "beside it"),
        ("TRAIN.CSV.ZIP", lambda table: as_zip(gzip.compress(table)), "one folder down"),
    ],
)
def test_labels_are_read_however_they_are_packed_and_spelled(
    tmp_path: Path, expected: Path, name: str, pack: Callable[[bytes], bytes], place: str
) -> None:
    raw = first_layout(tmp_path)
    table = raw / "stage_2_train.csv"
    content = table.read_bytes()
    table.unlink()
    where = {"beside it": tmp_path, "one folder down": raw / "stage_2_train_images"}.get(place, raw)
    (where / name).write_bytes(pack(content))
    if place == "in the archive":
        raw = archives.zip_folder(raw, tmp_path / "data.zip")
    report = prepare(raw, tmp_path / "store", task=ICH, n_jobs=1)
    assert Store.open(tmp_path / "store").data_hash == Store.open(expected).data_hash
    assert (Path(report.label_file).name, report.refusals, report.tables_passed_over) == (name, {}, {})
    assert label_file_of(raw) == report.label_file


def test_of_a_table_and_its_archive_the_table_counts(tmp_path: Path) -> None:
    raw = first_layout(tmp_path)
    (raw / "stage_2_train.csv.zip").write_bytes(as_zip(b"ID,Label\n"))
    (raw / "Stage_2_Train.csv").write_bytes(b"ID,Label\n")
    assert label_file_of(raw) == str(raw / "stage_2_train.csv")


def test_tables_that_look_like_labels_are_named_where_none_is_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = first_layout(tmp_path)
    (raw / "stage_2_train.csv").rename(raw / "my_labels.csv")
    (raw / "stage_2_sample_submission.csv").unlink()
    archives.zip_files(raw / "train.csv.zip", {"a.csv": b"ID,Label\n", "b.csv": b"ID,Label\n"})
    (raw / "Training.csv").write_text("case,fold\n")
    (tmp_path / "old_train.csv").write_text("ID,Label\nx_any,1\n")
    for name in ("Train_1.csv", "Train_2.csv"):
        (raw / "stage_2_test_images" / name).write_text("ID,Label\nx_any,1\n")
    (tmp_path / "Train.csv").write_text("ID,Label\nx_kind,7\n")
    assert main(["prepare", str(raw), str(tmp_path / "store"), "--jobs", "1"]) == 0
    said = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("tables passed over"))
    for name, why in (
        ("raw/my_labels.csv", "(no 'train' in its name)"),
        ("raw/train.csv.zip", "(cannot be read: an archive of 2 files, expected one table)"),
        ("raw/Training.csv", "(no columns of IDs and labels)"),
        ("raw/stage_2_test_images/Train_1.csv", "(one of several)"),
        ("old_train.csv", "(names none of the images)"),
        ("/Train.csv", "(names none of the images)"),
    ):
        assert f"{name} {why}" in said


def test_machines_share_an_archive(tmp_path: Path, expected: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw, store = zipped(second_layout)(tmp_path), tmp_path / "store"
    monkeypatch.setattr("rsna_e2e.store.prepare.run.SHARD_BYTES", 1)
    parts = [prepare_part(raw, store, Part(number, 2), task=ICH, n_jobs=1) for number in (1, 2)]
    assert [part.n_slices for part in parts] == [6, 3]
    prepare(raw, store, task=ICH, n_jobs=1, parts=[part.part for part in parts])
    assert Store.open(store).data_hash == Store.open(expected).data_hash
    os.utime(raw, ns=(1, 1))  # another archive, as far as anybody can tell
    shutil.rmtree(store)
    part = prepare_part(tmp_path / "data.zip", store, Part(1, 2), task=ICH, n_jobs=1).part
    os.utime(raw, ns=(2, 2))
    with pytest.raises(BadInputError, match="not a part of this store"):
        prepare(raw, store, task=ICH, n_jobs=1, parts=[part])


def test_an_interrupted_archive_goes_on_and_a_changed_one_begins_anew(tmp_path: Path, expected: Path) -> None:
    raw, store = zipped(first_layout)(tmp_path), tmp_path / "store"

    def interrupt(done: int, total: int, note: str = "") -> None:
        if note.startswith("headers"):
            raise KeyboardInterrupt

    def note_down(seen: list[str], done: int, total: int, note: str = "") -> None:
        seen.append(note)

    for change in (None, "crc"):
        with pytest.raises(KeyboardInterrupt):
            prepare(raw, store, task=ICH, n_jobs=1, progress=interrupt)
        status = raw.stat()
        if change:
            archives.forge(raw, "stage_2_train_images/ID_a_001.dcm", change, 7)
            os.utime(raw, ns=(status.st_atime_ns, status.st_mtime_ns))
        seen: list[str] = []
        report = prepare(raw, store, task=ICH, n_jobs=1, progress=partial(note_down, seen))
        if change:  # headers are read again, as the directory is another
            assert report.refusals == {"damaged_member": 1}
            assert seen[0].startswith("headers")
        else:
            assert Store.open(store).data_hash == Store.open(expected).data_hash
            assert not seen[0].startswith("headers")
        shutil.rmtree(store)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_pixels_changed_in_an_archive_are_refused(tmp_path: Path, method: int) -> None:
    phantoms.write_series(tmp_path / "raw", name="a", shape=(256, 256), n_slices=4)
    path = archives.zip_folder(tmp_path / "raw", tmp_path / "a.zip", method=method)
    content = bytearray(path.read_bytes())
    first, second = (archives.entry(path, f"ID_a_00{i}.dcm", "offset") for i in (2, 3))
    content[(first + second) // 2] ^= 4  # among the pixels: a header of 1 KB stands before 128 KB of them
    path.write_bytes(content)
    report = prepare(path, tmp_path / "store", task=ICH, n_jobs=1)
    assert report.refusals == {"damaged_member": 1}
    (refused,) = pq.read_table(tmp_path / "store" / "refusals.parquet").to_pylist()
    assert refused["path"] == "ID_a_002.dcm"
    assert report.n_slices == 3


def test_a_hostile_archive_costs_only_its_hostile_members(tmp_path: Path) -> None:
    phantoms.write_series(tmp_path / "raw", name="a", n_slices=4)
    good = {f"good/{path.name}": path.read_bytes() for path in sorted((tmp_path / "raw").iterdir())}
    names = list(good)
    inner = archives.zip_files(tmp_path / "inner.zip", good).read_bytes()
    hostile = {"../../escape.dcm": b"x", "/tmp/absolute.dcm": b"x", "nested.zip": inner, "bomb.dcm": bytes(20_000_000)}
    path = archives.zip_files(tmp_path / "a.zip", good | hostile)
    archives.forge(path, names[1], "flags", 1)
    archives.forge(path, names[2], "crc", 1)
    before = sorted(path for path in tmp_path.rglob("*"))
    report = prepare(path, tmp_path / "out" / "store", task=ICH, n_jobs=1)
    assert report.refusals == {"not_dicom": 3, "damaged_member": 1, "encrypted_member": 1, "inflates_too_far": 1}
    assert report.n_slices == 2
    assert sorted(path for path in tmp_path.rglob("*") if "out" not in path.parts) == before


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("crc", 1, "its content has another CRC-32 than the archive says"),
        ("flags", 1, "encrypted in its archive"),
        ("n_bytes", 0xF0000000, "at most 536870912 are read"),
    ],
)
def test_damaged_labels_in_an_archive_are_named(
    tmp_path: Path, field: str, value: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = zipped(first_layout)(tmp_path)
    archives.forge(path, "stage_2_train.csv", field, value)
    assert main(["prepare", str(path), str(tmp_path / "store")]) == 3
    said = capsys.readouterr().err
    assert "data.zip, stage_2_train.csv: " in said
    assert message in said


def test_a_submission_is_no_label_file_and_tables_of_others_are_none(tmp_path: Path) -> None:
    raw = first_layout(tmp_path)
    (raw / "stage_2_train.csv").rename(tmp_path / "stage_2_train.csv")  # beside: it names images of `raw`
    assert label_file_of(raw) == str(tmp_path.resolve() / "stage_2_train.csv")
    for only_test in (
        raw / "stage_2_test_images",
        archives.zip_folder(raw / "stage_2_test_images", tmp_path / "t.zip"),
    ):
        shutil.copy(tmp_path / "stage_2_train.csv", raw)  # beside the first as well, and of other images
        report = prepare(only_test, tmp_path / f"store_{only_test.name}", task=ICH, n_jobs=1)
        assert (report.label_file, report.n_unlabelled) == ("none", 3)
    (raw / "stage_2_train.csv").unlink()
    (tmp_path / "stage_2_train.csv").write_text("path,fold\nx,1\n")  # somebody's list of training files
    (raw / "stage_2_test_images" / "train_list.csv").write_text("name\nx\n")
    assert label_file_of(raw) is None


@pytest.mark.parametrize(
    "line",
    ["x_any,7", "x_any,yes", "x_kind,1", "nothing,1", ",1", "x_any,1,2"],
    ids=lambda line: line.replace(",", " "),
)
def test_a_table_of_others_beside_the_images_may_hold_anything(tmp_path: Path, line: str) -> None:
    raw = first_layout(tmp_path)
    (raw / "stage_2_train.csv").unlink()
    (tmp_path / "my_train.csv").write_text(f"ID,Label\n{line}\n")
    report = prepare(raw, tmp_path / "store", task=ICH, n_jobs=1)
    assert (report.label_file, report.n_slices) == ("none", 9)


@pytest.mark.parametrize("line", ["ID_a_001_any,7", "ID_a_001_kind,1"])
def test_a_table_beside_the_images_that_names_them_must_be_right(tmp_path: Path, line: str) -> None:
    raw = first_layout(tmp_path)
    (raw / "stage_2_train.csv").unlink()
    (tmp_path / "my_train.csv").write_text(f"ID,Label\nx_any,1\n{line}\n")
    with pytest.raises(BadInputError, match=r"my_train\.csv, line 3: "):
        prepare(raw, tmp_path / "store", task=ICH, n_jobs=1)


def test_the_nearest_labels_count_and_two_in_one_place_are_refused(tmp_path: Path) -> None:
    raw = first_layout(tmp_path)
    shutil.copy(raw / "stage_2_train.csv", raw / "stage_2_train_images" / "old_train.csv")
    shutil.copy(raw / "stage_2_train.csv", tmp_path / "my_train.csv")
    assert label_file_of(raw) == str(raw / "stage_2_train.csv")
    (raw / "stage_2_train.csv").unlink()
    assert label_file_of(raw) == str(raw / "stage_2_train_images" / "old_train.csv")
    shutil.copy(tmp_path / "my_train.csv", raw / "stage_2_test_images" / "new_train.csv")
    with pytest.raises(BadInputError, match=r"several files could hold the labels \(new_train.csv, old_train.csv\)"):
        label_file_of(raw)
    with pytest.raises(BadInputError, match=r"data\.zip: several files could hold the labels"):
        label_file_of(archives.zip_folder(raw, tmp_path / "data.zip"))


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        folder = os.open(path.parent, os.O_RDONLY)
        server.bind(f"/proc/self/fd/{folder}/{path.name}")  # the path itself may be too long for an address
        os.close(folder)


def _bytes(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (_bytes(b""), "not_dicom"),
        (_bytes(b"%PDF-1.7\n" + bytes(1000)), "not_dicom"),
        (_bytes(b"\x89PNG\r\n\x1a\n" + bytes(1000)), "not_dicom"),
        (_bytes(bytes(127)), "not_dicom"),
        (_bytes(bytes(5000)), "not_dicom"),
        (_bytes(b"PK\3\4" + bytes(1000)), "not_dicom"),
        (_bytes(b"\x1f\x8b\x08" + bytes(1000)), "not_dicom"),
        (os.mkfifo, "not_regular_file"),
        (_socket, "not_regular_file"),
        (lambda path: path.symlink_to("/dev/zero"), "not_regular_file"),
        (lambda path: path.symlink_to(path), "not_regular_file"),  # to itself
        (lambda path: path.symlink_to(path.with_name("nothing")), "not_regular_file"),
        (lambda path: path.symlink_to(path.parent), "linked_folder"),  # round and round
        (lambda path: path.symlink_to(path.parents[1] / "outside"), "linked_folder"),
    ],
    ids=[
        *("empty", "pdf", "png", "shorter_than_a_preamble", "zeros", "zip", "gzip", "fifo", "socket", "device"),
        *("link_to_itself", "broken_link", "loop", "outside"),
    ],
)
def test_what_is_no_slice_costs_nothing_but_a_line(tmp_path: Path, make: Callable[[Path], object], reason: str) -> None:
    phantoms.write_series(tmp_path / "raw" / "deep", name="a")
    phantoms.write_series(tmp_path / "outside", name="secret")
    (tmp_path / "raw" / "train.csv").symlink_to("train.csv")  # nor are these label files
    (tmp_path / "raw" / "deep" / "train.csv").mkdir()
    make(tmp_path / "raw" / "stray.dcm")
    report = prepare(tmp_path / "raw", tmp_path / "store", task=ICH, n_jobs=1)
    assert pq.read_table(tmp_path / "store" / "refusals.parquet")["path"].to_pylist() == ["stray.dcm", "train.csv"]
    assert report.n_slices == 3
    assert report.refusals == dict(Counter([reason, "not_regular_file"]))


@pytest.mark.parametrize(("strays", "codes"), [(0, (0, 0)), (2, (0, 3))])
def test_refusals_are_an_error_for_those_who_say_so(
    tmp_path: Path, strays: int, codes: tuple[int, int], capsys: pytest.CaptureFixture[str]
) -> None:
    phantoms.write_series(tmp_path / "raw", name="a")
    for number in range(strays):
        (tmp_path / "raw" / f"{number}.txt").write_text("x")
    for store, options, code in (("plain", [], codes[0]), ("strict", ["--strict"], codes[1])):
        assert main(["prepare", str(tmp_path / "raw"), str(tmp_path / store), *options]) == code
        assert len(Store.open(tmp_path / store)) == 3
    assert ("made, but without 2 files or slices" in capsys.readouterr().err) == (strays > 0)


def test_what_is_neither_folder_nor_archive(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no archive")
    os.mkfifo(tmp_path / "pipe")
    for name in ("notes.txt", "pipe"):
        with pytest.raises(BadInputError, match=f"{name}: not a folder, and no zip archive"):
            open_source(tmp_path / name).find()


@pytest.mark.slow
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_every_pixel_of_an_archive_at_full_size(tmp_path: Path, method: int) -> None:
    hu = phantoms.write_series(tmp_path / "raw", name="a", n_slices=34, shape=(512, 512), orientation=phantoms.TILTED)
    hu |= phantoms.write_series(
        tmp_path / "raw", name="b", n_slices=34, shape=(768, 512), patient_id="p2", form=phantoms.UNSIGNED_12
    )
    archive = archives.zip_folder(tmp_path / "raw", tmp_path / "a.zip", method=method)
    prepare(archive, tmp_path / "store", task=ICH, n_jobs=2)
    store = Store.open(tmp_path / "store")
    assert len(store) == len(hu) == 68
    for row, image_id in enumerate(store.index["image_id"]):
        np.testing.assert_array_equal(store.read_slice(row), hu[image_id])
