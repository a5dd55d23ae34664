"""A training as it runs for a GPU, on a stand-in: its arithmetic is the CPU's, so must its losses be."""

from collections.abc import Callable
from pathlib import Path

import fake_cuda
import pytest
import rectangles
import small
from fake_cuda import FakeCuda

from rsna_e2e.config import RunConfig
from rsna_e2e.inference.predict import predict
from rsna_e2e.loader.kernels import dali_plugin
from rsna_e2e.training.train import train

LOSS_ATOL = 1e-5  # chunks are of other sizes, so sums are rounded otherwise

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("backend", [pytest.param("dali", marks=pytest.mark.needs_dali), "torch"])
def test_a_run_on_a_gpu_is_that_on_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    store = small.make_store(tmp_path)
    config = small.config(f"loader.backend={backend}")
    on_cpu = train(store, tmp_path / "cpu", config, device="cpu")
    gpu = FakeCuda()
    gpu.is_prompt = True
    gpu.install(monkeypatch)
    if backend == "dali":
        fake_cuda.install_in_dali(gpu, dali_plugin.load(), monkeypatch)
    on_gpu = train(store, tmp_path / "gpu", config, device="cuda")
    assert str(on_gpu.compute) == "GPU 0 that is none, fp32"
    assert on_gpu.steps == on_cpu.steps > 0
    assert on_gpu.best.weighted_log_loss == pytest.approx(on_cpu.best.weighted_log_loss, abs=LOSS_ATOL)
    assert gpu.used == {0}
    assert gpu.n_pageable_copies == 0
    assert gpu.default_streams[0].n_given > 0
    assert [pipeline.gpu_number for pipeline in gpu.pipelines] == [0] * len(gpu.pipelines)
    assert bool(gpu.pipelines) == (backend == "dali")


@pytest.mark.parametrize("network", [rectangles.config, rectangles.segmenter_config], ids=["detector", "segmenter"])
def test_boxes_are_found_on_a_gpu_as_on_a_cpu(
    network: Callable[..., RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, config = rectangles.make_store(tmp_path, 12), network("loader.backend=torch", "slice_phase.epochs=2")
    on_cpu = train(store, tmp_path / "cpu", config, device="cpu")
    gpu = FakeCuda()
    gpu.is_prompt = True
    gpu.install(monkeypatch)
    on_gpu = train(store, tmp_path / "gpu", config, device="cuda")
    assert on_gpu.steps == on_cpu.steps > 0
    assert on_gpu.best.plain() == pytest.approx(on_cpu.best.plain(), abs=LOSS_ATOL, nan_ok=True)
    predict(tmp_path / "gpu", store, split="validation", out=tmp_path / "found.csv", device="cuda")
    assert gpu.used == {0}
    assert gpu.n_pageable_copies == 0
