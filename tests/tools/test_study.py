"""The study of ways to train: the same slices for all, every number from what the runs left, and nothing done twice."""

import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import small
from made_up import made_up_run

from rsna_e2e.cli import main
from rsna_e2e.config import RunConfig, save_config
from rsna_e2e.core.errors import CommandFailedError, UsageError
from rsna_e2e.evaluation.evaluate import evaluate
from rsna_e2e.store import Store
from rsna_e2e.store.prepare import prepare
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.tools.study.design import ABLATIONS, JOINT, WAYS, Design, slices_learned
from rsna_e2e.tools.study.page import CURVES, NUMBERS, PAGE, as_markdown
from rsna_e2e.tools.study.plan import Simulated
from rsna_e2e.tools.study.run import part_of_store, run_parts, simulated_parts
from rsna_e2e.tools.study.scores import AUC, LOSS, MEAN_AUC, PRECISION, Scores, detectable
from rsna_e2e.training.pipeline.planned_step import PlannedStep

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = (
    "model.backbone=test_resnet",
    "model.backbone_arguments={}",
    "model.embedding_width=16",
    "image.size=64",
    "image.supersample=1",
    "precision=fp32",
    "loader.slices_per_batch=8",
    "slice_phase.slices_per_batch=4",
)


def design(*overrides: str, epochs: int = 2, n_seeds: int = 1) -> Design:
    return Design.of("demo", [*TINY, *overrides], epochs=epochs, seeds=range(1, n_seeds + 1), n_ablated=1)


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Series in two folds, and some in a test split that has labels."""
    folder = tmp_path_factory.mktemp("study")
    small.write_raw(folder / "raw", n_unlabelled=0)
    prepare(folder / "raw", folder / "store", task=ICH, n_folds=2, n_jobs=1, holdout=0.4)
    return Store.open(folder / "store")


def run_in_process(monkeypatch: pytest.MonkeyPatch, commands: list[Sequence[str]]) -> None:
    """Run the steps of pipelines in this process, and note their commands."""

    def execute(step: PlannedStep, command: Sequence[str]) -> int:
        commands.append(command)
        return main(command[1:])

    monkeypatch.setattr("rsna_e2e.training.pipeline.run.run_command", execute)


def test_a_study_of_a_store(
    held_out: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commands: list[Sequence[str]] = []
    run_in_process(monkeypatch, commands)
    words = [
        "study",
        str(tmp_path / "out"),
        "--store",
        str(held_out.path),
        "--epochs",
        "2",
        "--seeds",
        "1",
        "--jobs",
        "1",
    ]
    words += ["--device", "cpu", *(word for one in TINY for word in ("--set", one))]
    assert main(words) == 0, capsys.readouterr().err
    n_commands = len(commands)
    (result,) = json.loads((tmp_path / "out" / NUMBERS).read_text())["results"]
    assert set(result["ways"]) == set(WAYS)
    submission = tmp_path / "out" / "given" / "predictions" / "warm-1.csv"
    scored = evaluate(submission, submission.parent / "warm-1.csv.truth.csv", task=ICH)
    of_warm = result["ways"]["warm"]["mean"]
    assert of_warm["log loss"]["value"] == pytest.approx(scored.weighted_log_loss.value, abs=1e-12)
    page = (tmp_path / "out" / PAGE).read_text()
    assert all(title in page for title in WAYS.values())
    assert (tmp_path / "out" / CURVES).read_bytes().startswith(b"\x89PNG")
    assert main(words) == 0
    assert len(commands) == n_commands  # everything was there


def test_scores_are_those_of_evaluate_and_differences_are_paired(tmp_path: Path) -> None:
    skills = {"good": 2.5, "bad": 1.0}
    for name in skills:
        (tmp_path / name).mkdir()
    runs = [made_up_run(tmp_path / name, n_series=30, seed=3, skill=skill) for name, skill in skills.items()]
    found = [Scores.of(run.submission, run.truth, ICH, seed=0) for run in runs]
    for run, scores in zip(runs, found, strict=True):
        scored = evaluate(run.submission, run.truth, task=ICH)
        areas = {one.label: one.auc.value for one in scored.slices.scores}
        assert scores.values[LOSS] == pytest.approx(scored.weighted_log_loss.value, abs=1e-12)
        assert scores.values[AUC] == pytest.approx(areas[ICH.headline], abs=1e-12)
        assert scores.values[MEAN_AUC] == pytest.approx(np.mean(list(areas.values())), abs=1e-12)
    difference = found[0].minus(found[1])
    assert difference.estimate(AUC).low > 0 > difference.estimate(LOSS).high
    unpaired = found[0].resampled[AUC] - np.roll(found[1].resampled[AUC], 1)
    assert np.std(difference.resampled[AUC]) < 0.8 * np.std(unpaired)
    nothing = Scores.mean(found).minus(Scores.mean(found))
    assert detectable([nothing], LOSS) == 0
    assert detectable([difference], LOSS) == pytest.approx(2.801585219 * np.std(difference.resampled[LOSS]))
    assert detectable([difference, nothing], LOSS) > 2.801585219 * np.std([difference.values[LOSS], 0], ddof=1) / 2**0.5
    assert (nothing.estimate(LOSS).low, nothing.estimate(LOSS).high) == (0, 0)


def test_every_backbone_learns_from_as_many_slices(held_out: Store, tmp_path: Path) -> None:
    plan = part_of_store(design(epochs=4), tmp_path, held_out.path).plan
    n_by_fold = {
        fold: sum(span.n_slices for span in held_out.series if span.split == "train" and span.fold == fold)
        for fold in (0, 1)
    }

    def seen(config: RunConfig) -> int:
        return slices_learned(config) * sum(n for fold, n in n_by_fold.items() if fold != config.validation_fold)

    by_run = {step.name: seen(step.settings) for step in plan.steps if step.settings is not None}
    last = [member for member in plan.members if member.epoch is None]
    of_way = {member.way: sum(by_run[f"runs/{run.name}"] for run in member.runs) for member in last}
    assert set(of_way) == set(WAYS)
    assert of_way.pop("frozen") == 3 * sum(n_by_fold.values())
    assert set(of_way.values()) == {4 * sum(n_by_fold.values())}


def test_frozen_epochs_teach_a_backbone_nothing() -> None:
    made = design(epochs=4)
    assert slices_learned(made.joint_run("frozen", 1)) == 3
    assert slices_learned(made.sequence_head(1)) == 0
    phase = made.slice_phase.model_copy(update={"epochs": 5, "freeze_backbone_epochs": 2})
    assert slices_learned(made.classifier(1).model_copy(update={"slice_phase": phase})) == 3


def test_ways_differ_in_what_they_are_called_for_alone() -> None:
    made = design(epochs=4)
    same = ("image", "augment", "inputs", "precision", "loader", "task", "seed")
    runs = [made.classifier(1), *(made.joint_run(way, 1) for way in JOINT)]
    for name in same:
        assert len({repr(getattr(run, name)) for run in runs}) == 1, name
    assert len({run.model.backbone for run in runs}) == 1
    frozen, warm = made.joint_run("frozen", 1), made.joint_run("warm", 1)
    assert frozen.model_copy(update={"freeze_backbone_epochs": 0}) == warm
    scratch = made.joint_run("scratch", 1)
    assert scratch.slice_phase is None
    assert scratch.optimizer.learning_rate == made.slice_phase.optimizer.learning_rate
    assert made.sequence_head(1).model.embedding_width == warm.model.embedding_width


def test_settings_of_the_head_on_embeddings_are_its_own() -> None:
    made = Design.of("demo", [*TINY], ["optimizer.head_learning_rate=0.01"], epochs=2, seeds=[1], n_ablated=1)
    assert made.sequence_head(1).optimizer.head_learning_rate == 0.01
    assert made.joint_run("warm", 1).optimizer.head_learning_rate != 0.01


def test_the_published_backbone_is_compared_too() -> None:
    """Its recipe has no first phase on slices, and weights to begin with, so nothing of it starts from scratch."""
    with pytest.raises(UsageError, match="trains a classifier of slices too"):
        Design.of("reference", [], epochs=4, seeds=[1], n_ablated=1)
    made = Design.of("reference", ["model.slice_loss_weight=0.5"], epochs=4, seeds=[1], n_ablated=1)
    assert made.joint_run("warm", 1).slice_phase.epochs == 3
    assert made.joint_run("scratch", 1).model.batchnorm == made.joint.model.batchnorm
    assert made.classifier(1).slice_phase.epochs == 4


def test_a_file_of_settings_is_a_recipe(tmp_path: Path) -> None:
    save_config(design().joint, path=tmp_path / "mine.yaml")
    made = Design.of(tmp_path / "mine.yaml", [], epochs=2, seeds=[1], n_ablated=1)
    assert made.joint == design().joint


@pytest.mark.parametrize("n_folds", [1, 3])
def test_a_store_of_other_folds_is_refused(held_out: Store, tmp_path: Path, n_folds: int) -> None:
    prepare(held_out.path.parent / "raw", tmp_path / "store", task=ICH, n_folds=n_folds, n_jobs=1, holdout=0.4)
    with pytest.raises(UsageError, match="Prepare it with --folds 2"):
        part_of_store(design(), tmp_path / "out", tmp_path / "store")


def test_a_store_without_a_labelled_test_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    small.write_raw(tmp_path / "raw", n_unlabelled=3)
    prepare(tmp_path / "raw", tmp_path / "store", task=ICH, n_folds=2, n_jobs=1)
    with pytest.raises(UsageError, match="too few labelled series in split test"):
        part_of_store(design(), tmp_path / "out", tmp_path / "store")


def test_heads_out_of_fold_learn_from_what_their_classifiers_held_out(held_out: Store, tmp_path: Path) -> None:
    plan = part_of_store(design(), tmp_path, held_out.path).plan
    steps = {step.name: step for step in plan.steps}
    for fold in (0, 1):
        assert steps[f"runs/slices-1-fold{fold}"].settings.validation_fold == fold
        head = steps[f"runs/out_of_fold-1-fold{fold}"]
        assert (head.settings.training_fold, head.settings.validation_fold) == (fold, None)
        assert str(steps[f"embeddings/slices-1-fold{fold}"].output) in head.arguments


def test_data_of_every_context_differ_in_it_alone(tmp_path: Path) -> None:
    data = [Simulated(context=one, n_studies=8, test_fraction=0.5, seed=3) for one in ("none", "strong")]
    parts = simulated_parts(design(n_seeds=2), tmp_path, data)
    made = [[word for word in part.plan.steps[0].arguments if str(tmp_path) not in word] for part in parts]
    assert [[a, b] for a, b in zip(*made, strict=True) if a != b] == [["none", "strong"]]
    for part in parts:
        names = [step.name for step in part.plan.steps]
        assert names[:2] == ["synth", "prepare"]
        assert len(set(names)) == len(names)
        seeds = {way: sum(one.way == way and one.epoch is None for one in part.members) for way in WAYS}
        assert seeds == {way: 1 if way in ABLATIONS else 2 for way in WAYS}


def test_simulated_studies_are_made_once(tmp_path: Path) -> None:
    """In a folder that is not there yet; killed after it appeared, the study goes on with it."""
    data = [Simulated(context="strong", n_studies=8, test_fraction=0.5, seed=3)]
    made: list[str] = []

    def execute(step: PlannedStep, command: Sequence[str]) -> int:
        if step.verb != "synth":
            return 1
        made.append(shlex.join(command[3:]))
        assert not step.output.exists()
        step.output.mkdir()
        return 130

    for _ in range(2):
        with pytest.raises(CommandFailedError):
            run_parts(simulated_parts(design(), tmp_path, data), execute=execute, say=lambda text: None)
    assert made == ["--prevalence demo --studies 8 --seed 3 --context strong --test-fraction 0.5"]


@pytest.mark.slow
def test_a_study_of_simulated_data(tmp_path: Path) -> None:
    """As a user runs it, in processes of their own."""
    words = ["--studies", "16", "--epochs", "2", "--seeds", "2", "--ablation-seeds", "1", "--contexts", "none,strong"]
    words += [word for one in TINY for word in ("--set", one)]
    command = [sys.executable, "-m", "rsna_e2e.cli", "study", str(tmp_path), *words, "--device", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / NUMBERS).read_text())["results"]
    assert [one["data"] for one in results] == ["none", "strong"]
    for one in results:
        assert [len(one["ways"][way]["seeds"]) for way in WAYS] == [1 if way in ABLATIONS else 2 for way in WAYS]
        assert {floor["name"] for floor in one["floors"]} >= {"constant", "position", "metadata"}
    assert "--contexts none,strong" in (tmp_path / PAGE).read_text()


@pytest.mark.parametrize(
    ("recipe", "epochs", "message"),
    [("demo", 1, "at least 2"), ("ich_fastai", 2, "demo and reference"), ("pe_demo", 2, "demo and reference")],
)
def test_a_design_that_does_not_fit_is_refused(recipe: str, epochs: int, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Design.of(recipe, [], epochs=epochs, seeds=[1], n_ablated=1)


@pytest.mark.parametrize(
    "words",
    [
        ["--contexts", "weak"],
        ["--contexts", "none,none"],
        ["--test-fraction", "1.5"],
        ["--test-fraction", "0.1", "--studies", "9"],
        ["--studies", "9", "--store", "store"],
    ],
)
def test_wrong_options_are_named(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        sys.exit(main(["study", str(tmp_path / "out"), *words]))
    assert end.value.code == 2
    assert words[0] in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("device", "cores", "asked", "n"),
    [
        ("cpu", 2, None, 2),
        ("cpu", 64, None, 8),
        ("cpu", 2, 5, 5),
        ("cuda", 64, None, 1),
        ("cuda", 64, 3, 3),
    ],
)
def test_how_many_steps_run_at_the_same_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str, cores: int, asked: int | None, n: int
) -> None:
    given: dict[str, object] = {}

    def note(parts: object, **options: object) -> None:
        given.update(options)
        raise UsageError("enough")

    monkeypatch.setattr("rsna_e2e.tools.study.run.run_parts", note)
    monkeypatch.setattr("rsna_e2e.core.device.choose_device_type", lambda _: device)
    monkeypatch.setattr("rsna_e2e.core.process.available_cores", lambda: cores)
    assert main(["study", str(tmp_path), *([] if asked is None else ["--jobs", str(asked)])]) == UsageError.exit_code
    assert given["jobs"] == n


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (
            -0.03,
            -0.01,
            "joint, warm-started is better than two stages, in sample: log loss -0.0200 [-0.0300,",
        ),
        (0.01, 0.03, "two stages, in sample is better than joint, warm-started: log loss +0.0200 [+0.0100, +0.0300]."),
        (
            -0.01,
            0.05,
            "no difference between joint, warm-started and two stages, in sample was found: log loss +0.0200 ",
        ),
    ],
)
def test_the_page_begins_with_the_answer(low: float, high: float, said: str) -> None:
    estimate = {"value": (low + high) / 2, "low": low, "high": high}
    mean = dict.fromkeys((LOSS, AUC, MEAN_AUC, PRECISION), estimate)
    cost = {"n_slices": 1, "elapsed_s": 1, "peak_mib": 1}
    ways = {way: {"seeds": [mean], "mean": mean, "cost": cost} for way in WAYS}
    difference = {"n_seeds": 1, "by_seed": [{LOSS: 0.0}], "mean": mean, "detectable": {LOSS: 0.04}}
    pairs = [{"first": "warm", "second": way, **difference} for way in ("slices", "in_sample")]
    facts = {"command": "c", "commit": None, "cpu": "x", "cores": 1, "data_seed": None}
    result = {"data": "mine", "n_patients": 9, "ways": ways, "differences": pairs, "floors": []}
    lines = as_markdown([result], facts, design()).splitlines()
    assert lines[4].startswith(f"- **mine**: {said}")
