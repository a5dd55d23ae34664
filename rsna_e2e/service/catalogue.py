"""What users are told of studies: lists, filtered and sorted, and all about one."""

import json
import sqlite3
from dataclasses import dataclass
from typing import Any, Literal

from rsna_e2e.service.database import Database

Sort = Literal["score", "time"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which studies a list is of: in this state; with a label of at least this probability; received since then, UTC
    as ISO 8601 writes it; with a patient id or accession number that begins so. cursor: how many come before."""

    state: str = ""
    label: str = ""
    least: float = 0.0
    since: str = ""
    patient: str = ""
    sort: Sort = "time"
    cursor: int = 0
    limit: int = 50


_ITEM = (
    "SELECT studies.*, patient_id, accession, study_date, summary, is_superseded, content, pictures,"
    " (SELECT count(*) FROM files WHERE files.study=studies.study) AS n_files"
    " FROM studies LEFT JOIN identities USING (study)"
    " LEFT JOIN results AS best ON best.rowid=(SELECT rowid FROM results WHERE results.study=studies.study"
    " ORDER BY is_superseded, finished DESC, model LIMIT 1)"
)


def list_studies(database: Database, wanted: Wanted) -> dict[str, Any]:
    """Return a page of studies with the result of each that counts, and where the next begins."""
    conditions: list[str] = ["1"]
    values: list[object] = []
    if wanted.state:
        conditions.append("+state=?")  # the plus lets SQLite walk in the order of the list, rather than sort all
        values.append(wanted.state)
    if wanted.since:
        conditions.append("received>=?")
        values.append(wanted.since)
    if wanted.label:
        conditions.append("EXISTS (SELECT 1 FROM json_each(summary, '$.scores') WHERE key=? AND value>=?)")
        values += [wanted.label, wanted.least]
    elif wanted.least:
        conditions.append("score>=?")
        values.append(wanted.least)
    if wanted.patient:
        conditions.append("(substr(patient_id, 1, ?)=? OR substr(accession, 1, ?)=?)")
        values += (len(wanted.patient), wanted.patient) * 2
    order = "score DESC, first_s DESC" if wanted.sort == "score" else "received DESC, first_s DESC"  # null is lowest
    version = database.version()
    rows = database.connection.execute(
        f"{_ITEM} WHERE {' AND '.join(conditions)} ORDER BY {order}, studies.study LIMIT ? OFFSET ?",
        (*values, wanted.limit + 1, wanted.cursor),
    ).fetchall()
    has_more = len(rows) > wanted.limit
    return {
        "items": [_item(row) for row in rows[: wanted.limit]],
        "next": wanted.cursor + wanted.limit if has_more else None,
        "version": version,
    }


def study(database: Database, key: str) -> dict[str, Any] | None:
    """Return all about a study, None where it is unknown."""
    row = database.connection.execute(f"{_ITEM} WHERE studies.study=?", (key,)).fetchone()
    if row is None:
        return None
    results = database.connection.execute(
        "SELECT * FROM results WHERE study=? ORDER BY is_superseded, finished DESC, model", (key,)
    ).fetchall()
    return _item(row) | {
        "refused": json.loads(row["refused"]),
        "attempts": row["attempts"],
        "timing_s": json.loads(row["timing"]),
        "generations": [
            {
                "content": result["content"],
                "model": json.loads(result["summary"])["model"],
                "superseded": bool(result["is_superseded"]),
                "finished": result["finished"],
                "pictures": result["pictures"],
            }
            for result in results
        ],
    }


def _item(row: sqlite3.Row) -> dict[str, Any]:
    summary = {} if row["summary"] is None else json.loads(row["summary"])
    identity = None
    if row["patient_id"] is not None:
        identity = {name: row[name] for name in ("patient_id", "accession", "study_date")}
    return {
        "study": row["study"],
        "identity": identity,
        "state": row["state"],
        "reason": row["reason"],
        "received": row["received"],
        "n_files": row["n_files"],
        "n_slices": summary.get("n_slices"),
        "scores": summary.get("scores", {}),
        "above": summary.get("above", []),
        "headline": summary.get("headline"),
        "sentence": summary.get("sentence"),
        # of a study that is done again, the result of before stays to be seen
        "superseded": bool(row["is_superseded"]) or (row["summary"] is not None and row["state"] not in ("done",)),
        "content": row["content"],
        "pictures": row["pictures"],
    }


def find_result(database: Database, key: str, *, content: str = "", model: str = "") -> tuple[str, str] | None:
    """Return content and model of a study's result, of the newest that counts unless told; None where there is none."""
    row = database.connection.execute(
        "SELECT content, model FROM results WHERE study=:study AND (:content='' OR content=:content)"
        " AND (:model='' OR model=:model) ORDER BY is_superseded, finished DESC, model LIMIT 1",
        {"study": key, "content": content, "model": model},
    ).fetchone()
    return None if row is None else (row["content"], row["model"])


def count_states(database: Database) -> dict[str, int]:
    """Return how many studies are in each state."""
    return {row[0]: row[1] for row in database.connection.execute("SELECT state, count(*) FROM studies GROUP BY state")}


def oldest_wait_s(database: Database) -> float:
    """Return for how long the study waits that waits longest."""
    (first_s,) = database.connection.execute(
        "SELECT min(first_s) FROM studies WHERE state IN ('arriving','queued','failed','running')"
    ).fetchone()
    return 0.0 if first_s is None else max(database.clock() - first_s, 0.0)
