"""Memory of results on the CPU: reused within bounds once no tensor holds it, or the tensor given as `out`."""

# N slices, C channels, S output size

import itertools
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from rsna_e2e.loader.kernels import torch_ops
from rsna_e2e.tasks.ich import ICH

WINDOWS = ICH.inputs.windows_hu
MIB = 2**20
MOST_IDLE = 1024 * MIB  # kMostIdle in csrc/bindings/result_memory.cpp


def arguments(n: int, *, side: int = 40, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Slices of noise, and matrices that show all of them and some of what lies outside."""
    hu = torch.randint(-1500, 2500, (n, side, side), dtype=torch.int16, generator=torch.Generator().manual_seed(seed))
    return hu, torch.tensor([[0.4, 0.1, -3.0], [-0.1, 0.4, 2.0]]).repeat(n, 1, 1)


def transform(n: int = 4, *, size: int = 112, seed: int = 0, **options: Any) -> torch.Tensor:
    """Images of noise; of 112 px they take 0.6 MB."""
    return torch_ops.transform_slices(*arguments(n, seed=seed), WINDOWS, size=size, **options)


@pytest.fixture(autouse=True)
def _nothing_kept() -> Iterator[None]:
    torch_ops.release_idle_memory()
    yield
    torch_ops.release_idle_memory()


# Memory that is used again


def test_memory_of_a_result_that_is_gone_is_used_again() -> None:
    images = transform()
    address = images.data_ptr()
    del images
    assert torch_ops.idle_memory_bytes() >= 4 * 3 * 112 * 112 * 4
    assert transform().data_ptr() == address


@pytest.mark.parametrize(
    "hold",
    [
        lambda images: images,
        lambda images: images[2:3, 1],
        lambda images: images.permute(0, 2, 3, 1),
        lambda images: images[0].numpy(),
        lambda images: torch.utils.dlpack.to_dlpack(images),
    ],
    ids=["itself", "part", "permuted", "numpy", "dlpack"],
)
def test_memory_that_something_holds_is_not_used_again(hold: Callable[[torch.Tensor], Any]) -> None:
    images = transform()
    begin, end, expected = images.data_ptr(), images.data_ptr() + images.nbytes, images.clone()
    held = hold(images)
    del images
    later = [transform(seed=seed) for seed in range(1, 5)]
    assert all(other.data_ptr() >= end or other.data_ptr() + other.nbytes <= begin for other in later)
    if isinstance(held, torch.Tensor):
        assert torch.equal(held, hold(expected))
    del held
    assert transform().data_ptr() == begin


def test_results_that_are_held_together_do_not_overlap() -> None:
    held = [transform(n, seed=n) for n in (4, 9, 5, 7)]
    del held[1:3]  # their memory, joined or apart, serves the next ones
    held += [transform(n, seed=n) for n in (3, 6, 2, 8)]
    extents = sorted((images.data_ptr(), images.data_ptr() + images.nbytes) for images in held)
    assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(extents))
    for images in held:
        assert torch.equal(images, transform(len(images), seed=len(images)))


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.uint8])
def test_values_do_not_depend_on_what_was_in_the_memory(dtype: torch.dtype, channels_last: bool) -> None:
    options: dict[str, Any] = {"size": 149, "dtype": dtype, "channels_last": channels_last}
    fresh = transform(**options)
    expected, address = fresh.clone(), fresh.data_ptr()
    for poison in (0xFF, 0x7F, 0x00):  # NaN, the largest, zero
        fresh.untyped_storage().fill_(poison)
        del fresh
        fresh = transform(**options)
        assert fresh.data_ptr() == address
        assert torch.equal(fresh, expected)


@pytest.mark.parametrize("n_channels", [1, 3])
@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("channels_last", [False, True])
def test_strides_are_those_that_torch_gives(channels_last: bool, n: int, n_channels: int) -> None:
    images = torch_ops.transform_slices(*arguments(n), WINDOWS[:n_channels], size=300, channels_last=channels_last)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    assert images.stride() == torch.empty(images.shape, memory_format=memory_format).stride()


def test_what_is_kept_is_bounded_and_goes_back_on_demand() -> None:
    results = [transform(96, size=600, dtype=torch.float32) for _ in range(3)]  # 396 MiB each
    assert torch_ops.idle_memory_bytes() == 0
    results.clear()
    assert torch_ops.idle_memory_bytes() == MOST_IDLE
    before = resident_bytes()
    assert torch_ops.release_idle_memory() == MOST_IDLE
    assert torch_ops.idle_memory_bytes() == 0
    assert before - resident_bytes() > 0.9 * MOST_IDLE


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


MIXED_BATCHES = """
import numpy as np, torch
from test_torch_ops_memory import resident_bytes, transform
torch.set_num_threads(1)
lengths = np.random.default_rng(0).integers(3, 61, 200).tolist()
transform(1, size=160)
before, held, resident, in_use = resident_bytes(), [], [], []
for n in lengths:
    held = [*held[-2:], transform(n, size=160)]  # for a moment four: as a loader and its consumer have them
    resident.append(resident_bytes() - before)
    in_use.append(sum(map(len, held)) * 3 * 160 * 160 * 4)
most = max(in_use) + 60 * 3 * 160 * 160 * 4
assert max(resident) < 1.6 * most, (max(resident), most)
"""

THREADS = """
import threading, torch
from rsna_e2e.loader.kernels import torch_ops
from test_torch_ops_memory import packed, transform
torch.set_num_threads(1)
options = [{"size": size, "dtype": torch.uint8} for size in (120, 150, 190)]  # little work between two visits
expected = [torch.ops.rsna_e2e.transform_slices(*packed(), **one).clone() for one in options]
wrong = []

def work(number):
    kept, arguments = [], packed()
    for turn in range(300):
        which = (number + turn) % 3
        kept.append((which, torch.ops.rsna_e2e.transform_slices(*arguments, **options[which])))
        if len(kept) > 3:
            which, images = kept.pop(0)
            wrong.extend([which] * (not torch.equal(images, expected[which])))
        if turn % 20 == number:
            torch_ops.release_idle_memory()

threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert not wrong
assert 0 < torch_ops.idle_memory_bytes() <= 1.5 * 4 * 5 * 4 * 3 * 190 * 190
"""

FORKS = """
import os, threading, time, torch
from rsna_e2e.loader.kernels import torch_ops
from test_torch_ops_memory import transform
torch.set_num_threads(1)
expected, is_over = transform().clone(), False

def disturb():
    while not is_over:
        transform(8, size=480)
        torch_ops.release_idle_memory()  # takes its time, and lets nobody in

def end_of(child):
    deadline_s = time.monotonic() + 20
    while time.monotonic() < deadline_s:
        number, status = os.waitpid(child, os.WNOHANG)
        if number:
            return status
        time.sleep(0.001)
    os.kill(child, 9)
    return "it waits for ever"

threads = [threading.Thread(target=disturb) for _ in range(2)]
for thread in threads:
    thread.start()
try:
    for _ in range(40):
        child = os.fork()
        if child == 0:
            os._exit(0 if torch.equal(transform(), expected) else 1)
        status = end_of(child)
        assert status == 0, status
finally:
    is_over = True
    for thread in threads:
        thread.join()
"""


NO_MEMORY = """
import resource
import pytest
from rsna_e2e.loader.kernels import torch_ops
from test_torch_ops_memory import transform
transform()
mapped = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (mapped + 2**29, mapped + 2**29))
with pytest.raises(RuntimeError, match="out of memory: 1207959552 bytes for a result cannot be had"):
    transform(96, size=1024)
