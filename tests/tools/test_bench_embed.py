import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import small
from scripted_rates import scripted

from rsna_e2e.config import save_config
from rsna_e2e.model.forward import EMBED_TOGETHER
from rsna_e2e.store import Store
from rsna_e2e.tools.bench import embed as bench
from rsna_e2e.tools.bench.timing import Summary

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return small.make_store(tmp_path_factory.mktemp("bench"))


PEAKS_MIB = {100: 321.0, 400: 654.0}
RATES = {
    "bare backbone": (100.0, 200.0),
    "stored, plain": (80.0, 100.0),
    "stored, plain, hflip, transpose": (90.0, 190.0),
}


def _peak(call: Callable[..., float], run: Path, store: Path, device: str, n_slices: int) -> float:
    """Measure here, not in a process of its own, and give a known figure in the place of the one found."""
    assert call(run, store, device, n_slices) > 0
    return PEAKS_MIB[n_slices]


def test_embeddings_are_timed_beside_the_bare_backbone(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "in_fresh_process", _peak)
    monkeypatch.setattr(bench, "MEMORY_SLICES", tuple(PEAKS_MIB))
    monkeypatch.setattr(bench, "interleave", scripted(RATES))
    save_config(small.image_config(), path=tmp_path / "recipe.yaml")
    result = bench.bench_embed(
        store.path,
        recipe=tmp_path / "recipe.yaml",
        n_slices=100,
        rounds=2,
        device="cpu",
        out=tmp_path / "figures.json",
    )
    assert result.n_slices == 2 * EMBED_TOGETHER
    assert {m.n_slices: m.peak_mib for m in result.memory} == PEAKS_MIB
    assert [row.views for row in result.rows] == [("plain",), ("plain", "hflip", "transpose")]
    assert result.bare == Summary(n=2, median=150.0, iqr=50.0)
    one, three = result.rows
    assert one.of_bare == Summary(n=2, median=pytest.approx(0.65), iqr=pytest.approx(0.15))  # 0.8 and 0.5
    assert three.of_bare == Summary(n=2, median=pytest.approx(0.925), iqr=pytest.approx(0.025))  # 0.9 and 0.95
    assert json.loads((tmp_path / "figures.json").read_text())["n_slices"] == 2 * EMBED_TOGETHER
    assert "stored, plain, hflip, transpose" in str(result)


def test_rows_are_repeated_to_whole_batches(store: Store) -> None:
    rows = bench.repeated_rows(store, EMBED_TOGETHER + 1)
    assert len(rows) == 2 * EMBED_TOGETHER
    np.testing.assert_array_equal(rows[: len(store)], np.arange(len(store)))
    assert rows[len(store)] == 0
