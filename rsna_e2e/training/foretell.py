"""What the operator is told of a run before its first step: its epochs, and how busy ranks will be."""

import logging
from collections.abc import Callable, Sequence

from rsna_e2e.config import RunConfig
from rsna_e2e.training.phases import Phase

logger = logging.getLogger(__name__)

ENOUGH_BUSY = 0.9  # of the time; below it, ranks wait for each other so much that the operator is warned


def describe_epochs(config: RunConfig) -> str:
    """Say how many epochs a run has in each phase, and which settings decide that."""
    parts = []
    if config.slice_phase is not None:
        frozen = f", {config.slice_phase.n_frozen:,} with a frozen backbone" if config.slice_phase.n_frozen else ""
        parts.append(f"{_epochs(config.slice_phase.epochs)} on shuffled single slices{frozen} (slice_phase.epochs)")
    if config.epochs > 0:
        parts.append(f"{_epochs(config.epochs)} on whole series (epochs)")
    return ", then ".join(parts)


def _epochs(n_epochs: int) -> str:
    return "1 epoch" if n_epochs == 1 else f"{n_epochs:,} epochs"


def foretell_sharing(phases: Sequence[Phase], config: RunConfig, say: Callable[[str], None]) -> None:
    """Report how busy ranks will be, if there are several, and warn where they will wait for each other a lot."""
    for phase in phases:
        division = phase.division
        if division.n_ranks == 1:
            continue
        share = phase.busy_share
        say(f"{division.n_ranks} ranks share each batch of {phase.kind}: expected to be busy {share:.0%} of the time")
        if share < ENOUGH_BUSY:
            way_out = f"fewer ranks, or in a new run a larger {_size_of_a_batch(phase, config)}"
            if division.keeps_series:
                way_out += f", a chunk below {division.chunk_size} or model.batchnorm=frozen"
            logger.warning(
                f"{division.n_ranks} ranks will be busy {share:.0%} of the time on {phase.kind}: the slices of a batch "
                f"cannot be divided more evenly. What helps: {way_out}"
            )


def _size_of_a_batch(phase: Phase, config: RunConfig) -> str:
    """Return the setting for the size of a batch of a phase."""
    if phase.kind == "slices":
        return "slice_phase.slices_per_batch"
    return "loader.slices_per_batch" if config.loader.series_per_batch is None else "loader.series_per_batch"
