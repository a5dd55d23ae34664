"""What compilers make of the kernels: whole vectors stored, int16 read past the writable caches, nothing spilled.

sm_70, of the V100, is judged by NVRTC 12: registers and spills from its machine code, which today's disassemblers do
not read any more, and accesses from its PTX, of which the machine code has one instruction each.
"""

import re
from collections import Counter
from pathlib import Path

import cuda_source
import on_host
import pytest
from cuda_source import Cost
from on_host import Fault

ARCHITECTURES = ("sm_70", pytest.param("sm_80", marks=pytest.mark.slow), "sm_90")
# 65,536 registers for 8 blocks of 128 threads (__launch_bounds__ of transform_tiles). The 8-bit mode, in float64, is
# for the published reference alone and takes more.
MOST_REGISTERS = 64
N_KERNELS = 14  # see test_source.py
TAP = re.compile(r"LDG\.E(\.\w+)*\.[SU]16|ld\.global(\.\w+)*\.[su]16")  # a load of one int16
READ_ONLY = re.compile(r"CONSTANT|\.nc\b")
VECTOR_STORE = re.compile(r"STG\.E(\.\w+)*\.128|st\.global(\.\w+)*\.v4\.[ub]32")
LOCAL = re.compile(r"LDL|STL|(ld|st)\.local")


def vectors_per_lane(kernel: str) -> int:
    """How many vectors of 16 bytes a lane has of a tile of 32 x 4 pixels, rounded up."""
    n_channels, value_bytes = int(kernel.split()[2]), 4 if "Float32" in kernel else 2
    return -(-32 * 4 * n_channels * value_bytes // 16 // 32)


def complaints(cost: Cost, accesses: Counter[str]) -> list[str]:
    """What is not as it should be."""
    taps = [name for name in accesses if TAP.match(name)]
    wrong = [f"{name} is not read-only" for name in taps if not READ_ONLY.search(name)]
    wrong += ["reads no int16"] if not taps else []
    wrong += [f"{cost.local_bytes} bytes of stack"] if cost.local_bytes else []
    wrong += [f"{name} is local" for name in accesses if LOCAL.match(name)]
    if cost.n_registers > MOST_REGISTERS and "UInt8" not in cost.kernel:
        wrong.append(f"{cost.n_registers} registers")
    if cost.kernel.startswith("transform_tiles"):
        n_vectors = sum(n for name, n in accesses.items() if VECTOR_STORE.match(name))
        wanted = 2 * vectors_per_lane(cost.kernel)  # the way inside a slice and the way across its border
        wrong += [f"{n_vectors} stores of 16 bytes, not {wanted}"] if n_vectors != wanted else []
    return wrong


def judged(architecture: str, folder: Path) -> dict[str, list[str]]:
    """Complaints about each kernel. Skips where a compiler or the disassembler is missing."""
    cuobjdump = cuda_source.cuobjdump_path(cuda_source.nvcc_path())
    if cuobjdump is None:
        pytest.skip("no cuobjdump")
    output = folder / architecture
    try:
        assert cuda_source.compile_for(architecture, output) is None
    except LookupError as error:
        pytest.skip(f"{architecture}: {error}")
    accesses = cuda_source.accesses(cuobjdump, output)
    costs = cuda_source.costs(cuobjdump, output)
    assert {cost.kernel for cost in costs} == set(accesses)
    return {cost.kernel: complaints(cost, accesses[cost.kernel]) for cost in costs}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_vectors_are_stored_and_nothing_is_spilled(architecture: str, tmp_path: Path) -> None:
    found = judged(architecture, tmp_path)
    assert len(found) == N_KERNELS
    assert {kernel: wrong for kernel, wrong in found.items() if wrong} == {}


def test_registers_are_counted() -> None:
    accesses = Counter({"LDG.E.S16.CONSTANT": 4, "STG.E.128": 2})
    kernel = "transform_tiles Float32Pairs 1 channels"
    assert complaints(Cost(kernel, 64, 0, ()), accesses) == []
    assert complaints(Cost(kernel, 65, 0, ()), accesses) == ["65 registers"]


@pytest.mark.parametrize("architecture", ["sm_70", pytest.param("sm_90", marks=pytest.mark.slow)])
def test_what_is_planted_is_found(architecture: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = on_host.with_faults(
        tmp_path / "source",
        Fault("csrc/cuda/ptx.h", "ld.global.nc.s16", "ld.global.s16"),
        Fault("csrc/cuda/tiles.h", "__launch_bounds__(kTileThreads, 8)", "__launch_bounds__(kTileThreads, 16)"),
        Fault("csrc/cuda/tiles.h", "if (is_aligned && column + kTileWidth <= size) {", "if (false) {"),
    )
    monkeypatch.setattr(cuda_source, "SOURCE", root / "csrc/cuda/ct_slices.cu")
    found = judged(architecture, tmp_path)
    assert len(found) == N_KERNELS
    for kernel, wrong in found.items():
        assert any("is not read-only" in one for one in wrong), kernel
        if kernel.startswith("transform_tiles"):
            assert any("0 stores of 16 bytes" in one for one in wrong), kernel
    assert any("bytes of stack" in one for wrong in found.values() for one in wrong)
