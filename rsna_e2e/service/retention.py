"""Removes what was kept long enough: files as they came, and results."""

import logging
import shutil
import time

from rsna_e2e.core.files import entries
from rsna_e2e.service.arrivals import drop_files, forget
from rsna_e2e.service.inbox import Inbox

LOG = logging.getLogger(__name__)
_DAY_S = 86400.0


def sweep(inbox: Inbox, *, now_s: float | None = None) -> None:
    """Remove the files of studies that ended longer ago than `raw_days`, and studies after `result_days`; with less
    room on the disk than is to stay free, files of ended studies go at once, the oldest first. Files of dead studies
    stay as long as these, to be tried again. now_s: Unix time."""
    database, settings = inbox.database, inbox.database.settings
    now_s = time.time() if now_s is None else now_s
    ended = database.connection.execute(
        "SELECT study, state, finished FROM studies WHERE state IN ('done','refused','dead') ORDER BY finished"
    ).fetchall()
    n_files = n_studies = 0
    for row in ended:
        age_days = (now_s - row["finished"]) / _DAY_S
        if age_days > settings.retention.result_days:
            remove_study(inbox, row["study"])
            n_studies += 1
        elif row["state"] != "dead" and _is_swept(inbox, age_days):
            names = database.names(row["study"])
            inbox.remove(row["study"], names)
            drop_files(database, row["study"], names)
            n_files += len(names)
    if n_files or n_studies:
        LOG.info("swept %d files and %d studies", n_files, n_studies)
    _remove_strays(inbox)


def _is_swept(inbox: Inbox, age_days: float) -> bool:
    settings = inbox.database.settings
    return age_days > settings.retention.raw_days or free_bytes(inbox) < settings.limits.free_bytes


def remove_study(inbox: Inbox, study: str) -> bool:
    """Remove all of a study. False where nothing is known of it."""
    is_known = forget(inbox.database, study)
    for folder in (inbox.folder / study, inbox.database.settings.studies / study):
        shutil.rmtree(folder, ignore_errors=True)
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
