"""OpenCV, its fast paths only: 8-bit windows by saturating conversion, one warp for all geometry, a table at the end.

8 bits are faster here than float32, in the warp above all.
"""

# H, W input, C channels, S output size

import cv2
import numpy as np
import numpy.typing as npt
import torch

from rsna_e2e.core.records import Int16Image
from rsna_e2e.tasks.task import Task
from rsna_e2e.tools.bench.job import Contestant, Job
from rsna_e2e.tools.bench.peers.squares import crop_matrices, cut

Grey = npt.NDArray[np.uint8]


def contestants(job: Job) -> list[Contestant]:
    """One contestant, the fastest form found."""
    cv2.setNumThreads(1)
    matrices = crop_matrices(job)
    table = normalisation_table(job.task)

    def transform(k: int) -> torch.Tensor:
        moved = cv2.warpAffine(
            window(cut(job.slices[k], job.boxes[k]), job.task),
            matrices[k],
            (job.size, job.size),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )
        return torch.from_numpy(cv2.LUT(moved, table).transpose(2, 0, 1))

    return [
        Contestant(
            name="OpenCV, one warp",
            how="8-bit windows, one warpAffine, normalised by a table",
            run=lambda: (transform(k) for k in range(len(job.slices))),
            boxes=job.boxes,
        )
    ]


def window(hu: Int16Image, task: Task) -> Grey:
    """8-bit image [H,W,C], 255 at the upper end of a window, rounded."""
    values = hu.astype(np.float32)
    channels = []
    for center, width in task.inputs.windows_hu:
        lower, scale = center - width / 2, 255 / width
        channels.append(cv2.convertScaleAbs(cv2.max(values, lower), alpha=scale, beta=-lower * scale))
    return np.asarray(cv2.merge(channels), dtype=np.uint8)


def normalisation_table(task: Task) -> npt.NDArray[np.float32]:
    """[1,256,C]: the normalised value of each grey level."""
    levels = np.arange(256)[None, :, None] / 255
    table: npt.NDArray[np.float32] = (levels - np.array(task.inputs.mean)) / np.array(task.inputs.std)
    return table.astype(np.float32)
