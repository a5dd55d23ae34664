"""Sizes of the models of a plan: weights, features, checkpoints. Nothing is allocated, and timm is rarely loaded."""

from collections.abc import Sequence

import torch
from torch import nn

from rsna_e2e.config import RunConfig, resolve_task
from rsna_e2e.model.backbone_size import BackboneSize, backbone_size
from rsna_e2e.model.network import JointModel
from rsna_e2e.store.embeddings import MANIFEST, read_manifest
from rsna_e2e.training.chunk_size import n_moments
from rsna_e2e.training.pipeline.planned_step import PlannedStep

WEIGHT_BYTES = 4  # float32


class ModelSizes:
    """Sizes of the models that a plan trains and applies."""

    def __init__(self, steps: Sequence[PlannedStep]) -> None:
        self.steps = tuple(steps)
        self._steps = {step.name: step for step in steps}
        self._stand_ins: dict[str, nn.Module] = {}  # by what they stand in for
        # of each section of the configuration: those of two are side by side
        trained = {s.section: s.settings for s in steps if s.settings is not None}
        backbones = [settings for settings in trained.values() if settings.model.backbone != "none"]
        stored = next((step.inputs for step in steps if any(path.name == MANIFEST for path in step.inputs)), ())
        # of the embeddings that heads learn from
        self.n_features = sum(self._size(settings).n_features for settings in backbones)
        self.n_features += sum(read_manifest(path.parent).width for path in stored)

    def settings_of(self, step: PlannedStep) -> RunConfig | None:
        """The settings of a step's model: its own, or those of the training that it comes after."""
        if step.settings is not None:
            return step.settings
        trained = (self._steps[name].settings for name in step.depends if name in self._steps)
        return next((settings for settings in trained if settings is not None), None)

    def embedding_width(self, step: PlannedStep) -> int:
        """Numbers of an embedding that a step makes."""
        settings = self.settings_of(step)
        assert settings is not None
        return self._size(settings).n_features

    def backbone(self, config: RunConfig) -> BackboneSize | None:
        """The backbone of a model, for its images; None for a head on embeddings."""
        return None if config.model.backbone == "none" else self._size(config)

    def n_weights(self, config: RunConfig) -> int:
        """Number of weights of a model."""
        return sum(weight.numel() for weight in self.stand_in(config).parameters())

    def n_recurrent_weights(self, config: RunConfig) -> int:
        """Number of weights that every step along a series multiplies with: hidden to hidden, of all LSTMs."""
        named = self.stand_in(config).named_parameters()
        return sum(weight.numel() for name, weight in named if ".weight_hh_" in name)

    def checkpoint_bytes(self, config: RunConfig) -> int:
        """Size of a checkpoint: weights, what the optimiser keeps for each, and their moving average."""
        copies = 1 + n_moments(config) + (config.ema_decay is not None)
        return copies * WEIGHT_BYTES * self.n_weights(config)

    def stand_in(self, config: RunConfig) -> nn.Module:
        """A module with as many weights as the model of `config`, none of them in memory."""
        name = f"{resolve_task(config)} {config.model.model_dump_json()}"
        if name not in self._stand_ins:
            self._stand_ins[name] = self._make_stand_in(config)
        return self._stand_ins[name]

    def _make_stand_in(self, config: RunConfig) -> nn.Module:
        backbone = self.backbone(config)
        heads = config.model.model_copy(update={"backbone": "none", "backbone_arguments": {}})
        width = backbone.n_features if backbone is not None else self.n_features
        with torch.device("meta"):
            model = JointModel.for_task(heads.without_initial_weights(), resolve_task(config), n_channels=width or 1)
            if backbone is not None:
                model.register_parameter("backbone_weights", nn.Parameter(torch.empty(backbone.n_weights)))
        return model

    @staticmethod
    def _size(config: RunConfig) -> BackboneSize:
        return backbone_size(config.model, max(config.image.size, *config.image.size_from_epoch.values(), 1))
