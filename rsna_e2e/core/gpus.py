"""Which GPUs a process may use, told without torch, which takes seconds to import."""

import shutil
import subprocess
from collections.abc import Mapping
from itertools import takewhile

VISIBLE = "CUDA_VISIBLE_DEVICES"


def visible_gpus(environment: Mapping[str, str]) -> list[str]:
    """Return the NVIDIA GPUs of a process with this environment, each as CUDA_VISIBLE_DEVICES names it."""
    given = environment.get(VISIBLE)
    if given is not None:  # of which CUDA takes those before the first that is none
        return list(takewhile(lambda name: name not in ("", "-1"), given.split(",")))
    if not shutil.which("nvidia-smi", path=environment.get("PATH")):
        return []
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False, env=dict(environment))
    return [str(number) for number in range(sum(line.startswith("GPU ") for line in listed.stdout.splitlines()))]
