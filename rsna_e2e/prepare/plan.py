"""What goes where: series in order, cut into shards. Pure functions of the headers, so every run plans the same."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rsna_e2e.dicom import SliceHeader, printable
from rsna_e2e.reasons import Reason
from rsna_e2e.records import Refusal
from rsna_e2e.series import group_series, order_series, series_key


@dataclass(frozen=True, slots=True)
class HeaderOf:
    """A file, by its path relative to the raw folder, and its header."""

    name: str
    header: SliceHeader


@dataclass(frozen=True, slots=True)
class PlannedSlice:
    """A slice with its place: the series it belongs to and where it lies along the slice normal."""

    name: str
    header: SliceHeader
    series_key: str
    position_mm: float

    @property
    def n_bytes(self) -> int:
        """Size of its HU in the store."""
        return 2 * self.header.record.rows * self.header.record.columns


@dataclass(frozen=True, slots=True)
class ShardPlan:
    """The slices of one shard, series after series."""

    name: str
    slices: tuple[PlannedSlice, ...]


def plan_series(headers: Sequence[HeaderOf]) -> tuple[list[list[PlannedSlice]], list[Refusal]]:
    """Group headers into series, sorted by (patient, study, series), each in geometric order; refuse what has none."""
    series: list[list[PlannedSlice]] = []
    refusals: list[Refusal] = []
    for series_id, positions in group_series([h.header.record for h in headers]).items():
        members = [headers[position] for position in positions]
        order = order_series([member.header.record for member in members])
        key = series_key(series_id)
        series.append(
            [
                PlannedSlice(members[i].name, members[i].header, key, position_mm)
                for i, position_mm in zip(order.kept.tolist(), order.position_mm.tolist(), strict=True)
            ]
        )
        refusals += [Refusal(printable(members[i].name), reason, detail) for i, reason, detail in order.refused]
    return series, refusals


def refuse_ambiguous_ids(
    headers: Iterable[HeaderOf], labelled_ids: Iterable[str]
) -> tuple[list[HeaderOf], list[Refusal]]:
    """Refuse files of equal stem, of different instances, that a label names: it cannot be told which is meant."""
    headers = list(headers)
    instances = {(h.header.record.image_id, h.header.record.sop_uid) for h in headers}
    counts = Counter(image_id for image_id, _ in instances)
    ambiguous = {image_id for image_id in labelled_ids if counts[image_id] > 1}
    kept = [h for h in headers if h.header.record.image_id not in ambiguous]
    refusals = [
        Refusal(printable(h.name), Reason.AMBIGUOUS_IMAGE_ID, "files of different instances have this name")
        for h in headers
        if h.header.record.image_id in ambiguous
    ]
    return kept, refusals


def plan_shards(series: Iterable[Sequence[PlannedSlice]], *, shard_bytes: int) -> list[ShardPlan]:
    """Cut series, in order and never apart, into shards of at least `shard_bytes` (but for the last)."""
    shards: list[ShardPlan] = []
    slices: list[PlannedSlice] = []
    for members in series:
        slices += members
        if sum(planned.n_bytes for planned in slices) >= shard_bytes:
            shards.append(ShardPlan(f"{len(shards):05d}.h5", tuple(slices)))
            slices = []
    if slices:
        shards.append(ShardPlan(f"{len(shards):05d}.h5", tuple(slices)))
    return shards
