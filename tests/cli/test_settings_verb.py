"""rsna-e2e settings: every setting has a meaning, and docs/settings.md is what the verb prints."""

import re
import shlex
from pathlib import Path

import pytest

from rsna_e2e.cli import main
from rsna_e2e.cli.arguments import RECIPES_OF_RUNS
from rsna_e2e.cli.settings import MARKDOWN
from rsna_e2e.config import (
    RECIPES,
    TWO_STAGE_RECIPES,
    DetectorConfig,
    Frozen,
    RunConfig,
    SegmenterConfig,
    TwoStageConfig,
    load_config,
    load_two_stage,
    save_config,
)
from rsna_e2e.config.catalogue import Setting, sections
from rsna_e2e.config.limits import Side

PAGE = Path(__file__).parents[2] / "docs/settings.md"


def said(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    """What `rsna-e2e settings` prints, or the line that refuses."""
    assert main(["settings", *words]) == code
    printed = capsys.readouterr()
    return printed.err if code else printed.out


def all_settings(kind: type[Frozen]) -> list[Setting]:
    return [setting for section in sections(kind) for setting in section.settings]


def leaves(values: dict[str, object], prefix: str = "") -> list[str]:
    """Names of the values in a configuration with all sections; mappings that are values count as one."""
    names = []
    for name, value in values.items():
        is_section = isinstance(value, dict) and name not in ("backbone_arguments", "size_from_epoch")
        names += leaves(value, f"{prefix}{name}.") if is_section else [f"{prefix}{name}"]  # type: ignore[arg-type]
    return names


def test_no_setting_is_missing_and_each_has_a_meaning() -> None:
    found = all_settings(RunConfig)
    stages = ["slice_phase.freeze_backbone_epochs=1", "slice_phase.frozen_optimizer={learning_rate: 0.1}"]
    every_section = load_config(
        "demo", ["slice_phase.augment={}", "training_filter={min_brain_share: 0.02}", *stages]
    ).model_dump(mode="json")
    # no model has both
    every_section["model"] |= {
        "detector": DetectorConfig().model_dump(mode="json"),
        "segmenter": SegmenterConfig().model_dump(mode="json"),
    }
    assert sorted(item.name for item in found) == sorted(leaves(every_section))
    assert sorted(
        item.name
        for item in all_settings(TwoStageConfig)
        if not item.name.startswith(("im", "seq", "beside.0.", "series_seq"))
    ) == sorted(["recipe", *leaves({"two_stage": load_two_stage("demo").two_stage.model_dump(mode="json")})])
    assert [item.name for item in (*found, *all_settings(TwoStageConfig)) if not item.meaning] == []
    assert [section.name for section in sections(TwoStageConfig) if not section.meaning] == []


class _Forgotten(Frozen):
    size: Side = 1


def test_a_setting_without_a_meaning_would_be_found() -> None:
    assert [(item.name, item.meaning) for item in all_settings(_Forgotten)] == [("size", "")]


def test_values_have_bounds_choices_and_units() -> None:
    values = {item.name: item.values for item in (*all_settings(RunConfig), *all_settings(TwoStageConfig))}
    assert values["image.size"] == "1 to 4096 px"
    assert values["image.size_from_epoch"] == "mapping to 1 to 4096 px"
    assert values["augment.hflip_probability"] == "0 to 1"
    assert values["loader.backend"] == "auto, dali or torch"
    assert values["chunk"] == "1 to 1e12 slices or auto"
    assert values["optimizer.clip_norm"] == "above 0 to 3.4e38 or null"
    assert values["model.weights_file"] == "path or null"
    assert values["slice_phase.slices_per_batch"] == "2 to 1e12 slices"
    assert values["checkpoint.every_minutes"] == "above 0 to 1e9 minutes or null"
    assert values["two_stage.views"] == "[plain, hflip or transpose, ...]"


def test_the_page_is_what_the_verb_prints(capsys: pytest.CaptureFixture[str]) -> None:
    """When this fails: rsna-e2e settings --markdown > docs/settings.md"""
    command, page = MARKDOWN.split(" > ")
    assert (PAGE.parents[1] / page) == PAGE
    assert said(capsys, *shlex.split(command)[2:]) == PAGE.read_text(), f"make it again: {MARKDOWN}"


def test_a_prefix_chooses_a_section_a_setting_or_how_it_begins(capsys: pytest.CaptureFixture[str]) -> None:
    lines = said(capsys, "model.batchnorm").splitlines()
    assert lines[3] == "model.batchnorm = frozen"
    assert lines[-1] == "    train or frozen; on resume: kept, learned"
    names = [
        line.split(" = ")[0] for line in said(capsys, "loader", "--recipe", "reference").splitlines() if " = " in line
    ]
    assert names == [f"loader.{name}" for name in load_config("reference").loader.model_dump()]
    assert "loader.threads = 8" in said(capsys, "loader.thr", "--recipe", "reference")
    assert "images.model.head = none" in said(capsys, "images.model")
    assert "task = pe" in said(capsys, "task", "--recipe", "pe")
    assert "validation_fold = 0" not in said(capsys, "folds")


def test_every_recipe_of_a_run_has_a_column_on_the_page() -> None:
    headers = re.findall(r"^\| setting \|(.*)\|$", PAGE.read_text(), re.MULTILINE)
    assert set(RECIPES) <= {cell.strip() for header in headers for cell in header.split("|")}


def test_help_names_every_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert RECIPES_OF_RUNS.split(", ") == list(RECIPES)
    for verb in ("settings", "train", "summary"):
        with pytest.raises(SystemExit, match=r"^0$"):
            main([verb, "--help"])
        assert set(RECIPES) <= set(re.split(r"[\s,;]+", capsys.readouterr().out))
    # mode joint of the pipeline averages probabilities
    of_labels = {name for name in RECIPES if not load_config(name).model.finds_boxes}
    with pytest.raises(SystemExit, match=r"^0$"):
        main(["pipeline", "--help"])
    said = set(re.split(r"[\s,;]+", capsys.readouterr().out))
    assert said & {*RECIPES, *TWO_STAGE_RECIPES} == of_labels | set(TWO_STAGE_RECIPES)


def test_an_unknown_prefix_names_near_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert "no setting 'batchnorm'. Near: model.batchnorm, images.model.batchnorm" in said(capsys, "batchnorm", code=2)
    assert "Near: image.size" in said(capsys, "image.sise", code=2)
    for name in ("learning", "learning_r", "lr", "LR", "optimiser.learning_rte"):
        assert ". Near: optimizer.learning_rate, " in said(capsys, name, code=2)
    assert "no setting 'qqq'. rsna-e2e settings lists all" in said(capsys, "qqq", code=2)


def test_all_of_a_recipe_and_of_files(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """What the two stages have of a run is listed where it differs from one."""
    whole = said(capsys)
    assert whole.count("\nimage.size = 96\n") == 1
    assert "\nimages.epochs = 0\n" in whole
    assert "\nimages.image.size" not in whole
    assert whole.endswith("\nsequences.slice_phase = null\n")
    save_config(load_config("demo", ["image.size=96", "slice_phase=null"]), path=tmp_path / "run.yaml")
    save_config(load_two_stage("demo", ["images.image.size=96"]), path=tmp_path / "two.yaml")
    of_run = said(capsys, "--recipe", str(tmp_path / "run.yaml"))
    assert "\nimage.size = 96\n" in of_run
    assert "\nslice_phase.epochs = -\n" in of_run
    assert "two_stage" not in of_run
    of_pipeline = said(capsys, "--recipe", str(tmp_path / "two.yaml"))
    assert "\nimages.image.size = 96\n" in of_pipeline
    assert "\nimage.size" not in of_pipeline


@pytest.mark.parametrize("columns", [40, 100])
def test_lines_fit_the_terminal(
    columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = said(capsys, "--recipe", "reference").splitlines()
    assert max(map(len, lines)) in range(columns - 3, columns + 1)


def test_a_setting_of_a_section_that_is_left_out_says_how_to_set_it(capsys: pytest.CaptureFixture[str]) -> None:
    override = ["train", "store", "run", "--recipe", "reference", "--set", "slice_phase.epochs=1"]
    assert main(override) == 2
    assert "slice_phase is null in this recipe, not a section. rsna-e2e settings slice_phase" in capsys.readouterr().err
    assert "--set 'slice_phase={epochs: 4, optimizer: {learning_rate: 0.003}}'" in said(capsys, "slice_phase").replace(
        "\n", " "
    )
    whole = load_config(
        "reference", ["slice_phase={epochs: 4, optimizer: {learning_rate: 0.003}}", "model.slice_loss_weight=1"]
    )
    assert whole.slice_phase is not None
    assert whole.slice_phase.epochs == 4
