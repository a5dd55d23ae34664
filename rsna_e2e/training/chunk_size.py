"""Measures how many slices fit the memory, for `chunk` and `graph_slices` set to auto, before a run begins."""

# n slices, C windows, S image side

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from rsna_e2e.config import RunConfig
from rsna_e2e.core.device import Compute
from rsna_e2e.core.errors import OutOfResourcesError, is_out_of_memory
from rsna_e2e.model.box_model import BoxModel
from rsna_e2e.model.make import Network
from rsna_e2e.model.norms import buffers_kept, freeze_norms
from rsna_e2e.tasks.task import Task
from rsna_e2e.training.buckets import IN_FLIGHT
from rsna_e2e.training.distributed import ALONE, Ranks

ALL_EMBEDDINGS = 4096  # slices of embeddings, on which nothing is computed: a batch as it is
LARGEST_CHUNK = 64  # a larger chunk is no faster on any device
_BATCHES_HELD = 3  # of images: one that is computed, two inside DALI's pipeline
_STORED_BYTES = 2 * 512 * 512  # of a slice as it is stored: int16, in the matrix that nearly all CT has
FEWEST, _MORE = 2, 4  # slices of the two measurements; train-mode BatchNorm needs two
GPU_SHARE, CPU_SHARE = 0.8, 0.5  # of free memory; fragments and, on a CPU, everything else take the rest
_MOMENTS = {"sgd": 1}  # what an optimiser keeps for each parameter, as often as a parameter is large
_ADAMS_MOMENTS = 2  # and LAMB's

_MEMINFO = Path("/proc/meminfo")
_CGROUP_LIMIT, _CGROUP_USE = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")


def resolve_chunks(
    model: Network, config: RunConfig, task: Task, compute: Compute, *, ranks: Ranks = ALONE
) -> RunConfig:
    """Return the configuration with numbers for `chunk` and `graph_slices`; the same on all ranks.

    Raises OutOfResourcesError when not even the smallest chunk fits.
    """
    if config.chunk != "auto" and config.graph_slices != "auto":
        return config
    if isinstance(model, BoxModel):  # its losses are of all images of a batch together
        assert config.slice_phase is not None
        n_images = config.slice_phase.slices_per_batch
        return _settle(config, chunk=n_images, graph_slices=n_images)
    if config.model.backbone == "none":
        return _settle(config, chunk=ALL_EMBEDDINGS, graph_slices=ALL_EMBEDDINGS)
    size = max(config.image.size, *config.image.size_from_epoch.values(), 1)
    embed_images = torch.compile(model.embed) if config.compile else model.embed

    def embed(n: int) -> torch.Tensor:
        images = torch.zeros(
            n, len(task.inputs.windows_hu), size, size, dtype=compute.image_dtype, device=compute.device
        )
        if config.compile:  # as a step does
            torch._dynamo.maybe_mark_dynamic(images, 0)
        with compute.autocast():
            return embed_images(images.to(memory_format=torch.channels_last))

    is_frozen = config.model.batchnorm == "frozen" and config.slice_phase is None
    image_bytes = size**2 * len(task.inputs.windows_hu) * compute.image_dtype.itemsize
    reserved = reserved_bytes(model, config, ranks=ranks, image_bytes=image_bytes)
    n_fit = count_fitting(model, embed, compute.device, has_frozen_norms=is_frozen, reserved=reserved)
    n_fit = int(ranks.min_(torch.tensor(n_fit)).item())
    if n_fit < FEWEST:
        raise OutOfResourcesError(
            f"{config.model.backbone} at {size} px: not even {FEWEST} slices fit the memory of {compute}. Lower "
            "image.size, choose a smaller model.backbone, or free some memory"
        )
    chunk = min(LARGEST_CHUNK, n_fit)
    return _settle(config, chunk=chunk, graph_slices=max(chunk if config.chunk == "auto" else config.chunk, n_fit))


def _settle(config: RunConfig, **measured: int) -> RunConfig:
    """Return the configuration with the measured values in the place of auto."""
    return config.model_copy(update={name: n for name, n in measured.items() if getattr(config, name) == "auto"})


