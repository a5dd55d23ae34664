"""Evaluation: scores a submission against the truth, level by level, with bootstrap intervals."""

# N slices, S series, L labels, B resamples

import math
from pathlib import Path

import numpy as np

from rsna_e2e.core.table_files import TableFile
from rsna_e2e.evaluation.cells import best_constants, losses
from rsna_e2e.evaluation.comparisons import Floor
from rsna_e2e.evaluation.consistency import judge_consistency
from rsna_e2e.evaluation.inputs import Inputs, SeriesSource, read_inputs
from rsna_e2e.evaluation.levels import Level, score_level
from rsna_e2e.evaluation.resamples import Resamples
from rsna_e2e.evaluation.scores import Evaluation, SeriesLayout, Unit
from rsna_e2e.store import Store
from rsna_e2e.tasks import metrics
from rsna_e2e.tasks.task import Task

# The ends of a 95 % interval are then the 50th numbers from either side, which vary little from seed to seed: B. Efron
# and R. J. Tibshirani, An Introduction to the Bootstrap, 1993, chapter 14, ask for 1,000 or more.
N_BOOTSTRAP = 2000


def evaluate(
    submission: Path,
    truth: Path | TableFile,
    *,
    task: Task,
    predictions: Path | None = None,
    series_map: Path | None = None,
    store: Store | None = None,
    allow_missing: bool = False,
    n_bootstrap: int = N_BOOTSTRAP,
    seed: int = 0,
) -> Evaluation:
    """Score `submission` against `truth`, two label files of the same images; labels that one lacks are left out.

    predictions, series_map, store: which series slices belong to, see `SeriesSource`. Where that is known, a series is
    positive when any of its slices is, and its probability is the highest of its slices; where a series table stands
    beside the submission, the probabilities of the series head are scored as well; and intervals come from
    `n_bootstrap` resamples of whole series, with a store of whole patients. A task whose series have labels of their
    own is scored by study instead, which has to be known. allow_missing: leave out images that are in one
    of the files alone. Raises BadInputError when there are such images otherwise, or a file is not as it should be.
    """
    source = SeriesSource(series_map=series_map, predictions=predictions, store=store)
    inputs = read_inputs(submission, truth, task, source, allow_missing=allow_missing)
    return _score(inputs, n_bootstrap=n_bootstrap, seed=seed)


def _score(inputs: Inputs, *, n_bootstrap: int, seed: int) -> Evaluation:
    task, layout = inputs.task, inputs.layout
    has_studies = task.series_truth == "own"
    by_slice, by_unit = _resamples(inputs, n_bootstrap=n_bootstrap, seed=seed)
    study_of_slice = layout.series_of_slice if has_studies and layout else np.zeros(0, dtype=np.int64)
    constant = best_constants(task, inputs.truth, study_of_slice)
    found, at_best = (losses(task, inputs.truth, cells, study_of_slice) for cells in (inputs.predicted, constant))
    by_loss = by_unit if task.score == "study_log_loss" else by_slice
    series, series_head = (None, None) if has_studies or not layout else _score_series(inputs, layout, by_unit)
    slices = score_level(task.slices.names, inputs.truth.slices, inputs.predicted.slices, by_slice)
    area = slices.scores[task.headline_index].auc.value
    return Evaluation(
        task=task,
        files=inputs.files,
        n_repeated_truth_rows=inputs.n_repeated_truth_rows,
        left_out=inputs.left_out,
        image_ids=inputs.image_ids,
        weighted_log_loss=by_loss.ratio(found.loss, found.weight),
        constant_weighted_log_loss=at_best.score,
        ratio_to_constant=by_loss.ratio(found.loss, at_best.loss),
        slices=slices,
        series=series,
        series_head=series_head,
        studies=score_level(task.series.names, inputs.truth.studies, inputs.predicted.studies, by_unit)
        if has_studies
        else None,
        consistency=judge_consistency(inputs, by_unit) if task.series.tree else None,
        layout=layout,
        resampled=_unit(inputs),
        by_unit=by_unit,
        n_bootstrap=n_bootstrap,
        seed=seed,
        floors=(Floor(name="constant", weighted_log_loss=at_best.score, auc=area if math.isnan(area) else 0.5),),
    )


def _unit(inputs: Inputs) -> Unit | None:
    """Return what is resampled: patients where they are known, else series, or studies with labels of their own."""
    if inputs.layout is None:
        return None
    if inputs.patients:
        return "patient"
    return "series" if inputs.task.series_truth == "any_slice" else "study"


def _resamples(inputs: Inputs, *, n_bootstrap: int, seed: int) -> tuple[Resamples, Resamples]:
    """Return resamples of the slices, and the same of the series or studies of the layout."""
    layout = inputs.layout
    if layout is None:
        return Resamples.none(len(inputs.image_ids)), Resamples.none(0)
    clusters = np.arange(len(layout.series_keys))
    if inputs.patients:
        clusters = np.unique(inputs.patients, return_inverse=True)[1].astype(np.int64)
    by_slice = Resamples.draw(clusters[layout.series_of_slice], n_resamples=n_bootstrap, seed=seed)
    return by_slice, by_slice.of(clusters if len(by_slice.draws) else np.zeros_like(clusters))


def _score_series(inputs: Inputs, layout: SeriesLayout, by_series: Resamples) -> tuple[Level | None, Level | None]:
    """Return the scores of series by their highest slice, if any has several: others would be those of slices once
    more. And those by the series head where there is one."""
    names, n_series = inputs.task.slices.names, len(layout.series_keys)
    truth_SL, highest_SL = (
        metrics.group_max(part.slices, layout.series_of_slice, n_series) for part in (inputs.truth, inputs.predicted)
    )
    highest = None if n_series == len(inputs.image_ids) else score_level(names, truth_SL, highest_SL, by_series)
    if inputs.series_head is None:
        return highest, None
    return highest, score_level(names, truth_SL, inputs.series_head, by_series)
