"""What a task asks of its recipes."""

import numpy as np
import pytest

from rsna_e2e.config import RECIPES, load_config
from rsna_e2e.loader.geometry import draw_augmentation


@pytest.mark.parametrize("recipe", [name for name in RECIPES if load_config(name).task == "pe"])
def test_recipes_for_labels_of_a_side_mirror_no_image(recipe: str) -> None:
    config = load_config(recipe)
    drawn = [
        draw_augmentation(np.random.default_rng(seed), config.augment, size=config.image.size) for seed in range(200)
    ]
    assert min(np.linalg.det(matrix) for matrix in drawn) > 0
    assert len({matrix.tobytes() for matrix in drawn}) > 50  # they do shift, scale and rotate
