"""Figures of transform_slices on a GPU: its rate, the device's copy bandwidth, eager torch, and what ncu counts.

All times are medians; warm-up is left out. Inputs and outputs rotate, so that the L2 cache serves no run from the last.
"""

# N slices, H, W input, S output size, C channels

import csv
import io
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import torch
from transform_cases import noise, turned

from rsna_e2e import ops
from rsna_e2e.tasks import ICH

HEIGHT = WIDTH = 512
SIZE = 480
N_SETS = 4  # inputs and outputs that rotate
N_WARM_UP, N_RUNS = 5, 30
COPY_BYTES = 2**31
AGREEMENT = 1e-4  # mean absolute difference of windowed values between two ways of interpolating in float32
# Of the kernel, averaged over its multiprocessors. Nsight Compute's names.
METRICS = {
    "gpu__time_duration.sum": "time_ns",
    "smsp__inst_executed.sum": "warp_instructions",
    "smsp__issue_active.avg.pct_of_peak_sustained_active": "issue_slots_used_percent",
    "sm__warps_active.avg.pct_of_peak_sustained_active": "occupancy_percent",
    "dram__bytes.sum": "dram_bytes",
    "dram__throughput.avg.pct_of_peak_sustained_elapsed": "dram_percent",
    "l1tex__throughput.avg.pct_of_peak_sustained_active": "l1_percent",
    "lts__throughput.avg.pct_of_peak_sustained_elapsed": "l2_percent",
}


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
        n_values = self.n_slices * len(ICH.windows_hu) * SIZE * SIZE
        return self.hu[0].numel() * self.hu[0].element_size() + n_values * self.dtype.itemsize

    def ours(self, i: int) -> torch.Tensor:
        is_grey = self.dtype == torch.uint8
        return ops.transform_slices(
            self.hu[i % len(self.hu)],
            self.affine,
            ICH.windows_hu,
            size=SIZE,
            mean=None if is_grey else ICH.channel_mean,
            std=None if is_grey else ICH.channel_std,
            dtype=self.dtype,
            channels_last=self.channels_last,
        )


def make_work(n: int, dtype: torch.dtype, *, channels_last: bool = True, turn: bool = True) -> Work:
    """Random slices on the GPU and a matrix for each: any rotation, scale 0.7 to 1.3; or a plain resize."""
    hu = noise(n, HEIGHT, WIDTH).cuda()
    scale = WIDTH / SIZE
    resize = torch.tensor([[scale, 0, (scale - 1) / 2], [0, scale, (scale - 1) / 2]])
    affine = turned(n, HEIGHT, WIDTH, SIZE) if turn else resize.repeat(n, 1, 1)
    return Work([hu, *(hu.flip(0).roll(k, 2) for k in range(1, N_SETS))], affine, dtype, channels_last)


