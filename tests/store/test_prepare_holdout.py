"""prepare --holdout: whole patients go to the test split with their labels, and are never trained on."""

import json
import shutil
from pathlib import Path

import numpy as np
import phantoms
import pytest
import small
from stores import edit_index, edit_set

from rsna_e2e.cli import main
from rsna_e2e.core.errors import UsageError
from rsna_e2e.loader.holdout import hold_out, series_folds
from rsna_e2e.store import Store, StoreError, verify_store
from rsna_e2e.store.folds import stratified_folds
from rsna_e2e.store.prepare import NothingTakenError, Part, prepare, prepare_part, repair
from rsna_e2e.store.pseudonyms import Pseudonyms
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.tasks.labels import write_labels
from rsna_e2e.training.pipeline.checks import check_store

HOW = {"task": ICH, "n_folds": 3, "n_jobs": 1}
SHARE = 0.3


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven patients: six with labels, the first of them with a second series, and one without."""
    folder = tmp_path_factory.mktemp("holdout") / "raw"
    small.write_raw(folder)
    dataset = phantoms.slice_dataset(
        np.full((small.SIDE, small.SIDE), 40, dtype="<i2"),
        SOPInstanceUID="1.2.3.0.100",
        PatientID="ID_p0",
        StudyInstanceUID="1.2.4.0",
        SeriesInstanceUID="1.2.5.100",
    )
    phantoms.write_dicom(folder / "ID_9900.dcm", dataset)
    lines = "".join(f"ID_9900_{name},0\n" for name in ICH.slices.names)
    with (folder / "stage_2_train.csv").open("a") as file:
        file.write(lines)
    return folder


@pytest.fixture(scope="module")
def plain(raw: Path) -> Store:
    prepare(raw, raw.parent / "plain", **HOW)
    return Store.open(raw.parent / "plain")


@pytest.fixture(scope="module")
def store(raw: Path) -> Store:
    prepare(raw, raw.parent / "store", holdout=SHARE, **HOW)
    return Store.open(raw.parent / "store")


def held_patients(store: Store) -> set[str]:
    has_label = ~np.isnan(store.labels).all(axis=1)
    return set(store.index["patient_id"][has_label & (store.index["split"] == "test")])


def test_whole_patients_go_to_test_with_their_labels(store: Store, plain: Store) -> None:
    held = held_patients(store)
    assert 0 < len(held) < len(small.LENGTHS)
    for span in store.series:
        is_test = span.patient_id in held or span.patient_id == f"ID_p{len(small.LENGTHS)}"
        assert (span.split, span.fold == -1) == (("test", True) if is_test else ("train", False))
    np.testing.assert_array_equal(store.labels, plain.labels)  # kept, of all
    assert {span.fold for span in store.series if span.split == "train"} <= {0, 1, 2}


def test_nothing_else_of_a_store_changes(store: Store, plain: Store) -> None:
    for name, column in plain.index.items():
        if name not in ("split", "fold"):
            np.testing.assert_array_equal(store.index[name], column, err_msg=name)
    assert store.data_hash != plain.data_hash
    shares = [json.loads((one.path / "tasks/ich/set.json").read_text())["holdout"] for one in (store, plain)]
    assert shares == [SHARE, None]
    assert (store.path / "store.json").read_bytes() == (plain.path / "store.json").read_bytes()


@pytest.mark.parametrize("share", [0.1, 0.2, 0.35, 0.5])
def test_the_share_is_that_of_slices_and_of_positives(share: float) -> None:
    rng = np.random.default_rng(7)
    patients = [f"p{i:03d}" for i in rng.integers(0, 200, 3000)]
    counts = np.column_stack([rng.random(3000) < 0.05, rng.random(3000) < 0.4, np.ones(3000)]).astype(np.float64)
    part = stratified_folds(patients, counts, n_folds=2, seed=0, sizes=(1 - share, share))
    found = counts[part == 1].sum(axis=0) / counts.sum(axis=0)
    # A patient has a two hundredth of the slices; of 150 rare positives, one with some has about a hundredth.
    assert np.abs(found - share).max() < 0.01


def test_the_seed_decides_among_equals() -> None:
    patients = [f"p{i:02d}" for i in range(40)]
    first, again, other = (
        stratified_folds(patients, np.ones((40, 1)), n_folds=2, seed=seed, sizes=(0.8, 0.2)) for seed in (0, 0, 1)
    )
    assert first.sum() == other.sum() == 8
    assert first.tolist() == again.tolist() != other.tolist()


def test_the_report_counts_what_is_held_out(raw: Path, store: Store, tmp_path: Path) -> None:
    report = prepare(raw, tmp_path / "store", holdout=SHARE, **HOW)
    held = held_patients(store)
    spans = [span for span in store.series if span.patient_id in held]
    assert report.held_out == {
        "patients": len(held),
        "series": len(spans),
        "slices": sum(span.n_slices for span in spans),
        "with any": sum(int(store.labels[span.rows, ICH.headline_index].sum()) for span in spans),
    }


def test_held_out_series_are_never_trained_on(store: Store) -> None:
    held = held_patients(store)
    for rule in ("store", "published"):
        folds = series_folds(store, rule)
        assert all((folds[p] == -1) == (span.split == "test") for p, span in enumerate(store.series))
        fold = next(fold for fold in folds if fold >= 0)
        training, validation = hold_out(store, small.config(f"folds={rule}", f"validation_fold={fold}"))
        assert not held & {store.series[p].patient_id for p in (*training, *validation)}
    check_store(store, None)


def test_the_published_rule_counts_rows_of_training_images_alone(plain: Store, tmp_path: Path) -> None:
    """Without the three images of patient 1, those of the others begin at rows 0, 5, 6, 12 and 16."""
    shutil.copytree(plain.path, tmp_path / "store")

    def hold(index: dict[str, np.ndarray]) -> None:
        is_held = index["patient_id"] == "ID_p1"
        index["split"][is_held], index["fold"][is_held] = "test", -1

    edit_index(tmp_path / "store", hold)
    edit_set(tmp_path / "store", holdout=SHARE)
    store = Store.open(tmp_path / "store")
    found = {span.patient_id: fold for span, fold in zip(store.series, series_folds(store, "published"), strict=True)}
    assert found == {"ID_p0": 0, "ID_p1": -1, "ID_p2": 0, "ID_p3": 1, "ID_p4": 2, "ID_p5": 1, "ID_p6": -1}


def test_a_merged_store_is_the_same(
    raw: Path, store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "store"
    parts = [prepare_part(raw, target, Part(number, 2), task=ICH, n_jobs=1).part for number in (1, 2)]
    assert prepare(raw, target, holdout=SHARE, parts=parts, **HOW).data_hash == store.data_hash
    assert main(["prepare", str(raw), str(tmp_path / "other"), "--shard", "1/2", "--holdout", "0.3"]) == 2
    assert "--holdout: has no effect on a part of a store" in capsys.readouterr().err


def test_hashed_identifiers_hold_the_same_patients_out(raw: Path, store: Store, tmp_path: Path) -> None:
    prepare(raw, tmp_path / "hashed", holdout=SHARE, pseudonyms=Pseudonyms(b"k" * 32), **HOW)
    hashed = Store.open(tmp_path / "hashed")
    for name in ("split", "fold"):
        np.testing.assert_array_equal(hashed.index[name], store.index[name])


def test_repair_and_verify_keep_it(raw: Path, store: Store, tmp_path: Path) -> None:
    copy = tmp_path / "store"
    shutil.copytree(store.path, copy)
    (copy / "shards" / "00000.h5").unlink()
    assert repair(copy, raw, n_jobs=1).left == ()
    assert verify_store(copy).is_whole
    assert (copy / "store.json").read_bytes() == (store.path / "store.json").read_bytes()


def test_labels_in_test_are_damage_where_nothing_was_held_out(store: Store, tmp_path: Path) -> None:
    shutil.copytree(store.path, tmp_path / "store")
    edit_set(tmp_path / "store", holdout=None)
    with pytest.raises(StoreError, match="impossible split"):
        Store.open(tmp_path / "store")


def test_a_patient_in_training_and_among_the_held_out_is_damage(store: Store, tmp_path: Path) -> None:
    shutil.copytree(store.path, tmp_path / "store")

    def mix(index: dict[str, np.ndarray]) -> None:
        index["patient_id"][index["split"] == "train"] = min(held_patients(store))
        index["fold"][index["split"] == "train"] = 0

    edit_index(tmp_path / "store", mix)
    with pytest.raises(StoreError, match="impossible split"):
        Store.open(tmp_path / "store")


def test_a_series_without_labels_cannot_be_trained_on(store: Store, tmp_path: Path) -> None:
    shutil.copytree(store.path, tmp_path / "store")

    def claim(index: dict[str, np.ndarray]) -> None:
        is_unlabelled = index["patient_id"] == f"ID_p{len(small.LENGTHS)}"
        index["split"][is_unlabelled], index["fold"][is_unlabelled] = "train", 0

    edit_index(tmp_path / "store", claim)
    with pytest.raises(StoreError, match="impossible split"):
        Store.open(tmp_path / "store")


def test_without_labels_there_is_nothing_to_hold_out(raw: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"holdout 0\.3: there are no labels\. Give them with --labels"):
        prepare(raw, tmp_path / "store", labels="none", holdout=SHARE, **HOW)
    assert not list(tmp_path.iterdir())


def refused_after(raw: Path, tmp_path: Path, said: str, share: float) -> set[str]:
    """Prepare, which is to end with a UsageError, and return what was read of the files by then."""
    steps: list[str] = []
    with pytest.raises(UsageError, match=said):
        prepare(
            raw,
            tmp_path / "store",
            holdout=share,
            progress=lambda done, total, note="": steps.append(note.partition(",")[0]),
            **HOW,
        )
    assert not list(tmp_path.glob("store*"))
    return set(steps)


def test_labels_of_other_images_end_before_pixels_are_read(raw: Path, tmp_path: Path) -> None:
    files = sorted(raw.glob("*.dcm"))
    (tmp_path / "raw").mkdir()
    for path in files:
        shutil.copy(path, tmp_path / "raw")
    write_labels(tmp_path / "train.csv", ICH, ["ID_other"], np.zeros((1, 6)))  # found beside, known by headers alone
    assert refused_after(tmp_path / "raw", tmp_path, r"holdout 0\.3: there are no labels", SHARE) == {"headers"}


@pytest.mark.parametrize("share", [0.0001, 0.9999])
def test_a_share_of_no_patient_or_of_all_ends_before_pixels_are_read(raw: Path, tmp_path: Path, share: float) -> None:
    assert refused_after(raw, tmp_path, r"too few labelled patients \(6\)", share) == {"headers"}


def test_the_division_is_the_same_after_an_interruption(raw: Path, store: Store, tmp_path: Path) -> None:
    """The division is checked with the notes of shards that are there by then."""

    def interrupt(done: int, total: int, note: str = "") -> None:
        if note.startswith("pixels"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(raw, tmp_path / "store", holdout=SHARE, progress=interrupt, **HOW)
    assert prepare(raw, tmp_path / "store", holdout=SHARE, **HOW).data_hash == store.data_hash


def test_where_nothing_is_taken_that_is_said(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a.dcm").write_bytes(b"no DICOM")
    write_labels(tmp_path / "labels.csv", ICH, ["a"], np.zeros((1, 6)))
    with pytest.raises(NothingTakenError, match="1 not_dicom"):
        prepare(tmp_path / "raw", tmp_path / "store", labels=tmp_path / "labels.csv", holdout=SHARE, **HOW)


def test_too_few_patients_are_refused(raw: Path, tmp_path: Path) -> None:
    labels = tmp_path / "one.csv"
    write_labels(labels, ICH, ["ID_0000"], np.zeros((1, 6)))
    with pytest.raises(UsageError, match=r"holdout 0\.3: too few labelled patients \(1\)"):
        prepare(raw, tmp_path / "store", labels=labels, holdout=SHARE, **HOW)
    assert [path.name for path in tmp_path.iterdir()] == ["one.csv"]


@pytest.mark.parametrize("share", ["0", "1", "-0.2", "nan", "a fifth"])
def test_what_is_no_share_is_refused(raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], share: str) -> None:
    with pytest.raises(SystemExit) as end:
        main(["prepare", str(raw), str(tmp_path / "store"), f"--holdout={share}"])
    assert end.value.code == 2
    assert f"{share!r} is not a share between 0 and 1, such as 0.2" in capsys.readouterr().err
    if share in ("0", "1"):
        with pytest.raises(UsageError, match="must be a share between 0 and 1"):
            prepare(raw, tmp_path / "store", holdout=float(share), **HOW)
