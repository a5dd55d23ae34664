"""A process of the service, which its supervisor starts: `python -m rsna_e2e.service api|worker DATA ...`."""

import ctypes
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

from rsna_e2e.core.errors import RsnaError
from rsna_e2e.core.gpus import VISIBLE, visible_gpus
from rsna_e2e.service.logs import log_as_json
from rsna_e2e.service.settings import Settings, read_settings

LOG = logging.getLogger("rsna_e2e.service")

_FILES = 8192  # open at once, where the system allows it
_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def end_with(parent: int) -> None:
    """Let the system end this process when its supervisor ends, however that happens, and keep its memory out of files
    of crashes."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal; it is the supervisor's
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)  # connections, files that come, databases of each thread
    resource.setrlimit(resource.RLIMIT_NOFILE, (most if most == resource.RLIM_INFINITY else min(most, _FILES), most))
    if os.getppid() != parent:  # it ended before
        sys.exit(0)


def stops_at_sigterm() -> Callable[[], bool]:
    """Return a function that says whether SIGTERM came since now."""
    came: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: came.append(number))
    return lambda: bool(came)


def take_one_gpu(number: int) -> None:
    """Let CUDA show this process one GPU of several, each worker the next; before torch is imported."""
    gpus = visible_gpus(os.environ)
    if len(gpus) > 1:
        os.environ[VISIBLE] = gpus[number % len(gpus)]


def main(role: str, data: str, parent: str, number: str) -> None:
    """Run as api, which listens at the socket of file descriptor `number`, or as worker number `number`."""
    end_with(int(parent))
    log_as_json(role if role == "api" else f"{role}-{number}")
    try:
        _run(role, read_settings(Path(data)), int(number))
    except RsnaError as error:
        LOG.error("%s", error)
        sys.exit(error.exit_code)
    except Exception:
        LOG.exception("ends")
        sys.exit(1)


def _run(role: str, settings: Settings, number: int) -> None:
    if role == "api":
        from rsna_e2e.service.app import serve

        serve(settings, socket.socket(fileno=number))
    else:
        if settings.n_workers > 1 and settings.device != "cpu":
            take_one_gpu(number)
        from rsna_e2e.service.worker import work

        work(settings, number, stops_at_sigterm)


if __name__ == "__main__":
    main(*sys.argv[1:])
