"""From files to store: every pixel, the order, the labels, and one line for whatever is wrong."""

import gzip
import os
import sys
from pathlib import Path

import numpy as np
import phantoms
import pyarrow.parquet as pq
import pytest

from rsna_e2e.core.errors import BadInputError, MissingCapabilityError, UsageError
from rsna_e2e.core.records import Refusal
from rsna_e2e.dicom import read_headers
from rsna_e2e.dicom.sources.files import open_source
from rsna_e2e.store import Store
from rsna_e2e.store.prepare import Part, PrepareReport, prepare, prepare_part
from rsna_e2e.store.prepare.series_plan import plan_series, plan_shards
from rsna_e2e.store.prepare.tables import HeaderOf, Table, headers_to_table, table_to_headers, to_numpy
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.tasks.labels import write_labels

HuById = dict[str, np.ndarray]


def write_raw(raw: Path) -> HuById:
    """Four series of three patients: both storage forms, tilted, reversed, two sizes; nested folders; two strays."""
    hu = phantoms.write_series(raw / "train", name="tilted", orientation=phantoms.TILTED, patient_id="p1")
    hu |= phantoms.write_series(
        raw / "train" / "deep", name="back", orientation=phantoms.REVERSED, form=phantoms.UNSIGNED_12, patient_id="p1"
    )
    hu |= phantoms.write_series(raw / "train", name="large", shape=(24, 20), n_slices=5, patient_id="p2")
    hu |= phantoms.write_series(raw / "test", name="unknown", patient_id="p3", form=phantoms.UNSIGNED_12)
    (raw / "train" / "notes.txt").write_text("no image")
    phantoms.write_dicom(
        raw / "train" / "ID_scout.dcm",
        phantoms.slice_dataset(np.zeros((4, 4), "<i2"), ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]),
    )
    return hu


def write_train_labels(raw: Path, image_ids: list[str], name: str = "stage_2_train.csv") -> np.ndarray:
    values = np.random.default_rng(0).integers(0, 2, size=(len(image_ids), 6))
    write_labels(raw / name, ICH, image_ids, values)
    return values


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, HuById, PrepareReport, np.ndarray]:
    """A store of `write_raw`, with labels for two series, for one absent image, and for half of a third series."""
    folder = tmp_path_factory.mktemp("prepared")
    hu = write_raw(folder / "raw")
    labelled = [i for i in sorted(hu) if "unknown" not in i and i != "ID_large_001"]
    labels = write_train_labels(folder / "raw", [*labelled, "ID_absent"])
    report = prepare(folder / "raw", folder / "store", task=ICH, n_jobs=1)
    return Store.open(folder / "store"), hu, report, labels


def test_every_pixel(prepared: tuple[Store, HuById, PrepareReport, np.ndarray]) -> None:
    store, hu, report, _ = prepared
    assert sorted(store.index["image_id"]) == sorted(hu)
    for row, image_id in enumerate(store.index["image_id"]):
        np.testing.assert_array_equal(store.read_slice(row), hu[image_id])
    assert (report.n_slices, report.n_series, report.n_patients) == (14, 4, 3)
    assert (report.n_rounded, report.n_saturated, report.repairs) == (0, 0, {})
    assert report.data_hash == store.data_hash


def test_slices_come_feet_first_and_series_together(prepared: tuple[Store, HuById, PrepareReport, np.ndarray]) -> None:
    store, *_ = prepared
    ids = {span.series_key: span for span in store.series}
    assert len(ids) == 4
    for span in store.series:
        rows = slice(span.first_row, span.first_row + span.n_slices)
        assert store.index["slice_index"][rows].tolist() == list(range(span.n_slices))
        assert store.index["ipp_z_mm"][rows].tolist() == [-40.0 + 5.0 * i for i in range(span.n_slices)]
        assert (np.diff(store.index["position_mm"][rows]) > 0).all()
        # File names count down from the feet.
        numbers = [int(image_id[-3:]) for image_id in store.index["image_id"][rows]]
        assert numbers == list(range(span.n_slices, 0, -1))
    assert [span.patient_id for span in store.series] == ["p1", "p1", "p2", "p3"]


def test_labels_are_joined_by_id(prepared: tuple[Store, HuById, PrepareReport, np.ndarray]) -> None:
    store, hu, report, labels = prepared
    labelled = [i for i in sorted(hu) if "unknown" not in i and i != "ID_large_001"]
    expected = dict(zip(labelled, labels.tolist(), strict=False))
    for image_id, row in zip(store.index["image_id"], store.labels.tolist(), strict=True):
        assert (row == expected[image_id]) if image_id in expected else np.isnan(row).all()
    assert (report.n_unlabelled, report.n_labels_without_image) == (4, 1)


