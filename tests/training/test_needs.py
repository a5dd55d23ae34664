"""What a plan needs of disk and memory, by hand, and whether a machine has it."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from plans import DATA, FOLDERS, make_data, of_two_stages, standing

from rsna_e2e.config import load_config
from rsna_e2e.core.errors import DiskFullError, OutOfResourcesError
from rsna_e2e.training.pipeline.forecast import Forecast, Line, forecast, peak_bytes
from rsna_e2e.training.pipeline.model_sizes import ModelSizes
from rsna_e2e.training.pipeline.needs import Machine, check_needs, disk_needs, needs_of
from rsna_e2e.training.pipeline.planned_step import Folders, PlannedStep
from rsna_e2e.training.pipeline.run import Standing


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("needs"))


def test_memory_of_a_gpu_by_hand() -> None:
    """The reference recipe in half precision: weights, gradients, Adam's moments, three batches of 64, two slices."""
    config = load_config("reference")
    sizes = ModelSizes([standing("joint", "train", settings=config).step])
    found = forecast([standing("joint", "train", settings=config)], sizes, DATA)
    weights = 4 * (86_742_336 + 268_533_766)
    reserved = 3 * weights + 3 * 64 * (2 * 512 * 512 + 3 * 480 * 480 * 2)
    for name, total in (("v100", 16e9), ("h200", 141e9)):
        needs = {need.what: need for need in needs_of(found, FOLDERS, Machine.named(name, 1))}
        assert needs["GPU memory"].needed_bytes == weights + round((reserved + 2 * 570_618_240) / 0.8)
        n_fit = min(64, int((0.8 * (total - weights) - reserved) / 570_618_240))
        assert f"chunk=auto takes {n_fit} slices (joint)" in str(needs["GPU memory"])
        assert needs["disk"].is_met  # of another machine nothing is known


def test_too_small_a_gpu_of_this_machine_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("rsna_e2e.training.pipeline.needs.choose_device_type", lambda device: "cuda")
    monkeypatch.setattr("rsna_e2e.training.pipeline.needs.free_memory_bytes", lambda: 10**12)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda gpu: "a small GPU")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda gpu: (4 * 10**9, 8 * 10**9))  # free, in all
    steps = [standing("joint", "train", settings=load_config("reference"))]
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage._replace(free=10**15))
    found = forecast(steps, ModelSizes([steps[0].step]), DATA)
    with pytest.raises(OutOfResourcesError, match=r"GPU memory: 8\.6 GB needed of 4\.0 GB on each a small GPU: NOT"):
        check_needs(needs_of(found, FOLDERS, Machine.here("auto")))


def test_what_does_not_fit_is_said_with_what_is_there(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = Folders(raw=None, labels=None, store=root / "store", out=root / "out")
    found = of_two_stages(folders, "single", "images.slice_phase.epochs=1")
    here = Machine(is_here=True, device="the CPU", n_gpus=0, memory_bytes=10**12, gpu_bytes=None)
    check_needs(needs_of(found, folders, here))
    with pytest.raises(OutOfResourcesError, match=r"memory: .* GB needed of 0\.1 GB free: NOT ENOUGH"):
        check_needs(needs_of(found, folders, replace(here, memory_bytes=10**8)))
    needed = peak_bytes(found.to_run)
    usage = shutil.disk_usage(root)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage._replace(free=needed - 1))
    with pytest.raises(DiskFullError, match=r"disk: .* NOT ENOUGH"):
        check_needs(needs_of(found, folders, here))
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage._replace(free=needed))
    check_needs(needs_of(found, folders, here))


def test_a_store_on_another_disk_is_counted_there(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two disks are told apart by the number of their device."""
    store, out = tmp_path / "one", tmp_path / "other"
    store.mkdir(), out.mkdir()
    folders = Folders(raw=root / "raw", labels=None, store=store, out=out)
    found = of_two_stages(folders, "single")
    (together,) = disk_needs(found, folders)
    assert together.needed_bytes == peak_bytes(found.to_run)
    whole = Path.stat

    def stat(path: Path, *, follow_symlinks: bool = True) -> os.stat_result:
        found = list(whole(path, follow_symlinks=follow_symlinks))
        found[2] += path == store  # st_dev
        return os.stat_result(found)

    monkeypatch.setattr(Path, "stat", stat)
    at_store, at_out = disk_needs(found, folders)
    assert [str(store) in at_store.where, str(out) in at_out.where] == [True, True]
    assert at_store.needed_bytes == found.lines[0].n_bytes
    assert at_out.needed_bytes == peak_bytes(found.to_run[1:])


def test_what_a_step_has_written_is_not_needed_again(root: Path, tmp_path: Path) -> None:
    folders = Folders(raw=None, labels=None, store=root / "store", out=tmp_path)
    run = tmp_path / "joint"
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints" / "model.safetensors").write_bytes(bytes(1000))
    step = PlannedStep(name="joint", part="sequences", verb="train", arguments=(), output=run / "summary.json")
    lines = (
        Line(
            standing=Standing(step=step, state=state, is_needed=True, starts_over=False),
            n_slices=1,
            n_bytes=5000,
            peak_bytes=6000,
        )
        for state in ("to do", "begun")
    )
    needed = [
        next(disk_needs(Forecast(lines=(line,), sizes=ModelSizes([]), data=DATA), folders)).needed_bytes
        for line in lines
    ]
    assert needed == [6000, 5000]
