"""Thousands of damaged files: none crashes, none takes long, and none is taken for other pixels than it holds."""

import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from mutants import corpus, hounsfield_by_pydicom, mutants

from rsna_e2e import dicom
from rsna_e2e.core.records import Refusal

SEED = 2019
LIMIT_S = 2.0
# What damage within one file can lead to. Other codes are of folders, archives, series, missing software, or bugs.
REASONS = (
    *("not_dicom", "no_transfer_syntax", "unsupported_transfer_syntax", "malformed", "too_large", "truncated"),
    *("not_ct", "localizer", "multi_frame", "missing_tag", "bad_value", "not_hounsfield", "unsupported_pixel_format"),
    *("no_pixel_data", "wrong_pixel_length", "codestream_mismatch", "decoder_failed"),
)


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
    assert outcomes.keys() <= {"taken", *REASONS}
    assert outcomes["taken"] > n / 10
    assert outcomes["malformed"] > n / 10
