"""The plan of a run: its phases, their epochs, and the batches of every optimiser step.

An epoch's batches follow from its number, so they are planned when it comes; a run may have any number of epochs.
"""

# N slices (packed)

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from rsna_e2e.config import OptimizerConfig, RunConfig
from rsna_e2e.core.errors import UsageError
from rsna_e2e.loader.batch import SeriesBatch
from rsna_e2e.loader.division import Division, busy_share
from rsna_e2e.loader.image_loader import ImageLoader
from rsna_e2e.loader.sampler import Batch
from rsna_e2e.loader.series_loader import SeriesLoader
from rsna_e2e.model.freezing import modules_before
from rsna_e2e.model.make import Network
from rsna_e2e.model.norms import mixes_slices, refuses_one
from rsna_e2e.store import SeriesSpan
from rsna_e2e.training.distributed import Ranks

_NAMED = 3  # series in a message

# Epochs whose steps are counted, for the schedule; later ones are taken to have as many on average. In a run of so
# many epochs a step more or less does not move the learning rate.
MOST_COUNTED = 20_000

Kind = Literal["slices", "series"]
StepBatches = tuple[Batch, ...]  # batches accumulated into one optimiser step


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """One pass over the training data. number: from 1, over all phases."""

    number: int
    steps: tuple[StepBatches, ...]
    loader: SeriesLoader
    is_joint: bool
    is_backbone_frozen: bool

    @property
    def division(self) -> Division:
        """How its batches are divided over ranks."""
        return self.loader.division if self.is_joint else self.loader.division.by_slices()

    def lengths(self, batch: Batch) -> list[int]:
        """Slices of each series of a batch, or of each slice."""
        return self.loader.lengths(batch) if self.is_joint else [1] * len(batch)

    def n_slices(self, step: StepBatches) -> int:
        """Slices in a step, of all ranks."""
        return sum(sum(self.lengths(batch)) for batch in step)

    def load(self, *, skip_steps: int) -> Generator[tuple[StepBatches, list[SeriesBatch]]]:
        """Yield each step with this rank's share of its batches, from step `skip_steps` of the epoch on."""
        steps = self.steps[skip_steps:]
        wanted = [batch for step in steps for batch in step]
        if self.is_joint:
            batches = self.loader.load(wanted, epoch=self.number)
        else:
            batches = _of_slices(self.loader).load_slices(wanted, epoch=self.number)
        for step in steps:
            yield step, [next(batches) for _ in step]


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """Epochs that share an optimiser: single slices without the heads, of which there may be two, or whole series.

    epoch: plans one of `numbers`. first_step: steps before the phase. n_steps: of all its epochs, see `MOST_COUNTED`.
    """

    kind: Kind
    numbers: range
    epoch: Callable[[int], Epoch]
    optimizer: OptimizerConfig
    first_step: int
    n_steps: int

    def steps_before(self, number: int) -> int:
        """Optimiser steps of the run before epoch `number` of the phase."""
        return self.first_step + sum(len(self.epoch(k).steps) for k in range(self.numbers.start, number))

    @property
    def n_slices(self) -> int:
        """Slices that all its steps see, those seen again in every epoch counted again: in each as many as in any."""
        first = self._first
        return (self.numbers.stop - self.numbers.start) * sum(first.n_slices(step) for step in first.steps)

    @property
    def busy_share(self) -> float:
        """The part of their time that ranks can be expected to work, see `division.busy_share`: in the first epoch."""
        first = self._first
        return busy_share((first.lengths(batch) for step in first.steps for batch in step), first.division)

    @property
    def n_shapes(self) -> int:
        """How many sizes of chunks go through the backbone of a rank in the first epoch."""
        first = self._first
        batches = (batch for step in first.steps for batch in step)
        return len({len(chunk) for batch in batches for chunk in first.division.chunks(first.lengths(batch))})

    @property
    def division(self) -> Division:
        """How its batches are divided over ranks."""
        return self._first.division

    @property
    def smallest_chunk(self) -> int:
        """Slices of the smallest chunk that goes through the backbone of any rank in the first epoch."""
        first = self._first
        batches = (batch for step in first.steps for batch in step)
        return min(first.division.smallest_chunk(first.lengths(batch)) for batch in batches)

    @property
    def _first(self) -> Epoch:
        return self.epoch(self.numbers.start)


def plan_phases(
    config: RunConfig, loader_of: Callable[[int], SeriesLoader], training: Sequence[int]
) -> tuple[Phase, ...]:
    """Plan a run on the series at positions `training` of the store. loader_of: the loader of an epoch."""
    slices = config.slice_phase
    first = 1 if slices is None else 1 + slices.epochs

    def of_slices(number: int) -> Epoch:
        assert slices is not None
        loader = loader_of(number)
        batches = _of_slices(loader).group_slices(training, phase=slices, epoch=number)
        return _epoch(config, loader, batches, number, is_joint=False, is_frozen=number <= slices.n_frozen)

    def of_series(number: int) -> Epoch:
        loader = loader_of(number)
        is_frozen = number < first + config.freeze_backbone_epochs
        batches = loader.group(training, epoch=number)
        return _epoch(config, loader, batches, number, is_joint=True, is_frozen=is_frozen)

    phases: list[Phase] = []

    def add(kind: Kind, numbers: range, epoch: Callable[[int], Epoch], optimizer: OptimizerConfig) -> None:
        before = sum(phase.n_steps for phase in phases)
        phases.append(_phase(kind, numbers, epoch, optimizer, first_step=before))

    second = 1
    if slices is not None and slices.frozen_optimizer is not None:
        second += slices.n_frozen
        add("slices", range(1, second), of_slices, slices.frozen_optimizer)
    if slices is not None:
        add("slices", range(second, first), of_slices, slices.optimizer)
    if config.epochs > 0:
        add("series", range(first, first + config.epochs), of_series, config.optimizer)
    return tuple(phases)


