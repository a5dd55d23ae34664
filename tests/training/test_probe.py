"""A probe measures every kind of step of a plan, and keeps to its time."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
from plans import make_data, of_two_stages, standing
from radiographs import chest, write_image

from rsna_e2e.core.records import RawFile
from rsna_e2e.dicom import SliceHeader, grey, modalities
from rsna_e2e.tasks.pneumonia import PNEUMONIA
from rsna_e2e.training.pipeline.model_sizes import ModelSizes
from rsna_e2e.training.pipeline.planned_step import Folders
from rsna_e2e.training.pipeline.probe import Probe, slices_per_s


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("probe"))


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("raw", ["raw", "raw.zip"])
def test_a_probe_gives_every_step_a_time(root: Path, raw: str) -> None:
    folders = Folders(raw=root / raw, labels=None, store=root / "none_yet", out=root / "out")
    found = of_two_stages(folders, "single")
    steps = [line.standing.step for line in found.lines]
    said: list[str] = []
    measured = Probe(steps, found.sizes, raw=folders.raw, device="cpu", say=said.append).run()
    times_s = [measured.time_s(line.standing.step, line.n_slices) for line in found.lines]
    assert all(0 < time_s < 60 for time_s in times_s)
    assert [line.split(" ...")[0] for line in said if line.endswith(" ...")] == [
        "[1/5] prepare",
        "[2/5] train, test_resnet, 32 px",
        "[3/5] embed, test_resnet, 32 px",
        "[4/5] train, head on embeddings",
        "[5/5] predict, head on embeddings",
    ]


def test_files_are_read_as_those_of_the_task(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("rsna_e2e.training.pipeline.probe._startup_s", lambda: 0.0)
    for number in range(3):
        write_image(tmp_path / f"{number}.png", (chest(seed=number) >> 4).astype(np.uint8))
    read: list[str] = []

    def read_grey(stream: BinaryIO, raw_file: RawFile, header: SliceHeader) -> object:
        read.append(raw_file.name)
        return grey.read_grey(stream, raw_file, header)

    monkeypatch.setattr(modalities, "read_grey", read_grey)
    prepare = replace(standing("prepare", "prepare").step, task=PNEUMONIA)
    Probe([prepare], ModelSizes([prepare]), raw=tmp_path, device="cpu", say=lambda _: None).run()
    assert set(read) == {"0.png", "1.png", "2.png"}


def test_files_that_are_not_here_are_prepared_as_fast_as_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rsna_e2e.training.pipeline.probe._startup_s", lambda: 1.0)
    prepare = standing("prepare", "prepare").step
    said: list[str] = []
    measured = Probe([prepare], ModelSizes([prepare]), raw=None, device="cpu", say=said.append).run()
    assert measured.time_s(prepare, 4492) == 1.0 + 2.0  # docs/benchmarks.md: 2,246 slices/s
    assert "rough" in said[-1]
    assert "rough" in measured.note


class Clock:
    """Time that passes only when work is set up (`setup_s`) or done (`slice_s` a slice)."""

    def __init__(self, *, setup_s: float, slice_s: float) -> None:
        self.now_s, self._setup_s, self._slice_s = 0.0, setup_s, slice_s
        self.done: list[int] = []

    def __call__(self) -> float:
        return self.now_s

    def work(self, n_slices: int) -> Callable[[], None]:
        self.now_s += self._setup_s

        def turn() -> None:
            self.done.append(n_slices)
            self.now_s += n_slices * self._slice_s

        return turn


def test_a_probe_of_whole_batches_is_rough_only_without_a_second_turn() -> None:
    for slice_s, done, is_whole in ((0.1, [128, 128, 128], True), (0.1125, [128, 128], True), (0.2, [128], False)):
        clock = Clock(setup_s=1.0, slice_s=slice_s)
        rate = slices_per_s(clock.work, few=128, most=128, deadline_s=40.0, clock=clock)
        assert (clock.done, rate) == (done, (pytest.approx(1 / slice_s), is_whole))


@pytest.mark.parametrize(
    ("slice_s", "done", "is_whole"),
    [
        (0.1, [2, 16, 16, 16], True),
        (0.9, [2, 2, 2], False),  # 16 slices three times would take 43 s
        (4.0, [2, 2, 2], False),  # 16 slices three times would take 192 s
        (9.0, [2], False),  # a second turn would end after 38 s
        (100.0, [2], False),
    ],
)
def test_a_probe_keeps_to_its_time(slice_s: float, done: list[int], is_whole: bool) -> None:
    clock = Clock(setup_s=1.0, slice_s=slice_s)
    rate = slices_per_s(clock.work, few=2, most=16, deadline_s=30.0, clock=clock)
    assert clock.done == done
    assert rate == (pytest.approx(1 / slice_s), is_whole)
    assert clock.now_s <= max(30.0, 1.0 + 2 * slice_s)
