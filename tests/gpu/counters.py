"""What Nsight Compute counts of one launch of the kernel, and the program that it looks at."""

import csv
import io
import shutil
import subprocess
import sys
from typing import Any

import torch
from devices import Device, device_of
from measure import SIZE, make_work

# Of the kernel, averaged over its multiprocessors. Nsight Compute's names. What some version may not have stands apart.
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
DETAILS = {
    "l1tex__data_pipe_lsu_wavefronts.sum": "l1_wavefronts",
    "l1tex__data_pipe_lsu_wavefronts_mem_shared.sum": "shared_wavefronts",
    "l1tex__data_bank_conflicts_pipe_lsu_mem_shared.sum": "shared_bank_conflicts",
    "smsp__average_warps_issue_stalled_long_scoreboard_per_issue_active.ratio": "stalled_on_global_loads",
    "smsp__average_warps_issue_stalled_lg_throttle_per_issue_active.ratio": "stalled_on_load_queue",
    "smsp__average_warps_issue_stalled_mio_throttle_per_issue_active.ratio": "stalled_on_shared_queue",
    "smsp__average_warps_issue_stalled_math_pipe_throttle_per_issue_active.ratio": "stalled_on_arithmetic",
}
SCALES = {"us": 1e3, "usecond": 1e3, "ms": 1e6, "msecond": 1e6, "Kbyte": 1e3, "Mbyte": 1e6, "Gbyte": 1e9}
TIMEOUT_S = 40.0
N_LAUNCHES, N_SKIPPED = 3, 2  # the first ones load code


def profile(n: int, angle_deg: float | None, device: Device, metrics: dict[str, str]) -> dict[str, Any]:
    """What Nsight Compute counts of one launch over n slices. RuntimeError with its words when it counts nothing."""
    ncu = shutil.which("ncu")
    if ncu is None:
        raise RuntimeError("there is no ncu on the PATH")
    angle = "any" if angle_deg is None else str(angle_deg)
    command = [
        *(ncu, "--clock-control", "none", "--csv", "--page", "raw", "--metrics", ",".join(metrics)),
        *("--kernel-name", "regex:transform_tiles", "--launch-skip", str(N_SKIPPED), "--launch-count", "1"),
        *(sys.executable, __file__, str(n), angle, device.kind),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    found = read_ncu(done.stdout, metrics)
    if done.returncode != 0 or not found:
        raise RuntimeError((done.stdout + done.stderr).strip()[-500:] or f"ncu ended with {done.returncode}")
    if "warp_instructions" in found:
        found["instructions_per_pixel"] = 32 * found["warp_instructions"] / (n * SIZE * SIZE)
    return found


def read_ncu(text: str, metrics: dict[str, str]) -> dict[str, float]:
    """The metrics of the one kernel in ncu's raw page: a line of names, a line of units, a line of values."""
    lines = [line for line in text.splitlines() if line.startswith('"')]
    rows = list(csv.reader(io.StringIO("\n".join(lines))))
    if len(rows) < 3:
        return {}
    columns = zip(rows[0], rows[1], rows[2], strict=True)
    return {
        metrics[name]: float(value.replace(",", "")) * SCALES.get(unit, 1.0)
        for name, unit, value in columns
        if name in metrics
    }


def main(n: int, angle: str, kind: str) -> None:
    """The program that ncu looks at."""
    device = device_of(kind)
    work = make_work(n, torch.float16, device, angle_deg=None if angle == "any" else float(angle))
    for k in range(N_LAUNCHES):
        work.ours(k)
    device.synchronise()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3])
