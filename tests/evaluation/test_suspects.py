"""Suspicious labels: planted errors come first, clean labels do not, and what a model learned from is refused."""

# N slices, L labels

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import sequences
import small
from planted import plant, plant_in_file, precision

from rsna_e2e.cli import main
from rsna_e2e.config.files import save_config
from rsna_e2e.core.errors import BadInputError
from rsna_e2e.core.files import write_json
from rsna_e2e.core.records import Float64Array
from rsna_e2e.evaluation.header_baseline import header_baseline
from rsna_e2e.evaluation.scores import SeriesLayout
from rsna_e2e.evaluation.suspects.find import find_suspects
from rsna_e2e.evaluation.suspects.suspicion import NONE, suspicion
from rsna_e2e.store import Store
from rsna_e2e.store.prepare import prepare
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.tasks.labels import read_labels, write_labels
from rsna_e2e.tasks.metrics import auc
from rsna_e2e.tools.synth.simulate import simulate
from rsna_e2e.training.run_folder import STORE_HASH
from rsna_e2e.training.run_layout import CONFIG, MANIFEST

SHARE = 0.05
EXACT = {"rtol": 0.0, "atol": 1e-12}


def _layout(lengths: list[int]) -> SeriesLayout:
    return SeriesLayout(
        series_keys=[f"{i:03d}" for i in range(len(lengths))],
        series_of_slice=np.repeat(np.arange(len(lengths)), lengths),
        slice_index=np.concatenate([np.arange(n) for n in lengths]),
        position_mm=None,
    )


