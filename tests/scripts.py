"""Runs a script of bin/ from a project whose set-up is done: its program is the one that is tested."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def run_script(folder: Path, name: str, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a copy of the script `name`, with these words and variables, in `folder`."""
    with start_script(folder, name, *words, **environment) as process:
        out, err = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def start_script(folder: Path, name: str, *words: str, **environment: str) -> subprocess.Popen[str]:
    """Start a copy of the script `name`, with these words and variables, in `folder`."""
    project = folder / "project"
    for part in ("bin", ".venv/bin"):
        (project / part).mkdir(parents=True, exist_ok=True)
    for script in (ROOT / "bin").glob("*.*"):
        shutil.copy(script, project / "bin")
    for path, line in (
        (project / "bin/setup.sh", ":"),
        (project / ".venv/bin/rsna-e2e", f'exec "{sys.executable}" -m rsna_e2e.cli "$@"'),
        (project / ".venv/bin/python", f'exec "{sys.executable}" "$@"'),
    ):
        path.write_text(f"#!{shutil.which('bash')}\n{line}\n")
        path.chmod(0o755)
    return subprocess.Popen(
        [str(project / "bin" / name), *words],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
