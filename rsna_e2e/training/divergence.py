"""Debug bundle of a run that diverged: which series and parameters are not finite, and the weights."""

# N slices (packed)

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from rsna_e2e.core.device import Compute
from rsna_e2e.core.files import atomic_writer, make_folder, write_json
from rsna_e2e.core.weights_file import encode
from rsna_e2e.loader.batch import SeriesBatch
from rsna_e2e.model.box_model import BoxModel
from rsna_e2e.model.make import Network
from rsna_e2e.model.network import JointModel
from rsna_e2e.training.checkpoint.folder import MODEL
from rsna_e2e.training.run_layout import DEBUG
from rsna_e2e.training.step import StepResult


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesState:
    """One series of a failing step, named by the beginning of its hash, and which of this rank's values are finite.

    Of networks that find boxes, embeddings and logits are the scores and places of boxes, see `nothing_finite`.
    """

    series: str
    n_slices: int
    images_are_finite: bool
    embeddings_are_finite: bool
    logits_are_finite: bool

    @property
    def is_suspect(self) -> bool:
        """Whether anything of it is not finite."""
        return not (self.images_are_finite and self.embeddings_are_finite and self.logits_are_finite)


def write_bundle(
    run: Path,
    *,
    step: int,
    rank: int,
    result: StepResult,
    model: Network,
    batches: Sequence[SeriesBatch],
    compute: Compute,
) -> list[str]:
    """Write `RUN/debug/step-N/` with this rank's findings and the weights; return the suspect series of this rank.

    Those are the series with a value that is not finite, or all series when only the gradient is not finite.
    """
    folder = run / DEBUG / f"step-{step:08d}"
    make_folder(folder)
    series = [state for batch in batches for state in _states(model, batch, compute)]
    findings = {
        "step": step,
        "result": {name: str(value) for name, value in asdict(result).items()},
        "series": [asdict(state) for state in series],
        "parameters_not_finite": [n for n, p in model.named_parameters() if not _is_finite(p)],
        "gradients_not_finite": [
            n for n, p in model.named_parameters() if p.grad is not None and not _is_finite(p.grad)
        ],
    }
    write_json(folder / f"rank-{rank}.json", findings)
    if rank == 0:
        with atomic_writer(folder / MODEL) as file:
            file.write(encode(model.state_dict()))
    suspects = {state.series for state in series if state.is_suspect}
    is_gradient_alone = math.isfinite(result.loss) and not math.isinf(result.series_loss)
    return sorted(suspects or ({state.series for state in series} if is_gradient_alone else set()))


@torch.no_grad()
def _states(model: Network, batch: SeriesBatch, compute: Compute) -> Iterator[SeriesState]:
    """Examine each series that has slices on this rank, by those slices alone."""
    model.eval()
    own = np.concatenate([np.arange(chunk.start, chunk.stop) for chunk in batch.chunks] or [np.empty(0, dtype=int)])
    series_of = np.searchsorted(batch.series_lengths.cumsum(0).numpy(), own, side="right")
    for series in np.unique(series_of).tolist():
        (places,) = np.nonzero(series_of == series)
        images_are_finite, parts = True, []
        for place in places.tolist():  # one by one: a long series may not fit the memory at once
            image = batch.images[place : place + 1]
            images_are_finite = images_are_finite and _is_finite(image)
            with compute.autocast():
                parts += _found(model, image) if isinstance(model, BoxModel) else [model.embed(image)]
        outputs = parts
        if isinstance(model, JointModel):
            outputs = [model.classify(torch.cat(parts), torch.tensor([len(parts)])).slices]
        yield SeriesState(
            series=batch.series_keys[series][:8],
            n_slices=len(places),
            images_are_finite=images_are_finite,
            embeddings_are_finite=all(map(_is_finite, parts)),
            logits_are_finite=all(map(_is_finite, outputs)),
        )


def _found(model: BoxModel, image_1CSS: torch.Tensor) -> list[torch.Tensor]:
    return [tensor for found in model.find(image_1CSS) for tensor in (found.edges, found.scores)]


def _is_finite(tensor: torch.Tensor) -> bool:
    return bool(torch.isfinite(tensor).all())
