"""Removes what was kept long enough: files as they came, and results."""

import logging
import secrets
import shutil
import sqlite3
import time

from rsna_e2e.core.files import entries
from rsna_e2e.service.arrivals import drop_files, forget
from rsna_e2e.service.inbox import Inbox

LOG = logging.getLogger(__name__)
_DAY_S = 86400.0
_AHEAD = 2  # of the room that is to stay free: files go before others have to be refused for want of it


def sweep(inbox: Inbox, *, now_s: float | None = None) -> None:
    """Remove the files of studies that ended longer ago than `raw_days`, and studies after `result_days`; where the
    disk has less room than twice what is to stay free, files of ended studies go at once, the oldest first. Files of
    dead studies stay as long as these, to be tried again. now_s: Unix time."""
    database, settings = inbox.database, inbox.database.settings
    now_s = time.time() if now_s is None else now_s
    ended = database.connection.execute(
        "SELECT study, state, finished FROM studies WHERE state IN ('done','refused','dead') ORDER BY finished"
    ).fetchall()
    n_files = n_studies = 0
    for row in ended:
        age_days = (now_s - row["finished"]) / _DAY_S
        if age_days > settings.retention.result_days:
            n_studies += remove_study(inbox, row["study"], as_seen=row)
        elif row["state"] != "dead" and _is_swept(inbox, age_days):
            n_files += _remove_files(inbox, row)
    if n_files or n_studies:
        LOG.info("swept %d files and %d studies", n_files, n_studies)
    _remove_strays(inbox)
    database.forget_deleted()


def _remove_files(inbox: Inbox, seen: sqlite3.Row) -> int:
    """Remove the files of a study as they came, unless it is not any more as it was seen. Returns how many."""
    database, study = inbox.database, seen["study"]
    with database.change():
        if not _is_as_seen(database.row(study), seen):
            return 0
        names = database.names(study)
        inbox.remove(study, names)
        drop_files(database, study, names)
    return len(names)


def _is_as_seen(row: sqlite3.Row | None, seen: sqlite3.Row) -> bool:
    """Whether nothing came of a study since, and nobody tries it again."""
    return row is not None and (row["state"], row["finished"]) == (seen["state"], seen["finished"])


def _is_swept(inbox: Inbox, age_days: float) -> bool:
    settings = inbox.database.settings
    return age_days > settings.retention.raw_days or free_bytes(inbox) < _AHEAD * settings.limits.free_bytes


def remove_study(inbox: Inbox, study: str, *, as_seen: sqlite3.Row | None = None) -> bool:
    """Remove all of a study, with `as_seen` only if it is still so. False where nothing is known of it."""
    database, settings = inbox.database, inbox.database.settings
    away = settings.incoming / f"gone-{secrets.token_hex(8)}"
    moves = [(place / study, away.with_suffix(f".{place.name}")) for place in (inbox.folder, settings.studies)]
    try:
        with database.change():  # a file that comes later finds neither row nor folder, and makes them anew
            if as_seen is not None and not _is_as_seen(database.row(study), as_seen):
                return False
            is_known = forget(database, study)
            for place, gone in moves:
                if place.is_dir():
                    place.rename(gone)
    except BaseException:
        for place, gone in moves:
            if gone.is_dir():
                gone.rename(place)
        raise
    for _, gone in moves:
        shutil.rmtree(gone, ignore_errors=True)
    return is_known


def free_bytes(inbox: Inbox) -> int:
    """Return how much room the disk has."""
    return shutil.disk_usage(inbox.database.settings.data).free


def _remove_strays(inbox: Inbox) -> None:
    """Remove results of studies that are gone, and what workers left that died."""
    for folder in entries(inbox.database.settings.studies):
        row = inbox.database.row(folder.name)
        if row is None:
            shutil.rmtree(folder, ignore_errors=True)
            continue
        for path in folder.glob(".work-*"):
            is_held = inbox.database.connection.execute(
                "SELECT 1 FROM studies WHERE owner=:owner AND state='running' UNION"
                " SELECT 1 FROM results WHERE pictures_owner=:owner AND pictures='running'",
                {"owner": path.name.removeprefix(".work-")},
            ).fetchone()
            if not is_held:
                shutil.rmtree(path, ignore_errors=True)
