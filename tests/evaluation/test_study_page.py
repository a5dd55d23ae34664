"""The report of a task whose studies have labels of their own: true to metrics.json, in its own words."""

import json
from pathlib import Path

import numpy as np
import pytest
from made_up_studies import MadeUpStudies, made_up_studies
from pages import assert_numbers_are_those_of, assert_self_contained, parsed

from rsna_e2e.core.records import Int16Image
from rsna_e2e.evaluation.evaluate import evaluate
from rsna_e2e.evaluation.floors import with_floors
from rsna_e2e.evaluation.parts import with_parts
from rsna_e2e.evaluation.report import write_report
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.tasks.pe import PE
from rsna_e2e.tasks.windows import named_windows, sharpest_window


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = made_up_studies(tmp_path_factory.mktemp("run"), n_studies=60, seed=5)
    store = made.whole_store(n_scored=30)
    store.series_notes[:, 0] = np.arange(60) % 3 == 0
    scored = made.first(30)
    scored.write()
    evaluation = evaluate(scored.submission, scored.truth_file, task=PE, series_map=scored.map, n_bootstrap=20)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rsna_e2e.evaluation.baselines.N_TREES", 5)
        evaluation = with_parts(with_floors(evaluation, store), store)  # type: ignore[arg-type]
    return write_report(evaluation, out=tmp_path_factory.mktemp("report"), store=_Pictures(made)).parent  # type: ignore[arg-type]


class _Pictures:
    """What the report asks of a store for its pictures."""

    path = Path("store")
    values = "hu"

    def __init__(self, made: MadeUpStudies) -> None:
        self.index = {"image_id": np.array(made.image_ids)}

    def read_slice(self, row: int) -> Int16Image:
        return np.full((40, 60), 40, dtype=np.int16)


def test_every_number_is_that_of_metrics_json(folder: Path) -> None:
    page, content = (folder / "report.html").read_text(), json.loads((folder / "metrics.json").read_text())
    assert_self_contained(page)
    numbers = parsed(page).numbers
    assert_numbers_are_those_of(content, numbers)
    paths = {path for path, _, _ in numbers}
    assert {"labels.0.auc.value", "labels.9.auc.low", "labels.9.true_positives", "labels.3.f1"} <= paths
    assert {"consistency.n_before", "consistency.after.value", "floors.3.auc", "floors.1.weighted_log_loss"} <= paths
    assert {"parts.0.weighted_log_loss.low", "parts.1.auc.value", "n_studies"} <= paths


def test_it_speaks_of_studies(folder: Path) -> None:
    page = (folder / "report.html").read_text()
    for words in (
        "<h3>Studies</h3>",
        "<h2>Example studies</h2>",
        "resamples of whole studies",
        "Against the best constants",
        "Studies that break the rules",
        "mediastinum window (40/400 HU)",
        "A study is called positive when",
        "Studies are shown under a hash",
    ):
        assert words in page
    for words in ("whole series are drawn", "RSNA 2019", "any of its slices has it", "brain"):
        assert words not in page
    assert "9.1<" not in page  # the id of a study


def test_windows_are_named_where_they_have_names() -> None:
    assert named_windows(ICH) == {"brain": (40, 80), "subdural": (80, 200), "soft tissue": (40, 380)}
    assert list(named_windows(PE)) == ["lung", "pulmonary arteries", "mediastinum"]
    assert sharpest_window(ICH) == ("brain", (40, 80))
