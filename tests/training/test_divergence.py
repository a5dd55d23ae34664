"""Which series are named when a run has come to no finite number."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import small
import torch

from rsna_e2e.core.device import Compute
from rsna_e2e.loader.division import Division
from rsna_e2e.loader.image_loader import ImageLoader
from rsna_e2e.model.network import JointModel
from rsna_e2e.store import Store
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.training.divergence import write_bundle
from rsna_e2e.training.step import StepResult

CPU = torch.device("cpu")
RESULT = StepResult(
    loss=math.nan,
    series_loss=math.nan,
    gradient_norm=math.nan,
    learning_rate=0.1,
    is_skipped=True,
    is_overflow=False,
    recompute_error=0.0,
    heads_agree=True,
    busy_share=1.0,
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return small.make_store(tmp_path_factory.mktemp("divergence"))


@pytest.mark.parametrize(
    ("loss", "poisoned", "named"),
    [
        (math.nan, 2, {0}),  # the third slice of the rank is one of the first series
        (math.nan, None, set()),  # another rank's
        (0.7, None, {0, 1}),  # the gradient alone: any of the rank's
    ],
)
def test_series_of_a_rank_that_are_to_be_looked_at(
    store: Store, tmp_path: Path, loss: float, poisoned: int | None, named: set[int]
) -> None:
    """Two ranks share series of 5, 3 and 6 slices; the first has the first five and two of the second."""
    config = small.config()
    loader = ImageLoader(store, config, task=ICH, device=CPU, division=Division(n_ranks=2, chunk_size=4))
    (batch,) = loader.load([(0, 1, 3)], epoch=1)
    assert batch.images.shape[0] == 7
    images = batch.images[:].clone()
    if poisoned is not None:
        images[poisoned, 0, 0, 0] = torch.nan
    found = write_bundle(
        tmp_path,
        step=3,
        rank=1,
        result=replace(RESULT, loss=loss),
        model=JointModel.for_task(config.model, ICH),
        batches=[replace(batch, images=images)],
        compute=Compute(CPU, None),
    )
    assert found == sorted(batch.series_keys[series][:8] for series in named)
