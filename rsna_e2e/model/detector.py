"""Detectors of torchvision on the feature maps of a backbone: Faster R-CNN, RetinaNet, Mask R-CNN.

Images and boxes come from the loader as they are to be seen, so torchvision's own resizing and normalisation do
nothing. The backbone and the feature pyramid compute in the precision of the caller, the rest in float32: coordinates
in bfloat16 would be wrong by pixels.
"""

# n images, C channels, S their side, K boxes of an image

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torchvision.models.detection import FasterRCNN, MaskRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from rsna_e2e.config import DetectorConfig, ModelConfig
from rsna_e2e.core.errors import UsageError
from rsna_e2e.loader.batch import BatchBoxes
from rsna_e2e.model.backbones import create_backbone
from rsna_e2e.model.box_model import BoxModel, FoundBoxes, nothing_finite
from rsna_e2e.model.masks import filled
from rsna_e2e.tasks.boxes import HALF_PX

# Of the losses that torchvision's detectors return
LOSSES = {
    "faster_rcnn": ("loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg"),
    "retinanet": ("classification", "bbox_regression"),
    "mask_rcnn": ("loss_classifier", "loss_box_reg", "loss_mask", "loss_objectness", "loss_rpn_box_reg"),
}
_OCTAVES = (1.0, 2 ** (1 / 3), 2 ** (2 / 3))  # of RetinaNet's anchors, section 4.1 of arXiv:1708.02002
_TRIED_PX = 64  # side of the image from which the widths of feature maps are read


class Detector(BoxModel):
    """A detector of torchvision, by `config.detector`, of `n_classes` classes of boxes.

    Raises UsageError for a backbone without as many feature maps as there are levels of anchors, less one.
    """

    def __init__(self, config: ModelConfig, *, n_channels: int, n_classes: int) -> None:
        super().__init__()
        assert config.detector is not None
        self.loss_names = LOSSES[config.detector.name]
        self._has_masks = config.detector.name == "mask_rcnn"
        self._first_class = 0 if config.detector.name == "retinanet" else 1  # class 0 of the others is background
        self.backbone: Any = create_backbone(config, n_channels)
        pyramid = _Pyramid(self.backbone, config, n_channels=n_channels)
        self.network: Any = _network(pyramid, config.detector, n_classes=n_classes)

    def losses(self, images_nCSS: torch.Tensor, boxes: BatchBoxes) -> Mapping[str, torch.Tensor]:
        """Return torchvision's losses, which are means over images, times the number of images."""
        found = self._run(images_nCSS, self._targets(boxes, size=images_nCSS.shape[-1]))
        return {name: len(images_nCSS) * found[name] for name in self.loss_names}

    def find(self, images_nCSS: torch.Tensor) -> list[FoundBoxes]:
        """Return the boxes of each image."""
        every = self._run(images_nCSS, None)
        return [
            FoundBoxes(
                edges=found["boxes"] - HALF_PX, scores=found["scores"], classes=found["labels"] - self._first_class
            )
            if is_finite
            else nothing_finite(images_nCSS.device)
            for found, is_finite in zip(every, self.network.backbone.is_finite, strict=True)
        ]

    def _targets(self, boxes: BatchBoxes, *, size: int) -> list[dict[str, torch.Tensor]]:
        """Return boxes as torchvision takes them: by image, with the corner of the image at 0."""
        targets = []
        for image in range(len(boxes.known)):
            is_of_image_K = boxes.images == image
            edges_K4 = boxes.edges[is_of_image_K]
            target = {"boxes": edges_K4 + HALF_PX, "labels": boxes.classes[is_of_image_K] + self._first_class}
            if self._has_masks:
                target["masks"] = filled(edges_K4, size=size).to(torch.uint8)
            targets.append(target)
        return targets

    def _run(self, images_nCSS: torch.Tensor, targets: list[dict[str, torch.Tensor]] | None) -> Any:
        device = images_nCSS.device.type
        self.network.backbone.precision = torch.autocast(
            device, dtype=torch.get_autocast_dtype(device), enabled=torch.is_autocast_enabled(device)
        )
        with torch.autocast(device, enabled=False):
            return self.network(list(images_nCSS), targets)


