"""Plans by counting, the ledger by tampering, and chains of commands that stop anywhere."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import sequences
import small

from rsna_e2e.config import load_config, load_two_stage
from rsna_e2e.core.errors import BadInputError, CommandFailedError, UsageError
from rsna_e2e.store import Store
from rsna_e2e.store.prepare import prepare
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.training.pipeline import PARTS
from rsna_e2e.training.pipeline.checks import check_store
from rsna_e2e.training.pipeline.commands import run_command
from rsna_e2e.training.pipeline.ledger import Ledger
from rsna_e2e.training.pipeline.plan import plan_joint, plan_two_stage
from rsna_e2e.training.pipeline.planned_step import Folders, PlannedStep
from rsna_e2e.training.pipeline.run import Pipeline


def folders_in(root: Path) -> Folders:
    return Folders(raw=root / "raw", labels=None, store=root / "store", out=root / "full")


TWO_EPOCHS = ["images.slice_phase.epochs=2"]


def names(steps: Sequence[PlannedStep]) -> list[str]:
    return [step.name for step in steps]


class Commands:
    """Stands for the commands: notes them, and makes what each would leave; fails before the step `fail_at`."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.fail_at = ""

    def __call__(self, step: PlannedStep, command: Sequence[str]) -> int:
        if step.name == self.fail_at:
            return 75
        self.ran.append(step.name)
        if step.verb != "prepare":  # the store would have to be one
            step.output.parent.mkdir(parents=True, exist_ok=True)
            step.output.touch()
        return 0


def quiet(line: str) -> None:
    pass


def test_the_full_plan_of_the_published_solution_has_thirty_heads(tmp_path: Path) -> None:
    steps = plan_two_stage("full", load_two_stage("reference"), folders_in(tmp_path))
    verbs = [step.verb for step in steps]
    assert [verbs.count(verb) for verb in ("prepare", "embed", "predict", "bag")] == [1, 30, 30, 1]
    assert verbs.count("train") == 6 + 30
    assert steps[-1].name == "submission"
    assert len(steps[-1].depends) == 30


def test_the_single_plan_uses_all_the_data_once(tmp_path: Path) -> None:
    steps = plan_two_stage("single", load_two_stage("demo", TWO_EPOCHS), folders_in(tmp_path))
    assert names(steps) == [
        "prepare",
        "images/series-all",
        "embeddings/series-all-epoch1",
        "embeddings/series-all-epoch2",
        "sequences/series-all-epoch1",
        "predictions/series-all-epoch1",
        "sequences/series-all-epoch2",
        "predictions/series-all-epoch2",
        "submission",
    ]
    trained = [step.settings for step in steps if step.settings is not None]
    assert {settings.validation_fold for settings in trained} == {None}
    assert all(settings.checkpoint.keep_epochs for settings in trained)
    (embed, *_) = [step for step in steps if step.verb == "embed"]
    assert embed.facts == {"epoch": 1, "views": ["plain"]}


def test_every_step_comes_after_what_it_depends_on(tmp_path: Path) -> None:
    config = load_two_stage("demo", ["two_stage.out_of_fold=true"])
    seen: set[str] = set()
    for step in plan_two_stage("full", config, folders_in(tmp_path)):
        assert seen.issuperset(step.depends), step.name
        seen.add(step.name)


def test_out_of_fold_heads_know_the_embeddings_of_all_folds(tmp_path: Path) -> None:
    config = load_two_stage("demo", ["two_stage.out_of_fold=true", "two_stage.folds=[0, 1, 2]"])
    steps = {step.name: step for step in plan_two_stage("full", config, folders_in(tmp_path))}
    head = steps["sequences/none-fold1-epoch2"]
    given = [word for word in head.arguments if "=" in word]
    assert given == [f"{fold}={tmp_path}/full/embeddings/none-fold{fold}-epoch2" for fold in (0, 1, 2)]
    assert set(head.depends) == {"prepare", *(f"embeddings/none-fold{fold}-epoch2" for fold in (0, 1, 2))}


