import json
from pathlib import Path

import pytest
from scripted_rates import scripted

from rsna_e2e.core.errors import BadInputError
from rsna_e2e.core.records import Refusal
from rsna_e2e.dicom import read_slice
from rsna_e2e.tools.bench import prepare as bench
from rsna_e2e.tools.bench.timing import Summary

RATES = {"1 process": (100.0, 200.0), "2 processes": (150.0, 400.0), "synced sequential write": (800.0, 800.0)}


def test_preparing_is_timed_beside_a_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "PATTERN_STUDIES", 1)
    monkeypatch.setattr(bench, "available_cores", lambda: 2)
    monkeypatch.setattr(bench, "interleave", scripted(RATES))
    result = bench.bench_prepare(tmp_path, n_slices=6, memory_slices=[3], rounds=2, out=tmp_path / "figures.json")
    one, two = result.rows
    assert (one.n_jobs, two.n_jobs) == (1, 2)
    assert one.of_one == Summary(n=2, median=1.0, iqr=0.0)
    assert two.of_one == Summary(n=2, median=1.75, iqr=0.25)  # 1.5 and 2
    assert one.of_write == Summary(n=2, median=0.1875, iqr=0.0625)  # an eighth and a quarter
    assert two.rate == Summary(n=2, median=275.0, iqr=125.0)
    assert [memory.n_slices for memory in result.memory] == [3]
    assert json.loads((tmp_path / "figures.json").read_text())["n_slices"] == 6
    assert "synced sequential write" in str(result)
    assert [path.name for path in tmp_path.iterdir()] == ["figures.json"]


# In the place of rsna-e2e: 100 MiB of its own, and 60 MiB of a process that it starts
_HOLDER = """
import os, subprocess, sys
os.mkdir(sys.argv[3])
held = b"x" * (100 << 20)
subprocess.run([sys.executable, "-c", "import time; held = b'x' * (60 << 20); time.sleep(1)"], check=True)
"""


def test_memory_is_that_of_a_process_and_those_it_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "_PROGRAM", _HOLDER)
    pattern = tmp_path / "pattern"
    pattern.mkdir()
    (pattern / "a.dcm").touch()
    memory = bench._measure_memory(pattern, tmp_path, 2)
    interpreters_mib = 30  # two, of some 10 MiB each; this process, with NumPy and torch, has far more
    assert memory.n_slices == 2
    assert 160 <= memory.peak_mib <= 160 + interpreters_mib
    assert [path.name for path in tmp_path.iterdir()] == ["pattern"]


def test_repeated_files_are_other_patients_with_the_same_pixels(tmp_path: Path) -> None:
    pattern = tmp_path / "pattern"
    bench.simulate(pattern, n_studies=1, seed=1, prevalence="demo", test_fraction=0.0)
    n = len(list(pattern.rglob("*.dcm")))
    bench.repeat(pattern, tmp_path / "raw", n + 1)
    files = sorted((tmp_path / "raw").iterdir())
    first, last = read_slice(files[0]), read_slice(files[n])
    assert not isinstance(first, Refusal)
    assert not isinstance(last, Refusal)
    assert (first[1] == last[1]).all()
    assert first[0].patient_id != last[0].patient_id
    assert first[0].sop_uid != last[0].sop_uid
    assert len({read_slice(path)[0].sop_uid for path in files}) == n + 1


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="no such folder"):
        bench.bench_prepare(tmp_path / "nothing")
