"""Builds, tests and times everything that runs on a GPU, in one go, and writes figures.json. Run by bin/check_gpu.sh.

Exit code 0: all is well, 1: something failed, 4: there is no GPU. Needs torch, pytest and a CUDA compiler; what needs
more is left out, and said to be.
"""

import argparse
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
FAILED, MISSING = 1, 4
# Test files that need more than torch and pytest to be read at all.
NEEDS = {"test_loader_gpu.py": ("pydicom", "pydantic", "h5py", "pyarrow", "timm", "tensorboard")}

# Both layouts of the kernel for the usual case, at all sizes, and the search.
SANITIZED = "(test_sizes and dtype1 and 3-) or test_content_box"


def say(message: str) -> None:
    print(f"check_gpu: {message}", flush=True)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, prog="bin/check_gpu.sh"
    )
    parser.add_argument("--out", type=Path, default=Path("gpu_figures"), help="folder of figures.json (%(default)s)")
    parser.add_argument("--commit", help="what to call this version; asked of git if not given")
    parser.add_argument("--sanitize", action="store_true", help="look for bad accesses and races too; takes minutes")
    parser.add_argument("--no-tests", action="store_true", help="only build and time")
    parser.add_argument("--no-build", action="store_true", help="take the extension as it is")
    return parser.parse_args(arguments)


def missing_gpu() -> str | None:
    """Why there is nothing to check, or None."""
    if importlib.util.find_spec("torch") is None:
        return f"{sys.executable} has no torch. Set PYTHON to a Python that has"
    import torch

    if not torch.cuda.is_available():
        return f"torch {torch.__version__} sees no NVIDIA GPU; nothing was built, tested or timed. Run nvidia-smi"
    return None


def output_of(*command: str) -> str:
    """What a command prints, or "unknown"."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def machine(commit: str | None) -> dict[str, Any]:
    import torch

    return {
        "device": torch.cuda.get_device_name(),
        "n_devices": torch.cuda.device_count(),
        "multiprocessors": torch.cuda.get_device_properties(0).multi_processor_count,
        "driver": output_of("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader").splitlines()[0],
        "torch": torch.__version__,
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "commit": commit or output_of("git", "describe", "--always", "--dirty=+", "--abbrev=7", "--exclude=*"),
        "utc": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def build() -> bool:
    environment = {**os.environ, "RSNA_WITH_CUDA": "1"}
    return (
        subprocess.run([sys.executable, "setup.py", "build_ext", "--inplace"], cwd=ROOT, env=environment).returncode
        == 0
    )


def run_tests() -> dict[str, Any]:
    """tests/gpu with a GPU required, as far as its files can be read here."""
    left_out = {}
    for name, modules in NEEDS.items():
        absent = [module for module in modules if importlib.util.find_spec(module) is None]
        if absent:
            left_out[name] = f"no {', '.join(absent)}"
            say(f"NOT RUN: tests/gpu/{name}: {left_out[name]}")
    command = [
        *(sys.executable, "-m", "pytest", "tests/gpu", "-rs", "-W", "default", "-p", "no:cacheprovider"),
        *(f"--ignore=tests/gpu/{name}" for name in left_out),
    ]
    environment = {**os.environ, "RSNA_FAIL_WITHOUT": "cuda"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    say(f"tests: {done.stdout[-6000:]}{done.stderr[-2000:]}")
    last = (done.stdout.strip().splitlines() or ["nothing"])[-1]
    return {"passed": done.returncode == 0, "summary": last, "left_out": left_out}


def sanitize(tool: str) -> dict[str, Any]:
    """What compute-sanitizer's `tool` says of a few of the tests, or why it says nothing."""
    sanitizer = shutil.which("compute-sanitizer")
    if sanitizer is None:
        return {"passed": True, "not_run": "there is no compute-sanitizer on the PATH"}
    command = [
        *(sanitizer, "--tool", tool, "--error-exitcode", "9", sys.executable, "-m", "pytest"),
        *("tests/gpu/test_parity.py", "-W", "default", "-p", "no:cacheprovider", "-k", SANITIZED),
    ]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    except subprocess.TimeoutExpired:
        return {"passed": True, "not_run": "it did not end within 4 minutes"}
    return {"passed": done.returncode == 0, "output": done.stdout[-1500:]}


def figures() -> tuple[dict[str, Any], bool]:
    """All figures by name, and whether each could be measured."""
    import measure
    import torch

    results: dict[str, Any] = {}

    def take(name: str, function: Callable[[], Any]) -> None:
        try:
            results[name] = function()
        except Exception as error:  # the other figures are worth having: machines with a GPU are lent by the minute
            results[name] = {"failed": f"{type(error).__name__}: {error}"}
        torch.cuda.empty_cache()
        say(f"{name}: {json.dumps(results[name], default=str)}")

    def timed(n: int, dtype: torch.dtype, **how: bool) -> Callable[[], Any]:
        return lambda: measure.transform(measure.make_work(n, dtype, **how), bandwidth)

    take("copy_bandwidth", measure.copy_bandwidth)
    bandwidth = results["copy_bandwidth"].get("bytes_per_s", float("nan"))
    for n in (32, 128, 512):
        take(f"transform_{n}_float16", timed(n, torch.float16))
    take("transform_512_float16_resize", timed(512, torch.float16, turn=False))
    take("transform_128_float16_planar", timed(128, torch.float16, channels_last=False))
    for dtype in (torch.float32, torch.bfloat16, torch.uint8):
        take(f"transform_128_{str(dtype).removeprefix('torch.')}", timed(128, dtype))
    take("content_box_512", lambda: measure.search(512, bandwidth))
    take("eager_torch", lambda: measure.against_eager(128))
    take("upload_pinned", lambda: measure.upload(512, pinned=True))
    take("upload_pageable", lambda: measure.upload(512, pinned=False))
    take("ncu", lambda: measure.profile(256))
    return results, not any("failed" in result for result in results.values())


def main(arguments: list[str] | None = None) -> int:
    chosen = parse(arguments)
    problem = missing_gpu()
    if problem is not None:
        say(problem)
        return MISSING
    report: dict[str, Any] = {"machine": machine(chosen.commit)}
    say(json.dumps(report["machine"]))
    if not chosen.no_build and not build():
        say("the build failed; its messages are above")
        return FAILED
    is_good = True
    if not chosen.no_tests:
        report["tests"] = run_tests()
        is_good = report["tests"]["passed"]
    if chosen.sanitize:
        for tool in ("memcheck", "racecheck"):
            report[tool] = sanitize(tool)
            say(f"{tool}: {json.dumps(report[tool])}")
            is_good = is_good and report[tool]["passed"]
    report["figures"], is_measured = figures()
    chosen.out.mkdir(parents=True, exist_ok=True)
    path = chosen.out / "figures.json"
    path.write_text(json.dumps(report, indent=2, default=str) + "\n")
    tests, complete = "passed" if is_good else "FAILED", "complete" if is_measured else "INCOMPLETE"
    say(f"wrote {path}; tests {tests}, figures {complete}")
    return 0 if is_good and is_measured else FAILED


if __name__ == "__main__":
    sys.exit(main())
