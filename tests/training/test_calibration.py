"""The calibration that a run keeps: fitted on what it held out, and on nothing else."""

# N slices, L labels

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import small
from scipy.special import expit

from rsna_e2e.core.errors import BadInputError, PreemptedError
from rsna_e2e.core.files import sealed
from rsna_e2e.core.records import Float64Array
from rsna_e2e.loader.holdout import validation_series
from rsna_e2e.store import Store, rows_of
from rsna_e2e.store.prepare import prepare
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.tasks.metrics import calibration as reliability
from rsna_e2e.tasks.metrics import sensitivity_threshold
from rsna_e2e.training import keep_choices
from rsna_e2e.training.calibration import RunCalibration, fit_calibration, read_calibration
from rsna_e2e.training.operating_points import read_operating_points, thresholds_at_sensitivity
from rsna_e2e.training.run_layout import CALIBRATION, OPERATING_POINTS
from rsna_e2e.training.train import train
from rsna_e2e.training.validation import FoldTruth, HeldOut

pytestmark = pytest.mark.usefixtures("one_thread")

# Of logits, by label: what the map that calibrates them has to undo
SLOPES = np.array([2.5, 0.5, 1.0, 0.4, 3.0, 1.0])
SHIFTS = np.array([0.0, 0.0, 1.0, -0.5, 0.5, 0.0])
IS_CALIBRATED = (SLOPES == 1) & (SHIFTS == 0)  # the last label
N_PATIENTS, N_SLICES = 300, 20
WELL = 0.01  # by how much the calibration error of what was calibrated may grow


def made_up(seed: int, *, n_patients: int = N_PATIENTS, slopes: Float64Array = SLOPES) -> HeldOut:
    """Series whose slices are alike, predicted with logits that are off by a known slope and shift of each label."""
    rng = np.random.default_rng(seed)
    n = n_patients * N_SLICES
    of_patient = np.repeat(rng.normal(-1.5, 1.5, (n_patients, 6)), N_SLICES, axis=0)
    logit_NL = of_patient + rng.normal(0, 1, (n, 6))
    truth = FoldTruth(
        rows=np.arange(n),
        positions=np.arange(n_patients),
        lengths=(N_SLICES,) * n_patients,
        patients=tuple(f"p{number}" for number in range(n_patients)),
        slices=(rng.random((n, 6)) < expit(logit_NL)).astype(np.float64),
        own_series=None,
    )
    return HeldOut(truth=truth, slices=expit(logit_NL * slopes + SHIFTS), series=None)


@pytest.fixture(scope="module")
def fitted() -> RunCalibration:
    return fit_calibration([made_up(0)], ICH, epoch=1)


def test_it_undoes_what_is_known_to_be_wrong(fitted: RunCalibration) -> None:
    found = [(label.slope, label.intercept) for label in fitted.slices.values()]
    assert np.allclose(found, np.stack([1 / SLOPES, -SHIFTS / SLOPES], axis=1), atol=0.12)  # of 300 patients
    assert [label.temperature for label in fitted.slices.values()][:2] == pytest.approx([2.5, 0.5], rel=0.1)


def test_miscalibrated_labels_are_better_beyond_doubt_and_the_others_no_worse(fitted: RunCalibration) -> None:
    for label, is_calibrated in zip(fitted.slices.values(), IS_CALIBRATED, strict=True):
        assert label.applied == "platt"
        assert label.ece_change_low is not None
        assert label.ece_change_high is not None
        if is_calibrated:
            assert label.ece_change_low <= 0
            assert label.ece_change_high < WELL
        else:
            assert label.ece_change_high < 0


def test_on_other_patients_no_label_is_worse(fitted: RunCalibration) -> None:
    other = made_up(1)
    after_NL = fitted.of("slices", other.slices)
    for label in range(6):
        truth_N = other.truth.slices[:, label]
        before, after = (reliability(truth_N, of[:, label]).expected_error for of in (other.slices, after_NL))
        assert after < before + WELL * IS_CALIBRATED[label]
        assert after < 0.03


