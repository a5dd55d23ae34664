"""Every setting of a run says at its field what it has an effect on; resuming and embeddings go by that."""

from collections.abc import Iterator

import pytest

from rsna_e2e.config import Frozen, RunConfig, load_config
from rsna_e2e.config.effects import Effect, Free, Learned, fields_with
from rsna_e2e.training.resume import compare_configs, settings_of_result


def unmarked(kind: type[Frozen], prefix: str = "") -> Iterator[str]:
    """Names of the fields that have neither one mark nor, as sections without one, a mark at each of theirs."""
    for name, field in kind.model_fields.items():
        marks = [mark for mark in field.metadata if isinstance(mark, Effect)]
        if not marks and isinstance(field.annotation, type) and issubclass(field.annotation, Frozen):
            yield from unmarked(field.annotation, f"{prefix}{name}.")
        elif len(marks) != 1:
            yield f"{prefix}{name}"


class _Section(Frozen):
    marked: Free[int | None] = None
    forgotten: int = 0


class _Config(Frozen):
    kept: Learned[int] = 1
    section: _Section = _Section()


def test_every_field_has_a_mark() -> None:
    assert list(unmarked(RunConfig)) == []
    assert list(unmarked(_Config)) == ["section.forgotten"]  # so one without would be found
    with pytest.raises(AssertionError):
        fields_with(_Config, {Effect.NONE})


# By name what has no effect on a result: neither on the run itself nor, with the second, on embeddings by its model
WITHOUT_EFFECT = {
    "graph_slices": ...,
    "loader": {"backend", "threads", "prefetch_batches"},
    "checkpoint": {"every_steps", "every_minutes", "keep_last", "on_disk_full"},
    "distributed": ...,
}
NOT_IN_EMBEDDINGS = {
    *("validation_fold", "training_fold", "training_slices_scored", "chunk", "graph_slices", "precision"),
    *("loader", "checkpoint", "distributed"),
}


def test_settings_without_effect_are_left_out() -> None:
    config = load_config("demo")
    assert settings_of_result(config) == config.model_dump(mode="json", exclude=WITHOUT_EFFECT)
    found = fields_with(RunConfig, {Effect.RUN, Effect.NONE})
    assert config.model_dump(exclude=found) == config.model_dump(exclude=NOT_IN_EMBEDDINGS)


@pytest.mark.parametrize(
    ("setting", "is_free"),
    [
        ("graph_slices=7", True),
        ("loader.threads=7", True),
        ("checkpoint.every_steps=7", True),
        ("distributed.bucket_mib=7", True),
        ("loader.slices_per_batch=7", False),
        ("checkpoint.keep_epochs=true", False),
        ("precision=fp16", False),
        ("image.size=64", False),
        ("optimizer.learning_rate=7.0", False),
    ],
)
def test_only_what_has_no_effect_may_differ_in_a_resumed_run(setting: str, is_free: bool) -> None:
    differences = compare_configs(load_config("demo"), load_config("demo", [setting]))
    assert list(differences) == ([] if is_free else [setting.split("=")[0]])
