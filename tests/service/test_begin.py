"""How a service begins: what cannot work is said before anything is made, in one line with the way out."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from services import make_desk

from rsna_e2e.cli.service import _called
from rsna_e2e.core.errors import BadInputError, CommandFailedError, MissingCapabilityError, RsnaError, UsageError
from rsna_e2e.service.settings import load_settings
from rsna_e2e.service.supervisor import Supervisor, _Child

pytestmark = pytest.mark.needs_serve

GIVEN = {"data": "d", "models": ["m.rsna"]}


def _refusal(tmp_path: Path, *, data: Path | None = None, model: Path | None = None, port: int = 0) -> RsnaError:
    settings = load_settings(None, data=data or tmp_path / "data", models=[model or tmp_path / "m.rsna"], port=port)
    with pytest.raises(RsnaError) as error, Supervisor(settings=settings):
        pass
    return error.value


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("prot: 8600", "serve.yaml: prot: no such setting; did you mean port?"),
        ("limits: {study_byts: 1}", "serve.yaml: limits.study_byts: no such setting; did you mean study_bytes?"),
        ("retention: {raw_days: -1}", "serve.yaml: retention.raw_days: Input should be greater than 0"),
        ("xyzzy: 1", "serve.yaml: xyzzy: no such setting. docs/serving.md lists all"),
        ("[1]", "expected settings with their values"),
        ("a: &b", "cannot be read|no such setting"),
    ],
)
def test_settings_are_known_and_sensible(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "serve.yaml").write_text(text)
    with pytest.raises((UsageError, BadInputError), match=said.replace("?", r"\?")):
        load_settings(tmp_path / "serve.yaml", **GIVEN)


def test_other_machines_are_answered_encrypted(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unencrypted"):
        load_settings(None, host="0.0.0.0", **GIVEN)
    with pytest.raises(UsageError, match="a certificate needs its key"):
        load_settings(None, host="0.0.0.0", tls_cert="cert.pem", **GIVEN)
    with pytest.raises(BadInputError, match=r"no-cert\.pem.*No such file"):
        load_settings(None, tls_cert=tmp_path / "no-cert.pem", tls_key=tmp_path / "no-key.pem", **GIVEN)
    for name in ("cert.pem", "key.pem"):
        (tmp_path / name).write_text("no certificate")
    with pytest.raises(BadInputError, match="no certificate with its key"):
        load_settings(None, tls_cert=tmp_path / "cert.pem", tls_key=tmp_path / "key.pem", **GIVEN)
    assert load_settings(None, host="0.0.0.0", proxies=["10.0.0.1"], **GIVEN).is_open


@pytest.mark.parametrize(
    ("host", "names", "called"),
    [
        ("127.0.0.1", (), "127.0.0.1:8600"),
        ("::1", (), "[::1]:8600"),
        ("0.0.0.0", (), "localhost:8600"),
        ("::", ("ct.example.org", "ct"), "ct.example.org:8600"),
    ],
)
def test_the_link_to_log_in_can_be_opened(host: str, names: tuple[str, ...], called: str) -> None:
    assert _called(host, 8600, names) == called


def test_what_is_no_model_is_named_before_anything_is_made(tmp_path: Path) -> None:
    assert "m.rsna: no such file or folder" in str(_refusal(tmp_path))
    assert "not a run folder" in str(_refusal(tmp_path, model=tmp_path))
    (tmp_path / "m.rsna").write_text("no bundle")
    assert "m.rsna" in str(_refusal(tmp_path))
    other = tmp_path / "other"
    other.mkdir()
    (other / "IM1.dcm").touch()
    assert "holds other files" in str(_refusal(tmp_path, data=other))
    assert [path.name for path in other.iterdir()] == ["IM1.dcm"]


def test_a_lost_key_is_not_made_anew(tmp_path: Path) -> None:
    (tmp_path / "m.rsna").write_text("no bundle")
    desk = make_desk(tmp_path / "data")
    desk.settings.key.unlink()
    assert "is gone" in str(_refusal(tmp_path))
    assert not desk.settings.key.exists()


def test_a_process_that_cannot_work_ends_the_service_at_its_first_start_alone() -> None:
    def start() -> "subprocess.Popen[bytes]":
        return subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])

    child = _Child("worker 0", start, (1.0,))
    child.look(0.0)
    assert child.process is not None
    child.process.wait()
    with pytest.raises(CommandFailedError, match="worker 0 cannot work") as error:
        child.look(1.0)
    assert error.value.exit_code == 3
    steady = _Child("worker 0", start, (1.0,))
    steady.look(0.0)
    assert steady.process is not None
    steady.look(100.0)
    steady.process.wait()
    steady.look(101.0)  # it worked for long: another start may help
    steady.look(103.0)
    assert steady.process is not None
    steady.process.wait()
    ready = _Child("worker 0", start, (1.0,), has_worked=True)
    for now_s in (0.0, 1.0, 3.0):
        ready.look(now_s)
        if ready.process is not None:
            ready.process.wait()
    assert ready.process is not None


@pytest.mark.skipif(torch.cuda.is_available(), reason="of a machine without a GPU")
def test_the_verb_says_why_its_worker_cannot_work(bundle: Path, tmp_path: Path) -> None:
    words = [str(bundle), "--data", str(tmp_path / "data"), "--port", "0", "--device", "cuda"]
    ended = subprocess.run(
        [sys.executable, "-m", "rsna_e2e.cli", "serve", *words], capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == MissingCapabilityError.exit_code
    assert "GPU" in ended.stderr
    assert "worker 0 cannot work, for the reason above" in ended.stderr
    assert "Traceback" not in ended.stderr
