"""Weights of another run to start from: all of one for the same labels, the backbone of one for any task."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import small
import torch
import yaml

from rsna_e2e.cli import main
from rsna_e2e.config import RunConfig
from rsna_e2e.core.errors import BadInputError
from rsna_e2e.core.weights_file import decode
from rsna_e2e.model.network import JointModel
from rsna_e2e.store import Store
from rsna_e2e.store.prepare import prepare
from rsna_e2e.tasks.files import task_as_yaml
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.tasks.labels import write_labels
from rsna_e2e.tasks.task import Inputs, Labels, Task
from rsna_e2e.training.checkpoint import find_checkpoint
from rsna_e2e.training.initial_weights import load_all
from rsna_e2e.training.train import train

# Two labels of the same slices, in the same three windows
OWN = Task(
    name="own",
    title="An example",
    slices=Labels(names=("dense", "deep"), weights=(1.0, 1.0)),
    headline="dense",
    inputs=ICH.inputs,
)
STILL = ["optimizer.learning_rate=1e-12", "optimizer.head_learning_rate=1e-12", "optimizer.weight_decay=0"]
NO_CHANGE = {"rtol": 0, "atol": 1e-9}


@dataclass(frozen=True)
class Place:
    """A run of one task, and a store with a task of a user's own. file: of that task."""

    run: Path
    store: Store
    file: Path

    @property
    def raw(self) -> Path:
        return self.run.parent / "raw"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("start")
    of_ich = small.make_store(folder)
    train(of_ich, folder / "run", small.config("epochs=1"))
    values = (np.arange(len(of_ich))[:, None] + np.arange(2)) % 2
    is_labelled = of_ich.index["split"] == "train"
    (folder / "own.yaml").write_text(task_as_yaml(OWN))
    (folder / "raw/stage_2_train.csv").unlink()
    write_labels(folder / "own.csv", OWN, of_ich.index["image_id"][is_labelled].tolist(), values[is_labelled] * 1.0)
    prepare(folder / "raw", folder / "own", task=OWN, labels=folder / "own.csv", n_folds=3, n_jobs=1)
    store = Store.open(folder / "own")
    yield Place(folder / "run", store, folder / "own.yaml")
    store.close()


def settings(*more: str, task: Task = OWN) -> RunConfig:
    return small.config("epochs=1", *STILL, *more).model_copy(update={"task": task})


def weights(run: Path) -> dict[str, torch.Tensor]:
    path = find_checkpoint(run) / "model.safetensors"
    return decode(path.read_bytes(), path=path)


def learned(run: Path, prefix: str) -> dict[str, torch.Tensor]:
    """Without what BatchNorm counts."""
    found = {name: tensor for name, tensor in weights(run).items() if name.startswith(prefix)}
    return {name: tensor for name, tensor in found.items() if not name.endswith(("_mean", "_var", "_tracked"))}


def test_a_backbone_goes_from_one_task_to_another(place: Place, tmp_path: Path) -> None:
    """And nothing but the backbone: the head is as it would be without."""
    recipe, run, fresh = tmp_path / "recipe.yaml", tmp_path / "run", tmp_path / "fresh"
    recipe.write_text(yaml.safe_dump(settings().model_dump(mode="json") | {"task": str(place.file)}))
    words = [str(place.store.path), str(run), "--recipe", str(recipe), "--device", "cpu"]
    assert main(["train", *words, "--init-backbone", str(place.run)]) == 0
    train(place.store, fresh, settings(), device="cpu")
    for prefix, same, other in (("backbone.", place.run, fresh), ("head.", fresh, place.run)):
        found, expected = learned(run, prefix), learned(same, prefix)
        assert found.keys() == expected.keys()
        assert len(found) > 7
        for name, tensor in found.items():
            torch.testing.assert_close(tensor, expected[name], **NO_CHANGE)
        assert any(not torch.equal(tensor, found[name]) for name, tensor in learned(other, prefix).items())


def test_all_weights_need_equal_labels(place: Place, tmp_path: Path) -> None:
    with pytest.raises(BadInputError) as error:
        train(place.store, tmp_path / "next", settings(), init_from=place.run)
    names = ", ".join(ICH.slices.names)
    assert str(error.value) == (
        f"{place.run}: predicts {names} (task ich), not dense, deep (task own). --init-backbone {place.run} takes its "
        "backbone alone"
    )
    assert not (tmp_path / "next").exists()


def test_labels_in_another_order_are_others(place: Place, tmp_path: Path) -> None:
    """All shapes fit, and the outputs would be exchanged."""
    train(place.store, tmp_path / "run", settings())
    swapped = replace(OWN, slices=OWN.slices.only(("deep", "dense")))
    with pytest.raises(BadInputError, match=r"predicts dense, deep \(task own\), not deep, dense \(task own\)"):
        load_all(JointModel.for_task(settings().model, swapped), tmp_path / "run", swapped)


@pytest.mark.parametrize(
    ("task", "changes", "kind", "said"),
    [
        (
            replace(OWN, inputs=Inputs(windows_hu=((40.0, 80.0),), mean=(0.2,), std=(0.3,))),
            [],
            BadInputError,
            "its backbone takes images of 3 channels, not 1. Give the run of a task with 1 windows, or inputs of 3",
        ),
        (
            OWN,
            ["model.backbone=resnet10t"],
            BadInputError,
            "its backbone is test_resnet, not resnet10t. Give the run of such a backbone, or --set model.backbone=test",
        ),
    ],
    ids=["channels", "backbone"],
)
def test_another_backbone_is_named(
    place: Place, tmp_path: Path, task: Task, changes: list[str], kind: type[Exception], said: str
) -> None:
    with pytest.raises(kind, match=said):
        train(place.store, tmp_path / "next", settings(*changes, task=task), init_backbone=place.run)
    assert not (tmp_path / "next").exists()


def test_one_or_the_other(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["train", "store", "run", "--init-from", "a", "--init-backbone", "b"])
    assert end.value.code == 2
    assert "--init-backbone: not allowed with argument --init-from" in capsys.readouterr().err
