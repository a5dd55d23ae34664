"""Typed configuration of a run, checked on birth and saved whole; recipes are functions that return one.

A recipe is where the numbers of a published or a demonstration run live. `--set a.b=value` overrides any of them.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError, model_validator

from rsna_e2e.errors import BadInputError, UsageError

Probability = Annotated[float, Field(ge=0.0, le=1.0)]
Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
NonNegative = Annotated[float, Field(ge=0.0)]


class Frozen(BaseModel):
    """Base of every configuration: immutable, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ImageConfig(Frozen):
    """How an int16 slice becomes a square network input of `size` x `size` pixels.

    Each output pixel is the mean of `supersample` x `supersample` samples: set it near the factor of reduction where
    that is over 1.5, or thin structures alias.
    """

    size: PositiveInt = 480
    crop: Literal["none", "series", "slice"] = "series"
    supersample: PositiveInt = 1
    size_from_epoch: dict[PositiveInt, PositiveInt] = {}  # progressive resizing, {1: 96, 5: 112}: of training images

    def size_at(self, epoch: int) -> int:
        """Side of training images in an epoch: that of the last `size_from_epoch` up to it, or `size`."""
        starts = [start for start in self.size_from_epoch if start <= epoch]
        return self.size_from_epoch[max(starts)] if starts else self.size


class AugmentConfig(Frozen):
    """Random geometry, drawn once per series and epoch. Defaults: the published 2nd-place solution of RSNA ICH 2019."""

    hflip_probability: Probability = 0.5
    transpose_probability: Probability = 0.5
    affine_probability: Probability = 0.3
    shift_limit: NonNegative = 0.05  # of the image side
    scale_limit: Fraction = 0.05
    rotate_limit_deg: NonNegative = 20.0


class LoaderConfig(Frozen):
    """Batches hold whole series, up to `slices_per_batch` slices; a longer series is a batch of its own.

    `threads` read ahead by `prefetch_batches`, and as many transform where that is the CPU's work. `backend` auto is
    DALI where it is installed; both give the same bits. `transform` chunk keeps int16 on the device and makes images
    only for the chunk that is computed: for series so long that their images fill the memory.
    """

    slices_per_batch: PositiveInt = 128
    backend: Literal["auto", "dali", "torch"] = "auto"
    threads: PositiveInt = 2
    prefetch_batches: PositiveInt = 3
    transform: Literal["batch", "chunk"] = "batch"


class ModelConfig(Frozen):
    """A timm backbone on every slice and a recurrent head over the series.

    `backbone_arguments` go to timm.create_model as they are. `embedding_width` projects the backbone's features to this
    many before the head; None keeps their number.
    `weights_file` is a local safetensors file for the backbone, used instead of timm's download.
    `batchnorm` says how BatchNorm behaves in joint epochs: train normalises every chunk by itself; frozen uses the
    running statistics, which makes a step independent of chunks and ranks.
    """

    backbone: str
    backbone_arguments: dict[str, Any] = {}
    pretrained: bool = False
    weights_file: Path | None = None
    embedding_width: PositiveInt | None = None
    backbone_dropout: Fraction = 0.0
    batchnorm: Literal["train", "frozen"] = "train"
    slice_loss_weight: NonNegative = 0.0  # auxiliary per-slice classifier on the embeddings, in training only
    study_loss_weight: NonNegative = 0.0  # a head for whole series: is a label present in any slice

    def without_initial_weights(self) -> "ModelConfig":
        """The same architecture, for weights that come from a checkpoint."""
        return self.model_copy(update={"pretrained": False, "weights_file": None})


