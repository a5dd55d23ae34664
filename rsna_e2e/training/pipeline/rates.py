"""How fast the steps of a plan go on a GPU that is not here: as published, and by a model of its arithmetic."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from rsna_e2e.config import RunConfig
from rsna_e2e.training.pipeline.data_size import DataSize
from rsna_e2e.training.pipeline.devices import DEVICES, PUBLISHED, PUBLISHED_ON, PUBLISHED_SOURCE
from rsna_e2e.training.pipeline.model_sizes import WEIGHT_BYTES, ModelSizes
from rsna_e2e.training.pipeline.planned_step import JOINING, PlannedStep

PEAK_SHARE = 0.1  # assumed: convolutions in groups of 8 channels are far from the peak; nothing was measured on a GPU
TRAIN_PASSES, INFER_PASSES = 3, 1  # forward; backward to the inputs and to the weights of a layer
PREPARED_PER_S = 2246.0  # on two cores and a disk: docs/benchmarks.md, Preparing, 4,000 slices

_MODEL_NOTE = (
    f"modelled: nothing was measured on a GPU yet. A backbone at an assumed {100 * PEAK_SHARE:.0f} % of the peak "
    "arithmetic; a recurrent head as fast as the GPU reads its recurrent weights, once forward and twice backward for "
    f"every slice of a series; prepare at {PREPARED_PER_S:,.0f} files/s, as measured on two cores "
    "(docs/benchmarks.md). Training of a backbone takes all GPUs, every other step one"
)
_PUBLISHED_NOTE = (
    f"published: what the 2019 solution took on four V100 ({PUBLISHED_SOURCE}), from JPEG files; heads on one GPU, "
    "with their predictions; ? was not published by itself"
)

Rate = Callable[[PlannedStep], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Basis:
    """Where times come from: a name for their column, a note, and slices/s of a step (NaN: not known; infinite: next to
    no time). startup_s: of a step's process."""

    name: str
    note: str
    rate: Rate
    startup_s: float = 0.0

    def time_s(self, step: PlannedStep, n_slices: int) -> float:
        """Time of a step on so many slices, all its passes together."""
        return self.startup_s + n_slices / self.rate(step)


def bases_of(device: str, n_gpus: int, sizes: ModelSizes, data: DataSize) -> tuple[Basis, ...]:
    """Return the rates on `n_gpus` of a device of `DEVICES`: published ones, where there are any, and modelled ones."""
    model = _Model(device, n_gpus, sizes, data)
    modelled = Basis(name="modelled", note=_MODEL_NOTE, rate=model.rate)
    if (device, n_gpus) != PUBLISHED_ON:
        return (modelled,)
    published = Basis(name="published", note=_PUBLISHED_NOTE, rate=lambda step: _published(step, sizes))
    known = any(not math.isnan(published.rate(step)) for step in sizes.steps if step.verb == "train")
    return (published, modelled) if known else (modelled,)


def _published(step: PlannedStep, sizes: ModelSizes) -> float:
    """Slices/s of the published solution in a step of the same kind and model; NaN where there is none."""
    settings = sizes.settings_of(step)
    if settings is None:
        return math.inf if step.verb in JOINING else math.nan
    kind = (step.verb, settings.model.backbone, settings.model.head, settings.image.size, sizes.n_features)
    return next((entry.slices_per_s for entry in PUBLISHED if entry.kind == kind), math.nan)


class _Model:
    """Rates by arithmetic and memory bandwidth."""

    def __init__(self, device: str, n_gpus: int, sizes: ModelSizes, data: DataSize) -> None:
        self._device, self._n_gpus, self._sizes, self._data = DEVICES[device], n_gpus, sizes, data

    def rate(self, step: PlannedStep) -> float:
        """Slices of a step in a second."""
        if step.verb in JOINING:
            return math.inf
        settings = self._sizes.settings_of(step)
        if settings is None:
            return PREPARED_PER_S
        passes = TRAIN_PASSES if step.verb == "train" else INFER_PASSES
        return 1 / (self._backbone_s(step, settings, passes) + self._head_s(step, settings, passes))

    def _backbone_s(self, step: PlannedStep, settings: RunConfig, passes: int) -> float:
        """Time of a slice in the backbone, s."""
        backbone = self._sizes.backbone(settings)
        if backbone is None:
            return 0.0
        n_gpus = self._n_gpus if step.verb == "train" else 1
        return passes * backbone.flop / (PEAK_SHARE * self._device.flop_per_s * n_gpus)

    def _head_s(self, step: PlannedStep, settings: RunConfig, passes: int) -> float:
        """Time of a slice in the recurrent head, s: all series of a batch take a step at once."""
        n_weights = 0 if step.verb == "embed" else self._sizes.n_recurrent_weights(settings)
        by_slices = settings.loader.slices_per_batch / self._data.slices_per_series
        n_series = max(settings.loader.series_per_batch or by_slices, 1.0)
        return passes * n_weights * WEIGHT_BYTES / self._device.bytes_per_s / n_series
