"""Recipes that find lung opacities on chest radiographs as boxes."""

from typing import Literal

from rsna_e2e.config.boxes import DetectorConfig, SegmenterConfig
from rsna_e2e.config.model import RESIDUAL, ModelConfig
from rsna_e2e.config.recipes.xray import UPRIGHT
from rsna_e2e.config.run import RunConfig
from rsna_e2e.config.sections import ImageConfig, LoaderConfig, OptimizerConfig, SlicePhaseConfig
from rsna_e2e.tasks.pneumonia import PNEUMONIA

_SMALL_RESNET = {"channels": (32, 64, 128, 256), "stem_width": 16}


def boxes() -> RunConfig:
    """RetinaNet on a ResNet-50 with ImageNet weights at 512 px, on as many images with boxes as without."""
    return _detector(
        "xray_boxes",
        DetectorConfig(name="retinanet", anchor_sides_px=(48, 96, 192, 288)),
        _adamw(1e-4, weight_decay=0.01),
        epochs=12,
    )


def masks() -> RunConfig:
    """Mask R-CNN on a ResNet-50 with ImageNet weights at 256 px, whose masks are filled boxes, as in EC601's pneumonia
    project."""
    return _detector(
        "xray_masks",
        DetectorConfig(
            name="mask_rcnn", anchor_sides_px=(32, 64, 128, 256), boxes_per_image=3, regions_per_image=32, nms_iou=0.1
        ),
        OptimizerConfig(name="sgd", learning_rate=0.004, weight_decay=1e-4, schedule="cosine", warmup_fraction=0.02),
        epochs=30,
        size=256,
        images_per_batch=8,
    )


def segment() -> RunConfig:
    """The residual network of EC601's pneumonia project at 256 px, whose mask becomes boxes, on all images."""
    return _segmenter("xray_segment", SegmenterConfig(), epochs=50, size=256, images_per_batch=16, sampling="all")


def segment_demo() -> RunConfig:
    """The same at half the width and 192 px, in minutes on two CPU cores."""
    return _segmenter(
        "xray_segment_demo",
        SegmenterConfig(width=16),
        epochs=30,
        size=192,
        images_per_batch=8,
        sampling="balanced",
        supersample=3,
    )


def boxes_demo() -> RunConfig:
    """RetinaNet on a small ResNet at 192 px, trained from scratch in minutes on two CPU cores."""
    return RunConfig(
        recipe="xray_boxes_demo",
        task=PNEUMONIA,
        epochs=0,
        image=ImageConfig(size=192, crop="none", supersample=3),
        augment=UPRIGHT,
        model=ModelConfig(
            backbone="resnet10t",
            backbone_arguments=_SMALL_RESNET,
            head="none",
            detector=DetectorConfig(name="retinanet", pyramid_width=64, anchor_sides_px=(24, 48, 72, 96)),
        ),
        slice_phase=SlicePhaseConfig(
            epochs=30, slices_per_batch=8, sampling="balanced", optimizer=_adamw(1e-3, weight_decay=0.02)
        ),
        optimizer=_adamw(1e-3, weight_decay=0.02),
    )


def _segmenter(
    recipe: str,
    segmenter: SegmenterConfig,
    *,
    epochs: int,
    size: int,
    images_per_batch: int,
    sampling: Literal["all", "balanced"],
    supersample: int = 4,
) -> RunConfig:
    return RunConfig(
        recipe=recipe,
        task=PNEUMONIA,
        epochs=0,
        image=ImageConfig(size=size, crop="none", supersample=supersample),
        augment=UPRIGHT,
        model=ModelConfig(backbone=RESIDUAL, head="none", segmenter=segmenter),
        slice_phase=SlicePhaseConfig(
            epochs=epochs,
            slices_per_batch=images_per_batch,
            sampling=sampling,
            # EC601's: Adam, a cosine from 0.01 down
            optimizer=OptimizerConfig(name="adam", learning_rate=0.01, schedule="cosine"),
        ),
        optimizer=OptimizerConfig(name="adam", learning_rate=0.01, schedule="cosine"),
    )


def _detector(
    recipe: str,
    detector: DetectorConfig,
    optimizer: OptimizerConfig,
    *,
    epochs: int,
    size: int = 512,
    images_per_batch: int = 16,
) -> RunConfig:
    return RunConfig(
        recipe=recipe,
        task=PNEUMONIA,
        epochs=0,
        image=ImageConfig(size=size, crop="none", supersample=2),
        augment=UPRIGHT,
        loader=LoaderConfig(threads=8),
        model=ModelConfig(
            backbone="resnet50.a1_in1k", pretrained=True, batchnorm="frozen", head="none", detector=detector
        ),
        slice_phase=SlicePhaseConfig(
            epochs=epochs, slices_per_batch=images_per_batch, sampling="balanced", optimizer=optimizer
        ),
        optimizer=optimizer,
    )


def _adamw(learning_rate: float, *, weight_decay: float) -> OptimizerConfig:
    return OptimizerConfig(
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        schedule="cosine",
        warmup_fraction=0.05,
        clip_norm=2.0,
    )
