from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from rsna_e2e.core.records import no_progress
from rsna_e2e.loader.batch import SeriesBatch
from rsna_e2e.loader.division import WHOLE
from rsna_e2e.training import meter as meter_module
from rsna_e2e.training.meter import Meter


class Clock:
    """Time that passes only when told to."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def monotonic(self) -> float:
        return self.now_s


class Recorder:
    """Stands for a RunLog: keeps what is written."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    def write(self, kind: str, step: int, **values: float) -> None:
        self.lines.append({"kind": kind, "step": step, **values})


def batches(clock: Clock, waits_s: list[float]) -> Iterator[SeriesBatch]:
    labels = torch.zeros(4, 6)
    for wait_s in waits_s:
        clock.now_s += wait_s
        yield SeriesBatch(
            images=torch.zeros(4, 3, 2, 2),
            chunks=WHOLE.chunks([4]),
            series_lengths=torch.tensor([4]),
            labels=labels,
            label_mask=labels.bool(),
            series_labels=labels[:1],
            series_mask=labels[:1].bool(),
            series_keys=("a",),
            rows=np.arange(4),
        )


def test_stalls_and_their_share_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    log, clock = Recorder(), Clock()
    monkeypatch.setattr(meter_module, "time", clock)
    meter = Meter(log, no_progress, n_slices=16, n_before=0, n_epochs=1)  # type: ignore[arg-type]
    for batch in meter.watch(batches(clock, [0.001, 0.06, 0.0, 0.06])):
        clock.now_s += 0.02  # the step
        meter.record("series", 1, 1, len(batch.labels), {"loss": 0.5})
    assert meter.stalls == 2
    assert [line["stalls"] for line in log.lines] == [0, 1, 1, 2]
    assert [line["wait_s"] for line in log.lines] == pytest.approx([0.001, 0.06, 0.0, 0.06])
    assert meter.stall_share == pytest.approx(0.121 / 0.201)
    assert meter.slices_per_s == pytest.approx(16 / 0.201)
