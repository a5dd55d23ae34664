"""Models that serve without training: of random weights."""

from pathlib import Path

import torch

from rsna_e2e.config import RunConfig, resolve_task
from rsna_e2e.core.device import choose_compute
from rsna_e2e.inference.trained_model import TrainedModel
from rsna_e2e.model.make import make_network
from rsna_e2e.serving.model import ServedModel
from rsna_e2e.training.calibration import Level


def untrained(config: RunConfig, *, seed: int = 0) -> ServedModel:
    """A model of random weights, without thresholds."""
    task = resolve_task(config)
    compute = choose_compute("fp32", "cpu", cpu_threads=1)
    torch.manual_seed(seed)
    trained = TrainedModel(
        run=Path("run"), config=config, task=task, compute=compute, network=make_network(config.model, task).eval(),
        embeddings=None, checkpoint=Path("run"), epoch=0, damaged=(),
    )  # fmt: skip
    thresholds: dict[Level, dict[str, float]] = {"slices": {}, "series": {}}
    return ServedModel(
        name="x", version="1", identity="0" * 16, members=(trained,), calibrators=(None,), thresholds=thresholds
    )
