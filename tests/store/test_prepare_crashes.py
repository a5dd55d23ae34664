"""A file that ends the process that reads it: it is refused, and all others are stored in good time."""

import os
import signal
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import phantoms
import pytest

from rsna_e2e.core.records import RawFile
from rsna_e2e.dicom.sources.files import RawFolder
from rsna_e2e.store import Store
from rsna_e2e.store.prepare import prepare
from rsna_e2e.tasks.ich import ICH

RECOVERY_S = 5.0
N_SLICES = 12
DEADLY = 5


@dataclass(frozen=True)
class DeadlyFolder(RawFolder):
    """A folder in which one file, once it was opened `n_harmless` times, sends a signal to whoever opens it."""

    opened: Path
    deadly: str
    n_harmless: int
    signal: int

    def open(self, raw_file: RawFile, *, head: bool = False) -> AbstractContextManager[BinaryIO]:
        """As any folder, but for the one file."""
        if raw_file.name == self.deadly:
            with self.opened.open("a") as log:
                log.write(f"{time.time()}\n")
            if len(self.opened.read_text().split()) > self.n_harmless:
                os.kill(os.getpid(), self.signal)
        return RawFolder.open(self, raw_file, head=head)


@pytest.mark.parametrize(
    ("number", "n_harmless"),
    [
        pytest.param(signal.SIGSEGV, 0, id="segmentation fault in the header"),
        pytest.param(signal.SIGKILL, 1, id="killed in the pixels"),
        pytest.param(signal.SIGKILL, 0, id="killed in the header", marks=pytest.mark.slow),
        pytest.param(signal.SIGABRT, 0, id="aborted in the header", marks=pytest.mark.slow),
        pytest.param(signal.SIGABRT, 1, id="aborted in the pixels", marks=pytest.mark.slow),
        pytest.param(signal.SIGSEGV, 1, id="segmentation fault in the pixels", marks=pytest.mark.slow),
    ],
)
def test_a_file_that_ends_its_reader_costs_that_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, n_harmless: int
) -> None:
    hu = phantoms.write_series(tmp_path / "raw", name="a", n_slices=N_SLICES)
    deadly = list(hu)[DEADLY]
    source = DeadlyFolder(tmp_path / "raw", tmp_path / "opened", f"{deadly}.dcm", n_harmless, number)
    with monkeypatch.context() as patch:
        patch.setattr("rsna_e2e.store.prepare.inputs.open_source", lambda path: source)
        report = prepare(tmp_path / "raw", tmp_path / "store", task=ICH, n_jobs=2)
    opened_s = [float(text) for text in source.opened.read_text().split()]
    assert len(opened_s) == n_harmless + 2  # once more, for the first may be somebody else's doing
    assert time.time() - opened_s[n_harmless] < RECOVERY_S  # from the first death to the whole store
    assert report.refusals == {"decoder_crash": 1}
    store = Store.open(tmp_path / "store")
    assert [path.name for path in (tmp_path / "store" / "shards").iterdir()] == ["00000.h5"]
    assert set(store.index["image_id"]) == set(hu) - {deadly}
    for row, image_id in enumerate(store.index["image_id"].tolist()):
        np.testing.assert_array_equal(store.read_slice(row), hu[image_id])
