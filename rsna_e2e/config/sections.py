"""Sections of a configuration: frozen, typed, and checked when they are made.

The text below a field is what `rsna-e2e settings` and docs/settings.md say of it, that of a class what they say of the
section.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from rsna_e2e.config.effects import Free, OfRun
from rsna_e2e.config.limits import (
    MOST_MEMBERS,
    BatchesAhead,
    Degrees,
    Epochs,
    EpochsOrNone,
    Fraction,
    Hounsfield,
    LoaderThreads,
    Mean,
    Positive,
    Probability,
    Samples,
    Series,
    Side,
    Sides,
    Slices,
    SlicesOfNorm,
    Std,
    Times,
    Weight,
    WidthHu,
)

Crop = Literal["none", "series", "slice"]
FoldRule = Literal["store", "published", "csv"]  # see RunConfig.folds
View = Literal["plain", "hflip", "transpose"]  # of an un-augmented image, for test-time augmentation


class Frozen(BaseModel):
    """Base of every configuration: immutable; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


class InputsConfig(Frozen):
    """The channels of the network's images, where they are to be others than the task's."""

    windows_hu: Annotated[tuple[tuple[Hounsfield, WidthHu], ...] | None, Field(max_length=MOST_MEMBERS)] = None
    """Center and width of the window of each channel; null: those of the task."""
    mean: Annotated[tuple[Mean, ...] | None, Field(max_length=MOST_MEMBERS)] = None
    """Mean of each channel, of windowed values in 0 to 1, which is subtracted; null: the task's."""
    std: Annotated[tuple[Std, ...] | None, Field(max_length=MOST_MEMBERS)] = None
    """Standard deviation of each channel, by which it is divided; null: the task's."""


class ImageConfig(Frozen):
    """How a stored slice in HU becomes a square image for the network."""

    size: Side = 480
    """Side of the image."""
    crop: Crop = "series"
    """What is cropped away before resizing. none: nothing. series: what lies outside one square around the content of
    all slices of the series. slice: a square for each slice by itself, so that the scale changes from slice to
    slice."""
    square: Literal["center", "upper_left"] = "center"
    """Where the cropped content lies in its square. upper_left is what the published solution did; with it, uncropped
    slices are stretched to a square."""
    values: Literal["hu", "uint8", "jpeg"] = "hu"
    """Grey values that are resized. hu: the window is applied in full depth. uint8: windowed to 8 bits first, counted
    from the lowest grey level of each window and cut off, as the published solution did. jpeg: uint8 after a round trip
    through JPEG (quality 95, chroma at half resolution). With the last two, crop=slice crops to what is above level 0
    of the slice's own 8-bit image."""
    supersample: Samples = 1
    """Samples along each side of an output pixel, which is their mean. Set it near the factor by which slices are
    reduced if that is above 1.5; otherwise thin structures alias."""
    size_from_epoch: Annotated[dict[Epochs, Side], Field(max_length=MOST_MEMBERS)] = {}
    """Progressive resizing: the side of training images from an epoch on, such as {1: 96, 5: 112}. Epochs count from 1
    over both phases. Validation uses image.size."""
    resize: Side | None = None
    """The cropped square is resized to this, and the image is a window of it: in the middle, and in training at a
    random place, in whole pixels, drawn once per series and epoch. null: the square is resized to size, all of it."""

    @model_validator(mode="after")
    def _window_is_in_the_square(self) -> "ImageConfig":
        if self.resize is not None and self.resize < self.size:
            raise ValueError(f"resize={self.resize} is less than size={self.size}, the window that is cut out of it")
        if self.resize is not None and self.size_from_epoch:
            raise ValueError("size_from_epoch would cut windows of other sizes out of resize: leave out one of the two")
        return self

    @property
    def resized(self) -> int:
        """Side of the square that the image is a window of."""
        return self.resize or self.size

    @property
    def is_stretched(self) -> bool:
        """Whether slices fill the image whole, whatever their shape."""
        return self.crop == "none" and self.square == "upper_left"

    def size_at(self, epoch: int) -> int:
        """Side of training images in an epoch: that of the last `size_from_epoch` up to it, or `size`."""
        starts = [start for start in self.size_from_epoch if start <= epoch]
        return self.size_from_epoch[max(starts)] if starts else self.size


