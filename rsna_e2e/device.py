"""Which device and precision a run computes in."""

import os
import subprocess
import sys
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from rsna_e2e.errors import MissingCapabilityError

M = TypeVar("M", bound=nn.Module)

# oneDNN's name for the best instruction set below AMX; read by oneDNN at its first primitive
_ISA_WITHOUT_AMX = "AVX512_CORE_FP16"
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

    def __str__(self) -> str:
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu"
        return f"{name}, {'fp32' if self.autocast_dtype is None else 'bf16'}"


def choose_compute(precision: str, device: str = "auto") -> Compute:
    """Return where to compute: `device` is auto, cpu or cuda; `precision` is auto, fp32 or bf16.

    auto takes bf16 where it is faster: on a GPU that has it, and on a CPU whose AMX units work. Raises
    MissingCapabilityError when the device asked for is not there, or is a GPU that this torch was not built for.
    """
    has_cuda = torch.cuda.is_available()
    if device == "cuda" and not has_cuda:
        raise MissingCapabilityError(
            "--device cuda: torch sees no usable NVIDIA GPU. Run nvidia-smi, or use --device cpu"
        )
    chosen = torch.device("cuda" if has_cuda and device != "cpu" else "cpu")
    if chosen.type == "cuda":
        _check_gpu_age()
    if precision == "fp32":
        return Compute(chosen, None)
    if chosen.type == "cuda":
        bf16 = precision == "bf16" or torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        amx = _cpu_claims_amx() and _amx_works()
        if _cpu_claims_amx() and not amx:
            os.environ.setdefault("ONEDNN_MAX_CPU_ISA", _ISA_WITHOUT_AMX)
        bf16 = precision == "bf16" or amx
    return Compute(chosen, torch.bfloat16 if bf16 else None)


def _check_gpu_age() -> None:
    built_for = [int(name.removeprefix("sm_")) for name in torch.cuda.get_arch_list() if name[3:].isdecimal()]
    major, minor = torch.cuda.get_device_capability()
    if built_for and 10 * major + minor < min(built_for):
        raise MissingCapabilityError(
            f"{torch.cuda.get_device_name()} (sm_{major}{minor}) is older than this torch supports "
            f"(sm_{min(built_for)} and newer). Install the `volta` stack (README, Older GPUs), or use --device cpu"
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