class OptimizerConfig(Frozen):
    """An optimiser, and a schedule over all steps of its phase, after a linear warm-up.

    step: times `step_factor` at each of `step_fractions` of the run. one_cycle has its own warm-up. Biases and norms
    do not decay.
    """

    name: Literal["adamw", "adam", "sgd", "apex_fused_adam", "apex_fused_lamb"] = "adamw"
    learning_rate: PositiveFloat
    head_learning_rate: PositiveFloat | None = None
    weight_decay: NonNegative = 0.0
    momentum: Fraction = 0.9  # of sgd
    schedule: Literal["constant", "cosine", "step", "one_cycle"] = "constant"
    warmup_fraction: Fraction = 0.0
    step_fractions: tuple[Fraction, ...] = (0.5, 0.75)
    step_factor: Fraction = 0.1
    clip_norm: PositiveFloat | None = None

    @model_validator(mode="after")
    def _one_warmup(self) -> "OptimizerConfig":
        if self.schedule == "one_cycle" and self.warmup_fraction > 0:
            raise ValueError("one_cycle has a warm-up of its own: set warmup_fraction to 0")
        return self


class CheckpointConfig(Frozen):
    """When the state of a run is saved, beside the end of every epoch, and how many of them stay (the best does too).

    `on_disk_full` continue goes on training with the checkpoints there are.
    """

    every_steps: PositiveInt | None = None
    every_minutes: PositiveFloat | None = 10.0
    keep_last: PositiveInt = 2
    on_disk_full: Literal["stop", "continue"] = "stop"


class DistributedConfig(Frozen):
    """How ranks talk. A rank that says nothing for `timeout_s` ends the job; under 60 s, restarts fail to connect."""

    timeout_s: Annotated[float, Field(ge=60.0)] = 300.0
    bucket_mib: PositiveInt = 25  # gradients travel in pieces of this size


class SlicePhaseConfig(Frozen):
    """A first phase for backbones that start from nothing: single slices from all series, mixed.

    A batch of whole series shows a few patients only; features form much sooner on slices of many patients. The
    backbone and the slice classifier learn here; the joint epochs follow.
    """

    epochs: PositiveInt
    slices_per_batch: Annotated[int, Field(ge=2)] = 32  # train-mode BatchNorm needs two
    optimizer: OptimizerConfig


class RunConfig(Frozen):
    """Everything a training run depends on, besides the store.

    `epochs` counts joint epochs, over whole series; `slice_phase` comes before them, if there is one. The backbone
    rests in the first `freeze_backbone_epochs` of them.
    `validation_fold` is held out and scored after every epoch; None trains on all. `early_stopping_epochs` without a
    better score end the run.
    `chunk` slices go through the backbone together; activations of `graph_slices` are held at a time, and what is over
    is computed twice. auto measures once what fits the memory, and config.yaml keeps the answer.
    `accumulate` batches make a step. After `max_skipped_steps` steps in a row without a finite loss and gradient the
    run ends.
    """

    recipe: str
    task: str = "ich"
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 1234
    epochs: PositiveInt
    validation_fold: int | None = 0
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    chunk: PositiveInt | Literal["auto"] = "auto"
    graph_slices: PositiveInt | Literal["auto"] = "auto"
    accumulate: PositiveInt = 1
    compile: bool = False
    ema_decay: Fraction | None = None
    freeze_backbone_epochs: Annotated[int, Field(ge=0)] = 0
    early_stopping_epochs: PositiveInt | None = None
    max_skipped_steps: PositiveInt = 10
    image: ImageConfig = ImageConfig()
    augment: AugmentConfig = AugmentConfig()
    loader: LoaderConfig = LoaderConfig()
    model: ModelConfig
    optimizer: OptimizerConfig
    slice_phase: SlicePhaseConfig | None = None
    checkpoint: CheckpointConfig = CheckpointConfig()
    distributed: DistributedConfig = DistributedConfig()

    @model_validator(mode="after")
    def _slice_phase_has_a_classifier(self) -> "RunConfig":
        if self.slice_phase is not None and self.model.slice_loss_weight == 0:
            raise ValueError("slice_phase needs model.slice_loss_weight > 0")
        return self


