"""How many slices a plan works on: counted in a store or among raw files, or given, of data that are not here."""

from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from rsna_e2e.config import FoldRule, RunConfig, resolve_task
from rsna_e2e.core.errors import BadInputError, UsageError
from rsna_e2e.core.records import N_FOLDS
from rsna_e2e.core.table_files import table_at
from rsna_e2e.loader.holdout import filtered, hold_out
from rsna_e2e.store import Store, is_store, rows_of
from rsna_e2e.store.prepare import count_raw
from rsna_e2e.training.pipeline.planned_step import Folders, PlannedStep

HELD_OUT = 1 / N_FOLDS  # of the labelled slices, before folds are assigned
SLICES_PER_SERIES = 34.6  # of RSNA ICH 2019: 752,803 slices in 21,744 series


_Kind = tuple[int | None, FoldRule, bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSize:
    """Slices in all, those of them in split test, which are predicted, and series, where they are counted.

    is_estimate: whether n_test was estimated from some of the files. training: of a store, the slices of an epoch of a
    run, by `_kind_of` the run.
    """

    n_slices: int
    n_test: int
    n_series: int | None
    is_estimate: bool = False
    training: dict[_Kind, int] = field(default_factory=dict)

    @property
    def slices_per_series(self) -> float:
        """Mean length of a series, or that of RSNA ICH 2019."""
        return self.n_slices / self.n_series if self.n_series else SLICES_PER_SERIES

    def of(self, step: PlannedStep) -> int:
        """Slices of one pass of a step."""
        match step.verb:
            case "train":
                assert step.settings is not None
                return self._to_train_on(step.settings)
            case "predict" | "merge" | "bag":
                return self.n_test
        return self.n_slices

    def _to_train_on(self, config: RunConfig) -> int:
        known = self.training.get(_kind_of(config))
        if known is not None:
            return known
        share = 1.0 if config.validation_fold is None else 1.0 - HELD_OUT
        return round(share * (self.n_slices - self.n_test))


def measure_data(folders: Folders, runs: list[RunConfig]) -> DataSize:
    """Return the size of the data of a plan, whose trainings are `runs`: of its store, or else of the raw files.

    Raises BadInputError when there are no files, or store or labels cannot be read; UsageError when there are no
    labels, or no series is left for a run.
    """
    if is_store(folders.store):
        with closing(Store.open(folders.store, runs[0].task.name)) as store:
            return _of_store(store, runs)
    assert folders.raw is not None
    labels = table_at(folders.labels, dict(folders.columns)) if isinstance(folders.labels, Path) else folders.labels
    raw = count_raw(folders.raw, task=resolve_task(runs[0]), labels=labels)
    if raw.n_files == 0:
        raise BadInputError(f"{folders.raw}: holds no files. Give the folder or archive of DICOM files")
    if not raw.tables:
        raise UsageError(
            f"{folders.raw}: no label file in it or beside it (a CSV with 'train' in its name). Give one with --labels"
        )
    if not raw.n_labelled:
        raise UsageError(
            f"{', '.join(raw.tables)}: names none of the images in {folders.raw}, so there is nothing to train on. "
            "Give their labels with --labels"
        )
    n_test = raw.n_files - raw.n_labelled
    return DataSize(n_slices=raw.n_files, n_test=n_test, n_series=None, is_estimate=raw.is_estimate)


def _of_store(store: Store, runs: list[RunConfig]) -> DataSize:
    training: dict[_Kind, int] = {}
    for run in runs:
        rows = rows_of([store.series[position] for position in hold_out(store, run)[0]])
        rows = filtered(store, run, rows) if run.epochs == 0 else rows
        kind = *_, is_balanced = _kind_of(run)
        n_positive = int(np.count_nonzero(store.labels[rows, run.task.headline_index] == 1))
        training[kind] = 2 * n_positive if is_balanced else len(rows)
    return DataSize(
        n_slices=len(store),
        n_test=sum(series.n_slices for series in store.series if series.split == "test"),
        n_series=len(store.series),
        training=training,
    )


def _kind_of(run: RunConfig) -> _Kind:
    """The fold that a run holds out, the rule of folds, and whether it sees as many negative as positive slices."""
    is_balanced = run.slice_phase is not None and run.slice_phase.sampling != "all" and run.epochs == 0
    return run.validation_fold, run.folds, is_balanced
