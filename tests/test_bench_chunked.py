"""What `bench chunked` counts and says, and what chunks cost on this machine."""

import json
from pathlib import Path

import pytest
import small
from torch import nn

from rsna_e2e.bench.chunked import bench_chunked, flatness
from rsna_e2e.bench.peak import matrix_peak_tflops
from rsna_e2e.bench.series_step import SeriesStep
from rsna_e2e.cli import main
from rsna_e2e.config import RunConfig

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
    step._backbone = nn.Sequential(nn.Conv2d(3, 9, 3, padding=1, groups=groups, bias=False), nn.Flatten())
    assert step.flops_per_slice() == 3 * 2 * 3 * 9 * 9 * 32 * 32 / groups


def test_both_ways_and_the_heads_alone_give_every_parameter_its_gradient() -> None:
    step = SeriesStep(small.config("chunk=4"), n_slices=9, device="cpu")
    heads = {id(p) for name, p in step._model.named_parameters() if name.startswith(("head.", "projection."))}
    for run, with_backbone in ((step.in_chunks, True), (step.in_one_graph, True), (step.head_alone, False)):
        step._model.zero_grad(set_to_none=True)
        run()
        for name, parameter in step._model.named_parameters():
            is_trained = id(parameter) in heads or (with_backbone and name.startswith("backbone."))
            assert (parameter.grad is not None) == is_trained, name


def test_figures_are_shown_and_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def peak(call: object, config: RunConfig, device: str, n_slices: int, *, is_whole: bool) -> float:
        return 50.0 + n_slices + (100.0 if is_whole else 0.0) + (10.0 if is_whole and n_slices == 7 else 0.0)

    monkeypatch.setattr("rsna_e2e.bench.chunked.in_fresh_process", peak)
    out = tmp_path / "figures.json"
    settings = [f"--set={override}" for override in SMALL]
    lengths = ["--slices", "5", "7", "--timed-slices", "5", "--rounds", "1", "--device", "cpu"]
    assert main(["bench", "chunked", *settings, *lengths, "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "chunks of 2 slices, graphs of 2 kept" in shown
    assert ["7", "167", "57", "110"] in [line.split() for line in shown.splitlines()]
    assert f"flat within {100 * 5 / 105:.1f} %" in shown
    written = json.loads(out.read_text())
    assert written["memory"] == [
        {"n_slices": 5, "whole_mib": 155.0, "heads_mib": 55.0, "chunks_mib": 100.0},
        {"n_slices": 7, "whole_mib": 167.0, "heads_mib": 57.0, "chunks_mib": 110.0},
    ]
    assert written["speed"]["step"]["peak_share"] is None


SMALL = ("model.backbone=test_resnet", "model.backbone_arguments={}", "image.size=64", "chunk=2", "precision=fp32")


@pytest.mark.slow
def test_memory_does_not_grow_with_the_series_and_time_is_little_more_than_in_one_graph() -> None:
    """256 px: what chunks need must stand out from what a process of Python and torch holds."""
    found = bench_chunked(
        overrides=["image.size=256", "chunk=10", "precision=fp32"], slices=(30, 400), rounds=5, device="cpu"
    )
    assert found.flatness <= FLAT, found.memory
    assert found.overhead.median <= OVERHEAD, found.samples
