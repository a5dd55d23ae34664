"""docker/serve.sh and docker/compose.yaml: what the container may do; its command and health check, run over TLS."""

import os
import shlex
import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from string import Template
from typing import Any

import httpx
import pytest
import yaml
from command_rules import parse_verb
from documents import ROOT, Document
from services import wait_for
from workshop import Workshop

pytestmark = pytest.mark.needs_serve

HOST = "127.0.0.2"  # of this machine alone, and not one of those that the service takes for such
MADE = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"


@pytest.fixture
def files(tmp_path: Path, bundle: Path) -> dict[str, str]:
    """What the variables of docker/serve.sh name."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs openssl")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    names = f"subjectAltName=DNS:localhost,IP:{HOST}"
    words = [openssl, *MADE.split(), "-addext", names, "-keyout", str(key), "-out", str(cert)]
    subprocess.run(words, check=True, capture_output=True)
    return {"MODEL": str(bundle), "DATA": str(tmp_path / "data"), "TLS_CERT": str(cert), "TLS_KEY": str(key)}


def _run(files: dict[str, str], *words: str, docker: int = 0, **variables: str) -> "subprocess.CompletedProcess[str]":
    """Run docker/serve.sh where a docker is that ends with this code, and is asked for nothing but its version."""
    folder = Path(files["TLS_CERT"]).parent
    for name, code in (("docker", docker), ("nvidia-smi", 1)):
        (folder / name).write_text(f"#!/bin/sh\nexit {code}\n")
        (folder / name).chmod(0o755)
    environment = {"PATH": f"{folder}:{os.environ['PATH']}", "DRY_RUN": "1", **files, **variables}
    return subprocess.run(
        [ROOT / "docker/serve.sh", *words], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def _composed(files: dict[str, str], port: str = "8600") -> Any:
    """Return the description of the container, with all variables that docker/serve.sh sets, and no other."""
    done = _run(files, "config", PORT=port)
    assert done.returncode == 0, done.stderr
    program, *words = shlex.split(done.stdout)
    given = dict(word.split("=", 1) for word in words[: words.index("docker")])
    assert (program, words[words.index("docker") + 1], words[-1]) == ("env", "compose", "config")
    (path,) = (Path(word) for before, word in pairwise(words) if before == "--file")
    return yaml.safe_load(Template(path.read_text()).substitute(given))


def test_the_container_may_do_little(files: dict[str, str]) -> None:
    composed = _composed(files)
    (service,) = composed["services"].values()
    assert service["user"] == f"{os.getuid()}:{os.getgid()}"
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "cap_add", "devices", "network_mode", "pid", "ipc"} & set(service)
    assert service["ports"] == ["127.0.0.1:8600:8600"]
    written = [volume["target"] for volume in service["volumes"] if not volume.get("read_only")]
    assert written == ["/data"]
    assert all(Path(volume["source"]).exists() for volume in service["volumes"])
    assert set(service["secrets"]) == set(composed["secrets"])
    assert (Path(files["DATA"])).is_dir()  # made by the caller, or the engine would make it root's


def test_what_is_missing_is_said(files: dict[str, str]) -> None:
    for name in ("MODEL", "TLS_CERT", "TLS_KEY"):
        unset, nowhere = _run(files, "up", **{name: ""}), _run(files, "up", **{name: "nowhere"})
        assert (unset.returncode, nowhere.returncode) == (2, 3)
        assert f"serve: {name} is not set" in unset.stderr
        assert "serve: nowhere: no such file" in nowhere.stderr
    assert _run(files, "up", GPUS="device=0").returncode == 2
    without = _run(files, "up", docker=1)
    assert (without.returncode, without.stderr) == (
        4,
        "serve: no docker compose. Install docker and its compose plugin\n",
    )
    assert "docker/compose.gpu.yaml up" in _run(files, "up", GPUS="all").stdout


def test_the_commands_of_the_page_are_understood(files: dict[str, str], tmp_path: Path) -> None:
    (block,) = [block for block in Document.read("docs/serving.md").blocks if block.marker == "container"]
    workshop = Workshop.make(tmp_path / "workshop", stand_ins={"docker"})
    for name in ("model.rsna", "cert.pem", "key.pem"):
        (workshop.folder / name).touch()
    calls = [call.words for call in workshop.run(block.text, {})]
    asked = [words[words.index("--file") + 2 :] for words in calls if words[1:3] == ("compose", "--file")]
    assert [words[0] for words in asked] == ["up", "logs", "exec", "down"]
    for _, service, program, *inside in (words for words in asked if words[0] == "exec"):
        assert (service, program) == ("serve", "rsna-e2e")
        assert str(parse_verb(inside).data) == "/data"


@contextmanager
def _serving(files: dict[str, str], port: str) -> Iterator[tuple[str, list[str]]]:
    """Run the container's command here, with what is mounted in its own place; yield the link to log in by and the
    health check."""
    composed = _composed(files, port)
    (service,) = composed["services"].values()
    places = {volume["target"]: volume["source"] for volume in service["volumes"]}
    places |= {f"/run/secrets/{name}": secret["file"] for name, secret in composed["secrets"].items()}
    places |= {"0.0.0.0": HOST, "127.0.0.1": HOST}

    def here(word: str) -> str:
        for place, own in places.items():
            word = word.replace(place, own)
        return word

    program, *words = service["command"]
    assert program == "rsna-e2e"
    kind, python, *check = map(here, service["healthcheck"]["test"])
    assert (kind, python) == ("CMD", "python")
    command = [sys.executable, "-m", "rsna_e2e.cli", *map(here, words), "--device", "cpu"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            link = next(line.split()[-1] for line in process.stdout if "/login#token=" in line)
            next(line for line in process.stdout if ": serves" in line)
            yield link, [sys.executable, *check]
        finally:
            process.terminate()


def test_its_command_serves_over_tls(files: dict[str, str]) -> None:
    with socket.socket() as free:
        free.bind((HOST, 0))
        port = str(free.getsockname()[1])
    with _serving(files, port) as (link, health):
        address, token = link.split("/login#token=")
        assert address == f"https://{HOST}:{port}"
        trusted = ssl.create_default_context(cafile=files["TLS_CERT"])
        with httpx.Client(base_url=address, verify=trusted, timeout=60.0, trust_env=False) as client:
            wait_for(lambda: client.get("/readyz").status_code == 200)
            assert subprocess.run(health, check=False).returncode == 0
            own = {"X-Requested-With": "rsna_e2e", "Origin": address}
            entered = client.post("/api/v1/login", json={"token": token}, headers=own)
            assert entered.json()["role"] == "admin"
            cookie = entered.headers["set-cookie"]
            assert cookie.startswith("__Host-rsna_e2e=")
            assert {"Secure", "HttpOnly"} <= {word.strip() for word in cookie.split(";")}
            assert client.get("/api/v1/me").json()["role"] == "admin"
        with pytest.raises(httpx.TransportError):  # unencrypted
            httpx.get(f"http://{HOST}:{port}/healthz", trust_env=False)
    assert subprocess.run(health, check=False, stderr=subprocess.DEVNULL).returncode != 0