def test_few_patients_have_fewer_parameters(fitted: RunCalibration) -> None:
    held_out = made_up(0)
    n_first = 12 * N_SLICES
    held_out.truth.slices[n_first:, 0] = 0  # 12 patients may have it
    held_out.truth.slices[5 * N_SLICES :, 1] = 0
    held_out.truth.slices[:, 2] = 0
    held_out.truth.slices[:, 3] = np.nan
    found = fit_calibration([held_out], ICH, epoch=1)
    kinds = [(label.applied, label.reason) for label in found.slices.values()]
    assert kinds == [
        ("temperature", ""),
        ("none", "few"),
        ("none", "one class"),
        ("none", "one class"),
        ("platt", ""),
        ("platt", ""),
    ]
    slices_NL = found.of("slices", held_out.slices)
    assert (slices_NL[:, 1:4] == held_out.slices[:, 1:4]).all()
    assert (found.of("slices", held_out.slices, "platt")[:, 1] != held_out.slices[:, 1]).any()  # it is there if asked


def test_a_label_that_is_called_too_often_is_calibrated_where_enough_patients_have_it() -> None:
    found = []
    for n_have in (10, 20):
        held_out = made_up(0, n_patients=100)
        truth_N = (np.arange(100 * N_SLICES) < n_have * N_SLICES).astype(np.float64)
        held_out.truth.slices[:, 0] = truth_N
        noise_N = np.random.default_rng(0).normal(0, 1, len(truth_N))
        held_out.slices[:, 0] = expit(np.where(truth_N == 1, 3.0, 1.2) + noise_N)
        found.append(fit_calibration([held_out], ICH, epoch=1).slices[ICH.slices.names[0]])
    assert [(label.applied, label.reason) for label in found] == [
        ("none", "no temperature"), ("platt", "no temperature")
    ]  # fmt: skip
    assert found[1].ece_change_high is not None
    assert found[1].ece_change_high < -0.4  # of 0.58


def test_several_folds_are_fitted_together() -> None:
    whole, halves = made_up(0, n_patients=60), [_part(made_up(0, n_patients=60), half) for half in (0, 1)]
    assert fit_calibration(halves, ICH, epoch=None) == fit_calibration([whole], ICH, epoch=None)


def _part(held_out: HeldOut, half: int) -> HeldOut:
    n = len(held_out.truth.lengths) // 2
    series, rows = slice(half * n, (half + 1) * n), slice(half * n * N_SLICES, (half + 1) * n * N_SLICES)
    truth = held_out.truth
    part = FoldTruth(
        rows=truth.rows[rows],
        positions=truth.positions[series],
        lengths=truth.lengths[series],
        patients=truth.patients[series],
        slices=truth.slices[rows],
        own_series=None,
    )
    return HeldOut(truth=part, slices=held_out.slices[rows], series=None)


