"""Parts that time the trainer's own step on the reference recipe, with weights that start from nothing."""

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import torch
from context import Context
from devices import MIB, Device, device_of
from measure import time_on_host
from scales import SCALES, Scale

from rsna_e2e.config import RunConfig, load_config
from rsna_e2e.tools.bench.peak import peak_of
from rsna_e2e.training.chunk_size import free_bytes
from rsna_e2e.training.series_step import SeriesStep

RECIPE = "reference"
SMALL_CHUNK = 16  # slices: four chunks of 60, of which three are computed again
N_SETTLE = 20  # steps in which a loss scale that is too high comes down, by half each
# The heads on stored embeddings: what is left of a step without the backbone.
HEAD = ("model.backbone=none", "model.backbone_arguments={}", "model.pretrained=false", "image.size=1")


def step(context: Context) -> None:
    """bf16: how many slices are predicted to fit; a short series with all graphs kept, and with chunks recomputed."""
    steps = _Steps(context, "precision=bf16")
    steps.take(f"{steps.scale.short} slices, bf16, graphs kept", steps.scale.short)
    steps.take(f"{steps.scale.short} slices, bf16, chunks recomputed", steps.scale.short, *_recomputed(steps.scale))


def more_steps(context: Context) -> None:
    """A long series; fp16 with the scaler of its loss; the heads alone; cudnn.benchmark; the long series recomputed."""
    steps = _Steps(context, "precision=bf16")
    short, long = steps.scale.short, steps.scale.long
    steps.take(f"{long} slices, bf16, as many graphs kept as are predicted to fit", long)
    steps.take(f"{short} slices, fp16 with scaler", short, "precision=fp16")
    steps.take_head(f"heads alone, {short} slices", short)
    for is_on in (False, True):
        steps.take(
            f"{short} slices, bf16, cudnn.benchmark {'on' if is_on else 'off'}",
            short,
            prepare=lambda is_on=is_on: _set_cudnn_benchmark(is_on),
        )
    steps.take(f"{long} slices, bf16, chunks recomputed", long, *_recomputed(steps.scale))


def compiled_step(context: Context) -> None:
    """The same step compiled, and eager in the same process."""
    steps = _Steps(context, "precision=bf16")
    steps.take(f"{steps.scale.short} slices, bf16, compiled", steps.scale.short, "compile=true")
    steps.take(f"{steps.scale.short} slices, bf16, eager", steps.scale.short)


def _recomputed(scale: Scale) -> tuple[str, ...]:
    chunk = min(SMALL_CHUNK, max(scale.short // 3, 2))
    return (f"chunk={chunk}", f"graph_slices={chunk}")


def _set_cudnn_benchmark(is_on: bool) -> None:
    torch.backends.cudnn.benchmark = is_on


class _Steps:
    """Takes figures of steps of the recipe with some settings."""

    def __init__(self, context: Context, *settings: str) -> None:
        self._context, self._settings = context, settings
        self.device, self.scale = device_of(context.kind), SCALES[context.scale_name]

    def take(self, name: str, n_slices: int, *settings: str, prepare: Callable[[], None] = lambda: None) -> None:
        config = self._config(*settings)
        self._context.take(name, lambda: measure_step(self.device, self.scale, config, n_slices, prepare=prepare))

    def take_head(self, name: str, n_slices: int) -> None:
        def measure() -> Mapping[str, Any]:
            whole = SeriesStep(self._config(*_recomputed(self.scale)), n_slices=1, device=self.device.kind)
            n_features = whole.n_features
            del whole
            config = self._config(*HEAD)
            return measure_step(self.device, self.scale, config, n_slices, n_channels=n_features)

        self._context.take(name, measure)

    def _config(self, *settings: str) -> RunConfig:
        return load_config(RECIPE, [*self.scale.settings, *self._settings, *settings])


def measure_step(
    device: Device,
    scale: Scale,
    config: RunConfig,
    n_slices: int,
    *,
    n_channels: int | None = None,
    prepare: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Time steps over one series; with what the recipe's sizes of chunks came to, the memory that they took at most,
    and how much of the matrix units' peak it is. RuntimeError when every step is skipped."""
    gc.collect()
    device.reset_peak()
    free_mib = free_bytes(torch.device(device.kind)) / MIB
    step = SeriesStep(config, n_slices=n_slices, n_channels=n_channels, device=device.kind)
    prepare()
    device.reset_peak()
    began_s = time.perf_counter()
    n_skipped = _settle(step)
    first_s = time.perf_counter() - began_s
    results = []
    timing = time_on_host(lambda _: results.append(step.train()), device, n_runs=scale.n_steps, n_warm_up=1)
    slices_per_s = n_slices / timing.median_ms * 1e3
    tflops, peak = slices_per_s * step.flops_per_slice() / 1e12, peak_of(step.compute)
    return {
        **asdict(timing),
        "slices_per_s": slices_per_s,
        "tflops": tflops,
        "share_of_matrix_peak": None if peak is None else tflops / peak,
        "chunk": step.config.chunk,
        "graph_slices": step.config.graph_slices,
        "peak_mib": device.peak_mib(),
        "free_for_activations_mib": free_mib,
        "device_mib": device.total_mib(),
        "recompute_error": max(result.recompute_error for result in results),
        "loss": results[-1].loss,
        "first_steps_s": first_s,
        "n_skipped": n_skipped + sum(result.is_skipped for result in results),
    }


def _settle(step: SeriesStep) -> int:
    """Take steps until one counts; return how many were skipped."""
    for n_skipped in range(N_SETTLE):
        if not step.train().is_skipped:
            return n_skipped
    raise RuntimeError(f"{N_SETTLE} steps in a row were skipped: the loss or its gradient is not finite")
