"""Recipes for what chest radiographs show; `xray_boxes` has those for where."""

from rsna_e2e.config.model import ModelConfig
from rsna_e2e.config.run import RunConfig
from rsna_e2e.config.sections import (
    AugmentConfig,
    ImageConfig,
    InputsConfig,
    LoaderConfig,
    OptimizerConfig,
    SlicePhaseConfig,
)
from rsna_e2e.tasks.pneumonia import PNEUMONIA

# A chest is never on its side, and how bright a radiograph is shown differs between devices, not between diseases
UPRIGHT = AugmentConfig(
    transpose_probability=0.0,
    affine_probability=0.8,
    scale_limit=0.1,
    rotate_limit_deg=8.0,
    brightness_limit=0.1,
    contrast_limit=0.2,
    gamma_limit=0.2,
)
_NOTHING_RANDOM = AugmentConfig(hflip_probability=0.0, transpose_probability=0.0, affine_probability=0.0)

# Grey three times, normalised as the colours of ImageNet, on which torchvision's weights were trained
_AS_COLOURS = InputsConfig(
    windows_hu=PNEUMONIA.inputs.windows_hu * 3, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
)

_HALF_WIDTH = {
    "channels": (32, 64, 128, 256),
    "stem_width": 16,
    "output_stride": 16,
    "global_pool": "catavgmax",
}  # of resnet10t


def classify() -> RunConfig:
    """DenseNet-121 with ImageNet weights at 320 px, which says what each image shows; for GPUs."""
    optimizer = OptimizerConfig(
        learning_rate=1e-4,
        head_learning_rate=1e-3,
        weight_decay=0.01,
        schedule="cosine",
        warmup_fraction=0.05,
        clip_norm=2.0,
    )
    return RunConfig(
        recipe="xray_classify",
        task=PNEUMONIA,
        epochs=0,
        image=ImageConfig(size=320, crop="none", supersample=3),
        augment=UPRIGHT,
        loader=LoaderConfig(threads=8),
        model=ModelConfig(backbone="densenet121.ra_in1k", pretrained=True, head="none", slice_loss_weight=1.0),
        slice_phase=SlicePhaseConfig(epochs=8, optimizer=optimizer),
        optimizer=optimizer,
    )


def classify_demo() -> RunConfig:
    """A small ResNet at 96 px, trained from scratch on simulated radiographs in minutes on two CPU cores."""
    optimizer = OptimizerConfig(
        learning_rate=3e-3, weight_decay=0.02, schedule="cosine", warmup_fraction=0.1, clip_norm=2.0
    )
    return RunConfig(
        recipe="xray_classify_demo",
        task=PNEUMONIA,
        epochs=0,
        image=ImageConfig(size=96, crop="none", supersample=5),
        augment=UPRIGHT,
        model=ModelConfig(backbone="resnet10t", backbone_arguments=_HALF_WIDTH, head="none", slice_loss_weight=1.0),
        slice_phase=SlicePhaseConfig(epochs=100, slices_per_batch=16, optimizer=optimizer),
        optimizer=optimizer,
    )


def transfer() -> RunConfig:
    """SqueezeNet 1.0 at 320 px with ImageNet weights, which stay as they are; a classifier of two layers on it learns.

    Source: a report on 30-day mortality of COVID-19 on chest radiographs, which trained it with fastai. Its network
    has 1,263,808 weights for two labels, 528,384 of which learn.
    """
    optimizer = OptimizerConfig(name="adam", learning_rate=1e-3)
    return RunConfig(
        recipe="xray_transfer",
        task=PNEUMONIA,
        inputs=_AS_COLOURS,
        epochs=0,
        image=ImageConfig(size=320, crop="none", supersample=3),
        augment=_NOTHING_RANDOM,
        loader=LoaderConfig(threads=8),
        model=ModelConfig(
            backbone="torchvision.squeezenet1_0",
            backbone_arguments={"global_pool": "catavgmax"},
            pretrained=True,
            head="none",
            classifier="mlp",
            slice_loss_weight=1.0,
        ),
        slice_phase=SlicePhaseConfig(epochs=5, slices_per_batch=64, freeze_backbone_epochs="all", optimizer=optimizer),
        optimizer=optimizer,
    )


def transfer_demo() -> RunConfig:
    """The backbone of the demo of classification with the classifier of two layers, for two CPU cores.

    It learns from scratch. Where a run of that demo gives it its backbone (train --init-backbone), that may stay as it
    is: slice_phase.freeze_backbone_epochs=all.
    """
    classify = classify_demo()
    assert classify.slice_phase is not None
    optimizer = OptimizerConfig(name="adam", learning_rate=1e-3)
    return classify.model_copy(
        update={
            "recipe": "xray_transfer_demo",
            "augment": _NOTHING_RANDOM,
            "model": classify.model.model_copy(update={"classifier": "mlp"}),
            "slice_phase": SlicePhaseConfig(epochs=5, optimizer=optimizer),
            "optimizer": optimizer,
        }
    )