def test_thresholds_are_mapped_to_those_that_call_the_same_slices(fitted: RunCalibration) -> None:
    held_out = made_up(0)
    at = thresholds_at_sensitivity(ICH.slices.names, held_out.truth.slices, held_out.slices)["0.95"]
    mapped, after_NL = fitted.thresholds("slices", at), fitted.of("slices", held_out.slices)
    for label, name in enumerate(ICH.slices.names):
        called_N = held_out.slices[:, label] >= at[name]
        assert ((after_NL[:, label] >= mapped[name]) == called_N).all()
        assert called_N[held_out.truth.slices[:, label] == 1].mean() >= 0.95


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Two folds, and patients with labels in split test."""
    folder = tmp_path_factory.mktemp("calibration")
    small.write_raw(folder / "raw")
    prepare(folder / "raw", folder / "store", task=ICH, n_folds=2, holdout=0.3, n_jobs=1)
    return Store.open(folder / "store")


def kept(run: Path) -> tuple[bytes, bytes]:
    return (run / CALIBRATION).read_bytes(), (run / OPERATING_POINTS).read_bytes()


CONFIG = small.image_config("checkpoint.every_steps=1", epochs=2)


@pytest.fixture(scope="module")
def run(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(store, folder, CONFIG, device="cpu")
    return folder


def test_a_run_keeps_that_of_its_best_epoch_and_sees_no_row_beside_its_fold(
    store: Store, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[HeldOut] = []

    def spied(held_out: Sequence[HeldOut], *rest: object, **named: object) -> RunCalibration:
        seen.extend(held_out)
        return fit_calibration(held_out, ICH, epoch=int(str(named["epoch"])))

    monkeypatch.setattr(keep_choices, "fit_calibration", spied)
    done = train(store, tmp_path / "run", CONFIG, device="cpu")
    assert kept(tmp_path / "run") == kept(run)
    calibration = read_calibration(run, ICH)
    assert calibration is not None
    assert calibration.epoch == done.best_epoch
    fold = rows_of([store.series[position] for position in validation_series(store, CONFIG)])
    assert seen
    for held_out in seen:
        assert held_out.truth.rows.tolist() == sorted(fold.tolist())
        assert np.array_equal(held_out.truth.slices, store.labels[held_out.truth.rows], equal_nan=True)
    assert calibration == fit_calibration(seen[-1:], ICH, epoch=done.best_epoch)
    points = read_operating_points(run)
    assert points is not None
    assert points.at_sensitivity is not None
    assert points.at_sensitivity["slices"]["0.90"] == {
        name: sensitivity_threshold(seen[-1].truth.slices[:, label], seen[-1].slices[:, label], 0.9)
        for label, name in enumerate(ICH.slices.names)
    }


def _flip(split: str) -> Callable[[Store], Float64Array]:
    def flipped(store: Store) -> Float64Array:
        of_test = store.index["split"] == "test"
        of = of_test if split == "test" else store.index["fold"] == CONFIG.validation_fold
        return np.where(of[:, None], 1 - store.labels, store.labels)

    return flipped


@pytest.mark.parametrize(("part", "is_same"), [("test", True), ("validation", False)])
def test_nothing_is_chosen_by_the_labels_of_split_test(
    store: Store, run: Path, tmp_path: Path, part: str, is_same: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And by those of the fold something is, which is what the same change shows there."""
    assert np.isfinite(store.labels[store.index["split"] == "test"]).any()
    monkeypatch.setattr(store, "labels", _flip(part)(store))
    train(store, tmp_path / "run", CONFIG, device="cpu")
    assert (kept(tmp_path / "run")[0] == kept(run)[0]) is is_same
    assert (kept(tmp_path / "run")[1] == kept(run)[1]) is is_same


@pytest.mark.parametrize(
    "n_steps", [pytest.param(1, marks=pytest.mark.slow), 4, pytest.param(5, marks=pytest.mark.slow)]
)
def test_a_run_that_is_resumed_keeps_the_same(store: Store, run: Path, tmp_path: Path, n_steps: int) -> None:
    asked = iter(range(1000))
    with pytest.raises(PreemptedError):
        train(store, tmp_path / "run", CONFIG, device="cpu", is_stopping=lambda: next(asked) >= n_steps)
    train(store, tmp_path / "run", CONFIG, device="cpu", resume=True)
    assert kept(tmp_path / "run") == kept(run)


def test_a_run_that_holds_nothing_out_has_none(store: Store, tmp_path: Path) -> None:
    config = small.image_config("validation_fold=null", "training_slices_scored=5", epochs=1)
    train(store, tmp_path / "run", config, device="cpu")
    assert read_calibration(tmp_path / "run", ICH) is None


@pytest.mark.parametrize("change", [{"epoch": 9}, {"slices": {}}, {"more": 1}])
def test_what_is_damaged_or_of_another_task_is_refused(run: Path, tmp_path: Path, change: dict[str, object]) -> None:
    content = json.loads((run / CALIBRATION).read_text())
    changed = content | change
    (tmp_path / CALIBRATION).write_text(json.dumps(changed if "epoch" in change else sealed(changed)))
    with pytest.raises(BadInputError, match=r"calibration\.json: damaged.*rsna-e2e calibrate"):
        read_calibration(tmp_path, ICH)


def test_thresholds_of_earlier_versions_are_read(tmp_path: Path) -> None:
    (tmp_path / OPERATING_POINTS).write_text(json.dumps(sealed({"epoch": 1, "thresholds": {"any": 0.1}})))
    points = read_operating_points(tmp_path)
    assert points is not None
    assert (points.thresholds, points.at_sensitivity) == ({"any": 0.1}, None)