def test_the_switch_turns_on_every_quirk_and_its_absence_none(tmp_path: Path) -> None:
    by_default = load_two_stage("reference")
    published = load_two_stage("reference", ["two_stage.match_reference=true", "two_stage.jpeg=true"])
    image, fixed_image = published.image_run(crop="series", fold=None), by_default.image_run(crop="series", fold=None)
    assert (image.image.crop, image.image.square, image.image.values) == ("slice", "upper_left", "jpeg")
    assert (fixed_image.image.crop, fixed_image.image.square, fixed_image.image.values) == ("series", "center", "hu")
    by_demo = load_two_stage("demo", ["two_stage.match_reference=true"]).image_run(crop="none", fold=0)
    assert (by_demo.image.supersample, load_two_stage("demo").images.image.supersample) == (1, 3)
    assert (image.folds, image.training_slices_scored) == ("published", 1000)
    assert (fixed_image.folds, fixed_image.training_slices_scored) == ("store", None)
    assert published.image_run(crop="none", fold=0).image.crop == "none"
    assert published.image_run(crop="none", fold=0).training_slices_scored is None
    head, fixed_head = published.sequence_run(fold=0), by_default.sequence_run(fold=0)
    assert (head.model.padding, head.loader.slice_order, head.folds) == ("left", "published", "published")
    assert (fixed_head.model.padding, fixed_head.loader.slice_order, fixed_head.folds) == (
        "packed",
        "geometric",
        "store",
    )


def test_fast_heads_are_named_by_their_folders(store: Path, tmp_path: Path) -> None:
    given = [tmp_path / "a" / "epoch1", tmp_path / "b" / "epoch1", tmp_path / "c"]
    opened = Store.open(store)
    for fold, folder in enumerate(given):
        sequences.write_embeddings(folder, opened, fold=fold)
    steps = plan_two_stage("fast", load_two_stage("demo"), folders_in(tmp_path), embeddings=given)
    assert [s.settings.validation_fold for s in steps if s.settings is not None] == [0, 1, 2]  # as their classifiers
    assert [s.name for s in steps if s.verb == "train"] == [
        "sequences/epoch1-0",
        "sequences/epoch1-1",
        "sequences/c",
    ]


def test_the_joint_plan_trains_and_predicts(tmp_path: Path) -> None:
    steps = plan_joint(load_config("demo"), folders_in(tmp_path))
    assert names(steps) == ["prepare", "joint", "predictions/joint", "submission"]
    assert steps[1].settings is not None
    assert steps[1].settings.validation_fold is None
    assert steps[1].scale == 11  # 8 epochs of single slices, 3 of whole series


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.make_store(tmp_path_factory.mktemp("pipeline")).path


@pytest.fixture
def make(store: Path, tmp_path: Path) -> Callable[..., Pipeline]:
    """Makes the same pipeline again and again, with other settings where they are given."""

    def made(*overrides: str) -> Pipeline:
        folders = Folders(raw=None, labels=None, store=store, out=tmp_path / "single")
        return Pipeline(plan_two_stage("single", load_two_stage("demo", [*TWO_EPOCHS, *overrides]), folders), folders)

    return made


def needed(pipeline: Pipeline) -> list[str]:
    return [standing.step.name for standing in pipeline.standings() if standing.is_needed]


def test_a_chain_that_stopped_goes_on_and_does_nothing_twice(make: Callable[..., Pipeline]) -> None:
    commands = Commands()
    commands.fail_at = "sequences/series-all-epoch2"
    with pytest.raises(CommandFailedError, match="sequences/series-all-epoch2 ended with exit code 75") as stopped:
        make().run(PARTS, execute=commands, say=quiet)
    assert stopped.value.exit_code == 75
    rest = ["sequences/series-all-epoch2", "predictions/series-all-epoch2", "submission"]
    assert needed(make()) == rest
    assert [s.state for s in make().standings() if s.is_needed] == ["begun", "to do", "to do"]
    commands.fail_at = ""
    before = len(commands.ran)
    make().run(PARTS, execute=commands, say=quiet)
    assert commands.ran[before:] == rest
    make().run(PARTS, execute=commands, say=quiet)
    assert len(commands.ran) == before + len(rest)


