"""bin/same_results.py: equal results are called that, and of every kind of result a single difference is found."""

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file, save_file

METRICS = {"step": 3, "loss": 0.25, "wait_s": 0.5, "slices_per_s": 31.0, "busy_share": 1.0, "best": {"any_auc": 0.9}}


@pytest.fixture(scope="module")
def same_results() -> ModuleType:
    path = Path(__file__).parents[1] / "bin" / "same_results.py"
    spec = importlib.util.spec_from_file_location("same_results", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make_results(folder: Path) -> Path:
    for name in ("raw", "store/shards", "store/tasks/ich", "run/checkpoints/step-3", "report"):
        (folder / name).mkdir(parents=True)
    (folder / "raw" / "a.dcm").write_bytes(b"DICM" * 9)
    (folder / "store" / "shards" / "00000.h5").write_bytes(bytes(64))
    pq.write_table(pa.table({"checksum": [7, 8], "fold": [0, 1], "x": [1.0, np.nan]}), folder / "store/index.parquet")
    pq.write_table(pa.table({"any": [0.0, 1.0]}), folder / "store/tasks/ich/slices.parquet")
    pq.write_table(pa.table({"reason": ["not_dicom"]}), folder / "store/refusals.parquet")
    save_file({"w": np.zeros(3, np.float32)}, folder / "run/checkpoints/step-3/model.safetensors")
    (folder / "run" / "metrics.jsonl").write_text(json.dumps(METRICS) + "\n" + json.dumps(METRICS) + "\n")
    (folder / "submission.csv").write_text("ID,Label\na_any,0.5\n")
    (folder / "report" / "metrics.json").write_text(json.dumps(METRICS))
    return folder


def edit_json(**changes: object) -> Callable[[Path], None]:
    return lambda path: path.write_text("\n".join(json.dumps(json.loads(line) | changes) for line in lines(path)))


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


def flip_a_weight(path: Path) -> None:
    weights = load_file(path)
    weights["w"][1] = -0.0  # equal to 0, and yet another bit
    save_file(weights, path)


def edit_table(path: Path) -> None:
    table = pq.read_table(path)
    name = table.column_names[-1]
    values = [*table[name].to_pylist()[:-1], 0.5]
    pq.write_table(table.set_column(len(table.column_names) - 1, name, [values]), path)


CHANGES: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "a file": ("raw/a.dcm", lambda p: p.write_bytes(b"DICM" * 8 + b"DICN"), "labels (1 files): raw/a.dcm, byte 35"),
    "a file less": ("raw/a.dcm", lambda p: p.rename(p.with_name("b.dcm")), "a.dcm is in one of them only"),
    "the index": ("store/index.parquet", edit_table, "column x, row 1: nan and 0.5"),
    "the labels": ("store/tasks/ich/slices.parquet", edit_table, "column any, row 1: 1.0 and 0.5"),
    "a refusal": (
        "store/refusals.parquet",
        lambda p: pq.write_table(pa.table({"reason": ["not_dicom"] * 2}), p),
        "row 1: None and {'reason': 'not_dicom'}",
    ),
    "a shard": ("store/shards/00000.h5", lambda p: p.write_bytes(bytes(63) + b"1"), "byte 63 (64 and 64 bytes)"),
    "a weight": ("run/checkpoints/step-3/model.safetensors", flip_a_weight, "w: up to 0 apart"),
    "a loss": ("run/metrics.jsonl", edit_json(loss=0.26), "line 1, loss: 0.25 and 0.26"),
    "a further line": ("run/metrics.jsonl", lambda p: p.write_text("\n".join([*lines(p), "{}"])), "line 3 is in one"),
    "a line": ("run/metrics.jsonl", lambda p: p.write_text(lines(p)[0]), "line 2, best.any_auc: 0.9 and None"),
    "a count": ("run/metrics.jsonl", edit_json(busy_share=0.5), "busy_share: 1.0 and 0.5"),
    "a score": ("report/metrics.json", edit_json(best={"any_auc": 0.8}), "best.any_auc: 0.9 and 0.8"),
    "a prediction": ("submission.csv", lambda p: p.write_text("ID,Label\na_any,0.6\n"), "byte 17 (19 and 19 bytes)"),
}


def test_times_make_no_difference(same_results: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = make_results(tmp_path / "one")
    shutil.copytree(one, tmp_path / "other")
    edit_json(wait_s=9.0, slices_per_s=1.0)(tmp_path / "other" / "run" / "metrics.jsonl")
    assert same_results.main(one, tmp_path / "other") == 0
    assert "DIFFERS" not in capsys.readouterr().out


def test_where_labels_and_folds_are_kept_and_further_numbers_make_no_difference(
    same_results: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A store of before has folds in its index, and labels in labels.parquet."""
    one = make_results(tmp_path / "one")
    other = shutil.copytree(one, tmp_path / "other")
    (one / "store/tasks/ich/slices.parquet").rename(one / "store/labels.parquet")
    index, labels = (pq.read_table(other / "store" / name) for name in ("index.parquet", "tasks/ich/slices.parquet"))
    labels = labels.append_column("fold", index["fold"]).append_column("csv_place", [[1, 0]])
    pq.write_table(labels, other / "store/tasks/ich/slices.parquet")
    pq.write_table(index.drop_columns("fold"), other / "store/index.parquet")
    edit_json(f1=0.5)(other / "report" / "metrics.json")
    assert same_results.main(one, other) == 0
    pq.write_table(labels.drop_columns("fold"), other / "store/tasks/ich/slices.parquet")
    assert same_results.main(one, other) == 1
    assert "column fold, row 0: 0 and None" in capsys.readouterr().out


@pytest.mark.parametrize("what", CHANGES)
def test_a_difference_is_named(
    same_results: ModuleType, what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, change, said = CHANGES[what]
    one = make_results(tmp_path / "one")
    shutil.copytree(one, tmp_path / "other")
    change(tmp_path / "other" / name)
    assert same_results.main(one, tmp_path / "other") == 1
    (different,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("DIFFERS"))
    assert said in different
