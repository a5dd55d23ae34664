"""Pictures of pages by the chromium that is installed, for bin/demo_serve.py; told what to do over a pipe.

The commands are those of the Chrome DevTools Protocol (https://chromedevtools.github.io/devtools-protocol/): JSON with
a zero byte at its end, which chromium reads from file descriptor 3 and answers at 4.
"""

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any, Self

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
PATIENCE_S = 60.0
LOOK_S = 0.1
_OWN = 10  # descriptors from here on are in nobody's way when 3 and 4 are set
_OPTIONS = (
    *("--headless=new", "--remote-debugging-pipe", "--no-first-run", "--no-default-browser-check", "--mute-audio"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-breakpad"),
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # it looks at the service and at nothing else
)


class BrowserError(Exception):
    """What the browser could not do."""


def find_browser() -> str | None:
    """Return the path of a chromium, None where there is none."""
    return next(filter(None, map(shutil.which, PROGRAMS)), None)


class Browser:
    """A chromium without a window, showing one page. It ends with the `with`, and takes its profile along."""

    def __init__(self, program: str, profile: Path) -> None:
        self._profile = profile
        (reads, self._writes), (self._reads, writes) = os.pipe(), os.pipe()
        theirs = [fcntl.fcntl(one, fcntl.F_DUPFD, _OWN) for one in (reads, writes)]
        as_root = ("--no-sandbox",) if os.geteuid() == 0 else ()  # which chromium's own sandbox refuses
        command = (program, *_OPTIONS, *as_root, f"--user-data-dir={profile}", "about:blank")
        self.process = subprocess.Popen(
            ["bash", "-c", 'exec "${@:3}" 3<&"$1" 4>&"$2"', "bash", *map(str, theirs), *command],
            pass_fds=theirs,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        for one in (reads, writes, *theirs):
            os.close(one)
        self._n_sent, self._left, self._page = 0, b"", ""

    def __enter__(self) -> Self:
        try:
            target = self._ask("Target.createTarget", url="about:blank")["targetId"]
            self._page = self._ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._writes)  # which is how it is told to end
        os.close(self._reads)
        try:
            self.process.wait(PATIENCE_S / 4)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self._profile, ignore_errors=True)

    def resize(self, width: int, height: int) -> None:
        """Let the page be so large, in px; below 600 as on a telephone."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self._ask("Emulation.setDeviceMetricsOverride", **size)

    def visit(self, address: str) -> None:
        """Go to an address."""
        self._ask("Page.navigate", url=address)

    def wait(self, condition: str) -> None:
        """Wait until an expression in JavaScript is true in the page. Raises BrowserError."""
        if not self.comes_to(condition, within_s=PATIENCE_S):
            raise BrowserError(f"the page never came to {condition}; it shows: {self.value('document.body.innerText')}")

    def comes_to(self, condition: str, *, within_s: float) -> bool:
        """Whether an expression becomes true in the page within this time."""
        until_s = time.monotonic() + within_s
        while self.value(condition) is not True:
            if time.monotonic() > until_s:
                return False
            time.sleep(LOOK_S)
        return True

    def value(self, expression: str) -> Any:
        """Return what an expression is in the page, None while it changes to another page or where it fails."""
        try:
            answer = self._ask("Runtime.evaluate", expression=expression, returnByValue=True)
        except BrowserError:
            return None
        return answer["result"].get("value")

    def save(self, path: Path) -> None:
        """Write what is to be seen now as PNG."""
        path.write_bytes(base64.b64decode(self._ask("Page.captureScreenshot", format="png")["data"]))

    def _ask(self, method: str, **parameters: object) -> dict[str, Any]:
        """Send a command and return its answer. Raises BrowserError."""
        self._n_sent += 1
        command: dict[str, object] = {"id": self._n_sent, "method": method, "params": parameters}
        if self._page:
            command["sessionId"] = self._page
        until_s = time.monotonic() + PATIENCE_S
        try:
            os.write(self._writes, json.dumps(command).encode() + b"\0")
        except BrokenPipeError:
            raise BrowserError("chromium ended") from None
        while True:
            answer = self._read(until_s)
            if answer.get("id") == self._n_sent:
                if "error" in answer:
                    raise BrowserError(f"{method}: {answer['error']['message']}")
                result: dict[str, Any] = answer["result"]
                return result

    def _read(self, until_s: float) -> dict[str, Any]:
        while b"\0" not in self._left:
            is_there, _, _ = select.select([self._reads], [], [], max(until_s - time.monotonic(), 0.0))
            if not is_there:
                raise BrowserError(f"chromium was silent for {PATIENCE_S:.0f} s")
            read = os.read(self._reads, 1 << 20)
            if not read:
                raise BrowserError("chromium ended")
            self._left += read
        message, _, self._left = self._left.partition(b"\0")
        found: dict[str, Any] = json.loads(message)
        return found
