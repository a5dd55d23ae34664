"""A store written as HDF5 shards: which slices, in which files, under which keys, and what is kept on another try."""

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
import pytest
from stores import LABELS, edit_index, make_slices, make_store, make_xray_store

from rsna_e2e.cli import main
from rsna_e2e.core.errors import BadInputError, DiskFullError, UsageError
from rsna_e2e.core.hdf5 import int16_places
from rsna_e2e.core.table_files import TableFile, table_at
from rsna_e2e.store import Store
from rsna_e2e.store.export_shards import export_shards
from rsna_e2e.store.prepare import prepare
from rsna_e2e.tasks.ich import ICH

# The five slices of `make_store`: their studies, and their SOP instance UIDs
STUDIES = ["study_uida"] * 3 + ["study_uidb"] * 2
NAMES = [f"sop_uid{row}" for row in range(5)]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    make_store(tmp_path / "store")
    return Store.open(tmp_path / "store")


def written(path: Path) -> list[str]:
    """Keys of a shard, study by study, each in the order in which it was written, as the HDF5 library reads them."""
    with h5py.File(path) as file:
        datasets = {f"{study}/{name}": one for study, group in file.items() for name, one in group.items()}
        for one in datasets.values():
            assert (one.dtype, one.chunks, one.compression) == (np.dtype("<i2"), None, None)
        return list(datasets)


def keys(rows: Sequence[int]) -> list[str]:
    return [f"{STUDIES[row]}/{NAMES[row]}" for row in rows]


def label_file(path: Path, names: Sequence[str]) -> TableFile:
    path.write_text("ID,any\n" + "".join(f"{name},0\n" for name in names))
    return table_at(path)


def test_slices_come_in_the_order_of_the_store(store: Store, tmp_path: Path) -> None:
    report = export_shards(store, tmp_path / "out", slices_per_shard=2)
    assert [written(tmp_path / "out" / f"npy-{k}.hdf5") for k in (1, 2, 3)] == [keys([0, 1]), keys([2, 3]), keys([4])]
    assert (report.n_shards, report.n_slices, report.n_positive, report.n_kept) == (3, 5, 3, 0)
    with h5py.File(tmp_path / "out/npy-2.hdf5") as file:
        np.testing.assert_array_equal(file[keys([2])[0]], make_slices()[2])
        np.testing.assert_array_equal(file[keys([3])[0]], make_slices()[3])


def test_the_order_is_that_of_writing_wherever_the_bytes_lie(store: Store, tmp_path: Path) -> None:
    """The last slice is small, and fills a gap before the others."""
    export_shards(store, tmp_path / "out")
    places = int16_places(tmp_path / "out/npy-1.hdf5", most=10, still_alive=lambda: None)
    assert places[4].offset < places[3].offset
    assert [f"{place.group}/{place.name}" for place in places] == keys([0, 1, 2, 3, 4])


@pytest.mark.parametrize("column", ["image_id", "sop_uid"])
def test_slices_come_in_the_order_of_the_labels(store: Store, tmp_path: Path, column: str) -> None:
    labels = label_file(tmp_path / "train.csv", [f"{column}{row}" for row in (4, 1, 9, 0, 1)])
    report = export_shards(store, tmp_path / "out", labels=labels)
    assert written(tmp_path / "out/npy-1.hdf5") == keys([1, 0, 2, 4, 3])
    assert written(tmp_path / "out/npy-pe-pos.hdf5") == keys([1, 0, 2])  # the last two have no labels
    assert report.n_not_in_labels == 2


def test_only_positives_of_the_headline_label_are_there_twice(tmp_path: Path) -> None:
    labels = LABELS.copy()
    labels[0] = [1, 1, 1, 1, 1, 0]
    make_store(tmp_path / "store", labels=labels)
    export_shards(Store.open(tmp_path / "store"), tmp_path / "out")
    assert written(tmp_path / "out/npy-pe-pos.hdf5") == keys([1, 2])


def test_without_positives_there_is_no_file_of_them(tmp_path: Path) -> None:
    make_store(tmp_path / "store", labels=np.zeros_like(LABELS) * LABELS)
    report = export_shards(Store.open(tmp_path / "store"), tmp_path / "out")
    assert report.n_positive == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["npy-1.hdf5", "shards.json"]


def test_a_store_without_labels_has_no_positives(store: Store, tmp_path: Path) -> None:
    shutil.rmtree(store.path / "tasks")
    assert main(["export-shards", str(store.path), str(tmp_path / "out")]) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["npy-1.hdf5", "shards.json"]