def reference() -> RunConfig:
    """ResNeXt-101 32x8d with WSL weights at 480 px, as the published 2nd-place solution used it, trained jointly."""
    return RunConfig(
        recipe="reference",
        epochs=5,
        model=ModelConfig(backbone="resnext101_32x8d.fb_wsl_ig1b_ft_in1k", pretrained=True, batchnorm="frozen"),
        optimizer=OptimizerConfig(learning_rate=2e-5, head_learning_rate=1e-5),
        loader=LoaderConfig(slices_per_batch=64, threads=8),
    )


def demo() -> RunConfig:
    """A narrow ResNet-10 at 128 px, trained from scratch in minutes on two CPU cores."""
    schedule = {"schedule": "cosine", "warmup_fraction": 0.1, "weight_decay": 0.02, "clip_norm": 2.0}
    return RunConfig(
        recipe="demo",
        epochs=4,
        image=ImageConfig(size=128, supersample=3),
        model=ModelConfig(
            backbone="resnet10t",
            # half the width is a quarter of the work; a maximum keeps a bleed of a few pixels that a mean would dilute
            backbone_arguments={"channels": (32, 64, 128, 256), "stem_width": 16, "global_pool": "max"},
            embedding_width=128,
            batchnorm="frozen",  # the phase on mixed slices has made its statistics; a series by itself is no sample
            slice_loss_weight=0.5,
        ),
        slice_phase=SlicePhaseConfig(
            epochs=4, optimizer=OptimizerConfig.model_validate(schedule | {"learning_rate": 3e-3})
        ),
        optimizer=OptimizerConfig.model_validate(schedule | {"learning_rate": 1e-3, "head_learning_rate": 2e-3}),
        augment=AugmentConfig(transpose_probability=0.0),  # too few studies to learn both orientations from scratch
    )


RECIPES: dict[str, Callable[[], RunConfig]] = {"demo": demo, "reference": reference}


def load_config(recipe: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Return a recipe by name, or a saved config.yaml by path, with `a.b=value` overrides applied.

    Raises UsageError for an unknown recipe, key or value; BadInputError for a file that is not a configuration.
    """
    if str(recipe) in RECIPES:
        raw = RECIPES[str(recipe)]().model_dump(mode="json")
    elif Path(recipe).is_file():
        raw = _read_yaml(Path(recipe))
    else:
        raise UsageError(f"unknown recipe {str(recipe)!r}; known: {', '.join(RECIPES)}, or the path of a config.yaml")
    for override in overrides:
        _override(raw, override)
    try:
        return RunConfig.model_validate(raw)
    except ValidationError as error:
        kind = UsageError if overrides or str(recipe) in RECIPES else BadInputError
        raise kind(f"configuration {recipe}: {_explain(error)}") from None


def save_config(config: RunConfig, *, path: Path) -> None:
    """Write the whole configuration as YAML."""
    path.write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        raw = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError):
        raise BadInputError(f"{path}: not a YAML configuration") from None
    if not isinstance(raw, dict):
        raise BadInputError(f"{path}: not a YAML configuration")
    return raw


def _override(raw: dict[str, Any], override: str) -> None:
    name, separator, text = override.partition("=")
    if not separator:
        raise UsageError(f"--set {override}: expected a.b=value, for example --set optimizer.learning_rate=1e-3")
    *parents, leaf = name.split(".")
    node = raw
    for parent in parents:
        child = node.get(parent)
        if not isinstance(child, dict):
            raise UsageError(f"--set {override}: there is no section {parent!r}; it has {', '.join(node)}")
        node = child
    if leaf not in node:
        raise UsageError(f"--set {override}: there is no {leaf!r}; it has {', '.join(node)}")
    try:
        node[leaf] = _number_or(yaml.safe_load(text))
    except yaml.YAMLError:
        raise UsageError(f"--set {override}: cannot read the value {text!r}") from None


def _number_or(value: Any) -> Any:
    """YAML 1.1 reads 1e-3 as a string; take it as the number that was meant."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _explain(error: ValidationError) -> str:
    return "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
