"""Made-up predictions of a task whose studies have labels of their own. Nothing here is a result."""

import csv
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from rsna_e2e.core.records import Float64Array
from rsna_e2e.evaluation.baselines import HEADER
from rsna_e2e.inference.predictions import (
    PredictionTable,
    SeriesTable,
    predictions_path,
    series_path,
    write_predictions,
    write_series,
)
from rsna_e2e.store import SeriesSpan
from rsna_e2e.tasks.pe import PE
from rsna_e2e.tasks.rules import project

NAMES = PE.series.names


@dataclass(frozen=True)
class MadeUpStudies:
    """Files of one made-up prediction, and what is in them; slices lie study after study, in order.

    series: of each slice; a study may have several.
    """

    folder: Path
    image_ids: list[str]
    study_ids: list[str]
    series: np.ndarray
    study_of_slice: np.ndarray
    truth: Float64Array
    probability: Float64Array
    study_truth: Float64Array
    study_probability: Float64Array

    @property
    def submission(self) -> Path:
        """Where it is written."""
        return self.folder / "submission.csv"

    @property
    def truth_file(self) -> Path:
        """Where it is written."""
        return self.folder / "truth.csv"

    def write(self, slices: Float64Array | None = None, studies: Float64Array | None = None) -> None:
        """Write submission, truth and a map of images; of the submission, other probabilities where they are given."""
        slices = self.probability if slices is None else slices
        studies = self.study_probability if studies is None else studies
        write_rows(self.submission, self.rows(slices, studies))
        write_rows(self.truth_file, self.rows(self.truth, self.study_truth))
        pairs = zip(self.image_ids, self.study_of_slice.tolist(), strict=True)
        lines = ["ID,series", *(f"{image},{self.study_ids[study]}" for image, study in pairs)]
        self.map.write_text("\n".join(lines))

    @property
    def map(self) -> Path:
        """Where the study of each image is written."""
        return self.folder / "map.csv"

    def rows(self, slices: Float64Array, studies: Float64Array) -> list[tuple[str, float]]:
        """Rows of a file in the task's form; what is NaN is left out."""
        of_studies = [
            (f"{study}_{name}", value)
            for study, values in zip(self.study_ids, studies.tolist(), strict=True)
            for name, value in zip(NAMES, values, strict=True)
        ]
        of_slices = zip(self.image_ids, slices[:, 0].tolist(), strict=True)
        return [row for row in (*of_studies, *of_slices) if not np.isnan(row[1])]

    def write_tables(self) -> None:
        """Write the tables that stand beside the submission."""
        first = np.unique(self.series, return_index=True)[1]
        places = np.concatenate([np.arange(n) for n in np.bincount(self.series)])
        table = PredictionTable(
            image_ids=self.image_ids,
            series_keys=[f"series{number}" for number in self.series],
            slice_index=places,
            position_mm=2.0 * places,
            probability=self.probability,
        )
        write_predictions(predictions_path(self.submission), PE, table)
        of_series = SeriesTable(
            series_keys=[f"series{number}" for number in range(len(first))],
            n_slices=np.bincount(self.series),
            probability=self.study_probability[self.study_of_slice[first]],
            study_uids=[self.study_ids[study] for study in self.study_of_slice[first]],
        )
        write_series(series_path(self.submission), PE, of_series)

    def projected(self) -> tuple[Float64Array, Float64Array]:
        """The probabilities once they obey the task's tree."""
        return project(self.probability, self.study_of_slice, self.study_probability, PE)

    def store(self, patient_of_study: list[int] | None = None) -> SimpleNamespace:
        """What evaluate asks of a store that holds these images."""
        patients = patient_of_study or list(range(len(self.study_ids)))
        places = np.concatenate([np.arange(n) for n in np.bincount(self.series)])
        index = {
            "image_id": np.array(self.image_ids, dtype=object),
            "series_key": np.array([f"series{number}" for number in self.series], dtype=object),
            "study_uid": np.array([self.study_ids[study] for study in self.study_of_slice], dtype=object),
            "patient_id": np.array([f"patient{patients[study]}" for study in self.study_of_slice], dtype=object),
            "slice_index": places.astype(np.int32),
            "position_mm": 2.0 * places,
        }
        return SimpleNamespace(path=Path("store"), index=index)

    def whole_store(self, *, n_scored: int) -> "MadeUpStore":
        """A store of which these studies are the first of split "test", and the others that of training."""
        found = self.store()
        n = len(self.image_ids)
        lengths = np.bincount(self.series)
        starts = np.cumsum(lengths) - lengths
        spans = [
            SeriesSpan(
                series_key=f"series{number}",
                patient_id=f"patient{number}",
                study_uid=self.study_ids[number],
                series_uid=f"series{number}",
                first_row=int(starts[number]),
                n_slices=int(lengths[number]),
                split="test" if number < n_scored else "train",
                fold=-1,
            )
            for number in range(len(lengths))
        ]
        header = {name: np.full(n, 1.0) for name in HEADER}
        return MadeUpStore(
            path=found.path,
            index=found.index | header,
            series=spans,
            label_names=PE.slices.names,
            labels=self.truth.astype(np.float32),
            series_label_names=PE.series.names,
            series_labels=self.study_truth.astype(np.float32),
            note_names=PE.series.notes,
            series_notes=np.full((len(lengths), len(PE.series.notes)), np.nan, dtype=np.float32),
        )

    def first(self, n: int) -> "MadeUpStudies":
        """The first studies alone, of which each is one series."""
        is_kept = self.study_of_slice < n
        return replace(
            self,
            image_ids=[image for image, kept in zip(self.image_ids, is_kept, strict=True) if kept],
            study_ids=self.study_ids[:n],
            series=self.series[is_kept],
            study_of_slice=self.study_of_slice[is_kept],
            truth=self.truth[is_kept],
            probability=self.probability[is_kept],
            study_truth=self.study_truth[:n],
            study_probability=self.study_probability[:n],
        )


