"""The loader as it runs for a GPU, on a stand-in: pinned buffers, streams, events, DALI's pipeline, chunk by chunk."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fake_cuda
import pytest
import small
import torch
from fake_cuda import N_GPUS, FakeCuda, Stream

from rsna_e2e.config import save_config
from rsna_e2e.core.device import choose_compute
from rsna_e2e.loader import read_ahead
from rsna_e2e.loader.batch import SeriesBatch
from rsna_e2e.loader.division import WHOLE, Division
from rsna_e2e.loader.image_loader import ImageLoader
from rsna_e2e.loader.kernels import dali_plugin
from rsna_e2e.store import Store
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.tools.bench.loader import bench_loader
from rsna_e2e.tools.bench.peers.registry import PEERS
from rsna_e2e.tools.bench.transform import bench_transform

WAYS = {
    "dali": ("loader.backend=dali",),
    "torch": ("loader.backend=torch",),
    "chunk": ("loader.transform=chunk",),
    "uint8": ("image.values=uint8", "image.crop=slice", "image.square=upper_left"),
    "jpeg": ("image.values=jpeg", "image.crop=slice", "image.square=upper_left"),
}
N_LEVELS = {"jpeg": 2}  # a batch is HU and levels while it goes through JPEG, in two threads
EVERY_WAY = [pytest.param(name, marks=pytest.mark.needs_dali if name == "dali" else ()) for name in WAYS]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Series of different lengths and of images of different sizes."""
    return small.make_store(tmp_path_factory.mktemp("fake_gpu"), sides=(32, 40, 33))


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    """GPUs that finish nothing before they are told to."""
    fake = FakeCuda()
    fake.install(monkeypatch)
    if dali_plugin.is_installed():
        fake_cuda.install_in_dali(fake, dali_plugin.load(), monkeypatch)
    return fake


def load(
    store: Store,
    way: str,
    device: str = "cuda:2",
    *,
    repeats: int = 3,
    loader: ImageLoader | None = None,
    division: Division = WHOLE,
) -> Iterator[SeriesBatch]:
    loader = loader or make_loader(store, way, device, division)
    return loader.load(loader.group(range(len(store.series)), epoch=1) * repeats, epoch=1)


def make_loader(store: Store, way: str, device: str = "cuda:2", division: Division = WHOLE) -> ImageLoader:
    settings = ("loader.slices_per_batch=4", "loader.prefetch_batches=2", *WAYS[way])
    return ImageLoader(store, small.config(*settings), task=ICH, device=torch.device(device), division=division)


def assert_same(batch: SeriesBatch, expected: SeriesBatch) -> None:
    assert torch.equal(batch.images[:], expected.images[:])
    assert torch.equal(batch.labels, expected.labels)
    assert batch.series_keys == expected.series_keys


@pytest.mark.parametrize("device", ["cuda:0", "cuda:2"])
@pytest.mark.parametrize("way", EVERY_WAY)
def test_batches_are_those_of_the_cpu(store: Store, gpu: FakeCuda, way: str, device: str) -> None:
    for batch, expected in zip(load(store, way, device), load(store, way, "cpu"), strict=True):
        assert_same(batch, expected)
    gpu.finish()
    assert gpu.used == {torch.device(device).index}
    assert gpu.n_pageable_copies == 0
    assert gpu.pinned
    assert [pipeline.gpu_number for pipeline in gpu.pipelines if pipeline.gpu_number is not None] == (
        [torch.device(device).index] if way == "dali" else []
    )


@pytest.mark.needs_dali
def test_a_device_without_a_number_is_the_current_one(store: Store, gpu: FakeCuda) -> None:
    torch.cuda.set_device(3)
    assert len(list(load(store, "dali", "cuda"))) > 3
    assert [pipeline.gpu_number for pipeline in gpu.pipelines] == [3]
    assert gpu.default_streams[3].n_given > 0


@pytest.mark.parametrize("way", EVERY_WAY)
def test_a_buffer_that_a_slow_gpu_still_reads_is_not_used_again(store: Store, gpu: FakeCuda, way: str) -> None:
    loader = make_loader(store, way)
    n_batches = len(list(load(store, way, repeats=1, loader=loader)))
    assert 3 < n_batches <= read_ahead._MOST_QUEUED
    assert len(gpu.pinned) >= n_batches
    gpu.finish()
    n_buffers = len(loader._buffers._free)
    assert len(list(load(store, way, repeats=1, loader=loader))) == n_batches
    gpu.finish()
    assert len(loader._buffers._free) <= n_buffers + N_LEVELS.get(way, 0)