def divide(model: Network, config: RunConfig, ranks: Ranks) -> Division:
    """Return how ranks divide batches of whole series: by slices, or by chunks where norms normalise over a chunk.

    Raises UsageError when norms would see a single slice of a rank in the phase on slices, or the backbone has no such
    part as `slice_phase.learns_from` names.
    """
    assert config.chunk != "auto"
    _check_slice_phase(model, config, ranks)
    keeps_series = config.model.batchnorm == "train" and mixes_slices(model.backbone)
    return Division(rank=ranks.rank, n_ranks=ranks.n_ranks, chunk_size=config.chunk, keeps_series=keeps_series)


def check_norms(
    model: Network,
    config: RunConfig,
    smallest_chunks: Mapping[Kind, int],
    *,
    spans: Sequence[SeriesSpan] = (),
    n_channels: int,
) -> None:
    """Raise UsageError when a normalisation layer would get a single value per channel in any of these phases.

    It happens in train mode, if a chunk is a single slice and a layer reduces it to one pixel or averages over it. A
    larger image, a larger chunk or running statistics avoid it; series of one slice do occur.
    smallest_chunks: slices of the smallest chunk by phase. spans: the series that are trained on.
    """
    for kind, smallest in smallest_chunks.items():
        sizes = _trained_sizes(config, kind)
        if smallest > 1 or not sizes or not mixes_slices(model.backbone):
            continue
        if refuses_one(model.backbone, n_channels=n_channels, size=min(sizes)):
            raise UsageError(_lone_slices(config, kind, min(sizes), spans))


def _trained_sizes(config: RunConfig, kind: Kind) -> list[int]:
    """Sides of the images in the epochs of a phase in which norms are in train mode."""
    first = 1 + (config.slice_phase.epochs if config.slice_phase else 0)
    if kind == "slices" and _has_frozen_norms(config):
        return []
    if kind == "slices":
        assert config.slice_phase is not None
        epochs = range(1 + config.slice_phase.n_frozen, first)
    elif config.model.batchnorm == "train":
        epochs = range(first + config.freeze_backbone_epochs, first + config.epochs)
    else:
        return []
    starts = [start for start in config.image.size_from_epoch if start in epochs]
    return [config.image.size_at(epoch) for epoch in (*epochs[:1], *starts)]


def _lone_slices(config: RunConfig, kind: Kind, size: int, spans: Sequence[SeriesSpan]) -> str:
    lone = [span.series_key[:8] for span in spans if span.n_slices == 1]
    if kind == "series" and lone:
        named = ", ".join(lone[:_NAMED]) + (f" and {len(lone) - _NAMED} more" if len(lone) > _NAMED else "")
        why, way_out = f"series of one slice ({named})", "model.batchnorm=frozen"
    else:
        other = "model.batchnorm=frozen" if kind == "series" else "fewer ranks, or slice_phase=null"
        why, way_out = f"chunk={config.chunk} in the phase on {kind}", f"chunk=3 or more, or {other}"
    return (
        f"{why}: a chunk would hold a single slice, and at {size} px a normalisation layer of {config.model.backbone} "
        f"in train mode would get one value per channel, which has no variance. Use {way_out}, or larger images"
    )


def _check_slice_phase(model: Network, config: RunConfig, ranks: Ranks) -> None:
    if config.slice_phase is None:
        return
    if config.slice_phase.learns_from is not None:
        modules_before(model.backbone, config.slice_phase.learns_from)
    if not mixes_slices(model.backbone) or _has_frozen_norms(config):
        return
    n_slices = config.slice_phase.slices_per_batch
    if n_slices < 2 * ranks.n_ranks:
        raise UsageError(
            f"slice_phase.slices_per_batch={n_slices} leaves one of {ranks.n_ranks} ranks with fewer than 2 slices, "
            f"and the backbone's normalisation needs 2. Use {2 * ranks.n_ranks} or more, or fewer ranks"
        )


def _has_frozen_norms(config: RunConfig) -> bool:
    """Whether norms are frozen in the phase on single slices too, as networks that find boxes may have them."""
    return config.model.finds_boxes and config.model.batchnorm == "frozen"


def _phase(
    kind: Kind,
    numbers: range,
    epoch: Callable[[int], Epoch],
    optimizer: OptimizerConfig,
    *,
    first_step: int,
) -> Phase:
    counted = numbers[:MOST_COUNTED]
    n_counted = sum(len(epoch(number).steps) for number in counted)
    n_steps = (numbers.stop - numbers.start) * n_counted // len(counted)
    return Phase(kind=kind, numbers=numbers, epoch=epoch, optimizer=optimizer, first_step=first_step, n_steps=n_steps)


def _epoch(
    config: RunConfig,
    loader: SeriesLoader,
    batches: Sequence[Batch],
    number: int,
    *,
    is_joint: bool,
    is_frozen: bool = False,
) -> Epoch:
    k = config.accumulate
    steps = tuple(tuple(batches[i : i + k]) for i in range(0, len(batches), k))
    return Epoch(number=number, steps=steps, loader=loader, is_joint=is_joint, is_backbone_frozen=is_frozen)


def _of_slices(loader: SeriesLoader) -> ImageLoader:
    """Return the loader as one of images: a phase on single slices has no other."""
    assert isinstance(loader, ImageLoader)
    return loader
