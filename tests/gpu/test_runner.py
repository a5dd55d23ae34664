"""A check loses nothing: parts end alone, and what was found is on the disk whenever it is cut."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import check_gpu
import pytest
from journal import Journal, read
from page import page
from plan import BUDGET_S, COMMANDS
from runner import GRACE_S, Outcome, Part, run_parts

HERE = Path(__file__).parent
# What a part of these tests begins with: `journal`, and a figure on the disk.
BEGIN = f"""
import os, signal, sys, time
sys.path.insert(0, {str(HERE)!r})
from journal import Journal
journal = Journal(__import__("pathlib").Path(sys.argv[1]))
journal.append("figure", part=sys.argv[2], name="begun", n=1)
"""


def part(tmp_path: Path, name: str, code: str = "", limit_s: float = 20.0, **how: bool) -> Part:
    command = (sys.executable, "-c", BEGIN + code, str(tmp_path / "figures.jsonl"), name)
    return Part(name, command, limit_s, least_s=1.0, **how)


def run(tmp_path: Path, parts: list[Part], *, budget_s: float = 60.0, again: tuple[str, ...] = ()) -> list[Outcome]:
    journal = Journal(tmp_path / "figures.jsonl")
    log = tmp_path / "log.txt"
    return run_parts(parts, journal, budget_s=budget_s, log=log, environment=dict(os.environ), again=again)


def wait_for(condition: Callable[[], bool], *, timeout_s: float = 20.0) -> None:
    ends_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < ends_s, "it never came to that"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_each_part_ends_alone(tmp_path: Path) -> None:
    """One raises, one overruns its limit and leaves a child, one dies of a signal, one lacks something."""
    child = "import subprocess; print(subprocess.Popen(['sleep', '60']).pid, flush=True); time.sleep(60)"
    parts = [
        part(tmp_path, "raises", "raise RuntimeError('words of the error')"),
        part(tmp_path, "hangs", child, limit_s=2.0),
        part(tmp_path, "dies", "os.kill(os.getpid(), signal.SIGSEGV)"),
        part(tmp_path, "lacks", "sys.exit(4)"),
        part(tmp_path, "is well"),
    ]
    outcomes = run(tmp_path, parts)
    assert [(one.name, one.status) for one in outcomes] == [
        ("raises", "failed"),
        ("hangs", "overran"),
        ("dies", "died"),
        ("lacks", "missing"),
        ("is well", "passed"),
    ]
    assert outcomes[2].detail == "of SIGSEGV"
    assert 2.0 <= outcomes[1].elapsed_s < 2.0 + GRACE_S
    lines = list(read(tmp_path / "figures.jsonl"))
    assert [line["part"] for line in lines if line["kind"] == "figure"] == [one.name for one in parts]
    assert [line["status"] for line in lines if line["kind"] == "part"] == [one.status for one in outcomes]
    log = (tmp_path / "log.txt").read_text()
    assert "words of the error" in log
    (left,) = [int(text) for text in log.split() if text.isdigit()]
    wait_for(lambda: not is_alive(left), timeout_s=2.0)


def test_one_that_will_not_end_is_made_to(tmp_path: Path) -> None:
    deaf = "signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
    (outcome,) = run(tmp_path, [part(tmp_path, "deaf", deaf, limit_s=2.0)])
    assert outcome.status == "overran"
    assert outcome.elapsed_s < 2.0 + 2 * GRACE_S


def test_the_last_are_left_out_when_time_runs_short(tmp_path: Path) -> None:
    parts = [part(tmp_path, "long", "time.sleep(60)", limit_s=50.0), part(tmp_path, "next"), part(tmp_path, "last")]
    outcomes = run(tmp_path, parts, budget_s=2.0)
    assert [one.status for one in outcomes] == ["overran", "left out", "left out"]
    assert outcomes[0].elapsed_s < 2.0 + GRACE_S
    assert not any(one.is_good for one in outcomes)


def test_what_is_done_is_not_done_again_unless_asked_or_needed(tmp_path: Path) -> None:
    fails = part(tmp_path, "fails", "sys.exit(1)")
    parts = [part(tmp_path, "prepares", prepares=True), part(tmp_path, "done"), fails]
    assert [one.status for one in run(tmp_path, parts)] == ["passed", "passed", "failed"]
    assert [one.status for one in run(tmp_path, parts)] == ["passed", "done before", "failed"]
    assert [one.status for one in run(tmp_path, parts, again=("done",))] == ["passed", "passed", "failed"]
    runs = [line["part"] for line in read(tmp_path / "figures.jsonl") if line["kind"] == "figure"]
    assert runs == ["prepares", "done", "fails", "prepares", "fails", "prepares", "done", "fails"]


def test_lines_of_an_earlier_check_count_as_done(tmp_path: Path) -> None:
    parts = [part(tmp_path, "done")]
    run(tmp_path, parts)
    (tmp_path / "figures.jsonl").rename(tmp_path / "earlier.jsonl")
    journal = Journal(tmp_path / "figures.jsonl")
    journal.take_over([tmp_path / "earlier.jsonl"])
    assert list(read(journal.path)) == list(read(tmp_path / "earlier.jsonl"))
    assert [one.status for one in run(tmp_path, parts)] == ["done before"]


@pytest.mark.parametrize("n_figures", [1, 3])
def test_killed_at_any_moment_all_figures_are_there_and_nothing_runs_on(tmp_path: Path, n_figures: int) -> None:
    """SIGKILL for the whole check, in the middle of a part; then it is started again, and goes on."""
    slow = """
