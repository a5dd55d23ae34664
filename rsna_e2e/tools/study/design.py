"""What the study compares: ways to train the same backbone on the same slices, and the settings of each."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rsna_e2e.config import TWO_STAGE_RECIPES, RunConfig, SlicePhaseConfig, load_config, load_two_stage
from rsna_e2e.core.errors import UsageError

Way = Literal["slices", "mean", "in_sample", "out_of_fold", "scratch", "warm", "frozen"]

WAYS: dict[Way, str] = {
    "slices": "slice classifier",
    "mean": "its rolling mean",
    "in_sample": "two stages, in sample",
    "out_of_fold": "two stages, out of fold",
    "scratch": "joint from scratch",
    "warm": "joint, warm-started",
    "frozen": "joint, frozen backbone",
}
ABLATIONS: tuple[Way, ...] = ("out_of_fold", "scratch", "frozen")  # with fewer seeds
JOINT: tuple[Way, ...] = ("scratch", "warm", "frozen")
CONTEXTS = ("none", "natural", "strong")
_CPU_THREADS = 1  # trainings side by side use the cores better than threads of one


@dataclass(frozen=True, slots=True, kw_only=True)
class Design:
    """What every way has in common.

    joint: the joint model of a recipe, of which the others are made; head: the recipe's recurrent head on embeddings;
    slice_phase: of the first epochs, on single slices. epochs: passes of each way's backbone over the slices to learn
    from. seeds: of the weights, the order and the augmentation; n_ablated: how many of them, from the first, the
    ablations get.
    """

    joint: RunConfig
    head: RunConfig
    slice_phase: SlicePhaseConfig
    epochs: int
    seeds: tuple[int, ...]
    n_ablated: int

    @classmethod
    def of(
        cls,
        recipe: str | Path,
        overrides: Sequence[str] = (),
        of_head: Sequence[str] = (),
        *,
        epochs: int,
        seeds: Sequence[int],
        n_ablated: int,
    ) -> "Design":
        """Make the design from a recipe that has both modes, or a file of its settings.

        overrides: of networks with a backbone, which compute with one thread where they say nothing else and there is
        no GPU; of_head: of heads on embeddings, which see each series as often as the joint model's head unless they
        say epochs. Raises UsageError for a recipe that does not fit, and what loading raises.
        """
        joint = load_config(recipe, [f"cpu_threads={_CPU_THREADS}", *overrides, "validation_fold=null"])
        if joint.recipe not in TWO_STAGE_RECIPES or joint.model.head == "none" or joint.task.series_truth == "own":
            raise UsageError(f"--recipe {recipe}: the study is of demo and reference, and of files of their settings")
        of_head = [f"epochs={_on_series(epochs)}", *of_head]
        two_stage = load_two_stage(joint.recipe, [f"sequences.{one}" for one in of_head])
        slice_phase = joint.slice_phase or two_stage.images.slice_phase
        assert slice_phase is not None  # a classifier has one
        if epochs < 2:
            raise UsageError("--epochs: the warm start takes one on single slices and one on series, so at least 2")
        if slice_phase.sampling != "all" or joint.training_filter is not None:
            raise UsageError("slice_phase.sampling, training_filter: ways are compared on the same slices, so on all")
        if joint.model.slice_loss_weight == 0:
            raise UsageError("a warm start trains a classifier of slices too: --set model.slice_loss_weight=0.5")
        head = _head_for(joint, two_stage.sequences)
        counts = {"epochs": epochs, "n_ablated": n_ablated}
        return cls(joint=joint, head=head, slice_phase=slice_phase, seeds=tuple(seeds), **counts)

    def seeds_of(self, way: Way) -> tuple[int, ...]:
        """Return the seeds that a way is trained with."""
        return self.seeds[: self.n_ablated] if way in ABLATIONS else self.seeds

    def classifier(self, seed: int, *, fold: int | None = None) -> RunConfig:
        """The classifier of single slices: the backbone without a head. fold: held out."""
        model = {"head": "none", "embedding_width": None, "batchnorm": "train", "slice_loss_weight": 1.0}
        model |= {"study_loss_weight": 0.0}
        return self._changed(
            seed,
            epochs=0,
            slice_phase=self._phase(self.epochs, starts_head=False),
            freeze_backbone_epochs=0,
            validation_fold=fold,
            model=self.joint.model.model_copy(update=model),
        )

    def sequence_head(self, seed: int, *, fold: int | None = None) -> RunConfig:
        """The recurrent head on embeddings. fold: the one that it learns from alone."""
        return self.head.model_copy(update={"seed": seed, "training_fold": fold})

    def joint_run(self, way: Way, seed: int) -> RunConfig:
        """The joint model: from its first weights on, after three quarters of the epochs on single slices, or with the
        backbone as these left it. From random weights the backbone begins at the rate of that first phase, with the
        statistics of its own batches: frozen ones would be those of no image."""
        if way == "scratch":
            changes: dict[str, object] = {"epochs": self.epochs, "slice_phase": None, "freeze_backbone_epochs": 0}
            if not self.joint.model.pretrained:
                rate = self.slice_phase.optimizer.learning_rate
                changes["optimizer"] = self.joint.optimizer.model_copy(update={"learning_rate": rate})
                changes["model"] = self.joint.model.model_copy(update={"batchnorm": "train"})
            return self._changed(seed, **changes)
        on_series = _on_series(self.epochs)
        return self._changed(
            seed,
            epochs=on_series,
            slice_phase=self._phase(self.epochs - on_series),
            freeze_backbone_epochs=on_series if way == "frozen" else 0,
        )

    def _phase(self, epochs: int, **changes: object) -> SlicePhaseConfig:
        return self.slice_phase.model_copy(update={"epochs": epochs, **changes})

    def _changed(self, seed: int, **changes: object) -> RunConfig:
        """Return the joint model's settings with changes, checked; the first seed keeps its epochs, for the curves."""
        keep = self.joint.checkpoint.model_copy(update={"keep_epochs": seed == self.seeds[0]})
        changed = self.joint.model_copy(update={"seed": seed, "checkpoint": keep, **changes})
        return RunConfig.model_validate(changed.model_dump())


def slices_learned(config: RunConfig) -> int:
    """How many times the backbone of a run learns from every slice of its training set."""
    if config.model.backbone == "none":
        return 0
    of_slices = config.slice_phase.epochs - config.slice_phase.n_frozen if config.slice_phase else 0
    return of_slices + max(config.epochs - config.freeze_backbone_epochs, 0)


def _on_series(epochs: int) -> int:
    return max(epochs // 4, 1)


def _head_for(joint: RunConfig, head: RunConfig) -> RunConfig:
    """Return the head on embeddings for those of a joint model's backbone."""
    model = head.model.model_copy(update={"embedding_width": joint.model.embedding_width})
    own = {"validation_fold": None, "task": joint.task, "folds": joint.folds, "model": model}
    return head.model_copy(update=own)
