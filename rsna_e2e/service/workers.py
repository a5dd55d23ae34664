"""Which workers live, and which models they have, in the database."""

import json
import os
from collections.abc import Sequence
from typing import Any

from rsna_e2e.core.files import as_json
from rsna_e2e.service.database import Database
from rsna_e2e.service.sqlite import transaction


def beat(database: Database, number: int, models: Sequence[dict[str, Any]] | None = None) -> None:
    """Say that worker number `number`, which is this process, lives; models: what it asks, when it begins."""
    with transaction(database.connection):
        if models is not None:
            database.connection.execute(
                "INSERT OR REPLACE INTO workers VALUES (?,?,?,?)",
                (number, os.getpid(), database.clock(), as_json(list(models))),
            )
        else:
            database.connection.execute("UPDATE workers SET beat_s=? WHERE number=?", (database.clock(), number))


def living(database: Database, *, within_s: float) -> list[list[dict[str, Any]]]:
    """Return the models of each worker that said so within this time."""
    rows = database.connection.execute(
        "SELECT models FROM workers WHERE beat_s>=? ORDER BY number", (database.clock() - within_s,)
    )
    return [json.loads(row["models"]) for row in rows]
