"""What a run says of its task: it predicts and goes on with that one, or not at all."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small

from rsna_e2e.config import InputsConfig, RunConfig, load_config, resolve_task
from rsna_e2e.core.errors import BadInputError, UsageError
from rsna_e2e.core.files import read_json, sealed, unsealed, write_json
from rsna_e2e.inference.embed import Extractor
from rsna_e2e.inference.predict import predict
from rsna_e2e.store import Store
from rsna_e2e.store.prepare import prepare
from rsna_e2e.tasks.files import task_as_yaml
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.tasks.pe import PE
from rsna_e2e.tasks.pneumonia import PNEUMONIA
from rsna_e2e.tasks.task import Inputs, Labels, Task, flat
from rsna_e2e.tasks.tree import Choice
from rsna_e2e.training.run_folder import read_config, read_task
from rsna_e2e.training.run_layout import CHECKPOINTS, SUMMARY, TASK
from rsna_e2e.training.train import train

EPOCHS = "epochs=1"
SWAPPED = (*ICH.slices.names[:4], "any", "subdural")


# The same labels as a task of a user's own
OWN = replace(ICH, name="own", title="An example")


@dataclass(frozen=True)
class Trained:
    run: Path
    store: Store
    task: Task
    config: RunConfig


def train_on(folder: Path, task: Task, setting: str) -> Trained:
    small.write_raw(folder / "raw")
    prepare(folder / "raw", folder / "store", task=task, n_folds=3, n_jobs=1)
    store = Store.open(folder / "store")
    config = small.config(EPOCHS, setting)
    train(store, folder / "run", config)
    return Trained(folder / "run", store, task, config)


@pytest.fixture(scope="module", params=["ich", "own"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
    """A run of a task of this package, and one whose file has been removed since."""
    folder = tmp_path_factory.mktemp("task")
    if request.param == "ich":
        trained = train_on(folder, ICH, "task=ich")
    else:
        (folder / "own.yaml").write_text(task_as_yaml(OWN))
        trained = train_on(folder, OWN, f"task={folder / 'own.yaml'}")
        (folder / "own.yaml").unlink()
    yield trained
    trained.store.close()


def copy_of(trained: Trained, run: Path) -> Path:
    """A copy of a run whose checkpoints, which are only read here, are those of the run."""
    shutil.copytree(trained.run, run, ignore=shutil.ignore_patterns(CHECKPOINTS))
    (run / CHECKPOINTS).symlink_to(trained.run / CHECKPOINTS)
    return run


def slices(**changed: Any) -> dict[str, Any]:
    return {"slices": replace(ICH.slices, **changed)}


def inputs(**changed: Any) -> dict[str, Any]:
    return {"inputs": replace(ICH.inputs, **changed)}


OF_BOXES = PNEUMONIA.only(PNEUMONIA.boxes).csv.box_columns
BY_ITSELF = {"series": Labels(names=("severe",), weights=(1.0,)), "series_truth": "own"}
CHANGES: dict[str, dict[str, Any]] = {
    "name": {"name": "another"},
    "title": {"title": "Another"},
    "slices.names": slices(names=("first", *ICH.slices.names[1:])),
    "slices.names in another order": slices(names=SWAPPED),
    "slices.weights": slices(weights=(1.0,) * 6),
    "slices.any_name": slices(any_name=""),
    "slices.tree": slices(tree=(Choice(branches=ICH.slices.names),)),
    "slices.notes": slices(notes=("motion",)),
    "series.names": BY_ITSELF,
    "headline": {"headline": "subdural"},
    "inputs.windows_hu": inputs(windows_hu=((40.0, 80.0), (80.0, 200.0), (40.0, 400.0))),
    "inputs.mean": inputs(mean=(0.2, 0.2, 0.2)),
    "inputs.std": inputs(std=(0.3, 0.3, 0.3)),
    "inputs.values": inputs(values="grey"),
    "csv.columns": {"csv": replace(ICH.csv, columns=("id", "label"))},
    "csv.box_columns": {"boxes": ("any",), "csv": replace(ICH.csv, box_columns=OF_BOXES)},
    "csv.slice_id": {"csv": replace(ICH.csv, slice_id="{label}/{slice}")},
}
# Those that no hemorrhage task can have alone
NEEDS_OTHERS = {
    "csv.series_id",
    "boxes",
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
    "resume": lambda trained, run, out: train(trained.store, run, trained.config, resume=True),
    "embed": lambda trained, run, out: Extractor(run, trained.store),
}


def test_every_field_is_tried() -> None:
    assert set(flat(ICH)) == {name.split(" ")[0] for name in CHANGES} | NEEDS_OTHERS


@pytest.mark.parametrize("opened", OPENED)
@pytest.mark.parametrize("changed", CHANGES)
def test_a_run_of_another_task_is_refused_by_the_field(
    trained: Trained, tmp_path: Path, changed: str, opened: str
) -> None:
    run = copy_of(trained, tmp_path / "run")
    name = trained.task.name
    other = replace(trained.task, **CHANGES[changed])
    write_json(run / TASK, sealed(asdict(other)))
    field = changed.split(" ")[0]
    said = f"another version of the task {name}: its {field} is {flat(other)[field]}, not {flat(trained.task)[field]}. "
    with pytest.raises(BadInputError, match=re.escape(said)) as error:
        OPENED[opened](trained, run, tmp_path)
    assert ("Use the version of this program" in str(error.value)) == (name == "ich")
    assert ("Put the file back from a copy; config.yaml has the other" in str(error.value)) == (name == "own")


@pytest.mark.parametrize("opened", OPENED)
def test_a_run_that_is_as_it_was_is_opened_and_one_of_before_as_well(
    trained: Trained, tmp_path: Path, opened: str, caplog: pytest.LogCaptureFixture
) -> None:
    run = copy_of(trained, tmp_path / "run")
    assert read_task(run, read_config(run)) == trained.task
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
    run = copy_of(trained, tmp_path / "run")
    write_json(run / TASK, DAMAGES[damage](read_json(run / TASK)))
    with pytest.raises(BadInputError, match=r"task\.json: damaged"):
        read_task(run, read_config(run))


ONLY_ICH = pytest.mark.parametrize("trained", ["ich"], indirect=True)  # earlier versions knew no other task

# As a run of an earlier version has it
EARLIER = """{
  "name": "ich",
  "label_names": ["epidural", "intraparenchymal", "intraventricular", "subarachnoid", "subdural", "any"],
  "label_weights": [1.0, 1.0, 1.0, 1.0, 1.0, 2.0],
  "any_label": "any",
  "windows_hu": [[40.0, 80.0], [80.0, 200.0], [40.0, 380.0]],
  "channel_mean": [0.22363983, 0.18190407, 0.2523437],
  "channel_std": [0.32451536, 0.2956294, 0.31335256],
  "has_series_labels": false,
  "content_sha256": "c6e160d7d15ebd32aac724e3b6d2dc96b2527a94d81cbde702ac3055824b8e0c"
}"""


def write_earlier(run: Path, **changes: Any) -> None:
    """changes: of its values; None leaves one out."""
    content = {k: v for k, v in (json.loads(EARLIER) | changes).items() if v is not None}
    write_json(run / TASK, sealed(content))


@pytest.fixture
def of_ich(trained: Trained, tmp_path: Path) -> Path:
    return copy_of(trained, tmp_path / "run")


@ONLY_ICH
@pytest.mark.parametrize("opened", OPENED)
def test_a_run_of_an_earlier_version_is_opened(trained: Trained, of_ich: Path, opened: str, tmp_path: Path) -> None:
    (of_ich / TASK).write_text(EARLIER)
    assert read_task(of_ich, read_config(of_ich)) == ICH
    OPENED[opened](trained, of_ich, tmp_path)
    write_earlier(of_ich, has_series_labels=None)
    OPENED[opened](trained, of_ich, tmp_path)


@ONLY_ICH
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"label_names": SWAPPED}, "its slices.names is "),
        ({"label_weights": [2.0, 1.0, 1.0, 1.0, 1.0, 2.0]}, "its slices.weights is "),
        ({"any_label": "subdural"}, "its slices.any_name is subdural, not any"),
        ({"windows_hu": [[40.0, 80.0], [80.0, 200.0], [40.0, 400.0]]}, "its inputs.windows_hu is "),
        ({"channel_mean": [0.2, 0.2, 0.2]}, "its inputs.mean is "),
        ({"channel_std": [0.3, 0.3, 0.3]}, "its inputs.std is "),
        ({"name": "other"}, "its name is other, not ich"),
        ({"has_series_labels": True}, "damaged"),
        ({"more": 1}, "damaged"),
        ({"any_label": None}, "damaged"),
    ],
)
def test_an_earlier_task_that_differs_is_refused(of_ich: Path, changes: dict[str, Any], said: str) -> None:
    write_earlier(of_ich, **changes)
    with pytest.raises(BadInputError, match=re.escape(said)):
        read_task(of_ich, read_config(of_ich))


RESUMED: dict[str, Callable[[RunConfig], dict[str, Any]]] = {
    "task={name}, not pe": lambda config: {"task": PE},
    "inputs.mean=null, not [0.1, 0.1, 0.1]": lambda config: {"inputs": InputsConfig(mean=(0.1, 0.1, 0.1))},
    "task.headline=any, not subdural": lambda config: {"task": replace(config.task, headline="subdural")},
    'task.slices.tree=[], not [{"branches": [': lambda config: {"task": replace(config.task, **CHANGES["slices.tree"])},
}


@pytest.mark.parametrize("said", RESUMED)
def test_a_run_is_not_resumed_for_another_task(trained: Trained, said: str) -> None:
    other = trained.config.model_copy(update=RESUMED[said](trained.config))
    with pytest.raises(UsageError, match=re.escape(f"started with {said.replace('{name}', trained.task.name)}")):
        train(trained.store, trained.run, other, resume=True)


def test_the_configuration_of_a_run_needs_no_file(trained: Trained) -> None:
    again = load_config(trained.run / "config.yaml")
    assert again.task == trained.task
    saved = (trained.run / "config.yaml").read_text()
    assert ("task: ich\n" in saved) == (trained.task is ICH)


def test_inputs_of_the_settings_are_those_of_the_run(trained: Trained, tmp_path: Path) -> None:
    one = ["inputs.windows_hu=[[50, 100]]", "inputs.mean=[0.25]", "inputs.std=[0.5]"]
    config = small.config(EPOCHS, *one).model_copy(update={"task": trained.task})
    train(trained.store, tmp_path / "run", config)
    expected = replace(trained.task, inputs=Inputs(windows_hu=((50.0, 100.0),), mean=(0.25,), std=(0.5,)))
    assert read_task(tmp_path / "run", read_config(tmp_path / "run")) == resolve_task(config) == expected
    for opened in OPENED.values():
        opened(Trained(tmp_path / "run", trained.store, expected, config), tmp_path / "run", tmp_path)
    extractor = Extractor(tmp_path / "run", trained.store)
    (images,) = extractor.images(np.array([3]))
    hu = np.sort(trained.store.read_slice(3).astype(np.float64), axis=None)
    assert images.shape == (1, 1, small.SIDE, small.SIDE)
    expected_values = (np.clip(hu / 100, 0, 1) - 0.25) / 0.5
    np.testing.assert_allclose(np.sort(images.numpy(), axis=None), expected_values, rtol=0, atol=1e-6)  # fp32


@pytest.mark.parametrize("opened", ["predict", "resume", "embed"])
def test_a_checkpoint_of_a_run_for_another_task_is_refused(trained: Trained, tmp_path: Path, opened: str) -> None:
    """Where it fits in all but the inputs, of which the weights say nothing."""
    run = tmp_path / "run"
    config = trained.config.model_copy(update={"inputs": InputsConfig(mean=(0.5, 0.5, 0.5))})
    train(trained.store, run, config)
    shutil.rmtree(run / CHECKPOINTS)
    (run / CHECKPOINTS).symlink_to(trained.run / CHECKPOINTS)
    (run / SUMMARY).unlink()
    with pytest.raises(BadInputError, match=f"of a run for another task than {trained.task.name}, or for another vers"):
        OPENED[opened](replace(trained, config=config), run, tmp_path)