def n_moments(config: RunConfig) -> int:
    """Return how many numbers the optimisers of a run keep for each weight, at most."""
    optimizers = [config.optimizer, *([config.slice_phase.optimizer] if config.slice_phase else [])]
    return max(_MOMENTS.get(optimizer.name, _ADAMS_MOMENTS) for optimizer in optimizers)


def reserved_bytes(model: nn.Module, config: RunConfig, *, ranks: Ranks, image_bytes: int) -> int:
    """Return the bytes that training holds besides the model and its activations: gradients, the optimiser's moments,
    averaged weights, gradients in transit between ranks, and batches of a rank's slices and images.

    image_bytes: of one image. A batch is taken to be as large as configured; one that is a longer series, or counted in
    series, is what the share of free memory that stays free is for.
    """
    sizes = [parameter.nbytes for parameter in model.parameters()]
    copies = 1 + n_moments(config) + (config.ema_decay is not None)
    travelling = IN_FLIGHT * max(config.distributed.bucket_mib * 2**20, *sizes) if ranks.n_ranks > 1 else 0
    n_slices = max(config.loader.slices_per_batch, config.slice_phase.slices_per_batch if config.slice_phase else 0)
    slice_bytes = _STORED_BYTES + (0 if config.loader.transform == "chunk" else image_bytes)
    return copies * sum(sizes) + travelling + _BATCHES_HELD * -(-n_slices // ranks.n_ranks) * slice_bytes


def count_fitting(
    model: nn.Module,
    embed: Callable[[int], torch.Tensor],
    device: torch.device,
    *,
    has_frozen_norms: bool = False,
    reserved: int = 0,
) -> int:
    """Return the number of slices whose activations fit in memory besides the model and `reserved` bytes.

    embed: embeds n images of zeros. Memory is measured for two numbers of slices and extrapolated linearly. The model
    is left as it was.
    """
    measure = _peak_of_gpu if device.type == "cuda" else _bytes_kept
    was_training = model.training
    model.train()
    if has_frozen_norms:
        freeze_norms(model)
    try:
        with buffers_kept(model):
            measure(embed, FEWEST, device)  # leaves gradients and libraries' workspaces, which later passes find there
            few, more = measure(embed, FEWEST, device), measure(embed, _MORE, device)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return 0
    finally:
        model.train(was_training)
        model.zero_grad(set_to_none=True)
    return extrapolate(few, more, free=free_bytes(device) - reserved)


def extrapolate(few: int, more: int, *, free: int) -> int:
    """How many slices fit `free` bytes when 2 need `few` bytes and 4 need `more`."""
    per_slice = max((more - few) / (_MORE - FEWEST), 1.0)
    fixed = max(few - FEWEST * per_slice, 0.0)
    return max(int((free - fixed) / per_slice), 0)


def free_bytes(device: torch.device) -> int:
    """The part of free memory that activations may take."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(GPU_SHARE * (free + cached))
    return int(CPU_SHARE * free_memory_bytes())


def free_memory_bytes() -> int:
    """Memory that processes of this machine, or of this container, can still take."""
    lines = dict(line.split(":", 1) for line in _MEMINFO.read_text().splitlines())
    free = int(lines["MemAvailable"].split()[0]) * 1024
    if _CGROUP_LIMIT.is_file() and (limit := _CGROUP_LIMIT.read_text().strip()).isdecimal():
        free = min(free, int(limit) - int(_CGROUP_USE.read_text()))
    return free


def _peak_of_gpu(embed: Callable[[int], torch.Tensor], n: int, device: torch.device) -> int:
    """Most memory that a forward and backward pass of n slices adds."""
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    embed(n).sum().backward()  # type: ignore[no-untyped-call]
    return torch.cuda.max_memory_allocated(device) - before


def _bytes_kept(embed: Callable[[int], torch.Tensor], n: int, device: torch.device) -> int:
    """Twice what n slices keep for their backward pass: as much again for what flows back through them."""
    storages: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        kept = embed(n)  # held, so that no address is used twice
    del kept
    return 2 * sum(storages.values())
