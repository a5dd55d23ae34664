"""Recipes for intracranial hemorrhage."""

from rsna_e2e.config.model import ModelConfig
from rsna_e2e.config.run import RunConfig
from rsna_e2e.config.sections import (
    AugmentConfig,
    ImageConfig,
    LoaderConfig,
    OptimizerConfig,
    SlicePhaseConfig,
)
from rsna_e2e.config.two_stage import TwoStageConfig, TwoStageSettings


def reference() -> RunConfig:
    """ResNeXt-101 32x8d with WSL weights at 480 px, as the published 2nd-place solution used it, trained jointly."""
    return RunConfig(
        recipe="reference",
        epochs=5,
        model=ModelConfig(backbone="resnext101_32x8d.fb_wsl_ig1b_ft_in1k", pretrained=True, batchnorm="frozen"),
        optimizer=OptimizerConfig(learning_rate=2e-5, head_learning_rate=1e-5),
        loader=LoaderConfig(slices_per_batch=64, threads=8),
    )


def demo() -> RunConfig:
    """A narrow ResNet-10 at 96 px, trained from scratch in minutes on two CPU cores.

    Small images buy more passes, and strong augmentation what a hundred patients lack: docs/benchmarks.md.
    """
    schedule = {"schedule": "cosine", "warmup_fraction": 0.1, "weight_decay": 0.02, "clip_norm": 2.0}
    return RunConfig(
        recipe="demo",
        epochs=3,
        image=ImageConfig(size=96, supersample=3),
        model=ModelConfig(
            backbone="resnet10t",
            # half the width is a quarter of the work; a maximum keeps a bleed of a few pixels that a mean would dilute
            backbone_arguments={"channels": (32, 64, 128, 256), "stem_width": 16, "global_pool": "max"},
            embedding_width=128,
            batchnorm="frozen",  # the phase on single slices made its statistics; one series is not a fair sample
            slice_loss_weight=0.5,
        ),
        slice_phase=SlicePhaseConfig(
            epochs=8, optimizer=OptimizerConfig.model_validate(schedule | {"learning_rate": 3e-3})
        ),
        optimizer=OptimizerConfig.model_validate(schedule | {"learning_rate": 1e-3, "head_learning_rate": 2e-3}),
        augment=AugmentConfig(
            transpose_probability=0.0,  # too few studies to learn both orientations from scratch
            affine_probability=0.8,
            shift_limit=0.08,
            scale_limit=0.1,
        ),
    )


def fastai() -> RunConfig:
    """A ResNet-50 on single slices by fastai's practice: one cycle on the classifier alone, and another on all of it.

    Source of the numbers: dipam7's notebooks on RSNA ICH 2019 and fastai's fine_tune(5, base_lr=3e-2): a frozen epoch
    at that rate; then half of it for the classifier and a hundredth of that for the backbone; as many slices with
    hemorrhage as without; images that grow from 64 over 128 to 256 px, here with the same batches throughout.
    """
    adam = {"schedule": "one_cycle", "weight_decay": 0.01}  # of fastai, whose Adam is AdamW
    return RunConfig(
        recipe="ich_fastai",
        epochs=0,
        image=ImageConfig(size=256, crop="none", supersample=2, size_from_epoch={1: 64, 3: 128, 5: 256}),
        augment=AugmentConfig(
            hflip_probability=0.2,
            transpose_probability=0.0,
            affine_probability=0.5,
            shift_limit=0.0,
            scale_limit=0.0,
            rotate_limit_deg=15.0,
        ),
        model=ModelConfig(
            backbone="resnet50",
            backbone_arguments={"global_pool": "catavgmax"},
            pretrained=True,
            head="none",
            classifier="mlp",
            slice_loss_weight=1.0,
        ),
        slice_phase=SlicePhaseConfig(
            epochs=6,
            slices_per_batch=64,
            sampling="balanced",
            freeze_backbone_epochs=1,
            frozen_optimizer=OptimizerConfig.model_validate(adam | {"learning_rate": 3e-2}),
            optimizer=OptimizerConfig.model_validate(adam | {"learning_rate": 1.5e-4, "head_learning_rate": 1.5e-2}),
        ),
        optimizer=OptimizerConfig(learning_rate=1.5e-4),  # of no epoch: there are none on whole series
        loader=LoaderConfig(threads=8),
    )


def two_stage_reference() -> TwoStageConfig:
    """The published 2nd-place solution of RSNA ICH 2019: three folds, crop and no crop, five epochs, thirty heads.

    Source: darraghdog/rsna, scripts trainorig.py, trainlstm.py and bin/run_1*.sh.
    """
    adam = OptimizerConfig(name="adam", learning_rate=2e-5)
    twelve_epochs = tuple(epoch / 12 for epoch in range(1, 12))
    return TwoStageConfig(
        recipe="reference",
        two_stage=TwoStageSettings(folds=(0, 1, 2), crops=("series", "none"), views=("plain", "hflip", "transpose")),
        images=RunConfig(
            recipe="reference",
            epochs=0,
            model=ModelConfig(
                backbone="resnext101_32x8d.fb_wsl_ig1b_ft_in1k", pretrained=True, head="none", slice_loss_weight=1.0
            ),
            slice_phase=SlicePhaseConfig(epochs=5, slices_per_batch=64, optimizer=adam),
            optimizer=adam,
            loader=LoaderConfig(threads=8),
        ),
        sequences=RunConfig(
            recipe="reference",
            epochs=12,
            image=ImageConfig(size=1),
            model=ModelConfig(backbone="none"),
            loader=LoaderConfig(series_per_batch=4),
            optimizer=OptimizerConfig(
                name="adam", learning_rate=1e-5, schedule="step", step_fractions=twelve_epochs, step_factor=0.95
            ),
        ),
    )


def two_stage_demo() -> TwoStageConfig:
    """The demo recipe's backbone and head in two stages, for two CPU cores: two folds, three epochs, twelve heads."""
    joint = demo()
    assert joint.slice_phase is not None
    slices = joint.slice_phase.model_copy(update={"epochs": 3})
    return TwoStageConfig(
        recipe="demo",
        two_stage=TwoStageSettings(folds=(0, 1), crops=("series", "none"), views=("plain", "hflip", "transpose")),
        images=joint.model_copy(
            update={
                "epochs": 0,
                "slice_phase": slices,
                "model": joint.model.model_copy(
                    update={"head": "none", "embedding_width": None, "batchnorm": "train", "slice_loss_weight": 1.0}
                ),
            }
        ),
        sequences=RunConfig(
            recipe="demo",
            epochs=6,
            cpu_threads=1,
            image=ImageConfig(size=1),
            model=ModelConfig(backbone="none", embedding_width=joint.model.embedding_width),
            loader=LoaderConfig(series_per_batch=4),
            optimizer=joint.optimizer,
        ),
    )
