"""The reports of `prepare`: what was taken, what is unusual about it, and what was refused."""

# N slices, L labels

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from rsna_e2e.core.errors import BadInputError
from rsna_e2e.core.reasons import Reason
from rsna_e2e.core.records import ID_RULES, Column, IdRule, Refusal, Rows
from rsna_e2e.dicom.repairs import Repair, count_repairs, mark_repaired
from rsna_e2e.store.label_runs import OrderCheck, check_order
from rsna_e2e.store.prepare.division import HELD_OUT
from rsna_e2e.store.prepare.find_labels import FoundLabels
from rsna_e2e.store.prepare.sets import Joined
from rsna_e2e.store.prepare.store_plan import ShardPlans
from rsna_e2e.store.series_order import run_starts, series_geometry, studies_of_single_slices, volume_numbers
from rsna_e2e.tasks.label_counts import LabelCounts, count_labels
from rsna_e2e.tasks.task import Task

_NO_POSITIONS = "no positions: order of the files"  # how many series have none


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
    names of what they hold; unused_columns: its others. positive_slices: how many, of how many with a label, by label.
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
    slice_order: OrderCheck

    def label_warnings(self) -> list[str]:
        """Return what is wrong with the labels, or cannot be learned from them, in words."""
        counts = self.positive_slices
        said = counts.warnings("the store")
        if counts.unknown and self.unused_columns:
            said[0] += (
                f". Columns of the table that were not used: {', '.join(self.unused_columns)}. If one holds a "
                f"label: --columns {counts.unknown[0]}=COLUMN"
            )
        if counts.n_contradictory:
            said.append(
                f"labels contradict each other in {counts.n_contradictory} of the slices: {counts.any_name} is 0 and "
                "another label is not. They are stored as they are. Correct them, and replace them: rsna-e2e label "
                "STORE LABELS --replace"
            )
        if self.n_ambiguous_labels:
            said.append(
                f"{self.n_ambiguous_labels} labels are the name of several images each, which stay without labels. "
                "Give paths as IDs, or SOP Instance UIDs"
            )
        return said


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelReport(LabelFacts):
    """Summary of labels that were added to a store. folds_of: the label set whose patients kept their folds."""

    folds_of: str
    elapsed_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareReport(LabelFacts):
    """Summary of a prepared store.

    n_rounded, n_saturated: pixels whose HU are not exactly slope * stored + intercept. n_burned_in: slices that say
    that text is burned into their pixels. tables_passed_over: without a label file, those that could hold labels, and
    why they were not taken. geometry: series by what is unusual about how their slices lie, see `SeriesGeometry`, and
    how many slices are missing in gaps. volumes: of how many SeriesInstanceUIDs several volumes were made, and by what
    they were told apart.
    """

    tables_passed_over: dict[str, str]
    n_rounded: int
    n_saturated: int
    n_burned_in: int
    geometry: dict[str, int]
    volumes: dict[str, int]
    repairs: dict[str, int]
    refusals: dict[str, int]
    elapsed_s: float

    @property
    def slices_per_s(self) -> float:
        """Slices stored per second, over the whole run."""
        return self.n_slices / self.elapsed_s


@dataclass(frozen=True, slots=True)
class Part:
    """The share of one of `n` machines: every n-th shard, from the `number`-th on (1 to n)."""

    number: int
    n: int

    def folder(self, store: Path) -> Path:
        """Return the folder of this part."""
        return store.with_name(f"{store.name}.part-{self.number}-of-{self.n}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PartReport:
    """Summary of one machine's part of a store."""

    part: Path
    n_shards: int
    n_slices: int
    elapsed_s: float

    @property
    def slices_per_s(self) -> float:
        """Slices stored per second, over the whole run."""
        return self.n_slices / self.elapsed_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """The content of a store that was made, with identifiers: columns of the index [N], labels, fold [N], refusals; the
    plan that it follows, and where the labels are from."""

    data_hash: str
    index: dict[str, Column]
    joined: Joined
    fold: Rows
    refusals: Sequence[Refusal]
    plan: ShardPlans
    labels: FoundLabels


def make_report(store: Path, prepared: Prepared, *, task: Task, elapsed_s: float) -> PrepareReport:
    """Count what a store holds of its inputs."""
    index = prepared.index
    return PrepareReport(
        **describe_labels(index, prepared.joined, prepared.fold, prepared.labels, task),
        store=store,
        data_hash=prepared.data_hash,
        tables_passed_over=dict(prepared.labels.passed_over),
        n_rounded=int(index["n_rounded"].sum()),
        n_saturated=int(index["n_saturated"].sum()),
        n_burned_in=int(np.count_nonzero(index["burned_in_annotation"] == "YES")),
        geometry=count_geometry(index),
        volumes=count_volumes(index, prepared.plan.told_by),
        repairs=count_repairs(index["repair"].tolist()),
        refusals=count_reasons(prepared.refusals),
        elapsed_s=elapsed_s,
    )


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
        "slice_order": check_order(
            labels_NL[:, task.headline_index], np.diff(joined.starts, append=len(labels_NL)).tolist()
        ),
    }


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


