"""docker/build.sh and docker/run.sh: the command they would run, for either engine, with and without GPUs."""

import itertools
import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TOOLS = ("bash", "dirname", "awk", "id", "mkdir", "realpath", "grep")


@pytest.fixture
def commands(tmp_path: Path) -> Path:
    """A folder of commands that is all the PATH holds: no engine, no GPU."""
    folder = tmp_path / "commands"
    folder.mkdir()
    for name in TOOLS:
        (folder / name).symlink_to(str(shutil.which(name)))
    return folder


def _add(commands: Path, name: str, script: str = "exit 1") -> None:
    (commands / name).write_text(f"#!{shutil.which('bash')}\n{script}\n")
    (commands / name).chmod(0o755)


def _run(commands: Path, script: str, *arguments: str, **environment: str) -> tuple[int, str]:
    result = subprocess.run(
        [str(ROOT / "docker" / script), *arguments],
        env={"PATH": str(commands), "DRY_RUN": "1", **environment},
        cwd=commands.parent,
        capture_output=True,
        text=True,
    )
    return result.returncode, result.stdout + result.stderr


def _words(commands: Path, script: str, *arguments: str, **environment: str) -> list[str]:
    code, said = _run(commands, script, *arguments, **environment)
    assert code == 0, said
    return shlex.split(said)


def _values(words: list[str], option: str) -> list[str]:
    return [value for name, value in itertools.pairwise(words) if name == option]


@pytest.mark.parametrize("script", ["build.sh", "run.sh"])
def test_help_and_a_missing_engine(script: str, commands: Path) -> None:
    code, said = _run(commands, script, "--help")
    assert code == 0
    assert f"Usage: docker/{script}" in said
    assert "DRY_RUN=1 (print the command)" in said
    code, said = _run(commands, script, "rsna-e2e")
    assert code == 4
    assert "neither docker nor podman" in said


def test_a_stack_chooses_its_base_and_tag(commands: Path) -> None:
    _add(commands, "docker")
    words = _words(commands, "build.sh", "--pull")
    assert words[:2] == ["docker", "build"]
    assert words[-2:] == ["--pull", "."]
    assert _values(words, "--tag") == ["rsna_e2e"]
    default = next(
        line for line in (ROOT / "docker/Dockerfile").read_text().splitlines() if line.startswith("ARG BASE=")
    )
    assert _values(words, "--build-arg") == [default.removeprefix("ARG "), "STACK=cu13", "APEX=0"]
    volta = _words(commands, "build.sh", STACK="volta", APEX="1")
    assert _values(volta, "--tag") == ["rsna_e2e:volta"]
    base, stack, apex = _values(volta, "--build-arg")
    assert base.startswith("BASE=nvcr.io/nvidia/cuda:12.6")
    assert (stack, apex) == ("STACK=volta", "APEX=1")
    other = _words(commands, "build.sh", BASE="debian:bookworm", TAG="mine", PIP_INDEX_URL="http://mirror/")
    assert "BASE=debian:bookworm" in other
    assert "PIP_INDEX_URL=http://mirror/" in other
    assert "mine" in other
    assert "rsna_e2e:volta" in _words(commands, "run.sh", "rsna-e2e", STACK="volta")
    code, said = _run(commands, "build.sh", STACK="cu12")
    assert code == 2
    assert "STACK is 'cu12'; it must be cu13 or volta" in said


def test_a_command_runs_as_the_caller_on_the_mounted_folders(commands: Path, tmp_path: Path) -> None:
    _add(commands, "docker")
    (tmp_path / "my data").mkdir()
    words = _words(commands, "run.sh", "rsna-e2e", "prepare", "/data", "/out/a b", DATA="my data", RECIPE="demo")
    assert words[:2] == ["docker", "run"]
    assert words[-5:] == ["rsna_e2e", "rsna-e2e", "prepare", "/data", "/out/a b"]
    assert _values(words, "--user") == [f"{os.getuid()}:{os.getgid()}"]
    assert _values(words, "--volume") == [f"{tmp_path}/out:/out", f"{tmp_path}/my data:/data:ro"]
    assert {"OUT=/out", "DATA=/data", "HOME=/out/.home", "RECIPE=demo"} <= set(_values(words, "--env"))
    (tmp_path / "ct.zip").touch()
    archive = _words(commands, "run.sh", "rsna-e2e", DATA="ct.zip")
    assert f"{tmp_path}/ct.zip:/data.zip:ro" in _values(archive, "--volume")
    assert "DATA=/data.zip" in _values(archive, "--env")
    assert (tmp_path / "out" / ".home").is_dir()  # made by the caller, or the engine would make it root's
    assert "--ipc=host" in words
    assert not {"--gpus", "--tty", "--network=host"} & set(words)
    code, said = _run(commands, "run.sh", "rsna-e2e", DATA="nowhere")
    assert code == 3
    assert "nowhere: no such folder or archive" in said


def test_gpus_are_passed_where_there_are_any(commands: Path) -> None:
    for engine in ("docker", "podman"):
        _add(commands, engine)
    _add(commands, "nvidia-smi", 'echo "GPU 0: a"')
    assert _values(_words(commands, "run.sh", "true"), "--gpus") == ["all"]
    assert _values(_words(commands, "run.sh", "true", GPUS="device=0"), "--gpus") == ["device=0"]
    assert "--gpus" not in _words(commands, "run.sh", "true", GPUS="none")
    podman = _words(commands, "run.sh", "true", ENGINE="podman")
    assert _values(podman, "--device") == ["nvidia.com/gpu=all"]
    assert "--userns=keep-id" in podman
    _add(commands, "nvidia-smi", "echo 'No devices were found'; exit 6")
    assert "--gpus" not in _words(commands, "run.sh", "true")


def test_nodes_share_the_hosts_network(commands: Path) -> None:
    _add(commands, "docker")
    words = _words(commands, "run.sh", "bin/train.sh", NNODES="2", NODE_RANK="0", MASTER_ADDR="node0")
    assert "--network=host" in words
    assert {"NNODES=2", "NODE_RANK=0", "MASTER_ADDR=node0"} <= set(_values(words, "--env"))
