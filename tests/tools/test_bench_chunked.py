"""What `bench chunked` counts and says, and what chunks cost on this machine."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import small
import torch
from torch import nn

from rsna_e2e.cli import main
from rsna_e2e.config import RunConfig
from rsna_e2e.loader.batch import SeriesBatch
from rsna_e2e.tools.bench.chunked import bench_chunked, flatness
from rsna_e2e.tools.bench.peak import matrix_peak_tflops
from rsna_e2e.training.chunk_size import LARGEST_CHUNK
from rsna_e2e.training.series_step import LEARNING_RATE_FACTOR, SeriesStep
from rsna_e2e.training.step import Stepper, StepResult

FLAT = 0.05  # of the mean, over lengths of a series
OVERHEAD = 1.4  # times the one graph's time


def test_flatness_by_hand() -> None:
    assert flatness([9.0, 10.0, 11.0, 10.0]) == pytest.approx(0.1)
    assert flatness([7.0]) == 0.0


@pytest.mark.parametrize(
    ("gpu", "precision", "tflops"),
    [
        ("NVIDIA H200", "bf16", 989.0),
        ("NVIDIA H200 NVL", "bf16", None),
        ("NVIDIA H100 80GB HBM3", "fp16", 989.0),
        ("NVIDIA H100 PCIe", "bf16", None),
        ("NVIDIA A100-SXM4-80GB", "bf16", 312.0),
        ("NVIDIA A100 80GB PCIe", "bf16", 312.0),
        ("Tesla V100-SXM2-16GB", "fp16", 125.0),
        ("Tesla V100-SXM2-16GB", "bf16", None),
        ("NVIDIA H200", "fp32", None),
        ("cpu", "bf16", None),
    ],
)
def test_the_peak_of_matrix_units_is_known_or_not(gpu: str, precision: str, tflops: float | None) -> None:
    assert matrix_peak_tflops(gpu, precision) == tflops


@pytest.mark.parametrize("groups", [1, 3])
def test_operations_of_both_passes_by_hand(groups: int) -> None:
    """One convolution, 3 to 9 channels, 3 x 3, on 32 px: three times 2 * 3 * 9 * 9 * 32 * 32, or a third in groups."""
    step = SeriesStep(small.config(), n_slices=3, device="cpu")
    step._model.backbone = nn.Sequential(nn.Conv2d(3, 9, 3, padding=1, groups=groups, bias=False), nn.Flatten())
    assert step.flops_per_slice() == 3 * 2 * 3 * 9 * 9 * 32 * 32 / groups


def test_the_step_is_the_trainers_with_the_settings_of_the_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `Stepper` is given: measured chunks, frozen norms, the recipe's precision with its scaler, and its batch."""
    seen: list[dict[str, Any]] = []

    class Watched(Stepper):
        def __call__(self, step: int, batches: Sequence[SeriesBatch], **how: Any) -> StepResult:
            seen.append({"step": step, "lengths": [batch.series_lengths.tolist() for batch in batches]})
            return super().__call__(step, batches, **how)

    monkeypatch.setattr("rsna_e2e.training.series_step.Stepper", Watched)
    config = small.config("precision=fp16", "graph_slices=4", "chunk=auto")
    step = SeriesStep(config, n_slices=9, device="cpu")
    assert step.config == config.model_copy(update={"chunk": LARGEST_CHUNK})
    norms = [module for module in step._model.modules() if isinstance(module, nn.BatchNorm2d)]
    before = [norm.running_mean.clone() for norm in norms if norm.running_mean is not None]
    results = [step.train() for _ in range(2)]
    assert seen == [{"step": 0, "lengths": [[9]]}, {"step": 1, "lengths": [[9]]}]
    assert step._stepper.scaler.is_enabled()
    assert all(torch.equal(norm.running_mean, kept) for norm, kept in zip(norms, before, strict=True))
    assert all(math.isfinite(result.loss) for result in results)


def test_a_classifier_of_single_slices_is_measured_in_its_own_phase() -> None:
    step = SeriesStep(small.image_config("chunk=4", "graph_slices=4"), n_slices=6, device="cpu")
    assert math.isfinite(step.train().loss)
    rates = {group["lr"] for group in step._stepper.optimizer.param_groups}
    assert rates == {0.01 * LEARNING_RATE_FACTOR}  # 0.01 is of its slice phase


def test_activations_and_gradients_are_those_of_a_trained_model() -> None:
    """From nothing, the last gain of every block is 0, and so are the gradients within it."""
    step = SeriesStep(small.config("chunk=4", "graph_slices=4", "model.backbone=resnet10t"), n_slices=4, device="cpu")
    step.train()
    zeros = {name for name, p in step._model.backbone.named_parameters() if p.grad is None or not p.grad.any()}
    assert zeros == set()
    assert 0.1 < step._embed(step._images).std() < 10


def test_beside_the_chunks_all_that_a_step_holds_is_held() -> None:
    step = SeriesStep(small.config("chunk=4"), n_slices=9, device="cpu")
    assert math.isfinite(float(step.head_alone()))
    parameters = list(step._model.parameters())
    assert all(parameter.grad is not None for parameter in parameters)
    assert step._stepper.optimizer.state.keys() == set(parameters)
    heads = [p for name, p in step._model.named_parameters() if name.startswith(("head.", "projection."))]
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in heads)


def test_figures_are_shown_and_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def peak(call: object, config: RunConfig, device: str, n_slices: int, *, is_whole: bool) -> float:
        return 50.0 + n_slices + (100.0 if is_whole else 0.0) + (10.0 if is_whole and n_slices == 7 else 0.0)

    monkeypatch.setattr("rsna_e2e.tools.bench.chunked.in_fresh_process", peak)
    out = tmp_path / "figures.json"
    settings = [f"--set={override}" for override in SMALL]
    lengths = ["--slices", "5", "7", "--timed-slices", "5", "--rounds", "1", "--device", "cpu"]
    assert main(["bench", "chunked", *settings, *lengths, "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "chunks of 2 slices, graphs of 4 kept" in shown
    assert "a step in chunks takes" in shown
    assert ["7", "167", "57", "110"] in [line.split() for line in shown.splitlines()]
    assert f"flat within {100 * 5 / 105:.1f} %" in shown
    written = json.loads(out.read_text())
    assert written["memory"] == [
        {"n_slices": 5, "whole_mib": 155.0, "heads_mib": 55.0, "chunks_mib": 100.0},
        {"n_slices": 7, "whole_mib": 167.0, "heads_mib": 57.0, "chunks_mib": 110.0},
    ]
    assert written["speed"]["step"]["peak_share"] is None
    assert list(written["speed"]) == list(written["samples"]) == ["step in one graph", "step"]
    rates = written["samples"]
    assert written["overhead"]["median"] == pytest.approx(rates["step in one graph"][0] / rates["step"][0])


SMALL = (
    "model.backbone=test_resnet",
    "model.backbone_arguments={}",
    "image.size=64",
    "chunk=2",
    "graph_slices=4",
    "precision=fp32",
)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_series_and_time_is_little_more_than_in_one_graph() -> None:
    """256 px: what chunks need must stand out from what a process of Python and torch holds."""
    found = bench_chunked(
        overrides=["image.size=256", "chunk=10", "graph_slices=10", "precision=fp32"],
        slices=(30, 400),
        rounds=5,
        device="cpu",
    )
    assert found.flatness <= FLAT, found.memory
    assert found.overhead.median <= OVERHEAD, found.samples