class AugmentConfig(Frozen):
    """Random geometry of training images, and greys of radiographs, drawn once per series and epoch.

    Defaults: the published 2nd-place solution of RSNA ICH 2019.
    """

    hflip_probability: Probability = 0.5
    """Probability of a flip left to right."""
    transpose_probability: Probability = 0.5
    """Probability of swapping rows and columns."""
    affine_probability: Probability = 0.3
    """Probability of a random shift, scaling and rotation."""
    shift_limit: Sides = 0.05
    """Largest shift along each axis."""
    scale_limit: Fraction = 0.05
    """Largest relative change of scale, up or down."""
    rotate_limit_deg: Degrees = 20.0
    """Largest rotation, either way."""
    vflip_probability: Probability = 0.0
    """Probability of a flip upside down."""
    brightness_limit: Fraction = 0.0
    """Radiographs alone: largest change of brightness, up or down, as a part of the way from black to white."""
    contrast_limit: Fraction = 0.0
    """Radiographs alone: largest relative change of contrast about the middle grey, up or down."""
    gamma_limit: Fraction = 0.0
    """Radiographs alone: greys are raised to a power between 1 / (1 + limit) and 1 + limit."""


class LoaderConfig(Frozen):
    """Batches of whole series, and the threads that prepare them."""

    slices_per_batch: OfRun[Slices] = 128
    """Whole series are put into a batch up to this many slices; a longer series is a batch of its own."""
    series_per_batch: OfRun[Series | None] = None
    """Counts series of a batch instead of slices. Validation and prediction take four times as many."""
    slice_order: OfRun[Literal["geometric", "published", "csv", "file"]] = "geometric"
    """Order of the slices of a series. geometric: along the slice normal. For stored embeddings alone: published, by x,
    then y, then z of ImagePositionPatient; csv, as in the label file, as EC601 took them. file, for a recurrent head on
    slices without positions: as they came in their HDF5 shards."""
    backend: Free[Literal["auto", "dali", "torch"]] = "auto"
    """Library that runs the loader; auto is DALI where it is installed. Both give the same bits."""
    threads: Free[LoaderThreads] = 2
    """Threads of each process that read slices; as many transform them where that is done on the CPU."""
    prefetch_batches: Free[BatchesAhead] = 3
    """Batches that are read ahead."""
    transform: OfRun[Literal["batch", "chunk"]] = "batch"
    """When int16 slices become images on the device. batch: a whole batch in one launch. chunk: only the chunk that is
    computed, for series so long that their images fill the memory of the GPU."""


class TrainingFilterConfig(Frozen):
    """Which slices the phase on single slices (slice_phase) leaves out. Whole series stay whole, and so does what is
    validated and predicted."""

    min_brain_share: Fraction
    """Least share of the pixels of a slice that lie in 0 to 80 HU. The store has to know it: rsna-e2e label --measure
    brain."""


class OptimizerConfig(Frozen):
    """An optimiser, and its learning rate schedule over all steps of its phase."""

    name: Literal["adamw", "adam", "sgd", "apex_fused_adam", "apex_fused_lamb"] = "adamw"
    """The optimiser. The last two need NVIDIA apex and a GPU."""
    learning_rate: Positive
    """Highest learning rate of the schedule; rsna-e2e find-lr suggests one."""
    head_learning_rate: Positive | None = None
    """Learning rate of all but the backbone; null: the same."""
    weight_decay: Weight = 0.0
    """Weight decay; biases and normalisation layers have none. adam and sgd add it to the gradient (L2), the others
    shrink the weights apart from the gradient."""
    momentum: Fraction = 0.9
    """Momentum of sgd."""
    schedule: Literal["constant", "cosine", "step", "one_cycle"] = "constant"
    """Course of the learning rate after the warm-up. cosine: down to 0 at the last step. step: times step_factor at
    each of step_fractions. one_cycle: up from 1/25 in the first 30 % of the steps, then down to 1/250,000; it has a
    warm-up of its own."""
    warmup_fraction: Fraction = 0.0
    """Part of the steps over which the learning rate rises linearly from near 0."""
    step_fractions: Annotated[tuple[Fraction, ...], Field(max_length=MOST_MEMBERS)] = (0.5, 0.75)
    """When schedule=step lowers the learning rate, as parts of the steps."""
    step_factor: Fraction = 0.1
    """Factor by which schedule=step lowers the learning rate each time."""
    clip_norm: Positive | None = None
    """Largest norm of the gradient, over all parameters; a longer gradient is scaled down to it. null: no clipping."""

    @model_validator(mode="after")
    def _one_warmup(self) -> "OptimizerConfig":
        if self.schedule == "one_cycle" and self.warmup_fraction > 0:
            raise ValueError("one_cycle has a warm-up of its own: set warmup_fraction to 0")
        return self


