"""The DALI and torch backends give the same batches, in order, and end cleanly."""

import multiprocessing
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import small
import torch

from rsna_e2e.core.errors import MissingCapabilityError, UsageError
from rsna_e2e.loader import image_loader
from rsna_e2e.loader.batch import SeriesBatch
from rsna_e2e.loader.division import WHOLE, Division
from rsna_e2e.loader.image_loader import ImageLoader
from rsna_e2e.loader.read_ahead import work_ahead
from rsna_e2e.store import Compression, Store, StoreError
from rsna_e2e.tasks.ich import ICH

CPU = torch.device("cpu")
BACKENDS = (pytest.param("dali", marks=pytest.mark.needs_dali), "torch")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Series of different lengths and of images of different sizes."""
    return small.make_store(tmp_path_factory.mktemp("backends"), sides=(32, 40, 33))


def make_loader(
    store: Store, *overrides: str, dtype: torch.dtype = torch.float32, division: Division = WHOLE
) -> ImageLoader:
    config = small.config(*overrides)
    return ImageLoader(store, config, task=ICH, device=CPU, dtype=dtype, division=division)


def all_series(loader: ImageLoader, store: Store, *, epoch: int | None = 1) -> Iterator[SeriesBatch]:
    return loader.load(loader.group(range(len(store.series)), epoch=epoch), epoch=epoch)


def assert_same(left: SeriesBatch, right: SeriesBatch) -> None:
    for name in ("images", "series_lengths", "labels", "label_mask", "series_labels", "series_mask"):
        assert torch.equal(getattr(left, name), getattr(right, name)), name
    assert left.images.is_contiguous(memory_format=torch.channels_last)
    assert left.series_keys == right.series_keys
    assert left.rows.tolist() == right.rows.tolist()


def threads_of_loaders() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("loader")]


def resident_pages() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("backend", BACKENDS)
def test_every_backend_and_number_of_threads_gives_the_same_bits(
    store: Store, backend: str, threads: int, dtype: torch.dtype
) -> None:
    for epoch in (1, None):
        plain = list(all_series(make_loader(store, "loader.backend=torch", dtype=dtype), store, epoch=epoch))
        loader = make_loader(store, f"loader.backend={backend}", f"loader.threads={threads}", dtype=dtype)
        for expected, batch in zip(plain, all_series(loader, store, epoch=epoch), strict=True):
            assert batch.images.dtype == dtype
            assert_same(batch, expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_single_slices_come_as_in_plain_torch(store: Store, backend: str) -> None:
    loader, plain = make_loader(store, f"loader.backend={backend}"), make_loader(store, "loader.backend=torch")
    batches = loader.group_slices(range(len(store.series)), phase=small.slice_phase(), epoch=3)
    for batch, expected in zip(loader.load_slices(batches, epoch=3), plain.load_slices(batches, epoch=3), strict=True):
        assert_same(batch, expected)


def test_images_made_chunk_by_chunk_are_those_of_the_whole_batch(store: Store) -> None:
    lazy = make_loader(store, "loader.transform=chunk")
    assert lazy.backend == "torch"
    for batch, expected in zip(
        all_series(lazy, store), all_series(make_loader(store, "loader.backend=torch"), store), strict=True
    ):
        assert batch.images.shape == expected.images.shape
        n = len(batch.labels)
        parts = [batch.images[rows : rows + 2] for rows in range(0, n, 2)]
        assert torch.equal(torch.cat(parts), expected.images[:])
        assert torch.equal(batch.images[1:n], expected.images[1:n])


def test_buffers_of_lazy_images_are_used_again_when_nobody_holds_them(store: Store) -> None:
    loader = make_loader(store, "loader.transform=chunk")
    batches = list(all_series(loader, store))
    assert not loader._buffers._free
    kept = batches.pop()
    n_let_go = len(batches)
    batches.clear()
    assert len(loader._buffers._free) == n_let_go
    assert kept.images[:].isfinite().all()


def test_dali_does_not_make_images_chunk_by_chunk(store: Store) -> None:
    with pytest.raises(UsageError, match=r"loader\.transform=chunk needs torch's operator"):
        make_loader(store, "loader.transform=chunk", "loader.backend=dali")


@pytest.mark.parametrize("keeps_series", [False, True])
@pytest.mark.parametrize("n_ranks", [2, 9])
@pytest.mark.parametrize("backend", BACKENDS)
def test_ranks_make_the_images_of_their_own_slices_and_know_all_labels(
    store: Store, backend: str, n_ranks: int, keeps_series: bool
) -> None:
    divisions = [Division(rank=r, n_ranks=n_ranks, chunk_size=2, keeps_series=keeps_series) for r in range(n_ranks)]
    loaders = [make_loader(store, f"loader.backend={backend}", division=division) for division in divisions]
    shares = [list(all_series(loader, store)) for loader in loaders]
    n_empty = 0
    for whole, *parts in zip(all_series(make_loader(store), store), *shares, strict=True):
        images = torch.full_like(whole.images, torch.nan)
        for part in parts:
            n_empty += len(part.images) == 0
            for name in ("labels", "label_mask", "series_labels", "series_mask", "series_lengths"):
                assert torch.equal(getattr(part, name), getattr(whole, name)), name
            assert part.rows.tolist() == whole.rows.tolist()
            for chunk in part.chunks:
                images[chunk.rows] = part.images[chunk.images]
        assert torch.equal(images, whole.images)
    assert (n_empty > 0) == (n_ranks == 9)  # 8 slices in a batch at the most


def test_a_rank_reads_its_own_slices_alone(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    read_slices = store.read_slices
    monkeypatch.setattr(Store, "read_slices", lambda self, rows, values: (read.extend(rows), read_slices(rows, values)))
    batch = tuple(range(len(store.series)))
    rows = [next(make_loader(store, division=WHOLE).load([batch], epoch=1)).rows.tolist(), list(read)]
    assert rows[0] == rows[1]
    read.clear()
    list(make_loader(store, division=Division(rank=1, n_ranks=4, chunk_size=2)).load([batch], epoch=1))
    n = len(rows[0])
    assert read == rows[0][n // 4 : n // 2]


@pytest.mark.parametrize("backend", BACKENDS)
def test_epochs_differ_and_repeat(store: Store, backend: str) -> None:
    loader = make_loader(store, f"loader.backend={backend}")
    batches = loader.group(range(len(store.series)))
    first, again, later = ([b.images for b in loader.load(batches, epoch=epoch)] for epoch in (1, 1, 2))
    assert all(map(torch.equal, first, again))
    assert not all(map(torch.equal, first, later))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("step", [1, 3])
def test_a_resumed_epoch_goes_on_with_the_batches_that_a_whole_one_has(store: Store, backend: str, step: int) -> None:
    loader = make_loader(store, f"loader.backend={backend}")
    batches = loader.group(range(len(store.series)), epoch=2)
    whole = list(loader.load(batches, epoch=2))
    resumed = make_loader(store, f"loader.backend={backend}").load(batches[step:], epoch=2)
    for batch, expected in zip(resumed, whole[step:], strict=True):
        assert_same(batch, expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_batches_that_are_held_are_not_overwritten(store: Store, backend: str) -> None:
    loader = make_loader(store, f"loader.backend={backend}", "loader.slices_per_batch=2")
    batches = loader.group(range(len(store.series))) * 5
    held, copies = [], []
    for batch in loader.load(batches, epoch=1):
        held.append(batch.images)
        copies.append(batch.images.clone())
    assert len(held) == len(batches)
    assert all(map(torch.equal, held, copies))
    assert len({images.data_ptr() for images in held}) == len(held)


@pytest.mark.parametrize("backend", BACKENDS)
def test_packed_pixels_give_the_same_batches(store: Store, tmp_path: Path, backend: str) -> None:
    packed = small.make_store(tmp_path, sides=(32, 40, 33), compression="bitshuffle-lz4")
    plain, unpacked = (all_series(make_loader(s, f"loader.backend={backend}"), s) for s in (store, packed))
    for left, right in zip(plain, unpacked, strict=True):
        assert_same(left, right)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("compression", ["none", "bitshuffle-lz4"])
def test_a_damaged_slice_ends_the_epoch_is_named_and_leaves_nothing_behind(
    tmp_path: Path, backend: str, compression: Compression
) -> None:
    store = small.make_store(tmp_path, compression=compression)
    span = store.series[2]
    shard = tmp_path / "store" / "shards" / str(store.index["shard"][span.first_row])
    content = bytearray(shard.read_bytes())
    content[int(store.index["byte_offset"][span.first_row])] ^= 1
    shard.write_bytes(content)
    with pytest.raises(StoreError, match=f"slice 0 of series {span.series_key[:8]} is damaged"):
        list(all_series(make_loader(store, f"loader.backend={backend}"), store))
    assert threads_of_loaders() == []
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("change", ["removed", "cut", "replaced"])
def test_a_store_that_changes_under_the_loader(tmp_path: Path, backend: str, change: str) -> None:
    store = small.make_store(tmp_path)
    loader = make_loader(store, f"loader.backend={backend}", "loader.slices_per_batch=1", "loader.prefetch_batches=1")
    batches = loader.load(loader.group(range(len(store.series))) * 3, epoch=1)
    next(batches)
    for shard in (tmp_path / "store" / "shards").iterdir():
        n_bytes = {"removed": 0, "cut": shard.stat().st_size // 20, "replaced": shard.stat().st_size}[change]
        if change == "removed":
            shard.unlink()
        else:  # at once: the loader reads meanwhile
            shard.with_suffix(".new").write_bytes(bytes(n_bytes))
            shard.with_suffix(".new").replace(shard)
    with pytest.raises(StoreError, match=r"cannot be read \(series" if change == "removed" else "changed since"):
        list(batches)
    assert threads_of_loaders() == []


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_consumer_that_stops_early_leaves_no_threads(store: Store, backend: str) -> None:
    batches = all_series(make_loader(store, f"loader.backend={backend}", "loader.slices_per_batch=1"), store)
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    assert threads_of_loaders() == []


def test_an_error_does_not_wait_for_its_turn() -> None:
    started = threading.Event()

    def work(item: int) -> int:
        if item == 1:
            started.wait(10)
            raise StoreError("slice 1")
        return item

    results = work_ahead(work, range(100), small.config("loader.threads=2", "loader.prefetch_batches=8").loader)
    assert next(results) == 0
    started.set()
    with pytest.raises(StoreError, match="slice 1"):
        list(results)
    assert threads_of_loaders() == []


def test_work_goes_ahead_of_the_consumer_but_not_further_than_asked() -> None:
    done: list[int] = []
    results = work_ahead(
        lambda item: done.append(item) or item, range(100), small.config("loader.prefetch_batches=5").loader
    )
    next(results)
    deadline_s = time.monotonic() + 10
    while len(done) < 6 and time.monotonic() < deadline_s:
        time.sleep(0.01)
    time.sleep(0.05)
    assert sorted(done) == [0, 1, 2, 3, 4, 5]
    results.close()  # type: ignore[attr-defined]


def test_without_dali_torch_is_taken_and_dali_on_request_is_an_error(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> None:
        raise MissingCapabilityError("NVIDIA DALI is not installed")

    monkeypatch.setattr(image_loader.dali_plugin, "is_installed", lambda: False)
    monkeypatch.setattr(image_loader.dali_plugin, "load", missing)
    assert make_loader(store).backend == "torch"
    with pytest.raises(MissingCapabilityError, match="DALI is not installed"):
        make_loader(store, "loader.backend=dali")


@pytest.mark.needs_dali
def test_dali_is_the_default(store: Store) -> None:
    assert make_loader(store).backend == "dali"


@pytest.mark.parametrize("n_batches", [300, pytest.param(2000, marks=pytest.mark.slow)], ids=["scaled_down", "full"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_resident_memory_is_flat(store: Store, backend: str, n_batches: int) -> None:
    loader = make_loader(store, f"loader.backend={backend}", "image.size=224")
    rng = np.random.default_rng(0)
    positions = range(len(store.series))
    batches = [tuple(map(int, rng.choice(positions, rng.integers(1, len(positions) + 1)))) for _ in range(n_batches)]
    resident = []
    for batch in loader.load(batches, epoch=1):
        assert len(batch.images)
        resident.append(resident_pages())
    # a few batches of different lengths are there at once, so halves are compared, not single readings
    first, second = resident[n_batches // 10 : n_batches // 2], resident[n_batches // 2 :]
    assert max(second) <= 1.03 * max(first)
    assert np.median(second) <= 1.03 * np.median(first)
