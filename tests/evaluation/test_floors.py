"""Floors: predictions without pixels, of made-up data whose labels hang on position or on a header alone."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up_studies import MadeUpStore, MadeUpStudies, made_up_studies

from rsna_e2e.evaluation.baselines import by_position, places
from rsna_e2e.evaluation.evaluate import evaluate
from rsna_e2e.evaluation.floors import with_floors
from rsna_e2e.evaluation.parts import with_parts
from rsna_e2e.evaluation.scores import Evaluation
from rsna_e2e.evaluation.summary import summary
from rsna_e2e.tasks.pe import PE

N_SCORED = 20


@pytest.fixture
def made(tmp_path: Path) -> MadeUpStudies:
    return made_up_studies(tmp_path, n_studies=70, seed=5)


@pytest.fixture(autouse=True)
def few_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of the time."""
    monkeypatch.setattr("rsna_e2e.evaluation.baselines.N_TREES", 20)


def scored(made: MadeUpStudies) -> Evaluation:
    first = made.first(N_SCORED)
    first.write()
    return evaluate(first.submission, first.truth_file, task=PE, series_map=first.map, n_bootstrap=20)


def floors_of(evaluation: Evaluation, store: MadeUpStore) -> dict[str, Any]:
    found = with_floors(evaluation, store)  # type: ignore[arg-type]
    assert found.floors_left_out == ""
    return {floor.name: floor for floor in found.floors}


def test_shares_by_position_by_hand() -> None:
    place = np.array([0.01, 0.02, 0.99, 1.0])
    labels = np.array([[1.0], [0.0], [0.0], [0.0]])
    weights = np.array([1.0, 1.0, 2.0, 0.0])
    # two samples and one of the mean, 1/4; no sample; one of weight 2 and one of 1/4
    found = by_position(place, labels, weights, np.array([0.04, 0.5, 0.96]))
    np.testing.assert_allclose(found[:, 0], [1.25 / 3, 0.25, 0.25 / 3], rtol=1e-12)


def test_the_place_of_a_slice_is_the_middle_of_its_share(made: MadeUpStudies) -> None:
    store = made.whole_store(n_scored=N_SCORED)
    n = store.series[0].n_slices
    np.testing.assert_allclose(places(store)[:n], (np.arange(n) + 0.5) / n)  # type: ignore[arg-type]


def test_what_hangs_on_position_is_found_by_position(made: MadeUpStudies) -> None:
    place = places(made.whole_store(n_scored=N_SCORED))  # type: ignore[arg-type]
    made = replace(made, truth=((place > 0.4) & (place < 0.6)).astype(np.float64)[:, None])
    floors = floors_of(scored(made), made.whole_store(n_scored=N_SCORED))
    assert floors["position"].auc == 1.0
    assert floors["position"].weighted_log_loss < floors["constant"].weighted_log_loss
    assert floors["constant"].auc == 0.5
    # what 1,500 shuffled labels happen to say of some twenty places, the same for all series
    assert abs(floors["metadata, labels shuffled"].auc - 0.5) < 0.2


def test_what_hangs_on_a_header_is_found_by_metadata_alone(made: MadeUpStudies) -> None:
    is_thick = np.arange(70) % 3 == 0
    truth = is_thick[made.study_of_slice].astype(np.float64)[:, None]
    study_truth = made.study_truth.copy()
    study_truth[:, PE.series.index("rv_lv_ratio_gte_1")] = is_thick
    made = replace(made, truth=truth, study_truth=study_truth)
    store = made.whole_store(n_scored=N_SCORED)
    store.index["slice_thickness_mm"] = np.where(truth[:, 0] == 1, 5.0, np.nan)
    floors = floors_of(scored(made), store)
    assert floors["metadata"].auc == 1.0
    assert floors["position"].auc < 0.6
    # what shuffled labels happen to say of headers that 20 studies have
    assert abs(floors["metadata, labels shuffled"].auc - 0.5) < 0.2
    shuffled, constant = floors["metadata, labels shuffled"], floors["constant"]
    assert floors["metadata"].weighted_log_loss < 0.9 * constant.weighted_log_loss < shuffled.weighted_log_loss


