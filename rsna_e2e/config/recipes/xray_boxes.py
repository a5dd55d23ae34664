"""Recipes that find lung opacities on chest radiographs as boxes."""

from typing import Literal

from rsna_e2e.config.boxes import DetectorConfig, SegmenterConfig
from rsna_e2e.config.model import RESIDUAL, ModelConfig
from rsna_e2e.config.recipes.xray import UPRIGHT
from rsna_e2e.config.run import RunConfig
from rsna_e2e.config.sections import ImageConfig, LoaderConfig, OptimizerConfig, SlicePhaseConfig
from rsna_e2e.tasks.pneumonia import PNEUMONIA

_SMALL_RESNET = {"channels": (32, 64, 128, 256), "stem_width": 16}
_DEMO_IMAGE = ImageConfig(size=192, crop="none", supersample=3)
_OF_EC601 = OptimizerConfig(name="adam", learning_rate=0.01, schedule="cosine")  # of its pneumonia project


def boxes() -> RunConfig:
    """RetinaNet on a ResNet-50 with ImageNet weights at 512 px, on as many images with boxes as without."""
    return _on_images(
        "xray_boxes",
        _on_resnet50(DetectorConfig(name="retinanet", anchor_sides_px=(48, 96, 192, 288))),
        _adamw(1e-4, weight_decay=0.01),
        image=ImageConfig(size=512, crop="none", supersample=2),
        epochs=12,
        threads=8,
    )


def masks() -> RunConfig:
    """Mask R-CNN on a ResNet-50 with ImageNet weights at 256 px, whose masks are filled boxes, as in EC601's pneumonia
    project."""
    detector = DetectorConfig(
        name="mask_rcnn", anchor_sides_px=(32, 64, 128, 256), boxes_per_image=3, regions_per_image=32, nms_iou=0.1
    )
    return _on_images(
        "xray_masks",
        _on_resnet50(detector),
        OptimizerConfig(name="sgd", learning_rate=0.004, weight_decay=1e-4, schedule="cosine", warmup_fraction=0.02),
        image=ImageConfig(size=256, crop="none", supersample=2),
        epochs=30,
        images_per_batch=8,
        threads=8,
    )


def segment() -> RunConfig:
    """The residual network of EC601's pneumonia project at 256 px, whose mask becomes boxes, on all images."""
    return _on_images(
        "xray_segment",
        ModelConfig(backbone=RESIDUAL, head="none", segmenter=SegmenterConfig()),
        _OF_EC601,
        image=ImageConfig(size=256, crop="none", supersample=4),
        epochs=50,
        sampling="all",
    )


def boxes_demo() -> RunConfig:
    """RetinaNet on a small ResNet at 192 px, trained from scratch in minutes on two CPU cores."""
    model = ModelConfig(
        backbone="resnet10t",
        backbone_arguments=_SMALL_RESNET,
        head="none",
        detector=DetectorConfig(name="retinanet", pyramid_width=64, anchor_sides_px=(24, 48, 72, 96)),
    )
    optimizer = _adamw(1e-3, weight_decay=0.02)
    return _on_images("xray_boxes_demo", model, optimizer, image=_DEMO_IMAGE, epochs=30, images_per_batch=8)


def segment_demo() -> RunConfig:
    """The residual network at half the width and 192 px, in minutes on two CPU cores."""
    model = ModelConfig(backbone=RESIDUAL, head="none", segmenter=SegmenterConfig(width=16))
    return _on_images("xray_segment_demo", model, _OF_EC601, image=_DEMO_IMAGE, epochs=30, images_per_batch=8)


def _on_images(
    recipe: str,
    model: ModelConfig,
    optimizer: OptimizerConfig,
    *,
    image: ImageConfig,
    epochs: int,
    images_per_batch: int = 16,
    sampling: Literal["all", "balanced"] = "balanced",
    threads: int = 2,
) -> RunConfig:
    """Train on single images, all the epochs."""
    return RunConfig(
        recipe=recipe,
        task=PNEUMONIA,
        epochs=0,
        image=image,
        augment=UPRIGHT,
        loader=LoaderConfig(threads=threads),
        model=model,
        slice_phase=SlicePhaseConfig(
            epochs=epochs, slices_per_batch=images_per_batch, sampling=sampling, optimizer=optimizer
        ),
        optimizer=optimizer,
    )


def _on_resnet50(detector: DetectorConfig) -> ModelConfig:
    return ModelConfig(backbone="resnet50.a1_in1k", pretrained=True, batchnorm="frozen", head="none", detector=detector)


def _adamw(learning_rate: float, *, weight_decay: float) -> OptimizerConfig:
    return OptimizerConfig(
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        schedule="cosine",
        warmup_fraction=0.05,
        clip_norm=2.0,
    )
