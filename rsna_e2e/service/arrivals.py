"""What comes in, in the database: files of studies, and that a study is whole."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rsna_e2e.service.database import UNDONE, Database, utc_now


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrived:
    """A file that lies in the inbox. identity: patient id, accession number and study date, None where they are not
    kept."""

    study: str
    name: str
    n_bytes: int
    identity: tuple[str, str, str] | None = None


def arrive(database: Database, files: Sequence[Arrived], *, version: int) -> None:
    """Note files that lie in the inbox, within `Database.change`, which yields the version. Those that are known change
    nothing; a new one begins a new generation."""
    now_s, now = database.clock(), utc_now()
    for file in files:
        database.connection.execute(
            "INSERT INTO studies(study, state, received, first_s, last_s, version) VALUES (?,'arriving',?,?,?,?)"
            " ON CONFLICT DO NOTHING",
            (file.study, now, now_s, now_s, version),
        )
        added = database.connection.execute(
            "INSERT INTO files VALUES (?,?,?) ON CONFLICT DO NOTHING", (file.study, file.name, file.n_bytes)
        )
        if added.rowcount:
            _extend(database, file.study, now_s, version)
        if file.identity is not None:
            database.connection.execute(
                "INSERT OR REPLACE INTO identities VALUES (?,?,?,?)", (file.study, *file.identity)
            )


def _extend(database: Database, study: str, now_s: float, version: int) -> None:
    """A file more: what was done, or waited, is arriving again; what is running notices when it ends."""
    database.connection.execute(
        "UPDATE studies SET last_s=:now, is_whole=0, version=:version,"
        " first_s=CASE WHEN state IN ('done','refused','dead') THEN :now ELSE first_s END,"
        " attempts=CASE WHEN state='running' THEN attempts ELSE 0 END,"
        " state=CASE WHEN state='running' THEN state ELSE 'arriving' END WHERE study=:study",
        {"now": now_s, "version": version, "study": study},
    )


def complete(database: Database, studies: Iterable[str]) -> None:
    """Note that nothing more is to come of studies."""
    with database.change() as version:
        for study in studies:
            database.connection.execute(
                "UPDATE studies SET is_whole=1, version=?,"
                " state=CASE state WHEN 'arriving' THEN 'queued' ELSE state END"
                " WHERE study=? AND state IN ('arriving','running')",
                (version, study),
            )


def retry(database: Database, study: str) -> bool:
    """Try a study again, that failed, was refused or is done. False where it is unknown or on its way anyway."""
    with database.change() as version:
        changed = database.connection.execute(
            "UPDATE studies SET state='queued', attempts=0, not_before_s=0, reason=NULL, version=? WHERE study=?"
            " AND state IN ('failed','dead','refused','done')",
            (version, study),
        )
    return changed.rowcount > 0


def forget(database: Database, study: str) -> bool:
    """Delete all that is known of a study, within `Database.change`. False where nothing is."""
    return database.connection.execute("DELETE FROM studies WHERE study=?", (study,)).rowcount > 0


def noted_files(database: Database) -> dict[str, set[str]]:
    """Return the names of the files of every study that has any."""
    names: dict[str, set[str]] = {}
    for row in database.connection.execute("SELECT study, name FROM files"):
        names.setdefault(row["study"], set()).add(row["name"])
    return names


def drop_files(database: Database, study: str, names: Iterable[str]) -> None:
    """Forget files of a study, within `Database.change`."""
    database.connection.executemany("DELETE FROM files WHERE study=? AND name=?", [(study, name) for name in names])


def count_undone(database: Database) -> int:
    """Return how many studies are on their way."""
    marks = ",".join("?" * len(UNDONE))
    (count,) = database.connection.execute(f"SELECT count(*) FROM studies WHERE state IN ({marks})", UNDONE).fetchone()
    return int(count)


def inbox_bytes(database: Database) -> int:
    """Return how many bytes the files in the inbox have."""
    (n_bytes,) = database.connection.execute("SELECT n_bytes FROM inbox").fetchone()
    return int(n_bytes)
