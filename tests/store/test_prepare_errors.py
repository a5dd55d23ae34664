"""What users get wrong, and what disks do: one line, and nothing half-written left behind."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import archives
import phantoms
import pyarrow.parquet as pq
import pytest

from rsna_e2e.cli import main
from rsna_e2e.core.errors import BadInputError, OutOfResourcesError, RsnaError, UsageError
from rsna_e2e.core.reasons import Reason
from rsna_e2e.core.records import Refusal
from rsna_e2e.store import StoreError
from rsna_e2e.store.prepare import prepare
from rsna_e2e.store.prepare.match_labels import Match, with_labels
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.tasks.labels import write_labels


def write_train_labels(raw: Path, image_id: str, name: str) -> None:
    write_labels(raw / name, ICH, [image_id], [[0, 0, 0, 0, 0, 0]])


def _two_label_files(folder: Path) -> None:
    for name in ("train.csv", "stage_2_train.csv"):
        write_train_labels(folder / "raw", "ID_a_001", name)


def _bad_labels(folder: Path) -> None:
    (folder / "raw" / "train.csv").write_text("Image,Label\nID_a_001_any,1\n")


def _only_text(folder: Path) -> None:
    shutil.rmtree(folder / "raw")
    (folder / "raw").mkdir()
    (folder / "raw" / "a.txt").write_text("x")


def _an_archive(folder: Path) -> None:
    archives.zip_folder(folder / "raw", folder / "a.zip")
    shutil.rmtree(folder / "raw")
    (folder / "raw" / "deep").mkdir(parents=True)
    (folder / "a.zip").rename(folder / "raw" / "deep" / "a.zip")
    (folder / "raw" / "notes.txt").write_text("x")


def _empty(folder: Path) -> None:
    shutil.rmtree(folder / "raw")
    (folder / "raw").mkdir()


def _missing(folder: Path) -> None:
    shutil.rmtree(folder / "raw")


def _a_file(folder: Path) -> None:
    shutil.rmtree(folder / "raw")
    (folder / "raw").write_text("x")


def _store_there(folder: Path) -> None:
    (folder / "store").mkdir()
    (folder / "store" / "thesis.txt").write_text("x")


def _prepared(folder: Path) -> None:
    prepare(folder / "raw", folder / "store", task=ICH, n_jobs=1)


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (_missing, BadInputError, "raw: no such folder"),
        (_a_file, BadInputError, "raw: not a folder"),
        (_empty, BadInputError, "no CT slice in DICOM form found there: it holds no files"),
        (_only_text, BadInputError, "no CT slice in DICOM form found there: 1 not_dicom"),
        (_an_archive, BadInputError, r"2 not_dicom, such as .*\. Give one of the archives in it"),
        (_two_label_files, BadInputError, "stage_2_train.csv, train.csv"),
        (_bad_labels, BadInputError, "train.csv, line 1"),
        (_store_there, StoreError, "store: exists and is not empty"),
        (_prepared, StoreError, r"store: a prepared store already exists. Use it \(rsna-e2e train .*store RUN\)"),
    ],
)
def test_one_line_and_nothing_left_behind(
    tmp_path: Path, spoil: Callable[[Path], None], error: type[RsnaError], message: str
) -> None:
    phantoms.write_series(tmp_path / "raw", name="a")
    spoil(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(error, match=message) as caught:
        prepare(tmp_path / "raw", tmp_path / "store", task=ICH, n_jobs=1)
    assert "\n" not in str(caught.value)
    is_explained = "All are listed in" in str(caught.value)
    left = [tmp_path / "store.partial", tmp_path / "store.partial" / "refusals.parquet"] if is_explained else []
    assert sorted(tmp_path.rglob("*")) == sorted([*before, *left])


# How every file comes to be refused, and what must be said of it
NOTHING_TAKEN = {
    "header": ({"RescaleSlope": None}, r"3 missing_tag, such as \S+\.dcm \(RescaleSlope \(0028,1053\)\)"),
    "value": ({"RescaleType": "MGML"}, r"3 not_hounsfield, such as \S+\.dcm \(RescaleType is MGML\)"),
    "number": (
        {"RescaleSlope": "1\\2"},
        r"3 bad_value, such as \S+\.dcm \(RescaleSlope \(0028,1053\) is 1\\2, expected 1 ",
    ),
    "modality": ({"Modality": "MR"}, r"3 not_ct, such as \S+\.dcm \(Modality is MR\)"),
    "pixels": (
        {"RescaleType": "US", "RescaleIntercept": 5000},
        r"3 not_hounsfield, such as .*, and the pixels hold no",
    ),
}


@pytest.mark.parametrize(("tags", "message"), NOTHING_TAKEN.values(), ids=NOTHING_TAKEN)
def test_when_nothing_is_taken_each_reason_has_an_example_and_all_are_listed(
    tmp_path: Path, tags: dict[str, Any], message: str
) -> None:
    raw, store = tmp_path / "raw", tmp_path / "store"
    phantoms.write_series(raw, name="a")
    whole = {path.name: path.read_bytes() for path in raw.iterdir()}
    for path in raw.iterdir():
        dataset = phantoms.read(path)
        for name, value in tags.items():
            setattr(dataset, name, value)
        dataset.save_as(path)
    (raw / "notes.txt").write_text("x")
    message = rf"{message}.*; 1 not_dicom, such as notes\.txt .*\. All are listed in "
    with pytest.raises(BadInputError, match=message) as caught:
        prepare(raw, store, task=ICH, n_jobs=1)
    table = Path(str(caught.value).rpartition("listed in ")[2])
    assert pq.read_table(table)["path"].to_pylist() == [*sorted(whole), "notes.txt"]
    for name, content in whole.items():
        (raw / name).write_bytes(content)
    prepare(raw, store, task=ICH, n_jobs=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["raw", "store"]


def test_labels_of_other_images(tmp_path: Path) -> None:
    phantoms.write_series(tmp_path / "raw", name="a")
    write_train_labels(tmp_path, "ID_other", "labels.csv")
    with pytest.raises(BadInputError, match=r"labels\.csv: names none of the images"):
        prepare(tmp_path / "raw", tmp_path / "store", task=ICH, labels=tmp_path / "labels.csv", n_jobs=1)


@pytest.mark.parametrize("options", [{"n_jobs": 0}, {"n_folds": 0}])
def test_options_that_make_no_sense(tmp_path: Path, options: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="must be at least 1"):
        prepare(tmp_path / "raw", tmp_path / "store", task=ICH, **options)


def test_a_store_inside_the_raw_folder(tmp_path: Path) -> None:
    phantoms.write_series(tmp_path / "raw", name="a")
    with pytest.raises(UsageError, match="must not lie inside"):
        prepare(tmp_path / "raw", tmp_path / "raw" / "store", task=ICH)


def resumed_store(folder: Path) -> bytes:
    """Prepare again, and return the manifest, which holds the checksums of all that the store is."""
    prepare(folder / "raw", folder / "store", task=ICH, n_jobs=1)
    assert sorted(path.name for path in folder.iterdir()) == ["raw", "store"]
    return (folder / "store" / "store.json").read_bytes()


@pytest.fixture
def expected(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The manifest of a store that was prepared without a break."""
    folder = tmp_path_factory.mktemp("expected")
    phantoms.write_series(folder / "raw", name="a", shape=(64, 64))
    return resumed_store(folder)


