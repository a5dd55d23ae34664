"""Plain torch: windows, affine_grid and grid_sample with the composed matrix, slice by slice, to suit the caches."""

# C channels, S output size

import numpy as np
import torch
from torch.nn import functional

from rsna_e2e.core.records import Float64Array
from rsna_e2e.tools.bench.job import Contestant, Job
from rsna_e2e.tools.bench.peers.squares import crop_matrices, cut
from rsna_e2e.tools.bench.peers.windows import TorchWindows


def contestants(job: Job) -> list[Contestant]:
    """One contestant. It resamples once, from the crop square with a replicated border."""
    windows = TorchWindows.of(job)
    thetas = [
        normalised(matrix, side=int(box[2]), size=job.size)[None]
        for matrix, box in zip(crop_matrices(job), job.boxes, strict=True)
    ]

    def transform(k: int) -> torch.Tensor:
        square = torch.from_numpy(cut(job.slices[k], job.boxes[k]))[None, None]
        image = windows.window(square).contiguous(memory_format=torch.channels_last)
        grid = functional.affine_grid(thetas[k], [1, image.shape[1], job.size, job.size], align_corners=False)
        moved = functional.grid_sample(image, grid, padding_mode="border", align_corners=False)
        return windows.normalise(moved)[0]

    return [
        Contestant(
            name="eager torch",
            how="windows, affine_grid and grid_sample with the composed matrix",
            run=lambda: (transform(k) for k in range(len(job.slices))),
            boxes=job.boxes,
        )
    ]


def normalised(matrix: Float64Array, *, side: int, size: int) -> torch.Tensor:
    """[2,3] float32 for affine_grid, which counts from -1 to 1 over the edges of the images."""
    to_pixel = np.array([[size / 2, 0.0, (size - 1) / 2], [0.0, size / 2, (size - 1) / 2], [0.0, 0.0, 1.0]])
    to_unit = np.array([[2 / side, 0.0, 1 / side - 1], [0.0, 2 / side, 1 / side - 1], [0.0, 0.0, 1.0]])
    theta = (to_unit @ np.vstack([matrix, [0.0, 0.0, 1.0]]) @ to_pixel)[:2]
    return torch.tensor(theta, dtype=torch.float32)
