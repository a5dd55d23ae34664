"""Forecasts the slices, disk space and memory that the steps of a plan take; nothing is computed and little is read."""

from collections.abc import Sequence
from dataclasses import dataclass

from rsna_e2e.config import RunConfig
from rsna_e2e.training.pipeline.data_size import DataSize
from rsna_e2e.training.pipeline.model_sizes import ModelSizes
from rsna_e2e.training.pipeline.planned_step import PlannedStep
from rsna_e2e.training.pipeline.run import Standing

BYTES_PER_SLICE = 512 * 512 * 2  # int16
N_KEPT = 2  # epochs of a head that has predicted: the last and the best
BYTES_PER_PREDICTION = 60  # a line of a submission, and its cell of the table
FLOAT_BYTES = 4  # of an embedding's feature


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A step of a plan, and the slices that it goes over, all its passes together.

    n_bytes: that stay when everything is done. peak_bytes: at most while it is at work.
    """

    standing: Standing
    n_slices: int
    n_bytes: int
    peak_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """All steps of a plan, what is known of its models, and its data."""

    lines: tuple[Line, ...]
    sizes: ModelSizes
    data: DataSize

    @property
    def to_run(self) -> tuple[Line, ...]:
        """Those that are to be run."""
        return tuple(line for line in self.lines if line.standing.is_needed)

    @property
    def n_bytes(self) -> int:
        """Bytes that the steps to be run leave."""
        return sum(line.n_bytes for line in self.to_run)


def forecast(standings: Sequence[Standing], sizes: ModelSizes, data: DataSize) -> Forecast:
    """Return what these steps of a plan take. sizes: of the models of the whole plan. data: what it works on."""
    lines = []
    for standing in standings:
        step = standing.step
        n_slices = data.of(step) * step.scale
        left, peak = _bytes(step, n_slices, sizes)
        lines.append(Line(standing=standing, n_slices=n_slices, n_bytes=left, peak_bytes=peak))
    return Forecast(lines=tuple(lines), sizes=sizes, data=data)


def peak_bytes(lines: Sequence[Line]) -> int:
    """Most bytes on the disk while these steps are run one after the other."""
    peak = left = 0
    for line in lines:
        peak = max(peak, left + line.peak_bytes)
        left += line.n_bytes
    return peak


def _bytes(step: PlannedStep, n_slices: int, sizes: ModelSizes) -> tuple[int, int]:
    """Return the bytes that a step leaves in the end, and the most while it is at work."""
    if step.verb == "train":
        assert step.settings is not None
        left, peak = _checkpoints(step, step.settings)
        each = sizes.checkpoint_bytes(step.settings)
        return left * each, peak * each
    n_bytes = n_slices // step.scale * BYTES_PER_PREDICTION
    if step.verb == "prepare":
        n_bytes = n_slices * BYTES_PER_SLICE
    elif step.verb == "embed":
        n_bytes = n_slices * sizes.embedding_width(step) * FLOAT_BYTES
    return n_bytes, n_bytes


def _checkpoints(step: PlannedStep, settings: RunConfig) -> tuple[int, int]:
    """Return how many checkpoints a training leaves in the end, and how many there are at most: an older one goes only
    when the next is written."""
    is_validated = settings.validation_fold is not None or settings.training_slices_scored is not None
    kept = settings.checkpoint.keep_last + is_validated
    if settings.checkpoint.keep_epochs:
        kept = max(kept, step.scale)
    is_dropped = settings.model.backbone == "none" and settings.checkpoint.keep_epochs  # when it has predicted
    return min(N_KEPT if is_dropped else kept, step.scale), kept + 1
