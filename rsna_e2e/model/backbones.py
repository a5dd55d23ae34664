"""Backbones: networks of timm and torchvision, which turn images of slices into features, with their first weights."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from rsna_e2e.config import ModelConfig
from rsna_e2e.core.errors import MissingCapabilityError, UsageError, is_out_of_memory
from rsna_e2e.core.weights_file import copy_into, decode, read_file
from rsna_e2e.model.pretrained import check_pretrained, no_weights
from rsna_e2e.model.torchvision_bodies import PREFIX, torchvision_body

MOST_WEIGHTS = 10**10  # the largest of timm, a ViT of DINOv3, has 6.7e9
# What timm and torch raise for arguments that do not fit together: a short list, heads that do not divide a width, ...
_UNSUITED = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)

_CLASSIFIERS = ("fc.", "head.", "classifier.")  # of files by timm, by their prefixes


def create_backbone(config: ModelConfig, n_channels: int) -> Any:
    """Return a backbone without its classifier, or what hands on stored embeddings, with its first weights.

    Raises UsageError for one that is not known or cannot be made, MissingCapabilityError for weights that are not to be
    had, BadInputError for a damaged file of them.
    """
    if config.backbone == "none":  # images are embeddings already, [N, D, 1, 1]
        nothing: Any = nn.Flatten()
        nothing.num_features = n_channels
        return nothing
    _check_weights(config, n_channels)
    backbone = _build(config, n_channels, pretrained=config.pretrained and config.weights_file is None)
    if config.weights_file is not None:
        load_backbone(backbone, config.weights_file)
    return backbone


def load_backbone(backbone: Any, path: Path) -> None:
    """Copy a safetensors file into a backbone, but for the file's classifier. Raises BadInputError.

    The first convolution of a file for three channels becomes what timm makes of it for another number of them, such as
    the sum over its channels for one.
    """
    tensors = decode(read_file(path), path=path)
    tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(_CLASSIFIERS)}
    first = f"{backbone.default_cfg.get('first_conv')}.weight"
    given, wanted = tensors.get(first), backbone.state_dict().get(first)
    if given is not None and wanted is not None and given.ndim == 4 and given.shape[1] == 3:
        from timm.models import adapt_input_conv

        tensors[first] = adapt_input_conv(wanted.shape[1], given)
    copy_into(backbone, tensors, path=path)


def _check_weights(config: ModelConfig, n_channels: int) -> None:
    """Raise UsageError, before memory is allocated, when arguments ask for more weights than any known model has."""
    if not config.backbone_arguments:
        return
    with torch.random.fork_rng(devices=[]), torch.device("meta"):  # leaves the random state to the real model
        sketch = _build(config, n_channels, pretrained=False)
    n_weights = sum(weight.numel() for weight in sketch.parameters())
    if n_weights > MOST_WEIGHTS:
        raise UsageError(
            f"model.backbone_arguments make {config.backbone} a model of {n_weights:.2g} weights; "
            f"{MOST_WEIGHTS:.0e} are the most. Use smaller ones"
        )


def _build(config: ModelConfig, n_channels: int, *, pretrained: bool) -> Any:
    if config.backbone.startswith(PREFIX):
        name, arguments = config.backbone.removeprefix(PREFIX), config.backbone_arguments
        return torchvision_body(name, arguments, n_channels=n_channels, pretrained=pretrained)
    return _timm_model(config, n_channels, pretrained=pretrained)


def _timm_model(config: ModelConfig, n_channels: int, *, pretrained: bool) -> Any:
    import timm  # takes two seconds, and heads on embeddings need none of it

    if pretrained:
        check_pretrained(config.backbone)  # timm would try for a minute
    name, arguments = config.backbone, config.backbone_arguments
    try:
        return timm.create_model(name, pretrained=pretrained, num_classes=0, in_chans=n_channels, **arguments)
    except OSError as error:
        raise MissingCapabilityError(no_weights(name, error)) from None
    except _UNSUITED as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if "Unknown model" in reason:
            raise UsageError(f"timm knows no backbone {name!r}; timm.list_models() lists those it has") from None
        if is_out_of_memory(error):
            raise
        raise UsageError(
            f"model.backbone_arguments do not suit {name}: {reason}" if arguments else f"model.backbone: {reason}"
        ) from None
