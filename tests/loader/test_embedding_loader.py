"""Batches of stored embeddings: the right rows in the right order, for any rank and number of threads."""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sequences
import small
import torch

from rsna_e2e.config import ModelConfig
from rsna_e2e.core.device import Compute
from rsna_e2e.core.errors import UsageError
from rsna_e2e.loader.batch import SeriesBatch
from rsna_e2e.loader.division import Division
from rsna_e2e.loader.embedding_loader import EmbeddingLoader
from rsna_e2e.loader.rank_share import make_series_batch
from rsna_e2e.loader.sampler import series_batches
from rsna_e2e.model.forward import predict_series
from rsna_e2e.model.network import JointModel
from rsna_e2e.store import Store

CPU = torch.device("cpu")
EVERYONE = range(len(small.LENGTHS) + 1)
ROUNDING = {"rtol": 0, "atol": 1e-6}  # the same sums in batches of another size


@pytest.fixture
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store of its own for every test, since they move slices about."""
    store = small.make_store(tmp_path_factory.mktemp("loader"))
    store.index = {name: column.copy() for name, column in store.index.items()}
    return store


def loader(store: Store, folder: Path, *overrides: str, rank: int = 0, n_ranks: int = 1) -> EmbeddingLoader:
    embeddings = sequences.write_embeddings(folder, store)
    division = Division(rank=rank, n_ranks=n_ranks)
    return EmbeddingLoader(store, embeddings, sequences.config(*overrides), device=CPU, division=division)


def rows_of(made: EmbeddingLoader, batch: Sequence[int]) -> list[int]:
    (loaded,) = made.load([tuple(batch)], epoch=1)
    return loaded.rows.tolist()


def test_a_batch_holds_the_embeddings_and_labels_of_its_rows(store: Store, tmp_path: Path) -> None:
    made = loader(store, tmp_path / "e")
    (batch,) = made.load([(3, 0)], epoch=None)
    spans = [store.series[3], store.series[0]]
    rows = np.concatenate([np.arange(s.first_row, s.first_row + s.n_slices) for s in spans])
    assert batch.rows.tolist() == rows.tolist()
    assert batch.series_lengths.tolist() == [s.n_slices for s in spans]
    np.testing.assert_array_equal(batch.images[:, :, 0, 0], sequences.values(store)[rows])
    np.testing.assert_array_equal(batch.labels, store.labels[rows])


def test_ranks_share_a_batch(store: Store, tmp_path: Path) -> None:
    both = [loader(store, tmp_path / str(rank), rank=rank, n_ranks=2) for rank in (0, 1)]
    parts = [next(iter(made.load([(0, 1, 2, 3)], epoch=1))) for made in both]
    whole = next(iter(loader(store, tmp_path / "0").load([(0, 1, 2, 3)], epoch=1)))
    assert [part.images.shape[0] for part in parts] == [len(whole.rows) // 2, -(-len(whole.rows) // 2)]
    assert torch.equal(torch.cat([part.images for part in parts]), whole.images)
    (single,) = (n for n in EVERYONE if store.series[n].n_slices == 1)
    idle = next(iter(both[0].load([(single,)], epoch=1)))  # one slice, two ranks
    assert idle.images.shape == (0, sequences.WIDTH, 1, 1)


def test_batches_count_series_four_times_as_many_when_nothing_is_learned(store: Store, tmp_path: Path) -> None:
    made = loader(store, tmp_path / "e", "loader.series_per_batch=1")
    assert [len(batch) for batch in made.group(EVERYONE)] == [4, 3]
    shuffled = made.group(EVERYONE, epoch=1)
    assert [len(batch) for batch in shuffled] == [1] * 7
    assert sorted(shuffled) == [(i,) for i in EVERYONE]
    assert shuffled != made.group(EVERYONE, epoch=2)
    by_slices = loader(store, tmp_path / "f", "loader.series_per_batch=null", "loader.slices_per_batch=8")
    assert all(by_slices.n_slices(batch) <= 8 for batch in by_slices.group(EVERYONE))


def test_threads_read_and_leave_operators_to_the_caller(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = []

    def traced(*arguments: Any) -> SeriesBatch:
        threads.append(threading.current_thread())
        return make_series_batch(*arguments)

    monkeypatch.setattr("rsna_e2e.loader.embedding_loader.make_series_batch", traced)
    list(loader(store, tmp_path / "e").load([(0,), (1,)], epoch=1))
    assert threads == [threading.current_thread()] * 2


def test_batches_of_series_have_all_of_them_once_and_a_short_end() -> None:
    assert series_batches(5, batch_size=2, seed=None) == [(0, 1), (2, 3), (4,)]
    batches = series_batches(50, batch_size=4, seed=3, epoch=1)
    assert sorted(i for batch in batches for i in batch) == list(range(50))
    assert {len(batch) for batch in batches} == {4, 2}


def place(store: Store, position: int, *, x: Sequence[float], y: Sequence[float]) -> list[int]:
    """Move the slices of a series; their rows, from the lowest z up. z rises with the row by 5 mm."""
    span = store.series[position]
    rows = list(range(span.first_row, span.first_row + span.n_slices))
    store.index["ipp_x_mm"][rows], store.index["ipp_y_mm"][rows] = x, y
    return rows


@pytest.mark.parametrize(
    ("x", "y", "published"),
    [
        ([-125.0] * 5, [-125.0] * 5, [0, 1, 2, 3, 4]),
        ([-125.0] * 5, [-125.0, -126.3, -127.6, -128.9, -130.2], [4, 3, 2, 1, 0]),  # a tilted gantry: y decides
        ([-125.0, -125.2, -124.9, -125.1, -125.0], [-125.0] * 5, [1, 3, 0, 4, 2]),  # x jitters: scrambled
    ],
)
def test_the_published_order_is_by_x_y_z_and_the_geometric_one_is_not(
    store: Store, tmp_path: Path, x: list[float], y: list[float], published: list[int]
) -> None:
    position = next(p for p, span in enumerate(store.series) if span.n_slices == 5)
    rows = place(store, position, x=x, y=y)
    others = [p for p in EVERYONE if p != position][:2]
    batch = (others[0], position, others[1])
    ordered = {
        order: loader(store, tmp_path / order, f"loader.slice_order={order}") for order in ("geometric", "published")
    }
    assert rows_of(ordered["geometric"], (position,)) == rows
    assert rows_of(ordered["published"], (position,)) == [rows[i] for i in published]
    sizes = [store.series[p].n_slices for p in batch]
    middle = rows_of(ordered["published"], batch)[sizes[0] : sizes[0] + 5]  # the order of series stays
    assert middle == [rows[i] for i in published]


def test_slices_at_one_position_come_by_image_id(store: Store, tmp_path: Path) -> None:
    position = next(p for p, span in enumerate(store.series) if span.n_slices == 3)
    rows = place(store, position, x=[0.0] * 3, y=[0.0] * 3)
    store.index["ipp_z_mm"][rows] = 7.0
    store.index["image_id"][rows] = ["ID_c", "ID_a", "ID_b"]
    made = EmbeddingLoader(
        store,
        sequences.write_embeddings(tmp_path / "e", store),
        sequences.config("loader.slice_order=published"),
        device=CPU,
    )
    assert rows_of(made, (position,)) == [rows[1], rows[2], rows[0]]


def test_a_series_of_one_slice_is_a_batch_like_any_other(store: Store, tmp_path: Path) -> None:
    position = next(p for p, span in enumerate(store.series) if span.n_slices == 1)
    for order in ("geometric", "published"):
        made = loader(store, tmp_path / order, f"loader.slice_order={order}")
        assert rows_of(made, (position,)) == [store.series[position].first_row]


def test_predictions_in_another_order_go_back_to_their_rows(store: Store, tmp_path: Path) -> None:
    for position in EVERYONE:
        n = store.series[position].n_slices
        place(store, position, x=[0.0] * n, y=[-1.3 * i for i in range(n)])  # published: every series back to front
    model = JointModel(ModelConfig(backbone="none"), n_channels=sequences.WIDTH, n_labels=6)
    with torch.no_grad():
        for name, parameter in model.head.named_parameters():
            if name.startswith("lstm"):
                parameter.zero_()  # what is left of the head sees one slice at a time
    probabilities = []
    for order in ("geometric", "published"):
        made = loader(store, tmp_path / order, f"loader.slice_order={order}")
        prediction = predict_series(model, made, list(EVERYONE), compute=Compute(CPU, None))
        assert sorted(prediction.rows) == list(range(len(store)))
        probabilities.append(prediction.in_store_order().slices)
    np.testing.assert_allclose(probabilities[0], probabilities[1], **ROUNDING)
    assert np.ptp(probabilities[0], axis=0).min() > 100 * ROUNDING["atol"]


def test_a_head_on_embeddings_has_no_phase_on_slices() -> None:
    with pytest.raises(UsageError, match="set slice_phase=null"):
        sequences.config("model.slice_loss_weight=1", "slice_phase={epochs: 1, optimizer: {learning_rate: 0.1}}")
