"""The two-stage pipeline for labels of slices and of whole series, from a store to a submission, in one process."""

import csv
import gzip
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import phantoms
import pytest

from rsna_e2e.cli import main
from rsna_e2e.config import load_two_stage
from rsna_e2e.inference.predictions import predictions_path, read_predictions, read_series, series_path
from rsna_e2e.store import Store
from rsna_e2e.store.embeddings import Embeddings
from rsna_e2e.store.prepare import prepare
from rsna_e2e.tasks.labels import write_labels
from rsna_e2e.tasks.pe import PE
from rsna_e2e.training.pipeline import PARTS
from rsna_e2e.training.pipeline.plan import plan_two_stage
from rsna_e2e.training.pipeline.planned_step import Folders, PlannedStep
from rsna_e2e.training.pipeline.run import Pipeline

pytestmark = pytest.mark.usefixtures("one_thread")

N_EXAMS, N_SLICES, SIDE = 7, 8, 32
POSITIVE, UNLABELLED = (0, 2, 4), 6  # exams; a positive one has two positive slices
TINY = (
    *(f"{run}.{setting}" for run in ("images", "beside.0") for setting in (
        "model.backbone=test_resnet", "model.backbone_arguments={}", "image.size=28", "image.resize=32",
        "image.supersample=1", "precision=fp32", "slice_phase.epochs=1", "slice_phase.slices_per_batch=4",
    )),
    *(f"{run}.{setting}" for run in ("sequences", "series_sequences") for setting in ("epochs=1", "precision=fp32")),
    "beside.0.seed=7",
    "two_stage.image_epochs=[1]",
)  # fmt: skip


def name_of(exam: int, index: int) -> str:
    return f"1.2.3.{exam}.{index}"


def study_of(exam: int) -> str:
    return f"1.2.4.{exam}"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exams")
    rng = np.random.default_rng(0)
    for exam in range(N_EXAMS):
        for index in range(N_SLICES):
            hu = rng.integers(20, 60, (SIDE, SIDE)).astype("<i2")
            hu[8:20, 8:20] = 300 - 250 * is_positive(exam, index)  # a clot in the contrast
            dataset = phantoms.slice_dataset(
                hu,
                SOPInstanceUID=name_of(exam, index),
                PatientID=f"p{exam}",
                StudyInstanceUID=study_of(exam),
                SeriesInstanceUID=f"1.2.5.{exam}",
                ImagePositionPatient=[0.0, 0.0, 2.0 * index],
            )
            phantoms.write_dicom(folder / "raw" / f"{name_of(exam, index)}.dcm", dataset)
    labelled = [exam for exam in range(N_EXAMS) if exam != UNLABELLED]
    slices = [(exam, index) for exam in labelled for index in range(N_SLICES)]
    write_labels(
        folder / "raw" / "train.csv",
        PE,
        [name_of(*at) for at in slices],
        np.array([[float(is_positive(*at))] for at in slices]),
        study_ids=[study_of(exam) for exam in labelled],
        study_values=np.array([labels_of(exam) for exam in labelled]),
    )
    prepare(folder / "raw", folder / "store", task=PE, n_folds=3, n_jobs=1)
    return folder / "store"


def is_positive(exam: int, index: int) -> bool:
    return exam in POSITIVE and index in (3, 4)


def labels_of(exam: int) -> list[float]:
    holds = ("central_pe", "rv_lv_ratio_gte_1") if exam in POSITIVE else ("negative_exam_for_pe",)
    return [float(name in holds) for name in PE.series.names]


class Commands:
    """Runs commands in this process, and notes their steps."""

    def __init__(self) -> None:
        self.ran: list[str] = []

    def __call__(self, step: PlannedStep, command: Sequence[str]) -> int:
        self.ran.append(step.name)
        return main(list(command[1:]))


def pipeline_in(folder: Path, store: Path, *overrides: str) -> Pipeline:
    folders = Folders(raw=None, labels=None, store=store, out=folder)
    steps = plan_two_stage("full", load_two_stage("pe_demo", [*TINY, *overrides]), folders)
    return Pipeline(steps, folders, device="cpu")


def test_the_published_embolism_system_in_small(store: Path, tmp_path: Path) -> None:
    quirks = "two_stage.match_reference=true"
    commands = Commands()
    pipeline_in(tmp_path, store, quirks).run(PARTS, execute=commands, say=lambda line: None)
    assert len(commands.ran) == 10
    opened = Store.open(store, PE.name)
    made = [tmp_path / "embeddings" / f"none-fold0{which}-epoch1" for which in ("", "-beside0")]
    each = [Embeddings.open([folder], opened) for folder in made]
    rows = np.arange(len(opened))
    assert not np.array_equal(each[0].read(rows), each[1].read(rows))
    assert np.array_equal(Embeddings.open(made, opened).read(rows), np.hstack([one.read(rows) for one in each]))

    predicted = {
        which: tmp_path / "predictions" / f"none-fold0-epoch1{which}.csv.gz" for which in ("", "-series", "-both")
    }
    tables = {which: read_predictions(predictions_path(path), PE) for which, path in predicted.items()}
    series = {which: read_series(series_path(path), PE, tables[which]) for which, path in predicted.items()}
    assert np.array_equal(tables["-both"].probability, tables[""].probability)
    assert np.array_equal(series["-both"].probability, series["-series"].probability)
    assert not np.array_equal(tables[""].probability, tables["-series"].probability)
    submission = dict(rows_of(tmp_path / "submission.csv.gz"))
    assert list(submission)[: len(PE.series)] == [f"{study_of(UNLABELLED)}_{name}" for name in PE.series.names]
    assert set(list(submission)[len(PE.series) :]) == {name_of(UNLABELLED, index) for index in range(N_SLICES)}
    assert all(0 < value < 1 for value in submission.values())

    for gone in ("predictions/none-fold0-epoch1-both.csv.gz", "submission.csv.gz"):
        (tmp_path / gone).unlink()
    again = Commands()
    pipeline_in(tmp_path, store, quirks).run(PARTS, execute=again, say=lambda line: None)
    assert again.ran == ["predictions/none-fold0-epoch1-both", "submission"]
    assert dict(rows_of(tmp_path / "submission.csv.gz")) == submission


def rows_of(path: Path) -> list[tuple[str, float]]:
    with gzip.open(path, "rt", newline="") as file:
        reader = csv.reader(file)
        assert next(reader) == ["id", "label"]
        return [(name, float(value)) for name, value in reader]


def test_its_dry_run_counts_features_of_both_classifiers(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [word for setting in TINY for word in ("--set", setting)]
    words = ["pipeline", "full", "--data", str(store), "--out", str(tmp_path / "out"), "--recipe", "pe_demo", *settings]
    assert main([*words, "--dry-run", "--no-probe", "--device", "cpu"]) == 0
    shown = capsys.readouterr().out
    assert "to be run: 10 of 10 steps" in shown
    n_slices = {line.split()[0]: line.split()[3] for line in shown.splitlines() if line.startswith(("images/", "seq"))}
    # two exams of three folds are held out, one of them positive: 4 positive slices of 32 are left
    assert n_slices == {"images/none-fold0": "8", "images/none-fold0-beside0": "8", "sequences/none-fold0-epoch1": "32"}
    assert f"data: {N_EXAMS * N_SLICES} slices in {N_EXAMS} series; {N_SLICES} in split test: to predict" in shown
