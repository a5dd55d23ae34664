"""A small model and small studies for tests of the service, and a service that runs."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import phantoms
import small

from rsna_e2e.core.files import read_json
from rsna_e2e.inference.export import export
from rsna_e2e.service.accounts import ACCESS_FILE, Accounts
from rsna_e2e.service.database import Database
from rsna_e2e.service.inbox import Inbox
from rsna_e2e.service.settings import Settings
from rsna_e2e.store.pseudonyms import load_or_make_key
from rsna_e2e.training.train import train

SIDE = 32
PATIENCE_S = 120.0


def make_bundle(folder: Path, *, seed: int = 0) -> Path:
    """Train a small model for a moment, and export it."""
    run = folder / f"run{seed}"
    train(small.make_store(folder / f"seen{seed}"), run, small.config(f"seed={seed}"), device="cpu")
    return export([run], folder / f"model{seed}.rsna", name="small", version="1.0", licence="MIT").path


def write_study(folder: Path, number: int, n_slices: int, *, first: int = 0, **tags: Any) -> list[Path]:
    """Write DICOM files of a study, from slice `first` on, and return their paths."""
    paths = []
    for index in range(first, first + n_slices):
        named = {
            "SOPInstanceUID": f"1.2.3.{number}.{index}",
            "PatientID": f"p{number}",
            "StudyInstanceUID": f"1.2.4.{number}",
            "SeriesInstanceUID": f"1.2.5.{number}",
            "ImagePositionPatient": [-125.0, -125.0, 5.0 * index],
        }
        stored = phantoms.stored_image(SIDE, SIDE, seed=100 * number + index, form=phantoms.SIGNED_16)
        path = folder / f"study{number}-{index}.dcm"
        phantoms.write_dicom(path, phantoms.slice_dataset(stored, **(named | tags)))
        paths.append(path)
    return paths


@dataclass
class Clock:
    """A clock that a test sets."""

    now_s: float = 1000.0

    def __call__(self) -> float:
        return self.now_s


@dataclass
class Desk:
    """Database and inbox of a service that does not run."""

    settings: Settings
    database: Database
    inbox: Inbox
    clock: Clock = field(default_factory=Clock)

    def send(self, *paths: Path) -> list[Any]:
        """Hand files over; they stay where they are."""
        copies = []
        for number, path in enumerate(paths):
            copies.append(self.settings.incoming / f"{number}")
            shutil.copy(path, copies[-1])
        return self.inbox.accept(copies)


def make_desk(data: Path, *models: Path, **settings: Any) -> Desk:
    """Make the folders of a service, without its processes."""
    data.mkdir(parents=True, exist_ok=True)
    of_service = {"prepare_jobs": 1, "device": "cpu"} | settings
    made = Settings(
        data=data, models=models or (data / "none.rsna",), identities=("",) * max(len(models), 1), **of_service
    )
    clock = Clock()
    database = Database(made, clock=clock)
    inbox = Inbox(database, load_or_make_key(made.key))
    inbox.recover()
    return Desk(made, database, inbox, clock)


def results_in(data: Path) -> dict[str, dict[str, list[list[list[float]]]]]:
    """Return the probabilities of all slices by study and folder of a result."""
    found: dict[str, dict[str, list[list[list[float]]]]] = {}
    for path in sorted((data / "studies").glob("*/*/result.json")):
        series = read_json(path)["series"]
        found.setdefault(path.parents[1].name, {})[path.parent.name] = [one["probability"] for one in series]
    return found


class Service:
    """A service that runs, as `rsna-e2e serve` starts it, and a client of it."""

    def __init__(self, data: Path, *models: Path, settings: str = "") -> None:
        self.data, self._models = data, models
        self._config = data.with_name(f"{data.name}.yaml")
        self._config.write_text(f"prepare_jobs: 1\n{settings}")
        self.token = ""
        self.said = self.data.with_name(f"{data.name}.log")

    def start(self) -> None:
        """Start it, and wait until it answers."""
        words = [*map(str, self._models), "--data", str(self.data), "--config", str(self._config), "--port", "0"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        with self.said.open("ab") as said:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "rsna_e2e.cli", "serve", *words, "--device", "cpu"],
                stdout=subprocess.PIPE,
                stderr=said,
                env=environment,
                text=True,
            )
        assert self.process.stdout is not None
        address = next(line.split(": ")[0] for line in self.process.stdout if ": serves" in line)
        if not self.token:
            with Accounts(self.data / ACCESS_FILE) as accounts:
                self.token = accounts.add_token("test", "admin")
        headers = {"Authorization": f"Bearer {self.token}"}
        self.client = httpx.Client(base_url=address, headers=headers, timeout=PATIENCE_S)

    def wait_until_ready(self) -> None:
        """Wait until all its workers have their models."""
        wait_for(lambda: self.client.get("/readyz").status_code == 200)

    def processes(self) -> dict[str, int]:
        """Return the processes that its supervisor started, by role."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                words = (folder / "cmdline").read_bytes().decode().split("\0")
                if "rsna_e2e.service" in words and str(self.data) in words:
                    found[words[words.index("rsna_e2e.service") + 1]] = int(folder.name)
        return found

    def send(self, paths: list[Path], **parameters: Any) -> httpx.Response:
        """Send files in one form."""
        files = [("file", (path.name, path.read_bytes())) for path in paths]
        return self.client.post("/api/v1/studies", files=files, params=parameters)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End it by a signal to its supervisor, and return its exit code once all its processes are gone."""
        self.client.close()
        self.process.send_signal(number)
        code = self.process.wait(PATIENCE_S)
        assert self.process.stdout is not None
        self.process.stdout.close()
        wait_for(lambda: not self.processes())
        return code


def wait_for(is_so: Callable[[], bool]) -> None:
    """Wait until something is so; it may raise errors of connections until then."""
    until_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < until_s:
        with contextlib.suppress(httpx.TransportError):
            if is_so():
                return
        time.sleep(0.05)
    raise AssertionError("it never came to be so")