def _simulated(seed: int, *, n_series: int = 80, n_labels: int = 3) -> tuple[Float64Array, Float64Array, SeriesLayout]:
    """Truth in runs along z, and predictions by a model that sees it blurred, with errors of slices and of series."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(24, 44, n_series).tolist()
    truth, logits = [], []
    for n in lengths:
        slices, odds = np.zeros((n, n_labels)), np.zeros((n, n_labels))
        for label in range(n_labels):
            if rng.random() < 0.35:
                begin, length = int(rng.integers(0, n - 3)), int(rng.integers(1, 14))
                slices[begin : begin + length, label] = 1.0
            blurred = np.convolve(slices[:, label], (0.25, 0.5, 0.25), "same")
            odds[:, label] = -3.0 + 3.6 * blurred + rng.normal(0.0, 1.2, n) + rng.normal(0.0, 1.0)
        truth.append(slices)
        logits.append(odds)
    return np.concatenate(truth), 1.0 / (1.0 + np.exp(-np.concatenate(logits))), _layout(lengths)


def _first(score_NL: Float64Array, is_planted_NL: np.ndarray, n: int = 20) -> float:
    return float(is_planted_NL.ravel()[np.argsort(-score_NL, axis=None, kind="stable")[:n]].mean())


def test_planted_errors_come_first(record_property: Callable[[str, object], None]) -> None:
    """Precision of the first 20 of 5 % flips, on predictions of an AUC of about 0.93; a random order is the control."""
    found, control, aucs = [], [], []
    for seed in range(8):
        truth, probability, layout = _simulated(seed)
        given, is_planted = plant(truth, share=SHARE, seed=100 + seed)
        aucs += [auc(truth[:, label], probability[:, label]) for label in range(truth.shape[1])]
        found.append(_first(suspicion(given, probability, layout).score, is_planted))
        control.append(_first(np.random.default_rng(seed).random(given.shape), is_planted))
    record_property("precision", found)
    assert 0.9 < np.mean(aucs) < 0.96
    assert np.mean(found) >= 0.8
    assert min(found) >= 0.7
    assert np.mean(control) < 0.15


def test_score_by_hand() -> None:
    """Four slices and one label; thresholds are the mean prediction of each value: 0.5 of ones, 0.7 of zeros."""
    given = np.array([[1.0], [0.0], [1.0], [0.0]])
    probability = np.array([[0.8], [0.4], [0.2], [0.2]])
    found = suspicion(given, probability, _layout([3, 1]))
    margins = np.array([(0.2 - 0.7) - (0.8 - 0.5), (0.4 - 0.5) - (0.6 - 0.7), (0.8 - 0.7) - (0.2 - 0.5), -0.3 - 0.1])
    contradiction = 0.5 + 0.5 * margins
    np.testing.assert_allclose(found.contradiction[:, 0], contradiction, **EXACT)
    expected = np.array([np.mean([0.0, 0.4]), np.mean([1.0, 0.8, 1.0, 0.2]), np.mean([0.0, 0.4])])
    discontinuity = np.abs(given[:3, 0] - expected)
    np.testing.assert_allclose(found.discontinuity[:3, 0], discontinuity, **EXACT)
    assert np.isnan(found.discontinuity[3, 0])
    np.testing.assert_allclose(found.score[:3, 0], np.sqrt(contradiction[:3] * discontinuity), **EXACT)
    assert found.score[3, 0] == found.contradiction[3, 0]
    assert found.before.tolist() == [NONE, 0, 1, NONE]
    assert found.after.tolist() == [1, 2, NONE, NONE]


def test_slices_that_are_missing_are_no_neighbours() -> None:
    layout = SeriesLayout(
        series_keys=["a"], series_of_slice=np.zeros(3, np.int64), slice_index=np.array([4, 0, 1]), position_mm=None
    )
    found = suspicion(np.zeros((3, 1)), np.full((3, 1), 0.5), layout)
    assert found.before.tolist() == [NONE, NONE, 1]
    assert found.after.tolist() == [NONE, 2, NONE]


def test_unknown_labels_are_not_suspected_and_say_nothing_of_neighbours() -> None:
    found = suspicion(np.array([[0.0], [np.nan], [1.0]]), np.array([[0.1], [0.9], [0.2]]), _layout([3]))
    assert np.isnan(found.score[1, 0])
    np.testing.assert_allclose(found.discontinuity[[0, 2], 0], [0.9, 1.0 - 0.9], **EXACT)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Path]:
    """A store, the record of a run on it that held fold 0 out, and made-up predictions of that fold and of all."""
    folder = tmp_path_factory.mktemp("suspects")
    store = small.make_store(folder)
    (folder / "run").mkdir()
    write_json(folder / "run" / MANIFEST, {STORE_HASH: store.data_hash})
    save_config(small.config(), path=folder / "run" / CONFIG)
    rows = np.flatnonzero(store.index["split"] == "train")
    values = np.random.default_rng(0).random((len(rows), len(ICH.slices.names)))
    is_held_out = store.index["fold"][rows] == 0
    for split, kept in (("train", rows >= 0), ("validation", is_held_out)):
        write_labels(folder / f"{split}.csv", ICH, store.index["image_id"][rows[kept]].tolist(), values[kept])
    return store, folder


def test_the_verb_writes_a_table_and_a_page(made: tuple[Store, Path], capsys: pytest.CaptureFixture[str]) -> None:
    store, folder = made
    held = str(folder / "validation.csv")
    command = [
        "suspects",
        str(store.path),
        held,
        "--run",
        str(folder / "run"),
        "--out",
        str(folder / "found"),
        "--top=3",
    ]
    assert main(command) == 0
    assert "not checked" not in capsys.readouterr().out
    with (folder / "found" / "suspects.csv").open() as file:
        rows = list(csv.DictReader(file))
    scores = [float(row["score"]) for row in rows]
    assert scores == sorted(scores, reverse=True)
    assert [int(row["rank"]) for row in rows] == list(range(1, len(rows) + 1))
    row_of = {image_id: n for n, image_id in enumerate(store.index["image_id"].tolist())}
    for row in rows:
        assert store.index["fold"][row_of[row["image_id"]]] == 0
        given = store.labels[row_of[row["image_id"]], store.label_names.index(row["label"])]
        assert float(row["given"]) == given
    page = (folder / "found" / "suspects.html").read_text()
    assert page.count('<article class="card">') == 3
    assert page.count("data:image/jpeg") >= 3
    assert main([*command[:3], "--out", str(folder / "unchecked")]) == 0
    assert "not checked" in capsys.readouterr().out


def test_what_a_run_learned_from_is_refused(made: tuple[Store, Path], capsys: pytest.CaptureFixture[str]) -> None:
    store, folder = made
    command = ["suspects", str(store.path), str(folder / "train.csv"), "--out", str(folder / "none")]
    assert main([*command, "--run", str(folder / "run")]) == 3
    message = capsys.readouterr().err
    assert "learned from" in message
    assert "--split validation" in message
    assert not (folder / "none").exists()
    assert main([*command, "--run", str(folder / "run"), "--run", str(folder / "run")]) == 2
    assert "1 submissions and 2 runs" in capsys.readouterr().err


def test_of_a_head_on_embeddings_all_but_its_validation_fold_is_refused(made: tuple[Store, Path]) -> None:
    """It learned from fold 1 alone, and the classifier of its embeddings from fold 2 as well."""
    store, folder = made
    rows = np.flatnonzero(store.index["split"] == "train")
    for fold in (0, 1, 2):
        image_ids = store.index["image_id"][rows[store.index["fold"][rows] == fold]].tolist()
        assert image_ids
        values = np.full((len(image_ids), len(ICH.slices.names)), 0.5)
        write_labels(folder / f"fold{fold}.csv", ICH, image_ids, values)
    run = folder / "head"
    run.mkdir()
    write_json(run / MANIFEST, {STORE_HASH: store.data_hash})
    save_config(sequences.config("validation_fold=0", "training_fold=1"), path=run / CONFIG)
    assert find_suspects(store, [folder / "fold0.csv"], ICH, runs=[run]).n_images
    for fold in (1, 2):
        with pytest.raises(BadInputError, match="learned from"):
            find_suspects(store, [folder / f"fold{fold}.csv"], ICH, runs=[run])


def test_of_several_submissions_the_mean_counts(made: tuple[Store, Path]) -> None:
    """Of a prediction and its opposite the mean is 0.5; images that are in one file alone keep theirs."""
    store, folder = made
    held_out = read_labels(folder / "validation.csv", ICH)
    opposite = folder / "opposite.csv"
    write_labels(opposite, ICH, held_out.image_ids, 1.0 - held_out.values)
    alone = {(one.images[1], one.label): one for one in find_suspects(store, [folder / "train.csv"], ICH).suspects}
    both = find_suspects(store, [folder / "train.csv", opposite], ICH).suspects
    assert len(both) == len(alone)
    for one in both:
        is_twice = one.images[1] in held_out.image_ids
        expected = 0.5 if is_twice else alone[one.images[1], one.label].predicted
        np.testing.assert_allclose(one.predicted, expected, **EXACT)


@pytest.mark.slow
def test_planted_errors_come_first_by_real_predictions(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """Simulated studies with 5 % of their labels flipped, and forests on headers and positions, out of fold."""
    simulate(tmp_path / "raw", n_studies=40, seed=5, prevalence="demo", test_fraction=0.0, n_jobs=1)
    labels = tmp_path / "raw" / "stage_2_train.csv"
    planted = plant_in_file(labels, labels, ICH, share=SHARE, seed=1)
    prepare(tmp_path / "raw", tmp_path / "store", task=ICH, n_jobs=1)
    store = Store.open(tmp_path / "store")
    header_baseline(store, ICH, split="train", out=tmp_path / "baseline.csv")
    found = find_suspects(store, [tmp_path / "baseline.csv"], ICH)
    reached = precision([(one.images[1], one.label) for one in found.suspects], planted)
    record_property("precision", reached)
    assert reached >= 0.8