def test_the_epochs_of_a_head_go_when_it_has_predicted(make: Callable[..., Pipeline]) -> None:
    commands = Commands()
    commands.fail_at = "submission"
    run = make().folders.out / "sequences" / "series-all-epoch1"
    for epoch in (1, 2, 3):
        (run / "checkpoints" / f"step-{epoch:08d}-epoch-{epoch:03d}").mkdir(parents=True)
    with pytest.raises(CommandFailedError):
        make().run(PARTS, execute=commands, say=quiet)
    assert [folder.name for folder in (run / "checkpoints").iterdir()] == ["step-00000003-epoch-003"]


def test_epochs_that_a_kill_left_behind_go_with_the_next_start(make: Callable[..., Pipeline]) -> None:
    make().run(PARTS, execute=Commands(), say=quiet)
    run = make().folders.out / "sequences" / "series-all-epoch1"
    for epoch in (1, 2):
        (run / "checkpoints" / f"step-{epoch:08d}-epoch-{epoch:03d}").mkdir(parents=True)
    make().run(PARTS, execute=Commands(), say=quiet)
    assert [folder.name for folder in (run / "checkpoints").iterdir()] == ["step-00000002-epoch-002"]


def test_a_head_starts_over_when_its_predictions_are_gone(make: Callable[..., Pipeline]) -> None:
    make().run(PARTS, execute=Commands(), say=quiet)
    outputs = {step.name: step.output for step in make().steps}
    outputs["submission"].unlink()
    outputs["predictions/series-all-epoch2"].unlink()
    left = outputs["sequences/series-all-epoch2"].parent / "left"
    left.touch()
    commands = Commands()
    make().run(PARTS, execute=commands, say=quiet)
    assert commands.ran == ["sequences/series-all-epoch2", "predictions/series-all-epoch2", "submission"]
    assert not left.exists()


def test_a_store_that_was_removed_does_not_spoil_what_is_done(store: Path, tmp_path: Path) -> None:
    kept = tmp_path / "store"
    shutil.copytree(store, kept)
    folders = Folders(raw=tmp_path, labels=None, store=kept, out=tmp_path / "single")
    commands = Commands()
    for _ in range(2):
        pipeline = Pipeline(plan_two_stage("single", load_two_stage("demo"), folders), folders)
        pipeline.run(PARTS, execute=commands, say=quiet)
        if kept.exists():
            shutil.rmtree(kept)
    without_raw = replace(folders, raw=None)
    pipeline = Pipeline(plan_two_stage("single", load_two_stage("demo"), without_raw), without_raw)
    assert needed(pipeline) == []
    assert commands.ran.count("submission") == 1


def test_more_members_are_averaged_again(make: Callable[..., Pipeline]) -> None:
    make("two_stage.image_epochs=[1]").run(PARTS, execute=Commands(), say=quiet)
    commands = Commands()
    make("two_stage.image_epochs=[1, 2]").run(PARTS, execute=commands, say=quiet)
    assert commands.ran[-1] == "submission"
    assert "images/series-all" not in commands.ran


def test_what_does_not_change_a_result_may_change(make: Callable[..., Pipeline]) -> None:
    make().run(PARTS, execute=Commands(), say=quiet)
    assert needed(make("images.graph_slices=8", "sequences.loader.threads=1")) == []


def test_a_store_that_does_not_suit_is_refused_before_anything_is_trained(store: Path, tmp_path: Path) -> None:
    folders = Folders(raw=None, labels=None, store=store, out=tmp_path / "full")
    for settings, message in (
        (["two_stage.folds=[0, 7]"], r"has folds \[0, 1, 2\]; two_stage.folds asks for \[0, 7\]"),
        (["two_stage.out_of_fold=true"], r"--set two_stage.folds=\[0, 1, 2\]"),
    ):
        config = load_two_stage("demo", settings)
        plan = plan_two_stage("full", config, folders)
        commands = Commands()
        with pytest.raises(UsageError, match=message):
            Pipeline(plan, folders, check=partial(check_store, config=config)).run(PARTS, execute=commands, say=quiet)
        assert commands.ran == []


