"""The order of slices in the label file, and the parts that negatives are drawn from in that order."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import sequences
import small
import torch

from rsna_e2e.core.errors import UsageError
from rsna_e2e.loader.embedding_loader import EmbeddingLoader
from rsna_e2e.loader.holdout import series_folds
from rsna_e2e.loader.image_loader import ImageLoader
from rsna_e2e.loader.label_file_order import label_file_places
from rsna_e2e.store import Store
from rsna_e2e.store.embeddings import Embeddings
from rsna_e2e.store.prepare import prepare
from rsna_e2e.tasks.ich import ICH

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return small.make_store(tmp_path_factory.mktemp("order"))


@pytest.fixture
def from_csv(store: Store) -> Iterator[Store]:
    """The store, whose label file names its slices from the last to the first, but for those of the test series."""
    before = store.index["csv_place"]
    rows = np.arange(len(store))[::-1].astype(np.int64) * 10
    rows[store.index["split"] == "test"] = -1
    store.index["csv_place"] = rows
    yield store
    store.index["csv_place"] = before


def test_slices_that_the_label_file_does_not_name_come_last_by_image_id(from_csv: Store) -> None:
    in_order = np.argsort(label_file_places(from_csv))
    is_test = from_csv.index["split"] == "test"
    n_labelled = int((~is_test).sum())
    assert in_order[:n_labelled].tolist() == np.flatnonzero(~is_test)[::-1].tolist()
    last = from_csv.index["image_id"][in_order[n_labelled:]].tolist()
    assert last == sorted(last)
    assert len(last) == 4


@pytest.mark.parametrize("is_wide", [False, True])
def test_a_store_knows_the_order_of_its_label_file(is_wide: bool, tmp_path: Path) -> None:
    small.write_raw(tmp_path / "raw")
    given = tmp_path / "raw" / "stage_2_train.csv"
    header, *rows = given.read_text().splitlines()
    n_labels = len(ICH.slices)
    image_ids = [rows[start].rpartition("_")[0] for start in range(0, len(rows), n_labels)]
    shuffled = np.random.default_rng(0).permutation(len(image_ids))
    blocks = [rows[n_labels * i : n_labels * (i + 1)] for i in shuffled]
    places = {image_ids[i]: place for place, i in enumerate(shuffled)}
    if is_wide:
        lines = [",".join(["SOPInstanceUID", *ICH.slices.names])]
        lines += [",".join([image_ids[i], *(row.split(",")[1] for row in block)])
                  for i, block in zip(shuffled, blocks, strict=True)]  # fmt: skip
    else:
        lines = [header, *(row for block in blocks for row in block[::-1]), blocks[0][0]]  # one row twice
    given.write_text("\n".join(lines) + "\n")
    prepare(tmp_path / "raw", tmp_path / "store", task=ICH, n_folds=3, n_jobs=1)
    index = Store.open(tmp_path / "store").index
    found = dict(zip(index["image_id"].tolist(), index["csv_place"].tolist(), strict=True))
    assert {image_id: found[image_id] for image_id in places} == places
    assert {row for image_id, row in found.items() if image_id not in places} == {-1}


def test_the_first_positives_of_the_label_file_are_trained_on(from_csv: Store) -> None:
    before = from_csv.labels.copy()
    known = ~np.isnan(before).all(axis=1)
    try:
        for n_positive, trained_on in (
            # the file has the series from the last to the first; of each one slice is positive, and 0.725 x 6 is 4.35
            (1, 4),
            # of the last series none, so that it adds nothing: 0.725 x 5 is 3.6
            (0, 1 + 3),
        ):
            from_csv.labels[known] = 0
            labelled = [span for span in from_csv.series if span.split == "train"]
            for span in labelled:
                from_csv.labels[span.first_row] = 1
            from_csv.labels[labelled[-1].first_row] = n_positive
            folds = {span.series_key: f for span, f in zip(from_csv.series, series_folds(from_csv, "csv"), strict=True)}
            assert [folds[span.series_key] for span in labelled[::-1]] == [1] * trained_on + [0] * (6 - trained_on)
            assert {folds[span.series_key] for span in from_csv.series if span.split == "test"} == {-1}
    finally:
        from_csv.labels[:] = before


def test_heads_may_take_slices_in_the_order_of_the_label_file(from_csv: Store, tmp_path: Path) -> None:
    sequences.write_embeddings(tmp_path / "embeddings", from_csv, fold=0)
    embeddings = Embeddings.open([tmp_path / "embeddings"], from_csv)
    config = small.config("model.backbone=none", "loader.slice_order=csv", "image.size=1")
    loader = EmbeddingLoader(from_csv, embeddings, config, device=CPU)
    position = max(range(len(from_csv.series)), key=lambda p: from_csv.series[p].n_slices)
    (batch,) = loader.load([(position,)])
    rows = np.arange(*from_csv.series[position].rows.indices(len(from_csv)))
    assert batch.rows.tolist() == rows[::-1].tolist()
    np.testing.assert_array_equal(batch.images[:].numpy()[:, :, 0, 0], embeddings.read(batch.rows))


def test_images_keep_their_geometric_order() -> None:
    with pytest.raises(UsageError, match=r"slice_order csv is for heads on embeddings"):
        small.config("loader.slice_order=csv")


def test_shards_are_parts_of_the_label_file(from_csv: Store) -> None:
    labels = from_csv.labels[:, ICH.headline_index]
    before = labels.copy()
    labels[:] = np.where(np.isnan(labels), np.nan, np.arange(len(labels)) % 7 == 0)
    try:
        phase = small.slice_phase(sampling="balanced_shards", negative_shards=2, slices_per_batch=2)
        loader = ImageLoader(from_csv, small.config(), task=ICH, device=CPU)
        positions = [p for p, span in enumerate(from_csv.series) if span.split == "train"]
        negatives = np.flatnonzero(labels == 0)
        for epoch, later in ((1, negatives[: len(negatives) // 2]), (2, negatives[len(negatives) // 2 :])):
            batches = loader.group_slices(positions, phase=phase, epoch=epoch)
            drawn = {row for batch in batches for row in batch if labels[row] == 0}
            assert drawn <= set(later.tolist())  # the first part of the file holds the last rows, and is of epoch 2
            assert len(drawn) == int((labels == 1).sum())
    finally:
        labels[:] = before
