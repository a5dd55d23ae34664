"""A folder in which a block of shell commands runs with stand-ins: each writes down how it was called, no more.

Scripts of the project run as they are, but for those of `NOT_RUN`; behind them stands a .venv of the same stand-ins.
"""

import shutil
import subprocess
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from documents import ROOT

# What scripts and blocks may use as it is
TOOLS = (
    *("awk", "bash", "cat", "cp", "cut", "dirname", "env", "find", "grep", "head", "id", "ln", "ls", "mkdir", "mktemp"),
    *("mv", "realpath", "rm", "rmdir", "sleep", "sort", "tail", "touch", "tr", "uname", "wc", "xargs"),
)

# Scripts whose own work is another machine's or an hour's: only their arguments are looked at
NOT_RUN = ("bin/setup.sh", "bin/same_results.sh", "docker/check.sh")

LONGEST_S = 60.0  # of a block of stand-ins, which takes some 0.1

STAND_IN = r"""#!/usr/bin/env bash
mapfile -d '' -t environment </proc/$$/environ
call=$CALLS/${EPOCHREALTIME//[.,]/}-$$
printf '%s\0' "${environment[@]}" >"$call.environment"
printf '%s\0' "$0" "$@" >"$call.words"
slurm() {
  while [[ ${1:-} == -* ]]; do shift; done
  export SLURM_JOB_ID=1 SLURM_JOB_NUM_NODES=2 SLURM_NODEID=1 SLURM_LOCALID=0 SLURM_JOB_NODELIST=node[0-1]
  exec "$@"
}
case ${0##*/} in
  sudo) exec "$@" ;;
  srun) [[ ! ${SRUN_ENDS_WITH:-} ]] || exit "$SRUN_ENDS_WITH"; slurm "$@" ;;
  sbatch) slurm bash "${@: -1}" ;;
  scontrol) [[ $1 != show ]] || printf '%s\n' node0 node1 ;;
  git) if [[ $1 == clone ]]; then name=${2##*/}; ln -s . "${3:-${name%.git}}"; fi ;;
  python*) if [[ ${1:-} == -m && ${2:-} == venv ]]; then mkdir -p "${@: -1}/bin"; cp "$0" "${@: -1}/bin/python"; fi ;;
esac
"""

# A command that is none, of the block itself: scripts ask for some that may be lacking
UNKNOWN = r"""
command_not_found_handle() {
  if [[ $0 == *.block ]]; then echo "no rule for the command: $1" >"$CALLS/unknown"; fi
  return 127
}
"""


@dataclass(frozen=True)
class Call:
    """The words of a command, the first without its folder, and the environment that it was given."""

    words: tuple[str, ...]
    environment: Mapping[str, str]

    def __str__(self) -> str:
        return " ".join(self.words)


class BlockError(Exception):
    """A block that does not run: what was said."""


@dataclass(frozen=True)
class Workshop:
    """One copy of the scripts, for one block, with `stand_ins` for commands."""

    folder: Path

    @classmethod
    def make(cls, folder: Path, *, stand_ins: Collection[str]) -> "Workshop":
        for name in ("bin", "docker", "requirements"):
            shutil.copytree(ROOT / name, folder / name)
        for made in ("commands", ".venv/bin", "home", "csrc", "tests"):
            (folder / made).mkdir(parents=True)
        (folder / "prelude").write_text(UNKNOWN)
        for tool in TOOLS:
            (folder / "commands" / tool).symlink_to(str(shutil.which(tool)))
        for name in stand_ins:
            _write_stand_in(folder / "commands" / name)
            _write_stand_in(folder / ".venv/bin" / name)
        for name in NOT_RUN:
            _write_stand_in(folder / name)
        (folder / ".venv/bin/activate").write_text(f"PATH={folder}/.venv/bin:$PATH\n")
        return cls(folder)

    def run(self, block: str, environment: Mapping[str, str], words: Sequence[str] = ()) -> list[Call]:
        """Run lines of bash with `words` as arguments; the first that fails ends them. Returns what they call."""
        script, calls = self.folder / "lines.block", self.folder / "calls"
        shutil.rmtree(calls, ignore_errors=True)
        calls.mkdir()
        script.write_text(block)
        own = {"PATH": str(self.folder / "commands"), "HOME": str(self.folder / "home"), "CALLS": str(calls)}
        done = subprocess.run(
            ["bash", "-euo", "pipefail", str(script), *words],
            cwd=self.folder,
            env={"BASH_ENV": str(self.folder / "prelude"), "LC_ALL": "C", **own, **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LONGEST_S,
        )
        if (calls / "unknown").exists():
            raise BlockError((calls / "unknown").read_text())
        if done.returncode:
            raise BlockError(f"ends with {done.returncode}: {(done.stdout + done.stderr).strip()}")
        return self.calls()

    def calls(self) -> list[Call]:
        """What the lines that ran last have called."""
        return [self._read(path) for path in sorted((self.folder / "calls").glob("*.words"))]

    def _read(self, path: Path) -> Call:
        command, *words = path.read_text().split("\0")[:-1]
        for script in NOT_RUN:
            if Path(command).resolve() == self.folder / script:
                return Call((script, *words), {})
        pairs = (pair.partition("=") for pair in path.with_suffix(".environment").read_text().split("\0")[:-1])
        return Call((Path(command).name, *words), {name: value for name, _, value in pairs})


def _write_stand_in(path: Path) -> None:
    path.write_text(STAND_IN.replace("/usr/bin/env bash", str(shutil.which("bash"))))
    path.chmod(0o755)
