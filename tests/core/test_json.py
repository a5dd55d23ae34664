"""JSON has no NaN: one function writes all of it, and what cannot be computed is null there and words on a terminal."""

import ast
import json
import math
from pathlib import Path

import numpy as np
import pytest
import small

from rsna_e2e.cli import main
from rsna_e2e.config import save_config
from rsna_e2e.core.files import as_json, write_json
from rsna_e2e.inference.predict_epochs import predict_epochs
from rsna_e2e.store import Store
from rsna_e2e.training.checkpoint import CheckpointState
from rsna_e2e.training.checkpoint.state import Description, describe, to_json
from rsna_e2e.training.train import train
from rsna_e2e.training.validation import Validation

PACKAGE = Path(__file__).parents[2] / "rsna_e2e"
WRITERS = {"dump", "dumps", "JSONEncoder"}


def no_json(constant: str) -> float:
    raise ValueError(f"{constant} is no JSON")


def _names_of_json(path: Path) -> set[str]:
    """What a module takes from the library of that name."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    of_module = [node for node in nodes if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "json"]
    imported = [node for node in nodes if isinstance(node, ast.ImportFrom) and node.module == "json"]
    return {node.attr for node in of_module} | {alias.name for node in imported for alias in node.names}


def test_one_function_writes_json() -> None:
    writers = {path for path in PACKAGE.rglob("*.py") if _names_of_json(path) & WRITERS}
    assert writers == {PACKAGE / "core/files.py"}


def test_what_is_not_finite_is_null(tmp_path: Path) -> None:
    value = {"a": [math.nan, 1.5, {"b": -math.inf}], "c": (np.float64("inf"), 2), "d": None, "e": "NaN", "f": True}
    told = {"a": [None, 1.5, {"b": None}], "c": [None, 2], "d": None, "e": "NaN", "f": True}
    write_json(tmp_path / "value.json", value)
    for text in (as_json(value), (tmp_path / "value.json").read_text()):
        assert json.loads(text, parse_constant=no_json) == told
    assert as_json({"b": 1, "a": 0.1}, sort_keys=True) == '{"a": 0.1, "b": 1}'  # digests are made of it


def test_a_checkpoint_says_nothing_that_its_reader_refuses(tmp_path: Path) -> None:
    state = CheckpointState(step=1, epoch=1, phase="series", data_hash="x")
    (tmp_path / "checkpoint.json").write_bytes(to_json(Description(state=state, optimizer_groups=[], sha256={})))
    assert describe(tmp_path).state == state
    spoilt = state.model_copy(update={"elapsed_s": math.nan})  # which checks nothing
    with pytest.raises(ValueError, match="elapsed_s"):
        to_json(Description(state=spoilt, optimizer_groups=[], sha256={}))


@pytest.fixture(scope="module")
def negative(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store in which no slice is positive."""
    rng = np.random.default_rng(1)
    series = [[rng.integers(20, 40, size=(small.SIDE, small.SIDE)) for _ in range(3)] for _ in range(4)]
    return small.make_store_of(tmp_path_factory.mktemp("negative"), series)


@pytest.mark.usefixtures("one_thread")
def test_a_run_whose_fold_has_no_positive_slice(
    negative: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, recipe = tmp_path / "run", tmp_path / "recipe.yaml"
    config = small.config("epochs=2", "checkpoint.keep_epochs=true")
    save_config(config, path=recipe)
    command = ["train", str(negative.path), str(run), "--recipe", str(recipe), "--device", "cpu", "--resume", "auto"]
    for _ in range(2):  # the second finds that the run has ended
        assert main(command) == 0
        said = capsys.readouterr().out
        assert "AUC of any undefined: no positive slice in the validation fold" in said
        assert "nan" not in said
    predict_epochs(run, negative, split="train", out=tmp_path / "run" / "p.csv", device="cpu")
    files = [*run.rglob("*.json"), *run.rglob("*.jsonl")]
    assert {"summary.json", "manifest.json", "metrics.jsonl", "checkpoint.json", "p.csv.epochs.json"} <= {
        path.name for path in files
    }
    for path in files:
        lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
        for line in lines:
            json.loads(line, parse_constant=no_json)
    assert json.loads((run / "summary.json").read_text())["best"]["any_auc"] is None
    again = train(negative, run, config, device="cpu", resume=True).best
    assert again is not None
    assert (math.isnan(again.any_auc), again.n_positive) == (True, 0)


@pytest.mark.parametrize("area", [None, math.nan], ids=["null", "NaN of an earlier version"])
def test_undefined_scores_are_read_back(area: float | None) -> None:
    read = Validation.from_plain({"weighted_log_loss": 0.5, "any_auc": area})
    assert math.isnan(read.any_auc)
    assert "undefined: no positive or no negative slice" in read.describe("any")


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        ({"any_auc": 0.75, "n_positive": 2.0}, "validation weighted log loss 0.5000, AUC of any 0.7500"),
        ({"any_auc": None, "n_positive": 3.0}, "AUC of any undefined: no negative slice in the validation fold"),
        (
            {"any_auc": None, "n_positive": 0, "n_training_slices": 7},
            "on 7 of its TRAINING slices, no validation: weig",
        ),
        ({"any_auc": None, "n_positive": 0, "n_training_slices": 7}, "AUC of any undefined: no positive slice among"),
    ],
)
def test_scores_in_words(scores: dict[str, float | None], said: str) -> None:
    assert said in Validation.from_plain({"weighted_log_loss": 0.5, **scores}).describe("any")
