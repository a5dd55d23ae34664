"""Logs of the service: a line of JSON for each event, of fixed words, study keys and counts, without names or texts.

What libraries say goes the same way, without their tracebacks, which may quote what they worked on.
"""

import logging
import sys
import traceback
from pathlib import Path

from rsna_e2e.core.files import as_json
from rsna_e2e.service.database import utc_now

_OWN = "rsna_e2e"


class JsonLines(logging.Formatter):
    """Formats a record as JSON. Of an exception: its class, and the line of code where it was raised."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """Return one line."""
        line = {"time": utc_now(), "level": record.levelname.lower(), "process": self._process}
        line["message"] = record.getMessage() if record.name.startswith(_OWN) else f"{record.name} reports an event"
        if record.exc_info and record.exc_info[0] is not None:
            frames = traceback.extract_tb(record.exc_info[2])
            place = f" in {Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else ""
            line["error"] = f"{record.exc_info[0].__name__}{place}"
        return as_json(line)


def log_as_json(process: str) -> None:
    """Send what this process logs to stderr as JSON. process: its name in the lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines(process))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    own = logging.getLogger(_OWN)
    own.handlers.clear()  # those of the command line would say it again
    own.setLevel(logging.INFO)
