import json
from pathlib import Path

import pytest

from rsna_e2e.core.errors import BadInputError
from rsna_e2e.core.records import Refusal
from rsna_e2e.dicom import read_slice
from rsna_e2e.tools.bench import prepare as bench
from rsna_e2e.tools.bench.timing import summarise


def test_preparing_is_timed_beside_a_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "PATTERN_STUDIES", 1)
    monkeypatch.setattr(bench, "available_cores", lambda: 2)
    result = bench.bench_prepare(tmp_path, n_slices=6, memory_slices=[3], rounds=2, out=tmp_path / "figures.json")
    assert [row.n_jobs for row in result.rows] == [1, 2]
    one, both, write = (result.samples[name] for name in ("1 process", "2 processes", bench.WRITE))
    assert result.rows[1].of_one == summarise([a / b for a, b in zip(both, one, strict=True)])
    assert result.rows[0].of_write == summarise([a / b for a, b in zip(one, write, strict=True)])
    assert result.memory[0].peak_mib > 50
    assert json.loads((tmp_path / "figures.json").read_text())["n_slices"] == 6
    assert "synced sequential write" in str(result)
    assert [path.name for path in tmp_path.iterdir()] == ["figures.json"]


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
