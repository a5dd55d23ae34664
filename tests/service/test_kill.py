"""Whatever is killed, and whenever: each file that was acknowledged is in one study, and each study comes to the result
that it has undisturbed."""

import os
import random
import signal
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from services import Probabilities, Service, results_in, wait_for, write_study

from rsna_e2e.service.catalogue import count_states
from rsna_e2e.service.database import Database
from rsna_e2e.service.settings import read_settings

pytestmark = pytest.mark.needs_serve

SETTINGS = "quiet_s: 0.2\nlease_s: 1.0\nretry_s: [0.1]\nrestart_s: [0.1]\nattempts: 1000\nlimits: {free_bytes: 0}\n"
N_SLICES = 3
SEED = 5


@dataclass
class Sender:
    """Sends one study after the other, each file until it is acknowledged, as a scanner would."""

    service: Service
    folder: Path
    is_over: threading.Event = field(default_factory=threading.Event)
    acknowledged: dict[int, int] = field(default_factory=dict)  # files by number of their study

    def __call__(self) -> None:
        number = 0
        while not self.is_over.is_set():
            paths = write_study(self.folder, number, N_SLICES)
            if number % 2:
                self._until_acknowledged(paths, number, whole=True)
            else:
                for path in paths:
                    self._until_acknowledged([path], number, whole=False)
            number += 1
            self.is_over.wait(0.3)

    def _until_acknowledged(self, paths: list[Path], number: int, *, whole: bool) -> None:
        while True:
            try:
                if self.service.send(paths, whole=whole).status_code == 202:
                    self.acknowledged[number] = self.acknowledged.get(number, 0) + len(paths)
                    return
            except (httpx.HTTPError, RuntimeError):  # the second: of a client that is closed
                pass
            time.sleep(0.05)


@pytest.mark.parametrize("n_kills", [3, pytest.param(40, marks=pytest.mark.slow)])
def test_nothing_is_lost_twice_or_different(n_kills: int, bundle: Path, tmp_path: Path) -> None:
    service = Service(tmp_path / "data", bundle, settings=SETTINGS)
    service.start()
    service.wait_until_ready()
    sender = Sender(service, tmp_path / "raw")
    thread = threading.Thread(target=sender)
    thread.start()
    _kill(service, n_kills, random.Random(SEED))
    sender.is_over.set()
    thread.join()
    assert len(sender.acknowledged) > 1
    database = Database(read_settings(service.data))
    wait_for(lambda: set(count_states(database)) == {"done"})
    service.stop()
    found = results_in(service.data)
    files = {folder.name: len(list(folder.iterdir())) for folder in (service.data / "inbox").iterdir()}
    assert sorted(files.values()) == sorted(sender.acknowledged.values())
    noted = database.connection.execute("SELECT study, count(*) FROM files GROUP BY study").fetchall()
    assert dict(map(tuple, noted)) == files
    assert found.keys() == files.keys()
    assert _last(found, database) == _undisturbed(service, bundle, sender, tmp_path)


def _kill(service: Service, n_kills: int, rng: random.Random) -> None:
    """Kill a process of the service, or all of it, at random moments; what is gone is started again."""
    for number in range(n_kills):
        time.sleep(rng.uniform(0.2, 4.0))
        role = ("api", "worker", "all")[number % 3]
        if role == "all":
            service.stop(signal.SIGKILL)
            service.start()
        elif (process := service.processes().get(role)) is not None:
            os.kill(process, signal.SIGKILL)


def _last(
    found: dict[str, dict[str, list[list[list[float]]]]], database: Database
) -> dict[str, list[list[list[float]]]]:
    """Return the probabilities of each study by its result that counts."""
    rows = database.connection.execute("SELECT study, content, model FROM results WHERE NOT is_superseded").fetchall()
    assert len(rows) == len(found)
    return {row["study"]: found[row["study"]][f"{row['content']}-{row['model']}"] for row in rows}


def _undisturbed(service: Service, bundle: Path, sender: Sender, folder: Path) -> dict[str, Probabilities]:
    """Return what a service with the same key says of the same files that nothing disturbs."""
    calm = Service(folder / "calm", bundle, settings=SETTINGS)
    calm.data.mkdir()
    (calm.data / "key").write_bytes((service.data / "key").read_bytes())
    calm.start()
    for number in sorted(sender.acknowledged):
        answer = calm.send(write_study(folder / "raw", number, N_SLICES), wait=60)
        assert answer.status_code == 200
    assert calm.stop() == 0
    return {study: next(iter(of_study.values())) for study, of_study in results_in(calm.data).items()}
