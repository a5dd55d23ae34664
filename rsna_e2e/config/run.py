"""The configuration of one training run."""

from typing import Literal

from pydantic import model_validator

from rsna_e2e.config.effects import Free, Learned, OfRun
from rsna_e2e.config.limits import CpuThreads, Fold, Fraction, Int64, Times, TimesOrNone
from rsna_e2e.config.sections import (
    AugmentConfig,
    CheckpointConfig,
    DistributedConfig,
    Frozen,
    ImageConfig,
    LoaderConfig,
    ModelConfig,
    OptimizerConfig,
    SlicePhaseConfig,
)


class RunConfig(Frozen):
    """Everything a training run depends on, besides the store.

    `epochs` counts joint epochs, over whole series; `slice_phase` comes before them, if there is one. Without a head
    there is nothing else, and `epochs` is 0. The backbone is frozen in the first `freeze_backbone_epochs` of them.
    `validation_fold` is held out and scored after every epoch; None trains on all, and then `training_slices_scored`
    of the training slices are scored in its place, if it is given. `folds` published splits patients by the published
    rule instead of the store's folds. `early_stopping_epochs` without a better score end the run.
    `chunk` slices go through the backbone together; activations of `graph_slices` are held at a time, and what is over
    is computed twice. auto measures once what fits the memory, and config.yaml keeps the answer.
    `accumulate` batches make a step. `cpu_threads` compute where there is no GPU, by default one for each core; one is
    right for small matrices, whose threads would wait more than they compute. After `max_skipped_steps` steps in a row
    without a finite loss and gradient the run ends.
    """

    recipe: Learned[str]
    task: Learned[str] = "ich"
    seed: Learned[Int64] = 1234
    epochs: Learned[TimesOrNone]
    validation_fold: OfRun[Fold | None] = 0
    training_slices_scored: OfRun[Times | None] = None
    folds: Learned[Literal["store", "published"]] = "store"
    precision: OfRun[Literal["auto", "fp32", "bf16", "fp16"]] = "auto"
    chunk: OfRun[Times | Literal["auto"]] = "auto"
    graph_slices: Free[Times | Literal["auto"]] = "auto"
    accumulate: Learned[Times] = 1
    cpu_threads: Learned[CpuThreads | None] = None
    compile: Learned[bool] = False
    ema_decay: Learned[Fraction | None] = None
    freeze_backbone_epochs: Learned[TimesOrNone] = 0
    early_stopping_epochs: Learned[Times | None] = None
    max_skipped_steps: Learned[Times] = 10
    image: Learned[ImageConfig] = ImageConfig()
    augment: Learned[AugmentConfig] = AugmentConfig()
    loader: LoaderConfig = LoaderConfig()
    model: Learned[ModelConfig]
    optimizer: Learned[OptimizerConfig]
    slice_phase: Learned[SlicePhaseConfig | None] = None
    checkpoint: CheckpointConfig = CheckpointConfig()
    distributed: Free[DistributedConfig] = DistributedConfig()

    @property
    def last_phase(self) -> Literal["slices", "series"]:
        """The phase that trains what predicts."""
        return "series" if self.epochs > 0 else "slices"

    @model_validator(mode="after")
    def _slice_phase_has_a_classifier(self) -> "RunConfig":
        if self.slice_phase is not None and self.model.slice_loss_weight == 0:
            raise ValueError("slice_phase needs model.slice_loss_weight > 0")
        return self

    @model_validator(mode="after")
    def _training_slices_are_not_validation(self) -> "RunConfig":
        if self.training_slices_scored is not None and self.validation_fold is not None:
            raise ValueError("training_slices_scored is for runs that hold nothing out: set validation_fold=null")
        return self

    @model_validator(mode="after")
    def _slices_have_a_backbone(self) -> "RunConfig":
        if self.model.backbone == "none" and self.slice_phase is not None:
            raise ValueError("model.backbone none trains a head on whole series: set slice_phase=null")
        return self

    @model_validator(mode="after")
    def _published_order_is_for_embeddings(self) -> "RunConfig":
        if self.loader.slice_order == "published" and self.model.backbone != "none":
            raise ValueError("loader.slice_order published is for heads on embeddings: set model.backbone=none")
        return self

    @model_validator(mode="after")
    def _joint_epochs_have_a_head(self) -> "RunConfig":
        if self.model.head == "none" and (self.epochs > 0 or self.slice_phase is None):
            raise ValueError("model.head none is trained on single slices: set epochs=0 and give a slice_phase")
        if self.model.head != "none" and self.epochs == 0:
            raise ValueError("epochs=0 leaves the head untrained: set model.head=none")
        if self.model.head == "none" and self.model.study_loss_weight > 0:
            raise ValueError("model.study_loss_weight needs the states of a head: leave out model.head=none")
        return self
