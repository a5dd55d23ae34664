"""The loader on a GPU: int16 goes there, the batches are those of the CPU, and a model trains on them."""

from pathlib import Path

import pytest
import small
import torch

from rsna_e2e.loader.batch import SeriesBatch
from rsna_e2e.loader.image_loader import ImageLoader
from rsna_e2e.store import Store
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.training.train import train

pytestmark = pytest.mark.needs_cuda

ONE_ROUNDING = {"rtol": 1e-6, "atol": 1e-6}  # the same levels; normalised by torch, which divides as it likes on a GPU
BACKENDS = (pytest.param("dali", marks=pytest.mark.needs_dali), "torch")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return small.make_store(tmp_path_factory.mktemp("gpu"), sides=(32, 40, 33))


def load(store: Store, device: str, dtype: torch.dtype, *overrides: str) -> list[SeriesBatch]:
    config = small.config("loader.slices_per_batch=4", *overrides)
    loader = ImageLoader(store, config, task=ICH, device=torch.device(device), dtype=dtype)
    return list(loader.load(loader.group(range(len(store.series)), epoch=1) * 4, epoch=1))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_batches_on_the_gpu_are_those_of_the_cpu(store: Store, backend: str, dtype: torch.dtype) -> None:
    """All batches are held to the end: none may be written to again."""
    on_gpu = load(store, "cuda", dtype, f"loader.backend={backend}")
    on_cpu = load(store, "cpu", dtype, "loader.backend=torch")
    for batch, expected in zip(on_gpu, on_cpu, strict=True):
        assert batch.images.is_cuda
        assert batch.images.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(batch.images.cpu(), expected.images)


@pytest.mark.parametrize("crop", ["none", "slice"])
@pytest.mark.parametrize("values", ["uint8", "jpeg"])
def test_8_bit_images_on_the_gpu_are_those_of_the_cpu(store: Store, values: str, crop: str) -> None:
    settings = (f"image.values={values}", f"image.crop={crop}", "image.square=upper_left")
    on_gpu, on_cpu = (load(store, device, torch.float32, *settings) for device in ("cuda", "cpu"))
    for batch, expected in zip(on_gpu, on_cpu, strict=True):
        assert batch.images.is_cuda
        torch.testing.assert_close(batch.images.cpu(), expected.images, **ONE_ROUNDING)
        assert torch.equal(batch.labels.cpu(), expected.labels)


@pytest.mark.parametrize("backend", BACKENDS)
def test_batches_follow_a_stream_of_their_consumer(store: Store, backend: str) -> None:
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        sums = [
            batch.images.double().sum() for batch in load(store, "cuda", torch.float32, f"loader.backend={backend}")
        ]
    stream.synchronize()
    expected = [batch.images.double().sum() for batch in load(store, "cpu", torch.float32)]
    torch.testing.assert_close(torch.stack(sums).cpu(), torch.stack(expected))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_tiny_model_trains_on_the_gpu(store: Store, tmp_path: Path, backend: str) -> None:
    config = small.config(f"loader.backend={backend}", "precision=auto")
    summary = train(store, tmp_path / "run", config, device="cuda")
    assert summary.steps > 0
    assert summary.compute.device.type == "cuda"
