"""Figures of transform_slices on a GPU: its rate, the device's copy bandwidth, eager torch, and what ncu counts.

All times are medians; warm-up is left out. Inputs and outputs rotate, so that the L2 cache serves no run from the last.
Every function takes the device, a GPU or in a rehearsal the CPU, and the scale.
"""

# N slices, H, W input, S output size, C channels

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import torch
from devices import Device
from scales import Scale
from transform_cases import noise, turned

from rsna_e2e.loader.kernels import torch_ops
from rsna_e2e.tasks.ich import ICH

HEIGHT = WIDTH = 512
SIZE = 480
N_SETS = 4  # inputs and outputs that rotate
AGREEMENT = 1e-4  # mean absolute difference of windowed values between two ways of interpolating in float32


@dataclass(frozen=True)
class Timing:
    """Milliseconds per run. iqr_ms: between the first and the third quartile."""

    n: int
    median_ms: float
    iqr_ms: float

    @classmethod
    def of(cls, times_ms: Sequence[float]) -> "Timing":
        low, median, high = statistics.quantiles(times_ms, n=4, method="inclusive")
        return cls(len(times_ms), median, high - low)

    def __str__(self) -> str:
        return f"n={self.n} median {self.median_ms:.3f} ms (iqr {self.iqr_ms:.3f})"


@dataclass(frozen=True)
class Work:
    """N slices to be transformed in one way, in several copies."""

    hu: list[torch.Tensor]
    affine: torch.Tensor
    dtype: torch.dtype
    channels_last: bool

    @property
    def n_slices(self) -> int:
        return len(self.affine)

    @property
    def n_bytes(self) -> int:
        """Each input value read once, each output value written once."""
        n_values = self.n_slices * len(ICH.inputs.windows_hu) * SIZE * SIZE
        return self.hu[0].numel() * self.hu[0].element_size() + n_values * self.dtype.itemsize

    def ours(self, i: int) -> torch.Tensor:
        is_grey = self.dtype == torch.uint8
        return torch_ops.transform_slices(
            self.hu[i % len(self.hu)],
            self.affine,
            ICH.inputs.windows_hu,
            size=SIZE,
            mean=None if is_grey else ICH.inputs.mean,
            std=None if is_grey else ICH.inputs.std,
            dtype=self.dtype,
            channels_last=self.channels_last,
        )


def make_work(
    n: int, dtype: torch.dtype, device: Device, *, channels_last: bool = True, angle_deg: float | None = None
) -> Work:
    """Random slices on the device and a matrix for each: turned by this angle, or by any and scaled by 0.7 to 1.3."""
    affine = turned(n, HEIGHT, WIDTH, SIZE) if angle_deg is None else rotation(angle_deg).repeat(n, 1, 1)
    return Work(_made_up(n, device.kind), affine, dtype, channels_last)


@lru_cache(maxsize=1)  # random numbers take seconds for many slices
def _made_up(n: int, kind: str) -> list[torch.Tensor]:
    hu = noise(n, HEIGHT, WIDTH).to(kind)
    return [hu, *(hu.flip(0).roll(k, 2) for k in range(1, N_SETS))]


def rotation(angle_deg: float) -> torch.Tensor:
    """[1, 2, 3]: the whole slice, resized to the output and turned about its centre."""
    scale, angle = WIDTH / SIZE, math.radians(angle_deg)
    linear = scale * torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    centre_in, centre_out = torch.full((2, 1), (WIDTH - 1) / 2), torch.full((2, 1), (SIZE - 1) / 2)
    return torch.cat([linear, centre_in - linear @ centre_out], 1)[None]


class Eager:
    """The same as a user of torch would write it: windows first, then one grid_sample, then mean and std.

    What does not change from batch to batch is computed once, on the device of the slices.
    """

    def __init__(self, work: Work) -> None:
        self.work = work
        device = work.hu[0].device
        self.center, self.width, self.mean, self.std = (
            torch.tensor(numbers, device=device).view(-1, 1, 1)
            for numbers in (*zip(*ICH.inputs.windows_hu, strict=True), ICH.inputs.mean, ICH.inputs.std)
        )
        y, x = torch.meshgrid(*[torch.arange(SIZE, dtype=torch.float32, device=device)] * 2, indexing="ij")
        self.output_xy1 = torch.stack([x, y, torch.ones_like(x)], -1).view(1, -1, 3)
        self.extent = torch.tensor([WIDTH, HEIGHT], device=device)

    def __call__(self, i: int) -> torch.Tensor:
        hu = self.work.hu[i % len(self.work.hu)]
        windowed_NCHW = ((hu[:, None] - (self.center - self.width / 2)) / self.width).clamp(0, 1)
        source_xy = self.output_xy1 @ self.work.affine.to(hu.device, non_blocking=True).transpose(1, 2)
        grid = ((2 * source_xy + 1) / self.extent - 1).view(len(hu), SIZE, SIZE, 2)
        sampled = torch.nn.functional.grid_sample(windowed_NCHW, grid, mode="bilinear", align_corners=False)
        return ((sampled - self.mean) / self.std).to(self.work.dtype, memory_format=torch.channels_last)

    def difference(self) -> float:
        """Mean absolute difference of ours and eager torch's windowed values."""
        return float(((self.work.ours(0).float() - self(0).float()) * self.std).abs().mean())