def test_a_store_without_a_test_split_is_refused(tmp_path: Path) -> None:
    small.write_raw(tmp_path / "raw", n_unlabelled=0)
    prepare(tmp_path / "raw", tmp_path / "store", task=ICH, n_folds=3, n_jobs=1)
    with pytest.raises(UsageError, match=r"no series to predict \(split test\).* --holdout 0.2"):
        check_store(Store.open(tmp_path / "store"), None)


@pytest.mark.parametrize(
    "setting", ["two_stage.folds=[0, 0]", "two_stage.views=[plain, plain]", "two_stage.image_epochs=[4]"]
)
def test_a_plan_that_cannot_work_is_refused(setting: str) -> None:
    with pytest.raises(UsageError, match=r"twice|after the last"):
        load_two_stage("demo", [setting])


def test_heads_on_embeddings_are_trained_by_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[dict[str, str]] = []
    monkeypatch.setattr(
        "rsna_e2e.training.pipeline.commands.supervise", lambda words, environment: given.append(dict(environment)) or 0
    )
    plan = plan_two_stage("single", load_two_stage("demo", []), folders_in(tmp_path))
    for kind in ("images/", "sequences/"):
        (first, *_) = [step for step in plan if step.name.startswith(kind)]
        run_command(first, ["rsna-e2e", "train", "store", "run"], {})
    assert [environment.get("NPROC") for environment in given] == [None, "1"]


def test_settings_reach_the_command_that_trains(make: Callable[..., Pipeline]) -> None:
    pipeline = make("images.seed=77")
    pipeline.run(["images"], execute=Commands(), say=quiet)
    (train,) = [step for step in pipeline.steps if step.part == "images"]
    command = pipeline.command(train)
    assert command[:2] == ["rsna-e2e", "train"]
    assert load_config(Path(command[command.index("--recipe") + 1])).seed == 77


@pytest.mark.parametrize(("code", "is_hinted"), [(4, True), (75, False)])
def test_a_failed_training_says_how_its_settings_are_named_here(
    make: Callable[..., Pipeline], code: int, is_hinted: bool
) -> None:
    with pytest.raises(CommandFailedError) as failed:
        make().run(["images"], execute=lambda step, command: code, say=quiet)
    assert ("as in --set images.NAME=VALUE" in str(failed.value)) == is_hinted
    assert ("The same command goes on with it" in str(failed.value)) == (code == 75)


def test_a_part_that_lacks_what_comes_before_says_so(make: Callable[..., Pipeline]) -> None:
    with pytest.raises(UsageError, match="embeddings/series-all-epoch1 needs images/series-all first"):
        make().run(["embeddings"], execute=Commands(), say=quiet)


def test_outputs_that_nobody_needs_may_be_removed(make: Callable[..., Pipeline]) -> None:
    make().run(PARTS, execute=Commands(), say=quiet)
    outputs = {step.name: step.output for step in make().steps}
    outputs["embeddings/series-all-epoch1"].unlink()
    assert needed(make()) == []
    outputs["predictions/series-all-epoch1"].unlink()
    assert needed(make()) == []
    outputs["submission"].unlink()
    assert needed(make()) == [
        "embeddings/series-all-epoch1",  # the prediction is made from them again
        "sequences/series-all-epoch1",  # whose epochs went when it had predicted
        "predictions/series-all-epoch1",
        "submission",
    ]


def test_two_processes_do_not_work_in_one_folder(make: Callable[..., Pipeline]) -> None:
    def meet(step: PlannedStep, command: Sequence[str]) -> int:
        with pytest.raises(UsageError, match="another process is working there"):
            make().run(PARTS, execute=Commands(), say=quiet)
        return 6

    with pytest.raises(CommandFailedError):
        make().run(PARTS, execute=meet, say=quiet)
    make().run(PARTS, execute=Commands(), say=quiet)  # it has gone


