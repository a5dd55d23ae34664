"""What `bench serve` measures: a service that is started, asked, and gone afterwards."""

import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from itertools import islice
from pathlib import Path

import pytest
from services import wait_for

from rsna_e2e.core.errors import BadInputError, CommandFailedError
from rsna_e2e.dicom.arrival import Arrival, read_arrival
from rsna_e2e.tools.bench import serve as bench
from rsna_e2e.tools.bench import served
from rsna_e2e.tools.bench.serve import LIST, SLICE, UPLOAD

pytestmark = [pytest.mark.needs_serve, pytest.mark.usefixtures("one_thread")]


def test_a_service_is_asked_one_by_one_and_at_once(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served, "_N_HEADS", 2)
    out = tmp_path / "figures.json"
    result = bench.bench_serve(bundle, n_slices=4, n_studies=2, n_clients=2, seconds=2, device="cpu", out=out)
    assert (result.result.n, result.pictures.n, result.prepare_s.n) == (2, 2, 2)
    assert 0 < result.prepare_s.median + result.predict_s.median < result.result.longest_s
    assert result.result.p50_s <= result.result.p95_s <= result.result.longest_s
    assert result.load.latencies.keys() == {LIST, SLICE, UPLOAD}
    assert result.load.n_failed == 0
    assert result.load.studies_per_s > 0
    assert result.load.cores.keys() == {"api", "other processes", "clients"}
    assert all(0 < cores < 2 * (os.cpu_count() or 1) for cores in result.load.cores.values())
    assert result.memory_mib.keys() == {"api", "worker"}
    assert all(50 < mib < 5000 for mib in result.memory_mib.values())
    assert result.cold_start_s > 1
    assert json.loads(out.read_text())["result"]["n"] == 2
    for word in ("study of 4 slices to result", LIST, "start to ready", "2 clients", "cores taken: api", "worker"):
        assert word in str(result)


@dataclass
class Refusing:
    """A service, and its client, that answers everything with one status."""

    status: int
    cold_start_s: float = 0.0

    @contextmanager
    def client(self) -> Iterator["Refusing"]:
        yield self

    def ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        time.sleep(0.01)
        return self.status, b"{}"


@pytest.mark.parametrize(("status", "is_failure"), [(503, True), (599, True), (429, False)])
def test_what_fails_is_counted(status: int, is_failure: bool) -> None:
    asked = bench._Asked(next_archive=lambda: b"")
    asked(Refusing(status), time.monotonic() + 0.1)  # type: ignore[arg-type]
    assert len(asked.seconds[UPLOAD]) > 1
    assert (asked.n_failed == len(asked.seconds[UPLOAD])) == is_failure


def test_a_result_that_takes_long_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    states = iter(["queued", "running", "done", "done"])
    asked: list[str] = []

    class Slow:
        def json(self, path: str) -> dict[str, object]:
            asked.append(path)
            return {"state": next(states), "pictures": "done"}

    bench._until_done(Slow(), "x")  # type: ignore[arg-type]
    assert len(asked) == 3


def test_studies_differ_in_their_uid_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served, "_N_HEADS", 1)
    uids = []
    for content in islice(served.make_archives(tmp_path, n_slices=3, seed=1), 3):
        with zipfile.ZipFile(BytesIO(content)) as archive:
            files = [archive.read(name) for name in archive.namelist()]
        found = [read_arrival(BytesIO(file)) for file in files]
        assert len(found) == 3
        assert all(isinstance(one, Arrival) for one in found)
        uids.append({one.study_uid for one in found if isinstance(one, Arrival)})
    assert all(len(of_study) == 1 for of_study in uids)
    assert len(set.union(*uids)) == 3
    with pytest.raises(BadInputError, match="fewer than 500 slices"):
        next(served.make_archives(tmp_path, n_slices=500, seed=1))


def test_a_service_that_does_not_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "model.rsna").write_bytes(b"no bundle")
    with (
        pytest.raises(CommandFailedError, match=r"did not start: .*model\.rsna"),
        served.serving(tmp_path / "model.rsna", tmp_path, device="cpu", n_workers=1),
    ):
        pass


def test_cpu_time_is_that_of_a_process_and_its_children() -> None:
    own = Path(f"/proc/{os.getpid()}")
    before_s = served._cpu_s(own)
    with subprocess.Popen(["bash", "-c", "while :; do :; done"]) as busy:
        wait_for(lambda: served._cpu_s(own) > before_s + 0.3)
        assert 0.1 < served._cpu_s(Path(f"/proc/{busy.pid}")) < served._cpu_s(own)
        busy.kill()
    assert served._cpu_s(Path(f"/proc/{busy.pid}")) == 0.0  # it ended while others were read
    assert served._cpu_s(own) > before_s + 0.3


@pytest.mark.slow
def test_told_to_end_it_leaves_no_service(bundle: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "rsna_e2e.cli", "bench", "serve", str(bundle), "--slices", "4", "--seconds", "600"]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen([*words, "--studies", "1"], env=environment, stdout=subprocess.DEVNULL) as process:
        wait_for(lambda: len([*tmp_path.glob("*/data/studies/*/*/pictures")]) > bench.WARM_UP)
        process.terminate()
    assert process.returncode == 128 + signal.SIGTERM
    assert [*tmp_path.iterdir()] == []
    said = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert str(tmp_path) not in said