class _Pyramid(nn.Module):
    """The feature pyramid over the last maps of a backbone, which belongs to the module around it.

    precision: in which it computes; set before each pass. is_finite [n]: whether all maps of an image were finite in
    the last pass that looked for boxes; torchvision drops boxes that are not. out_channels: what it asks for.
    """

    def __init__(self, backbone: Any, config: ModelConfig, *, n_channels: int) -> None:
        super().__init__()
        assert config.detector is not None
        n_maps = len(config.detector.anchor_sides_px) - 1
        widths = _map_widths(backbone, config.backbone, n_channels=n_channels)
        if not 0 < n_maps <= len(widths):
            raise UsageError(
                f"model.detector.anchor_sides_px has {n_maps + 1} sides, and {config.backbone} {len(widths)} sizes of "
                f"feature maps: give 2 to {len(widths) + 1} sides"
            )
        self.precision: torch.autocast | None = None
        self.is_finite: list[bool] = []
        self.out_channels: int = config.detector.pyramid_width
        self.levels = FeaturePyramidNetwork(widths[-n_maps:], self.out_channels, extra_blocks=LastLevelMaxPool())
        self._backbone, self._n_maps = (backbone,), n_maps  # in a tuple: its weights are not those of the pyramid

    def forward(self, images_nCSS: torch.Tensor) -> "OrderedDict[str, torch.Tensor]":
        """Return the maps [n, out_channels, h, w] of each level in float32, by its number, the last called "pool"."""
        assert self.precision is not None
        with self.precision:
            maps = feature_maps(self._backbone[0], images_nCSS)[-self._n_maps :]
            levels = self.levels(OrderedDict((str(number), each) for number, each in enumerate(maps)))
        if not self.training:
            finite = [level.isfinite().flatten(1).all(1) for level in levels.values()]
            self.is_finite = torch.stack(finite).all(0).tolist()
        return OrderedDict((name, level.float()) for name, level in levels.items())


def feature_maps(backbone: Any, images_nCSS: torch.Tensor) -> list[torch.Tensor]:
    """Return the maps [n, K, h, w] of a backbone at each scale, the finest first."""
    maps: list[torch.Tensor] = backbone.forward_intermediates(images_nCSS, intermediates_only=True)
    return maps


@torch.no_grad()
def _map_widths(backbone: Any, name: str, *, n_channels: int) -> list[int]:
    """Return how many maps a backbone has at each scale. Raises UsageError where it has none, or is a transformer."""
    was_training = backbone.training
    try:
        maps = feature_maps(backbone.eval(), torch.zeros(1, n_channels, _TRIED_PX, _TRIED_PX))
    except (AttributeError, AssertionError, RuntimeError):
        maps = []
    backbone.train(was_training)
    if len({each.shape[-1] for each in maps}) < 2:
        raise UsageError(
            f"model.backbone {name}: has no feature maps at several scales, which a detector finds boxes on. Use a "
            "convolutional network, such as resnet18 or densenet121"
        )
    return [each.shape[1] for each in maps]


def _network(pyramid: _Pyramid, config: DetectorConfig, *, n_classes: int) -> Any:
    """Return torchvision's detector on a pyramid."""
    scales = _OCTAVES if config.name == "retinanet" else (1.0,)
    anchors = AnchorGenerator(
        sizes=tuple(tuple(round(side * scale) for scale in scales) for side in config.anchor_sides_px),
        aspect_ratios=(config.anchor_ratios,) * len(config.anchor_sides_px),
    )
    network: Any
    if config.name == "retinanet":
        network = RetinaNet(
            *(pyramid, n_classes),
            anchor_generator=anchors,
            score_thresh=config.least_score,
            nms_thresh=config.nms_iou,
            detections_per_img=config.boxes_per_image,
        )
    else:
        names = [str(number) for number in range(len(config.anchor_sides_px) - 1)]
        pools = {"box_roi_pool": MultiScaleRoIAlign(names, output_size=7, sampling_ratio=2)}  # torchvision's own
        if config.name == "mask_rcnn":
            pools["mask_roi_pool"] = MultiScaleRoIAlign(names, output_size=14, sampling_ratio=2)  # torchvision's own
        network = (MaskRCNN if config.name == "mask_rcnn" else FasterRCNN)(
            *(pyramid, n_classes + 1),
            rpn_anchor_generator=anchors,
            box_score_thresh=config.least_score,
            box_nms_thresh=config.nms_iou,
            box_detections_per_img=config.boxes_per_image,
            box_batch_size_per_image=config.regions_per_image,
            **pools,
        )
    network.transform = _AsIs()
    return network


class _AsIs(nn.Module):
    """In the place of torchvision's resizing and normalisation: images are as they are to be seen."""

    def forward(self, images: list[torch.Tensor], targets: Any) -> tuple[ImageList, Any]:
        """Return the images together, with their sizes, and targets as they are."""
        return ImageList(torch.stack(images), [(image.shape[-2], image.shape[-1]) for image in images]), targets

    def postprocess(self, found: Any, sizes: Any, original_sizes: Any) -> Any:
        """Return what was found as it is: sizes were not changed."""
        return found
