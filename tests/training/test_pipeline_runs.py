"""Whole modes on a tiny store, in processes of their own: killed anywhere, they end with the same submission."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import small

from rsna_e2e.inference.predictions import predictions_path, read_predictions
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.tasks.labels import read_labels

TWO_STAGES = [
    "images.model.backbone=test_resnet",
    "images.model.backbone_arguments={}",
    "images.image.size=32",
    "images.image.supersample=1",
    "images.precision=fp32",
    "images.slice_phase.slices_per_batch=4",
    "images.checkpoint.every_steps=2",
    "sequences.precision=fp32",
    "sequences.model.embedding_width=8",
    "sequences.epochs=2",
    "two_stage.folds=[0]",
]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
TIMEOUT_S = 600.0
LATEST_KILL_S = 6.0  # after a step has begun, starting its process included


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.make_store(tmp_path_factory.mktemp("runs")).path


def command(mode: str, store: Path, out: Path, settings: Sequence[str]) -> list[str]:
    words = [sys.executable, "-m", "rsna_e2e.cli", "pipeline", mode, "--data", str(store), "--out", str(out)]
    return [*words, "--device", "cpu", *(word for setting in settings for word in ("--set", setting))]


def run(words: Sequence[str], *, kill_at: tuple[str, float] | None = None) -> int:
    """Run a mode; kill it and all its processes some seconds after a step has begun, when told to."""
    began_s = time.monotonic()
    with subprocess.Popen(
        words, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if kill_at is not None and line.startswith("[") and kill_at[0] in line:
                time.sleep(kill_at[1])
                os.killpg(process.pid, signal.SIGKILL)
                kill_at = None
            assert time.monotonic() - began_s < TIMEOUT_S
        return process.wait()


def assert_same_submission(one: Path, other: Path) -> None:
    assert one.read_bytes() == other.read_bytes()
    probabilities = read_predictions(predictions_path(one), ICH).probability
    assert (probabilities != probabilities[0]).any()
    assert read_labels(one, ICH).values.shape == (4, 6)  # of the one series without labels


def joint_settings() -> list[str]:
    """Those of the images of two stages, for a joint model on whole series from the first epoch."""
    images = [s.removeprefix("images.") for s in TWO_STAGES if s.startswith("images.") and "slice_p" not in s]
    return [*images, "slice_phase=null", "epochs=3", "loader.slices_per_batch=8"]


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["full", "single", "fast", "joint"])
def test_a_mode_that_is_killed_anywhere_ends_with_the_same_submission(
    mode: str, store: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    settings = TWO_STAGES
    if mode == "joint":
        settings = joint_settings()
    if mode == "fast":
        for name in "ab":
            parts = ["--part", "images", "--part", "embeddings"]
            assert run([*command("single", store, tmp_path / name, settings), *parts]) == 0
    assert run(command(mode, store, tmp_path / "a", settings)) == 0
    words = command(mode, store, tmp_path / "b", settings)
    rng = random.Random(mode)
    n_kills = 0
    # The first kill meets every mode early, when it cannot have ended
    for verb in (" train ", *rng.choices([" train ", " embed ", " predict ", " bag "], k=3)):
        code = run(words, kill_at=(verb, rng.uniform(0.0, LATEST_KILL_S)))
        if code == 0:  # there was no such step any more, or it ended before
            break
        assert code == -signal.SIGKILL
        n_kills += 1
    assert n_kills > 0
    assert run(words) == 0
    assert_same_submission(*(tmp_path / name / mode / "submission.csv.gz" for name in "ab"))


def test_a_mode_that_is_told_to_end_says_so_and_goes_on(store: Path, tmp_path: Path) -> None:
    settings = [*TWO_STAGES, "images.slice_phase.epochs=400", "images.checkpoint.every_steps=1000"]
    words = [*command("single", store, tmp_path, settings), "--part", "images"]
    process = subprocess.Popen(words, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    log = tmp_path / "single" / "images" / "series-all" / "metrics.jsonl"
    began_s = time.monotonic()
    while not log.exists() or log.stat().st_size < 2000:
        assert process.poll() is None
        assert time.monotonic() - began_s < TIMEOUT_S
        time.sleep(0.1)
    process.terminate()
    assert process.wait(timeout=TIMEOUT_S) == 75
    assert (tmp_path / "single" / "images" / "series-all" / "preempted").exists()
