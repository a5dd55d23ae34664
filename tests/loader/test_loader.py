import copy
from collections.abc import Iterator

import numpy as np
import pytest
import small
import torch

from rsna_e2e.core.errors import UsageError
from rsna_e2e.loader.batch import SeriesBatch
from rsna_e2e.loader.division import WHOLE
from rsna_e2e.loader.image_loader import ImageLoader
from rsna_e2e.loader.kernels import numpy_twin
from rsna_e2e.store import Store
from rsna_e2e.tasks.ich import ICH

CPU = torch.device("cpu")
FP32 = {"rtol": 0, "atol": 2e-5}  # float32 op against a float64 twin on smooth values
LENGTHS = (*small.LENGTHS, 4)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return small.make_store(tmp_path_factory.mktemp("loader"))


def _loader(store: Store, *overrides: str) -> ImageLoader:
    return ImageLoader(store, small.config(*overrides), task=ICH, device=CPU)


def one(batches: Iterator[SeriesBatch]) -> SeriesBatch:
    (batch,) = batches
    return batch


def test_every_series_is_delivered_whole_and_once(store: Store) -> None:
    loader = _loader(store)
    batches = list(loader.load(loader.group(range(len(store.series)), epoch=1), epoch=1))
    delivered = {key: n for b in batches for key, n in zip(b.series_keys, b.series_lengths.tolist(), strict=True)}
    assert delivered == {span.series_key: span.n_slices for span in store.series}
    assert sorted(delivered.values()) == sorted(LENGTHS)


def test_batches_may_count_series(store: Store) -> None:
    loader = _loader(store, "loader.series_per_batch=2")
    assert {len(batch) for batch in loader.group(range(len(store.series)), epoch=1)} <= {1, 2}
    assert [len(batch) for batch in loader.group(range(len(store.series)))] == [len(store.series)]


def test_a_phase_on_slices_may_have_an_augmentation_of_its_own(store: Store) -> None:
    phase = small.slice_phase(
        epochs=2, augment={"hflip_probability": 1, "transpose_probability": 0, "affine_probability": 0}
    )
    still = [f"augment.{name}_probability=0" for name in ("hflip", "transpose", "affine")]
    config = small.config("image.size=20", "image.crop=none", *still).model_copy(update={"slice_phase": phase})
    loader = ImageLoader(store, config, task=ICH, device=CPU)
    rows = tuple(range(6))
    plain = one(loader.load_slices([rows], epoch=None)).images[:].flip(-1)
    for epoch in (1, 2):
        torch.testing.assert_close(one(loader.load_slices([rows], epoch=epoch)).images[:], plain, rtol=0, atol=1e-4)
    of_series = one(loader.load([(3,)], epoch=3)).images[:]
    torch.testing.assert_close(of_series, one(loader.load([(3,)], epoch=None)).images[:], rtol=0, atol=1e-4)


def test_pixels_equal_the_float64_twin(store: Store) -> None:
    loader = _loader(store, "image.size=20", "image.crop=none")
    span = store.series[3]
    batch = one(loader.load([(3,)], epoch=None))
    scale = small.SIDE / 20
    affine = np.array([[scale, 0, 0.5 * scale - 0.5], [0, scale, 0.5 * scale - 0.5]])
    hu = np.stack([store.read_slice(span.first_row + i) for i in range(span.n_slices)])
    expected = numpy_twin.transform_slices(
        hu,
        np.repeat(affine[None].astype(np.float32), span.n_slices, axis=0),
        np.array(ICH.inputs.windows_hu),
        size=20,
        mean=np.array(ICH.inputs.mean),
        std=np.array(ICH.inputs.std),
    )
    np.testing.assert_allclose(batch.images.numpy() * 0.3, expected * 0.3, **FP32)


def test_labels_follow_the_images(store: Store) -> None:
    for position, span in enumerate(store.series):
        batch = one(_loader(store).load([(position,)], epoch=None))
        if span.split == "test":
            assert not batch.label_mask.any()
            continue
        # the patch of a label is 75 HU, everything else below 40; brain window, un-normalised: 75 / 80
        brain = batch.images[:, 0] * ICH.inputs.std[0] + ICH.inputs.mean[0]
        for label in range(5):
            row, column = divmod(label, 3)
            seen = brain[:, 5 + 10 * row, 5 + 10 * column] > 60 / 80
            assert seen.tolist() == batch.labels[:, label].bool().tolist()


def test_pixels_of_a_series_do_not_depend_on_its_batch_mates(store: Store) -> None:
    loader = _loader(store)
    together = one(loader.load([(0, 3)], epoch=2)).images
    alone = one(loader.load([(3,)], epoch=2)).images
    assert torch.equal(together[-len(alone) :], alone)


def test_a_single_slice_has_the_pixels_and_labels_it_has_in_its_series(store: Store) -> None:
    loader = _loader(store)
    first, second = store.series[0], store.series[3]
    mixed = one(loader.load_slices([(second.first_row + 2, first.first_row)], epoch=2))
    whole_first, whole_second = one(loader.load([(0,)], epoch=2)), one(loader.load([(3,)], epoch=2))
    assert torch.equal(mixed.images, torch.stack([whole_second.images[2], whole_first.images[0]]))
    assert torch.equal(mixed.labels, torch.stack([whole_second.labels[2], whole_first.labels[0]]))
    assert mixed.series_keys == (second.series_key, first.series_key)


def test_a_batch_that_does_not_add_up_is_refused() -> None:
    labels = torch.zeros(3, 6)
    with pytest.raises(ValueError, match="lengths sum to 4, but there are 3 slices"):
        SeriesBatch(
            images=torch.zeros(3, 3, 8, 8),
            chunks=WHOLE.chunks([3]),
            series_lengths=torch.tensor([3, 1]),
            labels=labels,
            label_mask=labels.bool(),
            series_labels=labels[:2],
            series_mask=labels[:2].bool(),
            series_keys=("a", "b"),
            rows=np.arange(3),
        )


@pytest.mark.parametrize("sampling", ["balanced", "balanced_shards"])
def test_balanced_epochs_leave_out_slices_of_unknown_label(store: Store, sampling: str) -> None:
    loader = _loader(store)
    is_any = store.labels[:, ICH.headline_index]
    n_positive, n_negative = int((is_any == 1).sum()), int((is_any == 0).sum())
    assert 0 < n_negative < n_positive  # of five coins, one nearly always shows
    phase = small.slice_phase(sampling=sampling, slices_per_batch=2, negative_shards=1)
    with pytest.raises(UsageError, match=f"{n_positive} training slices are positive and only {n_negative}"):
        loader.group_slices(range(len(store.series)), phase=phase, epoch=1)
    fewer = copy.copy(store)
    fewer.labels = 1 - store.labels  # what was unknown stays so
    loader = ImageLoader(fewer, small.config(), task=ICH, device=CPU)
    batches = loader.group_slices(range(len(store.series)), phase=phase, epoch=1)
    labels = fewer.labels[[row for batch in batches for row in batch], ICH.headline_index]
    assert sorted(labels) == [0.0] * n_negative + [1.0] * n_negative
