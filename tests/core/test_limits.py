"""Where files are read, stores opened and images made, the same is taken: what passes one passes the others."""

from pathlib import Path
from typing import Any

import numpy as np
import phantoms
import pytest
import small
import torch
from pydantic import ValidationError
from stores import edit_index, make_store

from rsna_e2e import dicom
from rsna_e2e.config import ImageConfig
from rsna_e2e.core.errors import BadInputError
from rsna_e2e.core.limits import LENGTHS_MM, MAX_FRAMES, MAX_IMAGE_SIZE_PX, MAX_POSITION_MM, MAX_SUPERSAMPLE, SIDES_PX
from rsna_e2e.core.records import Refusal
from rsna_e2e.loader.division import WHOLE
from rsna_e2e.loader.image_loader import ImageLoader
from rsna_e2e.loader.kernels import torch_ops
from rsna_e2e.store import Store, StoreError
from rsna_e2e.tasks.ich import ICH

LEAST, MOST = SIDES_PX
BACKENDS = (pytest.param("dali", marks=pytest.mark.needs_dali), "torch")
WINDOWS = ((40.0, 80.0),)
IDENTITY = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]])


def is_read(folder: Path, stored: np.ndarray, **tags: Any) -> bool:
    result = dicom.read_slice(phantoms.write_dicom(folder / "a.dcm", phantoms.slice_dataset(stored, **tags)))
    return not isinstance(result, Refusal)


def opens(path: Path) -> bool:
    try:
        Store.open(path)
    except StoreError:
        return False
    return True


def is_transformed(rows: int, columns: int, *, size: int = 1, supersample: int = 1) -> bool:
    hu = torch.zeros(1, rows, columns, dtype=torch.int16)
    try:
        torch_ops.content_box(hu, WINDOWS)
        torch_ops.transform_slices(hu, IDENTITY, WINDOWS, size=size, supersample=supersample)
    except ValueError:
        return False
    return True


SHAPES = {
    (LEAST, LEAST): False,
    (LEAST, LEAST + 1): True,
    (LEAST + 1, LEAST): True,
    (LEAST, MOST): True,
    (MOST, LEAST): True,
    (MOST + 1, LEAST): False,
    (LEAST, MOST + 1): False,
}


@pytest.mark.parametrize(("shape", "is_taken"), SHAPES.items())
def test_sides_of_a_slice(tmp_path: Path, shape: tuple[int, int], is_taken: bool) -> None:
    rows, columns = shape
    assert is_read(tmp_path, np.zeros(shape, "<i2")) == is_taken
    if is_taken or max(shape) <= MOST:  # kernels take more, which no store has
        assert is_transformed(*shape) == is_taken
    make_store(tmp_path / "store")
    sides = {"rows": np.full(5, rows), "columns": np.full(5, columns), "stored_bytes": np.full(5, 2 * rows * columns)}
    nothing = {f"content_{corner}": np.zeros(5) for corner in ("x0", "y0", "x1", "y1")}
    places = {"n_rounded": np.zeros(5), "n_saturated": np.zeros(5), "n_padding": np.zeros(5)}
    edit_index(tmp_path / "store", lambda index: index.update(_typed(index, sides | nothing | places)))
    with pytest.raises(StoreError) as error:  # its shards hold others
        Store.open(tmp_path / "store")
    assert ("impossible rows" in str(error.value) or "impossible columns" in str(error.value)) != is_taken


def _typed(index: dict[str, np.ndarray], columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: column.astype(index[name].dtype) for name, column in columns.items()}


# Of columns and tags that one value of a slice has: values at each end, and beyond it
ENDS: dict[str, tuple[str, Any, list[float], list[float]]] = {
    "spacing_row_mm": ("PixelSpacing", lambda v: [v, 1], [*LENGTHS_MM], [LENGTHS_MM[0] / 2, LENGTHS_MM[1] + 1, 0, -1]),
    "ipp_z_mm": (
        "ImagePositionPatient",
        lambda v: [0, 0, v],
        [-MAX_POSITION_MM, MAX_POSITION_MM],
        [-MAX_POSITION_MM - 1, MAX_POSITION_MM + 1],
    ),
    "bits_stored": ("BitsStored", int, [1, 16], [0, 17]),
    "pixel_representation": ("PixelRepresentation", int, [0, 1], [2]),
    "slope": ("RescaleSlope", float, [-1e300, 1e300], [0]),
    "frame_number": ("NumberOfFrames", int, [1], [0, MAX_FRAMES + 1]),
}


