"""Builds, tests and times everything that runs on a GPU, and writes figures down as they come. Run by bin/check_gpu.sh.

On a machine that is set up, with a GPU:  bin/check_gpu.sh
Where nothing can be installed and time is short, pack here what is lacking there, carry it beside the checkout, and
give two commands there, one right after the other:

  bin/check_gpu.sh --pack        here, without a GPU: makes gpu_pack/1 and gpu_pack/2
  bin/check_gpu.sh --part 1      there, with gpu_pack/1
  bin/check_gpu.sh --part 2      there, with gpu_pack/2
  bin/check_gpu.sh --page FILE   anywhere: figures.jsonl as a page of figures
  bin/check_gpu.sh --rehearse    anywhere: all of it at tiny size on the CPU

Parts are run in the order of their value, each in a process of its own and with a limit of its own. Every figure is on
the disk, in OUT/figures.jsonl, before the next is taken: cut at any moment, nothing is lost.

Exit code 0: all is well, 1: something failed or was left out, 4: there is no GPU.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from context import store_folder
from journal import Journal, read
from packing import ROOT, PackError, Packing, pack, read_manifest
from page import page
from plan import BUDGET_S, COMMANDS, NOT_REHEARSED, ON_REQUEST, Planned, parts_of
from runner import MISSING, Outcome, run_parts

FAILED = 1
PACK_FOLDER = Path("gpu_pack")
FIGURES, LOG, PAGE = "figures.jsonl", "log.txt", "page.md"
NAMES = (*dict.fromkeys(one.name for planned in COMMANDS.values() for one in planned), ON_REQUEST.name)
SPIN = {"GOMP_SPINCOUNT": "20000"}  # as rsna-e2e does: see launch.py


def say(message: str) -> None:
    print(f"check_gpu: {message}", flush=True)


def a_file(text: str) -> Path:
    """A path, if a file is there."""
    path = Path(text)
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"{path}: no such file")
    return path


def a_folder(text: str) -> Path:
    """A path, if a folder is there."""
    path = Path(text)
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"{path}: no such folder")
    return path


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, prog="bin/check_gpu.sh"
    )
    parser.add_argument("--out", type=Path, default=Path("gpu_figures"), help="folder of what is found (%(default)s)")
    parser.add_argument("--commit", help="what to call this version; asked of git, or of what was carried")
    run = parser.add_argument_group("running")
    run.add_argument("--part", type=int, choices=COMMANDS, help="one half of all parts (both)")
    run.add_argument("--only", nargs="+", choices=NAMES, metavar="PART", help=f"these parts alone: {', '.join(NAMES)}")
    run.add_argument("--without", nargs="+", choices=NAMES, metavar="PART", default=[], help="all but these parts")
    run.add_argument(
        "--again", nargs="+", choices=NAMES, metavar="PART", default=[], help="run them though done before"
    )
    run.add_argument("--known", nargs="+", type=a_file, metavar="FILE", default=[], help="figures of earlier commands")
    run.add_argument("--sanitize", action="store_true", help="look for bad accesses and races too; takes minutes")
    run.add_argument("--budget", type=float, metavar="S", help=f"seconds in all (of --part: {BUDGET_S})")
    run.add_argument("--rehearse", action="store_true", help="on the CPU, at tiny size")
    run.add_argument("--carried", type=a_folder, metavar="FOLDER", help="what was packed (gpu_pack/1 or 2, if there)")
    run.add_argument("--scratch", type=Path, metavar="FOLDER", help="for what commands leave for each other")
    packs = parser.add_argument_group("packing")
    packs.add_argument("--pack", type=Path, nargs="?", const=PACK_FOLDER, metavar="FOLDER", help="pack (gpu_pack)")
    packs.add_argument("--python", default="312", help="of the other machine: 312 is 3.12 (%(default)s)")
    packs.add_argument("--architecture", type=int, default=90, help="of its GPU: 90 is sm_90 (%(default)s)")
    packs.add_argument("--transfer-mib", type=int, default=64, help="that may travel at a time (%(default)s)")
    parser.add_argument("--page", type=a_file, nargs="+", metavar="FILE", help="print figures.jsonl files as a page")
    return parser.parse_args(arguments)


def commit_here() -> str | None:
    """What git calls this version; None outside a checkout."""
    command = ["git", "describe", "--always", "--dirty=+", "--abbrev=7", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def make_pack(chosen: argparse.Namespace) -> int:
    """Pack, and say what to do with it."""
    packing = Packing(python=chosen.python, architecture=chosen.architecture, transfer_mib=chosen.transfer_mib)
    folder = chosen.pack
    try:
        pack(folder, packing, commit=chosen.commit or commit_here() or "unknown", say=say)
    except PackError as error:
        say(str(error))
        return FAILED
    for number in COMMANDS:
        say(f"command {number}, with the checkout and {folder / str(number)}: bin/check_gpu.sh --part {number}")
    return 0


def describe_machine(*, is_rehearsal: bool) -> tuple[dict[str, Any], str]:
    """What is checked; or nothing, and why."""
    program = Path(__file__).with_name("machine_facts.py")
    command = [sys.executable, str(program), "cpu" if is_rehearsal else "cuda"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode == 0:
        return json.loads(done.stdout), ""
    return {}, done.stdout.strip() or f"{program.name} ended with {done.returncode}"


def planned_of(chosen: argparse.Namespace) -> list[Planned]:
    """The parts that are wanted, each once, in their order."""
    numbers = [chosen.part] if chosen.part else list(COMMANDS)
    listed = [one for number in numbers for one in COMMANDS[number]]
    listed += [ON_REQUEST] if chosen.sanitize else []
    wanted = chosen.only or NAMES
    unique = list({one.name: one for one in listed}.values())
    return [one for one in unique if one.name in wanted and one.name not in chosen.without]


def environment_of(scratch: Path, *, is_rehearsal: bool) -> dict[str, str]:
    """Of the parts: the checkout first, then what was carried."""
    given = os.environ.get("PYTHONPATH")
    paths = [str(ROOT), str(scratch / "site"), *([given] if given else [])]
    stand_ins = f"{Path(__file__).parent / 'stand_ins'}:" if is_rehearsal else ""
    return {
        **SPIN,
        **os.environ,
        "PYTHONPATH": ":".join(paths),
        "PATH": stand_ins + os.environ["PATH"],
        "PYTHONUNBUFFERED": "1",
    }


def run(chosen: argparse.Namespace) -> int:
    """Run parts, and make the page of what is known then."""
    machine, problem = describe_machine(is_rehearsal=chosen.rehearse)
    if problem:
        say(problem)
        return MISSING
    carried = chosen.carried or (ROOT / PACK_FOLDER / str(chosen.part) if chosen.part else None)
    carried = carried if carried and carried.is_dir() else None
    scratch = (chosen.scratch or Path(tempfile.gettempdir()) / "rsna_e2e_gpu").resolve()
    scratch.mkdir(parents=True, exist_ok=True)
    journal = Journal(chosen.out.resolve() / FIGURES)
    journal.take_over(chosen.known)
    manifest = read_manifest(carried) if carried else {}
    commit = chosen.commit or commit_here() or manifest.get("commit", "unknown")
    say(json.dumps(journal.append("machine", **machine, commit=commit, command=chosen.part)))
    is_rehearsal = chosen.rehearse
    outcomes = run_parts(
        parts_of(planned_of(chosen), journal=journal.path, scratch=scratch, pack=carried, is_rehearsal=is_rehearsal),
        journal,
        budget_s=chosen.budget or (float("inf") if is_rehearsal else BUDGET_S.get(chosen.part, float("inf"))),
        log=chosen.out / LOG,
        environment=environment_of(scratch, is_rehearsal=is_rehearsal),
        again=chosen.again,
        say=say,
    )
    if chosen.part != 1:
        shutil.rmtree(store_folder(scratch, is_rehearsal=is_rehearsal), ignore_errors=True)
    (chosen.out / PAGE).write_text(page(journal.lines()))
    return conclude(outcomes, journal, is_rehearsal=is_rehearsal)


def conclude(outcomes: list[Outcome], journal: Journal, *, is_rehearsal: bool) -> int:
    """Say how it went; the last lines are what a terminal keeps."""
    unknown = {line["name"] for line in journal.lines("stand_in")} - set(NOT_REHEARSED)
    if is_rehearsal:
        say(f"NOT REHEARSED: {'; '.join(NOT_REHEARSED)}")
    bad = [outcome for outcome in outcomes if not outcome.is_good]
    for outcome in bad:
        say(f"NOT WELL: {outcome}")
    for line in journal.lines("figure"):
        if "failed" in line:
            say(f"FAILED: {line['part']}: {line['name']}: {line['failed'][:300]}")
    good = f"{len(outcomes) - len(bad)} of {len(outcomes)} parts are well"
    say(f"{good}; figures in {journal.path}, a page of them in {journal.path.with_name(PAGE)}")
    return FAILED if bad or unknown or not outcomes else 0


def main(arguments: list[str] | None = None) -> int:
    chosen = parse(arguments)
    if chosen.pack:
        return make_pack(chosen)
    if chosen.page:
        print(page([line for path in chosen.page for line in read(path)]))
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that a part under way ends too
    return run(chosen)


if __name__ == "__main__":
    sys.exit(main())
