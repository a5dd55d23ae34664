"""A service that is started to be measured, a client of it, and the studies that it is sent."""

import io
import itertools
import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

from rsna_e2e.core.errors import BadInputError, CommandFailedError, MissingCapabilityError, RsnaError
from rsna_e2e.core.records import Refusal
from rsna_e2e.dicom.arrival import read_arrival
from rsna_e2e.service.accounts import ACCESS_FILE, Accounts
from rsna_e2e.tools.synth.simulate import simulate

PATIENCE_S = 300.0
NO_ANSWER = 599  # beyond the status codes of servers
_KIB = 1024
_N_HEADS = 8  # some have more slices than are asked for, and some fewer
# More studies than anybody measures: nothing is to be refused for their number. They are kept for minutes, so that the
# disk is large enough however long one measures
_SETTINGS = """
limits: {undone_studies: 100000, open_uploads: 100000, free_bytes: 0}
retention: {raw_days: 0.0007, result_days: 0.0035}
"""


class Client:
    """A client with a token; each thread needs one of its own."""

    def __init__(self, host: str, port: int, token: str) -> None:
        self._connection = HTTPConnection(host, port, timeout=PATIENCE_S)
        self._headers = {"Authorization": f"Bearer {token}"}

    def ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        """Return status and body of an answer; NO_ANSWER where none came."""
        for _ in range(2 if method == "GET" else 1):  # services close connections that are idle
            try:
                self._connection.request(method, path, body, self._headers)
                answer = self._connection.getresponse()
                return answer.status, answer.read()
            except (HTTPException, OSError):
                self._connection.close()
        return NO_ANSWER, b""

    def json(self, path: str) -> Any:
        """Return what is at a path. Raises BadInputError where that is no good answer."""
        status, body = self.ask("GET", path)
        if status != 200:
            raise BadInputError(f"{path}: the service answers {status}")
        return json.loads(body)

    def send(self, archive: bytes, *, wait_s: float = 0.0) -> list[str]:
        """Send a zip archive, and return its studies. Raises BadInputError where they are not taken."""
        status, body = self.ask("POST", f"/api/v1/studies?wait={wait_s:g}", archive)
        if status not in (200, 202):
            raise BadInputError(f"the service answers {status} to a study that is sent")
        return [study["study"] for study in json.loads(body)["studies"]]

    def close(self) -> None:
        """End the connection."""
        self._connection.close()


class Served:
    """A service that runs. cold_start_s: from its start until it was ready."""

    def __init__(self, process: "subprocess.Popen[str]", host: str, port: int, token: str) -> None:
        self._process, self._host, self._port, self._token = process, host, port, token
        self.cold_start_s = 0.0

    @contextmanager
    def client(self) -> Iterator[Client]:
        """Yield a client."""
        made = Client(self._host, self._port, self._token)
        try:
            yield made
        finally:
            made.close()

    def memory_mib(self) -> dict[str, float]:
        """Return the resident memory of each of its processes, MiB, by role."""
        found: dict[str, float] = {}
        for folder, role in self._roles().items():
            with suppress(OSError, LookupError, ValueError):  # it ended meanwhile
                found[role] = found.get(role, 0.0) + _status(folder, "VmRSS") / _KIB
        return found

    def cpu_s(self) -> dict[str, float]:
        """Return the seconds of CPU that the api took so far, with the processes that it started, and all else of the
        service, also what ended."""
        of_all = _cpu_s(Path(f"/proc/{self._process.pid}"))
        of_api = sum(_cpu_s(folder) for folder, role in self._roles().items() if role == "api")
        return {"api": of_api, "other processes": of_all - of_api}

    def _roles(self) -> dict[Path, str]:
        """Return the processes that the supervisor started, by their folders of proc(5), and what each is."""
        found = {}
        for folder in _children(self._process.pid):
            with suppress(OSError):
                words = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
                if "rsna_e2e.service" in words:
                    found[folder] = words[words.index("rsna_e2e.service") + 1]
        return found