@pytest.mark.parametrize("column", ENDS)
def test_other_numbers_of_a_slice(tmp_path: Path, column: str) -> None:
    tag, spell, inside, outside = ENDS[column]
    make_store(tmp_path / "store")
    stored = np.zeros((4, 4), "<u2")
    for value in (*inside, *outside):
        tags = {tag: spell(value), "RescaleIntercept": 0} | (
            {"HighBit": max(int(value) - 1, 0)} if tag == "BitsStored" else {}
        )
        assert is_read(tmp_path, stored, **tags) == (value in inside), value
        edit_index(tmp_path / "store", lambda index, value=value: index[column].__setitem__(slice(None), value))
        assert opens(tmp_path / "store") == (value in inside), value


@pytest.mark.parametrize(
    ("name", "most"), [("size", MAX_IMAGE_SIZE_PX), ("supersample", MAX_SUPERSAMPLE)], ids=["size", "supersample"]
)
def test_what_a_configuration_may_ask_of_kernels(name: str, most: int) -> None:
    assert getattr(ImageConfig(**{name: most}), name) == most
    assert is_transformed(2, 2, **{name: most})
    with pytest.raises(ValidationError):
        ImageConfig(**{name: most + 1})
    if name == "size":
        with pytest.raises(ValidationError):
            ImageConfig(size_from_epoch={1: most + 1})


@pytest.mark.parametrize("backend", BACKENDS)
def test_slices_of_one_row_or_column_become_images(tmp_path: Path, backend: str) -> None:
    shapes = [[(1, 40), (40, 1), (1, 2), (2, 1)], [(32, 32)]]
    series = [[np.full(shape, 40, dtype=np.int16) for shape in of_series] for of_series in shapes]
    store = small.make_store_of(tmp_path, series)
    config = small.config(f"loader.backend={backend}", "image.crop=slice")
    loader = ImageLoader(store, config, task=ICH, device=torch.device("cpu"), division=WHOLE)
    batches = list(loader.load(loader.group(range(2)), epoch=1))
    assert sum(len(batch.images) for batch in batches) == 5
    assert all(batch.images.isfinite().all() for batch in batches)


KERNEL_CALLS = {
    "torch": ["loader.backend=torch", "image.crop=slice"],
    "chunk by chunk": ["loader.backend=torch", "image.crop=slice", "loader.transform=chunk"],
    "8 bits": ["loader.backend=torch", "image.crop=series", "image.values=uint8"],
    "dali": ["loader.backend=dali", "image.crop=slice"],
}


@pytest.mark.parametrize(
    "overrides",
    [pytest.param(of, id=name, marks=[pytest.mark.needs_dali] * (name == "dali")) for name, of in KERNEL_CALLS.items()],
)
def test_what_a_kernel_complains_of_names_slice_and_series(tmp_path: Path, overrides: list[str]) -> None:
    store = small.make_store(tmp_path)
    span = max(store.series, key=lambda span: span.n_slices)
    number = 0 if "image.crop=series" in overrides else span.n_slices - 1
    for name, corner in (("content_x0", 5000), ("content_x1", 5001)):  # as no store has it that was opened
        store.index[name] = store.index[name].copy()
        store.index[name][span.rows][number:] = corner
    loader = ImageLoader(store, small.config(*overrides), task=ICH, device=torch.device("cpu"), division=WHOLE)

    def make_images() -> None:
        for batch in loader.load(loader.group(range(len(store.series))), epoch=None):
            for chunk in batch.chunks:
                batch.images[chunk.rows]

    message = rf"^slice {number} of series {span.series_key[:8]} cannot be made an image: its source box lies outside"
    with pytest.raises(BadInputError, match=message):
        make_images()
