"""Radiographs into a store: every image a series, patients by labels and by pixels, labels by folders, and refusals."""

import shutil
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import phantoms
import pyarrow.parquet as pq
import pydicom
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from radiographs import chest, dataset, spellings, voi_lut, write_image

from rsna_e2e.cli import main
from rsna_e2e.core.errors import BadInputError, UsageError
from rsna_e2e.core.reasons import Reason
from rsna_e2e.core.records import RawFile
from rsna_e2e.dicom.header import read_voi_lut
from rsna_e2e.store import Store, luts, verify_store
from rsna_e2e.store.prepare import (
    NothingTakenError,
    Part,
    Reading,
    prepare,
    prepare_part,
    pseudonymous_keys,
    read_raw,
    repair,
    run,
)
from rsna_e2e.store.prepare.patients import with_patients_of_xrays
from rsna_e2e.store.pseudonyms import Pseudonyms
from rsna_e2e.tasks.catalogue import get_task
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.tasks.task import Csv, Inputs, Labels, Task

XRAYS = Reading(modality="xr")
OUTCOME = Task(
    name="outcome",
    title="Outcome",
    slices=Labels(names=("died",), weights=(1.0,)),
    headline="died",
    inputs=Inputs(windows_hu=((16383.5, 32767.0),), mean=(0.5,), std=(0.25,), values="grey"),
    csv=Csv(columns=("ID", "Value"), slice_id="{slice}"),
)
GREY = chest()


def make(raw: Path, **options: Any) -> Store:
    store = raw.with_name("store")
    how = {"task": OUTCOME, "labels": "none", "n_jobs": 1, "reading": XRAYS} | options
    prepare(raw, store, **how)
    return Store.open(store)


