import io
import re
import time
from dataclasses import dataclass

import pytest
from rich.console import Console

from rsna_e2e.core.console import field_lines, progress_bar


@dataclass
class _Report:
    n_slices: int
    share: float
    refusals: dict[str, int]
    repairs: dict[str, int]


def test_a_report_is_shown_line_by_line() -> None:
    assert field_lines(_Report(9121, 0.123456, {"not_ct": 2, "localizer": 1}, {})).splitlines() == [
        "n slices  9121",
        "share     0.1235",
        "refusals  not_ct 2, localizer 1",
        "repairs   none",
    ]


def progress_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, calls: list[tuple[float, int, int, str]]
) -> list[str]:
    """Report progress at these times, s, and return what is printed."""
    now_s = [0.0]
    monkeypatch.setattr("rsna_e2e.core.console.time.monotonic", lambda: now_s[0])
    with progress_bar("train", unit="slices") as progress:
        for now_s[0], done, total, note in calls:
            progress(done, total, note)
    return capsys.readouterr().err.splitlines()


def test_progress_without_a_terminal_is_a_line_at_the_end(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = [(1.0, 1, 4, "loss 1"), (3.0, 4, 4, "loss 2")]
    assert progress_lines(capsys, monkeypatch, calls) == ["train: 4/4 slices (100%), 1.5 slices/s, 0 s left  loss 2"]


def test_rate_and_time_left_are_of_this_run_and_this_phase(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = [
        (1.0, 6000, 10000, "headers, 3 refused"),  # most were done before
        (11.0, 8000, 10000, "headers, 5 refused"),
        (21.0, 10000, 10000, "headers, 6 refused"),
        (31.0, 100, 5000, "pixels, 6 refused"),
        (41.0, 600, 5000, "pixels, 6 refused"),
    ]
    assert progress_lines(capsys, monkeypatch, calls) == [
        "train: 8000/10000 slices (80%), 200 slices/s, 10 s left  headers, 5 refused",
        "train: 10000/10000 slices (100%), 200 slices/s, 0 s left  headers, 6 refused",
        "train: 100/5000 slices (2%), 10 slices/s, 490 s left  pixels, 6 refused",
        "train: 600/5000 slices (12%), 30 slices/s, 147 s left  pixels, 6 refused",
    ]


def test_progress_on_a_terminal_shows_rate_note_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.StringIO()
    monkeypatch.setattr(
        "rsna_e2e.core.console.Console", lambda stderr: Console(file=written, force_terminal=True, width=160)
    )
    with progress_bar("prepare", unit="slices") as progress:
        for done in (0, 50, 100):
            progress(done, 200, "pixels, 7 refused")
            time.sleep(0.05)
    shown = written.getvalue()
    assert "100/200" in shown
    assert "7 refused" in shown
    assert re.search(r"[1-9][0-9]* slices/s", shown)
    assert re.search(r"left.*0:00:0[0-9]", shown)


def last_line(monkeypatch: pytest.MonkeyPatch, *, width: int, done: int, total: int, note: str) -> str:
    """What a terminal of so many columns shows in the end."""
    written = io.StringIO()
    monkeypatch.setattr(
        "rsna_e2e.core.console.Console", lambda stderr: Console(file=written, force_terminal=True, width=width)
    )
    with progress_bar("prepare", unit="slices") as progress:
        progress(done, total, note)
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written.getvalue()).replace("\r", "\n").split("\n")
    return [line for line in lines if line][-1]


@pytest.mark.parametrize("width", range(20, 121))
def test_a_narrow_terminal_keeps_count_and_share(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    shown = last_line(monkeypatch, width=width, done=274, total=274, note="pixels, 1 refused")
    assert len(shown) <= width
    assert "274/274" in shown
    assert "100%" in shown
    assert ("prepare" in shown) == (width >= 27)
    assert "━" in shown or width < 93
    assert "36%" in last_line(monkeypatch, width=width, done=360 * 10**9, total=10**12, note="epoch 3/10")


def test_a_note_is_no_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "[bold]m[red]" in last_line(monkeypatch, width=120, done=1, total=2, note="[bold]m[red]")
