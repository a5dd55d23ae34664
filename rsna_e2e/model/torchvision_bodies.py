"""Backbones of torchvision that timm lacks, in the form of timm's: AlexNet and the SqueezeNets."""

# N slices, C channels, S image side, K feature maps of side h, w, F features

from typing import Any, Literal

import torch
from torch import nn

from rsna_e2e.core.errors import MissingCapabilityError, UsageError

PREFIX = "torchvision."  # of the names in a configuration
_MAPS = {"alexnet": 256, "squeezenet1_0": 512, "squeezenet1_1": 512}  # feature maps that their bodies end in
_POOLS = ("avg", "max", "avgmax", "catavgmax")  # timm's names


class TorchvisionBody(nn.Module):
    """The convolutions of a torchvision network, pooled over the image: [N, C, S, S] -> [N, F].

    Parameters have torchvision's names. num_features is F: the number of feature maps, twice that with the pool
    catavgmax, which puts mean and maximum side by side. The first convolution is adapted to `n_channels` as timm does.
    """

    def __init__(self, network: Any, n_maps: int, *, n_channels: int, pool: str) -> None:
        from timm.layers import SelectAdaptivePool2d

        super().__init__()
        self.default_cfg = {"first_conv": "features.0"}  # as timm's models have it
        self.features = network.features
        if n_channels != 3:
            self.features[0] = _for_channels(self.features[0], n_channels)
        into_pool = [place - 1 for place, layer in enumerate(self.features) if isinstance(layer, nn.MaxPool2d)]
        places = [*into_pool, len(self.features) - 1]
        self.feature_info = [{"module": f"features.{place}"} for place in places]  # as timm's models have it, too
        self.global_pool = SelectAdaptivePool2d(pool_type=pool, flatten=True)
        self.num_features: int = n_maps * self.global_pool.feat_mult()

    def forward_features(self, images_NCSS: torch.Tensor) -> torch.Tensor:
        """Return feature maps [N, K, h, w]."""
        maps: torch.Tensor = self.features(images_NCSS)
        return maps

    def forward_intermediates(
        self, images_NCSS: torch.Tensor, *, intermediates_only: Literal[True]
    ) -> list[torch.Tensor]:
        """Return the maps [N, K, h, w] at each scale, the finest first, as timm's networks do: what goes into each
        pooling layer, and what comes last."""
        maps, each = [], images_NCSS
        for layer in self.features:
            if isinstance(layer, nn.MaxPool2d):
                maps.append(each)
            each = layer(each)
        return [*maps, each]

    def forward_head(self, maps_NKhw: torch.Tensor) -> torch.Tensor:
        """Return features [N, F] of feature maps."""
        pooled: torch.Tensor = self.global_pool(maps_NKhw)
        return pooled

    def forward(self, images_NCSS: torch.Tensor) -> torch.Tensor:
        """Return features [N, F]."""
        return self.forward_head(self.forward_features(images_NCSS))


def torchvision_body(name: str, arguments: dict[str, Any], *, n_channels: int, pretrained: bool) -> TorchvisionBody:
    """Return the body of the network that torchvision calls `name`, with torchvision's weights if pretrained.

    arguments: global_pool alone, as in timm. Raises UsageError for a network that is not among these or for other
    arguments, MissingCapabilityError for weights that are neither in torch's cache nor to be downloaded.
    """
    from torchvision import models  # takes a second

    if name not in _MAPS:
        raise UsageError(
            f"model.backbone {PREFIX}{name}: of torchvision, {', '.join(PREFIX + known for known in _MAPS)} are "
            "taken; timm has its others, such as resnet18.tv_in1k"
        )
    pool = arguments.get("global_pool") or "avg"
    if set(arguments) - {"global_pool"} or pool not in _POOLS:
        raise UsageError(f"model.backbone_arguments of {PREFIX}{name}: only global_pool, one of {', '.join(_POOLS)}")
    network = models.get_model(name, weights=None)
    if pretrained:
        network.load_state_dict(_weights(name))
    return TorchvisionBody(network, _MAPS[name], n_channels=n_channels, pool=pool)


def _weights(name: str) -> Any:
    from torchvision.models import get_model_weights

    try:
        return get_model_weights(name).DEFAULT.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except OSError as error:
        raise MissingCapabilityError(
            f"cannot download the pretrained weights of {PREFIX}{name} ({type(error).__name__}), and they are not in "
            "the local cache. On a machine with network, save them as safetensors (docs/training.md, Weights from "
            "elsewhere); give the file here with --set model.weights_file=FILE. Or train from scratch: --set "
            "model.pretrained=false"
        ) from None


def _for_channels(convolution: Any, n_channels: int) -> nn.Conv2d:
    """The same convolution of images of `n_channels`, with what timm makes of its weights."""
    from timm.models import adapt_input_conv

    adapted = nn.Conv2d(
        n_channels,
        convolution.out_channels,
        convolution.kernel_size,
        stride=convolution.stride,
        padding=convolution.padding,
    )
    with torch.no_grad():
        adapted.weight.copy_(adapt_input_conv(n_channels, convolution.weight))
        adapted.bias.copy_(convolution.bias)  # type: ignore[union-attr]
    return adapted
