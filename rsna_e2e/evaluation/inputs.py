"""Inputs of an evaluation: submission, truth, and which series the slices belong to, read and checked together."""

# N slices, S series, L labels, E studies, M their labels

from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from rsna_e2e.core.errors import BadInputError
from rsna_e2e.core.records import Float64Array
from rsna_e2e.core.table_files import TableFile, table_at
from rsna_e2e.evaluation.cells import Cells
from rsna_e2e.evaluation.pairing import Pair, pair_slices, pair_studies
from rsna_e2e.evaluation.scores import InputFile, LeftOut, SeriesLayout
from rsna_e2e.evaluation.series_layout import head_by_layout, layout_by_map, layout_by_store, layout_by_table
from rsna_e2e.evaluation.study_inputs import match_studies, patients_of, study_of_series
from rsna_e2e.evaluation.tables import Tables, find_tables
from rsna_e2e.store import Store
from rsna_e2e.tasks.labels import read_labels
from rsna_e2e.tasks.task import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What is scored, and the series it is in.

    task: with the labels that are scored alone. files: by role, submission and truth, and series_table or series_map
    where there is one. image_ids: sorted, in step with the slices of truth and predicted. layout: of the series, or of
    the studies where these have labels of their own; None where it is not known which series slices belong to.
    series_head [S, L]: probabilities by the series head, in the order of the layout's series; None without a series
    table. raw: what was predicted before it was made to obey the task's tree. patients: of each series or study of
    the layout, where a store says it.
    """

    task: Task
    files: dict[str, InputFile]
    n_repeated_truth_rows: int
    left_out: LeftOut
    image_ids: list[str]
    truth: Cells
    predicted: Cells
    layout: SeriesLayout | None
    series_head: Float64Array | None = None
    raw: Cells | None = None
    patients: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesSource:
    """Where to look up which series slices belong to, the first of these that there is: a CSV with the columns ID and
    series; the predictions table of the submission, by default the one beside it; a store."""

    series_map: Path | None = None
    predictions: Path | None = None
    store: Store | None = None


def read_inputs(
    submission: Path, truth: Path | TableFile, task: Task, source: SeriesSource, *, allow_missing: bool = False
) -> Inputs:
    """Read a submission, the truth, and which series the slices belong to.

    allow_missing: images and studies that are in one of the files alone are left out. Raises BadInputError when there
    are such otherwise, where the score needs the studies of slices and nothing says them, and for a file that is not as
    it should be.
    """
    submission_file, truth_file = table_at(submission), truth if isinstance(truth, TableFile) else table_at(truth)
    truth_table, submission_table = read_labels(truth_file, task), read_labels(submission_file, task)
    both = (submission_file, submission_table), (truth_file, truth_table)
    pair = pair_slices(*both, task, allow_missing=allow_missing)
    tables = None
    if source.series_map is None:
        tables = find_tables(submission, submission_table, source.predictions, task)
    inputs = Inputs(
        task=task.only(pair.names),
        files={
            "submission": InputFile(name=submission.name, sha256=submission_file.sha256()),
            **truth_files(truth_file),
        },
        n_repeated_truth_rows=truth_table.n_repeated_rows,
        left_out=LeftOut(
            labels=tuple(name for name in task.slices.names if name not in pair.names),
            n_not_predicted=len(pair.not_predicted),
            n_without_truth=len(pair.without_truth),
        ),
        image_ids=pair.ids,
        truth=Cells(slices=pair.truth, studies=np.zeros((0, 0))),
        predicted=Cells(slices=pair.probability, studies=np.zeros((0, 0))),
        layout=None,
    )
    inputs = _with_layout(inputs, tables, source)
    if task.series_truth == "any_slice":
        return _with_series_head(_with_patients(inputs, source.store), tables, task)
    study_pair = pair_studies(*both, task, allow_missing=allow_missing)
    return _with_studies(inputs, study_pair, tables, source, task, allow_missing=allow_missing)


def truth_files(truth: TableFile) -> dict[str, InputFile]:
    """Return the truth by its role, and the table that is joined to it, if any."""
    roles = {"truth": truth} | ({"further_truth": truth.also} if truth.also else {})
    return {role: InputFile(name=Path(file.name).name, sha256=file.sha256()) for role, file in roles.items()}


def _with_layout(inputs: Inputs, tables: Tables | None, source: SeriesSource) -> Inputs:
    """Add the series of the slices, and the files that say them."""
    files, layout = dict(inputs.files), None
    if source.series_map is not None:
        map_file = table_at(source.series_map)
        layout = layout_by_map(map_file, inputs.image_ids, of_studies=inputs.task.series_truth == "own")
        files["series_map"] = InputFile(name=source.series_map.name, sha256=map_file.sha256())
    elif tables is not None:
        layout = layout_by_table(tables.predictions, inputs.image_ids)
        if tables.series_file is not None:
            files["series_table"] = tables.series_file
    elif source.store is not None:
        layout = layout_by_store(source.store, inputs.image_ids)
    return replace(inputs, files=files, layout=layout)


def _with_patients(inputs: Inputs, store: Store | None) -> Inputs:
    """Add the patients of series, by a store; one that lacks images, where tables say the series, says none."""
    if store is None or inputs.layout is None:
        return inputs
    with suppress(BadInputError):
        return replace(inputs, patients=patients_of(store, inputs.image_ids, inputs.layout))
    return inputs


def _with_series_head(inputs: Inputs, tables: Tables | None, task: Task) -> Inputs:
    """Add what the series head says of the labels that are scored."""
    if tables is None or tables.series is None or inputs.layout is None:
        return inputs
    columns = [task.slices.index(name) for name in inputs.task.slices.names]
    return replace(inputs, series_head=head_by_layout(tables.series, inputs.layout)[:, columns])


def _with_studies(
    inputs: Inputs,
    pair: Pair,
    tables: Tables | None,
    source: SeriesSource,
    task: Task,
    *,
    allow_missing: bool,
) -> Inputs:
    """Add the labels of studies, and keep the slices of these alone."""
    study_of = study_of_series(tables, source.store)
    if source.series_map is not None and inputs.layout is not None:
        study_of = {key: key for key in inputs.layout.series_keys}
    if inputs.layout is None or study_of is None:
        raise BadInputError(
            f"{inputs.files['submission'].name}: the score of the task {task.name} needs the study of each image. Give "
            "--store STORE, or --series CSV with the columns SOPInstanceUID and StudyInstanceUID, as labels may have"
        )
    studies = match_studies(inputs.files["truth"].name, pair, inputs.layout, study_of, allow_missing=allow_missing)
    image_ids = [image_id for image_id, is_kept in zip(inputs.image_ids, studies.is_kept, strict=True) if is_kept]
    scored, raw = _only_studies(inputs.task, studies.pair.names), None
    if tables is not None and tables.raw is not None:
        raw = tables.raw.only(image_ids, scored.slices, studies.pair.ids, scored.series)
    patients = [] if source.store is None else patients_of(source.store, image_ids, studies.layout)
    return replace(
        inputs,
        task=scored,
        left_out=replace(
            inputs.left_out,
            labels=(*inputs.left_out.labels, *(name for name in task.series.names if name not in pair.names)),
            n_studies=studies.n_left_out,
        ),
        image_ids=image_ids,
        truth=Cells(slices=inputs.truth.slices[studies.is_kept], studies=studies.pair.truth),
        predicted=Cells(slices=inputs.predicted.slices[studies.is_kept], studies=studies.pair.probability),
        layout=studies.layout,
        raw=raw,
        patients=patients,
    )


def _only_studies(task: Task, names: tuple[str, ...]) -> Task:
    """Return the task with these labels of studies alone; with fewer than all, no tree says what its states are."""
    series = task.series.only(names)
    return replace(task, series=series, state_of_slices=task.state_of_slices if series.tree else "")
