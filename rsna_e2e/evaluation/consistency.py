"""Whether predictions and truth obey the task's tree of labels, and what making them obey it does to the score."""

import numpy as np

from rsna_e2e.evaluation.cells import Cells, losses
from rsna_e2e.evaluation.comparisons import Consistency
from rsna_e2e.evaluation.inputs import Inputs
from rsna_e2e.evaluation.resamples import Resamples
from rsna_e2e.tasks.metrics import Estimate, Int64Array
from rsna_e2e.tasks.rules import project, violations
from rsna_e2e.tasks.task import Task


def judge_consistency(inputs: Inputs, by_study: Resamples) -> Consistency:
    """Count the studies that break the tree, and score predictions before and after they are projected onto it."""
    assert inputs.layout is not None
    task, study_of_slice = inputs.task, inputs.layout.series_of_slice
    before = inputs.raw or inputs.predicted
    slices, studies = project(before.slices, study_of_slice, before.studies, task)
    after = Cells(slices=slices, studies=studies)
    return Consistency(
        n_studies=len(before.studies),
        n_truth=_n_broken(inputs.truth, study_of_slice, task),
        n_before=_n_broken(before, study_of_slice, task),
        n_after=_n_broken(after, study_of_slice, task),
        before=_score(inputs, before, by_study),
        after=_score(inputs, after, by_study),
    )


def _n_broken(cells: Cells, study_of_slice_N: Int64Array, task: Task) -> int:
    return int(np.count_nonzero(violations(cells.slices, study_of_slice_N, cells.studies, task)))


def _score(inputs: Inputs, cells: Cells, by_study: Resamples) -> Estimate:
    assert inputs.layout is not None
    found = losses(inputs.task, inputs.truth, cells, inputs.layout.series_of_slice)
    return by_study.ratio(found.loss, found.weight)
