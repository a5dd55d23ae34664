"""What networks that find boxes in images have in common: what they are trained by, and what they return."""

# n images of a batch, C channels, S their side, K boxes of an image

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from rsna_e2e.loader.batch import BatchBoxes


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundBoxes:
    """The boxes that were found in an image: edges [K, 4] float32, x0, y0, x1, y1 in px of the image, where whole
    numbers are the centres of pixels; scores [K] float32, 0 to 1, falling; classes [K] int64."""

    edges: torch.Tensor
    scores: torch.Tensor
    classes: torch.Tensor


def nothing_finite(device: torch.device) -> FoundBoxes:
    """Return one box of which no number is finite: of an image of which the network makes no finite numbers, so that it
    does not pass for one without boxes."""
    nan = torch.full((1, 4), torch.nan, device=device)
    return FoundBoxes(edges=nan, scores=nan[:, 0], classes=torch.zeros(1, dtype=torch.int64, device=device))


class BoxModel(nn.Module, ABC):
    """A network that finds boxes in single images.

    backbone: what learns with the learning rate of backbones. loss_names: of what `losses` returns.
    """

    backbone: nn.Module
    loss_names: tuple[str, ...]

    @abstractmethod
    def losses(self, images_nCSS: torch.Tensor, boxes: BatchBoxes) -> Mapping[str, torch.Tensor]:
        """Return the losses by name, each the sum over images, of n >= 1 images all of whose boxes are known; in the
        autocast precision of the caller. What is minimised is their sum."""

    @abstractmethod
    def find(self, images_nCSS: torch.Tensor) -> list[FoundBoxes]:
        """Return the boxes of each image, in evaluation mode and the autocast precision of the caller; `nothing_finite`
        where it computes no finite numbers."""
