"""Plain torch on a GPU: whole slices as one batch, composed matrices, coordinates clamped to the crop squares."""

# N slices, C channels, H, W input, S output size

import numpy as np
import torch
from torch.nn import functional

from rsna_e2e.tools.bench.job import Contestant, Images, Job
from rsna_e2e.tools.bench.ours import GPU_COPIES
from rsna_e2e.tools.bench.peers.windows import TorchWindows


def contestants(job: Job) -> list[Contestant]:
    """One contestant, its input in GPU memory; none for slices of different sizes, which do not fit one tensor."""
    if len({hu.shape for hu in job.slices}) > 1:
        return []
    windows = TorchWindows.of(job, "cuda")
    hu = torch.from_numpy(np.stack(job.slices * GPU_COPIES)).cuda()[:, None]
    boxes = torch.from_numpy(np.tile(job.boxes, (GPU_COPIES, 1))).cuda().float()
    affine = torch.from_numpy(job.params(job.boxes).affine).cuda().repeat(GPU_COPIES, 1, 1)
    row = torch.arange(job.size, device="cuda", dtype=torch.float32)
    pixels = torch.stack([*torch.meshgrid(row, row, indexing="xy"), torch.ones(job.size, job.size, device="cuda")])
    extent = torch.tensor([hu.shape[3], hu.shape[2]], device="cuda")

    def transform() -> Images:
        points = (affine @ pixels.reshape(3, -1)).mT  # [N, S S, 2], input pixels
        low = boxes[:, None, :2].clamp(min=0)
        points = torch.minimum(torch.maximum(points, low), (boxes[:, None, :2] + boxes[:, None, 2:] - 1))
        grid = ((2 * points + 1) / extent - 1).reshape(-1, job.size, job.size, 2)
        images = functional.grid_sample(windows.window(hu), grid, padding_mode="border", align_corners=False)
        result = windows.normalise(images)
        torch.cuda.synchronize()
        return result.unbind()

    return [
        Contestant(
            name="eager torch, GPU",
            how=f"values on the GPU, {len(hu)} slices at once, grid_sample with the composed matrices",
            run=transform,
            boxes=job.boxes,
            copies=GPU_COPIES,
        )
    ]