def test_other_settings_are_not_mixed_with_what_is_there(make: Callable[..., Pipeline]) -> None:
    make().run(PARTS, execute=Commands(), say=quiet)
    with pytest.raises(UsageError, match=r"images/series-all was made with .*settings\.seed 1234 instead of 5"):
        make("images.seed=5").standings()
    other_views = [replace(s, facts={"epoch": 1, "views": ["hflip"]}) if s.verb == "embed" else s for s in make().steps]
    with pytest.raises(UsageError, match=r"embeddings/series-all-epoch\d was made with .*views"):
        Pipeline(other_views, make().folders).standings()
    assert needed(make()) == []


def test_other_data_are_not_mixed_with_what_is_there(make: Callable[..., Pipeline], tmp_path: Path) -> None:
    make().run(["images"], execute=Commands(), say=quiet)
    other = small.make_store(tmp_path / "other", sides=(40,))
    folders = replace(make().folders, store=other.path)
    with pytest.raises(UsageError, match="data_hash"):
        Pipeline(make().steps, folders).standings()


def test_other_embeddings_are_not_mixed_with_what_is_there(store: Path, tmp_path: Path) -> None:
    given = tmp_path / "given"
    folders = Folders(raw=None, labels=None, store=store, out=tmp_path / "fast")
    with pytest.raises(BadInputError, match="rsna-e2e embed"):
        plan_two_stage("fast", load_two_stage("demo"), folders, embeddings=[given])
    sequences.write_embeddings(given, Store.open(store))
    pipeline = Pipeline(plan_two_stage("fast", load_two_stage("demo"), folders, embeddings=[given]), folders)
    pipeline.run(PARTS, execute=Commands(), say=quiet)
    shutil.rmtree(given)
    sequences.write_embeddings(given, Store.open(store), seed=1)
    with pytest.raises(UsageError, match=r"sequences/given was made with .*input given/manifest\.json"):
        pipeline.standings()


def test_a_store_is_made_once_for_all_modes_and_of_one_folder(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    small.write_raw(tmp_path / "raw")
    labels = tmp_path / "raw" / "stage_2_train.csv"

    def pipeline_of(mode: str, raw: Path) -> Pipeline:
        out = tmp_path / "out"
        folders = Folders(raw=raw, labels=labels, store=out / "store", out=out / mode)
        return Pipeline(plan_two_stage(mode, load_two_stage("demo"), folders), folders)

    commands = Commands()
    commands.fail_at = "prepare"
    with pytest.raises(CommandFailedError):
        pipeline_of("full", tmp_path / "raw").run(["prepare"], execute=commands, say=quiet)
    prepare(tmp_path / "raw", tmp_path / "out" / "store", task=ICH, n_folds=3, n_jobs=1)  # it was killed just then
    for mode in ("full", "single"):
        pipeline_of(mode, tmp_path / "raw").run(["prepare"], execute=commands, say=quiet)
        assert "prepare" not in needed(pipeline_of(mode, tmp_path / "raw"))
    with pytest.raises(UsageError, match=r"prepare was made with .*raw"):
        pipeline_of("single", tmp_path / "elsewhere").standings()
    labels.write_text(labels.read_text() + "\n")
    with pytest.raises(UsageError, match=r"prepare was made with .*input raw/stage_2_train\.csv"):
        pipeline_of("single", tmp_path / "raw").standings()


def test_a_damaged_ledger_is_not_believed(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.begin("a/b", {"x": 1})
    assert ledger.state("a/b", {"x": 1}) == "begun"
    ledger.finish("a/b", {"x": 1}, elapsed_s=1.0)
    assert ledger.state("a/b", {"x": 1}) == "done"
    (tmp_path / "a-b.json").write_text("{")
    with pytest.raises(BadInputError, match="damaged"):
        ledger.state("a/b", {"x": 1})


def test_commands_are_run_beside_this_python(tmp_path: Path) -> None:
    pipeline = plan_joint(load_config("demo"), folders_in(tmp_path))
    assert run_command(pipeline[-1], ["rsna-e2e", "--version"]) == 0
    assert run_command(pipeline[-1], ["rsna-e2e", "predict", str(tmp_path), str(tmp_path)]) == BadInputError.exit_code
