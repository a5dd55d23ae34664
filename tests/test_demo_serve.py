"""bin/demo_serve.sh with a small model, run for real: what it says and leaves, and that nothing is left running."""

import os
import shutil
import signal
import socket
import subprocess
from contextlib import suppress
from pathlib import Path
from types import ModuleType

import pytest
import small
from PIL import Image
from scripts import ROOT, run_script, start_script

from rsna_e2e.core.files import lock_folder
from rsna_e2e.store import Store
from rsna_e2e.store.prepare import prepare
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.training.train import train

pytestmark = pytest.mark.needs_serve


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Path:
    """A folder with the folder `demo`: what bin/demo.sh leaves, with two studies in the test split."""
    folder = tmp_path_factory.mktemp("folder")
    out = folder / "demo"
    small.write_raw(out / "raw", n_unlabelled=2)
    prepare(out / "raw", out / "store", task=ICH, n_folds=3, n_jobs=1)
    train(Store.open(out / "store"), out / "run", small.config(), device="cpu")
    return folder


@pytest.fixture
def demo_serve(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "bin"))
    import demo_serve

    return demo_serve


def running(folder: Path) -> list[str]:
    """Return the commands of processes in which a folder is named."""
    commands = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            commands.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return [command for command in commands if str(folder) in command or "rsna_e2e-browser-" in command]


def test_every_step_of_the_service_works(folder: Path) -> None:
    done = run_script(folder, "demo_serve.sh", str(folder / "demo"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(": 4 slices, 0.0 MiB, from upload to result ") == 2
    assert done.stdout.count("Research use only, not for diagnosis.") == 2
    assert "demo_serve: stopped, and nothing of it is left running" in done.stdout
    assert running(folder) == []
    served = folder / "demo/served"
    assert "not for diagnosis" in (served / "report.html").read_text()
    log = (served / "service.log").read_text()
    assert log.count("1 results of 4 files") == 2
    assert '"error"' not in log
    sizes = {}
    for path in served.glob("*.png"):
        with Image.open(path) as picture:
            sizes[path.name] = picture.size
    if shutil.which("chromium") is None:
        assert sizes == {}
    else:
        of_widths = {1440: (1440, 900), 390: (390, 844)}
        names = ("list", "series", "map")
        assert sizes == {f"{name}-{width}.png": size for name in names for width, size in of_widths.items()}
    assert len(list((folder / "demo/service/studies").iterdir())) == 2


@pytest.mark.slow
def test_a_signal_stops_the_service_too(folder: Path) -> None:
    with start_script(folder, "demo_serve.sh", str(folder / "demo")) as process:
        assert process.stderr is not None
        said = next(line for line in process.stderr if "serve-admin" in line)  # the service is there by then
        assert any("rsna_e2e.cli serve " in command for command in running(folder))
        process.send_signal(signal.SIGTERM)
        said += process.stderr.read()
    assert process.returncode == 128 + signal.SIGTERM
    assert f"The end of {folder / 'demo/served/service.log'}:\n" in said
    assert said.endswith("demo_serve: stopped by a signal\n")
    assert running(folder) == []


def test_without_a_demo_it_says_how_to_make_one(tmp_path: Path) -> None:
    done = run_script(tmp_path, "demo_serve.sh", "out", STUDIES="16")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == "demo_serve: out/raw is missing. Make it: bin/demo.sh out\n"
    assert run_script(tmp_path, "demo_serve.sh", PORT="ten").stderr.startswith("demo_serve: PORT is 'ten'; it must be")


def test_a_port_that_is_taken_is_named(
    folder: Path, demo_serve: ModuleType, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        with pytest.raises(demo_serve.StepError, match="did not start, and ended with 2") as error:
            with demo_serve.Service(folder / "demo/run", tmp_path / "data", port, log=tmp_path / "log"):
                pass
    assert error.value.code == 2
    assert f"127.0.0.1:{port}: cannot be listened at" in capfd.readouterr().err
    assert running(tmp_path) == []


def test_a_process_that_stays_is_killed_and_counted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "bin"))
    import demo_service

    monkeypatch.setattr(demo_service, "GONE_S", 0.2)
    command = f"trap '' TERM; sleep 60 & echo started; wait # {tmp_path}"
    with subprocess.Popen(["bash", "-c", command], stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert demo_service.end_session(process.pid) == 2
    assert process.returncode == -signal.SIGKILL
    assert demo_service.end_session(process.pid) == 0


def test_data_that_are_in_use_are_left_alone(demo_serve: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "queue.sqlite").touch()
    lock = lock_folder(tmp_path)
    with pytest.raises(demo_serve.StepError, match="a service runs with these data"):
        demo_serve.make_anew(tmp_path)
    assert (tmp_path / "queue.sqlite").exists()
    os.close(lock)
    demo_serve.make_anew(tmp_path)
    assert not tmp_path.exists()


def test_files_of_another_demo_are_not_sent(folder: Path, demo_serve: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "store").symlink_to(folder / "demo/store")
    with pytest.raises(demo_serve.StepError, match="lacks 8 files of the test split"):
        demo_serve.studies_of(tmp_path)


def test_without_a_browser_it_says_so(
    demo_serve: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    demo_serve.take_pictures(None, "", 2, tmp_path)
    assert capsys.readouterr().out == "demo_serve: no chromium is installed, so there are no pictures of the pages\n"
