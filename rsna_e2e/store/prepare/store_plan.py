"""The job that plans a store from all headers: which slices may be copies, and which slices each shard holds."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rsna_e2e.core.records import IdRule, Refusal, Rows
from rsna_e2e.dicom.image_ids import unique_image_ids
from rsna_e2e.store import Compression, bytes_on_disk
from rsna_e2e.store.prepare.jobs import ShardPlan
from rsna_e2e.store.prepare.match_labels import LabelIds, Match, further_labels, match_labels
from rsna_e2e.store.prepare.patients import with_patients
from rsna_e2e.store.prepare.pool import Begin, Lost, Pool
from rsna_e2e.store.prepare.series_plan import Digest, Plan, find_copies, plan_series, plan_shards
from rsna_e2e.store.prepare.tables import (
    XRAY_PREFIX,
    Table,
    file_names,
    holds_xrays,
    plan_digest_of,
    read_note,
    read_notes,
    to_numpy,
    write_note,
)

COPIES_PER_JOB = 256

# With the same inputs, these columns determine the content of a shard.
IDENTITY = ("name", "frame_number", "series_key", "image_id")


@dataclass(frozen=True, slots=True)
class Copies:
    """Notes with the headers of slices that may be copies of each other, and the number of slices in each."""

    files: Sequence[tuple[Path, int]]


@dataclass(frozen=True, slots=True)
class ShardPlans:
    """The shards to write, and what is refused by header or position. told_by: how many series were divided into
    volumes by which element, by DICOM keyword. match: which labels there are; further: see `further_labels`. lut_bytes:
    of the distinct VOI LUTs of X-rays."""

    shards: Sequence[ShardPlan]
    refused: Sequence[Refusal]
    told_by: Mapping[str, int]
    match: Match
    further: Mapping[str, Sequence[int]]
    lut_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MakePlan:
    """Job: plan the shards from all headers, or return the possible copies, whose pixels must be compared before.

    labels: the label tables that there are. compression: of the shards' slices. notes, shards: the folders for plans
    and notes, and for shards; shards of another plan are removed. digests: notes with the digests of each of
    `Copies.files`, once they are known. Raises BadInputError for labels that `match_labels` refuses.
    """

    headers: Sequence[Path]
    labels: LabelIds
    shard_bytes: int
    compression: Compression
    notes: Path
    shards: Path
    digests: Sequence[Path] = ()

    def __call__(self, begin: Begin, lost: Lost) -> Copies | ShardPlans:
        headers, refused = read_notes(self.headers)
        headers = with_patients(headers)
        match = match_labels(headers, refused, self.labels)
        copies = find_copies(headers)
        if len(copies) and not self.digests:
            return self._copies(headers, copies)
        digests = [digest for path in self.digests for digest in _digests(path)]
        plan, misplaced = plan_series(headers, dict(zip(copies.tolist(), digests, strict=True)))
        headers, further = with_image_ids(headers, plan.rows, match)
        places = plan_shards(headers, plan, shard_bytes=self.shard_bytes)
        shards = [self._shard(headers, plan, number, *place) for number, place in enumerate(places)]
        known = {path for shard in shards for path in (shard.note, shard.path)}
        for left in (*self.notes.glob("shard-*.arrow"), *self.shards.glob("*.h5")):  # of a plan with more shards
            if left not in known:
                left.unlink()
        lut_bytes = _lut_bytes(headers.take(plan.rows))
        return ShardPlans(shards, [*refused, *misplaced], plan.told_by, match, further, lut_bytes)

    def _copies(self, headers: Table, copies: Rows) -> Copies:
        files = []
        for i in range(0, len(copies), COPIES_PER_JOB):
            taken = headers.take(copies[i : i + COPIES_PER_JOB])
            path = self.notes / f"copies-{digest_of(taken)}.arrow"
            write_note(path, taken, [])
            files.append((path, len(taken)))
        return Copies(files)

    def _shard(self, headers: Table, plan: Plan, number: int, first: int, end: int) -> ShardPlan:
        rows = plan.rows[first:end]
        taken = headers.take(rows).append_column("series_key", [plan.series_keys[first:end].tolist()])
        n_values = (to_numpy(taken, "rows") * to_numpy(taken, "columns")).tolist()
        shard = ShardPlan(
            n_slices=end - first,
            n_bytes=sum(bytes_on_disk(n, self.compression) for n in n_values),
            digest=digest_of(taken.select(IDENTITY)),
            plan=self.notes / f"plan-{number:05d}.arrow",
            path=self.shards / f"{number:05d}.h5",
            note=self.notes / f"shard-{number:05d}.arrow",
        )
        # Shards are known by number, but what a number stands for depends on all headers: another machine, or an
        # earlier attempt, may have failed to read some.
        if shard.note.exists() and plan_digest_of(shard.note) != shard.digest:
            shard.note.unlink()
        if not shard.note.exists():
            write_note(shard.plan, taken.append_column("position_mm", [plan.position_mm[first:end]]), [])
        return shard


def make_plan(job: MakePlan) -> Copies | ShardPlans:
    """Do the job in a process of its own, which gives its memory back; what is little here, at once."""
    if len(job.headers) <= 1:
        return job(lambda _: None, {})
    with Pool(1, memory_bytes=None) as pool:
        ((_, planned),) = pool.run([job])
    return planned


def _lut_bytes(headers: Table) -> int:
    """Bytes of the distinct VOI LUTs that headers name; 0 of CT."""
    if not holds_xrays(headers):
        return 0
    names, sizes = headers[f"{XRAY_PREFIX}voi_lut"].to_pylist(), headers["lut_bytes"].to_pylist()
    return sum(dict(zip(names, sizes, strict=True)).values())


def with_image_ids(headers: Table, rows: Rows, match: Match) -> tuple[Table, dict[str, list[int]]]:
    """Return headers in which these rows have the image ids of a store, and `further_labels` of them."""
    image_ids = to_numpy(headers, "image_id")
    taken = _unique_ids(headers.take(rows), match.rule)
    further = further_labels(headers, rows, taken, match) if match.ids else {}
    if taken == image_ids[rows].tolist():
        return headers, further
    image_ids[rows] = taken
    return headers.set_column(headers.column_names.index("image_id"), "image_id", [image_ids.tolist()]), further


def _unique_ids(headers: Table, rule: IdRule) -> list[str]:
    """Return distinct image ids, which depend on these headers alone."""
    image_ids: list[str] = to_numpy(headers, "image_id").tolist()
    if rule == "name" and len(set(image_ids)) == len(image_ids):
        return image_ids
    sop_uids = to_numpy(headers, "sop_uid").tolist()
    return unique_image_ids(image_ids, file_names(headers), rule=rule, sop_uids=sop_uids)


def digest_of(table: Table) -> str:
    """Return a digest of all values of a table of headers.

    Positions along the normal are better left out: their last bits depend on the processor.
    """
    digest = hashlib.sha256()
    for name in table.column_names:
        digest.update(f"{name}\0{table[name].to_pylist()!r}\0".encode("utf-8", "backslashreplace"))
    return digest.hexdigest()[:32]


def _digests(note: Path) -> Iterator[Digest]:
    """Yield what `DigestCopies` found: a digest of each slice, or why it is refused."""
    table, refusals = read_note(note)
    refused = iter(refusals)
    return (next(refused) if digest is None else digest for digest in table["digest"].to_pylist())
