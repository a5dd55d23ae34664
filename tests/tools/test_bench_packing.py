import json
from pathlib import Path

import pytest
import stores

from rsna_e2e.core.errors import BadInputError
from rsna_e2e.tools.bench import packing as bench
from rsna_e2e.tools.bench.timing import summarise


def test_plain_and_packed_take_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "available_cores", lambda: 2)
    stores.make_store(tmp_path / "store")
    result = bench.bench_packing(
        tmp_path / "store", folder=tmp_path, n_slices=4, rounds=2, out=tmp_path / "figures.json"
    )
    jobs = ["write", "read, 1 thread", "read, 2 threads"]
    assert [(row.job, row.compression) for row in result.rows] == [
        (job, name) for job in jobs for name in ("none", "bitshuffle-lz4")
    ]
    assert result.hu_bytes == sum(hu.nbytes for hu in stores.make_slices()[:4])
    plain, packed = (result.samples[f"write {name}"] for name in ("none", "bitshuffle-lz4"))
    assert result.rows[1].of_plain == summarise([a / b for a, b in zip(packed, plain, strict=True)])
    assert result.rows[0].of_plain.median == 1
    assert json.loads((tmp_path / "figures.json").read_text())["n_slices"] == 4
    assert "bitshuffle-lz4" in str(result)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["figures.json", "store"]


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="no such folder"):
        bench.bench_packing(None, folder=tmp_path / "nothing")
