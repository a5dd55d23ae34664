"""The demo of pulmonary embolism, run whole with few studies; set-up aside, which is that of the tests."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rsna_e2e.core.files import read_json
from rsna_e2e.store import Store

ROOT = Path(__file__).parents[1]


def _make_root(folder: Path) -> Path:
    """A copy of the script, whose set-up is done and whose program is the one under test."""
    (folder / "bin").mkdir(parents=True)
    (folder / ".venv/bin").mkdir(parents=True)
    for name in ("demo_pe.sh", "help.sh"):
        shutil.copy(ROOT / "bin" / name, folder / "bin" / name)
    for name, command in (
        ("bin/setup.sh", ":"),
        (".venv/bin/rsna-e2e", f'exec "{sys.executable}" -m rsna_e2e.cli "$@"'),
    ):
        (folder / name).write_text(f"#!/bin/sh\n{command}\n")
        (folder / name).chmod(0o755)
    return folder


@pytest.mark.slow
def test_every_step_of_the_demo_works(tmp_path: Path) -> None:
    script, out = _make_root(tmp_path / "root") / "bin/demo_pe.sh", tmp_path / "out"
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "HOME": str(tmp_path), "STUDIES": "8"}
    done = subprocess.run([str(script), str(out)], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "demo_pe: all steps work. 8 studies are too few" in done.stderr
    with_pages = ("inspection/inspection.html", "report/report.html")
    for name in ("sheet.png", *with_pages, "report/metrics.csv", "run/summary.json", "submission.csv"):
        assert (out / name).stat().st_size > 0, name
    store, scores = Store.open(out / "store", "pe"), read_json(out / "report/metrics.json")
    assert len({span.study_uid for span in store.series}) == 8
    assert scores["task"] == "pe"
    assert scores["n_slices"] == sum(span.n_slices for span in store.series if span.split == "test") > 0
