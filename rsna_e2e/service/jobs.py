"""Who works on which study: workers take studies by leases that they renew, so that one that dies gives them back."""

import sqlite3
import time
from collections.abc import Mapping
from dataclasses import dataclass

from rsna_e2e.core.files import as_json
from rsna_e2e.service.database import Database, State, content_of, utc_now
from rsna_e2e.service.sqlite import transaction

LOST = "worker_lost"  # why a study is dead whose worker fell silent at the last attempt


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A study to be predicted, as it is now: content stands for its files, whose names these are."""

    study: str
    content: str
    names: tuple[str, ...]
    attempt: int
    waited_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureJob:
    """A result whose pictures are to be made."""

    study: str
    content: str
    model: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What became of a study. summaries: of the results by model, none where nothing of it could be taken. refused:
    files that were not taken, by reason. score: by which studies are sorted."""

    summaries: Mapping[str, Mapping[str, object]]
    refused: Mapping[str, int]
    timing_s: Mapping[str, float]
    score: float | None


def claim(database: Database, owner: str) -> Job | None:
    """Take the study that waits longest and is due, None when there is none. owner: who holds it from now on."""
    now_s, settings = database.clock(), database.settings
    with database.change() as version:
        database.connection.execute(
            "UPDATE studies SET state='dead', reason=?, owner=NULL, finished=?, version=? WHERE state='running'"
            " AND lease_s<=? AND attempts>=?",
            (LOST, time.time(), version, now_s, settings.attempts),
        )
        row = _next_due(database, now_s)
        if row is None:
            return None
        study = row["study"]
        database.connection.execute(
            "UPDATE studies SET state='running', owner=?, lease_s=?, attempts=attempts+1, is_whole=0, version=?"
            " WHERE study=?",
            (owner, now_s + settings.lease_s, version, study),
        )
        names = database.names(study)
    waited_s = max(now_s - row["last_s"], 0.0)
    return Job(study=study, content=content_of(names), names=names, attempt=row["attempts"] + 1, waited_s=waited_s)


def is_due(database: Database) -> bool:
    """Whether a study waits for a worker."""
    return _next_due(database, database.clock()) is not None


def _next_due(database: Database, now_s: float) -> sqlite3.Row | None:
    settings = database.settings
    found: sqlite3.Row | None = database.connection.execute(
        "SELECT study, attempts, last_s FROM studies WHERE (state='arriving' AND"
        " (is_whole OR last_s<=:now-:quiet OR first_s<=:now-:longest))"
        " OR (state IN ('queued','failed') AND not_before_s<=:now) OR (state='running' AND lease_s<=:now)"
        " ORDER BY first_s, study LIMIT 1",
        {"now": now_s, "quiet": settings.quiet_s, "longest": settings.max_wait_s},
    ).fetchone()
    return found


def renew(database: Database, owner: str) -> None:
    """Hold on to what `owner` has."""
    until_s = database.clock() + database.settings.lease_s
    with transaction(database.connection):  # nothing that anyone waits to see
        database.connection.execute("UPDATE studies SET lease_s=? WHERE owner=? AND state='running'", (until_s, owner))
        database.connection.execute(
            "UPDATE results SET pictures_lease_s=? WHERE pictures_owner=? AND pictures='running'", (until_s, owner)
        )


def finish(database: Database, job: Job, owner: str, found: Found) -> bool:
    """Note what became of a study; of one that is refused, the commonest reason of its files too. False where another
    holds it by now, or it was deleted."""
    with database.change() as version:
        if not _holds(database, job, owner):
            return False
        for model, summary in found.summaries.items():
            database.connection.execute(
                "INSERT INTO results(study, content, model, finished, summary) VALUES (?,?,?,?,?)"
                " ON CONFLICT DO UPDATE SET is_superseded=0",
                (job.study, job.content, model, utc_now(), as_json(summary)),
            )
        if found.summaries:
            database.connection.execute(
                "UPDATE results SET is_superseded=1 WHERE study=? AND content<>?", (job.study, job.content)
            )
        has_more = content_of(database.names(job.study)) != job.content
        state: State = "arriving" if has_more else "done" if found.summaries else "refused"
        reason = max(found.refused, key=found.refused.__getitem__, default=None) if state == "refused" else None
        database.connection.execute(
            "UPDATE studies SET state=?, attempts=0, owner=NULL, reason=?, refused=?, timing=?, finished=?,"
            " score=coalesce(?, score), version=? WHERE study=?",
            (
                state,
                reason,
                as_json(found.refused),
                as_json(found.timing_s),
                time.time(),
                found.score,
                version,
                job.study,
            ),
        )
    return True