def test_splits_and_folds(prepared: tuple[Store, HuById, PrepareReport, np.ndarray]) -> None:
    store, *_ = prepared
    assert [span.split for span in store.series] == ["train", "train", "train", "test"]
    folds = {span.patient_id: span.fold for span in store.series}
    assert folds["p3"] == -1
    assert folds["p1"] != folds["p2"]
    assert all(span.fold == folds[span.patient_id] for span in store.series)


def test_what_is_not_taken_is_recorded(prepared: tuple[Store, HuById, PrepareReport, np.ndarray]) -> None:
    store, _, report, _ = prepared
    refusals = pq.read_table(store.path / "refusals.parquet").to_pylist()
    assert [(r["path"], r["reason"]) for r in refusals] == [
        ("train/ID_scout.dcm", "localizer"),
        ("train/notes.txt", "not_dicom"),
    ]
    assert report.refusals == {"localizer": 1, "not_dicom": 1}


def test_content_boxes_are_of_what_is_fat_or_denser(tmp_path: Path) -> None:
    stored = np.full((20, 30), -2000, "<i2")
    stored[4:9, 5:17] = 40
    stored[2, 3] = -149  # one below
    phantoms.write_dicom(tmp_path / "raw" / "ID_a.dcm", phantoms.slice_dataset(stored))
    air = phantoms.slice_dataset(stored * 0 - 2000, SOPInstanceUID="1.9", ImagePositionPatient=[0, 0, 5])
    phantoms.write_dicom(tmp_path / "raw" / "ID_b.dcm", air)
    prepare(tmp_path / "raw", tmp_path / "store", task=ICH, n_jobs=1)
    store = Store.open(tmp_path / "store")
    boxes = np.stack([store.index[f"content_{corner}"] for corner in ("x0", "y0", "x1", "y1")], axis=1)
    assert boxes.tolist() == [[5, 4, 17, 9], [0, 0, 0, 0]]
    assert store.content_from_hu == -148


def test_the_same_store_for_any_number_of_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hu = write_raw(tmp_path / "raw")
    write_train_labels(tmp_path / "raw", sorted(hu))
    # Shards of one series and jobs of two files, so that two workers share the work.
    monkeypatch.setattr("rsna_e2e.store.prepare.run.SHARD_BYTES", 1)
    monkeypatch.setattr("rsna_e2e.store.prepare.run.HEADERS_PER_JOB", 2)
    stores = []
    for n_jobs in (1, 2):
        path = tmp_path / f"store{n_jobs}"
        calls: list[tuple[int, int, str]] = []
        prepare(
            tmp_path / "raw",
            path,
            task=ICH,
            n_jobs=n_jobs,
            progress=lambda done, total, note="", calls=calls: calls.append((done, total, note)),
        )
        assert (14, 14, "pixels, 2 refused") in calls
        assert (16, 16, "headers, 2 refused") in calls
        stores.append(path)
    for name in ["index.parquet", "tasks/ich/slices.parquet", "refusals.parquet", "store.json", "tasks/ich/set.json"]:
        assert (stores[0] / name).read_bytes() == (stores[1] / name).read_bytes()
    shards = sorted(path.name for path in (stores[0] / "shards").iterdir())
    assert len(shards) == 4
    for name in shards:
        assert (stores[0] / "shards" / name).read_bytes() == (stores[1] / "shards" / name).read_bytes()


def contents(store: Path) -> dict[str, bytes]:
    return {str(path.relative_to(store)): path.read_bytes() for path in sorted(store.rglob("*")) if path.is_file()}


