"""A run applied to DICOM files: what `rsna-e2e prepare` and `predict` give for the same files, and what was refused."""

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import phantoms
import pytest
import small

from rsna_e2e import open_run, predict_dicom
from rsna_e2e.cli import main
from rsna_e2e.core.errors import BadInputError
from rsna_e2e.inference.trained_model import TrainedModel
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.tasks.labels import read_labels
from rsna_e2e.training.train import train

SIDE = 32


@dataclass(frozen=True)
class Made:
    trained: TrainedModel
    run: Path
    raw: Path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A run, and a folder with two series that it has not seen, a file that is no DICOM file, and labels that do not
    belong to it: two files that prepare would not choose between."""
    folder = tmp_path_factory.mktemp("dicom")
    train(small.make_store(folder / "seen"), folder / "run", small.config())
    raw = folder / "raw"
    for series, n_slices in enumerate((4, 2)):
        for index in range(n_slices):
            phantoms.write_numbered(raw / f"{series}/IM{9 - index}.dcm", series=series, index=index, side=SIDE)
    (raw / "notes.txt").write_text("no image")
    for name in ("train_a.csv", "train_b.csv"):
        (raw / name).write_text("ID,Label\n")
    return Made(open_run(folder / "run", device="cpu"), folder / "run", raw)


def test_slices_are_in_geometric_order_with_their_places(made: Made) -> None:
    predicted = predict_dicom(made.trained, made.raw, n_jobs=1)
    table = predicted.table
    # File names run against the positions; IM9 and IM8 are there twice, so their folder is part of the image id.
    by_series: dict[str, list[str]] = {key: [] for key in table.series_keys}
    for key, image_id in zip(table.series_keys, table.image_ids, strict=True):
        by_series[key].append(image_id)
    assert sorted(by_series.values()) == [["0/IM9", "0/IM8", "IM7", "IM6"], ["1/IM9", "1/IM8"]]
    assert sorted(table.position_mm.tolist()) == [0, 0, 5, 5, 10, 15]
    assert table.slice_index.tolist() == [position / 5 for position in table.position_mm]
    assert predicted.label_names == predicted.series_label_names == ICH.slices.names
    assert table.probability.shape == (6, 6)


def test_what_was_not_read_is_named(made: Made) -> None:
    refused = {refusal.path: refusal.reason for refusal in predict_dicom(made.trained, made.raw, n_jobs=1).refusals}
    assert refused == {"notes.txt": "not_dicom"}


def test_probabilities_are_those_of_the_command_line(made: Made, tmp_path: Path) -> None:
    raw = shutil.copytree(made.raw, tmp_path / "raw", ignore=shutil.ignore_patterns("*.csv"))
    store, submission = tmp_path / "store", tmp_path / "submission.csv"
    assert main(["prepare", str(raw), str(store), "--jobs", "1"]) == 0
    assert main(["predict", str(made.run), str(store), "--out", str(submission), "--device", "cpu"]) == 0
    written = read_labels(submission, ICH)
    table = predict_dicom(made.trained, made.raw, n_jobs=1).table
    assert sorted(written.image_ids) == sorted(table.image_ids)
    rows = [table.image_ids.index(image_id) for image_id in written.image_ids]
    np.testing.assert_allclose(table.probability[rows], written.values, rtol=0, atol=1e-6)  # decimals of the file


def test_nothing_stays_in_the_temporary_folder(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    predict_dicom(made.trained, made.raw, n_jobs=1)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_a_slice_is_refused(made: Made, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(BadInputError, match=r"such as notes\.txt .* Give the folder or archive of DICOM files$"):
        predict_dicom(made.trained, tmp_path, n_jobs=1)
    with pytest.raises(BadInputError, match="no such"):
        predict_dicom(made.trained, tmp_path / "missing", n_jobs=1)
