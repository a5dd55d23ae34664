"""IDs of labels by file name, path or SOP instance UID: the same labels at the end, and the same IDs afterwards."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import archives
import numpy as np
import phantoms
import pytest
from enhanced import enhanced_dataset
from test_store_damage import flip_pixels

from rsna_e2e.cli import main
from rsna_e2e.core.errors import BadInputError
from rsna_e2e.core.records import IdRule
from rsna_e2e.store import Store, verify_store
from rsna_e2e.store.prepare import Part, Reading, prepare, prepare_part, read_raw, repair
from rsna_e2e.store.pseudonyms import Pseudonyms
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.tasks.labels import write_labels

RULES: tuple[IdRule, ...] = ("name", "path", "sop_uid")
N_SERIES, N_SLICES, SIDE = 3, 3, 16  # the last series has no labels
WORDS = {"name": "file names", "path": "paths", "sop_uid": "SOP Instance UIDs"}
KEY = Pseudonyms(b"k" * 32)


@dataclass(frozen=True)
class Slice:
    """A slice in the order of the store, what its ID is by each rule, and its label and pixels."""

    ids: dict[IdRule, str]
    seed: int

    @property
    def label(self) -> list[float]:
        """Another one for each slice: the bits of its number."""
        return [float(self.seed >> bit & 1) for bit in range(6)]

    @property
    def hu(self) -> np.ndarray:
        """The stored values of `phantoms`, which are HU."""
        return phantoms.stored_image(SIDE, SIDE, seed=self.seed, form=phantoms.SIGNED_16)


def single_files(raw: Path, called: Callable[[int, int], str], *, suffix: str = "") -> list[Slice]:
    """Write a file for each slice. called: the path by series and slice."""
    slices = []
    for series in range(N_SERIES):
        for index in range(N_SLICES):
            path = called(series, index)
            phantoms.write_numbered(raw / f"{path}{suffix}", series=series, index=index, side=SIDE)
            slices.append(Slice({"name": path, "path": path, "sop_uid": f"1.2.3.{series}.{index}"}, 8 * series + index))
    return slices


def flat(raw: Path) -> list[Slice]:
    return single_files(raw, lambda series, index: f"ID_{series}{index}", suffix=".dcm")


def nested(raw: Path) -> list[Slice]:
    slices = single_files(raw, lambda series, index: f"s{series}/ID_{series}{index}", suffix=".dcm")
    return [Slice(one.ids | {"name": one.ids["path"].partition("/")[2]}, one.seed) for one in slices]


def repeated(raw: Path) -> list[Slice]:
    """As a viewer exports them; by name, they have the folder before it."""
    return single_files(raw, lambda series, index: f"PAT{series}/ST1/SE1/IM00000{index}")


def called_by_uid(raw: Path) -> list[Slice]:
    return single_files(raw, lambda series, index: f"1.2.3.{series}.{index}")


def numbered(raw: Path) -> list[Slice]:
    """Names, and UIDs, that begin with the SeriesInstanceUID, as scanners give them."""
    return single_files(raw, lambda series, index: f"1.2.5.{series}.{index}", suffix=".dcm")


def numbered_by_patient(raw: Path) -> list[Slice]:
    return single_files(raw, lambda series, index: f"p{series}.{index}", suffix=".dcm")


def two_suffixes(raw: Path) -> list[Slice]:
    """Two instances at each path without its suffix."""
    single_files(raw, lambda series, index: f"s/x{index}", suffix=".dcm")
    for index in range(N_SLICES):
        phantoms.write_numbered(raw / f"s/x{index}.ima", series=1, index=index, side=SIDE)
    return []


def enhanced_ct(raw: Path) -> list[Slice]:
    """A file for each series, with the slices from head to feet."""
    slices = []
    for series in range(N_SERIES):
        seeds = [8 * series + index for index in range(N_SLICES)]
        stored = np.stack([phantoms.stored_image(SIDE, SIDE, seed=seed, form=phantoms.SIGNED_16) for seed in seeds])
        tags = {"SOPInstanceUID": f"1.2.3.{series}", "PatientID": f"p{series}", "SeriesInstanceUID": f"1.2.5.{series}"}
        phantoms.write_dicom(raw / f"s{series}" / f"e{series}.dcm", enhanced_dataset(stored, **tags))
        for frame in range(N_SLICES, 0, -1):
            name, uid = f"e{series}_{frame}", f"1.2.3.{series}_{frame}"
            slices.append(Slice({"name": name, "path": f"s{series}/{name}", "sop_uid": uid}, seeds[frame - 1]))
    return slices


def write_table(path: Path, slices: Sequence[Slice], rule: IdRule) -> Path:
    """Write labels of these slices; `label_text` of other IDs."""
    write_labels(path, ICH, [one.ids[rule] for one in slices], [one.label for one in slices])
    return path


def write_ids(path: Path, image_ids: Sequence[str]) -> Path:
    """Write labels of these IDs, the number of each in its bits."""
    write_labels(path, ICH, image_ids, [[float(n >> bit & 1) for bit in range(6)] for n in range(len(image_ids))])
    return path


def labelled(slices: Sequence[Slice]) -> Sequence[Slice]:
    return slices[:-N_SLICES]


def check_store(path: Path, slices: Sequence[Slice], rule: IdRule, called: Callable[[str], str] = str) -> None:
    """Check ids, order, pixels and labels of a store of these slices."""
    store = Store.open(path)
    assert store.index["image_id"].tolist() == [called(one.ids[rule]) for one in slices]
    for row, one in enumerate(slices):
        np.testing.assert_array_equal(store.read_slice(row), one.hu)
    expected = [one.label for one in labelled(slices)] + [[np.nan] * 6] * N_SLICES
    np.testing.assert_array_equal(store.labels, expected)
    assert store.index["split"].tolist() == ["train"] * len(labelled(slices)) + ["test"] * N_SLICES
    assert store.image_ids == rule


@pytest.mark.parametrize("place", ["folder", "zip"])
@pytest.mark.parametrize("layout", [flat, nested, repeated, called_by_uid, enhanced_ct])
def test_labels_by_each_rule_give_the_same(tmp_path: Path, layout: Callable[[Path], list[Slice]], place: str) -> None:
    slices = layout(tmp_path / "raw")
    raw = tmp_path / "raw" if place == "folder" else archives.zip_folder(tmp_path / "raw", tmp_path / "data.zip")
    for rule in RULES:
        table = write_table(tmp_path / f"{rule}.csv", labelled(slices), rule)
        report = prepare(raw, tmp_path / rule, task=ICH, labels=table, n_jobs=1)
        assert (report.n_unlabelled, report.n_labels_without_image, report.refusals) == (N_SLICES, 0, {})
        found = rule
        if slices[0].ids[rule] == slices[0].ids["name"]:  # they are all the same, and of the same rule
            found = "path" if layout is repeated else "name"
        check_store(tmp_path / rule, slices, found)
        assert str(report.image_ids) == f"{WORDS[found]} (6 of 6 in the labels match an image)"


@pytest.mark.parametrize(
    "spell",
    [
        lambda raw, path: f"{path}.dcm",
        lambda raw, path: f"./{path}",
        lambda raw, path: f"{raw.name}/{path}.dcm",
        lambda raw, path: f"{raw.parent.name}/{raw.name}/{path}",
        lambda raw, path: f"{raw}/{path}.dcm",
    ],
    ids=["suffix", "dot", "name of RAW", "path to RAW", "absolute"],
)
def test_paths_are_read_however_they_begin(tmp_path: Path, spell: Callable[[Path, str], str]) -> None:
    raw = tmp_path / "raw"
    ids = [one.ids["path"] for one in nested(raw)]
    table = write_ids(tmp_path / "labels.csv", [spell(raw, one) for one in ids])
    if spell(raw, "").startswith("/"):  # paths to where the archive would be unpacked
        raw = archives.zip_folder(raw, tmp_path / "raw.zip")
    found = read_raw(raw, task=ICH, labels=table, n_jobs=1)
    assert found.columns["image_id"].tolist() == ids
    assert (found.labels @ [1, 2, 4, 8, 16, 32]).tolist() == list(range(len(ids)))


def test_a_file_name_may_keep_its_suffix(tmp_path: Path) -> None:
    slices = nested(tmp_path / "raw")
    table = write_ids(tmp_path / "labels.csv", [f"{one.ids['name']}.dcm" for one in slices])
    found = read_raw(tmp_path / "raw", task=ICH, labels=table, n_jobs=1)
    assert found.columns["image_id"].tolist() == [one.ids["name"] for one in slices]
    assert (found.labels @ [1, 2, 4, 8, 16, 32]).tolist() == list(range(len(slices)))


def test_two_files_whose_paths_differ_in_the_suffix_alone(tmp_path: Path) -> None:
    for index, name in enumerate(("a.dcm", "a.IMA", "b.dcm")):
        phantoms.write_numbered(tmp_path / "raw" / "s" / name, series=0, index=index, side=SIDE)
    table = write_ids(tmp_path / "labels.csv", ["s/a.IMA", "s/b"])
    found = read_raw(tmp_path / "raw", task=ICH, labels=table, n_jobs=1)
    assert found.columns["image_id"].tolist() == ["s/a.dcm", "s/a.IMA", "s/b"]
    assert np.isnan(found.labels[0]).all()
    assert found.labels[1:, 0].tolist() == [0, 1]


def test_the_path_of_a_copy_that_was_left_out_means_the_slice(tmp_path: Path) -> None:
    for folder in ("x", "y"):
        for index in range(2):
            path = tmp_path / "raw" / folder / f"IM{index}"
            phantoms.write_numbered(path, series=0, index=index, side=SIDE)
    table = write_ids(tmp_path / "labels.csv", ["y/IM0", "y/IM1"])
    report = prepare(tmp_path / "raw", tmp_path / "store", task=ICH, labels=table, n_jobs=1)
    assert (report.refusals, report.n_labels_without_image) == ({"duplicate_sop_uid": 2}, 0)
    store = Store.open(tmp_path / "store")
    assert store.index["image_id"].tolist() == ["x/IM0", "x/IM1"]
    assert store.labels[:, 0].tolist() == [0, 1]


@pytest.mark.parametrize("labels", [(0, 0), (0, 1)])
@pytest.mark.parametrize("folders", [("x", "y"), ("y", "z")], ids=["stored and copy", "two copies"])
def test_labels_of_copies_must_agree(tmp_path: Path, labels: tuple[int, int], folders: tuple[str, str]) -> None:
    for folder in ("x", "y", "z"):
        phantoms.write_numbered(tmp_path / "raw" / folder / "IM0", series=0, index=0, side=SIDE)
    rows = "".join(f"{folder}/IM0,{label}\n" for folder, label in zip(folders, labels, strict=True))
    (tmp_path / "labels.csv").write_text(f"ID,any\n{rows}")
    how = {"task": ICH, "labels": tmp_path / "labels.csv", "n_jobs": 1}
    if labels == (0, 0):
        assert prepare(tmp_path / "raw", tmp_path / "store", **how).n_unlabelled == 0
        return
    said = rf"labels\.csv: rows of the IDs '{folders[0]}/IM0' and '{folders[1]}/IM0' differ, but these are copies"
    with pytest.raises(BadInputError, match=said):
        prepare(tmp_path / "raw", tmp_path / "store", **how)


def test_an_instance_in_two_series_has_its_labels_in_both(tmp_path: Path) -> None:
    for series in range(2):
        path = phantoms.write_numbered(tmp_path / "raw" / f"s{series}" / "IM1", series=series, index=0, side=SIDE)
        dataset = phantoms.read(path)
        dataset.SOPInstanceUID = "1.2.3.9"
        dataset.save_as(path)
    report = prepare(
        tmp_path / "raw",
        tmp_path / "store",
        task=ICH,
        labels=write_ids(tmp_path / "labels.csv", ["1.2.3.9"]),
        n_jobs=1,
    )
    assert (report.n_unlabelled, report.n_labels_without_image) == (0, 0)
    assert Store.open(tmp_path / "store").index["image_id"].tolist() == ["s0/1.2.3.9", "s1/1.2.3.9"]


def test_what_most_ids_match_is_the_rule_and_the_others_are_counted(tmp_path: Path) -> None:
    slices = flat(tmp_path / "raw")
    ids = [*(one.ids["sop_uid"] for one in slices[:4]), *(one.ids["name"] for one in slices[4:6]), "1.9"]
    report = prepare(
        tmp_path / "raw", tmp_path / "store", task=ICH, labels=write_ids(tmp_path / "l.csv", ids), n_jobs=1
    )
    assert str(report.image_ids) == "SOP Instance UIDs (4 of 7 in the labels match an image)"
    assert (report.n_labels_without_image, report.n_unlabelled) == (3, 5)


# What is wrong with the labels, and what is said
WRONG: dict[str, tuple[Callable[[Path], list[Slice]], Sequence[str], Sequence[str]]] = {
    "other images": (
        repeated,
        ["ID_other", "ID_others"],
        [
            "names none of the images",
            "'ID_other'",
            "PAT0/ST1/SE1/IM000000, SOP Instance UID 1.2.3.0.0",
            "the image's file name, path or SOP Instance UID. See docs/labels.md",
        ],
    ),
    "studies": (flat, ["1.2.826.2"], ["1 of its 1 IDs are StudyInstanceUIDs", "labels of whole studies"]),
    "series": (
        flat,
        ["1.2.5.0", "1.2.5.1", "0.9"],
        ["2 of its 3 IDs are SeriesInstanceUIDs, such as '1.2.5.0'", "labels of whole series"],
    ),
    "series that names begin with": (
        numbered,
        ["1.2.5.0", "1.2.5.1", "1.2.5.2"],
        ["3 of its 3 IDs are SeriesInstanceUIDs", "labels of whole series"],
    ),
    "patients that names begin with": (
        numbered_by_patient,
        ["p0", "p1"],
        ["2 of its 2 IDs are PatientIDs", "labels of whole patients"],
    ),
    "paths of several": (two_suffixes, ["s/x0", "s/x1"], ["names none of the images"]),
    "patients": (flat, ["p0", "p1", "p9"], ["2 of its 3 IDs are PatientIDs, so it has labels of whole patients"]),
    "names of several": (
        repeated,
        ["IM000000", "IM000001"],
        [
            "'IM000000' could be PAT0/ST1/SE1/IM000000 or PAT1/ST1/SE1/IM000000",
            "6 of 9 images would have no label",
            "Give paths as IDs, such as 'PAT0/ST1/SE1/IM000000'",
        ],
    ),
    "two names of one": (nested, ["s0/ID_00", "./s0/ID_00.dcm"], ["'./s0/ID_00.dcm' and 's0/ID_00' are one image"]),
}


@pytest.mark.parametrize(("layout", "ids", "said"), WRONG.values(), ids=WRONG)
def test_labels_that_cannot_be_used_end_with_an_error(
    tmp_path: Path,
    layout: Callable[[Path], list[Slice]],
    ids: Sequence[str],
    said: Sequence[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    layout(tmp_path / "raw")
    is_found = said[0] == "names none of the images"  # others are given
    table = write_ids(tmp_path / "raw" / "train.csv" if is_found else tmp_path / "labels.csv", ids)
    given = [] if is_found else ["--labels", str(table)]
    assert main(["prepare", str(tmp_path / "raw"), str(tmp_path / "store"), "--jobs", "1", *given]) == 3
    message = capsys.readouterr().err
    for words in (f"{table}: ", *said):
        assert words in message
    assert not list(tmp_path.glob("store*"))


@pytest.mark.parametrize(
    ("ids", "said"), [("0", "names none of the images in .*Its first is '0'"), ("1.2.5.0", "labels of whole series")]
)
def test_columns_that_may_hold_the_ids_are_named(tmp_path: Path, ids: str, said: str) -> None:
    flat(tmp_path / "raw")
    (tmp_path / "labels.csv").write_text(f"ID,Image,Ward,any\n{ids},ID_00,A,1\n")
    advice = r"that were not used: Image, Ward\. If one holds the IDs: --columns ID=COLUMN\. See docs/labels\.md$"
    with pytest.raises(BadInputError, match=f"{said}.*{advice}"):
        prepare(tmp_path / "raw", tmp_path / "store", task=ICH, labels=tmp_path / "labels.csv", n_jobs=1)


def test_labels_that_cannot_be_used_can_be_left_aside(tmp_path: Path) -> None:
    flat(tmp_path / "raw")
    write_ids(tmp_path / "raw" / "train.csv", ["ID_other"])
    words = ["prepare", str(tmp_path / "raw"), str(tmp_path / "store"), "--jobs", "1", "--labels", "none"]
    assert main(words) == 0
    assert np.isnan(Store.open(tmp_path / "store").labels).all()


@pytest.mark.parametrize("image_id", ["ID_00", "1.2.3.0.0"])
def test_labels_of_refused_images_alone_are_right(tmp_path: Path, image_id: str) -> None:
    flat(tmp_path / "raw")
    path = tmp_path / "raw" / "ID_00.dcm"
    path.write_bytes(path.read_bytes()[:-10])
    write_ids(tmp_path / "raw" / "train.csv", [image_id])
    report = prepare(tmp_path / "raw", tmp_path / "store", task=ICH, n_jobs=1)
    assert (report.n_labels_without_image, report.n_unlabelled, report.refusals) == (1, 8, {"truncated": 1})
    assert [one.has_label for one in Store.open(tmp_path / "store").read_refusals()] == [True]


def test_a_table_beside_the_images_is_taken_if_its_uids_are_theirs(tmp_path: Path) -> None:
    slices = repeated(tmp_path / "raw")
    write_ids(tmp_path / "train.csv", ["1.2.9.9", "IM0"])
    report = prepare(tmp_path / "raw", tmp_path / "without", task=ICH, n_jobs=1)
    assert report.tables_passed_over == {str(tmp_path / "train.csv"): "(names none of the images)"}
    assert Store.open(tmp_path / "without").index["image_id"].tolist() == [one.ids["name"] for one in slices]
    table = write_table(tmp_path / "train.csv", labelled(slices), "sop_uid")
    report = prepare(tmp_path / "raw", tmp_path / "store", task=ICH, n_jobs=1)
    assert (report.label_file, report.tables_passed_over) == (str(table), {})
    check_store(tmp_path / "store", slices, "sop_uid")
    table.write_text(f"{table.read_text()}1.2.3.0.0_kind,1\n")
    with pytest.raises(BadInputError, match=r"train\.csv, line \d+: ID '1.2.3.0.0_kind' does not end"):
        prepare(tmp_path / "raw", tmp_path / "again", task=ICH, n_jobs=1)


@pytest.mark.parametrize("rule", RULES)
def test_the_rule_may_be_given(tmp_path: Path, rule: IdRule, capsys: pytest.CaptureFixture[str]) -> None:
    slices = nested(tmp_path / "raw")
    words = ["prepare", str(tmp_path / "raw"), str(tmp_path / "store"), "--jobs", "1", "--image-ids", rule]
    other: IdRule = "name" if rule == "sop_uid" else "sop_uid"
    table = write_table(tmp_path / "other.csv", labelled(slices), other)
    assert main([*words, "--labels", str(table)]) == 3
    assert f"with the image's {WORDS[rule][:-1]} (--image-ids {rule})" in capsys.readouterr().err
    assert main(words) == 0
    assert f"image ids               {WORDS[rule]}\n" in capsys.readouterr().out
    assert Store.open(tmp_path / "store").index["image_id"].tolist() == [one.ids[rule] for one in slices]


@pytest.mark.parametrize("rule", RULES)
def test_refused_files_that_labels_name(tmp_path: Path, rule: IdRule) -> None:
    """Refused by header, by position and by pixels; by UID as far as the header can be read."""
    slices = nested(tmp_path / "raw")
    files = sorted((tmp_path / "raw").rglob("*.dcm"))
    for path in (files[1], files[7]):
        path.write_bytes(path.read_bytes()[:-10])
    tilted = phantoms.read(files[2])
    tilted.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]
    tilted.save_as(files[2])
    perfusion = phantoms.read(files[4])
    perfusion.RescaleType = "US"
    perfusion.RescaleIntercept = 5000
    perfusion.save_as(files[4])
    files[3].write_bytes(b"")
    table = write_table(tmp_path / "labels.csv", slices[:5], rule)
    report = prepare(tmp_path / "raw", tmp_path / "store", task=ICH, labels=table, n_jobs=1)
    assert report.refusals == {"truncated": 2, "mixed_orientation": 1, "not_dicom": 1, "not_hounsfield": 1}
    named = {one.path for one in Store.open(tmp_path / "store").read_refusals() if one.has_label}
    by_name = {"s1/ID_10.dcm"} if rule != "sop_uid" else set()
    assert named == {"s0/ID_01.dcm", "s0/ID_02.dcm", "s1/ID_11.dcm"} | by_name


@pytest.mark.parametrize("spell", ["{}", "{}.dcm", "s0/{}.dcm", "./s0/{}", "raw/s0/{}.dcm"])
@pytest.mark.parametrize("n_labelled", [1, 3])
def test_refused_files_are_named_however_an_id_is_written(tmp_path: Path, spell: str, n_labelled: int) -> None:
    """n_labelled: how many of the IDs there are: the refused one alone, or others too."""
    names = ["ID_01", "ID_00", "ID_02"]
    nested(tmp_path / "raw")
    path = tmp_path / "raw" / "s0" / "ID_01.dcm"
    path.write_bytes(path.read_bytes()[:-10])
    table = write_ids(tmp_path / "labels.csv", [spell.format(name) for name in names[:n_labelled]])
    prepare(tmp_path / "raw", tmp_path / "store", task=ICH, labels=table, n_jobs=1)
    assert [(one.path, one.has_label) for one in Store.open(tmp_path / "store").read_refusals()] == [
        ("s0/ID_01.dcm", True)
    ]


def test_hashed_ids_are_those_of_the_rule_and_lead_back_to_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slices = repeated(tmp_path / "raw")
    table = write_table(tmp_path / "labels.csv", labelled(slices), "sop_uid")
    (tmp_path / "key").write_bytes(KEY.key)
    how = ["--labels", str(table), "--deidentify", str(tmp_path / "key"), "--jobs", "1"]
    assert main(["prepare", str(tmp_path / "raw"), str(tmp_path / "store"), *how]) == 0
    check_store(tmp_path / "store", slices, "sop_uid", lambda image_id: KEY.of("image", image_id))
    who = Store.open(tmp_path / "store").series[1].series_key
    capsys.readouterr()
    asked = ["inspect", str(tmp_path / "store"), "--who", who, "--raw", str(tmp_path / "raw")]
    assert main([*asked, "--key", str(tmp_path / "key"), "--jobs", "1"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[-1] for line in said[4:]] == [one.ids["sop_uid"] for one in slices[3:6]]


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI:UserWarning")
def test_uids_that_a_spreadsheet_would_run_are_refused_on_demand(tmp_path: Path) -> None:
    slices = flat(tmp_path / "raw")
    dataset = phantoms.read(tmp_path / "raw" / "ID_01.dcm")
    dataset.SOPInstanceUID = "=1+1"
    dataset.save_as(tmp_path / "raw" / "ID_01.dcm")
    how = {"task": ICH, "image_ids": "sop_uid", "n_jobs": 1}
    assert prepare(tmp_path / "raw", tmp_path / "all", **how).refusals == {}
    report = prepare(tmp_path / "raw", tmp_path / "store", reading=Reading(refuse_formulas=True), **how)
    assert report.refusals == {"formula_name": 1}
    expected = [one.ids["sop_uid"] for one in slices if one.ids["name"] != "ID_01"]
    assert Store.open(tmp_path / "store").index["image_id"].tolist() == expected


class InterruptedHereError(Exception):
    """What ends an attempt here."""


def interrupt(done: int, total: int, note: str = "") -> None:
    """A progress that ends an attempt when pixels are written."""
    if note.startswith("pixels"):
        raise InterruptedHereError


def contents(store: Path) -> dict[str, bytes]:
    return {str(path.relative_to(store)): path.read_bytes() for path in sorted(store.rglob("*")) if path.is_file()}


def test_interrupted_and_shared_work_makes_the_same_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rsna_e2e.store.prepare.run.SHARD_BYTES", 1)
    raw, store = tmp_path / "raw", tmp_path / "store"
    slices = repeated(raw)
    tables = {rule: write_table(tmp_path / f"{rule}.csv", labelled(slices), rule) for rule in ("path", "sop_uid")}
    prepare(raw, tmp_path / "whole", task=ICH, labels=tables["sop_uid"], n_jobs=1)
    for rule in ("path", "sop_uid"):  # what was begun with other labels is gone on with
        with pytest.raises(InterruptedHereError):
            prepare(raw, store, task=ICH, labels=tables[rule], n_jobs=1, progress=interrupt)
    notes: list[str] = []
    prepare(
        raw,
        store,
        task=ICH,
        labels=tables["sop_uid"],
        n_jobs=1,
        progress=lambda done, total, note="": notes.append(note),
    )
    assert not any(note.startswith("headers") for note in notes)
    assert contents(store) == contents(tmp_path / "whole")
    shutil.rmtree(store)
    how = {"task": ICH, "labels": tables["sop_uid"], "n_jobs": 1}
    parts = [prepare_part(raw, store, Part(number, 2), **how).part for number in (1, 2)]
    with pytest.raises(BadInputError, match="not a part of this store"):
        prepare(raw, store, parts=parts, **(how | {"image_ids": "sop_uid"}))
    prepare(raw, store, parts=parts, **how)
    assert contents(store) == contents(tmp_path / "whole")
    other = {"task": ICH, "labels": tables["path"], "n_jobs": 1}
    prepare(raw, tmp_path / "of parts", parts=parts, **other)
    prepare(raw, tmp_path / "other", **other)
    assert contents(tmp_path / "of parts") == contents(tmp_path / "other")


@pytest.mark.parametrize("rule", ["path", "sop_uid"])
def test_damage_is_mended_whatever_slices_are_called(tmp_path: Path, rule: IdRule) -> None:
    raw, store = tmp_path / "raw", tmp_path / "store"
    prepare(raw, store, task=ICH, labels=write_table(tmp_path / "labels.csv", repeated(raw), rule), n_jobs=1)
    before = contents(store)
    flip_pixels(store, [1, 7], np.random.default_rng(0))
    assert not verify_store(store).is_whole
    assert repair(store, raw, n_jobs=1).n_mended_slices == 2
    assert contents(store) == before
