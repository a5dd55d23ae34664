"""A part that looks for memory that is used again too early: images that are dropped, buffers that are given back."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest import mock

import torch
from context import Context, MissingError
from devices import Device, device_of
from scales import SCALES, Scale

from rsna_e2e.config import load_config
from rsna_e2e.loader import image_loader
from rsna_e2e.loader.image_loader import ImageLoader
from rsna_e2e.loader.kernels import dali_plugin
from rsna_e2e.loader.read_ahead import BufferPool
from rsna_e2e.store import Store
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.tools.bench.studies import opened_store

POISON = 0x7FFF  # HU that no slice has
EPOCH = 1  # augmented
SETTINGS = ("image.size=256", "loader.slices_per_batch=40")


class PoisonedPool(BufferPool):
    """Spoils a buffer as soon as it may be used again: whoever still reads it meets numbers that no slice has."""

    def take(self, n_values: int) -> torch.Tensor:
        return super().take(n_values).fill_(POISON)


def lifetimes(context: Context) -> None:
    """Images are dropped while the kernels that read them wait in the queue; buffers are poisoned once given back."""
    device, scale = device_of(context.kind), SCALES[context.scale_name]
    if not dali_plugin.is_installed():
        raise MissingError("DALI or the plugin for it is not here: was its other half carried, by the first command?")
    streams: dict[str, Callable[[], Any]] = {"": nullcontext, ", on a stream of its own": device.side_stream}
    with opened_store(None) as store:
        expected = _checksums(store, "torch", device_of("cpu"), scale)
        for backend in ("dali", "torch"):
            for note, stream in streams.items():
                name = f"images dropped while kernels that read them are queued, {backend}{note}"
                context.take(name, lambda b=backend, s=stream: _compare(store, b, device, scale, expected, s))
            with _poisoned():
                name = f"buffers poisoned once given back, {backend}"
                context.take(name, lambda b=backend: _compare(store, b, device, scale, expected, nullcontext))


@contextmanager
def _poisoned() -> Iterator[None]:
    with mock.patch.object(image_loader, "BufferPool", PoisonedPool):
        yield


def _compare(
    store: Store,
    backend: str,
    device: Device,
    scale: Scale,
    expected: list[int],
    stream: Callable[[], Any],
) -> Mapping[str, Any]:
    """Count batches whose bits are not those of the CPU. RuntimeError when there are any."""
    with stream():
        found = _checksums(store, backend, device, scale)
    n_wrong = sum(one != other for one, other in zip(found, expected, strict=True))
    if n_wrong:
        raise RuntimeError(f"{n_wrong} of {len(expected)} batches have other bits than on the CPU")
    return {"n_batches": len(found)}


def _checksums(store: Store, backend: str, device: Device, scale: Scale) -> list[int]:
    """Checksums of all batches, computed in a queue that is held up, while the batches themselves are let go."""
    config = load_config("reference", [*SETTINGS, *scale.settings, f"loader.backend={backend}"])
    loader = ImageLoader(store, config, task=ICH, device=torch.device(device.kind), dtype=torch.float16)
    batches = loader.group(range(len(store.series)), epoch=EPOCH) * scale.passes
    sums = []
    for batch in loader.load(batches, epoch=EPOCH):
        device.hold()
        sums.append(checksum(batch.images[:]))
        del batch
    device.synchronise()
    return torch.stack(sums).tolist()


def checksum(images_NCSS: torch.Tensor) -> torch.Tensor:
    """A sum over the bits of float16 images that no order of adding changes; each place counts differently."""
    bits = images_NCSS.permute(0, 2, 3, 1).contiguous().view(torch.int16).reshape(-1).long()
    return (bits * (torch.arange(len(bits), device=bits.device) % 65521 + 1)).sum()
