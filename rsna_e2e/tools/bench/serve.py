"""`rsna-e2e bench serve`: a service asked as its users ask it: one study at a time, and by several clients at once."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from rsna_e2e.config import load_config
from rsna_e2e.core.console import number, table
from rsna_e2e.core.records import Progress, no_progress
from rsna_e2e.inference.export import export
from rsna_e2e.service.database import UNDONE
from rsna_e2e.tools.bench.embed import make_run
from rsna_e2e.tools.bench.machine import Machine
from rsna_e2e.tools.bench.served import PATIENCE_S, Client, Served, make_archives, serving
from rsna_e2e.tools.bench.studies import opened_store, scratch_folder
from rsna_e2e.tools.bench.timing import Summary, summarise
from rsna_e2e.tools.bench.write import check_out, spread, write_result

SEED = 3
WARM_UP = 2  # studies that are sent before any is timed
_PERCENT = (50, 95)
WAIT_S = 60.0  # the longest that the service waits
_BETWEEN_S = 0.2  # between two looks at whether a study is done, of several clients
_PAUSE_S = 0.02  # between two looks at whether pictures are there
LIST, SLICE, UPLOAD = "list of studies", "slice", "upload of a study"


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Seconds of n requests: median, 95th percentile, longest."""

    n: int
    p50_s: float
    p95_s: float
    longest_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Clients that each send a study, ask for the list and for a slice, over and over. studies_per_s: with a result;
    of_alone: that over one study after the other, without pictures. n_failed: answers of 500 and more, or none. cores:
    CPU cores that the api, all else of the service, and the clients took on average."""

    n_clients: int
    seconds: float
    latencies: dict[str, Latency]
    studies_per_s: float
    of_alone: float
    n_failed: int
    cores: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeResult:
    """One study after the other: seconds from sending it to its result, of these preparing and predicting, and from the
    result to its pictures. memory_mib: of the service's processes at the end, by role."""

    machine: Machine
    model: str
    n_slices: int
    n_workers: int
    cold_start_s: float
    result: Latency
    prepare_s: Summary
    predict_s: Summary
    pictures: Latency
    load: Load
    memory_mib: dict[str, float]

    def __str__(self) -> str:
        alone = {f"study of {self.n_slices} slices to result": self.result, "result to pictures": self.pictures}
        rows = [(name, *_cells(one)) for name, one in (alone | self.load.latencies).items()]
        memory = ", ".join(f"{role} {number(mib)} MiB" for role, mib in self.memory_mib.items())
        cores = ", ".join(f"{who} {of_who:.2f}" for who, of_who in self.load.cores.items())
        return (
            f"{self.machine}\nmodel {self.model}, {self.n_workers} workers\n\n"
            f"{table(('what', 'n', 'p50 s', 'p95 s', 'longest s'), rows)}\n\n"
            f"start to ready {number(self.cold_start_s)} s; of a study prepare {spread(self.prepare_s)} s, predict "
            f"{spread(self.predict_s)} s\n{self.load.n_clients} clients for {number(self.load.seconds)} s: "
            f"{number(self.load.studies_per_s)} studies/s, {self.load.of_alone:.2f} of one after the other; "
            f"{self.load.n_failed} failed; cores taken: {cores}\nmemory: {memory}"
        )


def bench_serve(
    model: Path | None,
    *,
    n_slices: int = 40,
    n_studies: int = 30,
    n_clients: int = 8,
    seconds: int = 60,
    n_workers: int = 1,
    device: str = "auto",
    out: Path | None = None,
    progress: Progress = no_progress,
) -> ServeResult:
    """Start a service with a bundle, or the demo recipe's network without training, and ask it over the loopback.

    Raises what `serving` and `make_archives` raise.
    """
    check_out(out)
    machine = Machine.here()
    with scratch_folder() as folder:
        path = model or _untrained(folder)
        archives = make_archives(folder, n_slices=n_slices, seed=SEED)
        with serving(path, folder, device=device, n_workers=n_workers) as served:
            alone = _Alone.measured(served, islice(archives, WARM_UP + n_studies), n_studies, progress)
            load = _load(served, archives, alone, n_clients=n_clients, seconds=seconds)
            memory_mib = served.memory_mib()
    result = ServeResult(
        machine=machine,
        model=path.name,
        n_slices=n_slices,
        n_workers=n_workers,
        cold_start_s=served.cold_start_s,
        result=_latency(alone.result_s),
        prepare_s=summarise(alone.prepare_s),
        predict_s=summarise(alone.predict_s),
        pictures=_latency(alone.pictures_s),
        load=load,
        memory_mib=memory_mib,
    )
    write_result(out, "serve", asdict(result))
    return result


def _untrained(folder: Path) -> Path:
    """Export the network of the demo recipe as it is before training."""
    with opened_store(None) as store:
        run = make_run(folder / "run", store, load_config("demo"))
    return export([run], folder / "untrained.rsna", name="untrained", version="0", licence="MIT").path


