"""What a run says of its task: it predicts and goes on with that one, or not at all."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import pytest
import small

from rsna_e2e.core.errors import BadInputError
from rsna_e2e.core.files import read_json, sealed, unsealed, write_json
from rsna_e2e.inference.embed import Extractor
from rsna_e2e.inference.predict import predict
from rsna_e2e.store import Store
from rsna_e2e.tasks.task import ICH, Task
from rsna_e2e.training.run_folder import read_task
from rsna_e2e.training.run_layout import TASK
from rsna_e2e.training.train import train

EPOCHS = "epochs=1"
SWAPPED = (*ICH.label_names[:4], "any", "subdural")


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


CHANGES: dict[str, dict[str, Any]] = {
    "name": {"name": "another"},
    "label_names": {"label_names": ("first", *ICH.label_names[1:])},
    "label_names in another order": {"label_names": SWAPPED},
    "label_weights": {"label_weights": (1.0,) * 6},
    "any_label": {"any_label": "subdural"},
    "windows_hu": {"windows_hu": ((40.0, 80.0), (80.0, 200.0), (40.0, 400.0))},
    "channel_mean": {"channel_mean": (0.2, 0.2, 0.2)},
    "channel_std": {"channel_std": (0.3, 0.3, 0.3)},
    "has_series_labels": {"has_series_labels": True},
}

OPENED: dict[str, Callable[[Trained, Path, Path], Any]] = {
    "predict": lambda trained, run, out: predict(run, trained.store, split="test", out=out / "a.csv"),
    "resume": lambda trained, run, out: train(trained.store, run, small.config(EPOCHS), resume=True),
    "embed": lambda trained, run, out: Extractor(run, trained.store),
}


def test_every_field_is_tried() -> None:
    assert {field.name for field in fields(Task)} == {name.split(" ")[0] for name in CHANGES}


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
    earlier = {name: value for name, value in unsealed(read_json(run / TASK)).items() if name != "has_series_labels"}
    write_json(run / TASK, sealed(earlier))
    OPENED[opened](trained, run, tmp_path)
    (run / TASK).unlink()
    OPENED[opened](trained, run, tmp_path)
    assert not caplog.records


DAMAGES: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "changed": lambda content: content | {"any_label": "subdural"},
    "more": lambda content: sealed({**unsealed(content), "more": 1}),
    "less": lambda content: sealed({k: v for k, v in unsealed(content).items() if k != "any_label"}),
    "other kinds": lambda content: sealed({**unsealed(content), "label_names": 7}),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_task_is_named(trained: Trained, tmp_path: Path, damage: str) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained.run, run)
    write_json(run / TASK, DAMAGES[damage](read_json(run / TASK)))
    with pytest.raises(BadInputError, match=r"task\.json: damaged"):
        read_task(run, "ich")
