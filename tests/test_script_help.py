"""Every script answers --help and -h before it sets anything up, and refuses what it does not know."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SHARED = ("help.sh", "engine.sh")  # sourced by the others
SCRIPTS = sorted(
    path for folder in ("bin", "docker") for path in (ROOT / folder).glob("*.sh") if path.name not in SHARED
)
TOOLS = ("bash", "dirname", "awk")  # neither python nor mkdir: no set-up, no folder


def run(script: Path, *arguments: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a script in `folder`, with a PATH that a set-up would fail with."""
    commands = folder.with_name("commands")
    commands.mkdir(exist_ok=True)
    for name in TOOLS:
        if not (commands / name).exists():
            (commands / name).symlink_to(str(shutil.which(name)))
    folder.mkdir(exist_ok=True)
    return subprocess.run(
        [os.path.relpath(script, folder), *arguments],
        cwd=folder,
        env={"PATH": str(commands), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_comes_before_any_set_up(script: Path, option: str, tmp_path: Path) -> None:
    name = f"{script.parent.name}/{script.name}"
    done = run(script, option, folder=tmp_path / "here")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"Usage: {name}" in done.stdout
    assert "Example" in done.stdout
    assert not list((tmp_path / "here").iterdir())


@pytest.mark.parametrize("name", ["train.sh", "pipeline.sh", "run_13_sequences.sh", "demo.sh"])
def test_help_may_be_the_last_word(name: str, tmp_path: Path) -> None:
    done = run(ROOT / "bin" / name, "store", "--help", folder=tmp_path / "here")
    assert done.returncode == 0
    assert f"Usage: bin/{name}" in done.stdout


@pytest.mark.parametrize(
    ("words", "studies", "message"),
    [
        (("--studies", "16"), "16", "demo: unknown option --studies. See "),
        (("a", "b"), "16", "demo: one folder at most, not a b. See "),
        ((), "few", "demo: STUDIES is 'few'; it must be a number of studies, such as 16"),
    ],
)
def test_the_demo_refuses_what_it_does_not_know(
    words: tuple[str, ...], studies: str, message: str, tmp_path: Path
) -> None:
    done = run(ROOT / "bin/demo.sh", *words, folder=tmp_path / "here", STUDIES=studies)
    assert done.returncode == 2
    assert done.stderr.startswith(message)
    assert not list((tmp_path / "here").iterdir())


def test_the_demo_offers_one_of_two_minutes(tmp_path: Path) -> None:
    assert "STUDIES=16 bin/demo.sh" in run(ROOT / "bin/demo.sh", "--help", folder=tmp_path / "here").stdout
