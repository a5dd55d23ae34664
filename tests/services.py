"""A small model and small studies for tests of the service, and a service that runs."""

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import phantoms
import small

from rsna_e2e.core.files import read_json
from rsna_e2e.inference.export import export
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


def results_in(data: Path) -> dict[str, Any]:
    """Return all results of a service by the name of their folder."""
    return {path.parent.name: read_json(path) for path in sorted((data / "studies").glob("*/*/result.json"))}
