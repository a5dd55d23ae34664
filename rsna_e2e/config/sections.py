"""Sections of a configuration: frozen, typed, and checked when they are made."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from rsna_e2e.config.backbone import Arguments, Backbone
from rsna_e2e.config.effects import Free, OfRun
from rsna_e2e.config.limits import (
    MOST_MEMBERS,
    BatchesAhead,
    Degrees,
    Fraction,
    LoaderThreads,
    Mebibytes,
    Minutes,
    Positive,
    Probability,
    Samples,
    Side,
    Sides,
    TimeoutS,
    Times,
    Weight,
    Width,
)

Crop = Literal["none", "series", "slice"]
View = Literal["plain", "hflip", "transpose"]  # of an un-augmented image, for test-time augmentation


class Frozen(BaseModel):
    """Base of every configuration: immutable; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ImageConfig(Frozen):
    """How an int16 slice becomes a square network input of `size` x `size` pixels.

    Each output pixel is the mean of `supersample` x `supersample` samples: set it near the factor of reduction where
    that is over 1.5, or thin structures alias. `square` says where in its square lies what was cropped; with
    upper_left, what was not cropped is stretched to fill it, as the published solution does it.
    `values`: hu windows every tap in full depth; uint8 and jpeg are the published solution's 8-bit images (grey levels
    counted from the lowest of each window, cut off), jpeg after a round trip at quality 95 with halved chroma. A slice
    is then cropped to what is above level 0 of its own 8-bit image, a series to the content that the store names.
    """

    size: Side = 480
    crop: Crop = "series"
    square: Literal["center", "upper_left"] = "center"
    values: Literal["hu", "uint8", "jpeg"] = "hu"
    supersample: Samples = 1
    # progressive resizing, {1: 96, 5: 112}: of training images
    size_from_epoch: Annotated[dict[Times, Side], Field(max_length=MOST_MEMBERS)] = {}

    @property
    def is_stretched(self) -> bool:
        """Whether slices fill the image whole, whatever their shape."""
        return self.crop == "none" and self.square == "upper_left"

    def size_at(self, epoch: int) -> int:
        """Side of training images in an epoch: that of the last `size_from_epoch` up to it, or `size`."""
        starts = [start for start in self.size_from_epoch if start <= epoch]
        return self.size_from_epoch[max(starts)] if starts else self.size


class AugmentConfig(Frozen):
    """Random geometry, drawn once per series and epoch. Defaults: the published 2nd-place solution of RSNA ICH 2019."""

    hflip_probability: Probability = 0.5
    transpose_probability: Probability = 0.5
    affine_probability: Probability = 0.3
    shift_limit: Sides = 0.05  # of the image side
    scale_limit: Fraction = 0.05
    rotate_limit_deg: Degrees = 20.0


class LoaderConfig(Frozen):
    """Batches hold whole series, up to `slices_per_batch` slices; a longer series is a batch of its own.

    `series_per_batch` counts series instead (four times as many when nothing is learned). `slice_order` published, for
    stored embeddings, sorts by x, then y, then z of ImagePositionPatient, as the published solution did.

    `threads` read ahead by `prefetch_batches`, and as many transform where that is the CPU's work. `backend` auto is
    DALI where it is installed; both give the same bits. `transform` chunk keeps int16 on the device and makes images
    only for the chunk that is computed: for series so long that their images fill the memory.
    """

    slices_per_batch: OfRun[Times] = 128
    series_per_batch: OfRun[Times | None] = None
    slice_order: OfRun[Literal["geometric", "published"]] = "geometric"
    backend: Free[Literal["auto", "dali", "torch"]] = "auto"
    threads: Free[LoaderThreads] = 2
    prefetch_batches: Free[BatchesAhead] = 3
    transform: OfRun[Literal["batch", "chunk"]] = "batch"


