"""The service as bin/demo_serve.py starts, asks and stops it: by the program's own verbs and over HTTP."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

PATIENCE_S = 90.0  # for an answer; for the models to be loaded; for the end
GONE_S = 5.0  # for the processes of a session that was told to end
LOOK_S = 0.1
LOG_LINES = 15
PROGRAM = (sys.executable, "-m", "rsna_e2e.cli")
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy knows the way to this machine


class StepError(Exception):
    """A step that failed, and the exit code of the demo."""

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.code = code


def run_verb(*words: str) -> str:
    """Show and run a verb of the program; return what it prints. Raises StepError."""
    print(f"+ rsna-e2e {' '.join(words)}", file=sys.stderr, flush=True)
    done = subprocess.run([*PROGRAM, *words], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise StepError(f"rsna-e2e {words[0]} ended with {done.returncode}, for the reason above", done.returncode)
    return done.stdout


class Client:
    """Asks the service, with a token."""

    def __init__(self, address: str, token: str) -> None:
        self.address, self._headers = address, {"Authorization": f"Bearer {token}"}

    def ask(self, path: str, body: bytes | None = None) -> bytes:
        """Return the body of an answer; with `body`, a zip archive that is posted. Raises StepError."""
        headers = self._headers | ({} if body is None else {"Content-Type": "application/zip"})
        try:
            with DIRECT.open(urllib.request.Request(self.address + path, body, headers), timeout=PATIENCE_S) as answer:
                content: bytes = answer.read()
        except urllib.error.HTTPError as error:
            raise StepError(f"{path}: the service says {error.code}: {error.read().decode()}") from None
        except OSError as error:
            raise StepError(f"{path}: the service does not answer: {error}") from None
        return content

    def ask_json(self, path: str, body: bytes | None = None) -> Any:
        """Return the value of an answer in JSON. Raises StepError."""
        return json.loads(self.ask(path, body))


class Service:
    """A service that runs within `with`, after which none of its processes is left. address: where it answers. link: to
    log in by, once."""

    def __init__(self, bundle: Path, data: Path, port: str, *, log: Path) -> None:
        self._words = ("serve", str(bundle), "--data", str(data), "--port", port, "--device", "cpu")
        self.log = log
        self.address = self.link = ""

    def __enter__(self) -> Self:
        print(f"+ rsna-e2e {' '.join(self._words)}", file=sys.stderr, flush=True)
        with self.log.open("wb") as said:
            self._process = subprocess.Popen(
                [*PROGRAM, *self._words],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=said,
                text=True,
                start_new_session=True,  # so that Ctrl-C reaches this program alone, and all processes of it are known
            )
        try:
            self._read_address()
        except BaseException as error:
            self.__exit__(type(error), error)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, *_: object) -> None:
        """Stop it. Raises StepError where that fails, or leaves anything."""
        self._process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(PATIENCE_S)
        n_left = end_session(self._process.pid)
        assert self._process.stdout is not None
        self._process.stdout.close()
        if kind is not None:
            print(f"The end of {self.log}:", *self._end_of_log(), sep="\n", file=sys.stderr)
        elif n_left or self._process.returncode:
            code = self._process.returncode
            raise StepError(f"the service ended with {code}, and {n_left} processes of it had to be killed")

    def _read_address(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if "/login#token=" in line:
                self.link = line.split()[-1]
            if ": serves" in line:
                self.address = line.split(": ")[0]
                return
        code = self._process.wait()
        raise StepError(f"the service did not start, and ended with {code}", code or 1)

    def _end_of_log(self) -> list[str]:
        return self.log.read_text(errors="replace").splitlines()[-LOG_LINES:]

    def wait_until_ready(self, client: Client) -> None:
        """Wait until its models are loaded. Raises StepError."""
        until_s = time.monotonic() + PATIENCE_S
        while True:
            try:
                client.ask("/readyz")
            except StepError as error:
                if self._process.poll() is not None or time.monotonic() > until_s:
                    raise StepError(f"the service does not become ready. {error}") from None
                time.sleep(LOOK_S)
            else:
                return


def end_session(session: int) -> int:
    """Wait a moment for the processes of a session to end, kill those that do not, and return how many these were."""
    until_s = time.monotonic() + GONE_S
    while (left := list(processes_of(session))) and time.monotonic() < until_s:
        time.sleep(LOOK_S)
    for process in left:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    return len(left)


def processes_of(session: int) -> Iterator[int]:
    """Yield the processes of a session that still run."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, _, of = path.read_text().rpartition(")")[2].split()[:4]  # proc(5)
            if int(of) == session and state != "Z":
                yield int(path.parent.name)