class SlicePhaseConfig(Frozen):
    """A first phase on shuffled single slices, for backbones without pretrained weights.

    A batch of whole series shows few patients; features form faster on slices of many. This phase trains the backbone
    and the classifier of single slices; the epochs on whole series follow. null leaves it out; a recipe without one
    gets it by --set 'slice_phase={epochs: 4, optimizer: {learning_rate: 0.003}}'.
    """

    epochs: Epochs
    """Epochs on single slices. They come on top of those on whole series (epochs)."""
    slices_per_batch: SlicesOfNorm = 32
    """Slices of a batch, over all GPUs."""
    sampling: Literal["all", "balanced", "balanced_shards"] = "all"
    """Slices of an epoch. all: every training slice. balanced: all positive ones (of the task's headline label) and as
    many negative ones in rotation, so that none is repeated before all were used. balanced_shards: the negative ones
    are drawn from one part of the data per epoch, in the order of the label file, as in the published solution of
    RSNA-STR Pulmonary Embolism 2020 (EC601)."""
    negative_shards: Times = 6
    """Number of parts for sampling=balanced_shards."""
    validation_sampling: Literal["all", "balanced"] = "all"
    """Slices of the held-out fold on which a slice classifier is scored. balanced: beside all of them, which decide on
    the best epoch, all positive ones and as many negative ones, drawn from one of two parts in turn, as in EC601."""
    augment: AugmentConfig | None = None
    """Random geometry in this phase; null: that of the run. Flips may be right here that are not for whole series,
    whose labels say left and right."""
    starts_head: bool = False
    """After this phase, start the recurrent head as the classifier of single slices that it trained, so that whole
    series begin with what slices taught. Needs model.head=lstm."""
    optimizer: OptimizerConfig
    """Optimiser of this phase."""
    freeze_backbone_epochs: EpochsOrNone | Literal["all"] = 0
    """First epochs in which the backbone does not learn, neither its weights nor the statistics of its BatchNorm."""
    frozen_optimizer: OptimizerConfig | None = None
    """Optimiser of these first epochs alone, with a schedule of its own over them; optimizer then begins after them.
    null: one optimiser and one schedule for all epochs."""
    learns_from: Annotated[str, Field(min_length=1, max_length=100)] | None = None
    """Part of the backbone, such as layer4 of a ResNet, from which on it learns once it is not frozen; what comes
    before stays frozen. null: all of it learns."""

    @property
    def n_frozen(self) -> int:
        """Epochs in which the backbone is frozen."""
        return self.epochs if self.freeze_backbone_epochs == "all" else self.freeze_backbone_epochs

    @model_validator(mode="after")
    def _frozen_epochs_fit(self) -> "SlicePhaseConfig":
        if self.n_frozen > self.epochs:
            raise ValueError(f"freeze_backbone_epochs={self.n_frozen} is more than epochs={self.epochs}")
        if self.frozen_optimizer is not None and not 0 < self.n_frozen < self.epochs:
            raise ValueError(
                "frozen_optimizer is for the first of two stages: set freeze_backbone_epochs between 0 and epochs"
            )
        return self