def count_reasons(refusals: Iterable[Refusal]) -> dict[str, int]:
    """Count refusals by reason, the commonest first."""
    return dict(Counter(str(refusal.reason) for refusal in refusals).most_common())


def count_volumes(index: dict[str, Column], told_by: Mapping[str, int]) -> dict[str, int]:
    """Count the SeriesInstanceUIDs of which several volumes were made, the volumes, and what told them apart."""
    numbers = volume_numbers(index)
    n_further = int(np.count_nonzero(numbers))
    if not n_further:
        return {}
    n_divided = int(np.count_nonzero(numbers == 1))
    return {"divided": n_divided, "into": n_divided + n_further} | {f"by {name}": n for name, n in told_by.items()}


class NothingTakenError(BadInputError):
    """There was no CT slice to prepare. refusals: every file that was found, with its reason."""

    def __init__(self, raw: Path, refusals: Sequence[Refusal], *, table: Path | None = None) -> None:
        super().__init__(_nothing_taken(raw, refusals, table=table))
        self.refusals = refusals


def _nothing_taken(raw: Path, refusals: Sequence[Refusal], *, table: Path | None = None) -> str:
    """Return the message for input without a single usable slice: each reason with an example, and what to do.

    table: where all of them are listed.
    """
    example = {str(refusal.reason): refusal for refusal in reversed(refusals)}
    why = "; ".join(
        f"{n} {reason}, such as {example[reason].path} ({example[reason].detail})"
        for reason, n in count_reasons(refusals).items()
    )
    if any(refusal.path.lower().endswith(".zip") for refusal in refusals):
        advice = "Give one of the archives in it"
    elif set(example) <= {Reason.NOT_DICOM, Reason.NOT_REGULAR_FILE, Reason.LINKED_FOLDER}:
        advice = "Give the folder or archive of DICOM files"
    else:
        advice = "What each reason means is in docs/dicom.md"
    where = f". All are listed in {table}" if table else ""
    return f"{raw}: no CT slice in DICOM form found there: {why or 'it holds no files'}. {advice}{where}"


def count_geometry(index: dict[str, Column]) -> dict[str, int]:
    """Count series with unusual geometry, by kind, and missing slices; zeros are left out."""
    keys = index["series_key"]
    begins = run_starts(keys)
    all_series = [series_geometry(index, slice(begin, end)) for begin, end in pairwise([*begins.tolist(), len(keys)])]
    counts = {
        _NO_POSITIONS: int(np.isnan(index["ipp_x_mm"][begins]).sum()),
        "tilted": sum(series.is_tilted for series in all_series),
        "with_gaps": sum(series.n_gaps > 0 for series in all_series),
        "missing_slices": sum(series.n_missing for series in all_series),
        "uneven_spacing": sum(series.is_uneven for series in all_series),
        "mixed_sizes": sum(series.has_mixed_sizes for series in all_series),
        "mixed_pixel_spacing": sum(series.has_mixed_pixels for series in all_series),
        "of_one_slice": int((np.diff([*begins, len(keys)]) == 1).sum()),
        "studies_with_a_series_for_every_slice": studies_of_single_slices(index),
    }
    return {name: n for name, n in counts.items() if n}
