"""Compiles csrc/cuda for every architecture without a GPU, and counts what the machine code of each kernel costs.

sm_70 needs NVRTC 12 (PyPI: nvidia-cuda-nvrtc-cu12), because CUDA 13 has dropped it; the others take nvcc of CUDA 13.
Run by bin/check_cuda_source.sh; exit code 0: all compile, 1: one does not, 4: a compiler is missing.
"""

import argparse
import ctypes
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "csrc/cuda/ct_slices.cu"
CLANG_HEADER = ROOT / "tests/gpu/clang_device.h"
PACKAGES = Path(sysconfig.get_path("purelib"))
NVRTC_ARCHITECTURES = ("sm_70",)
NVCC_ARCHITECTURES = ("sm_75", "sm_80", "sm_90", "sm_100")
OPTIONS = ("-std=c++17", "--fmad=false")
FAILED, MISSING = 1, 4

INSTRUCTION = re.compile(r"^\s+/\*([0-9a-f]{4,5})\*/\s+(.*?)\s*;")
JUMP_BACK = re.compile(r"\bBRA\b.*?0x([0-9a-f]+)")
TAP = re.compile(r"\bLDG\.E(\.\w+)*\.[SU]16\b")  # a load of one int16; four make a sample
MEMORY = re.compile(r"^(?:@!?U?P\w+\s+)?((?:LDG|STG|LDL|STL|ld\.global|st\.global|ld\.local|st\.local)\b[\w.]*)")
KERNEL = re.compile(r"(transform_tiles|transform_pixels|find_content)(?:INS_\d+(\w+?)E(?:Li(\d)ELb(\d))?)?E")


def nvrtc_library(major: int) -> Path | None:
    """NVRTC as PyPI installs it."""
    folders = {12: "nvidia/cuda_nvrtc/lib", 13: "nvidia/cu13/lib"}
    path = PACKAGES / folders[major] / f"libnvrtc.so.{major}"
    return path if path.exists() else None


def nvcc_path() -> Path | None:
    """PyPI's nvcc, or the one on the PATH."""
    path = PACKAGES / "nvidia/cu13/bin/nvcc"
    on_path = shutil.which("nvcc")
    return path if path.exists() else Path(on_path) if on_path else None


def cuobjdump_path(nvcc: Path | None) -> Path | None:
    """The disassembler beside nvcc, on the PATH, or in Triton's package."""
    on_path = shutil.which("cuobjdump")
    places = [
        *([nvcc.resolve().parent / "cuobjdump"] if nvcc else []),
        *([Path(on_path)] if on_path else []),
        PACKAGES / "triton/backends/nvidia/bin/cuobjdump",
    ]
    return next((place for place in places if place.exists()), None)


def clang_path() -> Path | None:
    """Clang, which reads CUDA too, under its own name or with a version behind it."""
    names = ("clang++", *(f"clang++-{version}" for version in range(30, 13, -1)))
    return next((Path(found) for found in map(shutil.which, names) if found), None)


