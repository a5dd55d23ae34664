"""What the study compares: ways to train the same backbone on the same slices, and the settings of each."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rsna_e2e.config import RunConfig, load_config, load_two_stage
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Design:
    """What every way has in common.

    joint: the joint model of a recipe, of which the others are made; head: the recipe's recurrent head on embeddings.
    epochs: passes of each way's backbone over the slices to learn from. seeds: of the weights, the order and the
    augmentation; n_ablated: how many of them, from the first, the ablations get.
    """

    joint: RunConfig
    head: RunConfig
    epochs: int
    seeds: tuple[int, ...]
    n_ablated: int

    @classmethod
    def of(
        cls, recipe: str | Path, overrides: Sequence[str], *, epochs: int, seeds: Sequence[int], n_ablated: int
    ) -> "Design":
        """Make the design from a recipe that has both modes. Raises UsageError for one that does not fit."""
        joint = load_config(recipe, [*overrides, "validation_fold=null", "checkpoint.keep_epochs=true"])
        if joint.slice_phase is None or joint.model.head == "none":
            raise UsageError(f"--recipe {recipe}: the study needs a recurrent head and a first phase on single slices")
        if epochs < 2:
            raise UsageError("--epochs: the warm start takes one on single slices and one on series, so at least 2")
        changes = {"validation_fold": None, "checkpoint": joint.checkpoint, "task": joint.task, "folds": joint.folds}
        head = load_two_stage(recipe).sequences.model_copy(update=changes)
        head = head.model_copy(
            update={"model": head.model.model_copy(update={"embedding_width": joint.model.embedding_width})}
        )
        return cls(joint=joint, head=head, epochs=epochs, seeds=tuple(seeds), n_ablated=n_ablated)

    def seeds_of(self, way: Way) -> tuple[int, ...]:
        """Return the seeds that a way is trained with."""
        return self.seeds[: self.n_ablated] if way in ABLATIONS else self.seeds

    def classifier(self, seed: int, *, fold: int | None = None) -> RunConfig:
        """The classifier of single slices: the backbone without a head. fold: held out."""
        model = {"head": "none", "embedding_width": None, "batchnorm": "train", "slice_loss_weight": 1.0}
        return self._changed(
            seed,
            epochs=0,
            slice_phase=self._slice_phase(self.epochs),
            validation_fold=fold,
            model=self.joint.model.model_copy(update=model),
        )

    def sequence_head(self, seed: int, *, fold: int | None = None) -> RunConfig:
        """The recurrent head on embeddings. fold: the one that it learns from alone."""
        return self.head.model_copy(update={"seed": seed, "training_fold": fold})

    def joint_run(self, way: Way, seed: int) -> RunConfig:
        """The joint model: from scratch, after half of the epochs on single slices, or with the backbone as these left
        it."""
        if way == "scratch":  # frozen statistics would be those of no image
            model = self.joint.model.model_copy(update={"batchnorm": "train"})
            return self._changed(seed, epochs=self.epochs, slice_phase=None, model=model)
        on_series = self.epochs // 2
        return self._changed(
            seed,
            epochs=on_series,
            slice_phase=self._slice_phase(self.epochs - on_series),
            freeze_backbone_epochs=on_series if way == "frozen" else 0,
        )

    def _slice_phase(self, epochs: int) -> object:
        assert self.joint.slice_phase is not None
        return self.joint.slice_phase.model_copy(update={"epochs": epochs})

    def _changed(self, seed: int, **changes: object) -> RunConfig:
        return self.joint.model_copy(update={"seed": seed, **changes})
