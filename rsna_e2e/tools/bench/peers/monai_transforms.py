"""MONAI: Affine with the composed matrix, so that it resamples once, and no metadata to carry.

Its lazy composition, and a Resize before the Affine, both took twice as long."""

# C channels, S output size

import monai
import numpy as np
import torch
from monai.transforms import Affine

from rsna_e2e.core.records import Float64Array
from rsna_e2e.tools.bench.job import Contestant, Job
from rsna_e2e.tools.bench.peers.squares import crop_matrices, cut
from rsna_e2e.tools.bench.peers.windows import TorchWindows


def contestants(job: Job) -> list[Contestant]:
    """Windows and normalisation in torch: MONAI's ScaleIntensityRange and NormalizeIntensity are slower."""
    monai.data.set_track_meta(False)
    windows = TorchWindows.of(job)
    transforms = [
        Affine(
            affine=_centred(matrix, side=int(box[2]), size=job.size),
            spatial_size=(job.size, job.size),
            mode="bilinear",
            padding_mode="border",
            image_only=True,
        )
        for matrix, box in zip(crop_matrices(job), job.boxes, strict=True)
    ]

    def transform(k: int) -> torch.Tensor:
        square = torch.from_numpy(cut(job.slices[k], job.boxes[k]))[None]
        return windows.normalise(transforms[k](windows.window(square)))

    return [
        Contestant(
            name="MONAI",
            how="windows in torch, one Affine with the composed matrix",
            run=lambda: (transform(k) for k in range(len(job.slices))),
            boxes=job.boxes,
        )
    ]


def _centred(matrix: Float64Array, *, side: int, size: int) -> Float64Array:
    """3x3 matrix as MONAI wants it: (row, column), both counted from the centre of the image."""
    whole = np.vstack([matrix, [0.0, 0.0, 1.0]])
    to_output, to_centre, swap = np.eye(3), np.eye(3), np.eye(3)[[1, 0, 2]]
    to_output[:2, 2] = (size - 1) / 2
    to_centre[:2, 2] = -(side - 1) / 2
    centred: Float64Array = swap @ to_centre @ whole @ to_output @ swap
    return centred
