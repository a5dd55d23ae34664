"""Runs the built extension with its input directly behind and directly before pages that nobody may read.

A read beyond the input ends the process by SIGSEGV. Run by test_torch_ops_guard.py in a process of its own.
Usage: guard_pages.py N_CASES BEYOND   BEYOND: values by which the slices are said to lie further on (a fault)
"""

# N slices, H, W input

import ctypes
import mmap
import sys
from collections.abc import Iterator

import numpy as np
import torch

from rsna_e2e.loader.kernels import torch_ops

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.uint8)
PROT_NONE = 0  # mman.h; the module mmap has no name for it


class GuardedPages:
    """Memory for n_values of int16 between two pages that cannot be read."""

    def __init__(self, n_values: int) -> None:
        n_bytes = -(-2 * n_values // mmap.PAGESIZE) * mmap.PAGESIZE
        self._memory = mmap.mmap(-1, n_bytes + 2 * mmap.PAGESIZE)
        self._begin = ctypes.addressof(ctypes.c_char.from_buffer(self._memory)) + mmap.PAGESIZE
        self._n_bytes, self._n_values = n_bytes, n_values
        libc = ctypes.CDLL(None, use_errno=True)
        for page in (self._begin - mmap.PAGESIZE, self._begin + n_bytes):
            assert libc.mprotect(ctypes.c_void_p(page), mmap.PAGESIZE, PROT_NONE) == 0

    def at_begin(self, n_more: int) -> torch.Tensor:
        """The values, and n_more after them."""
        return self._values(self._begin, n_more)

    def at_end(self, n_more: int) -> torch.Tensor:
        return self._values(self._begin + self._n_bytes - 2 * self._n_values, n_more)

    def _values(self, address: int, n_more: int) -> torch.Tensor:
        array = (ctypes.c_int16 * (self._n_values + n_more)).from_address(address)
        return torch.from_numpy(np.frombuffer(array, dtype=np.int16))


def matrices(rng: np.random.Generator, n: int, height: int, width: int, size: int) -> torch.Tensor:
    """[n, 2, 3]: upright, turned by right angles or by any; from far inside to far beyond the slice."""
    turn = np.where(rng.random(n) < 0.5, rng.integers(0, 4, n) * np.pi / 2, rng.uniform(0, 2 * np.pi, n))
    scale = min(height, width) / rng.choice([0.3, 1.0, 1.0, 3.0, 40.0], n) / size
    flip = rng.choice([-1.0, 1.0], n)
    linear = np.stack([[np.cos(turn) * flip, -np.sin(turn)], [np.sin(turn) * flip, np.cos(turn)]]) * scale
    linear = linear.transpose(2, 0, 1)
    middle = np.array([width / 2, height / 2]) + rng.choice([0.0, 0.0, 0.5, -1e4], (n, 2))
    shift = middle - linear.sum(axis=2) * (size - 1) / 2
    return torch.from_numpy(np.concatenate([linear, shift[:, :, None]], axis=2).astype(np.float32))


def placed(rng: np.random.Generator, n_values: int, n_more: int) -> Iterator[torch.Tensor]:
    """The same random values at the end and at the begin of what may be read."""
    pages = GuardedPages(n_values)
    noise = torch.from_numpy(rng.integers(-2000, 3000, n_values, dtype=np.int16))
    for values in (pages.at_end(n_more), pages.at_begin(n_more)):
        values[:n_values] = noise
        yield values


def run_case(rng: np.random.Generator, beyond: int) -> None:
    n, height, width = int(rng.integers(1, 4)), int(rng.choice([1, 2, 3, 40, 64])), int(rng.choice([1, 2, 8, 53, 64]))
    width = max(width, 3 - height)  # one pixel alone is no slice
    size, n_channels = int(rng.choice([1, 8, 33, 64, 300])), int(rng.choice([1, 2, 3, 3, 5]))
    extents = [torch.full((n,), extent, dtype=torch.int32) for extent in (height, width)]
    affine = matrices(rng, n, height, width, size)
    windows = torch.tensor([[40.0 + 20 * c, 80.0 + 633 * c] for c in range(n_channels)])
    corner = [rng.integers(-10, extent, n) for extent in (width, height)]
    boxes = torch.from_numpy(np.stack([*corner, rng.integers(11, 80, n)], axis=1).astype(np.int32))
    options = {
        "size": size,
        "source_box": boxes if rng.random() < 0.5 else None,
        "border": str(rng.choice(["zero", "replicate"])),
        "dtype": DTYPES[rng.integers(4)],
        "channels_last": bool(rng.integers(2)),
        "supersample": int(rng.choice([1, 1, 2, 3])),
    }
    results = []
    for values in placed(rng, n * height * width, beyond):
        packed = (values, torch.arange(n) * height * width + beyond, *extents)
        for name in torch_ops.cpu_instruction_sets():
            arguments = (*packed, affine, windows)
            results.append(torch.ops.rsna_e2e.transform_slices(*arguments, instruction_set=name, **options))
        torch_ops.content_box_packed(*packed, windows)
    assert all(torch.equal(result, results[0]) for result in results)


def main() -> None:
    n_cases, beyond = map(int, sys.argv[1:])
    torch.set_num_threads(2)
    rng = np.random.default_rng(1)
    for _ in range(n_cases):
        run_case(rng, beyond)
    sys.stdout.write(f"{n_cases} cases, {' '.join(torch_ops.cpu_instruction_sets())}\n")


if __name__ == "__main__":
    main()