def by_name(store: Store, column: str) -> dict[str, Any]:
    return dict(zip(store.index["image_id"].tolist(), store.index[column].tolist(), strict=True))


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve spellings of a radiograph, each of a patient of its own, and all with one PatientID-less PNG."""
    folder = tmp_path_factory.mktemp("twelve") / "raw"
    for number, (name, write) in enumerate(spellings(GREY).items()):
        path = write(folder / f"x{number:02d}")
        if path.suffix == ".dcm":
            file = pydicom.dcmread(path)
            file.SOPInstanceUID, file.PatientID = f"1.2.3.{number}", f"p{number:02d}"
            file.save_as(path)
        assert name
    return folder


@pytest.fixture(scope="module")
def store(raw: Path) -> Store:
    return make(raw)


def test_each_image_is_a_series_with_its_values(raw: Path, store: Store) -> None:
    assert (store.values, store.geometry, len(store.series), len(store)) == ("grey", "none", 12, 12)
    assert verify_store(store.path).is_whole
    for row, image_id in enumerate(store.index["image_id"].tolist()):
        values = store.read_slice(row).astype(np.int64) + store.index["value_offset"][row]
        path = raw / f"{image_id}.dcm"
        expected = (
            pydicom.dcmread(path).pixel_array if path.exists() else np.asarray(Image.open(path.with_suffix(".png")))
        )
        np.testing.assert_array_equal(values, expected)
    corners = [store.index[f"content_{corner}"].tolist() for corner in ("x0", "y0", "x1", "y1")]
    assert corners == [[0] * 12, [0] * 12, [GREY.shape[1]] * 12, [GREY.shape[0]] * 12]


def test_luts_are_stored_once_and_named_by_their_images(raw: Path, store: Store) -> None:
    (name,) = set(store.index["voi_lut"]) - {""}
    (row,) = np.flatnonzero(store.index["voi_lut"] == name)
    path = raw / f"{store.index['image_id'][row]}.dcm"
    with path.open("rb") as stream:
        lut = read_voi_lut(stream, RawFile(path.name, path.stat().st_size, 0))
    assert lut is not None
    np.testing.assert_array_equal(store.luts[name].entries, lut.entries)
    assert len(store.luts) == 1


def test_luts_that_no_store_may_hold_are_refused_before_pixels_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):  # the first two have one LUT
        lut = voi_lut(np.arange(300) + number // 2 * 5, first=0, bits=16)
        file = dataset(chest(seed=number), 12, VOILUTSequence=lut, SOPInstanceUID=f"1.2.{number}")
        phantoms.write_dicom(tmp_path / "raw" / f"{number}.dcm", file)
    monkeypatch.setattr(luts, "MOST_BYTES", 2 * 2 * 300)
    assert len(make(tmp_path / "raw").luts) == 2
    shutil.rmtree(tmp_path / "store")
    monkeypatch.setattr(luts, "MOST_BYTES", 2 * 2 * 300 - 1)
    monkeypatch.setattr(run, "_write_shards", lambda *_: pytest.fail("pixels were read"))
    with pytest.raises(BadInputError, match=r"take 1,200 bytes in all, and a store holds up to 1,199\. Divide them"):
        make(tmp_path / "raw")
    with pytest.raises(BadInputError, match="Divide them"):
        prepare_part(tmp_path / "raw", tmp_path / "store", Part(1, 1), task=OUTCOME, labels="none", reading=XRAYS)
    assert not (tmp_path / "store").exists()


def test_more_workers_and_an_archive_make_the_same_store(raw: Path, store: Store, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "raw.zip", "w") as archive:
        for path in sorted(raw.iterdir()):
            archive.write(path, path.name)
    again = make(tmp_path / "raw.zip", n_jobs=2)
    assert again.data_hash == store.data_hash
    for name in ("index.parquet", "luts.parquet", "store.json", "shards/00000.h5"):
        assert (again.path / name).read_bytes() == (store.path / name).read_bytes()


def test_parts_are_merged_with_their_luts(raw: Path, store: Store, tmp_path: Path) -> None:
    how = {"task": OUTCOME, "labels": "none", "n_jobs": 1, "reading": XRAYS}
    part = prepare_part(raw, tmp_path / "store", Part(1, 1), **how)
    prepare(raw, tmp_path / "store", parts=[part.part], **how)
    assert Store.open(tmp_path / "store").data_hash == store.data_hash


def test_packed_values_are_the_same(raw: Path, store: Store, tmp_path: Path) -> None:
    shutil.copytree(raw, tmp_path / "raw")
    again = make(tmp_path / "raw", compression="bitshuffle-lz4")
    assert again.data_hash == store.data_hash
    np.testing.assert_array_equal(again.read_slice(7), store.read_slice(7))


def test_a_damaged_shard_is_repaired(raw: Path, store: Store, tmp_path: Path) -> None:
    shutil.copytree(store.path, tmp_path / "store")
    shard = tmp_path / "store/shards/00000.h5"
    content, at = bytearray(shard.read_bytes()), int(store.index["byte_offset"][5])
    content[at] ^= 1
    shard.write_bytes(content)
    assert not verify_store(tmp_path / "store").is_whole
    assert repair(tmp_path / "store", raw, n_jobs=1).n_mended_slices == 1
    shard.unlink()
    assert repair(tmp_path / "store", raw, n_jobs=1).left == ()
    assert shard.read_bytes() == (store.path / "shards/00000.h5").read_bytes()


def test_headers_alone_tell_the_same(raw: Path, store: Store) -> None:
    found = read_raw(raw, task=OUTCOME, labels="none", modality="xr", n_jobs=1)
    for name in ("series_key", "image_id", "view", "voi_lut", "age_y", "window_center"):
        np.testing.assert_array_equal(found.columns[name], store.index[name])


def test_copies_are_refused_and_others_kept(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    for name, grey in (("a", GREY), ("b", GREY), ("c", chest(seed=1))):
        uid = "1.2.1" if name != "c" else "1.2.2"
        phantoms.write_dicom(raw / f"{name}.dcm", dataset(grey, 12, SOPInstanceUID=uid))
    conflict = dataset(chest(seed=2), 12, SOPInstanceUID="1.2.2")
    phantoms.write_dicom(raw / "d.dcm", conflict)
    store = make(raw)
    assert store.index["image_id"].tolist() == ["a"]
    assert {one.path: one.reason for one in store.read_refusals()} == {
        "b.dcm": "duplicate_sop_uid",
        "c.dcm": "conflicting_sop_uid",
        "d.dcm": "conflicting_sop_uid",
    }


def test_one_series_uid_may_hold_many_images(tmp_path: Path) -> None:
    for number in range(5):
        file = dataset(chest(seed=number), 12, SOPInstanceUID=f"1.2.{number}")
        phantoms.write_dicom(tmp_path / "raw" / f"{number}.dcm", file)
    store = make(tmp_path / "raw")
    assert len(store.series) == len(set(store.index["series_key"])) == 5
    assert store.index["slice_index"].tolist() == [0] * 5


def test_equal_pixels_make_one_patient(tmp_path: Path) -> None:
    """a and d are the same, as are d and e through other patients; c is of one value, which says nothing."""
    raw, flat = tmp_path / "raw", np.full((9, 9), 7, np.uint8)
    images = {"a": GREY, "b": chest(seed=1), "d": GREY, "e": chest(seed=2), "f": chest(seed=2)}
    for name, grey in images.items():
        patient = {"d": "P1", "e": "P1"}.get(name, f"P{name}")
        uids = {"SOPInstanceUID": f"1.2.{ord(name)}", "StudyInstanceUID": f"1.3.{ord(name)}"}
        phantoms.write_dicom(raw / f"{name}.dcm", dataset(grey, 12, PatientID=patient, **uids))
    write_image(raw / "c1.png", flat)
    write_image(raw / "c2.png", flat)
    store = make(raw)
    assert by_name(store, "patient_id") == {
        "a": "P1",
        "b": "Pb",
        "c1": "c1",
        "c2": "c2",
        "d": "P1",
        "e": "P1",
        "f": "P1",
    }
    repairs = by_name(store, "repair")
    assert (repairs["a"], repairs["f"], repairs["d"]) == ("patient_by_pixels", "patient_by_pixels", "")


def test_patients_are_joined_through_others() -> None:
    """The first two images are the same, the next two: the second and third are of one patient."""
    ids = ["P3", "P2", "P2", "P1", "P4"]
    index = {
        "patient_id": np.array(ids, dtype=object),
        "repair": np.array(["monochrome1"] * 5, dtype=object),
        **{name: np.ones(5, np.int64) for name in ("rows", "columns", "value_offset", "hu_max")},
        "hu_min": np.zeros(5, np.int64),
        "checksum": np.array([1, 1, 2, 2, 3], dtype=np.uint64),
    }
    joined = with_patients_of_xrays(index, (), np.full(5, -1))
    assert joined["patient_id"].tolist() == ["P1", "P1", "P1", "P1", "P4"]
    assert joined["repair"].tolist() == [*["monochrome1+patient_by_pixels"] * 3, "monochrome1", "monochrome1"]
    assert index["patient_id"].tolist() == ids


def test_a_copy_in_another_format_is_of_the_same_patient(tmp_path: Path) -> None:
    write_image(tmp_path / "raw/covid.png", (GREY >> 4).astype(np.uint8))
    phantoms.write_dicom(tmp_path / "raw/x.dcm", dataset((GREY >> 4).astype(np.uint8), 8, PatientID="who"))
    assert set(make(tmp_path / "raw").index["patient_id"]) == {"covid"}


def write_folder(raw: Path) -> None:
    for number, name in enumerate(("died/1", "died/2", "no/1", "no/3", "no/4")):
        write_image(raw / f"{name}.png", (chest(seed=number) >> 4).astype(np.uint8))


def test_stems_that_repeat_have_their_folder(tmp_path: Path) -> None:
    write_folder(tmp_path / "raw")
    store = make(tmp_path / "raw")
    assert sorted(store.index["image_id"]) == ["2", "3", "4", "died/1", "no/1"]
    assert len(set(store.index["patient_id"])) == 4  # "1" twice, of which nobody knows better


def test_labels_by_folders(tmp_path: Path) -> None:
    write_folder(tmp_path / "raw")
    store = make(tmp_path / "raw", labels="folders", n_folds=2)
    labels = dict(zip(store.index["image_id"].tolist(), store.labels[:, 0].tolist(), strict=True))
    assert labels == {"died/1": 1.0, "2": 1.0, "no/1": 0.0, "3": 0.0, "4": 0.0}
    assert set(store.index["split"]) == {"train"}


def test_folders_of_several_labels(tmp_path: Path) -> None:
    for number, folder in enumerate(("Sub-Dural", "epidural", "none")):
        write_image(tmp_path / "raw" / folder / f"{number}.png", (chest(seed=number) >> 4).astype(np.uint8))
    store = make(tmp_path / "raw", task=replace(ICH, inputs=OUTCOME.inputs), labels="folders", n_folds=2)
    names = [name for name in ICH.slices.names if name in ("epidural", "subdural", "any")]
    found = {
        image_id: [name for name in names if row[ICH.slices.index(name)] == 1]
        for image_id, row in zip(store.index["image_id"].tolist(), store.labels, strict=True)
    }
    assert found == {"0": ["subdural", "any"], "1": ["epidural", "any"], "2": []}
    assert not np.isnan(store.labels).any()


def test_folders_that_are_no_labels_are_named(tmp_path: Path) -> None:
    write_folder(tmp_path / "raw")
    write_image(tmp_path / "raw/maybe/9.png", (GREY >> 4).astype(np.uint8))
    with pytest.raises(BadInputError, match=r"called like no label: maybe. The task outcome has died, or 'no'"):
        make(tmp_path / "raw", labels="folders")
    shutil.rmtree(tmp_path / "raw")
    write_image(tmp_path / "raw/9.png", (GREY >> 4).astype(np.uint8))
    with pytest.raises(BadInputError, match="no file lies in a folder"):
        make(tmp_path / "raw", labels="folders")


def test_the_label_file_names_patients(tmp_path: Path) -> None:
    for number in range(5):
        write_image(tmp_path / f"raw/{number}.png", (chest(seed=number) >> 4).astype(np.uint8))
    phantoms.write_dicom(tmp_path / "raw/5.dcm", dataset(chest(seed=5), 12, PatientID="own"))
    rows = ["0,1,anna", "1,0,anna", "2,0,bob", "3,1,", "5,1,bob"]
    (tmp_path / "labels.csv").write_text("\n".join(["image,died,patient_id", *rows]))
    store = make(tmp_path / "raw", labels=tmp_path / "labels.csv", n_folds=2)
    patients = by_name(store, "patient_id")
    assert patients == {"0": "anna", "1": "anna", "2": "bob", "3": "3", "4": "4", "5": "own"}
    assert by_name(store, "repair") == {
        **{name: "patient_by_labels" for name in "012"},
        **{name: "patient_by_study" for name in "34"},
        "5": "",
    }
    folds = by_name(store, "fold")
    assert folds["0"] == folds["1"]


def test_rows_that_name_two_patients_of_an_image_are_refused(tmp_path: Path) -> None:
    write_image(tmp_path / "raw/0.png", (GREY >> 4).astype(np.uint8))
    (tmp_path / "labels.csv").write_text("image,died,PatientID\n0,1,anna\n0,1,bob\n")
    with pytest.raises(BadInputError, match=r"rows of image 0 name different patients \(PatientID\)"):
        make(tmp_path / "raw", labels=tmp_path / "labels.csv")


def test_without_demographics(raw: Path, store: Store, tmp_path: Path) -> None:
    shutil.copytree(raw, tmp_path / "raw")
    bare = make(tmp_path / "raw", reading=Reading(modality="xr", without_demographics=True))
    assert set(bare.index["sex"]) == {""}
    assert np.isnan(bare.index["age_y"]).all()
    assert set(store.index["sex"]) == {"F", ""}  # of PNG nothing is known
    np.testing.assert_array_equal(bare.index["view"], store.index["view"])


def test_names_in_radiographs_are_never_stored(tmp_path: Path) -> None:
    lut = voi_lut(np.arange(9), first=0, bits=16)
    lut[0].LUTExplanation = "PLANTED"
    texts = (
        "PatientName",
        "InstitutionName",
        "StudyDescription",
        "PatientComments",
        "OperatorsName",
        "BodyPartExamined",
    )
    file = dataset(GREY, 12, **dict.fromkeys(texts, "PLANTED"), VOILUTSequence=lut)
    phantoms.write_dicom(tmp_path / "raw/a.dcm", file)
    image = Image.fromarray((GREY >> 4).astype(np.uint8))
    info = PngInfo()
    info.add_text("Author", "PLANTED")
    image.save(tmp_path / "raw/b.png", pnginfo=info)
    store = make(tmp_path / "raw")
    assert len(store) == 2
    words = [str(value) for column in store.index.values() if column.dtype == object for value in column]
    assert not any("PLANTED" in word for word in words)
    assert "PLANTED" not in repr(pq.read_table(store.path / "luts.parquet").to_pylist())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"modality": "xr", "requires_hu": True}, "--require-hu: X-rays have no HU"),
        ({"modality": "ct", "without_demographics": True}, "--without-demographics: of CT neither"),
    ],
)
def test_options_of_the_other_modality_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Reading(**options)


def _prepare(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    code = main(["prepare", *map(str, arguments), "--labels", "none", "--jobs", "1"])
    return code, capsys.readouterr().err.splitlines()[-1]


def test_the_wrong_modality_is_named(raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    phantoms.write_series(tmp_path / "ct", name="a")
    code, said = _prepare(capsys, tmp_path / "ct", tmp_path / "store", "--modality", "xr")
    assert (code, "3 not_xr" in said, "If these are CT slices: --modality ct" in said) == (3, True, True)
    code, said = _prepare(capsys, raw, tmp_path / "store")
    assert (code, "11 not_ct" in said, "If these are radiographs: --modality xr" in said) == (3, True, True)
    assert not (tmp_path / "store").exists()
    code, said = _prepare(capsys, tmp_path / "ct", tmp_path / "store", "--require-hu", "--modality", "xr")
    assert code == 2


@pytest.mark.parametrize("modality", ["ct", "xr"])
def test_labels_of_a_task_of_the_other_modality_are_refused(
    modality: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Found or named, before a store is made or when it is there; without labels it is a store of any task."""
    raw, store = tmp_path / "raw", tmp_path / "store"
    if modality == "ct":
        image_id = next(iter(phantoms.write_series(raw, name="a")))
        task, what = "pneumonia", "read as CT, and the task pneumonia"
    else:
        write_image(raw / "a.png", (GREY >> 4).astype(np.uint8))
        task, image_id, what = "ich", "a", "read as radiographs, and the task ich"
    labels = [f"{image_id}_{name},0" for name in get_task(task).slices.names]
    for place in ("stage_2_train.csv", "other.csv"):  # beside the files, by its name found; and named
        (tmp_path / place).write_text("\n".join(["ID,Label", *labels]))
    prepare = ["prepare", str(raw), str(store), "--modality", modality, "--task", task, "--jobs", "1"]
    label = ["label", str(store), str(tmp_path / "other.csv"), "--task", task]
    for words in (prepare, [*prepare, "--labels", str(tmp_path / "other.csv")]):
        assert main(words) == 2
        assert what in capsys.readouterr().err
        assert not store.exists()
    assert main([*prepare, "--labels", "none"]) == 0
    assert main(label) == 2
    assert what in capsys.readouterr().err
    assert not (store / "tasks").exists()