@dataclass(frozen=True, kw_only=True)
class MadeUpStore:
    """What floors and parts ask of a store."""

    path: Path
    index: dict[str, np.ndarray]
    series: list[SeriesSpan]
    label_names: tuple[str, ...]
    labels: np.ndarray
    series_label_names: tuple[str, ...]
    series_labels: np.ndarray
    note_names: tuple[str, ...]
    series_notes: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


def write_rows(path: Path, rows: Iterable[tuple[str, float]]) -> None:
    """Write a file of ids and values."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "label"])
        writer.writerows((name, repr(value)) for name, value in rows)


def made_up_studies(folder: Path, *, n_studies: int, seed: int, skill: float = 2.0) -> MadeUpStudies:
    """Write submission, truth and a map of `n_studies` studies, half of them positive; their truth obeys the tree."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(20, 40, n_studies)
    study_of_slice = np.repeat(np.arange(n_studies), lengths)
    truth = np.zeros((len(study_of_slice), 1))
    study_truth = np.zeros((n_studies, len(NAMES)))
    for study in range(n_studies):
        labels = ["negative_exam_for_pe"] if study % 5 else ["indeterminate"]
        if study % 2:
            labels = [rng.choice(["rv_lv_ratio_gte_1", "rv_lv_ratio_lt_1"])]
            labels += [name for name in ("central_pe", "leftsided_pe") if rng.random() < 0.4] or ["rightsided_pe"]
            labels += [name for name in ("chronic_pe", "acute_and_chronic_pe") if rng.random() < 0.2][:1]
            start = int(rng.integers(3, 10))
            truth[np.flatnonzero(study_of_slice == study)[start : start + int(rng.integers(3, 9))]] = 1
        study_truth[study, [NAMES.index(name) for name in labels]] = 1

    def guess(values: Float64Array, base: float) -> Float64Array:
        logits = base + skill * 2 * values + rng.normal(size=values.shape)
        return np.round(1 / (1 + np.exp(-logits)), 6)

    made = MadeUpStudies(
        folder=folder,
        image_ids=[f"1.2.{study}.{row}" for row, study in enumerate(study_of_slice)],
        study_ids=[f"9.{study}" for study in range(n_studies)],
        series=study_of_slice,
        study_of_slice=study_of_slice,
        truth=truth,
        probability=guess(truth, -2.5),
        study_truth=study_truth,
        study_probability=guess(study_truth, -1.5),
    )
    made.write()
    return made
