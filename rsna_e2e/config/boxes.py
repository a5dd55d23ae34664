"""The sections of a configuration that say how boxes are found in images: by a detector, or from a segmentation."""

from typing import Annotated, Literal

from pydantic import Field

from rsna_e2e.config.limits import Fraction, Positive, Probability, Side, Weight, Width
from rsna_e2e.config.sections import Frozen

_LEVELS = 8  # more than a network of the largest images has
AnchorSides = Annotated[tuple[Side, ...], Field(min_length=1, max_length=_LEVELS)]
AnchorRatios = Annotated[tuple[Positive, ...], Field(min_length=1, max_length=_LEVELS)]


class DetectorConfig(Frozen):
    """A detector of torchvision on the feature maps of model.backbone, which a feature pyramid brings together."""

    name: Literal["faster_rcnn", "retinanet", "mask_rcnn"] = "retinanet"
    """The detector. faster_rcnn: Ren et al., arXiv:1506.01497. retinanet: Lin et al., arXiv:1708.02002. mask_rcnn: He
    et al., arXiv:1703.06870; its masks are filled boxes, as in EC601's pneumonia project."""
    pyramid_width: Width = 256
    """Maps of each level of the feature pyramid (Lin et al., arXiv:1612.03144)."""
    anchor_sides_px: AnchorSides = (32, 64, 128, 256)
    """Sides of the squares that boxes are found from, in pixels of the network's image, the smallest first, one for
    each level of the pyramid: the last feature maps of the backbone, and a coarser one that is made from the last."""
    anchor_ratios: AnchorRatios = (0.5, 1.0, 2.0)
    """Heights of these, as multiples of their widths; their areas stay the same."""
    boxes_per_image: Annotated[int, Field(gt=0, le=100)] = 10
    """Boxes that are found in an image, at most: those with the highest scores. In RSNA Pneumonia 2018 none has more
    than four."""
    regions_per_image: Annotated[int, Field(gt=0, le=4096)] = 512
    """Regions of an image that faster_rcnn and mask_rcnn learn from in a step, drawn from those proposed. EC601's
    project had 32."""
    least_score: Probability = 0.01
    """Boxes of a lower score are dropped at once."""
    nms_iou: Fraction = 0.2
    """Of boxes that overlap by more than this IoU, the one with the highest score is kept. Opacities seldom overlap: in
    EC601's project it was 0.1."""


class SegmenterConfig(Frozen):
    """A residual network that says of each square of 2^depth px whether it is in a box; connected squares become boxes.

    It is the network of EC601's pneumonia project, model.backbone=residual, in the place of a backbone.
    """

    width: Width = 32
    """Maps before its first level; each level has twice as many as the one before."""
    depth: Annotated[int, Field(gt=0, le=8)] = 4
    """Levels, each of which halves the image: with 4, a square is 16 px wide."""
    blocks: Annotated[int, Field(gt=0, le=16)] = 2
    """Residual blocks of each level."""
    dropout: Fraction = 0.0
    """Dropout probability of the maps in each block."""
    bce_weight: Weight = 0.4
    """Weight in the loss of the mean cross-entropy of an image's pixels."""
    iou_weight: Weight = 0.6
    """Weight in the loss of 1 - IoU of the mask and the filled boxes."""
    threshold: Fraction = 0.5
    """Squares of at least this probability become boxes; those that touch, also at a corner, become one."""
    least_area_px: Annotated[int, Field(gt=0, le=10**6)] = 1
    """Boxes of fewer pixels of the network's image are dropped. None has fewer than a square, which is 256 of depth 4;
    EC601's project dropped none."""