class ModelConfig(Frozen):
    """A timm backbone on every slice and a recurrent head over the series.

    backbone "none" takes stored embeddings instead of images. head "none" leaves the slice classifier alone: a
    classifier of single images. `padding` left fills the series of a batch with zeros in front, unmasked, as the
    published solution did, so that logits depend on batch mates; packed does not.
    `backbone_arguments` go to timm.create_model; backbone.py lists those that do. `embedding_width` projects the
    backbone's features to this many before the head; None keeps their number. `backbone_dropout` drops features of the
    backbone in training; its drop-path and what else it has are `backbone_arguments`.
    `weights_file` is a local safetensors file for the backbone, used instead of timm's download.
    `batchnorm` says how BatchNorm behaves in joint epochs: train normalises every chunk by itself; frozen uses the
    running statistics, which makes a step independent of chunks and ranks.
    """

    backbone: Backbone
    backbone_arguments: Arguments = {}
    pretrained: bool = False
    weights_file: Path | None = None
    head: Literal["lstm", "none"] = "lstm"
    padding: Literal["packed", "left"] = "packed"
    embedding_width: Width | None = None
    backbone_dropout: Fraction = 0.0
    batchnorm: Literal["train", "frozen"] = "train"
    slice_loss_weight: Weight = 0.0  # auxiliary per-slice classifier on the embeddings, in training only
    # A head for whole series: is a label present in any slice. "study": saved runs have this name.
    study_loss_weight: Weight = 0.0

    def without_initial_weights(self) -> "ModelConfig":
        """The same architecture, for weights that come from a checkpoint."""
        return self.model_copy(update={"pretrained": False, "weights_file": None})


class OptimizerConfig(Frozen):
    """An optimiser, and a schedule over all steps of its phase, after a linear warm-up.

    step: times `step_factor` at each of `step_fractions` of the run. one_cycle has its own warm-up. Biases and norms
    do not decay.
    """

    name: Literal["adamw", "adam", "sgd", "apex_fused_adam", "apex_fused_lamb"] = "adamw"
    learning_rate: Positive
    head_learning_rate: Positive | None = None
    weight_decay: Weight = 0.0
    momentum: Fraction = 0.9  # of sgd
    schedule: Literal["constant", "cosine", "step", "one_cycle"] = "constant"
    warmup_fraction: Fraction = 0.0
    step_fractions: Annotated[tuple[Fraction, ...], Field(max_length=MOST_MEMBERS)] = (0.5, 0.75)
    step_factor: Fraction = 0.1
    clip_norm: Positive | None = None

    @model_validator(mode="after")
    def _one_warmup(self) -> "OptimizerConfig":
        if self.schedule == "one_cycle" and self.warmup_fraction > 0:
            raise ValueError("one_cycle has a warm-up of its own: set warmup_fraction to 0")
        return self


class CheckpointConfig(Frozen):
    """When the state of a run is saved, beside the end of every epoch, and how many of them stay (the best does too).

    `keep_epochs` keeps the end of every epoch. `on_disk_full` continue goes on training with the checkpoints there are.
    """

    every_steps: Free[Times | None] = None
    every_minutes: Free[Minutes | None] = 10.0
    keep_last: Free[Times] = 2
    keep_epochs: OfRun[bool] = False
    on_disk_full: Free[Literal["stop", "continue"]] = "stop"


class DistributedConfig(Frozen):
    """Communication between ranks. A rank silent for `timeout_s` ends the job; under 60 s, restarts fail to connect."""

    timeout_s: TimeoutS = 300.0
    bucket_mib: Mebibytes = 25  # gradients travel in pieces of this size


class SlicePhaseConfig(Frozen):
    """A first phase for backbones that start from nothing: single slices from all series, mixed.

    A batch of whole series shows a few patients only; features form much sooner on slices of many patients. The
    backbone and the slice classifier learn here; the joint epochs follow.
    `sampling`: all slices; balanced takes all positives of the any-label and as many negatives, in rotation, so that
    none comes again before all have come; balanced_shards draws them from one of `negative_shards` parts of the data
    in turn, as the published solution of RSNA-STR Pulmonary Embolism 2020 (EC601) did.
    """

    epochs: Times
    slices_per_batch: Annotated[Times, Field(ge=2)] = 32  # train-mode BatchNorm needs two
    sampling: Literal["all", "balanced", "balanced_shards"] = "all"
    negative_shards: Times = 6
    optimizer: OptimizerConfig
