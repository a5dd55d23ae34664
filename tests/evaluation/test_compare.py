"""Comparison of runs: which there are, what is kept, and a table that follows from the saved predictions alone."""

import json
import re
from pathlib import Path

import pytest
import small
from compared import check_table, rows_of

from rsna_e2e.cli import main
from rsna_e2e.config import save_config
from rsna_e2e.core.errors import UsageError
from rsna_e2e.core.files import read_json, sealed, unsealed, write_json
from rsna_e2e.evaluation.compare.variants import Varied, make_variants
from rsna_e2e.store import Store

BACKBONES = "model.backbone=test_resnet,test_efficientnet"


def names(*varied: str, is_grid: bool = False, overrides: tuple[str, ...] = ()) -> list[str]:
    return [one.name for one in make_variants("demo", overrides, list(map(Varied.parse, varied)), is_grid=is_grid)]


def test_one_setting_is_varied_at_a_time_or_all_together() -> None:
    varied = ("image.size=96,112", "optimizer.weight_decay=0,0.01")
    assert names(*varied) == [
        "image.size=96",
        "image.size=112",
        "optimizer.weight_decay=0",
        "optimizer.weight_decay=0.01",
    ]
    assert names(*varied, is_grid=True) == [
        f"image.size={size}, optimizer.weight_decay={decay}" for size in (96, 112) for decay in ("0", "0.01")
    ]


def test_the_recipe_itself_comes_once() -> None:
    """Of both settings one value is the recipe's."""
    assert names("image.size=128,96", "seed=1234,5") == ["image.size=128", "image.size=96", "seed=5"]


def test_values_with_commas_keep_them() -> None:
    varied = Varied.parse("model.backbone_arguments={},{channels: [32, 64], stem_width: 16}")
    assert varied.values == ("{}", '{"channels": [32, 64], "stem_width": 16}')
    assert Varied.parse("optimizer.learning_rate=1e-3,null").values == ("1e-3", "null")
    first, second = make_variants("demo", (), [Varied("image.size_from_epoch", ("{}", "{1: 96}"))], is_grid=False)
    assert first.folder != second.folder
    assert re.fullmatch(r"image\.size_from_epoch=-1-96--[0-9a-f]{8}", second.folder)


@pytest.mark.parametrize(
    ("varied", "message"),
    [
        (["image.size"], "expected a.b=x,y"),
        (["image.size=[1"], "cannot read the values"),
        (["image.size=96,-1"], r"image\.size"),
        (["image.size=96", "image.size=112"], "image.size is given twice"),
        (["no.such=1,2"], "there is no section 'no'"),
    ],
)
def test_what_cannot_be_varied_is_refused(varied: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        names(*varied)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Store:
    return small.make_store(tmp_path_factory.mktemp("compare"))


@pytest.fixture(scope="module")
def command(store: Store, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A comparison that was made: its command line without --vary. OUT is the third word."""
    folder = tmp_path_factory.mktemp("compared")
    save_config(small.image_config("model.embedding_width=null", epochs=1), path=folder / "recipe.yaml")
    words = ["compare", str(store.path), str(folder / "out"), "--recipe", str(folder / "recipe.yaml")]
    words += ["--device", "cpu"]
    assert main([*words, "--vary", BACKBONES]) == 0
    return words


def test_the_table_follows_from_the_saved_predictions(command: list[str]) -> None:
    rows = check_table(Path(command[2]), "any")
    assert [row["run"] for row in rows] == ["model.backbone=test_resnet", "model.backbone=test_efficientnet"]
    assert all(int(row["learned"]) == int(row["weights"]) > 0 for row in rows)
    assert rows[0]["weights"] != rows[1]["weights"]


def test_the_page_shows_every_run_and_number(command: list[str]) -> None:
    out = Path(command[2])
    page = (out / "comparison.html").read_text()
    content = json.loads((out / "comparison.json").read_text())
    assert content["split"] == "validation"
    for number, row in enumerate(content["runs"]):
        assert f'<th scope="row">{row["run"]}</th>' in page
        assert f'<data value="{row["auc"]}" class="number" title="runs.{number}.auc">' in page
    assert page.count("data:image/svg+xml") == 2
    assert "fold that is scored here" in page


def test_more_values_train_no_run_again(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    out = Path(command[2])
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file() and path.parent != out}
    first = rows_of(out)
    assert main([*command, "--vary", BACKBONES, "--vary", "slice_phase.optimizer.weight_decay=0,0.01"]) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    rows = rows_of(out)
    assert rows[:2] == first
    assert [row["run"] for row in rows[2:]] == ["slice_phase.optimizer.weight_decay=0.01"]
    assert "model.backbone=test_efficientnet" in capsys.readouterr().out


def test_runs_that_were_begun_with_other_settings_are_refused(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "--vary", BACKBONES, "--set", "seed=7"]) == 2
    assert "seed" in capsys.readouterr().err


def test_nothing_to_vary_is_refused(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command) == 2
    assert "nothing to compare: name a setting and its values" in capsys.readouterr().err


def test_runs_that_hold_out_other_patients_are_compared_by_test_patients_alone(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "--vary", "validation_fold=0,1"]) == 2
    assert "hold out other patients" in capsys.readouterr().err


def test_predictions_of_a_run_that_was_trained_again_are_made_again(command: list[str], tmp_path: Path) -> None:
    out = Path(command[2])
    known = next((out / "predictions").glob("*test_resnet*.json"))
    submission = known.with_suffix(".csv")
    before, first = submission.read_bytes(), rows_of(out)
    content = unsealed(read_json(known))
    write_json(known, sealed(content | {"weights_sha256": "0" * 64}))
    submission.write_bytes(before.replace(b"0.", b"1."))
    assert main([*command, "--vary", BACKBONES]) == 0
    assert submission.read_bytes() == before
    assert unsealed(read_json(known)) == content
    assert rows_of(out)[:1] == first[:1]
