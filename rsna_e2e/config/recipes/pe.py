"""Recipes for pulmonary embolism on CT angiography."""

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
from rsna_e2e.config.two_stage import TwoStageConfig, TwoStageSettings
from rsna_e2e.tasks.pe import PE

# Labels say left and right: a mirrored slice, as flips and transposes make it, would have the other label
_NO_MIRRORS = AugmentConfig(hflip_probability=0.0, transpose_probability=0.0, affine_probability=0.5)

_UPSIDE_DOWN = AugmentConfig(
    hflip_probability=0.0, transpose_probability=0.0, affine_probability=0.0, vflip_probability=0.5
)
_HU_BY_500 = InputsConfig(windows_hu=((1024.0, 4096.0),), mean=(0.25,), std=(500 / 4096,))  # HU / 500, -1024 to 3072


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
    """A small ResNet at 160 px of the inner three quarters of the body, trained from scratch in minutes on two CPU
    cores: long on single slices, which may be mirrored, as emboli look alike on both sides, then on whole series."""
    schedule = {"schedule": "cosine", "warmup_fraction": 0.05, "weight_decay": 0.02, "clip_norm": 2.0}
    geometry = {"affine_probability": 1.0, "shift_limit": 0.0, "scale_limit": 0.1, "rotate_limit_deg": 10.0}
    return RunConfig(
        recipe="pe_demo",
        task=PE,
        epochs=3,
        freeze_backbone_epochs=1,
        accumulate=4,
        image=ImageConfig(size=160, resize=208, supersample=2),
        augment=_NO_MIRRORS.model_copy(update=geometry),
        model=ModelConfig(
            backbone="resnet10t",
            backbone_arguments={
                "channels": (32, 64, 128, 256),
                "stem_width": 16,
                "output_stride": 16,
                "global_pool": "catavgmax",
            },
            embedding_width=128,
            batchnorm="frozen",
            slice_loss_weight=0.5,
            study_loss_weight=1.0,
            pool="evidence",
        ),
        slice_phase=SlicePhaseConfig(
            epochs=34,
            sampling="balanced",
            augment=_NO_MIRRORS.model_copy(update=geometry | {"hflip_probability": 0.5}),
            starts_head=True,
            optimizer=OptimizerConfig.model_validate(schedule | {"learning_rate": 4e-3}),
        ),
        optimizer=OptimizerConfig.model_validate(schedule | {"learning_rate": 2e-4, "head_learning_rate": 1e-3}),
    )


def two_stage_reference() -> TwoStageConfig:
    """The published solution of RSNA-STR Pulmonary Embolism 2020 by EC601: EfficientNet-B0 and ResNeXt-50 on single
    slices, their 1280 + 2048 features side by side, and one-way LSTMs for slices and for whole series."""
    # lowered after epochs 10, 20 and 30 of 40
    sgd = OptimizerConfig(
        name="sgd", learning_rate=0.1, weight_decay=1e-4, schedule="step", step_fractions=(0.25, 0.5, 0.75)
    )
    images = RunConfig(
        recipe="pe_reference",
        task=PE,
        inputs=_HU_BY_500,
        epochs=0,
        image=ImageConfig(size=224, resize=256, crop="none", supersample=2),
        augment=_UPSIDE_DOWN,
        loader=LoaderConfig(threads=8),
        model=ModelConfig(backbone="efficientnet_b0.ra_in1k", pretrained=True, head="none", slice_loss_weight=1.0),
        slice_phase=SlicePhaseConfig(
            epochs=40, slices_per_batch=16, sampling="balanced_shards", validation_sampling="balanced", optimizer=sgd
        ),
        optimizer=sgd,
    )
    return TwoStageConfig(
        recipe="pe_reference",
        two_stage=TwoStageSettings(
            reference="ec601", folds=(0,), crops=("none",), views=("plain",), image_epochs=(40,)
        ),
        images=images,
        beside=(_with_backbone(images, backbone="resnext50_32x4d.tv_in1k"),),
        **_one_way_heads(
            "pe_reference", epochs=20, optimizer=OptimizerConfig(name="sgd", learning_rate=0.1, momentum=0.0)
        ),
    )


def two_stage_demo() -> TwoStageConfig:
    """The same in small, for two CPU cores: two backbones of the demo at 112 px, and Adam in the place of SGD."""
    arguments = {"channels": (32, 64, 128, 256), "stem_width": 16, "global_pool": "max"}
    schedule = {"schedule": "cosine", "warmup_fraction": 0.1, "weight_decay": 0.02, "clip_norm": 2.0}
    optimizer = OptimizerConfig.model_validate(schedule | {"learning_rate": 1e-3, "head_learning_rate": 2e-3})
    phase = SlicePhaseConfig(
        epochs=4,
        sampling="balanced_shards",
        negative_shards=2,
        validation_sampling="balanced",
        optimizer=OptimizerConfig.model_validate(schedule | {"learning_rate": 3e-3}),
    )
    images = RunConfig(
        recipe="pe_demo",
        task=PE,
        inputs=_HU_BY_500,
        epochs=0,
        image=ImageConfig(size=112, resize=128, crop="none", supersample=4),
        augment=_UPSIDE_DOWN,
        model=ModelConfig(backbone="resnet10t", backbone_arguments=arguments, head="none", slice_loss_weight=1.0),
        slice_phase=phase,
        optimizer=optimizer,
    )
    mean_pooled = arguments | {"global_pool": "avg"}
    return TwoStageConfig(
        recipe="pe_demo",
        two_stage=TwoStageSettings(
            reference="ec601", folds=(0,), crops=("none",), views=("plain",), image_epochs=(phase.epochs,)
        ),
        images=images,
        beside=(_with_backbone(images, backbone_arguments=mean_pooled),),
        **_one_way_heads("pe_demo", epochs=6, optimizer=optimizer),
    )


def _with_backbone(images: RunConfig, **changes: object) -> RunConfig:
    return images.model_copy(update={"model": images.model.model_copy(update=changes)})


def _one_way_heads(recipe: str, *, epochs: int, optimizer: OptimizerConfig) -> dict[str, RunConfig]:
    """Two LSTMs of 64, one for slices and one for whole series, each trained by its own log loss, series by series."""

    def head(*, of_slices: float, of_series: float) -> RunConfig:
        return RunConfig(
            recipe=recipe,
            task=PE,
            epochs=epochs,
            cpu_threads=1,
            image=ImageConfig(size=1),
            loader=LoaderConfig(series_per_batch=1),
            model=ModelConfig(
                backbone="none",
                head="one_way",
                loss="log_loss",
                sequence_loss_weight=of_slices,
                study_loss_weight=of_series,
            ),
            optimizer=optimizer,
        )

    return {
        "sequences": head(of_slices=1.0, of_series=0.0),
        "series_sequences": head(of_slices=0.0, of_series=1.0),
    }
