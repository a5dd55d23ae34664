"""Each part of a check by itself, at tiny size on the CPU: what it writes down, and that it sees what is wrong."""

import functools
import os
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import counters
import part_kernel
import part_loading
import part_setup
import part_step
import part_store
import part_tests
import pytest
import torch
from context import Context, MissingError, store_folder
from devices import Cpu, HostEvent
from journal import Journal, Line
from scales import TINY

from rsna_e2e.loader.read_ahead import BufferPool
from rsna_e2e.training.series_step import SeriesStep

needs_dali = pytest.mark.needs_dali


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return Context("tried", Journal(tmp_path / "figures.jsonl"), "cpu", "tiny", tmp_path / "scratch", None)


@pytest.fixture(scope="module")
def made_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scratch folder in which the part `store` has made one."""
    folder = tmp_path_factory.mktemp("simulated")
    context = Context("store", Journal(folder / "figures.jsonl"), "cpu", "tiny", folder, None)
    part_store.store(context)
    names = [line["name"] for line in figures(context)]
    assert names == [f"simulating {TINY.n_studies} studies, n = 1", "preparing a store of them, n = 1"]
    assert context.is_good
    return folder


def figures(context: Context) -> list[Line]:
    return context.journal.lines("figure")


def named(context: Context, name: str) -> Line:
    (line,) = [line for line in figures(context) if line["name"] == name]
    return line


def test_steps_of_every_kind(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)  # and back to what it was
    part_step.more_steps(context)
    assert context.is_good, figures(context)
    short, long = TINY.short, TINY.long
    assert [line["name"] for line in figures(context)] == [
        f"{long} slices, bf16, as many graphs kept as are predicted to fit",
        f"{short} slices, fp16 with scaler",
        f"heads alone, {short} slices",
        f"{short} slices, bf16, cudnn.benchmark off",
        f"{short} slices, bf16, cudnn.benchmark on",
        f"{long} slices, bf16, chunks recomputed",
    ]
    for line in figures(context):
        assert line["n"] == TINY.n_steps
        n_slices = long if line["name"].startswith(str(long)) else short
        assert line["slices_per_s"] == pytest.approx(n_slices / line["median_ms"] * 1e3)
        assert line["peak_mib"] > 0
        assert line["recompute_error"] < 1e-2
    kept = named(context, f"{long} slices, bf16, as many graphs kept as are predicted to fit")
    again = named(context, f"{long} slices, bf16, chunks recomputed")
    assert again["graph_slices"] == again["chunk"] < long <= kept["graph_slices"]


def test_steps_that_are_all_skipped_are_no_figure(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SeriesStep, "train", lambda _: SimpleNamespace(is_skipped=True))
    part_step.step(context)
    assert not context.is_good
    assert all("20 steps in a row were skipped" in line["failed"] for line in figures(context))


def test_counters_are_read_from_what_ncu_prints(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_ins = str(Path(__file__).parent / "stand_ins")
    monkeypatch.setenv("PATH", f"{stand_ins}:{os.environ['PATH']}")
    found = counters.profile(1, part_kernel.TURNED, Cpu(), counters.METRICS)
    assert found == dict.fromkeys(counters.METRICS.values(), 1.0) | {"instructions_per_pixel": 32 / 480**2}
    monkeypatch.setenv("PATH", "/nowhere")
    part_kernel.counters(context)
    assert not context.is_good
    assert [line["failed"] for line in figures(context)] == ["RuntimeError: there is no ncu on the PATH"] * 3


@needs_dali
def test_memory_used_again_too_early_is_seen(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    part_loading.lifetimes(context)
    assert context.is_good, figures(context)
    assert len(figures(context)) == 6
    assert all(line["n_batches"] > TINY.passes for line in figures(context))

    given_out: list[torch.Tensor] = []
    is_over = threading.Event()

    def keep(self: BufferPool, n_values: int, take: Callable[..., torch.Tensor] = BufferPool.take) -> torch.Tensor:
        given_out.append(take(self, n_values))
        return given_out[-1]

    def spoil() -> None:
        """Spoil what was given out, over and over, whether it has been given back or not."""
        while not is_over.wait(0.0005):
            for buffer in given_out[-4:]:
                buffer.fill_(part_loading.POISON)

    monkeypatch.setattr(part_loading.PoisonedPool, "take", keep)
    broken = Context("broken", Journal(context.journal.path.with_name("broken")), "cpu", "tiny", context.scratch, None)
    spoiler = threading.Thread(target=spoil)
    spoiler.start()
    try:
        part_loading.lifetimes(broken)
    finally:
        is_over.set()
        spoiler.join()
    assert not broken.is_good
    failed = [line["name"] for line in figures(broken) if "failed" in line]
    assert failed == [f"buffers poisoned once given back, {backend}" for backend in ("dali", "torch")]


def test_checksums_see_values_and_places() -> None:
    images = torch.rand(2, 3, 4, 4).half().to(memory_format=torch.channels_last)
    swapped = images.clone(memory_format=torch.preserve_format)
    swapped[0, 0, 0, 0], swapped[1, 2, 3, 3] = images[1, 2, 3, 3], images[0, 0, 0, 0]
    changed = images.clone(memory_format=torch.preserve_format)
    changed[1, 1, 1, 1] += 0.5
    found = {int(part_loading.checksum(one)) for one in (images, swapped, changed)}
    assert len(found) == 3
    assert int(part_loading.checksum(images.clone())) in found


@pytest.mark.parametrize("backend", [pytest.param("dali", marks=needs_dali), "torch"])
def test_training_end_to_end_and_memory_over_time(made_store: Path, context: Context, backend: str) -> None:
    context.scratch = made_store
    getattr(part_store, f"end_to_end_{backend}")(context)
    assert context.is_good, figures(context)
    (line,) = figures(context)
    assert line["name"] == f"end to end, {backend}, recipe reference"
    assert line["share"] == pytest.approx(line["end_to_end_slices_per_s"] / line["resident_slices_per_s"])
    store = store_folder(context.scratch, is_rehearsal=True) / "store"
    memory = part_store.watch_memory(store, backend, Cpu(), TINY)
    assert memory["n_batches"] == TINY.n_batches
    assert memory["device_peak_mib"] >= memory["device_settled_mib"] > 0


def test_without_the_store_its_parts_say_so(context: Context) -> None:
    for needs in (part_store.memory, part_store.end_to_end_torch):
        with pytest.raises(MissingError, match="the part that makes the store has not"):
            needs(context)


def test_an_extension_that_does_not_work_is_built() -> None:
    built: list[int] = []

    def problem(answers: list[str]) -> str:
        return answers.pop(0)

    def ready(*answers: str, is_forced: bool = False) -> str:
        find = functools.partial(problem, list(answers))
        return part_setup.make_ready(find, lambda: built.append(1), is_forced=is_forced)

    assert (ready(""), built) == ("as it was", [])
    assert (ready("cannot be loaded", ""), built) == ("built here", [1])
    assert (ready("", is_forced=True), built) == ("built here", [1, 1])
    with pytest.raises(MissingError, match="though it was built here: still not"):
        ready("cannot be loaded", "still not")


def test_a_slice_with_other_bits_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    assert part_setup.problem_of("cpu") == ""
    monkeypatch.setattr(part_setup, "TRY", part_setup.TRY.replace("torch.equal(", "not torch.equal("))
    assert part_setup.problem_of("cpu").endswith("AssertionError: other bits than the CPU's")


def test_failing_tests_are_written_down_as_they_come(tmp_path: Path, context: Context) -> None:
    """In a process of its own, as parts are: pytest is not made to run within itself."""
    counts = part_tests.Counts(context, "tests")
    report = pytest.TestReport(*("file.py::test", ("file.py", 1, "test"), {}, "failed", "E  assert 1 == 2", "call"))
    counts.pytest_runtest_logreport(report)
    assert figures(context)[0] == {**figures(context)[0], "name": "file.py::test", "failed": "E  assert 1 == 2"}
    assert counts.values() == {"passed": 0, "n_failed": 1, "skipped": 0, "of": 0}
    counts.saved_s -= part_tests.SAVED_EVERY_S
    report.outcome = "passed"
    counts.pytest_runtest_logreport(report)
    assert named(context, "tests, so far")["passed"] == 1


def test_events_of_a_cpu_count_milliseconds(monkeypatch: pytest.MonkeyPatch) -> None:
    times_s = iter([1.0, 1.25])
    monkeypatch.setattr("devices.time.perf_counter", lambda: next(times_s))
    first, second = HostEvent(), HostEvent()
    first.record()
    second.record()
    assert first.elapsed_time(second) == 250.0


def test_a_figure_that_raises_spoils_no_other(context: Context) -> None:
    def fail() -> dict[str, Any]:
        raise ValueError("no such thing")

    context.take("bad", fail)
    context.take("good", lambda: {"n": 1})
    assert [line.get("failed") for line in figures(context)] == ["ValueError: no such thing", None]
    assert not context.is_good
