"""Windows in torch, for the peers that work on tensors."""

# N slices, C channels, H, W input

from dataclasses import dataclass

import torch

from rsna_e2e.tools.bench.job import Job


@dataclass(frozen=True, slots=True)
class TorchWindows:
    """lower, scale [C,1,1] of the windows; mean, std [C,1,1] of the windowed values."""

    lower: torch.Tensor
    scale: torch.Tensor
    mean: torch.Tensor
    std: torch.Tensor

    @classmethod
    def of(cls, job: Job, device: str = "cpu") -> "TorchWindows":
        """Take the windows, mean and std of a job's task."""
        task = job.task
        columns = (
            [center - width / 2 for center, width in task.inputs.windows_hu],
            [1 / width for _, width in task.inputs.windows_hu],
            task.inputs.mean,
            task.inputs.std,
        )
        return cls(*(torch.tensor(column, device=device).reshape(-1, 1, 1) for column in columns))

    def window(self, hu: torch.Tensor) -> torch.Tensor:
        """Windowed values in [0, 1], float32 [..., C, H, W], of HU [..., 1, H, W]."""
        return ((hu.float() - self.lower).mul_(self.scale)).clamp_(0.0, 1.0)

    def normalise(self, images: torch.Tensor) -> torch.Tensor:
        """Normalise [..., C, H, W] in place."""
        return images.sub_(self.mean).div_(self.std)
