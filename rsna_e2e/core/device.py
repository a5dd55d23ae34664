"""Chooses the device and precision that a run computes with, and checks that they work."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, TypeVar

import torch
from torch import nn

from rsna_e2e.core.errors import MissingCapabilityError
from rsna_e2e.core.machine import cudnn_version
from rsna_e2e.core.process import Memory

M = TypeVar("M", bound=nn.Module)

_AUTOCAST_DTYPES: dict[str, torch.dtype | None] = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
_FIRST_WITH_COMPILER = (7, 5)  # compute capability of Turing: the oldest that Triton makes code for
_FIRST_WITH_BF16 = 8  # compute capability of Ampere, NVIDIA's first with bf16 arithmetic

# The best instruction set that oneDNN takes, which it reads at its first primitive; its name for the best below AMX,
# and names with AMX (https://oneapi-src.github.io/oneDNN/dev_guide_cpu_dispatcher_control.html)
_LIMIT, _ISA_WITHOUT_AMX = "ONEDNN_MAX_CPU_ISA", "AVX512_CORE_FP16"
_MAY_BE_AMX = re.compile("ALL|DEFAULT|AMX|AVX10_2", re.IGNORECASE)
_BF16_PRODUCT = "import torch; a = torch.ones(64, 64, dtype=torch.bfloat16); assert (a @ a).sum() == 64**3"


@dataclass(frozen=True, slots=True)
class Compute:
    """A device and the dtype that autocast uses on it (None: float32 throughout)."""

    device: torch.device
    autocast_dtype: torch.dtype | None

    def autocast(self) -> AbstractContextManager[None]:
        """Context in which the backbone runs."""
        return torch.autocast(self.device.type, dtype=self.image_dtype, enabled=self.autocast_dtype is not None)

    @property
    def image_dtype(self) -> torch.dtype:
        """The dtype in which images are made: what autocast would turn them into at the first layer."""
        return self.autocast_dtype or torch.float32

    def place(self, model: M) -> M:
        """Move a model of images to the device, its convolutions in channels-last memory."""
        return model.to(self.device).to(memory_format=torch.channels_last)

    def peak_mib(self) -> float:
        """Most memory so far, MiB: what tensors took of a GPU, or on a CPU what of this process was resident."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 2**20
        return Memory.read().peak_mib

    @property
    def needs_scaler(self) -> bool:
        """Whether gradients must be scaled up, because small ones would be 0 in this dtype."""
        return self.autocast_dtype == torch.float16

    @property
    def precision(self) -> str:
        """Its name in a configuration: fp32, bf16 or fp16."""
        return next(name for name, dtype in _AUTOCAST_DTYPES.items() if dtype == self.autocast_dtype)

    def __str__(self) -> str:
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu"
        return f"{name}, {self.precision}"


def choose_device_type(device: str) -> Literal["cpu", "cuda"]:
    """Return the kind of processor that `device`, auto, cpu or cuda, means here.

    Raises MissingCapabilityError when a GPU is asked for and none is usable.
    """
    has_cuda = torch.cuda.is_available()
    if device == "cuda" and not has_cuda:
        raise MissingCapabilityError(
            "--device cuda: torch sees no usable NVIDIA GPU. Run nvidia-smi, or use --device cpu"
        )
    return "cuda" if has_cuda and device != "cpu" else "cpu"