print(os.getpid(), flush=True)
for k in range(1000):
    journal.append("figure", part="slow", name=f"figure {k}", n=k)
    time.sleep(0.05)
"""
    figures, pids = tmp_path / "figures.jsonl", tmp_path / "log.txt"
    check = f"""
import os, sys
sys.path.insert(0, {str(HERE)!r})
from pathlib import Path
from test_runner import part, run
run(Path({str(tmp_path)!r}), [part(Path({str(tmp_path)!r}), "quick"), part(Path({str(tmp_path)!r}), "slow", {slow!r})])
"""
    process = subprocess.Popen([sys.executable, "-c", check], env={**os.environ, "PYTHONPATH": str(HERE)})
    wait_for(lambda: sum(line.get("part") == "slow" for line in read(figures)) > n_figures)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    (child,) = [int(text) for text in pids.read_text().split() if text.isdigit()]
    wait_for(lambda: not is_alive(child))
    found = [line for line in read(figures) if line["kind"] == "figure"]
    assert [line["part"] for line in found[:2]] == ["quick", "slow"]
    assert [line["n"] for line in found[2:]] == list(range(len(found) - 2))
    assert len(found) - 2 >= n_figures
    outcomes = run(tmp_path, [part(tmp_path, "quick"), part(tmp_path, "slow")])
    assert [one.status for one in outcomes] == ["done before", "passed"]


def test_a_line_that_was_cut_off_spoils_no_other(tmp_path: Path) -> None:
    path = tmp_path / "figures.jsonl"
    Journal(path).append("figure", part="a", name="whole", n=1)
    whole = path.read_bytes()
    for cut in range(1, len(whole)):
        path.write_bytes(whole + whole[:cut])
        Journal(path).append("figure", part="b", name="next", n=2)
        names = [line["name"] for line in read(path)]
        assert names == (["whole", "next"] if cut < len(whole) - 1 else ["whole", "whole", "next"])


def test_every_line_is_synced_before_it_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    path = tmp_path / "figures.jsonl"
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(path.read_text()))
    for k in range(2):
        Journal(path).append("figure", part="a", name=str(k))
        assert [json.loads(line)["name"] for line in synced[-1].splitlines()] == [str(n) for n in range(k + 1)]


def test_the_plan_fits_a_quarter_of_an_hour() -> None:
    for command, planned in COMMANDS.items():
        first = planned[0].limit_s if command == 2 else planned[0].limit_s + 20  # 20: an extension that can be loaded
        assert BUDGET_S[command] <= 600 - 30  # of a single command, with time for its end
        assert first + sum(one.limit_s for one in planned[1:-1] if one.name != "extension") <= BUDGET_S[command] + 60
    assert sum(BUDGET_S.values()) + 120 <= 15 * 60


def test_the_page_by_hand() -> None:
    machine = {"device": "NVIDIA H200", "device_mib": 143360, "driver": "580.1", "cores": 16, "python": "3.12.3"}
    lines = [
        {"kind": "machine", "utc": "2026-01-02T03:04:05Z", **machine, "torch": "2.11.0", "commit": "abc1234"},
        {"kind": "part", "part": "kernel", "status": "failed", "elapsed_s": 3.2, "detail": "exit code 1"},
        {"kind": "part", "part": "kernel", "status": "passed", "elapsed_s": 41.7, "detail": ""},
        {"kind": "figure", "part": "kernel", "name": "copy", "n": 30, "median_ms": 0.98765, "iqr_ms": 0.0123}
        | {"bytes_per_s": 4.3e12, "share_of_matrix_peak": None},
        {"kind": "figure", "part": "kernel", "name": "other", "failed": "RuntimeError: a | b\nc"},
    ]
    assert page(lines).splitlines() == [
        "# Figures of bin/check_gpu.sh",
        "",
        "NVIDIA H200, 140 GiB, driver 580.1; 16 cores, Python 3.12.3, torch 2.11.0; commit abc1234; 2026-01-02.",
        "",
        "| part | ended | s |",
        "| --- | --- | --- |",
        "| kernel | passed | 42 |",
        "",
        "## kernel",
        "",
        "| figure | n | median ms (iqr) | more |",
        "| --- | --- | --- | --- |",
        "| copy | 30 | 0.988 (0.0123) | bytes/s 4,300,000,000,000; share of matrix peak n/a |",
        "| other |  |  | **failed**: RuntimeError: a \\| b c |",
    ]


@pytest.mark.parametrize("option", ["--page", "--known", "--carried"])
def test_a_path_that_leads_nowhere_is_named(option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Instead of an empty page, or of parts that are run again."""
    with pytest.raises(SystemExit) as ended:
        check_gpu.parse([option, str(tmp_path / "nowhere")])
    assert ended.value.code == 2
    assert f"argument {option}: {tmp_path / 'nowhere'}: no such" in capsys.readouterr().err
