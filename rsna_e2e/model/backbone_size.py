"""How large a backbone is, and what a slice costs in it: known for the recipes' own, else counted without memory."""

# S image side

import json
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import nn

from rsna_e2e.config import ModelConfig
from rsna_e2e.core.files import as_json

_CHANNELS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class BackboneSize:
    """Weights and features of a backbone; of a slice of `side` px: floating-point operations of its forward pass, a
    multiply-add as two, and the bytes that the backward pass needs of it in half precision."""

    n_weights: int
    n_features: int
    side: int
    flop: float
    half_bytes: int

    def at(self, side: int) -> "BackboneSize":
        """The same for images of another side: a slice costs as much more as it has more pixels."""
        factor = (side / self.side) ** 2
        return replace(self, side=side, flop=self.flop * factor, half_bytes=round(self.half_bytes * factor))


# As `count_backbone` gives them (timm 1.0.31); to count needs timm, which takes two seconds to import
_KNOWN: dict[tuple[str, str], BackboneSize] = {
    ("resnext101_32x8d.fb_wsl_ig1b_ft_in1k", "{}"): BackboneSize(
        n_weights=86_742_336, n_features=2048, side=480, flop=150.7221504e9, half_bytes=570_618_240
    ),
    ("resnext50_32x4d.a1h_in1k", "{}"): BackboneSize(
        n_weights=22_979_904, n_features=2048, side=384, flop=24.852824064e9, half_bytes=167_419_776
    ),
    ("resnet10t", '{"channels": [32, 64, 128, 256], "global_pool": "max", "stem_width": 16}'): BackboneSize(
        n_weights=1_232_252, n_features=256, side=96, flop=0.10146816e9, half_bytes=1_128_296
    ),
}


def backbone_size(config: ModelConfig, side: int) -> BackboneSize:
    """Return the size of a backbone for images of `side` px. Raises UsageError for one that timm does not know."""
    arguments = as_json(config.backbone_arguments, sort_keys=True)
    known = _KNOWN.get((config.backbone, arguments))
    return known.at(side) if known is not None else count_backbone(config.backbone, arguments, side)


@cache
def count_backbone(backbone: str, arguments: str, side: int) -> BackboneSize:
    """Count what `backbone_size` returns, on torch's meta device: shapes alone are computed. arguments: as JSON."""
    from rsna_e2e.model.network import JointModel

    config = ModelConfig(backbone=backbone, backbone_arguments=json.loads(arguments))
    with torch.device("meta"):
        model = JointModel(config, n_channels=_CHANNELS, n_labels=1).train()
    flop, n_bytes = count_pass(model.backbone.half(), n_channels=_CHANNELS, side=side)
    n_weights = sum(weight.numel() for weight in model.backbone.parameters())
    return BackboneSize(n_weights=n_weights, n_features=model.n_features, side=side, flop=flop, half_bytes=n_bytes)


def count_pass(module: nn.Module, *, n_channels: int, side: int) -> tuple[float, int]:
    """Return the floating-point operations of a module's forward pass over one image in half precision, and the bytes
    that its backward pass needs beside weights. The module is on the meta device."""
    from torch.utils.flop_counter import FlopCounterMode

    n = 2  # train-mode BatchNorm needs two
    images_NCSS = torch.zeros(n, n_channels, side, side, dtype=torch.float16, device="meta")
    weights = {weight.untyped_storage()._cdata for weight in module.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}  # held, so that no storage takes the place of another

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor), FlopCounterMode(display=False) as count:
        module(images_NCSS.to(memory_format=torch.channels_last))
    n_bytes = sum(storage.nbytes() for key, storage in kept.items() if key not in weights)
    return count.get_total_flops() / n, n_bytes // n
