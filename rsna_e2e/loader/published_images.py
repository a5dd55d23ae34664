"""The published solution's 8-bit images: cropped to what is above level 0, and through JPEG where configured.

The steps are the published ones, with one difference: crop, resize and augmentation are one resampling of grey levels,
rounded once, where the published solution resamples and rounds twice in training (cv2.resize, then cv2.warpAffine).
Outside what was cropped its square is level 0, and outside the square the edge is repeated, as there.

Source: darraghdog/rsna, scripts prepare_meta_dicom.py (windows, JPEG), trainorig.py (autocrop, resize, normalisation).
"""

# N slices, C channels, H, W input

import io
import math
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from rsna_e2e.core.records import Int16Image
from rsna_e2e.loader.image_settings import ImageSettings
from rsna_e2e.loader.kernels import torch_ops
from rsna_e2e.loader.read_ahead import BufferPool, ReadBatch
from rsna_e2e.store.content_box import BoolArray, bounding_box

LEVELS = ((127.5, 255.0),)  # the window that maps level k to k
JPEG_QUALITY, JPEG_SUBSAMPLING = 95, "4:2:0"  # OpenCV's defaults, which wrote the published files

Levels = npt.NDArray[np.uint8]

_CPU = torch.device("cpu")
_IDENTITY = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]])


def as_published(batch: ReadBatch, settings: ImageSettings, buffers: BufferPool) -> ReadBatch:
    """Return the batch with the lowest HU of each slice, from which grey levels count; or in grey levels after JPEG.

    With crop "slice" every slice is cropped to its pixels above level 0. The HU buffer of a batch that went through
    JPEG returns to its pool.
    """
    if len(batch.plan.rows) == 0:
        return batch
    image = settings.image
    lowest_hu = torch.tensor([int(hu.min()) for hu in batch.slices], dtype=torch.int32)
    if image.values == "jpeg":
        published, shown = _through_jpeg(batch, lowest_hu, settings, buffers)
    else:
        published, shown = replace(batch, lowest_hu=lowest_hu), _shown(batch, lowest_hu, settings)
    if image.crop != "slice":
        return published
    content = np.array([bounding_box(is_shown) or (0, 0, 0, 0) for is_shown in shown], dtype=np.int64)
    return replace(published, plan=batch.plan.cropped_to(content, image))


def write_jpeg(levels_CHW: Levels) -> bytes:
    """Return the bytes that cv2.imencode(".jpg", ...) makes of three planes, of which it takes the first as blue."""
    rgb = np.ascontiguousarray(levels_CHW[::-1].transpose(1, 2, 0))
    file = io.BytesIO()
    Image.fromarray(rgb).save(file, "JPEG", quality=JPEG_QUALITY, subsampling=JPEG_SUBSAMPLING)
    return file.getvalue()


def read_jpeg(file: bytes) -> Levels:
    """Return the pixels that cv2.imdecode makes of a file, as planes [3, H, W]."""
    levels_CHW: Levels = np.asarray(Image.open(io.BytesIO(file))).transpose(2, 0, 1)[::-1]
    return levels_CHW


def normalise(levels_NCSS: torch.Tensor, settings: ImageSettings) -> torch.Tensor:
    """Return (level / 255 - mean) / std, computed in float32, in the dtype of the settings; channels-last."""
    mean, std = (torch.tensor(of, device=settings.device)[:, None, None] for of in (settings.mean, settings.std))
    values = levels_NCSS.to(torch.float32, memory_format=torch.channels_last)
    return values.sub_(mean * 255).div_(std * 255).to(settings.dtype)


def _through_jpeg(
    batch: ReadBatch, lowest_hu: torch.Tensor, settings: ImageSettings, buffers: BufferPool
) -> tuple[ReadBatch, Iterable[BoolArray]]:
    """The batch in grey levels that went through JPEG; and where [H, W] each slice is above level 0."""
    n_values = len(settings.windows_hu) * batch.plan.n_values
    buffer = buffers.take(n_values)
    values, end, shown = buffer.numpy()[:n_values], 0, []
    for hu, lowest in zip(batch.slices, lowest_hu, strict=True):
        levels = read_jpeg(write_jpeg(_levels(hu, lowest, settings)))
        start, end = end, end + levels.size
        values[start:end] = levels.reshape(-1)
        shown.append(np.logical_or.reduce(levels))
    buffers.give_back(batch.buffer, _CPU)
    return ReadBatch(batch.plan, values, buffer), shown


def _shown(batch: ReadBatch, lowest_hu: torch.Tensor, settings: ImageSettings) -> Iterable[BoolArray]:
    """Where [H, W] each slice is above level 0."""
    firsts = _first_content_hu(lowest_hu, settings)
    return (np.greater_equal(hu, first) for hu, first in zip(batch.slices, firsts, strict=True))


def _levels(hu: Int16Image, lowest_hu: torch.Tensor, settings: ImageSettings) -> Levels:
    """Grey levels [C, H, W] of a slice at its own size."""
    height, width = hu.shape
    pixels = torch.from_numpy(hu)[None]
    side, lowest = max(height, width), lowest_hu.reshape(1)
    options = {"size": side, "dtype": torch.uint8, "lowest_hu": lowest}
    levels: Levels = torch_ops.transform_slices(pixels, _IDENTITY, settings.windows_hu, **options)[0].numpy()
    return levels[:, :height, :width]


def _first_content_hu(lowest_hu: torch.Tensor, settings: ImageSettings) -> npt.NDArray[np.int64]:
    """The lowest HU [N] that is above level 0 in any window of a slice; beyond int16 where none is.

    Levels grow with HU: those of all HU inside the windows, laid out as one image, show where they begin.
    """
    begin = math.floor(min(center - width / 2 for center, width in settings.windows_hu))
    end = math.ceil(max(center + width / 2 for center, width in settings.windows_hu))
    n, side = len(lowest_hu), math.isqrt(end - begin) + 1  # the first square number above
    hu = torch.arange(begin, begin + side * side)
    extents = torch.full((n,), side, dtype=torch.int32)
    levels = torch_ops.transform_slices_packed(
        hu.clamp(-32768, 32767).to(torch.int16),
        torch.zeros(n, dtype=torch.int64),
        extents,
        extents,
        _IDENTITY.expand(n, 2, 3),
        torch_ops.Transform(windows=settings.windows_hu, size=side, dtype=torch.uint8),
        lowest_hu=lowest_hu,
    )
    is_content = (levels > 0).any(dim=1).reshape(n, -1)
    firsts = torch.where(is_content.any(dim=1), hu[is_content.int().argmax(dim=1)], 32768)
    result: npt.NDArray[np.int64] = firsts.numpy()
    return result
