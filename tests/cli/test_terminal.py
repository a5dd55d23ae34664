"""What others wrote reaches a terminal as text: nothing of it moves the cursor, sets a title or breaks a line."""

import argparse
import ast
import errno
import logging
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import pytest
import small

from rsna_e2e import cli
from rsna_e2e.cli import program
from rsna_e2e.cli.verbs import tell
from rsna_e2e.core.console import field_lines, table
from rsna_e2e.core.errors import BadInputError
from rsna_e2e.evaluation.inspection.who import Named

PACKAGE = Path(__file__).parents[2] / "rsna_e2e"

# clears the screen, sets the title, rings, goes back and up a line, turns the direction of writing, breaks the line
NASTY = "a\x1b[2J\x1b]0;x\x07\b\rb\x1bMc\u202egnp\u2028d\x9b31m\ne"
HARMLESS = r"a\x1b[2J\x1b]0;x\x07\x08\rb\x1bMc\u202egnp\u2028d\x9b31m\ne"

# Where a stream may be written to, besides by `tell`: the launcher, which begins before libraries; a process that talks
# to its own parent in bytes
WRITERS = {
    "cli/verbs.py": {"print", "stdout", "stderr"},
    "training/launch.py": {"stderr"},
    "model/unpickling.py": {"stdout"},
}


def _streams_used(path: Path) -> set[str]:
    used = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
            used.add("print")
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ("sys.stdout.write", "sys.stderr.write"):
            used.add(ast.unparse(node).split(".")[1])
        if isinstance(node, ast.Attribute) and ast.unparse(node) == "sys.stdout.buffer":
            used.add("stdout")
    return used


def test_one_function_prints() -> None:
    for path in PACKAGE.rglob("*.py"):
        name = str(path.relative_to(PACKAGE))
        assert _streams_used(path) <= WRITERS.get(name, set()), name


def _is_plain(text: str) -> bool:
    return all(character.isprintable() or character == "\n" for character in text)


def test_a_line_stays_one(capsys: pytest.CaptureFixture[str]) -> None:
    tell(f"file: {NASTY}", "next")
    tell(HARMLESS, to=sys.stderr)  # escaped already
    said = capsys.readouterr()
    assert said.out == f"file: {HARMLESS}\nnext\n"
    assert said.err == f"{HARMLESS}\n"


@dataclass
class _Report:
    store: Path
    counts: dict[str, int]


def test_lines_of_reports_stay_what_they_are() -> None:
    assert field_lines(_Report(Path(NASTY), {NASTY: 1})).split("\n") == [f"store   {HARMLESS}", f"counts  {HARMLESS} 1"]
    assert table(("file", "n"), [(NASTY, "1")]).split("\n")[2] == f"{HARMLESS}  1"
    named = Named(series_key="k", patient_id=NASTY, study_uid=NASTY, series_uid=NASTY, image_ids=(NASTY, None))
    assert str(named).split("\n")[1:] == [
        f"patient id   {HARMLESS}",
        f"study uid    {HARMLESS}",
        f"series uid   {HARMLESS}",
        f"image   0    {HARMLESS}",
        "image   1    (not in the raw files)",
    ]


@pytest.mark.parametrize(
    "error",
    [BadInputError(f"{NASTY}: wrong"), OSError(errno.EACCES, NASTY, NASTY), OSError(errno.ENOSPC, "full", NASTY)],
    ids=["ours", "the system's", "full disk"],
)
def test_errors_and_warnings(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(options: argparse.Namespace) -> None:
        shown = warnings.formatwarning(UserWarning(f"passed over: {NASTY}"), UserWarning, "x.py", 3)
        sys.stderr.write(shown)  # as Python does, where pytest does not keep it
        logging.getLogger("rsna_e2e.training.step").warning("passed over: %s", NASTY)
        raise error

    monkeypatch.setattr(program, "VERBS", (lambda verbs: verbs.add_parser("fail").set_defaults(run=run),))
    assert cli.main(["fail"]) in (3, 5)
    warning, logged, line = capsys.readouterr().err.strip().split("\n")
    assert warning == f"x.py:3: UserWarning: passed over: {HARMLESS}"
    assert logged == f"warning: passed over: {HARMLESS}"
    assert not logging.getLogger("rsna_e2e").handlers  # other programs route them
    assert line.startswith(f"rsna-e2e fail: {HARMLESS}: ")
    assert _is_plain(line)


@pytest.mark.parametrize(
    "arguments",
    [
        ["prepare", NASTY, f"{NASTY}/store"],
        ["prepare", "RAW", "STORE", "--labels", NASTY],
        ["prepare", "RAW", "STORE", "--shard", NASTY],
        ["train", NASTY, "RUN", "--set", NASTY],
        ["train", NASTY, "RUN", "--recipe", NASTY],
        ["embed", NASTY, NASTY, NASTY],
        ["predict", NASTY, NASTY, "--checkpoint", NASTY],
        ["evaluate", NASTY, NASTY, "--out", NASTY],
        ["bag", NASTY, "--out", "OUT"],
        ["inspect", NASTY],
        ["store", "verify", NASTY],
        ["import-weights", NASTY, NASTY, "--kind", "images"],
        ["bag", "A", "--out", "OUT", f"--{NASTY}"],
        [NASTY],
    ],
    ids=lambda arguments: " ".join(arguments)[:20].split("\x1b")[0],
)
def test_names_that_are_given(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        code = cli.main(arguments)
    except SystemExit as parsing:
        code = parsing.code
    said = capsys.readouterr()
    assert code in (2, 3)
    assert _is_plain(said.out + said.err)
    assert said.err.strip().split("\n")[-1].startswith("rsna-e2e")


def test_what_is_in_label_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small.write_raw(tmp_path / "raw")
    for rows in (f'"{NASTY}_any",2\n', f'"{NASTY}","b","c"\n', f'"{NASTY}_any",1\n"{NASTY}_any",0\n', "\0\0_any,2\n"):
        (tmp_path / "labels.csv").write_text(f"ID,Label\n{rows}")
        command = ["prepare", str(tmp_path / "raw"), str(tmp_path / "store"), "--labels", str(tmp_path / "labels.csv")]
        assert cli.main([*command, "--jobs", "1"]) == 3
        said = capsys.readouterr().err
        assert _is_plain(said)
        assert len(said.strip().split("\n")) == 1
