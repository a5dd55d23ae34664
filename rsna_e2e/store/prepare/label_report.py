"""What is counted of a store and its labels, and the report of labels that were added."""

# N slices, L labels

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rsna_e2e.core.records import ID_RULES, Column, IdRule, Rows
from rsna_e2e.dicom.repairs import Repair, mark_repaired
from rsna_e2e.store.label_runs import OrderCheck, check_order
from rsna_e2e.store.prepare.division import HELD_OUT
from rsna_e2e.store.prepare.find_labels import FoundLabels
from rsna_e2e.store.prepare.sets import Joined
from rsna_e2e.tasks.boxes import known_boxes
from rsna_e2e.tasks.label_counts import LabelCounts, count_labels, warnings_of_levels
from rsna_e2e.tasks.rules import violations
from rsna_e2e.tasks.task import Task

_BROKEN = "series that break the rules"
CHECK_ORDER = "Check that ImagePositionPatient and the labels belong to these images"


@dataclass(frozen=True, slots=True, kw_only=True)
class IdReport:
    """What image ids are. n_labelled: images that labels name; n_matching: those of them that are in the store."""

    rule: IdRule
    n_labelled: int
    n_matching: int

    def __str__(self) -> str:
        of_labels = f" ({self.n_matching:,} of {self.n_labelled:,} in the labels match an image)"
        return ID_RULES[self.rule] + of_labels * (self.n_labelled > 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelFacts:
    """What is counted of a store and its labels.

    n_studies_as_patients: studies that name no patient, each of which counts as one. n_unlabelled: slices in the store
    without a label. held_out: patients, series and slices with labels in split "test", and positive slices among them.
    n_labels_without_image: labelled images that are not in the store. n_ambiguous_labels: those among them that are
    the name of several images, which stay without labels. slice_order: whether the labels agree with the order of the
    slices. label_file: where the labels are from; image_ids: what the IDs in it and the image ids of the labels are,
    and how many of the labelled images are there; label_columns: of a wide table, the columns that were read, with the
    names of what they hold; unused_columns: its others. positive_slices: how many, of how many with a label, by label;
    positive_series: the same of labels that series have of their own. studies: of such a task, how many have labels of
    studies and how many have none, have several series, or are not in the store though the label file has them; and
    series whose labels break the rules of the task, which stay as they are. boxes: of a task with boxes, how many there
    are, on how many slices, and how many slices are known to have none.
    """

    store: Path
    data_hash: str
    n_patients: int
    n_studies_as_patients: int
    n_series: int
    n_slices: int
    n_unlabelled: int
    held_out: dict[str, int]
    n_labels_without_image: int
    n_ambiguous_labels: int
    n_repeated_label_rows: int
    label_file: str
    image_ids: IdReport
    label_columns: tuple[str, ...]
    unused_columns: tuple[str, ...]
    positive_slices: LabelCounts
    positive_series: LabelCounts
    studies: dict[str, int]
    boxes: dict[str, int]
    slice_order: OrderCheck

    @property
    def order_advice(self) -> str:
        """What to do where positive slices are scattered."""
        return CHECK_ORDER

    def label_warnings(self, task: str) -> list[str]:
        """Return what is wrong with the labels, or cannot be learned from them, in words. task: what --task names."""
        counts = self.positive_slices
        way_out = (
            "They are stored as they are. Correct them, and replace them: rsna-e2e label STORE LABELS "
            f"--task {task} --replace"
        )
        said = warnings_of_levels(counts, self.positive_series, "the store")
        unknown = (*counts.unknown, *self.positive_series.unknown)
        if unknown and self.unused_columns:
            said[0] += (
                f". Columns of the table that were not used: {', '.join(self.unused_columns)}. If one holds a "
                f"label: --columns {unknown[0]}=COLUMN"
            )
        if counts.n_contradictory:
            said.append(
                f"labels contradict each other in {counts.n_contradictory} of the slices: {counts.any_name} is 0 and "
                f"another label is not. {way_out}"
            )
        if n := self.studies.get(_BROKEN):
            said.append(
                f"the labels of {n} series break the rules of the task, among each other or with their slices "
                f"(docs/labels.md). {way_out}"
            )
        if self.n_ambiguous_labels:
            said.append(
                f"{self.n_ambiguous_labels} labels are the name of several images each, which stay without labels. "
                "Give paths as IDs, or SOP Instance UIDs"
            )
        return said


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelReport(LabelFacts):
    """Summary of labels that were added to a store. balanced: slices with and without the label that they were cut to
    equally many by, and what was left out; brain_share: quartiles, where it was measured. folds_of: the label set whose
    patients kept their folds."""

    balanced: dict[str, int] = field(default_factory=dict)
    brain_share: dict[str, float] = field(default_factory=dict)
    folds_of: str
    elapsed_s: float


def describe_labels(
    index: Mapping[str, Column], joined: Joined, fold_N: Rows, found: FoundLabels, task: Task
) -> dict[str, Any]:
    """Return the fields of `LabelFacts`, but for the store's."""
    table, labels_NL = found.table, joined.labels
    ids = IdReport(
        rule=found.match.rule,
        n_labelled=len(table.image_ids) + found.match.n_ambiguous,
        n_matching=len(set(joined.rows.tolist()) - {-1}),
    )
    names_no_patient = mark_repaired(index["repair"].tolist(), Repair.PATIENT_BY_STUDY)
    return {
        "n_patients": len(set(index["patient_id"].tolist())),
        "n_studies_as_patients": len(set(index["study_uid"][names_no_patient].tolist())),
        "n_series": len(joined.starts),
        "n_slices": len(labels_NL),
        "n_unlabelled": int(np.isnan(labels_NL).all(axis=1).sum()),
        "held_out": count_held_out(index, joined, fold_N, task),
        "n_labels_without_image": ids.n_labelled - ids.n_matching,
        "n_ambiguous_labels": found.match.n_ambiguous,
        "n_repeated_label_rows": table.n_repeated_rows,
        "label_file": found.file,
        "image_ids": ids,
        "label_columns": tuple(n if n == column else f"{n}={column}" for n, column in table.columns.items()),
        "unused_columns": table.unused,
        "positive_slices": count_labels(labels_NL, task),
        "positive_series": count_labels(joined.series_labels, task, level="series"),
        "studies": count_studies(index["study_uid"][joined.starts], joined, table.study_ids, task),
        "boxes": count_boxes(joined, task),
        "slice_order": check_order(
            labels_NL[:, task.headline_index], np.diff(joined.starts, append=len(labels_NL)).tolist()
        ),
    }


def count_studies(study_S: Column, joined: Joined, labelled: Sequence[str], task: Task) -> dict[str, int]:
    """Count studies by what is known of them, for a task whose series have labels of their own. study_S: of each series
    of the store; labelled: studies in the label file."""
    if not task.series:
        return {}
    n_series, is_known_S = Counter(study_S.tolist()), (~np.isnan(joined.series_labels)).any(axis=1)
    n_labelled = len(set(study_S[is_known_S]))
    series_N = np.repeat(np.arange(len(study_S)), np.diff(joined.starts, append=len(joined.labels)))
    labels_NL, labels_SM = (values.astype(np.float64) for values in (joined.labels, joined.series_labels))
    return {
        "labelled": n_labelled,
        "without labels": len(n_series) - n_labelled,
        "with several series": sum(n > 1 for n in n_series.values()),
        "not in the store": len(labelled) - len(set(joined.study_rows.tolist()) - {-1}),
        _BROKEN: int(np.count_nonzero(violations(labels_NL, series_N, labels_SM, task))),
    }


def count_boxes(joined: Joined, task: Task) -> dict[str, int]:
    """Count the boxes of a task that has some, and the slices that they are on or are known not to be."""
    if not task.boxes:
        return {}
    labels_NC = joined.labels[:, [task.slices.index(name) for name in task.boxes]]
    with_boxes = np.unique(joined.boxes.images)
    n_known = int(known_boxes(joined.boxes, labels_NC).sum())
    return {"all": len(joined.boxes), "slices with boxes": len(with_boxes), "without": n_known - len(with_boxes)}


def count_held_out(index: Mapping[str, Column], joined: Joined, fold_N: Rows, task: Task) -> dict[str, int]:
    """Count the patients, series and slices of split "test" that have labels, and the positive slices of these."""
    is_held_N = (fold_N == HELD_OUT) & ~np.isnan(joined.labels).all(axis=1)
    if not is_held_N.any():
        return {}
    counts = {
        "patients": len(set(index["patient_id"][is_held_N])),
        "series": len(set(index["series_key"][is_held_N])),
        "slices": int(is_held_N.sum()),
    }
    return counts | {f"with {task.headline}": int(np.nansum(joined.labels[is_held_N, task.headline_index]))}
