import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import small

from rsna_e2e.config import save_config
from rsna_e2e.model.forward import EMBED_TOGETHER
from rsna_e2e.store import Store
from rsna_e2e.tools.bench import embed as bench
from rsna_e2e.tools.bench.timing import summarise

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return small.make_store(tmp_path_factory.mktemp("bench"))


def _here(call: Callable[..., float], *arguments: object) -> float:
    return call(*arguments)


def test_embeddings_are_timed_beside_the_bare_backbone(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "in_fresh_process", _here)  # its figures are of no interest here
    monkeypatch.setattr(bench, "MEMORY_SLICES", (100, 400))
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
    assert [m.n_slices for m in result.memory] == [100, 400]
    assert [row.views for row in result.rows] == [("plain",), ("plain", "hflip", "transpose")]
    bare = result.samples["bare backbone"]
    for row in result.rows:
        rates = result.samples["stored, " + ", ".join(row.views)]
        assert row.of_bare == summarise([rate / other for rate, other in zip(rates, bare, strict=True)])
    assert json.loads((tmp_path / "figures.json").read_text())["n_slices"] == 2 * EMBED_TOGETHER
    assert "stored, plain, hflip, transpose" in str(result)


def test_rows_are_repeated_to_whole_batches(store: Store) -> None:
    rows = bench.repeated_rows(store, EMBED_TOGETHER + 1)
    assert len(rows) == 2 * EMBED_TOGETHER
    np.testing.assert_array_equal(rows[: len(store)], np.arange(len(store)))
    assert rows[len(store)] == 0
