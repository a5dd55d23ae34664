"""How fast training goes, and what it waits for."""

import time
from collections.abc import Iterator

from rsna_e2e.batch import StudyBatch
from rsna_e2e.records import Progress
from rsna_e2e.runlog import RunLog

_STALL_S = 0.01  # handing over a batch that is there takes a few milliseconds of bookkeeping


class Meter:
    """Counts steps, slices and stalls, times them, and reports each step."""

    def __init__(self, log: RunLog, progress: Progress, *, n_slices: int, n_epochs: int) -> None:
        self._log, self._progress = log, progress
        self._n_slices, self._n_epochs = n_slices, n_epochs
        self.step = self.stalls = 0
        self._slices, self._train_s, self._wait_s, self._all_waits_s = 0, 0.0, 0.0, 0.0
        self._before_s = 0.0

    @property
    def slices_per_s(self) -> float:
        """Slices trained on per second so far, waiting for the loader included."""
        return self._slices / self._train_s

    @property
    def stall_share(self) -> float:
        """Part of the time so far that was spent waiting for batches."""
        return self._all_waits_s / self._train_s

    def watch(self, batches: Iterator[StudyBatch]) -> Iterator[StudyBatch]:
        """Pass the batches on, timing how long each is waited for."""
        self._before_s = time.monotonic()
        for batch in batches:
            self._wait_s = time.monotonic() - self._before_s
            self._all_waits_s += self._wait_s
            self.stalls += self._wait_s > _STALL_S
            yield batch

    def record(self, kind: str, epoch: int, batch: StudyBatch, values: dict[str, float]) -> None:
        """Report the step just taken on `batch`."""
        now_s = time.monotonic()
        self._train_s += now_s - self._before_s
        self._before_s = now_s
        self.step += 1
        self._slices += len(batch.labels)
        rate = self.slices_per_s
        waits = {"wait_s": self._wait_s, "stalls": self.stalls}
        self._log.write(f"train_{kind}", self.step, epoch=epoch, **values, slices_per_s=rate, **waits)
        note = f"epoch {epoch}/{self._n_epochs} ({kind})  loss {values['loss']:.4f}  {rate:.0f} slices/s"
        self._progress(self._slices, self._n_slices, note)
