"""What a plan needs of a machine, disk, memory and memory of the GPU, and whether it is there."""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from rsna_e2e.config import RunConfig, resolve_task
from rsna_e2e.core.device import choose_device_type
from rsna_e2e.core.errors import DiskFullError, OutOfResourcesError
from rsna_e2e.core.files import real_path
from rsna_e2e.core.process import available_cores
from rsna_e2e.training.chunk_size import (
    CPU_SHARE,
    FEWEST,
    GPU_SHARE,
    LARGEST_CHUNK,
    free_memory_bytes,
    n_moments,
    reserved_bytes,
)
from rsna_e2e.training.distributed import ALONE
from rsna_e2e.training.pipeline.devices import DEVICES, GB
from rsna_e2e.training.pipeline.forecast import Forecast, Line, peak_bytes
from rsna_e2e.training.pipeline.model_sizes import WEIGHT_BYTES, ModelSizes
from rsna_e2e.training.pipeline.planned_step import Folders, PlannedStep

# Of a process that has loaded torch and timm, resident: 0.98 GB measured on a CPU
_PROCESS_BYTES = GB
# Of prepare: 172 MiB with three processes and 1,000 slices (docs/benchmarks.md). More slices: the process that plans,
# where a label names no image; 193 MiB with 27,500 slices, 531 MiB with 220,000
_PREPARE_PROCESS_BYTES, _PREPARE_SLICE_BYTES = 60 * 2**20, 1850


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """Bytes needed of something, at `where`, and what is free of it; None: another machine's, which is not known.

    note: which step needs the most, and what follows.
    """

    what: str
    where: str
    needed_bytes: int
    free_bytes: int | None
    note: str = ""

    @property
    def is_met(self) -> bool:
        """Whether it suffices."""
        return self.free_bytes is None or self.needed_bytes <= self.free_bytes

    def __str__(self) -> str:
        words = f"{self.what}: {_gb(self.needed_bytes)} needed"
        if self.free_bytes is not None:
            words += f" of {_gb(self.free_bytes)} {self.where}: {'enough' if self.is_met else 'NOT ENOUGH'}"
        return words + self.note


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A machine to compute on: this one, or one with GPUs of `DEVICES`. memory_bytes: free, of each kind; None where
    there is no such memory, or it is not known."""

    is_here: bool
    device: str
    n_gpus: int
    memory_bytes: int | None
    gpu_bytes: int | None

    @classmethod
    def named(cls, device: str, n_gpus: int) -> "Machine":
        """A machine with so many GPUs of a kind."""
        chosen = DEVICES[device]
        gpu_bytes = chosen.memory_bytes
        return cls(is_here=False, device=chosen.title, n_gpus=n_gpus, memory_bytes=None, gpu_bytes=gpu_bytes)

    @classmethod
    def here(cls, device: str) -> "Machine":
        """This one, as `device` auto, cpu or cuda chooses."""
        free = free_memory_bytes()
        if choose_device_type(device) == "cpu":
            return cls(is_here=True, device="the CPU", n_gpus=0, memory_bytes=free, gpu_bytes=None)
        return cls(
            is_here=True,
            device=torch.cuda.get_device_name(0),
            n_gpus=torch.cuda.device_count(),
            memory_bytes=free,
            gpu_bytes=torch.cuda.mem_get_info(0)[0],
        )


def needs_of(forecast: Forecast, folders: Folders, machine: Machine) -> list[Need]:
    """Return what the steps to be run need, and whether `machine` has it."""
    needs = list(disk_needs(forecast, folders)) if machine.is_here else [_disk_elsewhere(forecast)]
    if not forecast.to_run:
        return needs
    memory = [(_memory(line, forecast.sizes, machine), line.standing.step.name) for line in forecast.to_run]
    most, step = max(memory)
    needs.append(
        Need(what="memory", where="free", needed_bytes=most, free_bytes=machine.memory_bytes, note=f" ({step})")
    )
    trained = [line.standing.step for line in forecast.to_run if line.standing.step.verb == "train"]
    if machine.gpu_bytes is not None and trained:
        needs.append(_gpu_need(trained, forecast.sizes, machine))
    return needs


def disk_needs(forecast: Forecast, folders: Folders) -> Iterator[Need]:
    """Yield the disk space that the steps to be run need beside what they have written, of each disk.

    The store may lie on another disk than the rest.
    """
    by_disk: dict[int, list[Line]] = {}
    places: dict[int, Path] = {}
    for line in forecast.to_run:
        folder = folders.store if line.standing.step.verb == "prepare" else folders.out
        existing = next(path for path in (folder, *real_path(folder).parents) if path.exists())
        disk = existing.stat().st_dev
        by_disk.setdefault(disk, []).append(line)
        places.setdefault(disk, existing)
    for disk, lines in by_disk.items():
        present = sum(_present_bytes(line.standing.step) for line in lines if line.standing.state == "begun")
        peak = peak_bytes(lines)
        stays = sum(line.n_bytes for line in lines)
        note = f"; {_gb(stays)} stay in the end" if stays < peak else ""
        free = shutil.disk_usage(places[disk]).free
        yield Need(
            what="disk",
            where=f"free at {places[disk]}",
            needed_bytes=max(peak - present, 0),
            free_bytes=free,
            note=note,
        )


def check_needs(needs: Sequence[Need]) -> None:
    """Raise OutOfResourcesError, or DiskFullError where it is the disk alone, when something does not suffice."""
    lacking = [need for need in needs if not need.is_met]
    if not lacking:
        return
    advice = {
        "disk": "Give --out on a larger disk, or plan fewer folds, crops or epochs",
        "memory": "Free some memory, or choose a smaller model, smaller images or smaller batches",
        "GPU memory": "Choose a smaller model or smaller images, or another --device",
    }
    kind = DiskFullError if all(need.what == "disk" for need in lacking) else OutOfResourcesError
    ways = dict.fromkeys(advice[need.what] for need in lacking)
    raise kind(f"this plan does not fit. {'; '.join(map(str, lacking))}. {'. '.join(ways)}")


def _disk_elsewhere(forecast: Forecast) -> Need:
    note = f"; {_gb(forecast.n_bytes)} stay in the end"
    return Need(what="disk", where="", needed_bytes=peak_bytes(forecast.to_run), free_bytes=None, note=note)


def _memory(line: Line, sizes: ModelSizes, machine: Machine) -> int:
    """Main memory of a step. A checkpoint is written file by file, each from a copy in memory."""
    step = line.standing.step
    if step.verb == "prepare":
        return (available_cores() + 1) * _PREPARE_PROCESS_BYTES + line.n_slices * _PREPARE_SLICE_BYTES
    settings = sizes.settings_of(step)
    if settings is None:
        return _PROCESS_BYTES
    weights = sizes.n_weights(settings) * WEIGHT_BYTES
    largest_file = (n_moments(settings) if step.verb == "train" else 1) * weights
    if machine.n_gpus == 0:
        return _PROCESS_BYTES + max(_computing_bytes(step, settings, sizes, machine), 2 * weights + largest_file)
    n_processes = machine.n_gpus if step.verb == "train" and settings.model.backbone != "none" else 1
    return n_processes * (_PROCESS_BYTES + weights) + 2 * largest_file


def _gpu_need(trained: Sequence[PlannedStep], sizes: ModelSizes, machine: Machine) -> Need:
    most, step = max(
        ((_computing_bytes(step, settings, sizes, machine), step) for step in trained if (settings := step.settings)),
        key=lambda found: found[0],
    )
    chunks = ((chunk_of(step.settings, sizes, machine), step.name) for step in trained if step.settings)
    note = next((f"; chunk=auto takes {n_fit} slices ({name})" for n_fit, name in chunks if n_fit), "")
    where = f"on {'each ' if machine.n_gpus > 1 else ''}{machine.device}"
    return Need(
        what="GPU memory", where=where, needed_bytes=most, free_bytes=machine.gpu_bytes, note=f" ({step.name}){note}"
    )


def chunk_of(settings: RunConfig, sizes: ModelSizes, machine: Machine) -> int:
    """Return the chunk that `chunk=auto` comes to on a GPU, by the sizes of tensors alone; 0 without a backbone."""
    backbone = sizes.backbone(settings)
    if backbone is None or machine.gpu_bytes is None:
        return 0
    weights = sizes.n_weights(settings) * WEIGHT_BYTES
    room = GPU_SHARE * (machine.gpu_bytes - weights) - _reserved_bytes(settings, sizes, machine)
    return max(min(LARGEST_CHUNK, int(room / _slice_bytes(settings, sizes, machine))), 0)


def _computing_bytes(step: PlannedStep, settings: RunConfig, sizes: ModelSizes, machine: Machine) -> int:
    """Memory where a step computes: weights, and in training what the choice of a chunk requires, see chunk_size.py."""
    weights = sizes.n_weights(settings) * WEIGHT_BYTES
    if step.verb != "train":
        return weights
    reserved = _reserved_bytes(settings, sizes, machine)
    if settings.model.backbone == "none":
        return weights + reserved
    share = CPU_SHARE if machine.n_gpus == 0 else GPU_SHARE
    return weights + round((reserved + FEWEST * _slice_bytes(settings, sizes, machine)) / share)


def _reserved_bytes(settings: RunConfig, sizes: ModelSizes, machine: Machine) -> int:
    n_windows = len(resolve_task(settings).inputs.windows_hu)
    image_bytes = settings.image.size**2 * n_windows * _item_bytes(settings, machine)
    return reserved_bytes(sizes.stand_in(settings), settings, ranks=ALONE, image_bytes=image_bytes)


def _slice_bytes(settings: RunConfig, sizes: ModelSizes, machine: Machine) -> int:
    """Activations of a slice; on a CPU as much again for what flows back, which chunk_size.py counts there."""
    backbone = sizes.backbone(settings)
    assert backbone is not None
    return backbone.half_bytes * _item_bytes(settings, machine) // 2 * (2 if machine.n_gpus == 0 else 1)


def _item_bytes(settings: RunConfig, machine: Machine) -> int:
    """Of a number of an image: auto is half precision on a GPU, and taken to be fp32 on a CPU."""
    is_full = settings.precision == "fp32" or (settings.precision == "auto" and machine.n_gpus == 0)
    return 4 if is_full else 2


def _present_bytes(step: PlannedStep) -> int:
    """Bytes that a step that was begun has written."""
    output = step.output.parent if step.verb == "train" else step.output
    places = [output, output.with_name(f"{output.name}.partial")]
    n_bytes = 0
    for path in (Path(folder) / name for place in places for folder, _, names in os.walk(place) for name in names):
        with suppress(FileNotFoundError):  # the step may be at work now
            n_bytes += path.stat().st_size
    return n_bytes


def _gb(n_bytes: int) -> str:
    return f"{n_bytes / GB:,.1f} GB"
