from dataclasses import dataclass

import pytest

from rsna_e2e.console import field_lines, progress_bar


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


def test_progress_without_a_terminal_is_a_line_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("train", unit="slices") as progress:
        progress(1, 4, "loss 1")
        progress(4, 4, "loss 2")
    assert capsys.readouterr().err == "train: 4/4 slices (100%), 0 s left  loss 2\n"