def test_a_disk_that_is_too_small_is_seen_before_a_pixel_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected: bytes
) -> None:
    phantoms.write_series(tmp_path / "raw", name="a", shape=(64, 64))
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
        # Three slices of 8 KiB and 1 MiB for the tables.
        with pytest.raises(OutOfResourcesError, match=f"store: .* needs {3 * 8192 + (1 << 20):,} bytes"):
            prepare(tmp_path / "raw", tmp_path / "store", task=ICH, n_jobs=1)
    assert not (tmp_path / "store").exists()
    assert not list(tmp_path.rglob("*.h5"))
    assert resumed_store(tmp_path) == expected


def test_packed_pixels_may_fit_where_plain_ones_do_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    phantoms.write_series(tmp_path / "raw", name="a", shape=(64, 64))
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    report = prepare(tmp_path / "raw", tmp_path / "store", task=ICH, n_jobs=1, compression="bitshuffle-lz4")
    assert report.n_slices == 3


def test_a_disk_that_fills_up_under_packed_pixels_needs_so_much_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    phantoms.write_series(tmp_path / "raw", name="a", shape=(64, 64))

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("rsna_e2e.store.writer.write_table", full)
    with pytest.raises(OutOfResourcesError, match=r"the disk is too small: the store needs [0-9,]+ bytes at most\."):
        prepare(tmp_path / "raw", tmp_path / "store", task=ICH, n_jobs=1, compression="bitshuffle-lz4")


def test_a_disk_that_fills_up_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected: bytes) -> None:
    phantoms.write_series(tmp_path / "raw", name="a", shape=(64, 64))

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("rsna_e2e.store.writer.write_table", full)
        with pytest.raises(OutOfResourcesError, match="the disk is too small"):
            prepare(tmp_path / "raw", tmp_path / "store", task=ICH, n_jobs=1)
    assert not (tmp_path / "store").exists()
    assert resumed_store(tmp_path) == expected


@pytest.mark.parametrize("phase", ["headers", "pixels"])
def test_after_ctrl_c_it_goes_on(tmp_path: Path, phase: str, expected: bytes) -> None:
    phantoms.write_series(tmp_path / "raw", name="a", shape=(64, 64))

    def interrupt(done: int, total: int, note: str = "") -> None:
        if note.startswith(phase):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(tmp_path / "raw", tmp_path / "store", task=ICH, n_jobs=1, progress=interrupt)
    assert not (tmp_path / "store").exists()
    assert resumed_store(tmp_path) == expected


def test_a_bug_of_this_program_is_counted_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    phantoms.write_series(tmp_path / "raw", name="a")
    bug = Refusal("b.dcm", Reason.INTERNAL_ERROR, "KeyError in header.py, line 1")

    def with_a_bug(refusals: list[Refusal], match: Match, raw: Path) -> list[Refusal]:
        return with_labels([*refusals, bug], match, raw)

    monkeypatch.setattr("rsna_e2e.store.prepare.run.with_labels", with_a_bug)
    assert main(["prepare", str(tmp_path / "raw"), str(tmp_path / "store"), "--jobs", "1"]) == 0
    said = capsys.readouterr()
    assert "refusals                internal_error 1\n" in said.out
    assert "warning: 1 files or slices were refused because of a bug in this program" in said.err
