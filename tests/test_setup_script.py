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


def _last_line(project: Path, code: int, **environment: str) -> str:
    """Run the set-up, which must fail with `code`, and return the last line it says."""
    commands = project.parent / "commands"
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PIP_") and key != "CXX"}
    result = subprocess.run(
        [str(project / "bin" / "setup.sh")],
        env={**clean, "PATH": str(commands), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == code, result.stderr
    return result.stderr.strip().splitlines()[-1]


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
