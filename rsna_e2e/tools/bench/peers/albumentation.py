"""albumentations: a composition on 8-bit images, windowed with OpenCV, which it is built on (float32 is slower)."""

import os

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # importing it asks the network for a newer version otherwise

import albumentations as albu
import cv2
import torch

from rsna_e2e.tools.bench.job import ROTATE_DEG, SCALE, SHIFT, Contestant, Job
from rsna_e2e.tools.bench.peers.opencv import window
from rsna_e2e.tools.bench.peers.squares import cut


def contestants(job: Job) -> list[Contestant]:
    """One contestant. Its Resize and Affine resample twice."""
    cv2.setNumThreads(1)
    composition = albu.Compose(
        [
            albu.Resize(job.size, job.size),
            albu.HorizontalFlip(p=1),
            albu.Affine(
                scale=(SCALE, SCALE),
                rotate=(ROTATE_DEG, ROTATE_DEG),
                translate_percent={"x": (SHIFT[0], SHIFT[0]), "y": (SHIFT[1], SHIFT[1])},
                border_mode=cv2.BORDER_REPLICATE,
                p=1,
            ),
            albu.Transpose(p=1),
            albu.Normalize(job.task.inputs.mean, job.task.inputs.std),
        ]
    )

    def transform(k: int) -> torch.Tensor:
        image = window(cut(job.slices[k], job.boxes[k]), job.task)
        return torch.from_numpy(composition(image=image)["image"].transpose(2, 0, 1))

    return [
        Contestant(
            name="albumentations",
            how="8-bit windows by OpenCV, then Resize, HorizontalFlip, Affine, Transpose, Normalize",
            run=lambda: (transform(k) for k in range(len(job.slices))),
            boxes=job.boxes,
        )
    ]