@pytest.mark.parametrize("lag", [0, 3, 1000])
@pytest.mark.parametrize("way", EVERY_WAY)
def test_buffers_are_few_however_far_a_gpu_lags_behind(store: Store, gpu: FakeCuda, way: str, lag: int) -> None:
    """lag: so many batches are queued for the GPU while the next one is taken."""
    stream, ends, loader = gpu.default_streams[2], [0], make_loader(store, way)
    for batch in load(store, way, repeats=10, loader=loader):
        assert len(batch.images[:])
        ends.append(stream.n_given)
        stream.finish(ends[max(len(ends) - 1 - lag, 0)])
    gpu.finish()
    n_queued = min(lag, read_ahead._MOST_QUEUED)
    n_read_ahead, n_inside = 2 + 1, 2  # prefetch_batches and one in hand; inside DALI
    assert len(loader._buffers._free) <= n_queued + n_read_ahead + n_inside + N_LEVELS.get(way, 0)


@pytest.mark.parametrize("way", EVERY_WAY)
def test_the_stand_in_notices_a_buffer_that_is_used_too_early(
    store: Store, gpu: FakeCuda, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_ahead, "_is_done", lambda event: True)
    list(load(store, way))
    with pytest.raises(AssertionError, match="written to while a GPU read it"):
        gpu.finish()


@pytest.mark.parametrize("way", EVERY_WAY)
def test_work_goes_to_the_consumers_stream(store: Store, gpu: FakeCuda, way: str) -> None:
    stream = Stream(device="cuda:2")
    with torch.cuda.stream(stream):
        n_batches = sum(1 for _ in load(store, way))
    assert stream.n_given >= 2 * n_batches  # the work, and the event behind it
    assert all(other.n_given == 0 for other in gpu.default_streams)
    stream.finish()


@pytest.mark.parametrize("way", EVERY_WAY)
def test_ranks_with_nothing_in_a_batch(store: Store, gpu: FakeCuda, way: str) -> None:
    n_empty = 0
    for rank in range(N_GPUS):  # some batches hold fewer slices
        division = Division(rank=rank, n_ranks=N_GPUS)
        batches = load(store, way, f"cuda:{rank}", division=division), load(store, way, "cpu", division=division)
        for batch, expected in zip(*batches, strict=True):
            n_empty += batch.images.shape[0] == 0
            assert_same(batch, expected)
    assert n_empty > 0
    gpu.finish()


@pytest.mark.needs_dali
def test_dali_given_its_stream_by_name_is_an_error(store: Store, gpu: FakeCuda) -> None:
    list(load(store, "dali", repeats=1))
    with pytest.raises(RuntimeError, match="pipeline_inputs named arguments"):
        gpu.pipelines[0].run(cuda_stream=gpu.default_streams[2])


def test_a_compute_on_a_gpu(gpu: FakeCuda) -> None:
    compute = choose_compute("auto", local_rank=1)
    assert str(compute) == "GPU 1 that is none, bf16"
    model = compute.place(torch.nn.Conv2d(3, 2, 1))
    assert gpu.used == {1}
    assert model.weight.is_contiguous(memory_format=torch.channels_last)
    with compute.autocast():
        assert torch.is_autocast_enabled("cuda")
        assert torch.get_autocast_dtype("cuda") == torch.bfloat16


def test_the_benchmarks_run_their_rows_for_a_gpu(store: Store, gpu: FakeCuda, tmp_path: Path) -> None:
    gpu.is_prompt = True
    quick: dict[str, Any] = {"rounds": 1, "device": "cuda"}
    same_size = small.make_store(tmp_path)
    peers = [peer for peer in PEERS if peer.is_for_gpu]
    result = bench_transform(same_size.path, n_slices=2, size=24, min_turn_s=0.0, peers=peers, **quick)
    assert {"ours, GPU, float32", "ours, GPU, float16", "eager torch, GPU"} <= {row.name for row in result.rows}
    save_config(small.config("precision=fp32"), path=tmp_path / "config.yaml")
    rates = bench_loader(store.path, recipe=tmp_path / "config.yaml", n_slices=20, batch_sizes=(2,), **quick)
    assert rates.compute == "GPU 0 that is none, fp32"
    assert len(rates.rows) == (3 if dali_plugin.is_installed() else 2)
