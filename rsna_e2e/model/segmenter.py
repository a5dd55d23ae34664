"""A segmenter: a residual network that says of each cell of an image whether it is inside a box.

It is the network of the "ResNet" and "CheXNet" scripts of EC601's pneumonia project. These enlarge its map to the image
before they threshold it and before the loss; as cells are squares of pixels, the same numbers come from the map itself.
"""

# n images of a batch, C channels, S their side, K boxes of all, w maps, h side of a map of cells

from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from rsna_e2e.config import SegmenterConfig
from rsna_e2e.core.errors import UsageError
from rsna_e2e.loader.batch import BatchBoxes
from rsna_e2e.model.box_model import BoxModel, FoundBoxes, nothing_finite
from rsna_e2e.model.masks import components, filled


class Segmenter(BoxModel):
    """Convolution, `depth` levels that halve the image, and a layer to one logit for each square of 2^depth px."""

    loss_names = ("bce", "iou")

    def __init__(self, config: SegmenterConfig, *, n_channels: int) -> None:
        super().__init__()
        self._config = config
        widths = [config.width << level for level in range(config.depth + 1)]
        trunk: list[nn.Module] = [_convolution(n_channels, widths[0])]
        for before, width in pairwise(widths):
            blocks = [_Block(width, dropout=config.dropout) for _ in range(config.blocks)]
            trunk += [*_activated(before), nn.Conv2d(before, width, 1, bias=False), nn.MaxPool2d(2), *blocks]
        self.backbone = nn.Sequential(*trunk, *_activated(widths[-1]))
        self.to_logits = nn.Conv2d(widths[-1], 1, 1)

    def forward(self, images_nCSS: torch.Tensor) -> torch.Tensor:
        """Return logits [n, h, h] of cells of 2^depth px, float32. Raises UsageError where images are not of cells."""
        side, cell_px = images_nCSS.shape[-1], self._cell_px
        if side % cell_px:
            below = side - side % cell_px
            fitting = " or ".join(f"image.size={one}" for one in (below, below + cell_px) if one)
            raise UsageError(
                f"image.size {side}: model.segmenter.depth={self._config.depth} divides images into squares of "
                f"{cell_px} px. Set {fitting}, or a smaller depth"
            )
        logits_nhh: torch.Tensor = self.to_logits(self.backbone(images_nCSS))[:, 0]
        return logits_nhh.float()

    def losses(self, images_nCSS: torch.Tensor, boxes: BatchBoxes) -> Mapping[str, torch.Tensor]:
        """Return bce and iou, see `BoxModel.losses`: the mean cross-entropy of an image's pixels, and 1 minus
        (I + 1) / (U + 1), of whose pixels I is the sum of the product of probability and truth and U that of both less
        I; each times its weight. Source: EC601's pneumonia project, where the second was of a batch as a whole."""
        logits_nhh = self(images_nCSS)
        share_nhh = self._shares(boxes, images_nCSS)  # of truth in a cell: both losses are linear in it
        bce_nhh = functional.binary_cross_entropy_with_logits(logits_nhh, share_nhh, reduction="none")
        probability_nhh = logits_nhh.sigmoid()
        cell_area = self._cell_px**2
        both_n = (probability_nhh * share_nhh).sum((1, 2)) * cell_area
        either_n = (probability_nhh + share_nhh).sum((1, 2)) * cell_area - both_n
        return {
            "bce": self._config.bce_weight * bce_nhh.mean((1, 2)).sum(),
            "iou": self._config.iou_weight * (1 - (both_n + 1) / (either_n + 1)).sum(),
        }

    @torch.no_grad()
    def find(self, images_nCSS: torch.Tensor) -> list[FoundBoxes]:
        """Return the boxes round connected cells of each image, see `components`."""
        device, config = images_nCSS.device, self._config
        found = []
        for probability_hh in self(images_nCSS).sigmoid().cpu().numpy():
            if not np.isfinite(probability_hh).all():
                found.append(nothing_finite(device))
                continue
            edges_K4, scores_K = components(
                probability_hh,
                threshold=config.threshold,
                least_area_px=config.least_area_px,
                cell_px=self._cell_px,
            )
            found.append(
                FoundBoxes(
                    edges=torch.from_numpy(edges_K4).to(device),
                    scores=torch.from_numpy(scores_K).to(device),
                    classes=torch.zeros(len(scores_K), dtype=torch.int64, device=device),
                )
            )
        return found

    @property
    def _cell_px(self) -> int:
        return 1 << self._config.depth

    def _shares(self, boxes: BatchBoxes, images_nCSS: torch.Tensor) -> torch.Tensor:
        """Return the share [n, h, h] of the pixels of each cell that lie in any box of the image."""
        n, side = len(images_nCSS), images_nCSS.shape[-1]
        masks_KSS = filled(boxes.edges, size=side)
        count_nSS = torch.zeros(n, side, side, device=images_nCSS.device)
        count_nSS.index_add_(0, boxes.images, masks_KSS.to(count_nSS.dtype))
        return functional.avg_pool2d((count_nSS > 0).float(), self._cell_px)


class _Block(nn.Module):
    """A residual block with pre-activation. Source: K. He et al., Identity Mappings, arXiv:1603.05027, Fig. 1b."""

    def __init__(self, width: int, *, dropout: float) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            *_activated(width),
            _convolution(width, width),
            *_activated(width),
            nn.Dropout2d(dropout),
            _convolution(width, width),
        )

    def forward(self, maps_nwhh: torch.Tensor) -> torch.Tensor:
        summed: torch.Tensor = maps_nwhh + self.residual(maps_nwhh)
        return summed


def _activated(width: int) -> tuple[nn.Module, nn.Module]:
    return nn.BatchNorm2d(width), nn.ReLU()


def _convolution(n_maps: int, width: int) -> nn.Conv2d:
    return nn.Conv2d(n_maps, width, 3, padding=1, bias=False)
