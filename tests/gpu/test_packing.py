"""What is carried to a machine with a GPU: fit to be loaded there, as small as it must be, and whole again there."""

import ctypes
import shutil
import subprocess
import sys
from pathlib import Path

import fatbin
import packing
import pytest
import unpacking
from made_up_pack import ENTRY_HEADER, PAYLOAD, entry, fatbin_of, make_library, make_site, make_wheels
from packing import PackError, Packing, pack

# Two fatbins: machine code for sm_80 and sm_90, PTX of sm_90; machine code for sm_90 and sm_120.
FIRST = fatbin_of(entry(2, 80, fill=0xAA), entry(2, 90, fill=0xBB), entry(1, 90, fill=0xCC))
SECOND = fatbin_of(entry(2, 90, fill=0xDD), entry(2, 120, fill=0xEE))
DEVICE_CODE = FIRST + bytes(8) + SECOND


@pytest.fixture
def site(tmp_path: Path) -> Path:
    return make_site(tmp_path / "installed", DEVICE_CODE)


@pytest.fixture
def libraries(tmp_path: Path) -> list[Path]:
    """Linked to the CUDA runtime by its name alone."""
    runtime = make_library(tmp_path / "libcudart.so.13", b"\0", flags=["-Wl,-soname,libcudart.so.13"])
    names = ("_C.abi3.so", "_dali-9.9.9.so")
    flags = ["-Wl,--no-as-needed", str(runtime)]
    return [make_library(tmp_path / "built" / name, DEVICE_CODE, flags=flags) for name in names]


def call_seven(library: Path) -> int:
    """Load a library, a copy of it: one that is loaded must not be written to."""
    copy = library.with_name(f"loaded-{library.name}")
    shutil.copy2(library, copy)
    return int(ctypes.CDLL(str(copy)).seven())


def test_device_code_of_other_architectures_becomes_zeros_and_nothing_moves(tmp_path: Path) -> None:
    library = make_library(tmp_path / "lib.so", DEVICE_CODE)
    before = library.read_bytes()
    assert fatbin.machine_code(library) == {80, 90, 120}
    fatbin.zero_other_architectures(library, keep=90)
    after = library.read_bytes()
    assert fatbin.machine_code(library) == {90}
    at = before.index(DEVICE_CODE)
    first_80, only_120 = at + fatbin.HEADER.size + ENTRY_HEADER, at + len(DEVICE_CODE) - PAYLOAD
    expected = bytearray(before)
    expected[first_80 : first_80 + PAYLOAD] = expected[only_120 : only_120 + PAYLOAD] = bytes(PAYLOAD)
    assert after == bytes(expected)
    assert call_seven(library) == 7
    fatbin.zero_other_architectures(library, keep=None)
    assert fatbin.machine_code(library) == set()
    assert library.read_bytes().count(b"\xbb" * PAYLOAD) == library.read_bytes().count(b"\xcc" * PAYLOAD) == 0


def test_a_library_without_device_code_stays_as_it_is() -> None:
    library = packing.ROOT / "rsna_e2e/dicom/_jpeg.abi3.so"
    assert fatbin.machine_code(library) == set()
    with pytest.raises(ValueError, match="not a 64-bit ELF library"):
        fatbin.sections(b"#!/bin/sh\n")


def test_what_was_built_here_can_be_loaded_elsewhere() -> None:
    """The real libraries: the C library that they ask for, the CUDA runtime, and device code of the GPUs in mind."""
    libraries = packing.built_libraries()
    if not fatbin.machine_code(libraries[0]):
        pytest.skip("built without CUDA")
    packing.check_libraries(libraries, 90)
    with pytest.raises(PackError, match=r"_C.abi3.so has machine code for \[.*90.*\], none for sm_61"):
        packing.check_libraries(libraries, 61)


