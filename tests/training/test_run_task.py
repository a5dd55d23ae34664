"""What a run says of its task: it predicts and goes on with that one, or not at all."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import small

from rsna_e2e.core.errors import BadInputError
from rsna_e2e.core.files import read_json, sealed, unsealed, write_json
from rsna_e2e.inference.embed import Extractor
from rsna_e2e.inference.predict import predict
from rsna_e2e.store import Store
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.tasks.task import Labels, flat
from rsna_e2e.tasks.tree import Choice
from rsna_e2e.training.run_folder import read_task
from rsna_e2e.training.run_layout import TASK
from rsna_e2e.training.train import train

EPOCHS = "epochs=1"
SWAPPED = (*ICH.slices.names[:4], "any", "subdural")


@dataclass(frozen=True)
class Trained:
    run: Path
    store: Store


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
    folder = tmp_path_factory.mktemp("task")
    store = small.make_store(folder)
    train(store, folder / "run", small.config(EPOCHS))
    yield Trained(folder / "run", store)
    store.close()


def slices(**changed: Any) -> dict[str, Any]:
    return {"slices": replace(ICH.slices, **changed)}


def inputs(**changed: Any) -> dict[str, Any]:
    return {"inputs": replace(ICH.inputs, **changed)}


OWN = {"series": Labels(names=("severe",), weights=(1.0,)), "series_truth": "own"}
CHANGES: dict[str, dict[str, Any]] = {
    "name": {"name": "another"},
    "title": {"title": "Another"},
    "slices.names": slices(names=("first", *ICH.slices.names[1:])),
    "slices.names in another order": slices(names=SWAPPED),
    "slices.weights": slices(weights=(1.0,) * 6),
    "slices.any_name": slices(any_name=""),
    "slices.tree": slices(tree=(Choice(branches=ICH.slices.names),)),
    "slices.notes": slices(notes=("motion",)),
    "series.names": OWN,
    "headline": {"headline": "subdural"},
    "inputs.windows_hu": inputs(windows_hu=((40.0, 80.0), (80.0, 200.0), (40.0, 400.0))),
    "inputs.mean": inputs(mean=(0.2, 0.2, 0.2)),
    "inputs.std": inputs(std=(0.3, 0.3, 0.3)),
    "csv.columns": {"csv": replace(ICH.csv, columns=("id", "label"))},
    "csv.slice_id": {"csv": replace(ICH.csv, slice_id="{label}/{slice}")},
    "csv.series_id": {"csv": replace(ICH.csv, series_id="{study}_{label}")},
}
# Those that no hemorrhage task can have alone
NEEDS_SERIES = {
    "series.weights",
    "series.any_name",
    "series.tree",
    "series.notes",
    "series_truth",
    "state_of_slices",
    "score",
}

OPENED: dict[str, Callable[[Trained, Path, Path], Any]] = {
    "predict": lambda trained, run, out: predict(run, trained.store, split="test", out=out / "a.csv"),
    "resume": lambda trained, run, out: train(trained.store, run, small.config(EPOCHS), resume=True),
    "embed": lambda trained, run, out: Extractor(run, trained.store),
}


def test_every_field_is_tried() -> None:
    assert set(flat(ICH)) == {name.split(" ")[0] for name in CHANGES} | NEEDS_SERIES


@pytest.mark.parametrize("opened", OPENED)
@pytest.mark.parametrize("changed", CHANGES)
def test_a_run_of_another_task_is_refused_by_the_field(
    trained: Trained, tmp_path: Path, changed: str, opened: str
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained.run, run)
    write_json(run / TASK, sealed(asdict(replace(ICH, **CHANGES[changed]))))
    with pytest.raises(BadInputError, match=f"another version of the task ich: its {changed.split(' ')[0]} is "):
        OPENED[opened](trained, run, tmp_path)


@pytest.mark.parametrize("opened", OPENED)
def test_a_run_that_is_as_it_was_is_opened_and_one_of_before_as_well(
    trained: Trained, tmp_path: Path, opened: str, caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained.run, run)
    assert read_task(run, "ich") == ICH
    OPENED[opened](trained, run, tmp_path)
    earlier = {name: value for name, value in unsealed(read_json(run / TASK)).items() if name != "csv"}
    write_json(run / TASK, sealed(earlier))
    OPENED[opened](trained, run, tmp_path)
    (run / TASK).unlink()
    OPENED[opened](trained, run, tmp_path)
    assert not caplog.records


DAMAGES: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "changed": lambda content: content | {"headline": "subdural"},
    "more": lambda content: sealed({**unsealed(content), "more": 1}),
    "less": lambda content: sealed({k: v for k, v in unsealed(content).items() if k != "headline"}),
    "other kinds": lambda content: sealed({**unsealed(content), "slices": 7}),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_task_is_named(trained: Trained, tmp_path: Path, damage: str) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained.run, run)
    write_json(run / TASK, DAMAGES[damage](read_json(run / TASK)))
    with pytest.raises(BadInputError, match=r"task\.json: damaged"):
        read_task(run, "ich")