@dataclass(slots=True)
class _Alone:
    """Seconds of studies that were sent one after the other."""

    result_s: list[float] = field(default_factory=list)
    prepare_s: list[float] = field(default_factory=list)
    predict_s: list[float] = field(default_factory=list)
    pictures_s: list[float] = field(default_factory=list)

    @classmethod
    def measured(cls, served: Served, archives: Iterator[bytes], n_studies: int, progress: Progress) -> "_Alone":
        """Send studies, each when the pictures of the one before are there; the first are not counted."""
        found = cls()
        with served.client() as client:
            for place, archive in enumerate(archives):
                sent_s = time.perf_counter()
                (study,) = client.send(archive, wait_s=WAIT_S)
                _until_done(client, study)
                done_s = time.perf_counter()
                said = _with_pictures(client, study)
                if place >= WARM_UP:
                    found.result_s.append(done_s - sent_s)
                    found.prepare_s.append(said["timing_s"]["prepare"])
                    found.predict_s.append(said["timing_s"]["predict"])
                    found.pictures_s.append(time.perf_counter() - done_s)
                    progress(len(found.result_s), n_studies, "one after the other")
        return found


def _until_done(client: Client, study: str) -> None:
    """Wait for the result of a study, which most often is there at once."""
    while client.json(f"/api/v1/studies/{study}?wait={WAIT_S:g}")["state"] in UNDONE:
        pass


def _with_pictures(client: Client, study: str) -> dict[str, Any]:
    """Return what is known of a study once its pictures are there. Raises TimeoutError."""
    until_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < until_s:
        found: dict[str, Any] = client.json(f"/api/v1/studies/{study}")
        if found["pictures"] == "done":
            return found
        time.sleep(_PAUSE_S)
    raise TimeoutError("pictures of a study did not come")


def _load(served: Served, archives: Iterator[bytes], alone: _Alone, *, n_clients: int, seconds: int) -> Load:
    asked = _Asked(next_archive=_shared(archives))
    before_s, begun_s = _cpu_s(served), time.monotonic()
    arguments = (served, begun_s + seconds)
    threads = [threading.Thread(target=asked, args=arguments, daemon=True) for _ in range(n_clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took_s = time.monotonic() - begun_s
    cores = {who: (now_s - before_s[who]) / took_s for who, now_s in _cpu_s(served).items()}
    studies_per_s = len(asked.seconds[SLICE]) / took_s
    alone_s = float(np.median(np.add(alone.prepare_s, alone.predict_s)))
    return Load(
        n_clients=n_clients,
        seconds=took_s,
        latencies={name: _latency(values) for name, values in asked.seconds.items() if values},
        studies_per_s=studies_per_s,
        of_alone=studies_per_s * alone_s,
        n_failed=asked.n_failed,
        cores=cores,
    )


def _cpu_s(served: Served) -> dict[str, float]:
    return {**served.cpu_s(), "clients": time.process_time()}


def _shared(archives: Iterator[bytes]) -> Callable[[], bytes]:
    lock = threading.Lock()

    def take() -> bytes:
        with lock:
            return next(archives)

    return take


@dataclass(slots=True)
class _Asked:
    """What clients asked, and how long that took."""

    next_archive: Callable[[], bytes]
    seconds: dict[str, list[float]] = field(default_factory=lambda: {LIST: [], SLICE: [], UPLOAD: []})
    n_failed: int = 0

    def __call__(self, served: Served, until_s: float) -> None:
        """Ask in turns until then. A study is sent when the one before is done, so that the queue stays short."""
        with served.client() as client:
            while time.monotonic() < until_s:
                body = self._timed(client, UPLOAD, "POST", "/api/v1/studies", self.next_archive())
                if body is not None:
                    self._look_at(client, json.loads(body)["studies"][0]["study"], until_s)

    def _look_at(self, client: Client, study: str, until_s: float) -> None:
        """Ask for the list until a study is done, then for a slice of it."""
        while time.monotonic() < until_s:
            self._timed(client, LIST, "GET", "/api/v1/studies")
            status, body = client.ask("GET", f"/api/v1/studies/{study}/result")
            if status == 200:
                series = json.loads(body)["series"][0]["key"]
                self._timed(client, SLICE, "GET", f"/api/v1/studies/{study}/series/{series}/slices/0")
                return
            self.n_failed += status >= 500
            time.sleep(_BETWEEN_S)

    def _timed(self, client: Client, name: str, method: str, path: str, body: bytes | None = None) -> bytes | None:
        """Ask, and note how long that took; None where the answer is an error."""
        begun_s = time.perf_counter()
        status, answer = client.ask(method, path, body)
        self.seconds[name].append(time.perf_counter() - begun_s)
        self.n_failed += status >= 500
        return answer if status < 400 else None


def _latency(values: list[float]) -> Latency:
    p50_s, p95_s = np.percentile(values, _PERCENT).tolist()
    return Latency(n=len(values), p50_s=p50_s, p95_s=p95_s, longest_s=max(values))


def _cells(one: Latency) -> tuple[str, ...]:
    return str(one.n), *(number(value) for value in (one.p50_s, one.p95_s, one.longest_s))