def choose_compute(
    precision: str, device: str = "auto", *, local_rank: int = 0, cpu_threads: int | None = None
) -> Compute:
    """Return where to compute: `device` is auto, cpu or cuda; `precision` is auto, fp32, bf16 or fp16.

    local_rank: which GPU. cpu_threads: how many compute where that is a CPU, for all of this process; None leaves them
    as they are. auto takes bf16 where it is faster, on a GPU that has it and on a CPU whose AMX units work; fp16 on
    older GPUs; fp32 on other CPUs. On a CPU, MKL is asked for the same bits in every run, which it otherwise makes
    depend on where in memory its operands lie: before its first use, or in vain. Raises MissingCapabilityError when the
    device asked for is not there, or is a GPU that this torch was not built for.
    """
    if choose_device_type(device) == "cuda":
        chosen = torch.device("cuda", local_rank)
        _check_gpu_age(chosen)
        if precision == "auto":
            major, _ = torch.cuda.get_device_capability(chosen)
            precision = "bf16" if major >= _FIRST_WITH_BF16 else "fp16"
        return Compute(chosen, _AUTOCAST_DTYPES[precision])
    os.environ.setdefault("MKL_CBWR", "AUTO")
    if cpu_threads is not None:
        torch.set_num_threads(cpu_threads)
    amx = precision != "fp32" and _usable_amx()
    if precision == "auto":
        precision = "bf16" if amx else "fp32"
    return Compute(torch.device("cpu"), _AUTOCAST_DTYPES[precision])


def check_compute(compute: Compute, *, compiles: bool) -> None:
    """Try one convolution in the precision of `compute`; so what a device cannot do is known before anything begins.

    compiles: whether torch's compiler is wanted. Raises MissingCapabilityError, with the way out.
    """
    if compute.device.type == "cuda" and compiles:
        capability = torch.cuda.get_device_capability(compute.device)
        if capability < _FIRST_WITH_COMPILER:
            raise MissingCapabilityError(
                f"compile=true: the compiler behind torch.compile, Triton, has no code for {compute} "
                f"(sm_{''.join(map(str, capability))}; it begins with sm_{''.join(map(str, _FIRST_WITH_COMPILER))}). "
                "Use --set compile=false"
            )
    images = torch.ones(1, 8, 8, 8, dtype=compute.image_dtype, device=compute.device)
    try:
        result = torch.nn.functional.conv2d(images, images)
    except RuntimeError as error:
        raise MissingCapabilityError(
            f"a convolution in {compute.precision} does not work on {compute}{_cudnn(compute)}: "
            f"{str(error).splitlines()[0]}. Install the stack for this GPU (docs/install.md), or use "
            "--set precision=fp32"
        ) from None
    if result.item() != images.numel():
        raise MissingCapabilityError(
            f"a convolution in {compute.precision} is wrong on {compute}{_cudnn(compute)}. Use --set precision=fp32"
        )


def _cudnn(compute: Compute) -> str:
    return f" with cuDNN {cudnn_version()}" if compute.device.type == "cuda" else ""


def _usable_amx() -> bool:
    """Whether the CPU has AMX units that work, and oneDNN may use them; keeps it away from those that do not."""
    if not _cpu_claims_amx() or not _MAY_BE_AMX.search(os.environ.get(_LIMIT, "ALL")):
        return False
    if _amx_works():
        return True
    os.environ.setdefault(_LIMIT, _ISA_WITHOUT_AMX)
    return False


def _check_gpu_age(gpu: torch.device) -> None:
    built_for = [int(name.removeprefix("sm_")) for name in torch.cuda.get_arch_list() if name[3:].isdecimal()]
    major, minor = torch.cuda.get_device_capability(gpu)
    if built_for and 10 * major + minor < min(built_for):
        raise MissingCapabilityError(
            f"{torch.cuda.get_device_name(gpu)} (sm_{major}{minor}) is older than this torch supports "
            f"(sm_{min(built_for)} and newer). Install the `volta` stack (docs/install.md), or use --device cpu"
        )


def _cpu_claims_amx() -> bool:
    flags = Path("/proc/cpuinfo")
    return flags.is_file() and "amx_bf16" in flags.read_text()


@cache
def _amx_works() -> bool:
    """Try a bf16 product in a process of its own.

    Some hypervisors announce AMX but hide the leaf that describes its tiles (CPUID 0x1D); oneDNN then dies of an
    illegal instruction.
    """
    return subprocess.run([sys.executable, "-c", _BF16_PRODUCT], capture_output=True, check=False).returncode == 0


@contextmanager
def without_tuning() -> Iterator[None]:
    """Let cuDNN choose its algorithms untried for the length of the block."""
    before, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, False
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before
