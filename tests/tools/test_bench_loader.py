"""`bench loader` and `bench train` on a tiny store: what they say, not how fast they are."""

import json
import mmap
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import small
import torch

from rsna_e2e.config import save_config
from rsna_e2e.core.console import number, table
from rsna_e2e.core.process import Memory, reset_peak
from rsna_e2e.loader.kernels import dali_plugin
from rsna_e2e.store import Store
from rsna_e2e.tools.bench.loader import BARE, bench_loader
from rsna_e2e.tools.bench.train import bench_train, name_bottleneck


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return small.make_store(tmp_path_factory.mktemp("bench"))


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """So small a network on two threads waits for its threads more than it computes, above all on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_every_backend_is_timed_beside_the_bare_operator(store: Store, tmp_path: Path) -> None:
    save_config(small.config(), path=tmp_path / "config.yaml")
    result = bench_loader(
        store.path,
        recipe=tmp_path / "config.yaml",
        overrides=["image.size=16"],
        n_slices=60,
        rounds=2,
        batch_sizes=(2, 8),
        device="cpu",
        out=tmp_path / "loader.json",
    )
    written = json.loads((tmp_path / "loader.json").read_text())
    backends = ["dali", "torch"] if dali_plugin.is_installed() else ["torch"]
    assert [row["name"] for row in written["rows"]] == [*(f"loader, {name}" for name in backends), BARE]
    assert [row["name"] for row in written["memory"]] == backends
    assert all(row["peak_mib"] >= max(row["after_mib"]) > 0 for row in written["memory"])
    assert [row["n_slices"] for row in written["sizes"]] == [2, 8]
    assert 60 <= written["n_slices"] < 60 + 8  # whole batches of at most eight slices
    assert written["image_size"] == 16
    assert written["rows"][-1]["of_bare"] == {"n": 2, "median": 1.0, "iqr": 0.0}
    for row in written["sizes"]:
        per_batch, rate = row["ms_per_batch"], row["slices_per_s"]
        assert per_batch["n"] == rate["n"] == 2
        assert 0 < per_batch["median"] < 60_000
    assert "of the bare operator" in str(result)


def test_training_is_timed_in_both_phases(store: Store, tmp_path: Path) -> None:
    config = small.config("slice_phase={epochs: 1, slices_per_batch: 4, optimizer: {learning_rate: 1e-3}}")
    save_config(config, path=tmp_path / "config.yaml")
    result = bench_train(
        store.path, recipe=tmp_path / "config.yaml", steps=3, rounds=2, device="cpu", out=tmp_path / "train.json"
    )
    written = json.loads((tmp_path / "train.json").read_text())
    assert [phase["phase"] for phase in written["phases"]] == ["single slices", "whole series"]
    for phase in written["phases"]:
        assert phase["steps_per_turn"] % phase["n_batches"] == 0
        assert phase["steps_per_turn"] >= 3
        assert {len(samples) for samples in phase["samples"].values()} == {2}
        samples = phase["samples"]
        shares = [a / b for a, b in zip(samples["end to end"], samples["resident data"], strict=True)]
        assert phase["share"]["median"] == pytest.approx(sum(shares) / 2)
        assert phase["bottleneck"] in str(result)


@pytest.mark.parametrize(
    ("rates", "on_gpu", "expected"),
    [
        ((100.0, 90.0, 80.0), False, "loader"),
        ((100.0, 900.0, 97.0), False, "compute"),
        ((100.0, 900.0, 85.0), False, "cores shared by loader and compute"),
        ((100.0, 900.0, 85.0), True, "transfer"),
    ],
)
def test_the_bottleneck_is_named(rates: tuple[float, float, float], on_gpu: bool, expected: str) -> None:
    resident, loader, end_to_end = rates
    assert name_bottleneck(resident=resident, loader=loader, end_to_end=end_to_end, on_gpu=on_gpu) == expected


def test_memory_sees_what_was_taken_and_let_go() -> None:
    if not reset_peak():
        pytest.skip("this system does not let a process reset its peak of resident memory")
    before = Memory.read()
    with mmap.mmap(-1, 64 * 2**20) as taken:  # from the system itself: an allocator may have as much lying about
        taken[:: mmap.PAGESIZE] = bytes(len(taken) // mmap.PAGESIZE)
    after = Memory.read()
    assert after.peak_mib - before.now_mib > 60
    assert after.now_mib - before.now_mib < 32


def test_a_table_lines_up() -> None:
    assert table(("name", "rate"), [("a", "1"), ("long name", "23")]).splitlines() == [
        "name       rate",
        "---------  ----",
        "a             1",
        "long name    23",
    ]
    assert [number(value) for value in (12345.6, 99.94, 0.01234)] == ["12,346", "99.9", "0.0123"]


@pytest.mark.parametrize("keeps", [True, False])
def test_freed_memory_is_kept_only_when_told_so(keeps: bool) -> None:
    code = f"""if True:
        from rsna_e2e.core.process import Memory, keep_freed_memory
        assert not {keeps} or keep_freed_memory()
        before = Memory.read().now_mib
        taken = bytearray(16 * 2**20)
        assert Memory.read().now_mib > before + 14
        del taken
        assert (Memory.read().now_mib > before + 14) == {keeps}
    """
    subprocess.run([sys.executable, "-c", code], check=True)