def test_a_store_of_another_task_is_refused(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export-shards", str(store.path), str(tmp_path / "out"), "--task", "pe"]) == 3
    assert "pe" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_store_of_xrays_is_refused(tmp_path: Path) -> None:
    make_xray_store(tmp_path / "xrays")
    with pytest.raises(BadInputError, match="holds X-rays; shards are of HU"):
        export_shards(Store.open(tmp_path / "xrays"), tmp_path / "out")


def test_frames_have_their_number_in_the_key(tmp_path: Path) -> None:
    make_store(tmp_path / "store")

    def three_frames(index: dict[str, np.ndarray]) -> None:
        index["sop_uid"][:] = ["a", "a", "b", "a", "c"]
        index["frame_number"][:] = [1, 2, 1, 1, 7]

    edit_index(tmp_path / "store", three_frames)
    export_shards(Store.open(tmp_path / "store"), tmp_path / "out")
    names = [f"study_uida/{name}" for name in ("a_1", "a_2", "b")] + ["study_uidb/a", "study_uidb/c_7"]
    assert written(tmp_path / "out/npy-1.hdf5") == names
    prepare(tmp_path / "out", tmp_path / "again", task=ICH, n_jobs=1)
    assert Store.open(tmp_path / "again").index["image_id"].tolist() == ["a_1", "a_2", "b", "a", "c_7"]


def test_the_manifest_has_the_checksums(store: Store, tmp_path: Path) -> None:
    export_shards(store, tmp_path / "out", slices_per_shard=3)
    files = json.loads((tmp_path / "out/shards.json").read_text())["files"]
    assert {name: file["n_slices"] for name, file in files.items()} == {
        "npy-1.hdf5": 3,
        "npy-2.hdf5": 2,
        "npy-pe-pos.hdf5": 3,
    }
    for name, file in files.items():
        content = (tmp_path / "out" / name).read_bytes()
        assert (file["n_bytes"], file["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())


def test_whole_files_of_an_earlier_try_are_kept(store: Store, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export_shards(store, out, slices_per_shard=2)
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in out.glob("*.hdf5")}
    (out / "npy-3.hdf5").unlink()  # as if killed before it was written
    (out / "npy-9.hdf5.tmp-123").write_bytes(b"half")
    damaged = bytearray(before["npy-2.hdf5"][0])
    damaged[-1] ^= 1
    (out / "npy-2.hdf5").write_bytes(damaged)
    assert export_shards(store, out, slices_per_shard=2).n_kept == 2
    assert {path.name: path.read_bytes() for path in out.glob("*hdf5*")} == {n: c for n, (c, _) in before.items()}
    for name in ("npy-1.hdf5", "npy-pe-pos.hdf5"):
        assert (out / name).stat().st_mtime_ns == before[name][1]


def test_what_is_finished_outlasts_an_interruption(store: Store, tmp_path: Path) -> None:
    def stop(done: int, total: int, note: str = "") -> None:
        if done == 4:  # the last slice of the second file, which is not finished yet
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_shards(store, tmp_path / "out", slices_per_shard=2, progress=stop)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["npy-1.hdf5", "shards.json"]
    assert export_shards(store, tmp_path / "out", slices_per_shard=2).n_kept == 1
    assert written(tmp_path / "out/npy-2.hdf5") == keys([2, 3])


def test_another_order_or_size_is_another_folder(store: Store, tmp_path: Path) -> None:
    export_shards(store, tmp_path / "out")
    labels = label_file(tmp_path / "train.csv", ["image_id0"])
    for change in ({"labels": labels}, {"slices_per_shard": 3}):
        with pytest.raises(BadInputError, match="holds shards of another store, order or number of slices"):
            export_shards(store, tmp_path / "out", **change)


def test_a_folder_of_something_else_stays_as_it_is(store: Store, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/npy-1.hdf5").write_bytes(b"mine")
    with pytest.raises(BadInputError, match=r"has no shards\.json of export-shards"):
        export_shards(store, tmp_path / "out")
    assert (tmp_path / "out/npy-1.hdf5").read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("column", "values", "series"),
    [
        ("sop_uid", [*NAMES[:4], "a/b"], "b"),
        ("study_uid", ["../b"] * 3 + ["b"] * 2, "a"),
        ("study_uid", ["x" * 65] * 3 + ["b"] * 2, "a"),
    ],
)
def test_names_that_are_no_keys(tmp_path: Path, column: str, values: list[str], series: str) -> None:
    """The message names the series by its hash; what is in the place of a UID may be the name of a patient."""
    make_store(tmp_path / "store")
    edit_index(tmp_path / "store", lambda index: index.update({column: np.array(values, dtype=object)}))
    with pytest.raises(BadInputError, match=f"series {series}: its StudyInstanceUID, or the SOPInstanceUID of a slice"):
        export_shards(Store.open(tmp_path / "store"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_instance_in_two_series_of_a_study(tmp_path: Path) -> None:
    make_store(tmp_path / "store")

    def one_study(index: dict[str, np.ndarray]) -> None:
        index["study_uid"][:] = "s"
        index["sop_uid"][:] = ["a", "b", "c", "a", "d"]

    edit_index(tmp_path / "store", one_study)
    with pytest.raises(BadInputError, match="series a and b of a study share a SOPInstanceUID"):
        export_shards(Store.open(tmp_path / "store"), tmp_path / "out")


def test_labels_of_other_images(store: Store, tmp_path: Path) -> None:
    labels = label_file(tmp_path / "train.csv", ["x"])
    with pytest.raises(BadInputError, match="names none of the slices"):
        export_shards(store, tmp_path / "out", labels=labels)


def test_a_disk_without_room(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = 2 * sum(hu.size for hu in [*make_slices(), *make_slices()[:3]]) + 8 * 8192

    class Disk:
        free = needed - 1

    monkeypatch.setattr("shutil.disk_usage", lambda path: Disk)
    with pytest.raises(DiskFullError, match=f"the shards need {needed:,} bytes"):
        export_shards(store, tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.hdf5"))


def test_how_many_slices(store: Store, tmp_path: Path) -> None:
    for n in (0, 250_001):
        with pytest.raises(UsageError, match="expected 1 to 250,000"):
            export_shards(store, tmp_path / "out", slices_per_shard=n)
    with pytest.raises(UsageError, match="must not lie inside the store"):
        export_shards(store, store.path / "out")


def test_from_the_command_line(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    label_file(tmp_path / "train.csv", ["image_id4"])
    words = ["export-shards", str(store.path), str(tmp_path / "out"), "--labels", str(tmp_path / "train.csv")]
    assert main(words) == 0
    said = capsys.readouterr()
    assert "n not in labels  4" in said.out
    assert "export: 8/8 slices (100%)" in said.err
