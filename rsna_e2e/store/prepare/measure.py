"""Measures slices of CT for a label set: which share of their pixels is brain."""

# N slices

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from rsna_e2e.core.errors import UsageError
from rsna_e2e.core.process import available_cores
from rsna_e2e.core.records import Float32Array, Int16Array, Progress, no_progress
from rsna_e2e.store import StoreError, StoreFiles, read_pixels
from rsna_e2e.store.checks import check_files
from rsna_e2e.store.codecs import check_codec
from rsna_e2e.store.layout import REPAIR

# The brain window, 80 HU about 40, without its ends. Source: fastai.medical.imaging, pct_in_window, and its
# dicom_windows.brain; dipam7's notebooks on RSNA ICH 2019 call the share img_pct_window.
BRAIN_HU = (0, 80)
_TOGETHER = 64  # slices of a shard, so that progress is seen


def measure_brain(files: StoreFiles, *, progress: Progress = no_progress) -> Float32Array:
    """Return the share [N] of the pixels of each slice of CT that lie between the ends of `BRAIN_HU`.

    Raises UsageError for a store of radiographs, StoreError, naming the slice, for damaged pixels.
    """
    if files.manifest.values != "hu":
        raise UsageError(f"{files.path}: holds radiographs, and brain is measured in HU. Leave out --measure")
    check_codec(files.compression)
    check_files(files.path, files.manifest)
    files.check_shards()
    share_N = np.empty(files.manifest.n_slices, dtype=np.float32)

    def measure(shard: str, rows: Sequence[int]) -> int:
        for row in rows:
            hu = np.empty(math.prod(files.shape(row)), dtype="<i2")
            share_N[row] = _share(_read(files, shard, row, hu))
        return len(rows)

    parts = [
        (name, rows[start : start + _TOGETHER].tolist())
        for name, rows in files.rows_by_shard()
        for start in range(0, len(rows), _TOGETHER)
    ]
    n_done = 0
    with ThreadPoolExecutor(available_cores()) as pool:
        for n in pool.map(lambda part: measure(*part), parts):
            n_done += n
            progress(n_done, len(share_N))
    return share_N


def _share(hu: Int16Array) -> float:
    low, high = BRAIN_HU
    return float(((hu > low) & (hu < high)).mean())


def _read(files: StoreFiles, shard: str, row: int, hu: Int16Array) -> Int16Array:
    try:
        is_damaged = bool(read_pixels(files.shard(shard), [(files.pixels(row), hu)], compression=files.compression))
    except OSError:  # a bad sector
        is_damaged = True
    if is_damaged:
        series = files.index["series_key"][row][:8]
        raise StoreError(
            f"{files.shard(shard)}: slice {files.index['slice_index'][row]} of series {series} is damaged. {REPAIR}"
        )
    return hu
