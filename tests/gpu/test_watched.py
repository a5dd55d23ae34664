"""The kernels watched by sanitizers: no race between CUDA threads, no value read or written outside an array.

Each program runs random calls of transform_slices and content_box (see watched.cpp). Faults that are planted show that
the same run would find one.
"""

import importlib.util
import subprocess
from pathlib import Path

import on_host
import pytest
from on_host import Fault

_SPEC = importlib.util.spec_from_file_location("setup_of_rsna_e2e", on_host.ROOT / "setup.py")
assert _SPEC is not None
assert _SPEC.loader is not None
setup = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(setup)

THREAD, ADDRESS = ("-O1", "-g1", "-fsanitize=thread"), ("-O1", "-g1", "-fsanitize=address")
PARAMS = "csrc/ct_params.cpp"
CUDA = (PARAMS, "tests/gpu/watched.cpp", "tests/gpu/watched_cuda.cpp", on_host.SCHEDULER)
CPU = (
    *(PARAMS, "tests/gpu/watched.cpp", "tests/gpu/watched_cpu.cpp", "csrc/cpu/content.cpp"),
    ("csrc/cpu/dispatch.cpp", "-DRSNA_X86_64_VARIANTS"),
    *(
        ("csrc/cpu/ct_slices.cpp", f"-DRSNA_CPU_KERNEL=transform_rows_{name}", *setup.KERNEL_FLAGS, *flags)
        for name, flags in {"baseline": [], **setup.X86_64_VARIANTS}.items()
    ),
)
EVERY_VARIANT = 16  # cases in a row: see watched.cpp
BARRIER = Fault("csrc/cuda/tiles.h", "__syncwarp();", "")
RACES = {
    "tile_filled_while_it_is_read": BARRIER._replace(nth=1),
    "one_tile_for_all_warps": Fault("csrc/cuda/tiles.h", "tiles[warp]", "tiles[0]"),
    "search_not_begun": Fault("csrc/cuda/content.h", "__syncthreads();", ""),
    "search_not_ended": Fault("csrc/cuda/content.h", "__syncthreads();", "", nth=1),
}
# What may be read ends a pixel too late or begins a pixel too early: at the last slice's end, and at the first's begin.
BOUNDS = {
    "end": Fault(PARAMS, "is_single ? pair_low : high - 1;", "is_single ? pair_low : high;"),
    "begin": Fault(PARAMS, "is_second ? low - 1 : low;", "low - 1;"),
}
Sources = tuple[str | tuple[str, ...], ...]

needs_thread = pytest.mark.skipif(on_host.lacks_sanitizer("tsan"), reason="g++ without ThreadSanitizer (libtsan)")
needs_address = pytest.mark.skipif(on_host.lacks_sanitizer("asan"), reason="g++ without AddressSanitizer (libasan)")


def run(program: Path, *, seed: int, n_cases: int) -> subprocess.CompletedProcess[str]:
    """Run until the first finding."""
    command = [str(program), str(seed), str(n_cases)]
    environment = {"TSAN_OPTIONS": "halt_on_error=1", "ASAN_OPTIONS": "detect_leaks=0"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if "unexpected memory mapping" in done.stderr:  # a kernel that spreads addresses wider than this library knows
        done = subprocess.run(["setarch", "-R", *command], env=environment, capture_output=True, text=True)
        if "setarch" in done.stderr:
            pytest.skip(f"ThreadSanitizer does not run here: {done.stderr.strip()}")
    return done


def check_clean(program: Path, *, seed: int, n_cases: int) -> None:
    done = run(program, seed=seed, n_cases=n_cases)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout == f"seed {seed}: {n_cases} calls of each kernel\n"


def build(folder: Path, sources: Sources, sanitizer: tuple[str, ...], root: Path = on_host.ROOT) -> Path:
    objects = on_host.compile_all(folder / "objects", *sources, root=root, flags=sanitizer)
    return on_host.link(folder / "watched", objects, *sanitizer)


@pytest.fixture(scope="module")
def raced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("raced"), CUDA, THREAD)


@pytest.fixture(scope="module", params=[CUDA, CPU], ids=["cuda", "cpu"])
def bounded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("bounded"), request.param, ADDRESS)


@needs_thread
@pytest.mark.parametrize("seed", [1, 2])
def test_threads_do_not_race(raced: Path, seed: int) -> None:
    check_clean(raced, seed=seed, n_cases=EVERY_VARIANT)


@needs_thread
@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10, 20))
def test_threads_do_not_race_in_many_orders(raced: Path, seed: int) -> None:
    check_clean(raced, seed=seed, n_cases=6 * EVERY_VARIANT)


def check_race(folder: Path, fault: Fault) -> None:
    program = build(folder, CUDA, THREAD, on_host.with_faults(folder / "source", fault))
    for seed in (1, 2, 3):  # whatever the order
        done = run(program, seed=seed, n_cases=EVERY_VARIANT)
        assert "WARNING: ThreadSanitizer: data race" in done.stderr
        assert Path(fault.name).name in done.stderr
        assert done.returncode != 0


@needs_thread
def test_a_missing_barrier_of_a_warp_is_found(tmp_path: Path) -> None:
    check_race(tmp_path, BARRIER)


@needs_thread
@pytest.mark.slow
@pytest.mark.parametrize("fault", RACES.values(), ids=RACES)
def test_other_races_are_found(tmp_path: Path, fault: Fault) -> None:
    check_race(tmp_path, fault)


@needs_address
def test_nothing_outside_an_array_is_touched(bounded: Path) -> None:
    check_clean(bounded, seed=1, n_cases=EVERY_VARIANT)


@needs_address
@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10, 20))
def test_nothing_outside_an_array_is_touched_in_many_cases(bounded: Path, seed: int) -> None:
    check_clean(bounded, seed=seed, n_cases=4 * EVERY_VARIANT)


@needs_address
@pytest.mark.parametrize(
    "fault", [BOUNDS["end"], pytest.param(BOUNDS["begin"], marks=pytest.mark.slow)], ids=["end", "begin"]
)
def test_one_pixel_too_far_is_found(bounded: Path, tmp_path: Path, fault: Fault) -> None:
    root = on_host.with_faults(tmp_path / "source", fault)
    faulty = on_host.compile_all(tmp_path / "objects", PARAMS, root=root, flags=ADDRESS)
    rest = [one for one in sorted((bounded.parent / "objects").iterdir()) if one.name != faulty[0].name]
    program = on_host.link(tmp_path / "watched", [*faulty, *rest], *ADDRESS)
    done = run(program, seed=1, n_cases=20 * EVERY_VARIANT)
    assert "ERROR: AddressSanitizer: heap-buffer-overflow" in done.stderr
    assert "csrc/" in done.stderr
    assert done.returncode != 0