def test_patients_that_are_scored_teach_nothing(made: MadeUpStudies) -> None:
    store = made.whole_store(n_scored=N_SCORED)
    others = floors_of(scored(made), store)
    with_scored = [replace(span, split="train") for span in store.series]
    assert floors_of(scored(made), replace(store, series=with_scored)) == others


def test_the_seed_alone_decides(made: MadeUpStudies) -> None:
    evaluation, store = scored(made), made.whole_store(n_scored=N_SCORED)
    first, again, other = (with_floors(evaluation, store, seed=seed).floors for seed in (1, 1, 2))  # type: ignore[arg-type]
    assert first == again != other


def test_they_are_left_out_without_labels_of_others(made: MadeUpStudies) -> None:
    evaluation, store = scored(made), made.whole_store(n_scored=70)
    found = with_floors(evaluation, store)  # type: ignore[arg-type]
    assert [floor.name for floor in found.floors] == ["constant"]
    assert found.to_dict()["floors_left_out"] == "store: has no labels of other patients than those that are scored"
    other = replace(store, label_names=("another",))
    left_out = with_floors(evaluation, other).floors_left_out  # type: ignore[arg-type]
    assert left_out == "store: has no labels of the task pe"
    of_others = replace(store, path=Path("/home/me/store"), index=store.index | {"image_id": store.index["series_key"]})
    assert with_floors(evaluation, of_others).floors_left_out.startswith("store: lacks ")  # type: ignore[arg-type]
    assert f"without pixels: left out, {found.floors_left_out}" in summary(found).splitlines()
    assert "--store" not in summary(evaluation)
    assert evaluation.to_dict()["floors_left_out"].startswith("no store was given, ")


def test_the_last_line_but_one_says_them(made: MadeUpStudies) -> None:
    found = with_floors(scored(made), made.whole_store(n_scored=N_SCORED))  # type: ignore[arg-type]
    _, position, metadata, shuffled = found.floors
    expected = (
        f"without pixels: position {position.weighted_log_loss:.4f} (AUC {position.auc:.3f}), "
        f"metadata {metadata.weighted_log_loss:.4f} (AUC {metadata.auc:.3f}), "
        f"metadata, labels shuffled {shuffled.weighted_log_loss:.4f} (AUC {shuffled.auc:.3f})"
    )
    assert expected in summary(found).splitlines()


def test_parts_by_a_note_are_scored_like_files_of_these_studies_alone(made: MadeUpStudies) -> None:
    evaluation, store = scored(made), made.whole_store(n_scored=N_SCORED)
    store.series_notes[:, 0] = np.arange(70) % 2  # the second note is unknown, the third the same in all
    store.series_notes[:, 2] = 1
    store.series_notes[3, 0] = np.nan
    parts = with_parts(evaluation, store).parts  # type: ignore[arg-type]
    assert [(part.note, part.value, part.n_studies) for part in parts] == [
        ("qa_motion", True, 9),
        ("qa_motion", False, 10),
    ]
    even = [study for study in range(N_SCORED) if study % 2 == 0]
    kept = np.isin(made.study_of_slice, even)
    alone = replace(
        made,
        image_ids=[image for image, is_kept in zip(made.image_ids, kept, strict=True) if is_kept],
        study_ids=[made.study_ids[study] for study in even],
        study_of_slice=made.study_of_slice[kept] // 2,
        truth=made.truth[kept],
        probability=made.probability[kept],
        study_truth=made.study_truth[even],
        study_probability=made.study_probability[even],
    )
    alone.write()
    expected = evaluate(alone.submission, alone.truth_file, task=PE, series_map=alone.map, n_bootstrap=20)
    assert parts[1].weighted_log_loss.value == pytest.approx(expected.weighted_log_loss.value, rel=1e-9)
    assert math.isnan(parts[1].auc.value) == math.isnan(expected.slices.scores[0].auc.value)
    assert parts[0].n_slices + parts[1].n_slices == (made.study_of_slice < N_SCORED).sum() - store.series[3].n_slices