class Eager:
    """The same as a user of torch would write it: windows first, then one grid_sample, then mean and std.

    What does not change from batch to batch is computed once, on the device of the slices.
    """

    def __init__(self, work: Work) -> None:
        self.work = work
        device = work.hu[0].device
        self.center, self.width, self.mean, self.std = (
            torch.tensor(numbers, device=device).view(-1, 1, 1)
            for numbers in (*zip(*ICH.windows_hu, strict=True), ICH.channel_mean, ICH.channel_std)
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


def time_on_device(run: Callable[[int], Any], *, n_runs: int = N_RUNS) -> Timing:
    """Time between events in a queue that never runs empty: the device's time alone."""
    kept: list[Any] = [None] * N_SETS  # so that the allocator does not hand out the same memory each time
    for i in range(N_WARM_UP):
        kept[i % N_SETS] = run(i)
    torch.cuda.synchronize()
    events = [torch.cuda.Event(enable_timing=True) for _ in range(n_runs + 1)]
    torch.cuda._sleep(50_000_000)  # clock cycles in which the host queues the runs up
    events[0].record()
    for i in range(n_runs):
        kept[i % N_SETS] = run(i)
        events[i + 1].record()
    torch.cuda.synchronize()
    return Timing.of([first.elapsed_time(second) for first, second in pairwise(events)])


def time_on_host(run: Callable[[int], Any], *, n_runs: int = N_RUNS) -> Timing:
    """Time from each call to its result, the host's share included."""
    times = []
    for i in range(N_WARM_UP + n_runs):
        torch.cuda.synchronize()
        start = time.perf_counter()
        run(i)
        torch.cuda.synchronize()
        times.append(1e3 * (time.perf_counter() - start))
    return Timing.of(times[N_WARM_UP:])


def copy_bandwidth() -> dict[str, Any]:
    """Bytes read and written per second by a copy within the device's memory."""
    source = torch.randint(256, (COPY_BYTES,), dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    timing = time_on_device(lambda _: target.copy_(source))
    return {**asdict(timing), "bytes_per_s": 2 * COPY_BYTES / timing.median_ms * 1e3}


def upload(n: int, *, pinned: bool) -> dict[str, Any]:
    """Copy of N slices of int16 from host to device."""
    hu = noise(n, HEIGHT, WIDTH)
    source = hu.pin_memory() if pinned else hu
    target = torch.empty_like(hu, device="cuda")
    timing = time_on_host(lambda _: target.copy_(source, non_blocking=True), n_runs=10)
    n_bytes = hu.numel() * hu.element_size()
    return {
        **asdict(timing),
        "slices_per_s": n / timing.median_ms * 1e3,
        "bytes_per_s": n_bytes / timing.median_ms * 1e3,
    }


def transform(work: Work, bandwidth: float) -> dict[str, Any]:
    """Our operator's rate and its share of the copy bandwidth."""
    timing, whole = time_on_device(work.ours), time_on_host(work.ours)
    moved = work.n_bytes / timing.median_ms * 1e3
    return {
        **asdict(timing),
        "n_slices": work.n_slices,
        "dtype": str(work.dtype).removeprefix("torch."),
        "channels_last": work.channels_last,
        "slices_per_s": work.n_slices / timing.median_ms * 1e3,
        "share_of_copy_bandwidth": moved / bandwidth,
        "median_ms_with_the_host": whole.median_ms,
    }


def search(n: int, bandwidth: float) -> dict[str, Any]:
    """content_box's rate on slices that have content everywhere, and its share of the copy bandwidth."""
    work = make_work(n, torch.float16)
    timing = time_on_device(lambda i: ops.content_box(work.hu[i % N_SETS], ICH.windows_hu))
    n_bytes = work.hu[0].numel() * work.hu[0].element_size()
    return {
        **asdict(timing),
        "n_slices": n,
        "slices_per_s": n / timing.median_ms * 1e3,
        "share_of_copy_bandwidth": n_bytes / timing.median_ms * 1e3 / bandwidth,
    }


def against_eager(n: int) -> dict[str, Any]:
    """Our operator and eager torch on the same slices, in float16, channels last. AssertionError if they differ."""
    difference = Eager(make_work(n, torch.float32)).difference()
    assert difference <= AGREEMENT, f"eager torch and transform_slices differ by {difference}; their times say nothing"
    work = make_work(n, torch.float16)
    ours, eager = time_on_device(work.ours), time_on_device(Eager(work), n_runs=10)
    return {
        "n_slices": n,
        "mean_absolute_difference": difference,
        "ours": asdict(ours),
        "eager": asdict(eager),
        "ratio": eager.median_ms / ours.median_ms,
    }


def profile(n: int) -> dict[str, Any]:
    """What Nsight Compute counts of one launch, or why it counts nothing."""
    ncu = shutil.which("ncu")
    if ncu is None:
        return {"not_measured": "there is no ncu on the PATH"}
    command = [
        *(ncu, "--clock-control", "none", "--csv", "--page", "raw", "--metrics", ",".join(METRICS)),
        *("--kernel-name", "regex:transform_tiles", "--launch-skip", "2", "--launch-count", "1"),
        *(sys.executable, __file__, str(n)),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    found = read_ncu(done.stdout)
    if done.returncode != 0 or not found:
        return {"not_measured": (done.stdout + done.stderr).strip()[-500:]}
    pixels = n * SIZE * SIZE
    return {**found, "instructions_per_pixel": 32 * found.get("warp_instructions", 0.0) / pixels, "n_slices": n}


def read_ncu(text: str) -> dict[str, float]:
    """The metrics of the one kernel in ncu's raw page: a line of names, a line of units, a line of values."""
    lines = [line for line in text.splitlines() if line.startswith('"')]
    rows = list(csv.reader(io.StringIO("\n".join(lines))))
    if len(rows) < 3:
        return {}
    scale = {"us": 1e3, "usecond": 1e3, "ms": 1e6, "msecond": 1e6, "Kbyte": 1e3, "Mbyte": 1e6, "Gbyte": 1e9}
    columns = zip(rows[0], rows[1], rows[2], strict=True)
    return {
        METRICS[name]: float(value.replace(",", "")) * scale.get(unit, 1.0)
        for name, unit, value in columns
        if name in METRICS
    }


if __name__ == "__main__":  # the program that ncu looks at
    one = make_work(int(sys.argv[1]), torch.float16)
    for k in range(3):
        one.ours(k)
    torch.cuda.synchronize()
