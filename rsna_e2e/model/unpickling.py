"""Script that unpickles a foreign weights file under resource limits and writes safetensors to standard output.

`import_weights` runs it in a process that imports nothing of this package. torch's weights_only unpickler builds
tensors and plain containers and calls nothing else; the limits are for files made to exhaust memory. Every failure is
an exception, whose last lines the parent process reads.
"""

import resource
import sys
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch

CPU_TIME_S = 300
NESTED = ("state_dict", "model")  # where training scripts put weights beside other things
GIB = 1 << 30


def limit(n_bytes: int) -> None:
    """Limit CPU time, the size of the output, and memory to what a file of `n_bytes` needs beyond torch itself."""
    n_pages = int(Path("/proc/self/statm").read_text().split()[0])
    memory = n_pages * resource.getpagesize() + GIB + 4 * n_bytes  # as stored, as tensors, as a copy, as written
    for kind, most in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CPU, CPU_TIME_S),
        (resource.RLIMIT_FSIZE, GIB + n_bytes),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (most, most))


def tensors_of(loaded: object) -> dict[str, torch.Tensor]:
    """Return the tensors of a state_dict as dense copies. Raises TypeError for anything else."""
    for key in NESTED:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    if not isinstance(loaded, Mapping) or not loaded:
        raise TypeError(f"it holds a {type(loaded).__name__}, not a state_dict")
    for name, value in loaded.items():
        is_plain = isinstance(value, torch.Tensor) and value.layout == torch.strided and not value.is_quantized
        if not isinstance(name, str) or not is_plain or value.is_complex():
            raise TypeError(f"{name} is a {type(value).__name__}, not a dense tensor of real numbers")
    return {name: torch.clone(value, memory_format=torch.contiguous_format) for name, value in loaded.items()}


if __name__ == "__main__":
    torch.set_num_threads(1)
    source = Path(sys.argv[1])
    limit(source.stat().st_size)
    content = safetensors.torch.save(tensors_of(torch.load(source, map_location="cpu", weights_only=True)))
    sys.stdout.buffer.write(content)
