"""Radiographs through the loader: presented, the same bits by each backend, and with random grey in training."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import small
import stores
import torch

from rsna_e2e.core.device import Compute
from rsna_e2e.core.errors import UsageError
from rsna_e2e.loader.choice import choose_loader
from rsna_e2e.loader.geometry import series_generator
from rsna_e2e.loader.image_loader import ImageLoader
from rsna_e2e.loader.present import STILL, WHITE, Jitter, presentation_table, shown_slice
from rsna_e2e.store import Store
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.tasks.task import Inputs

CPU = torch.device("cpu")
BACKENDS = (pytest.param("dali", marks=pytest.mark.needs_dali), "torch")
WHOLE_RANGE = Inputs(windows_hu=((WHITE / 2, float(WHITE)),), mean=(0.0,), std=(1.0,), values="grey")
TASK = replace(ICH, inputs=WHOLE_RANGE)
AT_REST = ("augment.hflip_probability=0", "augment.transpose_probability=0", "augment.affine_probability=0")
JITTER = ("augment.brightness_limit=0.1", "augment.contrast_limit=0.2", "augment.gamma_limit=0.5")
FP32 = {"rtol": 0, "atol": 2e-6}  # a window in float32, of values up to 1
SQUARE = (0, 1, 3)  # rows of the store with 64 x 64 pixels


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Five radiographs, each with another kind of presentation."""
    path = tmp_path_factory.mktemp("radiographs") / "store"
    stores.make_xray_store(path)
    return Store.open(path)


def images(store: Store, backend: str, *overrides: str, epoch: int | None = None) -> np.ndarray:
    config = small.config("image.size=64", "image.crop=none", f"loader.backend={backend}", *AT_REST, *overrides)
    loader = ImageLoader(store, config, task=TASK, device=CPU)
    (batch,) = loader.load_slices([SQUARE], epoch=epoch)
    return np.asarray(batch.images[:].numpy()[:, 0])


def expected(store: Store, jitters: list[Jitter]) -> np.ndarray:
    """Presented values entry by entry of the table, as shares of white."""
    tables = [
        presentation_table(store.presentation(row), store.luts, jitter)
        for row, jitter in zip(SQUARE, jitters, strict=True)
    ]
    values = [store.read_slice(row).astype(np.int64) % 65536 for row in SQUARE]
    return np.stack([table[of_slice] for table, of_slice in zip(tables, values, strict=True)]) / WHITE


@pytest.mark.parametrize("backend", BACKENDS)
def test_images_are_presented(store: Store, backend: str) -> None:
    np.testing.assert_allclose(images(store, backend), expected(store, [STILL] * 3), **FP32)
    chunked = images(store, "torch", "loader.transform=chunk")
    np.testing.assert_array_equal(images(store, backend), chunked)


@pytest.mark.parametrize("backend", BACKENDS)
def test_training_images_have_grey_drawn_last(store: Store, backend: str) -> None:
    jitters = []
    for row in SQUARE:
        rng = series_generator(small.config().seed, 3, store.index["series_key"][row])
        rng.random(3), rng.uniform(size=4), rng.random()  # what was drawn before there was such
        brightness, contrast, gamma = rng.uniform(-1, 1, 3)
        jitters.append(Jitter(0.1 * brightness, 1 + 0.2 * contrast, 1.5**gamma))
    found = images(store, backend, *JITTER, epoch=3)
    np.testing.assert_allclose(found, expected(store, jitters), **FP32)
    assert not np.array_equal(found, images(store, backend, *JITTER, epoch=4))
    np.testing.assert_array_equal(images(store, backend, epoch=3), images(store, backend))  # off unless asked for


def test_a_slice_is_shown_as_the_loader_shows_it(store: Store) -> None:
    shown = np.stack([shown_slice(store, row) for row in SQUARE])
    assert shown.min() >= 0
    np.testing.assert_allclose(shown / WHITE, images(store, "torch"), **FP32)


def test_hu_are_read_as_they_are(tmp_path: Path) -> None:
    stores.make_store(tmp_path / "store")
    store = Store.open(tmp_path / "store")
    for row, hu in enumerate(stores.make_slices()):
        np.testing.assert_array_equal(shown_slice(store, row), hu)


@pytest.mark.parametrize(
    ("make", "task", "overrides", "message"),
    [
        (stores.make_xray_store, ICH, (), "holds radiographs, and task ich is for Hounsfield units of CT"),
        (stores.make_store, TASK, (), "holds Hounsfield units of CT, and task ich is for radiographs"),
        (stores.make_store, ICH, JITTER[1:2], "gamma_limit are for radiographs: leave them out"),
    ],
)
def test_images_of_another_kind_are_refused(
    make: Callable[[Path], str], task: object, overrides: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    make(tmp_path / "store")
    store = Store.open(tmp_path / "store")
    with pytest.raises(UsageError, match=message):
        choose_loader(store, small.config(*overrides), task=task, compute=Compute(CPU, None))  # type: ignore[arg-type]
