"""The job that plans a store from all headers: which slices may be copies, and which slices each shard holds."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rsna_e2e.core.records import Refusal, Rows
from rsna_e2e.dicom.image_ids import unique_image_ids
from rsna_e2e.store import Compression, bytes_on_disk
from rsna_e2e.store.prepare.jobs import ShardPlan
from rsna_e2e.store.prepare.patients import with_patients
from rsna_e2e.store.prepare.pool import Begin, Lost
from rsna_e2e.store.prepare.series_plan import Digest, Plan, find_copies, plan_series, plan_shards
from rsna_e2e.store.prepare.tables import Table, file_names, plan_digest_of, read_note, read_notes, to_numpy, write_note

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
    volumes by which element, by DICOM keyword."""

    shards: Sequence[ShardPlan]
    refused: Sequence[Refusal]
    told_by: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class MakePlan:
    """Job: plan the shards from all headers, or return the possible copies, whose pixels must be compared before.

    labelled_ids: image ids that labels name. compression: of the shards' slices. notes, shards: the folders for plans
    and notes, and for shards; shards of another plan are removed. digests: notes with the digests of each of
    `Copies.files`, once they are known.
    """

    headers: Sequence[Path]
    labelled_ids: Sequence[str]
    shard_bytes: int
    compression: Compression
    notes: Path
    shards: Path
    digests: Sequence[Path] = ()

    def __call__(self, begin: Begin, lost: Lost) -> Copies | ShardPlans:
        headers, refused = read_notes(self.headers)
        headers = with_patients(headers)
        copies = find_copies(headers)
        if len(copies) and not self.digests:
            return self._copies(headers, copies)
        digests = [digest for path in self.digests for digest in _digests(path)]
        plan, misplaced = plan_series(headers, self.labelled_ids, dict(zip(copies.tolist(), digests, strict=True)))
        headers = with_unique_ids(headers, plan.rows)
        places = plan_shards(headers, plan, shard_bytes=self.shard_bytes)
        shards = [self._shard(headers, plan, number, *place) for number, place in enumerate(places)]
        known = {path for shard in shards for path in (shard.note, shard.path)}
        for left in (*self.notes.glob("shard-*.arrow"), *self.shards.glob("*.h5")):  # of a plan with more shards
            if left not in known:
                left.unlink()
        return ShardPlans(shards, [*refused, *misplaced], plan.told_by)

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


def with_unique_ids(headers: Table, rows: Rows) -> Table:
    """Return headers in which these rows have distinct image ids, which depend on these rows alone."""
    image_ids = to_numpy(headers, "image_id")
    if len(set(taken := image_ids[rows].tolist())) == len(taken):
        return headers
    image_ids[rows] = unique_image_ids(taken, file_names(headers.take(rows)))
    return headers.set_column(headers.column_names.index("image_id"), "image_id", [image_ids.tolist()])


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
