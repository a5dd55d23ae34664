"""Starts the processes of the service and starts again what ends; sweeps what was kept long enough; nothing else."""

import logging
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial

from rsna_e2e.core.errors import BadInputError, CommandFailedError, MissingCapabilityError, UsageError
from rsna_e2e.core.files import entries, lock_folder, make_folder
from rsna_e2e.inference.bundle import check_is_model, open_bundle
from rsna_e2e.service.accounts import ACCESS_FILE
from rsna_e2e.service.audit import Audit
from rsna_e2e.service.database import Database
from rsna_e2e.service.inbox import Inbox
from rsna_e2e.service.jobs import void_leases
from rsna_e2e.service.retention import sweep
from rsna_e2e.service.settings import Settings, save_settings
from rsna_e2e.service.sqlite import check
from rsna_e2e.service.workers import living
from rsna_e2e.store.pseudonyms import load_or_make_key

LOG = logging.getLogger(__name__)
STEADY_S = 60.0  # who lived so long did not end for the reason of the time before
DRAIN_S = 30.0  # for what is being done, at the end
SWEEP_S = 60.0
LOOK_S = 0.1
_OWN = re.compile(r"key|inbox|studies|tmp|settings\.json|(queue|access)\.sqlite(-wal|-shm)?|lost\+found")  # in the data
# Exit codes of errors that another start meets again: of what was asked for, of files, and of what is not there
_HOPELESS = tuple(kind.exit_code for kind in (UsageError, BadInputError, MissingCapabilityError))
_BACKLOG = 256


@dataclass(slots=True)
class _Child:
    """A process that is to live as long as the service."""

    name: str
    start: Callable[[], subprocess.Popen[bytes]]
    restart_s: Sequence[float]
    process: subprocess.Popen[bytes] | None = None
    started_s: float = 0.0
    start_at_s: float = 0.0
    n_ends: int = 0
    has_worked: bool = False

    def look(self, now_s: float) -> None:
        """Start it, if it does not run and its time has come. Raises CommandFailedError where that would help as little
        as the first time."""
        if self.process is not None:
            code = self.process.poll()
            self.has_worked |= now_s - self.started_s > STEADY_S
            if code is None:
                return
            self.process = None
            if code in _HOPELESS and not self.has_worked:
                raise CommandFailedError(f"{self.name} cannot work, for the reason above", code)
            self._put_off(now_s, is_well=code == 0 or now_s - self.started_s > STEADY_S)
            LOG.warning("%s ended with %d, is started again in %.0f s", self.name, code, self.start_at_s - now_s)
        if now_s >= self.start_at_s:
            try:
                self.process, self.started_s = self.start(), now_s
            except OSError as error:  # no memory for it, or too many processes, just now
                self._put_off(now_s, is_well=False)
                LOG.warning("%s could not be started: %s", self.name, error.strerror)

    def _put_off(self, now_s: float, *, is_well: bool) -> None:
        self.n_ends = 0 if is_well else self.n_ends + 1
        wait_s = self.restart_s[min(self.n_ends, len(self.restart_s)) - 1] if self.n_ends else 0.0
        self.start_at_s = now_s + wait_s


