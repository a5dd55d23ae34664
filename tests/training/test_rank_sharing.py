"""Long series and short ones on one rank and on several: the same steps, in a fraction of the memory."""

import json
from pathlib import Path

import pytest
import rank_sharing
import torch
from rank_jobs import run_ranks

LOSS, WEIGHT = 1e-6, 1e-5  # as in test_train_ranks.py
MEMORY = 0.4  # of one rank's, on four

Found = tuple[list[float], dict[str, torch.Tensor], float]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sharing")


def found_by(folder: Path, n_ranks: int, side: int, name: str = "") -> Found:
    """Losses, weights, and the most memory that a rank's step took, MiB. name: of the steps."""
    own = folder / str(side)
    own.mkdir(exist_ok=True)
    if not (own / f"{n_ranks}.json").exists():
        codes, messages = run_ranks(n_ranks, rank_sharing.__file__, own, side)
        assert codes == [0] * n_ranks, messages
    losses = json.loads((own / f"{name}{n_ranks}.json").read_text())
    peaks = [float((own / f"{n_ranks}.{rank}.mib").read_text()) for rank in range(n_ranks)]
    return losses, torch.load(own / f"{name}{n_ranks}.pt", weights_only=True), max(peaks)


SIZES = [(4, 32), *(pytest.param(n, 64, marks=pytest.mark.slow) for n in (2, 4))]


@pytest.mark.parametrize(("n_ranks", "side"), SIZES)
def test_series_of_3_to_120_slices_train_alike_with_dropout_and_all_heads(
    folder: Path, n_ranks: int, side: int
) -> None:
    (losses, weights, _), (shared, shared_weights, _) = (found_by(folder, n, side) for n in (1, n_ranks))
    assert len(losses) == rank_sharing.N_STEPS >= 20
    assert max(abs(a - b) for a, b in zip(losses, shared, strict=True)) <= LOSS
    assert max(float((weights[name] - shared_weights[name]).abs().max()) for name in weights) <= WEIGHT
    assert losses[0] - losses[-1] > 1000 * LOSS


def test_a_long_series_takes_a_fraction_of_the_memory_on_each_of_four_ranks(folder: Path) -> None:
    (*_, alone), (*_, shared) = (found_by(folder, n, 32) for n in (1, 4))
    assert alone > 50  # MiB: there is something to compare
    assert shared <= MEMORY * alone


@pytest.mark.parametrize(("n_ranks", "side"), SIZES)
def test_the_loss_of_slices_and_series_at_once_has_one_denominator_over_ranks_and_batches(
    folder: Path, n_ranks: int, side: int
) -> None:
    (losses, weights, _), (shared, shared_weights, _) = (found_by(folder, n, side, "study-") for n in (1, n_ranks))
    assert max(abs(a - b) for a, b in zip(losses, shared, strict=True)) <= LOSS
    assert max(float((weights[name] - shared_weights[name]).abs().max()) for name in weights) <= WEIGHT
