"""What the view of a radiograph tells of its label, and what a submission tells beyond: AUC within each view."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from pages import assert_numbers_are_those_of, parsed

from rsna_e2e.evaluation.evaluate import evaluate
from rsna_e2e.evaluation.report import write_report
from rsna_e2e.evaluation.scores import Evaluation
from rsna_e2e.evaluation.summary import summary
from rsna_e2e.evaluation.views import views_of, with_views
from rsna_e2e.tasks.labels import write_labels
from rsna_e2e.tasks.metrics import auc_by_group
from rsna_e2e.tasks.pneumonia import PNEUMONIA

N_OF_VIEW = 20
VIEWS = np.repeat(np.array(["AP", "PA"], dtype=object), N_OF_VIEW)
IDS = [f"i{number:02d}" for number in range(2 * N_OF_VIEW)]
# In AP 12 of 20 have the label, in PA 2 of 20
TRUTH = np.concatenate([np.arange(N_OF_VIEW) < 12, np.arange(N_OF_VIEW) < 2]).astype(np.float64)
OF_VIEW = (12 * 18 + 0.5 * (12 * 8 + 2 * 18)) / (14 * 26)  # pairs in order by the view, and in one view, which are ties


def _store(views: np.ndarray | None) -> Any:
    index = {"image_id": np.array(IDS, dtype=object)} | ({} if views is None else {"view": views})
    return SimpleNamespace(index=index, path=Path("store"))


def _evaluated(folder: Path, probability: np.ndarray, *, others: float = np.nan) -> Evaluation:
    for name, headline in (("s.csv", probability), ("t.csv", TRUTH)):
        values = np.full((len(IDS), len(PNEUMONIA.slices)), others)
        values[:, PNEUMONIA.headline_index] = headline
        write_labels(folder / name, PNEUMONIA, IDS, values)
    return evaluate(folder / "s.csv", folder / "t.csv", task=PNEUMONIA)


def test_a_model_that_knows_the_view_alone_is_at_chance_within_each(tmp_path: Path) -> None:
    evaluation = with_views(_evaluated(tmp_path, np.where(VIEWS == "AP", 0.7, 0.2)), _store(VIEWS))
    (found,) = evaluation.within_views
    assert "within views: AP 0.500, PA 0.500; of the view alone 0.7" in summary(evaluation)
    assert found.label == PNEUMONIA.headline
    assert found.auc == pytest.approx(OF_VIEW, abs=1e-12)
    assert found.alone == pytest.approx(OF_VIEW, abs=1e-12)
    assert found.views == {"AP": 0.5, "PA": 0.5}


def test_the_page_has_them_beside_the_floors(tmp_path: Path) -> None:
    """A model that knows the label in AP, and in PA the opposite."""
    probability = np.where(VIEWS == "AP", TRUTH, 1 - TRUTH) * 0.5 + 0.25
    evaluation = with_views(_evaluated(tmp_path, probability), _store(np.where(VIEWS == "PA", "", VIEWS)))
    assert evaluation.within_views[0].views == {"AP": 1.0, "not given": 0.0}
    page = write_report(evaluation, out=tmp_path / "out").read_text()
    content = json.loads((tmp_path / "out/metrics.json").read_text())
    assert_numbers_are_those_of(content, parsed(page).numbers)
    shown = {path for path, _, _ in parsed(page).numbers if path.startswith("within_views")}
    assert shown == {f"within_views.0.{name}" for name in ("auc", "view_alone", "views.0.auc", "views.1.auc")}
    assert "<h2>Within each view</h2>" in page


@pytest.mark.parametrize("views", [None, np.full(40, "PA", dtype=object)], ids=["CT", "one view"])
def test_without_several_views_there_is_nothing_to_tell(tmp_path: Path, views: np.ndarray | None) -> None:
    assert views_of(_store(views), IDS) is None
    evaluation = with_views(_evaluated(tmp_path, TRUTH * 0.5), _store(views))
    assert "within_views" not in evaluation.to_dict()
    assert "Within each view" not in write_report(evaluation, out=tmp_path / "out").read_text()


def test_scores_of_labels_are_not_taken_for_those_of_a_competition_of_boxes(tmp_path: Path) -> None:
    evaluation = _evaluated(tmp_path, TRUTH * 0.5, others=0.0)
    assert evaluation.task == PNEUMONIA
    assert "competition" not in write_report(evaluation, out=tmp_path / "out").read_text()


def test_the_auc_of_a_group_is_that_of_its_samples() -> None:
    """By hand; a group of one class has none."""
    truth, score = np.array([0.0, 1, 0, 1, 1]), np.array([0.1, 0.9, 0.8, 0.7, 0.5])
    found = auc_by_group(truth, score, np.array(["a", "a", "b", "b", "c"]))
    assert (found["a"], found["b"], np.isnan(found["c"])) == (1.0, 0.0, True)
