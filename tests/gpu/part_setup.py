"""The first parts: what was carried is unpacked, and the extension computes a slice as the CPU does, or is built."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict

from context import Context, MissingError
from packing import ROOT
from unpacking import unpack as unpack_folder

BUILD_S = 240.0
# In a process of its own: a library that cannot be loaded may take the process with it.
TRY = """
import sys, torch
from rsna_e2e.loader.kernels import torch_ops
from rsna_e2e.tasks.ich import ICH
assert sys.argv[1] == "cpu" or torch_ops.IS_CUDA_BUILT, "the extension has no CUDA half"
hu = torch.arange(-500, 500, dtype=torch.int16)[:, None].repeat(1, 64)[None]
how = {"size": 48, "mean": ICH.inputs.mean, "std": ICH.inputs.std, "dtype": torch.float16, "channels_last": True}
affine = torch.tensor([[[1.2, 0.3, -4.0], [-0.3, 1.2, 9.0]]])
there = torch_ops.transform_slices(hu.to(sys.argv[1]), affine, ICH.inputs.windows_hu, **how)
here = torch_ops.transform_slices(hu, affine, ICH.inputs.windows_hu, **how)
assert torch.equal(there.cpu(), here), "other bits than the CPU's"
"""


def unpack(context: Context) -> None:
    """What was carried goes to its places."""
    assert context.pack is not None
    done = unpack_folder(context.pack, context.scratch)
    context.figure("unpacked", asdict(done))
    context.is_good = done.n_libraries > 0  # without them, the next part builds


def extension(context: Context) -> None:
    """A slice on the device, by the extension as it is or as it is then built."""
    is_forced = context.pack is None and not context.is_rehearsal  # a checkout's own may be of older sources
    how = make_ready(lambda: problem_of(context.kind), build, is_forced=is_forced)
    context.figure("one slice, bits of the CPU", {"extension": how})


def make_ready(find_problem: Callable[[], str], build: Callable[[], None], *, is_forced: bool = False) -> str:
    """How the extension came to work: "as it was" or "built here". Raises MissingError when it does not."""
    problem = "" if is_forced else find_problem()
    if not is_forced and not problem:
        return "as it was"
    sys.stdout.write(f"building, since {problem or 'nothing was carried'}\n")
    build()
    problem = find_problem()
    if problem:
        raise MissingError(f"the extension does not work, though it was built here: {problem}")
    return "built here"


def problem_of(kind: str) -> str:
    """Why the extension does not give the CPU's bits on the device; empty when it does."""
    done = subprocess.run([sys.executable, "-c", TRY, kind], cwd=ROOT, capture_output=True, text=True)
    return (done.stderr.strip() or f"exit code {done.returncode}")[-800:] if done.returncode else ""


def build() -> None:
    """Build with what compiler there is; its messages go to the log. Raises MissingError when that fails."""
    environment = {**os.environ, "RSNA_WITH_CUDA": "1"}
    command = [sys.executable, "setup.py", "build_ext", "--inplace"]
    if subprocess.run(command, cwd=ROOT, env=environment, timeout=BUILD_S).returncode != 0:
        raise MissingError("the build failed; the log has its messages")
