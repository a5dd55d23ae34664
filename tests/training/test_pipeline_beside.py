"""Plans with classifiers side by side and heads of their own for series."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import sequences
import small

from rsna_e2e.cli import main
from rsna_e2e.config import TwoStageConfig, load_two_stage, save_config
from rsna_e2e.core.errors import UsageError
from rsna_e2e.model.backbone_size import backbone_size
from rsna_e2e.tasks.catalogue import get_task
from rsna_e2e.tasks.files import task_as_yaml
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.tasks.task import Task
from rsna_e2e.training.pipeline import PARTS
from rsna_e2e.training.pipeline.data_size import DataSize
from rsna_e2e.training.pipeline.forecast import forecast
from rsna_e2e.training.pipeline.model_sizes import ModelSizes
from rsna_e2e.training.pipeline.plan import plan_two_stage
from rsna_e2e.training.pipeline.planned_step import Folders, PlannedStep
from rsna_e2e.training.pipeline.run import Pipeline, Standing

TINY = ("images.model.backbone=test_resnet", "images.model.backbone_arguments={}", "images.image.size=32")


def beside(*overrides: str) -> TwoStageConfig:
    """The demo recipe with a second classifier of images and a head for series, and `overrides`."""
    plain = load_two_stage("demo", [*TINY, "two_stage.crops=[series]", "two_stage.image_epochs=[2]"])
    other = plain.images.model_copy(
        update={"model": plain.images.model.model_copy(update={"backbone": "test_resnet.r160_in1k"})}
    )
    of_series = plain.sequences.model_copy(
        update={"model": plain.sequences.model.model_copy(update={"study_loss_weight": 1.0})}
    )
    path = Path("config.yaml")
    save_config(plain.model_copy(update={"beside": (other,), "series_sequences": of_series}), path=path)
    return load_two_stage(path, overrides)


def steps_of(folders: Folders, config: TwoStageConfig, mode: str = "full") -> dict[str, PlannedStep]:
    return {step.name: step for step in plan_two_stage(mode, config, folders)}


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folders:
    monkeypatch.chdir(tmp_path)
    return Folders(raw=Path("raw"), labels=None, store=Path("store"), out=Path("out"))


def test_heads_learn_from_all_classifiers_side_by_side_and_series_have_their_own(folders: Folders) -> None:
    steps = steps_of(folders, beside("two_stage.folds=[0]"))
    assert list(steps) == [
        "prepare",
        "images/series-fold0",
        "images/series-fold0-beside0",
        "embeddings/series-fold0-epoch2",
        "embeddings/series-fold0-beside0-epoch2",
        "sequences/series-fold0-epoch2",
        "predictions/series-fold0-epoch2",
        "series_sequences/series-fold0-epoch2",
        "predictions/series-fold0-epoch2-series",
        "predictions/series-fold0-epoch2-both",
        "submission",
    ]
    given = ("--embeddings", "out/embeddings/series-fold0-epoch2", "out/embeddings/series-fold0-beside0-epoch2")
    for name in ("sequences/series-fold0-epoch2", "predictions/series-fold0-epoch2-series"):
        words = steps[name].arguments
        assert words[2:5] == given
        assert {f"embeddings/series-fold0{which}-epoch2" for which in ("", "-beside0")} <= set(steps[name].depends)
    merge = steps["predictions/series-fold0-epoch2-both"]
    assert merge.arguments[:2] == (
        "out/predictions/series-fold0-epoch2.csv.gz",
        "out/predictions/series-fold0-epoch2-series.csv.gz",
    )
    assert merge.depends == ("predictions/series-fold0-epoch2", "predictions/series-fold0-epoch2-series")
    assert Pipeline(tuple(steps.values()), folders).command(merge)[-2:] == ["--task", "ich"]
    assert steps["submission"].depends == (merge.name,)
    backbones = [s.settings.model.backbone for s in steps.values() if s.settings is not None and s.part == "images"]
    assert backbones == ["test_resnet", "test_resnet.r160_in1k"]
    weights = [s.settings.model.study_loss_weight for s in steps.values() if s.settings and s.part == "sequences"]
    assert weights == [0.0, 1.0]
    assert all(s.settings.validation_fold == 0 for s in steps.values() if s.settings is not None)


def test_out_of_fold_embeddings_come_in_the_order_of_the_classifiers(folders: Folders) -> None:
    config = beside("two_stage.folds=[0, 1]", "two_stage.out_of_fold=true")
    words = steps_of(folders, config)["sequences/series-fold1-epoch2"].arguments
    assert [word for word in words if "=" in word] == [
        f"{fold}=out/embeddings/series-fold{fold}{which}-epoch2" for fold in (0, 1) for which in ("", "-beside0")
    ]


def test_sections_in_a_list_are_set_by_their_numbers(folders: Folders) -> None:
    config = beside("beside.0.image.size=48", "beside.0.slice_phase.epochs=3")
    assert (config.beside[0].image.size, config.images.image.size) == (48, 32)
    with pytest.raises(UsageError, match=r"there is no section '1'"):
        beside("beside.1.image.size=48")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("beside.0.slice_phase.epochs=1", r"raise beside\.0\.slice_phase\.epochs"),
        ("beside.0.task=pe", "the runs have several tasks"),
        ("two_stage.jpeg=true", "jpeg needs match_reference=true"),
    ],
)
def test_what_does_not_go_together_is_refused(folders: Folders, setting: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        beside(setting)


def test_embeddings_that_are_there_come_in_groups(folders: Folders, tmp_path: Path) -> None:
    store = small.make_store(tmp_path)
    given = [tmp_path / name for name in ("a1", "b1", "a2", "b2")]
    for number, folder in enumerate(given):
        sequences.write_embeddings(folder, store, weights=str(number), fold=number // 2)
    steps = plan_two_stage("fast", beside(), folders, embeddings=given)
    heads = [step for step in steps if step.verb == "train" and step.section == "sequences"]
    assert [step.name for step in heads] == ["sequences/a1", "sequences/a2"]
    assert [step.settings.validation_fold for step in heads if step.settings is not None] == [0, 1]
    assert heads[1].inputs == (given[2] / "manifest.json", given[3] / "manifest.json")
    sizes = ModelSizes(steps)
    assert sizes.n_features == 2 * sequences.WIDTH
    with pytest.raises(UsageError, match="3 folders, and every head learns from 2 side by side"):
        plan_two_stage("fast", beside(), folders, embeddings=given[:3])


def test_a_forecast_counts_the_features_of_all_and_joins_in_no_time(folders: Folders) -> None:
    config = beside("two_stage.folds=[0]", "beside.0.model.backbone=resnet10t")
    steps = plan_two_stage("full", config, folders)
    sizes = ModelSizes(steps)
    widths = [backbone_size(run.model, 32).n_features for run in config.image_runs.values()]
    assert len(set(widths)) == 2
    assert sizes.n_features == sum(widths)
    standings = [Standing(step=step, state="to do", is_needed=True, starts_over=False) for step in steps]
    lines = forecast(standings, sizes, DataSize(n_slices=1000, n_test=200, n_series=20)).lines
    n_bytes = {line.standing.step.name: line.n_bytes for line in lines}
    n_views = len(config.two_stage.views)
    for which, width in zip(("", "-beside0"), widths, strict=True):
        assert n_bytes[f"embeddings/series-fold0{which}-epoch2"] == n_views * 1000 * width * 4
    assert n_bytes["predictions/series-fold0-epoch2-both"] == n_bytes["submission"]


def test_the_quirks_of_the_embolism_system(folders: Folders) -> None:
    config = beside("two_stage.match_reference=true", "two_stage.reference=ec601")
    for section in config.image_runs:
        image = config.image_run(crop="none", fold=0, section=section)
        assert (image.folds, image.training_slices_scored) == ("csv", None)
        assert image.image == config.image_runs[section].image.model_copy(update={"crop": "none"})
    for section in ("sequences", "series_sequences"):
        head = config.sequence_run(fold=0, section=section)
        assert (head.folds, head.loader.slice_order, head.model.padding) == ("csv", "csv", "packed")
    assert config.images_folds == "csv"
    plain = beside("two_stage.reference=ec601")
    assert (plain.images_folds, plain.sequence_run(fold=0).loader.slice_order) == ("store", "geometric")
    with pytest.raises(UsageError, match="jpeg is of reference=darraghdog"):
        beside("two_stage.match_reference=true", "two_stage.reference=ec601", "two_stage.jpeg=true")


def test_mode_fast_finds_whole_groups_of_embeddings(folders: Folders, capsys: pytest.CaptureFixture[str]) -> None:
    store = small.make_store(Path("made"))
    for number, name in enumerate(("series-fold0-epoch1", "series-fold0-beside0-epoch1", "series-fold0-epoch2")):
        sequences.write_embeddings(Path("out/full/embeddings") / name, store, weights=str(number))
    save_config(beside("two_stage.folds=[0]", "two_stage.image_epochs=null"), path=Path("config.yaml"))
    words = ["pipeline", "fast", "--data", str(store.path), "--recipe", "config.yaml", "--dry-run", "--no-probe"]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "predictions/series-fold0-epoch1-both" in shown
    assert "epoch2" not in shown


def test_a_task_of_a_users_own_reaches_the_commands_as_a_file(folders: Folders) -> None:
    own = replace(ICH, name="own", title="Own")
    Path("own.yaml").write_text(task_as_yaml(own))
    config = beside(*(f"{run}.task=own.yaml" for run in ("images", "beside.0", "sequences", "series_sequences")))
    pipeline = Pipeline(plan_two_stage("single", config, folders), folders)
    given: dict[str, Task] = {}

    def execute(step: PlannedStep, command: Sequence[str]) -> int:
        if "--task" in command:
            given[step.verb] = get_task(command[command.index("--task") + 1])
        step.output.parent.mkdir(parents=True, exist_ok=True)
        step.output.touch()
        return 0

    Path("own.yaml").unlink()
    pipeline.run(PARTS, execute=execute, say=lambda line: None)
    assert given == {"prepare": own, "merge": own, "bag": own}
