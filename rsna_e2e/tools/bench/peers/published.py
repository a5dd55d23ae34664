"""The published 2nd-place recipe (RSNA ICH 2019), step by step, from its JPEG files and from HU.

Windows in NumPy float64 and three 8-bit channels; JPEG of quality 95; autocrop at threshold 0 into the upper left of a
square; cv2.resize; flip; shift-scale-rotate by cv2.warpAffine; transposition; normalisation, all as it was done then.
"""

# H, W input, S output size

import cv2
import numpy as np
import numpy.typing as npt
import torch

from rsna_e2e.core.records import Int16Image
from rsna_e2e.loader.geometry import Boxes
from rsna_e2e.tools.bench.job import Contestant, Job, forward

Grey = npt.NDArray[np.uint8]

JPEG_QUALITY = 95  # OpenCV's default, which wrote the published files


def contestants(job: Job) -> list[Contestant]:
    """The recipe from JPEG, read from memory, and from the same int16 slices as all others."""
    cv2.setNumThreads(1)
    windowed = [window(hu, job) for hu in job.slices]
    files = [cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1] for image in windowed]
    return [
        Contestant(
            name="published recipe from JPEG",
            how="decode, autocrop, resize, flip, warp, transpose, normalise; 8 bits, OpenCV and NumPy",
            run=lambda: (finish(_decode(file), job) for file in files),
            boxes=_boxes([_decode(file) for file in files]),
        ),
        Contestant(
            name="published recipe from int16",
            how="windows in NumPy float64, then as from JPEG",
            run=lambda: (finish(window(hu, job), job) for hu in job.slices),
            boxes=_boxes(windowed),
        ),
    ]


def window(hu: Int16Image, job: Job) -> Grey:
    """8-bit image [H,W,C]: each window scaled to [0, 1], its mean, then its minimum subtracted, times 255, cut off."""
    image = np.zeros((*hu.shape, len(job.task.inputs.windows_hu)), dtype=np.uint8)
    for channel, (center, width) in enumerate(job.task.inputs.windows_hu):
        scaled = (np.clip(hu, center - width / 2, center + width / 2) - (center - width / 2)) / width
        scaled = scaled - scaled.mean()
        scaled = scaled - scaled.min()
        image[..., channel] = (255 * scaled).astype(np.uint8)
    return image


def _decode(file: Grey) -> Grey:
    return np.asarray(cv2.imdecode(file, cv2.IMREAD_COLOR), dtype=np.uint8)


def finish(image: Grey, job: Job) -> torch.Tensor:
    """Normalised image [C,S,S] of an 8-bit one."""
    size = job.size
    x0, y0, x1, y1 = _extent(image)
    side = max(x1 - x0, y1 - y0)
    square = np.zeros((side, side, image.shape[2]), dtype=np.uint8)
    square[: y1 - y0, : x1 - x0] = image[y0:y1, x0:x1]
    resized = cv2.flip(cv2.resize(square, (size, size)), 1)
    moved = cv2.warpAffine(
        resized, forward(size)[:2], (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    result = moved.transpose(1, 0, 2).astype(np.float32)
    result -= np.array(job.task.inputs.mean, dtype=np.float32) * 255
    result *= np.reciprocal(np.array(job.task.inputs.std, dtype=np.float32) * 255)
    return torch.from_numpy(result.transpose(2, 0, 1))


def _extent(image: Grey) -> tuple[int, int, int, int]:
    """x0, y0, x1, y1 (exclusive) of what is above level 0 in any channel."""
    brightest = np.max(image, axis=2)
    rows = np.flatnonzero(np.max(brightest, axis=1) > 0)
    columns = np.flatnonzero(np.max(brightest, axis=0) > 0)
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _boxes(images: list[Grey]) -> Boxes:
    """The crop squares that the recipe finds."""
    extents = [_extent(image) for image in images]
    return np.array([(x0, y0, max(x1 - x0, y1 - y0)) for x0, y0, x1, y1 in extents], dtype=np.int32)