def test_a_folder_of_both_becomes_a_store_of_one(raw: Path, tmp_path: Path) -> None:
    phantoms.write_series(tmp_path / "raw", name="a")
    shutil.copytree(raw, tmp_path / "raw/xrays")
    store = make(tmp_path / "raw")
    assert len(store) == 12
    assert {one.reason for one in store.read_refusals()} == {Reason.NOT_XR}


def test_png_files_alone_are_no_ct(tmp_path: Path) -> None:
    write_image(tmp_path / "raw/a.png", (GREY >> 4).astype(np.uint8))
    with pytest.raises(NothingTakenError, match="PNG and JPEG files are read as X-rays: --modality xr"):
        prepare(tmp_path / "raw", tmp_path / "store", task=ICH, labels="none", n_jobs=1)


def test_names_are_hashed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_folder(tmp_path / "raw")
    key = tmp_path / "study.key"
    code, _ = _prepare(capsys, tmp_path / "raw", tmp_path / "store", "--modality", "xr", "--deidentify", key)
    assert code == 0
    store = Store.open(tmp_path / "store")
    texts = " ".join(str(value) for column in store.index.values() if column.dtype == object for value in column)
    assert "died" not in texts
    assert ".png" not in texts
    assert len(set(store.index["series_key"])) == 5


def test_the_owner_finds_hashed_images_by_their_files(tmp_path: Path) -> None:
    """Whatever patient they were found to be of."""
    write_folder(tmp_path / "raw")
    shutil.copy(tmp_path / "raw/no/4.png", tmp_path / "raw/copy.png")
    pseudonyms = Pseudonyms(b"k" * 32)
    store = make(tmp_path / "raw", pseudonyms=pseudonyms)
    found = read_raw(tmp_path / "raw", task=OUTCOME, labels="none", modality="xr", n_jobs=1).columns
    assert set(pseudonymous_keys(found, pseudonyms)) == set(store.index["series_key"])
    assert len(set(store.index["patient_id"])) == 4


def test_nobody_is_warned_of_series_of_one_image(raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prepare", str(raw), str(tmp_path / "store"), "--labels", "none", "--modality", "xr"]) == 0
    said = capsys.readouterr().err
    assert said.count("warning:") == 1
    assert "studies that name no patient (PatientID is empty): 1." in said
    assert "a column PatientID of the label file names the patients" in said
