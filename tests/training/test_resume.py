"""Which settings a run may be resumed with."""

from pathlib import Path

import pytest
import small

from rsna_e2e.core.errors import UsageError
from rsna_e2e.training.resume import check_same_settings, compare_configs

FREE = ("graph_slices=3", "loader.backend=torch", "loader.threads=7", "loader.prefetch_batches=9",
        "checkpoint.every_steps=5", "checkpoint.keep_last=9", "distributed.bucket_mib=1")  # fmt: skip


def test_the_same_settings_are_the_same() -> None:
    assert compare_configs(small.config(), small.config()) == {}


@pytest.mark.parametrize("setting", FREE)
def test_what_does_not_change_the_result_may_differ(setting: str) -> None:
    assert small.config(setting) != small.config()
    assert compare_configs(small.config(), small.config(setting)) == {}


def test_what_changes_the_result_is_named() -> None:
    saved = small.config("optimizer.learning_rate=0.001", "validation_fold=null")
    wanted = small.config("optimizer.learning_rate=0.002", "loader.slices_per_batch=9")
    assert compare_configs(saved, wanted) == {
        "validation_fold": (None, 0),
        "loader.slices_per_batch": (8, 9),
        "optimizer.learning_rate": (0.001, 0.002),
    }


def test_auto_takes_what_it_was_resolved_to_but_not_the_other_way() -> None:
    resolved, auto = small.config("chunk=4", "precision=fp32"), small.config("chunk=auto", "precision=auto")
    assert compare_configs(resolved, auto) == {}
    assert set(compare_configs(auto, resolved)) == {"chunk", "precision"}


def test_whether_epochs_are_kept_is_settled_when_a_run_begins() -> None:
    assert set(compare_configs(small.config(), small.config("checkpoint.keep_epochs=true"))) == {
        "checkpoint.keep_epochs"
    }


def test_a_section_that_one_lacks_is_named() -> None:
    phase = '{"epochs": 2, "optimizer": {"learning_rate": 0.01}}'
    assert set(compare_configs(small.config(), small.config(f"slice_phase={phase}"))) == {"slice_phase"}


def test_the_message_says_what_to_do() -> None:
    saved, wanted = small.config("optimizer.learning_rate=0.001"), small.config("optimizer.learning_rate=0.002")
    with pytest.raises(UsageError) as error:
        check_same_settings(Path("runs/a"), saved=saved, wanted=wanted)
    assert str(error.value) == (
        "runs/a was started with optimizer.learning_rate=0.001, not 0.002. "
        "Give the same settings, or another run folder"
    )
    with pytest.raises(UsageError, match=r"validation_fold=null, not 0; precision=fp32, not bf16\."):
        check_same_settings(
            Path("a"), saved=small.config("validation_fold=null"), wanted=small.config("precision=bf16")
        )