@dataclass(slots=True, kw_only=True)
class Supervisor:
    """The service as a whole. Within `with`, its data are its own and its address is taken."""

    settings: Settings
    _lock: int = -1
    _socket: socket.socket | None = None
    _database: Database = field(init=False)
    _inbox: Inbox = field(init=False)

    def __enter__(self) -> "Supervisor":
        """Take data and address, and bring in order what an earlier end left. Raises UsageError, and BadInputError
        for a damaged bundle or database."""
        try:
            self._begin()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _begin(self) -> None:
        data = self.settings.data
        for path in self.settings.models:
            check_is_model(path)
        self._socket = _listening(self.settings)
        make_folder(data)
        if any(not _OWN.fullmatch(path.name) for path in entries(data)):
            raise UsageError(f"{data}: holds other files than those of a service. Name a new folder, or an empty one")
        try:
            self._lock = lock_folder(data)
        except BlockingIOError:
            raise UsageError(f"{data}: a service runs with these data. Stop it, or take others") from None
        if self.settings.database.exists() and not self.settings.key.exists():
            raise BadInputError(f"{self.settings.key}: is gone, without which no study is known again. Put it back")
        data.chmod(0o700)
        pinned = tuple(open_bundle(path).identity if path.is_file() else "" for path in self.settings.models)
        save_settings(self.settings.model_copy(update={"identities": pinned}))
        for path in (self.settings.database, self.settings.data / ACCESS_FILE):
            check(path)
        self._database = Database(self.settings)
        self._inbox = Inbox(self._database, load_or_make_key(self.settings.key))
        void_leases(self._database)
        n_noted = self._inbox.recover()
        if n_noted:
            LOG.warning("%d files lay in the inbox and were noted", n_noted)

    def __exit__(self, *_: object) -> None:
        if self._socket is not None:
            self._socket.close()
        if self._lock >= 0:
            os.close(self._lock)

    @property
    def address(self) -> tuple[str, int]:
        """Host and port at which it listens."""
        assert self._socket is not None, "within `with`"
        host, port = self._socket.getsockname()[:2]
        return host, port

    def run(self, is_stopping: threading.Event, *, say: Callable[[str], None] = LOG.info) -> None:
        """Keep all processes alive until told to stop, then let them end what they do. say: takes what people want to
        know. Raises CommandFailedError where a process cannot work from its first start on."""
        roles = [("api", self._fileno()), *(("worker", number) for number in range(self.settings.n_workers))]
        children = [
            _Child(f"{role} {number}", partial(self._start, role, number), self.settings.restart_s)
            for role, number in roles
        ]
        swept_s, is_ready = 0.0, False
        try:
            while not is_stopping.wait(LOOK_S):
                now_s = time.monotonic()
                for child in children:
                    child.look(now_s)
                if not is_ready and len(living(self._database, within_s=STEADY_S)) == self.settings.n_workers:
                    is_ready = True
                    say("ready: the models are loaded")
                    for child in children:  # what keeps one from work later may pass, as with an exchanged bundle
                        child.has_worked = True
                if now_s - swept_s > SWEEP_S:
                    swept_s = now_s
                    self._sweep()
            say(f"stopping; what is being done has up to {DRAIN_S:.0f} s")
        finally:
            _end([child.process for child in children if child.process is not None])

    def _sweep(self) -> None:
        """Remove what was kept long enough; another time, if the disk or a database cannot be used just now."""
        try:
            sweep(self._inbox)
            with Audit(self.settings.data / ACCESS_FILE) as audit:
                audit.retain(timedelta(days=self.settings.retention.audit_days))
        except (OSError, sqlite3.Error):
            LOG.exception("could not sweep")

    def _fileno(self) -> int:
        assert self._socket is not None, "within `with`"
        return self._socket.fileno()

    def _start(self, role: str, number: int) -> subprocess.Popen[bytes]:
        command = [
            sys.executable,
            "-m",
            "rsna_e2e.service",
            role,
            str(self.settings.data),
            str(os.getpid()),
            str(number),
        ]
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[self._fileno()] if role == "api" else [])


def _listening(settings: Settings) -> socket.socket:
    """Return a socket that listens; requests wait in it while the api starts, also again. Raises UsageError."""
    try:
        family, _, _, _, where = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(family, socket.SOCK_STREAM)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(where)
        found.listen(_BACKLOG)
    except OSError as error:
        place = f"{settings.host}:{settings.port}"
        raise UsageError(f"{place}: cannot be listened at: {error.strerror}. Choose another --port") from None
    return found


def _end(processes: list[subprocess.Popen[bytes]]) -> None:
    """Ask processes to end, and make them after a while."""
    for process in processes:
        process.send_signal(signal.SIGTERM)
    until_s = time.monotonic() + DRAIN_S
    for process in processes:
        try:
            process.wait(max(until_s - time.monotonic(), 0.0))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