assert transform().isfinite().all()
"""

SCRIPTS = {
    "mixed_batches_take_flat_memory": MIXED_BATCHES,
    "threads_share_it": THREADS,
    "children_of_fork": FORKS,
    "no_memory": NO_MEMORY,
}


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
def test_in_a_process_of_its_own(script: str) -> None:
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", script]
    subprocess.run(command, check=True, cwd=Path(__file__).parent, timeout=120)


def test_results_are_tensors_like_any_other() -> None:
    expected = transform()
    with torch.inference_mode():
        inferred = transform()
    assert inferred.is_inference()
    assert torch.equal(inferred, expected)
    weight = torch.ones(1, requires_grad=True)
    images = transform()
    (images * weight).sum().backward()
    torch.testing.assert_close(weight.grad, expected.sum()[None])
    images.share_memory_()
    assert images.is_shared()
    assert torch.equal(images, expected)


# A tensor that is given


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_out_is_filled_and_returned(dtype: torch.dtype, channels_last: bool) -> None:
    options: dict[str, Any] = {"dtype": dtype, "channels_last": channels_last}
    expected = transform(**options)
    larger = torch.full((6, *expected.shape[1:]), 77, dtype=dtype)
    larger = larger.contiguous(memory_format=torch.channels_last) if channels_last else larger
    out = larger[1:5]
    assert transform(**options, out=out) is out
    assert torch.equal(out, expected)
    assert (larger[0] == 77).all()
    assert (larger[5] == 77).all()


def _images(*shape: int, **options: Any) -> torch.Tensor:
    return torch.empty(shape or (4, 3, 112, 112), **options)


BAD_OUT = {
    "shape": (_images(4, 3, 112, 111), r"out must have shape \[4, 3, 112, 112\]"),
    "dims": (_images(4, 3, 112 * 112), r"out must have shape \[4, 3, 112, 112\]"),
    "type": (_images(dtype=torch.float16), "out must have the type that dtype says"),
    "layout": (_images(memory_format=torch.channels_last), "out must be contiguous"),
    "gaps": (_images(4, 3, 112, 120)[..., :112], "out must be contiguous"),
    "repeated": (_images(1, 3, 112, 112).expand(4, 3, 112, 112), "out must be contiguous"),
    "gradient": (_images(requires_grad=True), "out must not require a gradient"),
    "device": (_images(device="meta"), "out must be on the device of the values"),
}


@pytest.mark.parametrize(("out", "message"), BAD_OUT.values(), ids=BAD_OUT)
def test_out_that_does_not_fit_is_refused(out: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        transform(out=out)


def test_out_in_other_memory_than_channels_last_is_refused() -> None:
    with pytest.raises(ValueError, match="out must be in channels-last memory, without gaps"):
        transform(out=_images(), channels_last=True)


def test_out_over_the_values_is_refused() -> None:
    memory = torch.zeros(4 * 40 * 40 * 2, dtype=torch.uint8)
    values = memory[: 2 * 4 * 40 * 40].view(torch.int16).view(4, 40, 40)
    out = memory[-3 * 16 * 16 * 4 :].view(4, 3, 16, 16)
    with pytest.raises(ValueError, match="out must not share memory with the values"):
        torch_ops.transform_slices(values, arguments(4)[1], WINDOWS, size=16, dtype=torch.uint8, out=out)


def test_a_gradient_that_needs_the_old_values_is_not_made_of_new_ones() -> None:
    out = transform()
    loss = (out * torch.ones(1, requires_grad=True)).sum()
    transform(seed=1, out=out)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_out_in_inference_mode() -> None:
    with torch.inference_mode():
        out = _images()
        assert torch.equal(transform(out=out), transform())


def packed() -> tuple[torch.Tensor, ...]:
    hu, affine = arguments(4)
    extents = torch.full((4,), 40, dtype=torch.int32)
    return hu.reshape(-1), torch.arange(4) * 1600, extents, extents, affine, torch.tensor(WINDOWS)


@pytest.mark.parametrize("channels_last", [False, True])
def test_opcheck(channels_last: bool) -> None:
    out = torch.empty_like(transform(channels_last=channels_last))
    options = {"size": 112, "channels_last": channels_last, "out": out}
    torch.library.opcheck(torch.ops.rsna_e2e.transform_slices_out.default, packed(), options)


@pytest.mark.filterwarnings("ignore:No CUDA runtime is found")
def test_compiles_without_a_graph_break() -> None:
    hu, affine = arguments(4)
    out = _images()

    def double(hu: torch.Tensor, affine: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        return 2 * torch_ops.transform_slices(hu, affine, WINDOWS, size=112, out=out)

    compiled = torch.compile(double, fullgraph=True, backend="aot_eager")
    expected = transform()
    assert torch.equal(compiled(hu, affine, out), 2 * expected)
    assert torch.equal(out, expected)
