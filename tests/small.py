"""A small prepared store whose labels can be seen in the pixels, and a configuration that learns it in seconds."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import phantoms

from rsna_e2e.config import RunConfig, SlicePhaseConfig, load_config
from rsna_e2e.store import Compression, Store
from rsna_e2e.store.prepare import prepare
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.tasks.labels import write_labels

LENGTHS = (5, 3, 1, 6, 4, 2)  # slices of the labelled series, one patient each
SIDE = 32


def write_raw(raw: Path, *, n_unlabelled: int = 1, sides: Sequence[int] = (SIDE,)) -> None:
    """Write labelled series and `n_unlabelled` more of 4 slices; a label is a bright patch at its own place.

    sides: of the images in pixels, taken in turn by series; what is beyond `SIDE` is air.
    """
    ids: list[str] = []
    labels: list[np.ndarray] = []
    for series, length in enumerate((*LENGTHS, *[4] * n_unlabelled)):
        rng = np.random.default_rng(series)
        for index in range(length):
            values = np.append(rng.integers(0, 2, 5), 0)
            values[ICH.headline_index] = values.max()
            image_id = f"ID_{series:02d}{index:02d}"
            dataset = phantoms.slice_dataset(
                _in_air(_patches(rng, values), sides[series % len(sides)]),
                SOPInstanceUID=f"1.2.3.{series}.{index}",
                PatientID=f"ID_p{series}",
                StudyInstanceUID=f"1.2.4.{series}",
                SeriesInstanceUID=f"1.2.5.{series}",
                ImagePositionPatient=[-125.0, -125.0, 5.0 * index],
            )
            phantoms.write_dicom(raw / f"{image_id}.dcm", dataset)
            if series < len(LENGTHS):
                ids.append(image_id)
                labels.append(values.astype(np.float64))
    write_labels(raw / "stage_2_train.csv", ICH, ids, np.stack(labels))


def make_store_of(folder: Path, series: Sequence[Sequence[np.ndarray]]) -> Store:
    """Write and prepare series of these slices [H, W] int16 HU, one patient each; image ids count series and slices."""
    ids: list[str] = []
    for number, slices in enumerate(series):
        for index, hu in enumerate(slices):
            ids.append(f"ID_{number:02d}{index:02d}")
            dataset = phantoms.slice_dataset(
                hu.astype("<i2"),
                SOPInstanceUID=f"1.2.3.{number}.{index}",
                PatientID=f"ID_p{number}",
                StudyInstanceUID=f"1.2.4.{number}",
                SeriesInstanceUID=f"1.2.5.{number}",
                ImagePositionPatient=[-125.0, -125.0, 5.0 * index],
            )
            phantoms.write_dicom(folder / "raw" / f"{ids[-1]}.dcm", dataset)
    write_labels(folder / "raw" / "stage_2_train.csv", ICH, ids, np.zeros((len(ids), len(ICH.slices.names))))
    prepare(folder / "raw", folder / "store", task=ICH, n_folds=2, n_jobs=1)
    return Store.open(folder / "store")


def make_store(folder: Path, *, sides: Sequence[int] = (SIDE,), compression: Compression = "none") -> Store:
    """Write and prepare the series below `folder`; three folds."""
    write_raw(folder / "raw", sides=sides)
    prepare(folder / "raw", folder / "store", task=ICH, n_folds=3, n_jobs=1, compression=compression)
    return Store.open(folder / "store")


def config(*overrides: str) -> RunConfig:
    """The demo recipe with a tiny backbone on 32 px, and `overrides`."""
    return load_config(
        "demo",
        [
            "model.backbone=test_resnet",
            "model.backbone_arguments={}",
            "model.embedding_width=16",
            "slice_phase=null",
            f"image.size={SIDE}",
            "image.supersample=1",
            "loader.slices_per_batch=8",
            "precision=fp32",
            "model.batchnorm=frozen",  # a series of one slice of 32 px is one value a channel in the end
            "augment.affine_probability=0.3",  # of the published solution, as are the next two
            "augment.shift_limit=0.05",
            "augment.scale_limit=0.05",
            "epochs=1",
            *overrides,
        ],
    )


def slice_phase(**changes: object) -> SlicePhaseConfig:
    """A phase on single slices, four at a time, with `changes`."""
    plain = {"epochs": 1, "slices_per_batch": 4, "optimizer": {"learning_rate": 0.01}}
    return SlicePhaseConfig.model_validate(plain | changes)


def image_config(*overrides: str, epochs: int = 2) -> RunConfig:
    """The tiny backbone and a slice classifier, trained on single slices alone; the end of every epoch is kept."""
    phase = f"{{epochs: {epochs}, slices_per_batch: 4, optimizer: {{learning_rate: 0.01}}}}"
    alone = ("model.head=none", "model.slice_loss_weight=1.0", f"slice_phase={phase}", "epochs=0")
    return config(*alone, "checkpoint.keep_epochs=true", "checkpoint.keep_last=1", *overrides)


def _patches(rng: np.random.Generator, values: np.ndarray) -> np.ndarray:
    hu = rng.integers(20, 40, size=(SIDE, SIDE)).astype("<i2")
    for label, value in enumerate(values[:5]):
        if value:
            row, column = divmod(label, 3)
            hu[2 + 10 * row : 8 + 10 * row, 2 + 10 * column : 8 + 10 * column] = 75
    return hu


def _in_air(hu: np.ndarray, side: int) -> np.ndarray:
    return np.pad(hu, (0, side - SIDE), constant_values=-1000)
