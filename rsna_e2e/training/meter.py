"""Measures the speed of training and the time that it waits for batches."""

import time
from collections.abc import Iterator
from typing import TypeVar

from rsna_e2e.core.records import Progress
from rsna_e2e.training.runlog import Log

Item = TypeVar("Item")

_STALL_S = 0.01  # handing over a batch that is there takes a few milliseconds of bookkeeping


class Meter:
    """Counts slices and stalls since it was made, times them, and reports each step.

    n_slices, n_before: of the whole run, and those trained on before.
    """

    def __init__(self, log: Log, progress: Progress, *, n_slices: int, n_before: int, n_epochs: int) -> None:
        self._log, self._progress = log, progress
        self._n_slices, self._n_before, self._n_epochs = n_slices, n_before, n_epochs
        self.stalls = 0
        self._slices, self._train_s, self._wait_s, self._all_waits_s = 0, 0.0, 0.0, 0.0
        self._before_s = 0.0

    @property
    def slices_per_s(self) -> float:
        """Slices trained on per second so far, waiting for the loader included; 0 before the first step."""
        return self._slices / self._train_s if self._train_s else 0.0

    @property
    def stall_share(self) -> float:
        """Part of the time so far that was spent waiting for batches."""
        return self._all_waits_s / self._train_s if self._train_s else 0.0

    def watch(self, batches: Iterator[Item]) -> Iterator[Item]:
        """Pass on what comes from a loader, timing how long each is waited for."""
        self._before_s = time.monotonic()
        for batch in batches:
            self._wait_s = time.monotonic() - self._before_s
            self._all_waits_s += self._wait_s
            self.stalls += self._wait_s > _STALL_S
            yield batch

    def record(self, kind: str, step: int, epoch: int, n_slices: int, values: dict[str, float]) -> None:
        """Report step number `step`, just taken on `n_slices` slices."""
        now_s = time.monotonic()
        self._train_s += now_s - self._before_s
        self._before_s = now_s
        self._slices += n_slices
        rate = self.slices_per_s
        waits = {"wait_s": self._wait_s, "stalls": self.stalls}
        self._log.write(f"train_{kind}", step, epoch=epoch, **values, n_slices=n_slices, slices_per_s=rate, **waits)
        note = f"epoch {epoch}/{self._n_epochs} ({kind})  loss {values['loss']:.4f}"
        self._progress(self._n_before + self._slices, self._n_slices, note)
