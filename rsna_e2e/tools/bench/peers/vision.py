"""torchvision v2's functional transforms, on 8-bit tensors and on float32."""

import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from rsna_e2e.tools.bench.job import ROTATE_DEG, SCALE, SHIFT, Contestant, Job
from rsna_e2e.tools.bench.peers.squares import cut
from rsna_e2e.tools.bench.peers.windows import TorchWindows


def contestants(job: Job) -> list[Contestant]:
    """A contestant for each type. Resize and affine resample twice, and the affine can only fill with 0."""
    return [_contestant(job, is_uint8=False), _contestant(job, is_uint8=True)]


def _contestant(job: Job, *, is_uint8: bool) -> Contestant:
    windows, task, size = TorchWindows.of(job), job.task, job.size

    def transform(k: int) -> torch.Tensor:
        image = windows.window(torch.from_numpy(cut(job.slices[k], job.boxes[k]))[None])
        if is_uint8:
            image = image.mul_(255).round_().to(torch.uint8)
        image = functional.resize(image, [size, size], antialias=False)
        image = functional.affine(
            functional.horizontal_flip(image),
            angle=-ROTATE_DEG,
            translate=[SHIFT[0] * size, SHIFT[1] * size],
            scale=SCALE,
            shear=[0.0, 0.0],
            interpolation=InterpolationMode.BILINEAR,
        ).mT
        if is_uint8:
            image = functional.to_dtype(image, torch.float32, scale=True)
        normalised: torch.Tensor = functional.normalize(image, task.inputs.mean, task.inputs.std, inplace=True)
        return normalised

    return Contestant(
        name=f"torchvision v2, {'uint8' if is_uint8 else 'float32'}",
        how="resize, horizontal_flip, affine (border 0), transpose, normalize",
        run=lambda: (transform(k) for k in range(len(job.slices))),
        boxes=job.boxes,
    )
