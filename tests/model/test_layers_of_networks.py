"""The list of a network's layers, and the verb that shows it."""

import math
from pathlib import Path

import pytest
import small

from rsna_e2e.cli import main
from rsna_e2e.config import RunConfig
from rsna_e2e.model.layers import list_layers
from rsna_e2e.model.network import JointModel
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.tasks.pe import PE
from rsna_e2e.training.train import train

SQUEEZE = (
    "model.backbone=torchvision.squeezenet1_0",
    "model.backbone_arguments={global_pool: catavgmax}",
    "model.classifier=mlp",
    "model.embedding_width=null",
    "image.size=224",
)


def transfer(**phase: object) -> RunConfig:
    return small.image_config(*SQUEEZE).model_copy(update={"slice_phase": small.slice_phase(**phase)})


def test_layers_have_the_outputs_and_weights_that_follow_by_hand() -> None:
    layers = {layer.name: layer for layer in list_layers(transfer(freeze_backbone_epochs="all"), ICH)}
    first = layers["backbone.features.0"]
    assert first.kind == "Conv2d"
    assert first.shape == (96, 109, 109)  # (224 - 7) / 2 + 1
    assert (first.n_weights, first.n_learned) == (96 * 3 * 7 * 7 + 96, 0)
    assert layers["backbone.features.2"].shape == (96, 54, 54)  # MaxPool2d, ceil((109 - 3) / 2) + 1
    assert layers["slice_classifier.2"].shape == (512,)
    assert layers["slice_classifier.2"].n_learned == 1024 * 512
    names = list(layers)
    assert names.index("backbone.features.0") < names.index("backbone.global_pool.flatten") < len(names) - 1
    assert names[-1] == "slice_classifier.6"


@pytest.mark.parametrize(
    ("phase", "n_learned"),
    [
        ({"freeze_backbone_epochs": "all"}, 528_384 + 4 * 512),  # the published number is of two labels, here are six
        ({"freeze_backbone_epochs": 0}, 1_263_808 + 4 * 512),
    ],
)
def test_what_learns_in_the_last_epoch_is_counted(phase: dict[str, object], n_learned: int) -> None:
    layers = list_layers(transfer(**phase), ICH)
    assert sum(layer.n_weights for layer in layers) == 1_263_808 + 4 * 512
    assert sum(layer.n_learned for layer in layers) == n_learned


@pytest.mark.parametrize(
    ("config", "task"),
    [
        (small.config("model.slice_loss_weight=0.5", "model.study_loss_weight=0.5"), ICH),
        (small.config("model.backbone=test_vit", "image.size=160"), ICH),
        (small.config("model.pool=attention", "model.backbone=test_convnext"), PE),
    ],
    ids=["all heads", "a transformer with tokens", "a head of queries"],
)
def test_every_weight_is_in_one_layer(config: RunConfig, task: object) -> None:
    assert task in (ICH, PE)
    model = JointModel.for_task(config.model, ICH if task is ICH else PE)
    layers = list_layers(config, ICH if task is ICH else PE)
    expected = {name.rpartition(".")[0] for name, _ in model.named_parameters()}
    assert {layer.name for layer in layers if layer.n_weights} == expected
    assert sum(layer.n_weights for layer in layers) == sum(math.prod(w.shape) for w in model.parameters())
    assert all(layer.n_learned == layer.n_weights for layer in layers)


@pytest.mark.usefixtures("one_thread")
def test_the_verb_lists_the_network_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(small.make_store(tmp_path), tmp_path / "run", small.image_config(epochs=1))
    assert main(["summary", str(tmp_path / "run")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["layer", "kind", "output", "weights", "learned"]
    classifier = next(line for line in lines if line.startswith("slice_classifier"))
    assert classifier.split() == ["slice_classifier", "Linear", "6", "102", "102"]  # 16 features
    assert main(["summary", str(tmp_path / "run"), "--set", "image.size=64"]) == 2


TWO_LABELS = """
name: outcome
title: Outcome
slices: {names: [survived, died], weights: [1, 1]}
headline: died
inputs: {windows_hu: [[16383.5, 32767]], mean: [0.5], std: [0.25], values: grey}
"""


def test_the_verb_says_the_published_numbers_of_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of two labels, as the source had; its own task has three, each with another 512 weights."""
    task = tmp_path / "two.yaml"
    task.write_text(TWO_LABELS)
    recipe = ["summary", "--recipe", "xray_transfer"]
    assert main([*recipe, "--set", f"task={task}"]) == 0
    assert "1,263,808 weights: 528,384 learned, 735,424 frozen" in capsys.readouterr().out
    assert main(recipe) == 0
    assert "1,264,320 weights: 528,896 learned, 735,424 frozen" in capsys.readouterr().out


def test_a_head_on_embeddings_is_asked_for_their_width(capsys: pytest.CaptureFixture[str]) -> None:
    on_embeddings = ["summary", "--set", "model.backbone=none", "--set", "slice_phase=null"]
    on_embeddings += ["--set", "model.backbone_arguments={}", "--set", "model.slice_loss_weight=0"]
    assert main(on_embeddings) == 2
    assert "give their width with --channels" in capsys.readouterr().err
    assert main([*on_embeddings, "--channels", "40"]) == 0
    assert "projection" in capsys.readouterr().out
