"""What a task asks of its recipes."""

import numpy as np
import pytest

from rsna_e2e.config import RECIPES, TWO_STAGE_RECIPES, load_config, load_two_stage, resolve_task
from rsna_e2e.loader.geometry import draw_augmentation
from rsna_e2e.model.backbone_size import backbone_size
from rsna_e2e.tasks.pe import PE
from rsna_e2e.training.optimizer import make_schedule


@pytest.mark.parametrize("recipe", [name for name in RECIPES if load_config(name).task == PE])
def test_recipes_for_labels_of_a_side_mirror_no_image(recipe: str) -> None:
    config = load_config(recipe)
    drawn = [
        draw_augmentation(np.random.default_rng(seed), config.augment, size=config.image.size) for seed in range(200)
    ]
    assert min(np.linalg.det(matrix) for matrix in drawn) > 0
    assert len({matrix.tobytes() for matrix in drawn}) > 50  # they do shift, scale and rotate


def test_the_numbers_of_the_published_embolism_system() -> None:
    config = load_two_stage("pe_reference")
    for run in config.image_runs.values():
        assert (run.image.resize, run.image.size, run.augment.vflip_probability) == (256, 224, 0.5)
        assert run.slice_phase is not None
        assert run.slice_phase.slices_per_batch == 16
        (window,), (mean,), (std,) = (getattr(resolve_task(run).inputs, name) for name in ("windows_hu", "mean", "std"))
        for hu in (-1024, 0, 500, 3071):
            assert ((hu - window[0]) / window[1] + 0.5 - mean) / std == pytest.approx(hu / 500, abs=1e-12)
        rate = make_schedule(run.slice_phase.optimizer, n_steps=40 * 8750)  # epochs of 8,750 batches
        rates = [0.1 * rate(epoch * 8750) for epoch in (0, 9, 10, 19, 20, 29, 30, 39)]
        assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 1e-3, 1e-3, 1e-4, 1e-4])
    features = [backbone_size(run.model, 224).n_features for run in config.image_runs.values()]
    assert features == [1280, 2048]
    assert config.series_sequences is not None
    for head in (config.sequences, config.series_sequences):
        assert (head.model.head, head.model.head_width, head.loader.series_per_batch) == ("one_way", 64, 1)
        assert (head.optimizer.name, head.optimizer.learning_rate, head.epochs) == ("sgd", 0.1, 20)
    assert (config.sequences.model.study_loss_weight, config.series_sequences.model.sequence_loss_weight) == (0, 0)


@pytest.mark.parametrize("recipe", [name for name in RECIPES if load_config(name).task.inputs.values == "grey"])
def test_recipes_for_radiographs_show_chests_upright_and_whole(recipe: str) -> None:
    config = load_config(recipe)
    assert config.image.crop == "none"
    for seed in range(200):
        matrix = draw_augmentation(np.random.default_rng(seed), config.augment, size=config.image.size)
        assert matrix[1, 1] > abs(matrix[1, 0])  # rows stay rows, and the head stays above


@pytest.mark.parametrize("recipe", [name for name in RECIPES if name.endswith("demo")])
def test_demos_need_no_weights_from_elsewhere(recipe: str) -> None:
    config = load_config(recipe)
    assert (config.model.pretrained, config.model.weights_file) == (False, None)


def test_the_numbers_of_the_published_transfer() -> None:
    config = load_config("xray_transfer")
    phase = config.slice_phase
    assert phase is not None
    assert (phase.epochs, phase.slices_per_batch, phase.n_frozen, config.image.size) == (5, 64, 5, 320)
    rate = make_schedule(phase.optimizer, n_steps=90)
    assert (phase.optimizer.name, {phase.optimizer.learning_rate * rate(step) for step in range(90)}) == (
        "adam",
        {1e-3},
    )
    inputs = resolve_task(config).inputs  # black and white as torchvision's weights are used to see them
    assert [(0 - mean) / std for mean, std in zip(inputs.mean, inputs.std, strict=True)] == pytest.approx(
        [-2.1179, -2.0357, -1.8044], abs=1e-4
    )


@pytest.mark.parametrize("recipe", [name for name in TWO_STAGE_RECIPES if name.startswith("pe")])
def test_a_pipeline_has_one_task_and_its_quirks(recipe: str) -> None:
    config = load_two_stage(recipe, ["two_stage.match_reference=true"])
    assert {run.task.name for run in config.runs} == {PE.name}
    assert config.images_folds == "csv"


def test_the_demo_of_transfer_takes_the_backbone_of_that_of_classification() -> None:
    classify, transfer = load_config("xray_classify_demo"), load_config("xray_transfer_demo")
    for name in ("backbone", "backbone_arguments"):
        assert getattr(transfer.model, name) == getattr(classify.model, name)
    assert resolve_task(transfer).inputs == resolve_task(classify).inputs  # as many channels