def _children(process: int) -> Iterator[Path]:
    """Yield the folders of proc(5) of the processes that a process started and that run."""
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, LookupError, ValueError):
            if _status(folder, "PPid") == process:
                yield folder


def _cpu_s(folder: Path) -> float:
    """Return the seconds of CPU of a process and of what it started (utime to cstime, proc(5)); 0 of one that ended,
    whose seconds are those of who waited for it."""
    try:
        ticks = sum(map(int, (folder / "stat").read_text().rpartition(")")[2].split()[11:15]))
    except OSError:
        return 0.0
    return ticks / os.sysconf("SC_CLK_TCK") + sum(_cpu_s(child) for child in _children(int(folder.name)))


def _status(folder: Path, name: str) -> int:
    """Return a number of /proc/PID/status (proc(5))."""
    lines = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
    return int(lines[name].split()[0])


@contextmanager
def serving(model: Path, folder: Path, *, device: str, n_workers: int) -> Iterator[Served]:
    """Run a service with its data in `folder` until the block ends. Raises CommandFailedError where it does not start,
    MissingCapabilityError without the libraries that it needs."""
    data, config, log = folder / "data", folder / "serve.yaml", folder / "serve.log"
    config.write_text(_SETTINGS)
    words = ["--data", str(data), "--config", str(config), "--port", "0", "--workers", str(n_workers)]
    command = [sys.executable, "-m", "rsna_e2e.cli", "serve", str(model), *words, "--device", device]
    started_s = time.monotonic()
    with log.open("wb") as said, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, text=True) as process:
        try:
            assert process.stdout is not None
            address = next((line for line in process.stdout if ": serves" in line), "")
            if not address:
                raise _failure(process.wait(), log)
            host, port = address.split(": ")[0].removeprefix("http://").rsplit(":", 1)
            with Accounts(data / ACCESS_FILE) as accounts:
                token = accounts.add_token("bench", "admin")
            made = Served(process, host, int(port), token)
            with made.client() as client:
                while client.ask("GET", "/readyz")[0] != 200:
                    if process.poll() is not None or time.monotonic() - started_s > PATIENCE_S:
                        raise _failure(process.poll() or 1, log)
                    time.sleep(0.05)
            made.cold_start_s = time.monotonic() - started_s
            yield made
        finally:
            process.terminate()


def _failure(code: int, log: Path) -> RsnaError:
    said = (log.read_text().strip().splitlines() or ["it says nothing"])[-1]
    if code == MissingCapabilityError.exit_code:
        return MissingCapabilityError(said)
    return CommandFailedError(f"the service did not start: {said}", code)


def make_archives(folder: Path, *, n_slices: int, seed: int) -> Iterator[bytes]:
    """Yield zip archives without end, each of another study of `n_slices` slices: simulated heads, with another
    StudyInstanceUID each time. Raises BadInputError where simulated studies have fewer slices."""
    raw = folder / "raw"
    simulate(raw, n_studies=_N_HEADS, seed=seed, test_fraction=0.0)
    heads = [(uid, head[:n_slices]) for uid, head in _studies(raw).items() if len(head) >= n_slices]
    shutil.rmtree(raw)
    if not heads:
        raise BadInputError(f"simulated studies have fewer than {n_slices} slices. Ask for fewer")
    for number, (uid, head) in enumerate(itertools.cycle(heads)):
        content = io.BytesIO()
        other = f"{uid[:-6]}{number:06d}"  # of the same length, so that the files stay whole
        with zipfile.ZipFile(content, "w") as archive:
            for place, file in enumerate(head):
                archive.writestr(f"{place:04d}.dcm", file.replace(uid.encode(), other.encode()))
        yield content.getvalue()


def _studies(raw: Path) -> dict[str, list[bytes]]:
    """Return the files of each study by its UID, in the order of their names."""
    found: dict[str, list[bytes]] = {}
    for path in sorted(raw.rglob("*.dcm")):
        with path.open("rb") as stream:
            arrival = read_arrival(stream)
        assert not isinstance(arrival, Refusal), "simulated files are whole"
        found.setdefault(arrival.study_uid, []).append(path.read_bytes())
    return found
