"""The commands in docs/evaluation.md, run as they stand there, one block after another in one folder."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import small

from rsna_e2e.cli import main
from rsna_e2e.store import Store
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.training.train import train

PAGE = (Path(__file__).parents[2] / "docs/evaluation.md").read_text()
BLOCKS = dict(re.findall(r"<!-- program: (\w+) -->\n```bash\n(.*?)```", PAGE, re.DOTALL))


class Shell:
    """Runs blocks in a folder: by bash, or faster, what is ours in this process and the rest by bash."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str], *, is_whole: bool) -> None:
        self.folder, self._capsys, self._is_whole = folder, capsys, is_whole
        (folder / "bin").mkdir()
        for name, words in (("rsna-e2e", "-m rsna_e2e.cli"), ("python", "")):
            (folder / "bin" / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {words} "$@"\n')
            (folder / "bin" / name).chmod(0o755)

    def lines(self, name: str) -> list[str]:
        """What a block prints."""
        if self._is_whole:
            return self._bash(BLOCKS[name]).splitlines()
        text = ""
        for part in re.split(r"^(rsna-e2e .*)$", BLOCKS[name], flags=re.MULTILINE):
            if part.startswith("rsna-e2e "):
                assert main(shlex.split(part)[1:]) == 0
                text += self._capsys.readouterr().out
            else:
                text += self._bash(part)
        return text.splitlines()

    def metrics(self, name: str) -> dict[str, Any]:
        """The numbers of a report that a block wrote."""
        content: dict[str, Any] = json.loads((self.folder / "report" / name / "metrics.json").read_text())
        return content

    def _bash(self, text: str) -> str:
        environment = os.environ | {"PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}"}
        command = ["bash", "-euo", "pipefail", "-c", text]
        done = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout


def without_intervals(line: str) -> str:
    """A line without what depends on who is drawn."""
    return re.sub(r" \[[^]]*\]", "", line).replace("patients", "series")


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("is_whole", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_every_block_of_the_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], is_whole: bool
) -> None:
    assert list(BLOCKS) == [
        *("facts", "holdout", "run", "own", "map", "labels", "images", "paired", "calibrated", "refitted"),
    ]
    assert PAGE.count("```bash") == len(BLOCKS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rsna_e2e.evaluation.baselines.N_TREES", 10)
    shell = Shell(tmp_path, capsys, is_whole=is_whole)
    small.write_raw(tmp_path / "raw")
    shell.lines("holdout")
    store = Store.open(tmp_path / "store")
    train(store, tmp_path / "runs" / "first", small.config(), device="cpu")
    columns = zip(store.index["image_id"], store.index["series_key"], strict=True)
    (tmp_path / "map.csv").write_text("\n".join(["ID,series", *map(",".join, columns)]) + "\n")

    shell.lines("run")
    assert (tmp_path / "report" / "validation" / "report.html").exists()
    of_run = shell.metrics("test")

    uids = sorted(set(store.index["series_uid"]))
    facts = ["SeriesInstanceUID,ward", *(f"{uid},{number % 2}" for number, uid in enumerate(uids))]
    (tmp_path / "facts.csv").write_text("\n".join(facts) + "\n")
    assert shell.lines("facts")[0].startswith("weighted log loss ")

    said = shell.lines("own")
    mine = shell.metrics("mine")
    assert mine["n_slices"] == of_run["n_slices"]
    assert mine["n_series"] == of_run["n_series"] == len([s for s in store.series if s.split == "test"]) - 1
    assert mine["resampled_unit"] == "patient"
    assert re.match(
        r"weighted log loss [0-9.]+ \[.*\]: [0-9]+ % \[.*\] of what always predicting the prevalence", said[0]
    )
    assert any(line.startswith("AUC of 'any' over series: ") for line in said)

    with_store = [line for line in said[:-1] if not line.startswith("without pixels: ")]
    assert len(with_store) == len(said) - 2
    by_map = shell.lines("map")[3:]
    # all but where the report is, and what takes a store, which says patients: who is drawn, and so the intervals
    assert list(map(without_intervals, by_map)) == list(map(without_intervals, with_store))
    assert shell.lines("labels")[0].startswith("weighted log loss of any alone ")
    n_left = mine["n_slices"] - 3
    said = shell.lines("paired")
    assert said[0] == f"A: test.csv   B: mine.csv   {mine['n_slices']} slices"
    paired = json.loads((tmp_path / "report" / "paired" / "paired.json").read_text())
    assert paired["weighted_log_loss"]["first"] == of_run["weighted_log_loss"]["value"]
    assert paired["weighted_log_loss"]["second"] == mine["weighted_log_loss"]["value"]
    assert paired["resampled_unit"] == "patient"
    assert shell.lines("images")[-1] == f"left out: images of the truth that are not predicted ({n_left})"
    assert any(line.startswith(ICH.headline) for line in shell.lines("calibrated"))
    kept = json.loads((tmp_path / "runs" / "first" / "calibration.json").read_text())
    assert kept["epoch"] is not None
    shell.lines("refitted")
    assert json.loads((tmp_path / "runs" / "first" / "calibration.json").read_text())["epoch"] is None
