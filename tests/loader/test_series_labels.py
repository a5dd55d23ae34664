"""Labels of series in a batch: those of the store, or those of its slices."""

import levels
import numpy as np
import pytest
import small
import torch

from rsna_e2e.loader.image_loader import ImageLoader
from rsna_e2e.store import Store
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.tasks.pe import PE

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return small.make_store(tmp_path_factory.mktemp("labels"))


def test_a_batch_has_the_labels_of_series_that_the_store_has(store: Store) -> None:
    own = levels.with_series_labels(store)
    own.series_labels[3, 4] = np.nan
    loader = ImageLoader(own, small.config("loader.backend=torch"), task=PE, device=CPU)
    (batch,) = loader.load([(3, 0)], epoch=1)
    expected = own.series_labels[[3, 0]]
    assert batch.series_mask.tolist() == (~np.isnan(expected)).tolist()
    assert not batch.series_mask[0, 4]
    assert batch.series_labels.tolist() == np.nan_to_num(expected).tolist()
    (alone,) = loader.load_slices([(own.series[3].first_row + 1, own.series[0].first_row)], epoch=1)
    assert torch.equal(alone.series_labels, batch.series_labels)


def test_elsewhere_a_series_has_the_labels_of_its_slices(store: Store) -> None:
    loader = ImageLoader(store, small.config("loader.backend=torch"), task=ICH, device=CPU)
    (batch,) = loader.load([(3, 2)], epoch=1)
    slices = [store.labels[store.series[number].rows] for number in (3, 2)]
    assert batch.series_labels.tolist() == [rows.max(axis=0).tolist() for rows in slices]
    assert batch.series_mask.all()
    (unlabelled,) = loader.load([(len(small.LENGTHS),)], epoch=None)
    assert not unlabelled.series_mask.any()