def time_on_device(run: Callable[[int], Any], device: Device, scale: Scale) -> Timing:
    """Time between events in a queue that never runs empty: the device's time alone."""
    kept: list[Any] = [None] * N_SETS  # so that the allocator does not hand out the same memory each time
    for i in range(scale.n_warm_up):
        kept[i % N_SETS] = run(i)
    device.synchronise()
    events = [device.event() for _ in range(scale.n_runs + 1)]
    device.hold()
    events[0].record()
    for i in range(scale.n_runs):
        kept[i % N_SETS] = run(i)
        events[i + 1].record()
    device.synchronise()
    return Timing.of([first.elapsed_time(second) for first, second in pairwise(events)])


def time_on_host(run: Callable[[int], Any], device: Device, *, n_runs: int, n_warm_up: int) -> Timing:
    """Time from each call to its result, the host's share included."""
    times = []
    for i in range(n_warm_up + n_runs):
        device.synchronise()
        start = time.perf_counter()
        run(i)
        device.synchronise()
        times.append(1e3 * (time.perf_counter() - start))
    return Timing.of(times[n_warm_up:])


def copy_bandwidth(device: Device, scale: Scale) -> dict[str, Any]:
    """Bytes read and written per second by a copy within the device's memory."""
    source = torch.randint(256, (scale.copy_bytes,), dtype=torch.uint8, device=device.kind)
    target = torch.empty_like(source)
    timing = time_on_device(lambda _: target.copy_(source), device, scale)
    return {**asdict(timing), "bytes_per_s": 2 * scale.copy_bytes / timing.median_ms * 1e3}


def upload(n: int, device: Device, scale: Scale, *, pinned: bool) -> dict[str, Any]:
    """Copy of N slices of int16 from host to device."""
    hu = noise(n, HEIGHT, WIDTH)
    source = device.pinned(hu) if pinned else hu
    target = torch.empty_like(hu, device=device.kind)
    timing = time_on_host(
        lambda _: target.copy_(source, non_blocking=True),
        device,
        n_runs=min(scale.n_runs, 10),
        n_warm_up=scale.n_warm_up,
    )
    n_bytes = hu.numel() * hu.element_size()
    return {
        **asdict(timing),
        "slices_per_s": n / timing.median_ms * 1e3,
        "bytes_per_s": n_bytes / timing.median_ms * 1e3,
    }


def transform(work: Work, bandwidth: float, device: Device, scale: Scale) -> dict[str, Any]:
    """Our operator's rate and its share of the copy bandwidth."""
    timing = time_on_device(work.ours, device, scale)
    whole = time_on_host(work.ours, device, n_runs=min(scale.n_runs, 10), n_warm_up=scale.n_warm_up)
    moved = work.n_bytes / timing.median_ms * 1e3
    return {
        **asdict(timing),
        "slices_per_s": work.n_slices / timing.median_ms * 1e3,
        "share_of_copy_bandwidth": moved / bandwidth,
        "median_ms_with_the_host": whole.median_ms,
    }


def search(n: int, bandwidth: float, device: Device, scale: Scale) -> dict[str, Any]:
    """content_box's rate on slices that have content everywhere, and its share of the copy bandwidth."""
    work = make_work(n, torch.float16, device)
    timing = time_on_device(lambda i: torch_ops.content_box(work.hu[i % N_SETS], ICH.inputs.windows_hu), device, scale)
    n_bytes = work.hu[0].numel() * work.hu[0].element_size()
    return {
        **asdict(timing),
        "slices_per_s": n / timing.median_ms * 1e3,
        "share_of_copy_bandwidth": n_bytes / timing.median_ms * 1e3 / bandwidth,
    }


def against_eager(n: int, device: Device, scale: Scale) -> dict[str, Any]:
    """Our operator and eager torch on the same slices, in float16, channels last. AssertionError if they differ."""
    difference = Eager(make_work(n, torch.float32, device)).difference()
    assert difference <= AGREEMENT, f"eager torch and transform_slices differ by {difference}; their times say nothing"
    work = make_work(n, torch.float16, device)
    ours, eager = time_on_device(work.ours, device, scale), time_on_device(Eager(work), device, scale)
    return {
        **asdict(eager),
        "mean_absolute_difference": difference,
        "ours_median_ms": ours.median_ms,
        "ratio": eager.median_ms / ours.median_ms,
    }