def compile_with_clang(clang: Path, architecture: str, output: Path) -> str | None:
    """Write PTX; return the compiler's messages if it fails. A second front end, in which warnings are errors."""
    command = [
        *(str(clang), "-x", "cuda", "--cuda-device-only", f"--cuda-gpu-arch={architecture}", "-std=c++17", "-O3"),
        *("-nocudainc", "-nocudalib", "-Wno-unknown-cuda-version", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror"),
        *("-D__CUDACC_RTC__", "-include", str(CLANG_HEADER), "-S", str(SOURCE), "-o", str(output)),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    return None if done.returncode == 0 else done.stderr


def compile_with_nvrtc(library: Path, architecture: str, output: Path) -> str | None:
    """Write the machine code, and beside it the PTX; return the compiler's messages if it fails."""
    nvrtc = ctypes.CDLL(str(library))
    program = ctypes.c_void_p()
    options = (f"--gpu-architecture={architecture}", *OPTIONS, f"--include-path={SOURCE.parent}")
    encoded = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
    assert nvrtc.nvrtcCreateProgram(ctypes.byref(program), SOURCE.read_bytes(), b"ct_slices.cu", 0, None, None) == 0
    try:
        if nvrtc.nvrtcCompileProgram(program, len(options), encoded) != 0:
            log = _text_of(nvrtc, program, "ProgramLog").rstrip(b"\0")
            return log.decode() or f"NVRTC does not know {architecture}"
        output.write_bytes(_text_of(nvrtc, program, "CUBIN"))
        output.with_suffix(".ptx").write_bytes(_text_of(nvrtc, program, "PTX").rstrip(b"\0"))
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    return None


def _text_of(nvrtc: ctypes.CDLL, program: ctypes.c_void_p, what: str) -> bytes:
    n_bytes = ctypes.c_size_t()
    getattr(nvrtc, f"nvrtcGet{what}Size")(program, ctypes.byref(n_bytes))
    text = ctypes.create_string_buffer(n_bytes.value)
    getattr(nvrtc, f"nvrtcGet{what}")(program, text)
    return text.raw


def compile_with_nvcc(nvcc: Path, architecture: str, output: Path) -> str | None:
    """Write an object with the machine code, host half included; return the compiler's messages if it fails."""
    command = [str(nvcc), *OPTIONS, "-O3", "-Werror", "all-warnings", "-Xcompiler=-Wall,-Wextra,-Werror"]
    target = f"-gencode=arch={architecture.replace('sm', 'compute')},code={architecture}"
    done = subprocess.run([*command, target, "-c", SOURCE, "-o", output], capture_output=True, text=True)
    return None if done.returncode == 0 else f"{done.stdout}{done.stderr}"


@dataclass(frozen=True)
class Cost:
    """What one kernel takes. per_sample: executed instructions per output pixel (of every channel), by main loop."""

    kernel: str
    n_registers: int
    local_bytes: int  # of stack: spilled registers and arrays that are indexed at run time
    per_sample: tuple[float, ...]


def costs(cuobjdump: Path, compiled: Path) -> list[Cost]:
    """What each kernel of the machine code takes; per_sample is empty where it cannot be disassembled."""
    usage = subprocess.run([cuobjdump, "--dump-resource-usage", compiled], capture_output=True, text=True, check=True)
    found = re.findall(r"Function (\w+):\s+REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", usage.stdout)
    code = dict(_functions(disassembled(cuobjdump, compiled)[0]))
    return sorted(
        (
            Cost(
                _short_name(name),
                int(registers),
                int(stack) + int(local),
                tuple(_main_loops(code.get(name, []))) if "transform" in name else (),
            )
            for name, registers, stack, local in found
        ),
        key=lambda cost: cost.kernel,
    )


def disassembled(cuobjdump: Path, compiled: Path) -> tuple[str, str]:
    """The machine code as text, and why there is none: the last disassembler of an architecture may be an older one."""
    sass = subprocess.run([cuobjdump, "--dump-sass", compiled], capture_output=True, text=True)
    return (sass.stdout, "") if sass.returncode == 0 else ("", sass.stderr.strip())


def accesses(cuobjdump: Path, compiled: Path) -> dict[str, Counter[str]]:
    """How often each kernel has which instruction for global or local memory: of PTX where there is some beside."""
    ptx = compiled.with_suffix(".ptx")
    if ptx.exists():
        entries = (part for part in ptx.read_text().split(".entry ")[1:])
        lines = {_short_name(part.split("(")[0]): part.splitlines() for part in entries}
    else:
        sass, _ = disassembled(cuobjdump, compiled)
        lines = {_short_name(name): [text for _, text in code] for name, code in _functions(sass)}
    return {
        kernel: Counter(match[1] for match in (MEMORY.match(line.strip()) for line in texts) if match)
        for kernel, texts in lines.items()
    }


def _short_name(mangled: str) -> str:
    match = KERNEL.search(mangled)
    if match is None:
        return mangled
    kernel, output, n_channels, channels_last = match.groups()
    parts = [
        kernel,
        output or "",
        f"{n_channels} channels" if n_channels else "",
        "last" if channels_last == "1" else "",
    ]
    return " ".join(part for part in parts if part)


def _functions(sass: str) -> Iterator[tuple[str, list[tuple[int, str]]]]:
    for part in sass.split("Function : ")[1:]:
        matches = (INSTRUCTION.match(line) for line in part.splitlines())
        yield part.split()[0], [(int(match[1], 16), match[2]) for match in matches if match and match[2] != "NOP"]


def _main_loops(code: list[tuple[int, str]]) -> Iterator[float]:
    """Instructions per sample of each loop that reads taps, without those of loops inside it that read none."""
    jumps = ((JUMP_BACK.search(text), address) for address, text in code)
    loops = [(int(jump[1], 16), address) for jump, address in jumps if jump and int(jump[1], 16) < address]
    taps = [address for address, text in code if TAP.search(text)]
    for begin, end in loops:
        n_taps = sum(begin <= tap <= end for tap in taps)
        inner = [(low, high) for low, high in loops if begin <= low and high <= end and (low, high) != (begin, end)]
        if n_taps == 0 or n_taps % 4:
            continue
        if any(low <= tap <= high for low, high in inner for tap in taps):
            continue  # the loop inside is the one
        skipped = [address for address, _ in code if any(low <= address <= high for low, high in inner)]
        n_instructions = sum(begin <= address <= end for address, _ in code) - len(set(skipped))
        yield round(n_instructions / (n_taps / 4), 1)


def compile_for(architecture: str, output: Path) -> str | None:
    """Compile; return what went wrong. Raises LookupError with the way out if the compiler is missing."""
    if architecture in NVRTC_ARCHITECTURES:
        library = nvrtc_library(12)
        if library is None:
            raise LookupError("no NVRTC 12. To install it: pip install 'nvidia-cuda-nvrtc-cu12==12.9.*'")
        return compile_with_nvrtc(library, architecture, output)
    nvcc = nvcc_path()
    if nvcc is None:
        raise LookupError("no nvcc. To install it: pip install nvidia-cuda-nvcc nvidia-cuda-crt nvidia-nvvm")
    return compile_with_nvcc(nvcc, architecture, output)


def report(cuobjdump: Path | None, compiled: Path) -> Iterator[str]:
    """Lines on each kernel of the machine code."""
    if cuobjdump is None:
        yield "  no cuobjdump: nothing counted"
        return
    why_not = disassembled(cuobjdump, compiled)[1]
    if why_not:
        yield f"  instructions not counted, {cuobjdump.name} says: {why_not}"
    for cost in costs(cuobjdump, compiled):
        loops = ", ".join(str(one) for one in cost.per_sample)
        instructions = f", at most {loops} instructions per pixel and sample" if loops else ""
        yield f"  {cost.kernel:44} {cost.n_registers:3} registers, {cost.local_bytes} bytes of stack{instructions}"


def main() -> int:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    status = 0
    with tempfile.TemporaryDirectory() as folder:
        for architecture in (*NVRTC_ARCHITECTURES, *NVCC_ARCHITECTURES):
            output = Path(folder) / architecture
            try:
                failure = compile_for(architecture, output)
            except LookupError as error:
                print(f"{architecture}: NOT CHECKED, {error}")
                status = status or MISSING
                continue
            print(f"{architecture}: {'compiles' if failure is None else 'DOES NOT COMPILE'}")
            if failure is not None:
                print(failure)
                status = FAILED
                continue
            print(*report(cuobjdump_path(nvcc_path()), output), sep="\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
