"""bin/setup.sh on machines that lack something: one clear last line, the documented exit code, nothing installed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TOOLS = (
    "bash",
    "dirname",
    "uname",
    "df",
    "awk",
    "cat",
    "find",
    "sort",
    "xargs",
    "sha256sum",
    "cut",
    "rm",
    "tail",
    "grep",
)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of what the set-up reads, and a folder of commands that is all its PATH holds."""
    folder = tmp_path / "project"
    for name in ("bin", "csrc", "requirements"):
        shutil.copytree(ROOT / name, folder / name)
    for name in ("setup.py", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    commands = tmp_path / "commands"
    commands.mkdir()
    for name in TOOLS:
        (commands / name).symlink_to(str(shutil.which(name)))
    _command(commands / "python3", f'exec {sys.executable} "$@"')
    _command(commands / "g++", "exit 1")
    return folder


def _command(path: Path, script: str) -> None:
    path.unlink(missing_ok=True)
    path.write_text(f"#!{shutil.which('bash')}\n{script}\n")
    path.chmod(0o755)


def _run(project: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    commands = project.parent / "commands"
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("PIP_", "RSNA_", "CUDA_"))}
    for key in ("CXX", "STACK", "PYTHON"):
        clean.pop(key, None)
    return subprocess.run(
        [str(project / "bin" / "setup.sh"), *arguments],
        env={**clean, "PATH": str(commands), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def _last_line(project: Path, code: int, *arguments: str, **environment: str) -> str:
    """Run the set-up, which must fail with `code`, and return the last line it says."""
    result = _run(project, *arguments, **environment)
    assert result.returncode == code, result.stderr
    return result.stderr.strip().splitlines()[-1]


def _system_with(project: Path, **versions: str) -> None:
    """Make python3 one whose system holds these packages and no others."""
    commands, packages = project.parent / "commands", project.parent / "packages"
    for name, version in versions.items():
        folder = packages / f"{name}-{version}.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    ask_base = f'if [[ "$*" == *_base_executable* ]]; then echo {commands}/python3; exit; fi'
    _command(commands / "python3", f'{ask_base}; PYTHONPATH={packages} exec {sys.executable} -S "$@"')
    _command(commands / "df", "echo header; echo disk 9 9 99999999 9% /")


def _venv_that_notes_calls(project: Path, stack: str) -> Path:
    """Put one there as if made earlier; its calls are appended to the file that is returned."""
    calls = project.parent / "calls"
    (project / ".venv" / "bin").mkdir(parents=True)
    (project / ".venv" / "stack").write_text(f"{stack}\n")
    script = f'echo "$*" >>{calls}; if [[ $* == *wanted.txt ]]; then cp -n .venv/wanted.txt {calls}.wanted; fi'
    (project.parent / "commands" / "cp").symlink_to(str(shutil.which("cp")))
    _command(project / ".venv" / "bin" / "python", f"{script}; echo rsna_e2e: CUDA half: no, this is a stand-in")
    return calls


def test_no_python(project: Path) -> None:
    assert "no python3.99. Install Python 3.11 or newer" in _last_line(project, 4, PYTHON="python3.99")


def test_an_old_python(project: Path) -> None:
    _command(project.parent / "commands" / "python3", 'if [[ $1 == -c ]]; then exit 1; fi; echo "Python 3.8.10"')
    assert "Python 3.8.10 is too old" in _last_line(project, 4)


def test_no_compiler(project: Path) -> None:
    (project.parent / "commands" / "g++").unlink()
    assert "no C++ compiler. On Debian and Ubuntu: apt-get install g++" in _last_line(project, 4)
    assert not (project / ".venv").exists()


def test_a_full_disk(project: Path) -> None:
    _command(project.parent / "commands" / "df", "echo header; echo disk 9 9 1048576 9% /")
    assert "needs 12 GB of disk" in _last_line(project, 5)
    assert not (project / ".venv").exists()


def test_no_network(project: Path) -> None:
    _command(project.parent / "commands" / "df", "echo header; echo disk 9 9 99999999 9% /")
    line = _last_line(project, 4, PIP_INDEX_URL="http://127.0.0.1:9/", PIP_RETRIES="1", PIP_CONFIG_FILE=os.devnull)
    assert "the package index cannot be reached. Connect to the network" in line


@pytest.mark.parametrize("stack", ["cu13", "volta"])
def test_a_stack_reads_its_lock_and_is_remembered(stack: str, project: Path) -> None:
    calls = _venv_that_notes_calls(project, stack)
    _command(project.parent / "commands" / "df", "echo header; echo disk 9 9 99999999 9% /")
    assert _run(project, STACK=stack).returncode == 0
    assert f"-r requirements/{stack}.txt" in calls.read_text()
    calls.unlink()
    assert _run(project).returncode == 0
    assert not calls.exists()  # nothing changed, nothing done


def test_only_what_changed_is_done_again_and_said(project: Path) -> None:
    calls = _venv_that_notes_calls(project, "cu13")
    _command(project.parent / "commands" / "df", "echo header; echo disk 9 9 99999999 9% /")
    said = _run(project).stderr.splitlines()
    assert said[0].startswith("setup: installing the locked dependencies of cu13 (7.7 GB")
    assert said[1] == "setup: building the extension"
    calls.unlink()
    with next((project / "csrc").rglob("*.cpp")).open("a") as source:
        source.write("// changed\n")
    said = _run(project).stderr.splitlines()
    assert said[0] == "setup: the sources or options of the build changed: building the extension again"
    assert "-r requirements" not in calls.read_text()
    assert "--editable ." in calls.read_text()
    with (project / "requirements" / "cu13.txt").open("a") as lock:
        lock.write("# changed\n")
    said = _run(project).stderr.splitlines()
    assert said[0] == "setup: the locked dependencies, Python or the system's packages changed"
    assert said[1].startswith("setup: installing the locked dependencies of cu13")
    assert said[2] == "setup: building the extension"
    calls.unlink()
    assert _run(project).stderr == ""
    assert not calls.exists()


def test_a_build_that_failed_leaves_what_is_installed(project: Path) -> None:
    calls = _venv_that_notes_calls(project, "cu13")
    _command(project.parent / "commands" / "df", "echo header; echo disk 9 9 99999999 9% /")
    python = project / ".venv" / "bin" / "python"
    works = python.read_text()
    python.write_text(works.replace("\n", "\nif [[ $* == *--editable* ]]; then exit 1; fi\n", 1))
    assert "could not finish: building the extension" in _last_line(project, 4)
    python.write_text(works)
    calls.unlink()
    assert _run(project).returncode == 0
    assert "-r requirements" not in calls.read_text()


def test_stacks_do_not_mix(project: Path) -> None:
    _venv_that_notes_calls(project, "volta")
    assert "made with the stack volta. To make one with cu13: rm -r .venv" in _last_line(project, 2, STACK="cu13")
    assert "made with the stack volta. To make one with system: rm -r .venv" in _last_line(project, 2, "--system-torch")
    assert "STACK is 'cu12'; it must be cu13 or volta" in _last_line(project, 2, STACK="cu12")
    assert "unknown option --system" in _last_line(project, 2, "--system")


@pytest.mark.parametrize(
    ("versions", "message"),
    [
        ({}, "has no torch. Leave the option away to install the locked one"),
        (
            {"torch": "2.10.0a0+b4e4ee81d3.nv25.12"},
            "torch is 2.10.0a0+b4e4ee81d3.nv25.12: the extension uses the stable",
        ),
        ({"torch": "2.12.0"}, "the system has no torchvision for its torch 2.12.0"),
    ],
)
def test_a_system_without_a_torch_that_fits(versions: dict[str, str], message: str, project: Path) -> None:
    _system_with(project, **versions)
    assert message in _last_line(project, 4, "--system-torch")
    assert not (project / ".venv").exists()


def test_nothing_of_the_systems_torch_is_replaced(project: Path) -> None:
    _system_with(
        project, torch="2.12.0a0+5aff3928d8.nv26.05", torchvision="0.27.0a0", nvidia_dali_cuda130="2.1.0", six="1.0"
    )
    calls = _venv_that_notes_calls(project, "system")
    result = _run(project, "--system-torch")
    assert result.returncode == 0, result.stderr
    kept = "nvidia-dali-cuda130 2.1.0, torch 2.12.0a0+5aff3928d8.nv26.05, torchvision 0.27.0a0"
    assert f"kept as the system has them: {kept}\n" in result.stderr
    wanted = {line.split("==")[0] for line in Path(f"{calls}.wanted").read_text().splitlines()}
    of_devices = {"torch", "torchvision", "triton", "cuda-toolkit", "nvidia-cublas", "nvidia-dali-cuda130"}
    assert not of_devices & wanted
    assert {"timm", "numpy", "nvtx", "six", "nvidia-cuda-nvrtc-cu12"} <= wanted
    installs = [call for call in calls.read_text().splitlines() if "pip install" in call]
    assert "--no-deps -r .venv/wanted.txt" in installs[0]
    assert all("--no-deps" in call for call in installs)
    calls.unlink()
    assert _run(project).returncode == 0  # what it was made with stays
    assert not calls.exists()
    (project.parent / "packages" / "apex-0.1.dist-info").mkdir()
    (project.parent / "packages" / "apex-0.1.dist-info" / "METADATA").write_text("Name: apex\nVersion: 0.1\n")
    assert _run(project).returncode == 0
    assert calls.exists()  # another system, another .venv


def test_the_locks_differ_in_devices_only() -> None:
    def rest(name: str) -> set[str]:
        lines = (ROOT / "requirements" / name).read_text().splitlines()
        devices = ("nvidia-", "cuda-", "torch", "triton", "setuptools", "#", "--")
        return {line for line in lines if not line.startswith(devices)}

    assert rest("cu13.txt") == rest("volta.txt")
