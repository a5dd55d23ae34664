"""Label sets: added to a store without its pixels, one for each task, with folds that patients keep."""

import hashlib
import pickle
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import small

from rsna_e2e.cli import main
from rsna_e2e.core.errors import BadInputError, UsageError
from rsna_e2e.store import Store, StoreError, set_writer, verify_store
from rsna_e2e.store.prepare import label, prepare
from rsna_e2e.store.pseudonyms import Pseudonyms
from rsna_e2e.store.reader import check_labels
from rsna_e2e.store.set_manifest import read_set_manifest
from rsna_e2e.tasks.files import task_as_yaml
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.tasks.labels import read_labels, write_labels
from rsna_e2e.tasks.task import Labels

OTHER = replace(ICH, name="clots", slices=Labels(names=("clot",), weights=(1.0,)), headline="clot")
KEY = Pseudonyms(b"k" * 32)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with raw files, and stores of them with labels and without."""
    folder = tmp_path_factory.mktemp("label")
    small.write_raw(folder / "raw")
    for name, labels in (("store", None), ("bare", "none")):
        prepare(folder / "raw", folder / name, task=ICH, labels=labels, n_folds=3, n_jobs=1)
    prepare(folder / "raw", folder / "hashed", task=ICH, labels="none", n_jobs=1, pseudonyms=KEY)
    (folder / "key").write_bytes(KEY.key)
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    shutil.copytree(made, tmp_path / "copy")
    return tmp_path / "copy"


def labels_of(folder: Path) -> Path:
    return folder / "raw" / "stage_2_train.csv"


def other_labels(folder: Path, *, names: str = "image_id") -> Path:
    """Labels of the other task, of all slices of all patients; the seventh has none for hemorrhage."""
    ids = Store.open(folder / "store").index[names].tolist()
    write_labels(folder / "clots.csv", OTHER, ids, (np.arange(len(ids)) % 3 == 0).astype(np.float64)[:, None])
    return folder / "clots.csv"


def files_of(store: Path, *, sets: bool = True) -> dict[str, tuple[int, str]]:
    """When each file of a store was changed, and its checksum."""
    found = [path for path in store.rglob("*") if path.is_file() and (sets or "tasks" not in path.parts)]
    return {
        path.relative_to(store).as_posix(): (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in found
    }


def write_task(path: Path) -> None:
    path.write_text(task_as_yaml(OTHER))


def fold_of_patients(store: Store) -> dict[str, int]:
    return {span.patient_id: span.fold for span in store.series if span.split == "train"}


def test_labels_may_come_later_and_no_other_file_is_touched(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = files_of(folder / "bare")
    for path in (folder / "bare" / "shards").iterdir():
        path.chmod(0)  # so that nobody but root could read it
    assert main(["label", str(folder / "bare"), str(labels_of(folder)), "--folds", "3"]) == 0
    assert "21 of 21 in the labels match an image" in capsys.readouterr().out
    assert files_of(folder / "bare", sets=False) == before
    assert {name: sha for name, (_, sha) in files_of(folder / "bare").items()} == {
        name: sha for name, (_, sha) in files_of(folder / "store").items()
    }
    assert verify_store(folder / "bare").is_whole


def test_the_same_labels_again_are_the_same_set_and_others_are_another(folder: Path) -> None:
    before, store = files_of(folder / "store"), Store.open(folder / "store")
    with pytest.raises(StoreError, match=r"has labels of task ich already\. To replace them, add --replace"):
        label(folder / "store", labels_of(folder), task=ICH)
    assert files_of(folder / "store") == before
    assert label(folder / "store", labels_of(folder), task=ICH, n_folds=3, replaces=True).data_hash == store.data_hash
    table = read_labels(labels_of(folder), ICH)
    write_labels(folder / "corrected.csv", ICH, table.image_ids, 1 - table.values)
    assert label(folder / "store", folder / "corrected.csv", task=ICH, replaces=True).data_hash != store.data_hash
    np.testing.assert_array_equal(Store.open(folder / "store").labels, 1 - store.labels)
    assert [path.name for path in (folder / "store" / "tasks").iterdir()] == ["ich"]


@pytest.mark.parametrize("name", ["slices.parquet", "set.json"])
def test_a_damaged_set_is_made_again(folder: Path, name: str) -> None:
    before = Store.open(folder / "store").data_hash
    (folder / "store" / "tasks" / "ich" / name).write_text("damaged")
    with pytest.raises(StoreError, match=rf"{name}: missing or damaged\. Make this label set again"):
        Store.open(folder / "store")
    label(folder / "store", labels_of(folder), task=ICH, n_folds=3, replaces=True)
    assert Store.open(folder / "store").data_hash == before
    assert verify_store(folder / "store").is_whole


def test_two_tasks_on_one_store(folder: Path) -> None:
    before = files_of(folder / "store")
    report = label(folder / "store", other_labels(folder), task=OTHER, seed=5)
    assert (report.folds_of, report.n_unlabelled) == ("ich", 0)
    assert {name: one for name, one in files_of(folder / "store").items() if "clots" not in name} == before
    first, second = (Store.open(folder / "store", name) for name in ("ich", "clots"))
    assert (first.label_names, second.label_names) == (ICH.slices.names, ("clot",))
    assert first.data_hash != second.data_hash
    folds = fold_of_patients(second)
    assert folds.items() > fold_of_patients(first).items()
    assert folds.keys() - fold_of_patients(first).keys() == {"ID_p6"}  # without labels before, divided now
    assert pickle.loads(pickle.dumps(second)).data_hash == second.data_hash
    assert verify_store(folder / "store").is_whole


def test_which_of_several_tasks_is_asked_for(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    label(folder / "store", other_labels(folder), task=OTHER)
    with pytest.raises(UsageError, match=r"has label sets of several tasks: clots, ich\. Choose one with --task"):
        Store.open(folder / "store")
    with pytest.raises(
        StoreError,
        match=r"has no labels of task pe, only of clots, ich\. Add them with: rsna-e2e label \S+ LABELS --task pe",
    ):
        Store.open(folder / "store", "pe")
    (folder / "store/tasks/clots/set.json").rename(folder / "set.json")
    with pytest.raises(StoreError, match=r"rsna-e2e label STORE LABELS --task FILE --replace"):  # not the name: unknown
        Store.open(folder / "store", "clots")
    (folder / "set.json").rename(folder / "store/tasks/clots/set.json")
    with pytest.raises(StoreError, match=r"has no labels of task mine, .*LABELS --task FILE$"):
        Store.open(folder / "store", "mine")
    store = Store.open(folder / "store", "clots")
    check_labels(store, OTHER)
    with pytest.raises(BadInputError, match=r"its slices\.names is \('clot',\), not \('epidural', .*--task ich"):
        check_labels(store, ICH)
    capsys.readouterr()
    assert main(["store", "sets", str(folder / "store")]) == 0
    head, _, clots, ich = capsys.readouterr().out.splitlines()
    assert head.split("  ")[0] == "task"
    assert clots.split() == [*"clots clot 25 of 25 7 of 7 9 clot 3, as in ich".split(), clots.split()[-1]]
    assert "21 of 25" in ich
    assert main(["train", str(folder / "store"), str(folder / "run"), "--set", "task=pe"]) == 3
    assert "has no labels of task pe, only of clots, ich. Add them with: rsna-e2e label" in capsys.readouterr().err
    assert not (folder / "run").exists()


def test_patients_held_out_for_one_task_are_held_out_for_all(folder: Path) -> None:
    label(folder / "store", labels_of(folder), task=ICH, holdout=0.3, n_folds=3, replaces=True)
    held = {span.patient_id for span in Store.open(folder / "store").series if span.split == "test"} - {"ID_p6"}
    assert held
    label(folder / "store", other_labels(folder), task=OTHER)
    store = Store.open(folder / "store", "clots")
    assert {span.patient_id for span in store.series if span.split == "test"} == held


def test_folds_of_a_sets_own(folder: Path) -> None:
    label(folder / "store", other_labels(folder), task=OTHER, n_folds=2, holdout=0.3, own_folds=True)
    store = Store.open(folder / "store", "clots")
    assert set(fold_of_patients(store).values()) == {0, 1}
    assert len(fold_of_patients(store)) < 7


@pytest.mark.parametrize(("option", "how"), [("--folds", {"n_folds": 4}), ("--holdout", {"holdout": 0.2})])
def test_patients_that_keep_their_folds_are_not_divided_otherwise(folder: Path, option: str, how: dict) -> None:
    with pytest.raises(UsageError, match=rf"{option}: 6 of the patients keep the folds \(3\).* of the label set ich"):
        label(folder / "store", other_labels(folder), task=OTHER, **how)
    assert not (folder / "store" / "tasks" / "clots").exists()


def test_a_set_that_is_replaced_keeps_its_place_among_the_others(folder: Path) -> None:
    """What took its folds over from the first set gives them back to what takes its place."""
    label(folder / "store", other_labels(folder), task=OTHER)
    before = fold_of_patients(Store.open(folder / "store", "clots"))
    report = label(folder / "store", labels_of(folder), task=ICH, seed=9, replaces=True)
    assert report.folds_of == "clots"
    assert fold_of_patients(Store.open(folder / "store", "ich")).items() <= before.items()


DIVIDED = ["--folds", "2", "--holdout", "0.3", "--seed", "4"]


def division_of(store: Path, task: str) -> tuple[int, float | None, int]:
    manifest = read_set_manifest(store, task)
    return manifest.n_folds, manifest.holdout, manifest.seed


def test_a_set_is_replaced_with_its_folds_and_its_test_set(folder: Path) -> None:
    again = ["label", str(folder / "store"), str(labels_of(folder)), "--replace"]
    assert main([*again, *DIVIDED]) == 0
    before, folds = Store.open(folder / "store").data_hash, fold_of_patients(Store.open(folder / "store"))
    assert len(folds) < 6
    for options in ([], ["--measure", "brain"], ["--folds", "2"], ["--holdout", "0.3"]):
        assert main([*again, *options]) == 0
        assert Store.open(folder / "store").data_hash == before
        assert division_of(folder / "store", "ich") == (2, 0.3, 4)
    assert main([*again, "--folds", "3"]) == 0
    assert division_of(folder / "store", "ich") == (3, 0.3, 4)
    assert main([*again, "--own-folds"]) == 0
    assert division_of(folder / "store", "ich") == (5, None, 0)
    assert len(fold_of_patients(Store.open(folder / "store"))) == 6


@pytest.mark.parametrize("options", [["--own-folds", *DIVIDED], []], ids=["own folds", "folds of the first set"])
def test_a_second_set_is_replaced_with_its_folds_and_its_test_set(folder: Path, options: list[str]) -> None:
    labels = str(other_labels(folder))
    write_task(folder / "clots.yaml")
    command = ["label", str(folder / "store"), labels, "--task", str(folder / "clots.yaml")]
    assert main([*command, *options]) == 0
    before, how = Store.open(folder / "store", "clots").data_hash, division_of(folder / "store", "clots")
    assert main([*command, "--replace", "--measure", "brain"]) == 0
    assert Store.open(folder / "store", "clots").data_hash == before
    assert division_of(folder / "store", "clots") == how


def test_patients_that_only_the_replaced_set_has_keep_their_fold_beside_other_sets(folder: Path) -> None:
    """The second set has two patients, and no say in which of the others were held out."""
    label(folder / "store", labels_of(folder), task=ICH, holdout=0.3, n_folds=2, seed=4, replaces=True)
    before = Store.open(folder / "store").data_hash
    store = Store.open(folder / "store")
    of_two = [span for span in store.series if span.split == "train"][:2]
    ids = [one for span in of_two for one in store.index["image_id"][span.rows].tolist()]
    write_labels(folder / "clots.csv", OTHER, ids, np.ones((len(ids), 1)))
    label(folder / "store", folder / "clots.csv", task=OTHER)
    report = label(folder / "store", labels_of(folder), task=ICH, replaces=True)
    assert (report.folds_of, report.data_hash) == ("clots", before)


def test_a_damaged_set_says_nothing_of_how_it_was_divided(folder: Path) -> None:
    label(folder / "store", labels_of(folder), task=ICH, holdout=0.3, n_folds=2, seed=4, replaces=True)
    (folder / "store" / "tasks" / "ich" / "set.json").write_text("damaged")
    label(folder / "store", labels_of(folder), task=ICH, replaces=True)
    assert division_of(folder / "store", "ich") == (5, None, 0)


BAD = {
    "of no slice": ("ID,Label\nx_any,1\n", "names none of the images"),
    "empty": ("ID,any\nID_0000,\n", "no label in it, all cells are empty"),
    "that differ": ("ID,any\nID_0000,1\nID_0000,0\n", r"differ \(lines 2, 3\)"),
    "that are none": ("ID,any\nID_0000,2\n", "line 2: any of ID_0000 is '2'"),
}


@pytest.mark.parametrize(("text", "message"), BAD.values(), ids=BAD)
def test_labels_that_cannot_be_used_leave_nothing(
    folder: Path, text: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files_of(folder / "bare")
    (folder / "bad.csv").write_text(text)
    assert main(["label", str(folder / "bare"), str(folder / "bad.csv")]) == 3
    said = capsys.readouterr().err
    assert re.search(message, said)
    assert said.count("\n") == 1
    assert files_of(folder / "bare") == before
    assert not (folder / "bare" / "tasks").exists()


def interrupted(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_what_was_killed_in_between_is_not_a_set(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = folder / "bare" / "tasks" / "ich.partial"
    left.mkdir(parents=True)
    (left / "slices.parquet").write_text("half")
    assert Store.open(folder / "bare").task_name == ""
    with monkeypatch.context() as patch:
        patch.setattr(set_writer, "read_set", interrupted)
        with pytest.raises(KeyboardInterrupt):
            label(folder / "bare", labels_of(folder), task=ICH)
    assert not (folder / "bare" / "tasks").exists()
    label(folder / "bare", labels_of(folder), task=ICH)
    assert verify_store(folder / "bare").is_whole


def test_labels_by_uid_name_the_images_of_their_task_so(folder: Path) -> None:
    label(folder / "store", other_labels(folder, names="sop_uid"), task=OTHER)
    named, by_uid = (Store.open(folder / "store", name) for name in ("ich", "clots"))
    assert (named.image_ids, by_uid.image_ids) == ("name", "sop_uid")
    assert by_uid.index["image_id"].tolist() == named.index["sop_uid"].tolist()
    np.testing.assert_array_equal(by_uid.labels[:, 0], np.arange(25) % 3 == 0)


def test_a_store_of_hashed_names_needs_the_key(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["label", str(folder / "hashed"), str(labels_of(folder))]
    assert main(command) == 2
    assert "holds hashed identifiers. Give --key" in capsys.readouterr().err
    assert main([*command, "--key", str(folder / "key"), "--folds", "3"]) == 0
    named, hashed = Store.open(folder / "store"), Store.open(folder / "hashed")
    np.testing.assert_array_equal(hashed.labels, named.labels)
    np.testing.assert_array_equal(hashed.index["fold"], named.index["fold"])
    assert hashed.index["image_id"].tolist() == [KEY.of("image", one) for one in named.index["image_id"]]
    table = read_labels(labels_of(folder), ICH)
    uids = dict(zip(named.index["image_id"], named.index["sop_uid"], strict=True))
    write_labels(folder / "uids.csv", ICH, [uids[one] for one in table.image_ids], table.values)
    label(folder / "hashed", folder / "uids.csv", task=ICH, pseudonyms=KEY, replaces=True)
    np.testing.assert_array_equal(Store.open(folder / "hashed").labels, named.labels)
    (folder / "other").write_bytes(b"o" * 32)
    assert main([*command, "--key", str(folder / "other"), "--replace"]) == 3
    assert "prepared with another key" in capsys.readouterr().err


def test_a_store_without_labels_has_them_unknown_for_any_task(folder: Path) -> None:
    store = Store.open(folder / "bare")
    assert (store.task_name, store.labels.shape, {span.split for span in store.series}) == ("", (25, 0), {"test"})
    check_labels(store, ICH)
    for opened in (store, pickle.loads(pickle.dumps(store))):
        assert opened.label_names == ICH.slices.names
        assert opened.labels.shape == (25, 6)
        assert np.isnan(opened.labels).all()
    assert Store.open(folder / "bare", "pe").task_name == ""  # there is nothing that it could be mistaken for
