"""Typed configuration, checked when it is made and saved whole; recipes are functions that return one.

In goes the name of a recipe or a YAML file, and `--set a.b=value` on top; out comes a frozen configuration in which
every value was checked, or an error that names the setting. A recipe holds the numbers of a published or a
demonstration run.

A recipe is where the numbers of a published or a demonstration run live. `--set a.b=value` overrides any of them.
"""

from rsna_e2e.config.boxes import DetectorConfig, SegmenterConfig
from rsna_e2e.config.files import as_yaml, load_config, load_two_stage, make_config, save_config
from rsna_e2e.config.model import ModelConfig
from rsna_e2e.config.recipes import RECIPES, TWO_STAGE_RECIPES
from rsna_e2e.config.run import RunConfig, resolve_task
from rsna_e2e.config.sections import (
    AugmentConfig,
    Crop,
    FoldRule,
    Frozen,
    ImageConfig,
    InputsConfig,
    LoaderConfig,
    OptimizerConfig,
    SlicePhaseConfig,
    View,
)
from rsna_e2e.config.two_stage import Mode, TwoStageConfig

__all__ = [
    "RECIPES",
    "TWO_STAGE_RECIPES",
    "AugmentConfig",
    "Crop",
    "DetectorConfig",
    "FoldRule",
    "Frozen",
    "ImageConfig",
    "InputsConfig",
    "LoaderConfig",
    "Mode",
    "ModelConfig",
    "OptimizerConfig",
    "RunConfig",
    "SegmenterConfig",
    "SlicePhaseConfig",
    "TwoStageConfig",
    "View",
    "as_yaml",
    "load_config",
    "load_two_stage",
    "make_config",
    "resolve_task",
    "save_config",
]
