"""Small radiographs on which bright rectangles are the boxes, as PNG files with a table of boxes, in a store."""

from pathlib import Path

import numpy as np
from PIL import Image

from rsna_e2e.config import RunConfig, load_config
from rsna_e2e.store import Store
from rsna_e2e.store.prepare import Reading, prepare
from rsna_e2e.tasks.boxes import ImageBoxes, make_boxes
from rsna_e2e.tasks.labels import write_box_labels
from rsna_e2e.tasks.pneumonia import PNEUMONIA

SIDE = 64
SHAPE = (SIDE, 56)  # rows, columns: not square, so that a box that is put back wrongly is elsewhere


def draw(n: int, *, seed: int = 0) -> tuple[list[np.ndarray], ImageBoxes]:
    """Return images uint8 of `SHAPE`, and the rectangles in them: none, one or two, in turn."""
    rng = np.random.default_rng(seed)
    images, places, numbers = [], [], []
    for number in range(n):
        grey = rng.normal(90, 12, size=SHAPE)
        for half in range(number % 3):  # one in each half, so that they do not touch
            width, height = rng.integers(14, 22), rng.integers(16, 40)
            x = half * SHAPE[1] // 2 + rng.integers(0, SHAPE[1] // 2 - width + 1)
            y = rng.integers(0, SHAPE[0] - height + 1)
            grey[y : y + height, x : x + width] += 110
            places.append([x, y, width, height])
            numbers.append(number)
        images.append(grey.clip(0, 255).astype(np.uint8))
    return images, make_boxes(numbers, places)


def make_store(folder: Path, n: int, *, n_folds: int = 3, n_unknown: int = 0) -> Store:
    """Write and prepare `n` radiographs and a table of their boxes, which lacks the last `n_unknown`."""
    images, boxes = draw(n)
    image_ids = [f"image{number:03d}" for number in range(n)]
    raw = folder / "raw"
    raw.mkdir(parents=True)
    for image_id, grey in zip(image_ids, images, strict=True):
        Image.fromarray(grey).save(raw / f"{image_id}.png")
    known = np.arange(n - n_unknown)
    write_box_labels(folder / "boxes.csv", PNEUMONIA, image_ids[: len(known)], boxes.of_images(known)[0])
    prepare(
        *(raw, folder / "store"),
        task=PNEUMONIA,
        labels=folder / "boxes.csv",
        reading=Reading(modality="xr"),
        n_folds=n_folds,
        n_jobs=1,
    )
    return Store.open(folder / "store")


STILL = [
    f"augment.{name}=0"
    for name in ("hflip_probability", "affine_probability", "brightness_limit", "contrast_limit", "gamma_limit")
]


def segmenter_config(*overrides: str) -> RunConfig:
    """A tiny segmenter on the same images, and `overrides`."""
    small = ("model.segmenter.width=4", "model.segmenter.depth=3", "slice_phase.sampling=all", "slice_phase.epochs=2")
    images = (f"image.size={SIDE}", "image.supersample=1", "precision=fp32")
    return load_config("xray_segment_demo", [*images, *small, *STILL, *overrides])


def config(*overrides: str, detector: str = "retinanet") -> RunConfig:
    """A tiny detector on images of `SIDE`, not augmented, and `overrides`."""
    return load_config(
        "xray_boxes_demo",
        [
            f"image.size={SIDE}",
            "image.supersample=1",
            "precision=fp32",
            "model.backbone_arguments={channels: [16, 32, 32, 64], stem_width: 8}",
            f"model.detector.name={detector}",
            "model.detector.pyramid_width=16",
            "model.detector.anchor_sides_px=[12, 24, 36, 48]",
            "model.detector.regions_per_image=16",
            "slice_phase.sampling=all",
            "slice_phase.epochs=2",
            *STILL,
            *overrides,
        ],
    )
