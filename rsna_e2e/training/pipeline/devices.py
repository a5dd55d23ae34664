"""GPUs that a plan can be forecast for, what their data sheets say, and the times that others published."""

from dataclasses import dataclass
from typing import Literal

GB = 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A GPU: memory, peak of half-precision products of dense matrices, memory bandwidth, and its compute capability.

    precision: what `precision=auto` takes on it; device.py decides, and a test compares.
    """

    title: str
    memory_bytes: int
    flop_per_s: float
    bytes_per_s: float
    capability: tuple[int, int]
    precision: Literal["fp16", "bf16"]


# Source: NVIDIA's data sheets of the SXM modules: V100 (2020), A100 (2021), H100 (2023), H200 (2024); without sparsity
DEVICES: dict[str, Device] = {
    "v100": Device(
        title="NVIDIA V100 16 GB",
        memory_bytes=16 * GB,
        flop_per_s=125e12,
        bytes_per_s=900e9,
        capability=(7, 0),
        precision="fp16",
    ),
    "v100-32gb": Device(
        title="NVIDIA V100 32 GB",
        memory_bytes=32 * GB,
        flop_per_s=125e12,
        bytes_per_s=900e9,
        capability=(7, 0),
        precision="fp16",
    ),
    "a100": Device(
        title="NVIDIA A100 40 GB",
        memory_bytes=40 * GB,
        flop_per_s=312e12,
        bytes_per_s=1555e9,
        capability=(8, 0),
        precision="bf16",
    ),
    "a100-80gb": Device(
        title="NVIDIA A100 80 GB",
        memory_bytes=80 * GB,
        flop_per_s=312e12,
        bytes_per_s=2039e9,
        capability=(8, 0),
        precision="bf16",
    ),
    "h100": Device(
        title="NVIDIA H100 80 GB",
        memory_bytes=80 * GB,
        flop_per_s=989e12,
        bytes_per_s=3350e9,
        capability=(9, 0),
        precision="bf16",
    ),
    "h200": Device(
        title="NVIDIA H200 141 GB",
        memory_bytes=141 * GB,
        flop_per_s=989e12,
        bytes_per_s=4800e9,
        capability=(9, 0),
        precision="bf16",
    ),
}


@dataclass(frozen=True, slots=True)
class Published:
    """A time of others: of a step of this kind (verb, backbone, head, image side, features), and its slices/s."""

    kind: tuple[str, str, str, int, int]
    slices_per_s: float


_HOUR_S = 3600
_TRAINED, _ALL = 752_803, 752_803 + 121_232  # slices of RSNA ICH 2019: with labels, and with those to predict
_RESNEXT = "resnext101_32x8d.fb_wsl_ig1b_ft_in1k"

PUBLISHED_ON = "v100", 4
PUBLISHED_SOURCE = "comments in bin/run_21_trainsngl_e2e.sh, github.com/darraghdog/rsna"

# Three epochs of training in ~20 hours; embeddings of three epochs in ~15 hours; three heads of twelve epochs, trained
# and applied, in ~2 hours, on one GPU
PUBLISHED: tuple[Published, ...] = (
    Published(("train", _RESNEXT, "none", 480, 2048), 3 * _TRAINED / (20 * _HOUR_S)),
    Published(("embed", _RESNEXT, "none", 480, 2048), 3 * _ALL / (15 * _HOUR_S)),
    Published(("train", "none", "lstm", 1, 2048), 3 * 12 * _TRAINED / (2 * _HOUR_S)),
)
