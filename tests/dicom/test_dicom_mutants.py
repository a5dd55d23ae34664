"""Thousands of damaged files: none crashes, none takes long, and none is taken for other pixels than it holds."""

import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from mutants import corpus, hounsfield_by_pydicom, mutants

from rsna_e2e import dicom
from rsna_e2e.core.reasons import Reason
from rsna_e2e.core.records import Refusal

SEED = 2019
LIMIT_S = 2.0


@pytest.mark.needs_jpeg
@pytest.mark.filterwarnings("ignore")  # pydicom's remarks on damaged files
@pytest.mark.parametrize("n", [300, pytest.param(10_000, marks=pytest.mark.slow)])
def test_damaged_files_are_refused_or_read_as_pydicom_reads_them(tmp_path: Path, n: int) -> None:
    path = tmp_path / "mutant.dcm"
    outcomes: Counter[str] = Counter()
    for raw in mutants(corpus(tmp_path), n, np.random.default_rng(SEED)):
        path.write_bytes(raw)
        began_s = time.process_time()
        result = dicom.read_slices(path)
        assert time.process_time() - began_s < LIMIT_S
        outcomes[str(result.reason) if isinstance(result, Refusal) else "taken"] += 1
        if not isinstance(result, Refusal):
            np.testing.assert_array_equal(np.stack([hu for _, hu in result]), hounsfield_by_pydicom(path))
    print(outcomes.most_common())  # noqa: T201  # for pytest -s: the table in docs/dicom.md
    assert outcomes.keys() <= {"taken", *map(str, Reason)} - {Reason.INTERNAL_ERROR}
    assert outcomes["taken"] > n / 10
    assert outcomes["malformed"] > n / 10