def test_what_cannot_be_loaded_elsewhere_is_refused(
    tmp_path: Path, libraries: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    packing.check_libraries(libraries, 90)
    unlinked = make_library(tmp_path / "_C.abi3.so", DEVICE_CODE)
    with pytest.raises(PackError, match=r"_C\.abi3\.so is not linked to libcudart\.so\.13"):
        packing.check_libraries([unlinked], 90)
    monkeypatch.setattr(packing, "OLDEST_GLIBC", (2, 1))
    with pytest.raises(PackError, match=r"_C.abi3.so asks for glibc \(2, \d+\), the oldest in mind is \(2, 1\)"):
        packing.check_libraries(libraries, 90)


def test_versions_are_those_of_the_lock(tmp_path: Path) -> None:
    lock = tmp_path / "lock.txt"
    lock.write_text("# made by hand\nPydantic_Core==2.1\nother==3\n")
    assert packing.locked(["pydantic-core"], lock) == ["pydantic-core==2.1"]
    with pytest.raises(PackError, match=r"lock\.txt does not name absent"):
        packing.locked(["absent", "other"], lock)
    assert all("==" in line for line in packing.locked((*packing.WHEELS, *packing.DALI_WHEELS)))


def test_what_was_packed_is_whole_again_where_it_is_unpacked(
    tmp_path: Path, site: Path, libraries: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    folder = tmp_path / "pack"
    how = {"site": site, "libraries": libraries, "fetch": make_wheels, "commit": "abc1234", "say": said.append}
    pack(folder, Packing(), **how)
    assert [line.partition(":")[0] for line in said] == ["DALI", str(folder / "1"), str(folder / "2")]
    assert sorted(path.name for path in folder.iterdir()) == ["1", "2"]

    there, scratch = tmp_path / "there", tmp_path / "scratch"
    kernels = there / "rsna_e2e/loader/kernels"
    kernels.mkdir(parents=True)
    monkeypatch.setattr(unpacking, "ROOT", there)
    first = unpacking.unpack(folder / "1", scratch)
    assert (first.n_libraries, first.n_packages, first.has_dali) == (2, len(packing.WHEELS), False)
    assert "1 of 2 pieces of DALI are here" in first.detail
    shutil.rmtree(folder / "1")  # only one is carried at a time
    second = unpacking.unpack(folder / "2", scratch)
    assert (second.n_packages, second.has_dali) == (len(packing.WHEELS) + len(packing.DALI_WHEELS), True)

    assert sorted(path.name for path in kernels.iterdir()) == ["_C.abi3.so", "_dali-9.9.9.so"]
    assert (scratch / "site/carried_pydantic_core.py").read_text() == "PYTHON = '312'\n"
    dali = scratch / "site/nvidia/dali"
    kept = sorted(str(path.relative_to(dali)) for path in dali.rglob("*") if path.is_file())
    module = "backend_impl.cpython-312-x86_64-linux-gnu.so"
    assert kept == [".libs/libcvcuda.so.0", module, "carried.txt", "libdali_operators.so"]
    assert fatbin.machine_code(dali / "libdali_operators.so") == {90}
    assert fatbin.machine_code(dali / ".libs/libcvcuda.so.0") == set()
    assert ".debug_info" not in fatbin.sections((dali / "libdali_operators.so").read_bytes())
    assert call_seven(dali / "libdali_operators.so") == 7


def test_dali_is_found_beside_an_ordinary_package_of_the_same_maker(
    tmp_path: Path, site: Path, libraries: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some packages bring nvidia/__init__.py, which hides parts of it that lie elsewhere."""
    pack(tmp_path / "pack", Packing(), site=site, libraries=libraries, fetch=make_wheels)
    monkeypatch.setattr(unpacking, "ROOT", tmp_path)
    (tmp_path / "rsna_e2e/loader/kernels").mkdir(parents=True)
    for number in (1, 2):
        unpacking.unpack(tmp_path / f"pack/{number}", tmp_path / "scratch")
    (tmp_path / "scratch/site/nvidia/dali/__init__.py").write_text("carried = True\n")
    (tmp_path / "there/nvidia/other").mkdir(parents=True)
    for name in ("nvidia/__init__.py", "nvidia/other/__init__.py"):
        (tmp_path / "there" / name).touch()
    code = "import nvidia.other, nvidia.dali; assert nvidia.dali.carried"
    paths = f"{tmp_path / 'scratch/site'}:{tmp_path / 'there'}"
    subprocess.run([sys.executable, "-S", "-c", code], env={"PYTHONPATH": paths}, check=True)


def test_more_than_may_travel_is_refused(tmp_path: Path, site: Path, libraries: list[Path]) -> None:
    with pytest.raises(PackError, match=r"MiB would travel with .*; 1 may"):
        pack(tmp_path / "pack", Packing(transfer_mib=1), site=site, libraries=libraries, fetch=make_wheels)


def test_libraries_of_other_sources_are_not_taken_and_packages_are(
    tmp_path: Path, site: Path, libraries: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    pack(tmp_path / "pack", Packing(), site=site, libraries=libraries, fetch=make_wheels)
    monkeypatch.setattr(unpacking, "sources_sha256", lambda: "other")
    monkeypatch.setattr(unpacking, "ROOT", tmp_path / "there")  # nothing is written to it: it is not there
    done = unpacking.unpack(tmp_path / "pack/1", tmp_path / "scratch")
    assert (done.n_libraries, done.n_packages) == (0, len(packing.WHEELS))
    assert done.detail.startswith("libraries not taken: built from other sources than this checkout's")


def test_what_is_not_built_or_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "ROOT", tmp_path)
    with pytest.raises(PackError, match=r"not built: _C\.abi3\.so, _jpeg\.abi3\.so\. Run bin/setup\.sh"):
        packing.built_libraries()
    monkeypatch.setattr(packing, "find_spec", lambda name: None)
    with pytest.raises(PackError, match="DALI is not installed"):
        packing.find_dali()
