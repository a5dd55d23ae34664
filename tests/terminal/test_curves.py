"""The curves of a run are the means and scores of its metrics, epoch by epoch."""

import json
from pathlib import Path

import pytest

from rsna_e2e.core.errors import BadInputError, UsageError
from rsna_e2e.terminal.curves import Curves, read_curves
from rsna_e2e.training.run_layout import METRICS

LINES = (
    {"kind": "train_slices", "step": 1, "epoch": 1, "loss": 0.8, "gradient_norm": 3.0},
    {"kind": "train_slices", "step": 2, "epoch": 1, "loss": 0.4, "gradient_norm": 3.0},
    {"kind": "train_series", "step": 3, "epoch": 2, "loss": 0.5},
    {"kind": "validation", "step": 3, "epoch": 2, "weighted_log_loss": 0.25, "an_auc": 0.75, "n_positive": 4},
    {"kind": "train_series", "step": 4, "epoch": 3, "loss": None},
    {"kind": "train_series", "step": 5, "epoch": 10, "loss": 0.125},
    {"kind": "notes", "step": 5, "epoch": "x", "loss": 9.0},
    {"kind": "\x1b[2Jbad", "epoch": 10, "loss": True},
)


def _write(run: Path, *more: str) -> Path:
    run.mkdir()
    (run / METRICS).write_text("".join(f"{json.dumps(line)}\n" for line in LINES) + "".join(more))
    return run


def test_they_are_read_by_epoch(tmp_path: Path) -> None:
    run = _write(tmp_path / "run", "[1]\n", "NaN\n", '{"kind": "train_series", "epoch": 4, "lo')  # of a run that died
    found = read_curves(run)
    assert {name: dict(curve) for name, curve in found.of_name.items()} == {
        "train slices loss": {1: pytest.approx(0.6)},
        "train series loss": {2: 0.5, 10: 0.125},
        "validation weighted log loss": {2: 0.25},
        "validation an auc": {2: 0.75},
    }
    assert list(found.losses) == ["train slices loss", "train series loss", "validation weighted log loss"]
    header, rows = found.rows()
    assert header == ("epoch", *found.of_name)
    assert rows == [
        ("1", "0.6000", "-", "-", "-"),
        ("2", "-", "0.5000", "0.2500", "0.7500"),
        ("10", "-", "0.1250", "-", "-"),
    ]


def test_numbers_that_are_none_are_passed_over(tmp_path: Path) -> None:
    huge = "1" + 400 * "0"
    more = [
        f'{{"kind": "train_slices", "epoch": {epoch}, "loss": {loss}}}\n'
        for epoch, loss in ((1, huge), (huge, 1.0), (-1, 1.0), (10**9 + 1, 1.0), (3, 1e308), (3, 1e308))
    ]
    found = read_curves(_write(tmp_path / "run", *more))
    assert found.of_name["train slices loss"] == {1: pytest.approx(0.6), 3: 1e308}


def test_names_are_printable(tmp_path: Path) -> None:
    line = json.dumps({"kind": "\x1b[2Jbad", "epoch": 1, "a_loss": 0.5})
    assert r"\x1b[2Jbad a loss" in read_curves(_write(tmp_path / "run", line)).losses


def test_what_has_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.rsna").write_bytes(b"x")
    with pytest.raises(UsageError, match="is a bundle, which holds no metrics"):
        read_curves(tmp_path / "model.rsna")
    with pytest.raises(BadInputError, match=r"metrics\.jsonl: cannot be read: No such file"):
        read_curves(tmp_path / "none")
    with pytest.raises(BadInputError, match="cannot be read: embedded null byte"):
        read_curves(Path("a\0b"))
    with pytest.raises(BadInputError, match="cannot be read: File name too long"):
        read_curves(tmp_path / ("x" * 300))
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / METRICS).write_text('{"kind": "validation", "epoch": 1, "an_auc": 0.5}\n')
    with pytest.raises(BadInputError, match="no loss of an epoch yet"):
        read_curves(tmp_path / "new")


@pytest.mark.needs_console
def test_a_chart_has_every_loss() -> None:
    from rsna_e2e.terminal.chart import legend, loss_chart

    losses = {"first loss": {1: 1.0, 2: 0.5, 3: 0.25}, "second loss": {3: 0.75}}
    curves = Curves(of_name=losses | {"auc": {3: 9.0}})
    assert legend(curves) == "x first loss\no second loss"
    drawn = [loss_chart(curves, width=60, height=12, has_colours=False).replace("\x1b[0m", "") for _ in range(2)]
    assert drawn[0] == drawn[1]  # nothing of the one before is left
    lines = drawn[0].rstrip("\n").split("\n")
    assert len(lines) == 12
    assert {len(line) for line in lines} == {60}
    assert drawn[0].count("o") == 2  # a point, and that of the word epoch
    assert lines[1].count("x") + lines[2].count("x") > 0  # it begins at the top
    assert "9" not in drawn[0]
    assert "38;2;230;159;0" in loss_chart(curves, width=60, height=12, has_colours=True)
