"""The reports of `prepare`: what was taken, what is unusual about it, and what was refused."""

# N slices, L labels

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from rsna_e2e.core.errors import BadInputError
from rsna_e2e.core.reasons import Reason
from rsna_e2e.core.records import Column, Modality, Refusal, Rows
from rsna_e2e.dicom.repairs import count_repairs
from rsna_e2e.store.prepare.find_labels import FoundLabels
from rsna_e2e.store.prepare.label_report import CHECK_ORDER, LabelFacts, describe_labels
from rsna_e2e.store.prepare.sets import Joined
from rsna_e2e.store.prepare.store_plan import ShardPlans
from rsna_e2e.store.series_order import run_starts, series_geometry, studies_of_single_slices, volume_numbers
from rsna_e2e.tasks.task import Task

_WANTED: dict[Modality, str] = {"ct": "CT slice in DICOM form", "xr": "X-ray in DICOM, PNG or JPEG form"}
_GIVE: dict[Modality, str] = {
    "ct": "Give the folder or archive of DICOM files",
    "xr": "Give the folder or archive of DICOM, PNG or JPEG files",
}
_IMAGES = (".png", ".jpg", ".jpeg")
_OTHER_MODALITY: dict[str, str] = {
    Reason.NOT_CT: "If these are radiographs: --modality xr. What each reason means is in docs/dicom.md",
    Reason.NOT_XR: "If these are CT slices: --modality ct. What each reason means is in docs/dicom.md",
}

_NO_POSITIONS = "no positions: order of the files"  # how many series have none


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

    @property
    def order_advice(self) -> str:
        """What to do where positive slices are scattered."""
        if _NO_POSITIONS in self.geometry:
            return "The files do not hold them in the order of the body, and nothing else tells it"
        return CHECK_ORDER


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
        geometry={} if "photometric" in index else count_geometry(index),  # X-rays have none
        volumes=count_volumes(index, prepared.plan.told_by),
        repairs=count_repairs(index["repair"].tolist()),
        refusals=count_reasons(prepared.refusals),
        elapsed_s=elapsed_s,
    )


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
    """There was nothing of the modality to prepare. refusals: every file that was found, with its reason."""

    def __init__(
        self, raw: Path, refusals: Sequence[Refusal], *, modality: Modality = "ct", table: Path | None = None
    ) -> None:
        super().__init__(_nothing_taken(raw, refusals, modality, table))
        self.refusals = refusals
        self.modality = modality


def _nothing_taken(raw: Path, refusals: Sequence[Refusal], modality: Modality, table: Path | None) -> str:
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
        are_images = modality == "ct" and any(refusal.path.lower().endswith(_IMAGES) for refusal in refusals)
        advice = _GIVE[modality] + ". PNG and JPEG files are read as X-rays: --modality xr" * are_images
    elif other := _OTHER_MODALITY.get(max(count_reasons(refusals), key=count_reasons(refusals).__getitem__)):
        advice = other
    else:
        advice = "What each reason means is in docs/dicom.md"
    where = f". All are listed in {table}" if table else ""
    return f"{raw}: no {_WANTED[modality]} found there: {why or 'it holds no files'}. {advice}{where}"


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
