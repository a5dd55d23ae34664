"""The CUDA source on machines without a GPU: it compiles for every architecture, and its arithmetic is the CPU's."""

import ctypes
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest
import torch

from rsna_e2e import ops

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "csrc/cuda/ct_slices.cu"
TOOLKIT = Path(sysconfig.get_path("purelib")) / "nvidia/cu13"
NVRTC = sorted(TOOLKIT.glob("lib/libnvrtc.so.*"))
ARCHITECTURES = ("sm_75", "sm_80", "sm_90", "sm_100")
EXACT_FLAGS = ("-O2", "-ffp-contract=off", "-Wno-unknown-pragmas")
TYPES = (torch.float32, torch.float16, torch.bfloat16, torch.uint8)


@pytest.fixture(scope="module")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The CUDA kernel's source, compiled for the host."""
    library = tmp_path_factory.mktemp("emulated") / "emulated.so"
    sources = [ROOT / "tests/gpu/emulate_cuda.cpp", ROOT / "csrc/ct_params.cpp"]
    command = ["g++", "-std=c++20", "-shared", "-fPIC", *EXACT_FLAGS, f"-I{ROOT}", *map(str, sources)]
    subprocess.run([*command, "-o", str(library)], check=True)
    return ctypes.CDLL(str(library))


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(("n_channels", "supersample", "with_box"), [(3, 1, True), (1, 2, False), (6, 3, True)])
@pytest.mark.parametrize("dtype", TYPES)
def test_emulated_kernel_gives_the_bits_of_the_cpu(
    emulated: ctypes.CDLL,
    dtype: torch.dtype,
    n_channels: int,
    supersample: int,
    with_box: bool,
    channels_last: bool,
) -> None:
    n, height, width, size = 3, 40, 53, 33
    generator = torch.Generator().manual_seed(n_channels)
    hu = torch.randint(-1200, 2000, (n, height, width), dtype=torch.int16, generator=generator)
    affine = (
        torch.tensor([[[1.1, -0.5, 9.0], [0.5, 1.3, -8.0]]]).repeat(n, 1, 1)
        + torch.rand(n, 2, 3, generator=generator) * 0.1
    )
    box = torch.tensor([[4, -3, 30], [20, 8, 60], [7, 7, 1]], dtype=torch.int32) if with_box else None
    windows = torch.tensor([[40.0 + 20 * c, 80.0 + 33 * c] for c in range(n_channels)])
    border = "replicate" if with_box else "zero"
    lowest_hu = hu.amin((1, 2)).int() if dtype == torch.uint8 else None
    expected = ops.transform_slices(
        hu,
        affine,
        windows,
        size=size,
        source_box=box,
        border=border,
        dtype=dtype,
        channels_last=channels_last,
        supersample=supersample,
        lowest_hu=lowest_hu,
    )
    result = torch.empty_like(expected)  # keeps the memory layout
    emulated.emulate(
        *(ctypes.c_void_p(hu.data_ptr()), ctypes.c_int64(n), height, width, ctypes.c_void_p(affine.data_ptr())),
        *(None if box is None else ctypes.c_void_p(box.data_ptr()), n_channels, ctypes.c_void_p(windows.data_ptr())),
        *(size, supersample, with_box, TYPES.index(dtype), channels_last),
        *(None if lowest_hu is None else ctypes.c_void_p(lowest_hu.data_ptr()), ctypes.c_void_p(result.data_ptr())),
    )
    assert torch.equal(result, expected)


def test_emulated_search_finds_the_boxes_of_the_cpu(emulated: ctypes.CDLL) -> None:
    hu = torch.full((4, 30, 41), -1000, dtype=torch.int16)
    hu[0, 5:9, 7:30] = 40
    hu[1, 29, 40] = 40
    hu[2] = 40
    windows = torch.tensor([[40.0, 80.0]])
    expected = ops.content_box(hu, windows)
    boxes = torch.full_like(expected, -1)
    emulated.emulate_content(
        *(ctypes.c_void_p(hu.data_ptr()), ctypes.c_int64(4), 30, 41),
        *(1, ctypes.c_void_p(windows.data_ptr()), ctypes.c_void_p(boxes.data_ptr())),
    )
    assert expected.tolist() == [[7, 5, 30, 9], [40, 29, 41, 30], [0, 0, 41, 30], [0, 0, 0, 0]]
    assert torch.equal(boxes, expected)


@pytest.mark.skipif(not NVRTC, reason=f"no NVRTC in {TOOLKIT}")
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_device_code_compiles_without_host_headers(architecture: str) -> None:
    nvrtc = ctypes.CDLL(str(NVRTC[-1]))
    program = ctypes.c_void_p()
    options = (f"--gpu-architecture={architecture}", "--fmad=false", "--std=c++17", f"--include-path={SOURCE.parent}")
    encoded = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
    assert nvrtc.nvrtcCreateProgram(ctypes.byref(program), SOURCE.read_bytes(), b"ct_slices.cu", 0, None, None) == 0
    try:
        status = nvrtc.nvrtcCompileProgram(program, len(options), encoded)
        n_characters = ctypes.c_size_t()
        nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(n_characters))
        log = ctypes.create_string_buffer(n_characters.value)
        nvrtc.nvrtcGetProgramLog(program, log)
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    assert status == 0, log.value.decode()


@pytest.mark.skipif(not (TOOLKIT / "bin/nvcc").exists() and shutil.which("nvcc") is None, reason="no nvcc")
def test_source_compiles_with_nvcc(tmp_path: Path) -> None:
    nvcc = TOOLKIT / "bin/nvcc"
    command = [str(nvcc) if nvcc.exists() else "nvcc", "-std=c++17", "--fmad=false", "-Werror", "all-warnings", "-c"]
    targets = [f"-gencode=arch={one.replace('sm', 'compute')},code={one}" for one in ARCHITECTURES]
    subprocess.run([*command, *targets, str(SOURCE), "-o", str(tmp_path / "cuda.o")], check=True)
