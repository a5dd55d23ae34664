"""The configuration of one training run."""

from dataclasses import replace
from typing import Literal

from pydantic import model_validator

from rsna_e2e.config.effects import Free, Learned, OfRun
from rsna_e2e.config.execution import CheckpointConfig, DistributedConfig
from rsna_e2e.config.limits import (
    Batches,
    CpuThreads,
    Epochs,
    EpochsOrNone,
    Fold,
    Fraction,
    Int64,
    Slices,
    Steps,
)
from rsna_e2e.config.model import ModelConfig
from rsna_e2e.config.sections import (
    AugmentConfig,
    FoldRule,
    Frozen,
    ImageConfig,
    InputsConfig,
    LoaderConfig,
    OptimizerConfig,
    SlicePhaseConfig,
    TrainingFilterConfig,
)
from rsna_e2e.config.task import TaskSetting
from rsna_e2e.core.errors import UsageError
from rsna_e2e.tasks.catalogue import DEFAULT_TASK, TASKS
from rsna_e2e.tasks.task import Task


class RunConfig(Frozen):
    """Everything that a training run depends on, besides the store."""

    recipe: Learned[str]
    """Name of the recipe that the settings came from."""
    task: Learned[TaskSetting] = TASKS[DEFAULT_TASK]
    """What is predicted: a task by its name, or a task of your own by the path of its YAML file, all of which is saved
    in the run."""
    seed: Learned[Int64] = 1234
    """Seed of initial weights, shuffling, augmentation and dropout."""
    epochs: Learned[EpochsOrNone]
    """Epochs on whole series. Those of slice_phase come first and on top. 0: none, for model.head=none."""
    validation_fold: OfRun[Fold | None] = 0
    """Fold that is held out and scored after every epoch. null: train on all labelled series, with no validation."""
    training_fold: OfRun[Fold | None] = None
    """Learn from this fold alone, as a head does from embeddings by a classifier that held it out. null: from all folds
    but the one that is held out."""
    training_slices_scored: OfRun[Slices | None] = None
    """With validation_fold=null, score this many training slices after every epoch, as the published solution did. That
    is no validation."""
    folds: Learned[FoldRule] = "store"
    """Which folds. store: those of the store, by patient, balanced by labels. published: by the rule of the published
    solution of RSNA ICH 2019. csv: in the order of the label file, fold 1 the first patients with 70,000 of 96,540
    positive slices, or as many of those that there are, and fold 0 the others, as EC601 divided its positives."""
    precision: OfRun[Literal["auto", "fp32", "bf16", "fp16"]] = "auto"
    """Precision of the backbone; the head computes in fp32. auto: bf16 on GPUs from sm_80 (A100) on and on CPUs with
    AMX, fp16 on older GPUs (V100), fp32 on other CPUs."""
    chunk: OfRun[Slices | Literal["auto"]] = "auto"
    """Slices that go through the backbone together. auto: measured once, as many as fit the memory up to 64, and saved
    in the run's config.yaml."""
    graph_slices: Free[Slices | Literal["auto"]] = "auto"
    """Slices whose activations are kept for the backward pass; all others go through the backbone a second time
    (activation checkpointing), so that memory does not grow with the series. auto: as many as fit."""
    accumulate: Learned[Batches] = 1
    """Batches whose gradients are added up for a step of the optimiser."""
    cpu_threads: Learned[CpuThreads | None] = None
    """Threads that compute where there is no GPU; null: one for each core. 1 is best for small matrices, whose threads
    would wait more than they compute."""
    compile: Learned[bool] = False
    """Compile the backbone with torch.compile; needs a GPU from sm_75 on, or a CPU."""
    ema_decay: Learned[Fraction | None] = None
    """Decay of an exponential moving average of the weights, which is what is validated and predicts; null: none."""
    freeze_backbone_epochs: Learned[EpochsOrNone] = 0
    """First epochs on whole series in which the backbone does not learn."""
    early_stopping_epochs: Learned[Epochs | None] = None
    """Stop after this many epochs without a better validation score; null: never."""
    max_skipped_steps: Learned[Steps] = 10
    """Steps without a finite loss and gradient are skipped; after this many in a row the run ends as diverged."""
    inputs: Learned[InputsConfig] = InputsConfig()
    """Channels of the images."""
    image: Learned[ImageConfig] = ImageConfig()
    """Images for the network."""
    augment: Learned[AugmentConfig] = AugmentConfig()
    """Augmentation."""
    loader: LoaderConfig = LoaderConfig()
    """Batches and threads."""
    model: Learned[ModelConfig]
    """Network and loss."""
    optimizer: Learned[OptimizerConfig]
    """Optimiser of the epochs on whole series."""
    slice_phase: Learned[SlicePhaseConfig | None] = None
    """First phase on single slices."""
    training_filter: Learned[TrainingFilterConfig | None] = None
    """Slices that the phase on single slices leaves out; null: none."""
    checkpoint: CheckpointConfig = CheckpointConfig()
    """Saving."""
    distributed: Free[DistributedConfig] = DistributedConfig()
    """Several processes."""

    @property
    def last_phase(self) -> Literal["slices", "series"]:
        """The phase that trains what predicts."""
        return "series" if self.epochs > 0 else "slices"

    def augment_at(self, epoch: int) -> AugmentConfig:
        """Random geometry in an epoch; they count from 1 over both phases."""
        slices = self.slice_phase
        if slices is None or slices.augment is None or epoch > slices.epochs:
            return self.augment
        return slices.augment

    @model_validator(mode="after")
    def _inputs_fit(self) -> "RunConfig":
        try:
            resolve_task(self)
        except UsageError as error:
            raise ValueError(str(error)) from None
        return self

    @model_validator(mode="after")
    def _slice_phase_has_a_classifier(self) -> "RunConfig":
        is_needed = self.slice_phase is not None and not self.model.finds_boxes
        if is_needed and self.model.slice_loss_weight == 0:
            raise ValueError("slice_phase needs model.slice_loss_weight > 0")
        return self

    @model_validator(mode="after")
    def _a_started_head_has_a_classifier_of_its_form(self) -> "RunConfig":
        if self.slice_phase is not None and self.slice_phase.starts_head and self.model.head != "lstm":
            raise ValueError("slice_phase.starts_head is for the head lstm: leave it out, or set model.head=lstm")
        return self

    @model_validator(mode="after")
    def _a_balanced_sample_is_of_slices(self) -> "RunConfig":
        is_balanced = self.slice_phase is not None and self.slice_phase.validation_sampling == "balanced"
        if is_balanced and self.model.head != "none":
            raise ValueError("slice_phase.validation_sampling=balanced is for slice classifiers: set model.head=none")
        return self

    @model_validator(mode="after")
    def _single_slices_are_filtered(self) -> "RunConfig":
        if self.training_filter is not None and self.slice_phase is None:
            raise ValueError("training_filter is for the phase on single slices: give a slice_phase")
        return self

    @model_validator(mode="after")
    def _training_slices_are_not_validation(self) -> "RunConfig":
        if self.training_slices_scored is not None and self.validation_fold is not None:
            raise ValueError("training_slices_scored is for runs without a held-out fold: set validation_fold=null")
        return self

    @model_validator(mode="after")
    def _what_is_learned_is_not_held_out(self) -> "RunConfig":
        if self.training_fold is not None and self.training_fold == self.validation_fold:
            raise ValueError("training_fold is the fold that is held out: set validation_fold to another, or null")
        return self

    @model_validator(mode="after")
    def _slices_have_a_backbone(self) -> "RunConfig":
        if self.model.backbone == "none" and self.slice_phase is not None:
            raise ValueError("model.backbone none trains a head on whole series: set slice_phase=null")
        return self

    @model_validator(mode="after")
    def _other_orders_are_for_embeddings(self) -> "RunConfig":
        order = self.loader.slice_order
        if order in ("published", "csv") and self.model.backbone != "none":
            raise ValueError(f"loader.slice_order {order} is for heads on embeddings: set model.backbone=none")
        return self

    @model_validator(mode="after")
    def _joint_epochs_have_a_head(self) -> "RunConfig":
        if self.model.head == "none" and (self.epochs > 0 or self.slice_phase is None):
            raise ValueError("model.head none is trained on single slices: set epochs=0 and give a slice_phase")
        if self.model.head != "none" and self.epochs == 0:
            raise ValueError("epochs=0 leaves the head untrained: set model.head=none")
        if self.model.head == "none" and self.model.study_loss_weight > 0:
            raise ValueError("model.study_loss_weight needs a recurrent head: it cannot be used with model.head=none")
        return self

    @model_validator(mode="after")
    def _boxes_are_found_for_a_task_with_boxes(self) -> "RunConfig":
        if self.model.finds_boxes and not self.task.boxes:
            raise ValueError(f"the task {self.task.name} has no boxes to find: leave model.detector and segmenter out")
        if self.model.finds_boxes and self.compile:
            raise ValueError("compile is for networks that predict labels: leave it out")
        is_balanced = self.slice_phase is not None and self.slice_phase.validation_sampling == "balanced"
        if self.model.finds_boxes and is_balanced:
            raise ValueError("slice_phase.validation_sampling=balanced is of labels: boxes are scored on all images")
        return self


def resolve_task(config: RunConfig) -> Task:
    """Return the task that a run learns: that of its settings, with their inputs in the place of the task's own."""
    changed = {name: value for name, value in config.inputs if value is not None}
    return replace(config.task, inputs=replace(config.task.inputs, **changed)) if changed else config.task
