import json
from pathlib import Path

import pytest
import stores
from scripted_rates import scripted

from rsna_e2e.core.errors import BadInputError
from rsna_e2e.tools.bench import packing as bench
from rsna_e2e.tools.bench.timing import Summary

RATES = {
    "write none": (100.0, 200.0),
    "write bitshuffle-lz4": (50.0, 50.0),
    "read, 1 thread none": (400.0, 500.0),
    "read, 1 thread bitshuffle-lz4": (100.0, 125.0),
    "read, 2 threads none": (800.0, 800.0),
    "read, 2 threads bitshuffle-lz4": (800.0, 1600.0),
}


def test_plain_and_packed_take_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "available_cores", lambda: 2)
    monkeypatch.setattr(bench, "interleave", scripted(RATES))
    stores.make_store(tmp_path / "store")
    result = bench.bench_packing(
        tmp_path / "store", folder=tmp_path, n_slices=4, rounds=2, out=tmp_path / "figures.json"
    )
    assert [(row.job, row.compression) for row in result.rows] == [
        (job, name) for job in ("write", "read, 1 thread", "read, 2 threads") for name in ("none", "bitshuffle-lz4")
    ]
    # packed over plain in the two rounds: a half and a quarter; a quarter twice; the same and twice as fast
    assert [row.of_plain for row in result.rows[1::2]] == [
        Summary(n=2, median=0.375, iqr=0.125),
        Summary(n=2, median=0.25, iqr=0.0),
        Summary(n=2, median=1.5, iqr=0.5),
    ]
    assert result.rows[0].rate == Summary(n=2, median=150.0, iqr=50.0)
    assert result.hu_bytes == 2 * (64 * 64 + 64 * 64 + 80 * 48 + 64 * 64)
    assert result.bytes["none"] >= result.hu_bytes
    assert json.loads((tmp_path / "figures.json").read_text())["n_slices"] == 4
    assert "bitshuffle-lz4" in str(result)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["figures.json", "store"]


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="no such folder"):
        bench.bench_packing(None, folder=tmp_path / "nothing")
