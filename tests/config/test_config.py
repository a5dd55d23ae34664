from collections.abc import Callable
from functools import reduce
from pathlib import Path

import pytest

from rsna_e2e.config import RECIPES, Frozen, load_config, load_two_stage, save_config
from rsna_e2e.core.errors import BadInputError, UsageError


@pytest.mark.parametrize("recipe", sorted(RECIPES))
def test_a_recipe_survives_being_saved_and_loaded(tmp_path: Path, recipe: str) -> None:
    config = load_config(recipe)
    save_config(config, path=tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == config


def test_override_reaches_a_nested_value_with_its_type() -> None:
    config = load_config("demo", ["optimizer.learning_rate=1e-3", "validation_fold=null", "image.size=64"])
    assert config.optimizer.learning_rate == 0.001
    assert config.validation_fold is None
    assert config.image.size == 64


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("image.size", "expected a.b=value"),
        ("image.sise=3", r"there is no 'sise'\. Near: image\.size"),
        ("picture.size=3", r"there is no section 'picture'\. Near: image\.size"),
        ("lern_rate=1", r"there is no 'lern_rate'\. Near: optimizer\.learning_rate, .* settings lists all"),
        ("image.qqq=3", "there is no 'qqq'; it has size, crop, "),
        ("image.size=-3", "image.size: Input should be greater than 0"),
        ("image.size=[", "cannot read the value"),
        ("loader.slice_order=published", "is for heads on embeddings"),
        (
            "slice_phase={epochs: 1, starts_head: true, optimizer: {learning_rate: 0.1}}\nmodel.head=one_way",
            "starts_head is for the head lstm: leave it out, or set model.head=lstm",
        ),
    ],
)
def test_a_bad_override_is_named(override: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_config("demo", override.splitlines())


def test_unknown_recipe_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match="known: demo, reference"):
        load_config("demmo")


def test_a_file_that_is_no_configuration_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("- 1\n- 2\n")
    with pytest.raises(BadInputError, match=r"config\.yaml: not a YAML configuration"):
        load_config(path)


def test_a_yaml_tag_builds_no_object(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    path = tmp_path / "config.yaml"
    path.write_text(f'!!python/object/apply:os.system ["touch {canary}"]\n')
    with pytest.raises(BadInputError):
        load_config(path)
    assert not canary.exists()


@pytest.mark.parametrize(
    ("load", "recipe", "at"), [(load_config, "demo", ""), (load_two_stage, "pe_reference", "images.")]
)
def test_settings_after_a_section_in_braces_apply_on_top_of_it(
    load: Callable[..., Frozen], recipe: str, at: str
) -> None:
    """Whether the braces name them, or leave them their defaults, and also in a section of theirs."""
    braces = f"{at}slice_phase={{epochs: 90, optimizer: {{learning_rate: 0.003}}}}"
    further = {"slices_per_batch": 7, "epochs": 91, "optimizer.momentum": 0.5}
    config = load(recipe, [braces, *(f"{at}slice_phase.{name}={value}" for name, value in further.items())])
    found = (config.images if at else config).slice_phase.model_dump()  # type: ignore[attr-defined]
    for name, value in further.items():
        assert reduce(dict.__getitem__, name.split("."), found) == value
    assert (found["optimizer"]["learning_rate"], found["optimizer"]["name"]) == (0.003, "adamw")
    rate = [f"{at}slice_phase={{epochs: 90}}", f"{at}slice_phase.optimizer.learning_rate=0.5"]
    assert load(recipe, rate) == load(recipe, [f"{at}slice_phase={{epochs: 90, optimizer: {{learning_rate: 0.5}}}}"])
    with pytest.raises(UsageError, match="augment is null in this recipe, not a section"):
        load(recipe, [braces, f"{at}slice_phase.augment.hflip_probability=0.5"])
    with pytest.raises(UsageError, match=r"there is no 'epoch'\. Near: "):
        load(recipe, [braces, f"{at}slice_phase.epoch=3"])
    with pytest.raises(UsageError, match=r"slice_phase\.optimizer: Field required"):
        load(recipe, [f"{at}slice_phase={{epochs: 90}}", f"{at}slice_phase.slices_per_batch=3"])