def fail(database: Database, job: Job, owner: str, reason: str, *, counts: bool = True) -> None:
    """Note that an attempt failed. It is tried again later, unless it was the last and no file came since. reason: a
    code. counts: whether it was an attempt; no study dies for what is not its fault."""
    settings = database.settings
    with database.change() as version:
        if _holds(database, job, owner):
            has_more = content_of(database.names(job.study)) != job.content
            attempts = 0 if has_more else job.attempt if counts else job.attempt - 1
            wait_s = settings.retry_s[min(job.attempt, len(settings.retry_s)) - 1 if counts else -1]
            state: State = "arriving" if has_more else "dead" if attempts >= settings.attempts else "failed"
            until_s = database.clock() + wait_s
            database.connection.execute(
                "UPDATE studies SET state=?, attempts=?, owner=NULL, reason=?, not_before_s=?, finished=?, version=?"
                " WHERE study=?",
                (state, attempts, reason, until_s, time.time(), version, job.study),
            )


def _holds(database: Database, job: Job, owner: str) -> bool:
    row = database.row(job.study)
    return row is not None and (row["owner"], row["state"]) == (owner, "running")


def claim_pictures(database: Database, owner: str) -> PictureJob | None:
    """Take a result that lacks its pictures, None when there is none."""
    now_s, settings = database.clock(), database.settings
    with database.change() as version:
        database.connection.execute(
            "UPDATE studies SET version=? WHERE study IN (SELECT study FROM results WHERE pictures='running'"
            " AND pictures_lease_s<=? AND pictures_attempts>=?)",
            (version, now_s, settings.attempts),
        )
        database.connection.execute(
            "UPDATE results SET pictures='failed' WHERE pictures='running' AND pictures_lease_s<=?"
            " AND pictures_attempts>=?",
            (now_s, settings.attempts),
        )
        row = database.connection.execute(
            "SELECT study, content, model FROM results WHERE NOT is_superseded AND pictures_attempts<?"
            " AND (pictures='wanted' OR (pictures='running' AND pictures_lease_s<=?)) ORDER BY finished LIMIT 1",
            (settings.attempts, now_s),
        ).fetchone()
        if row is None:
            return None
        job = PictureJob(**row)
        database.connection.execute(
            "UPDATE results SET pictures='running', pictures_owner=?, pictures_lease_s=?,"
            " pictures_attempts=pictures_attempts+1 WHERE study=? AND content=? AND model=?",
            (owner, now_s + settings.lease_s, job.study, job.content, job.model),
        )
    return job


def put_back_pictures(database: Database, job: PictureJob) -> None:
    """Give a result back whose pictures were put off, which is no attempt."""
    with transaction(database.connection):
        database.connection.execute(
            "UPDATE results SET pictures='wanted', pictures_attempts=pictures_attempts-1"
            " WHERE study=? AND content=? AND model=? AND pictures='running'",
            (job.study, job.content, job.model),
        )


def finish_pictures(database: Database, job: PictureJob, *, is_made: bool) -> None:
    """Note that the pictures of a result are there, or that this attempt failed."""
    with database.change() as version:
        database.connection.execute(
            "UPDATE results SET pictures=CASE WHEN ? THEN 'done' WHEN pictures_attempts>=? THEN 'failed' ELSE 'wanted'"
            " END WHERE study=? AND content=? AND model=?",
            (is_made, database.settings.attempts, job.study, job.content, job.model),
        )
        database.connection.execute("UPDATE studies SET version=? WHERE study=?", (version, job.study))


def void_leases(database: Database) -> None:
    """Give back what the workers of a service held that is gone. To be called while nothing else uses its data."""
    now_s = database.clock()
    with database.change() as version:
        database.connection.execute(
            "UPDATE studies SET state=CASE WHEN attempts>=? THEN 'dead' ELSE 'queued' END, owner=NULL, not_before_s=0,"
            " reason=CASE WHEN attempts>=? THEN ? END, finished=?, version=? WHERE state='running'",
            (database.settings.attempts, database.settings.attempts, LOST, time.time(), version),
        )
        database.connection.execute(
            "UPDATE results SET pictures=CASE WHEN pictures_attempts>=? THEN 'failed' ELSE 'wanted' END"
            " WHERE pictures='running'",
            (database.settings.attempts,),
        )
        # the clock may have begun anew since
        database.connection.execute("UPDATE studies SET first_s=min(first_s, ?), last_s=min(last_s, ?)", (now_s, now_s))
        database.connection.execute("UPDATE studies SET not_before_s=min(not_before_s, ?)", (now_s,))
        database.connection.execute("UPDATE uploads SET last_s=min(last_s, ?)", (now_s,))
        database.connection.execute("DELETE FROM workers")