@pytest.fixture
def in_small_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Raw files, prepared as one into `whole`; every series becomes a shard."""
    write_train_labels(tmp_path / "raw", sorted(write_raw(tmp_path / "raw")))
    monkeypatch.setattr("rsna_e2e.store.prepare.run.SHARD_BYTES", 1)
    monkeypatch.setattr("rsna_e2e.store.prepare.run.HEADERS_PER_JOB", 2)
    prepare(tmp_path / "raw", tmp_path / "whole", task=ICH, n_jobs=1)
    return tmp_path


def test_machines_share_the_work_and_the_store_is_the_same(in_small_shards: Path) -> None:
    raw, store = in_small_shards / "raw", in_small_shards / "store"
    reports = [prepare_part(raw, store, Part(number, 3), task=ICH, n_jobs=1) for number in (1, 2, 3)]
    assert [report.n_shards for report in reports] == [2, 1, 1]
    assert sum(report.n_slices for report in reports) == 14
    assert sorted(path.name for path in reports[1].part.glob("store/shards/*")) == ["00001.h5"]
    written_ns = {path.name: path.stat().st_mtime_ns for path in in_small_shards.glob("*.part-*/store/shards/*")}
    prepare(raw, store, task=ICH, n_jobs=1, parts=[report.part for report in reports])
    assert contents(store) == contents(in_small_shards / "whole")
    assert {path.name: path.stat().st_mtime_ns for path in store.glob("shards/*")} == written_ns


def test_a_part_that_is_missing_is_made_and_one_of_other_files_is_refused(in_small_shards: Path) -> None:
    raw, store = in_small_shards / "raw", in_small_shards / "store"
    part = prepare_part(raw, store, Part(2, 2), task=ICH, n_jobs=1).part
    (raw / "more.txt").write_text("x")
    with pytest.raises(BadInputError, match=r"store\.part-2-of-2: not a part of this store"):
        prepare(raw, store, task=ICH, n_jobs=1, parts=[part])
    (raw / "more.txt").unlink()
    prepare(raw, store, task=ICH, n_jobs=1, parts=[part])
    assert contents(store) == contents(in_small_shards / "whole")
    with pytest.raises(UsageError, match="part 3 of 2"):
        prepare_part(raw, store, Part(3, 2), task=ICH)


@pytest.mark.slow  # a cluster takes its time to begin
def test_a_ray_cluster_makes_the_same_store(in_small_shards: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    prepare(in_small_shards / "raw", in_small_shards / "store", task=ICH, on_ray=True)
    assert contents(in_small_shards / "store") == contents(in_small_shards / "whole")


def test_without_ray_its_command_is_named(in_small_shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingCapabilityError, match=r"pip install 'rsna_e2e\[cluster\]'"):
        prepare(in_small_shards / "raw", in_small_shards / "store", task=ICH, on_ray=True)


def test_instances_of_one_uid_that_differ_are_all_refused(tmp_path: Path) -> None:
    phantoms.write_series(tmp_path / "raw", name="a", n_slices=4)
    first, second, third, _ = sorted((tmp_path / "raw").iterdir())
    same = phantoms.read(first)
    same.save_as(tmp_path / "raw" / "copy.dcm")
    other = phantoms.read(second)
    other.PixelData = phantoms.read(third).PixelData
    other.save_as(tmp_path / "raw" / "other.dcm")
    report = prepare(tmp_path / "raw", tmp_path / "store", task=ICH, n_jobs=1)
    assert report.refusals == {"conflicting_sop_uid": 2, "duplicate_sop_uid": 1}
    refused = pq.read_table(tmp_path / "store" / "refusals.parquet").to_pylist()
    assert {row["path"] for row in refused if row["reason"] == "conflicting_sop_uid"} == {second.name, "other.dcm"}
    assert report.n_slices == 3


def test_a_slice_refused_late_leaves_its_series_whole(tmp_path: Path) -> None:
    phantoms.write_series(tmp_path / "raw", name="a", n_slices=4, shape=(66, 70))
    damaged = sorted((tmp_path / "raw").iterdir())[1]  # ID_a_002, third from the feet
    dataset = phantoms.read(damaged)
    dataset.compress("1.2.840.10008.1.2.5", generate_instance_uid=False)
    dataset.PixelData = dataset.PixelData[:40] + b"\0" * 40 + b"\xfe\xff\xdd\xe0\0\0\0\0"
    dataset.save_as(damaged)
    report = prepare(tmp_path / "raw", tmp_path / "store", task=ICH, n_jobs=1)
    store = Store.open(tmp_path / "store")
    assert store.index["image_id"].tolist() == ["ID_a_004", "ID_a_003", "ID_a_001"]
    assert store.index["slice_index"].tolist() == [0, 1, 2]
    assert sum(report.refusals.values()) == 1


def test_a_label_that_could_mean_two_files(tmp_path: Path) -> None:
    phantoms.write_series(tmp_path / "raw" / "one", name="a")
    phantoms.write_series(tmp_path / "raw" / "two", name="a", patient_id="other")
    for path in (tmp_path / "raw" / "two").iterdir():
        dataset = phantoms.read(path)
        dataset.SOPInstanceUID += ".1"
        dataset.save_as(path)
    others = phantoms.write_series(tmp_path / "raw", name="b", n_slices=14)  # or 2 of 6 images would be too many
    write_train_labels(tmp_path / "raw", sorted({*others, "ID_a_001"}))
    report = prepare(tmp_path / "raw", tmp_path / "store", task=ICH, n_jobs=1)
    assert report.refusals == {}
    assert (report.n_slices, report.n_unlabelled) == (20, 6)
    assert (report.n_ambiguous_labels, report.n_labels_without_image) == (1, 1)
    store = Store.open(tmp_path / "store")
    is_meant = np.array([image_id.endswith("ID_a_001") for image_id in store.index["image_id"]])
    assert store.index["image_id"][is_meant].tolist() == ["one/ID_a_001", "two/ID_a_001"]
    assert np.isnan(store.labels[is_meant]).all()


def test_compressed_labels_and_labels_from_elsewhere(tmp_path: Path) -> None:
    hu = phantoms.write_series(tmp_path / "raw", name="a")
    write_train_labels(tmp_path, sorted(hu), "elsewhere.csv")
    (tmp_path / "raw" / "stage_2_train.csv.gz").write_bytes(gzip.compress((tmp_path / "elsewhere.csv").read_bytes()))
    assert prepare(tmp_path / "raw", tmp_path / "store1", task=ICH, n_jobs=1).n_unlabelled == 0
    elsewhere = tmp_path / "elsewhere.csv"
    assert prepare(tmp_path / "raw", tmp_path / "store2", task=ICH, labels=elsewhere, n_jobs=1).n_unlabelled == 0
    assert Store.open(tmp_path / "store1").data_hash == Store.open(tmp_path / "store2").data_hash


def test_files_are_found_without_being_led_astray(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    (raw / "b" / "c").mkdir(parents=True)
    for name in ("b/c/2.dcm", "b/1", "a.dcm"):
        (raw / name).write_text("x")
    (raw / "labels.csv").write_text("x")
    (raw / "b" / "c" / "loop").symlink_to(raw)
    (raw / "linked.dcm").symlink_to(raw / "a.dcm")
    (raw / "broken.dcm").symlink_to(raw / "nothing")
    os.mkfifo(raw / "pipe.dcm")
    files, refusals = open_source(raw).find()
    assert [file.name for file in files] == ["a.dcm", "b/1", "b/c/2.dcm", "linked.dcm"]
    assert [(refusal.path, refusal.reason) for refusal in refusals] == [
        ("b/c/loop", "linked_folder"),
        ("broken.dcm", "not_regular_file"),
        ("pipe.dcm", "not_regular_file"),
    ]


def headers_of(raw: Path) -> Table:
    """The headers of all files of a folder that have one."""
    source = open_source(raw)
    found = []
    for raw_file in source.find()[0]:
        with source.open(raw_file) as stream:
            headers = read_headers(stream, raw_file)
        if not isinstance(headers, Refusal):
            found += [HeaderOf(raw_file, header) for header in headers]
    table = headers_to_table(found)
    assert table_to_headers(table) == found
    return table


def test_shards_are_cut_between_series(tmp_path: Path) -> None:
    write_raw(tmp_path)
    headers = headers_of(tmp_path)
    plan, _ = plan_series(headers, digests={})
    # 16 x 16 slices are 512 bytes, 3 a series; the large ones 960 bytes, 5 a series.
    assert plan_shards(headers, plan, shard_bytes=3072) == [(0, 6), (6, 11), (11, 14)]
    assert plan_shards(headers, plan, shard_bytes=1) == [(0, 3), (3, 6), (6, 11), (11, 14)]
    assert plan_shards(headers, plan, shard_bytes=10**9) == [(0, 14)]


def test_series_are_patient_study_and_series_together(tmp_path: Path) -> None:
    for patient in ("b", "a"):
        phantoms.write_series(tmp_path / patient, name="same", patient_id=patient)
    headers = headers_of(tmp_path)
    plan, refusals = plan_series(headers, digests={})
    assert to_numpy(headers, "patient_id")[plan.rows].tolist() == ["a"] * 3 + ["b"] * 3
    assert len(set(plan.series_keys)) == 2
    assert refusals == []


@pytest.mark.slow
def test_every_pixel_at_full_size(tmp_path: Path) -> None:
    raw, form = tmp_path / "raw", phantoms.UNSIGNED_12
    hu = phantoms.write_series(raw, name="a", n_slices=34, shape=(512, 512), orientation=phantoms.TILTED)
    hu |= phantoms.write_series(raw, name="b", n_slices=34, shape=(768, 512), patient_id="p2", form=form)
    prepare(raw, tmp_path / "store", task=ICH, n_jobs=2)
    store = Store.open(tmp_path / "store")
    assert len(store) == len(hu) == 68
    for row, image_id in enumerate(store.index["image_id"]):
        np.testing.assert_array_equal(store.read_slice(row), hu[image_id])
