"""Recipes for pulmonary embolism on CT angiography."""

from rsna_e2e.config.run import RunConfig
from rsna_e2e.config.sections import (
    AugmentConfig,
    ImageConfig,
    LoaderConfig,
    ModelConfig,
    OptimizerConfig,
    SlicePhaseConfig,
)
from rsna_e2e.tasks.pe import PE

# Labels say left and right: a mirrored slice, as flips and transposes make it, would have the other label
_NO_MIRRORS = AugmentConfig(hflip_probability=0.0, transpose_probability=0.0, affine_probability=0.5)


def joint() -> RunConfig:
    """ResNeXt-50 32x4d with ImageNet weights at 384 px, trained jointly over whole studies of 200 to 400 slices."""
    return RunConfig(
        recipe="pe",
        task=PE,
        epochs=5,
        accumulate=4,
        image=ImageConfig(size=384),
        augment=_NO_MIRRORS,
        # a study is a batch; as floats, its images would fill 0.7 GB
        loader=LoaderConfig(series_per_batch=1, transform="chunk", threads=8),
        model=ModelConfig(
            backbone="resnext50_32x4d.a1h_in1k",
            pretrained=True,
            embedding_width=512,
            batchnorm="frozen",
            slice_loss_weight=0.5,
            study_loss_weight=1.0,
        ),
        optimizer=OptimizerConfig(
            learning_rate=1e-4,
            head_learning_rate=5e-4,
            weight_decay=0.01,
            schedule="cosine",
            warmup_fraction=0.05,
            clip_norm=2.0,
        ),
    )


def demo() -> RunConfig:
    """The backbone of the hemorrhage demo at 160 px, trained from scratch in minutes on two CPU cores."""
    schedule = {"schedule": "cosine", "warmup_fraction": 0.1, "weight_decay": 0.02, "clip_norm": 2.0}
    return RunConfig(
        recipe="pe_demo",
        task=PE,
        epochs=4,
        image=ImageConfig(size=160, supersample=3),
        augment=_NO_MIRRORS,
        model=ModelConfig(
            backbone="resnet10t",
            backbone_arguments={"channels": (32, 64, 128, 256), "stem_width": 16, "global_pool": "max"},
            embedding_width=128,
            batchnorm="frozen",
            slice_loss_weight=0.5,
            study_loss_weight=1.0,
        ),
        slice_phase=SlicePhaseConfig(
            epochs=4, optimizer=OptimizerConfig.model_validate(schedule | {"learning_rate": 3e-3})
        ),
        optimizer=OptimizerConfig.model_validate(schedule | {"learning_rate": 1e-3, "head_learning_rate": 2e-3}),
    )
