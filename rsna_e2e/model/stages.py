"""A backbone cut at one of its stages: gradients for the feature maps there, which what comes before has no part in."""

# N slices, C windows, S image side, K feature maps of a stage, h, w their sides, G gradients, F features

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from rsna_e2e.core.errors import UsageError
from rsna_e2e.model.network import JointModel

FINE_ENOUGH = 16  # cells along each side of an image


@torch.no_grad()
def find_stage(network: JointModel, images_NCSS: torch.Tensor) -> nn.Module:
    """Return the last stage of the backbone whose maps of such images have `FINE_ENOUGH` cells along each side.

    Where none has, that with the most. Stages are those that timm names in `feature_info`. Raises UsageError for a
    backbone whose stages put out no maps, as those of vision transformers.
    """
    sides: list[tuple[int, nn.Module]] = []

    def note(stage: nn.Module, _: Any, output: Any) -> None:
        if isinstance(output, torch.Tensor) and output.ndim == 4:
            sides.append((min(_channels_first(network, output).shape[2:]), stage))

    hooks = [stage.register_forward_hook(note) for stage in _stages(network.backbone)]
    try:
        network.embed(images_NCSS[:1])
    finally:
        for hook in hooks:
            hook.remove()
    if not sides:
        raise UsageError("the backbone makes no feature maps. Maps are for convolutional networks, such as ResNets")
    fine = [stage for side, stage in sides if side >= FINE_ENOUGH]
    return fine[-1] if fine else max(sides, key=lambda each: each[0])[1]


def layer_maps(
    network: JointModel, stage: nn.Module, images_NCSS: torch.Tensor, gradients_GNF: Sequence[torch.Tensor]
) -> torch.Tensor:
    """Return LayerCAM's maps [G, N, h, w] at a stage for G gradients [N, F] for the embeddings of these images.

    A map is the sum over channels of what the stage puts out, each value times its own gradient where that is positive.
    Source: Jiang et al. 2021, LayerCAM, doi:10.1109/TIP.2021.3089943, equations 5 and 6, before its last ReLU, which
    changes something where values are negative alone.
    """
    with _graph_from(stage) as found:
        embeddings_NF = network.embed(images_NCSS)
    (values,) = found
    maps = []
    for number, gradient_NF in enumerate(gradients_GNF, start=1):
        is_last = number == len(gradients_GNF)
        (gradient,) = torch.autograd.grad(embeddings_NF, values, gradient_NF, retain_graph=not is_last)
        maps.append(_channels_first(network, gradient.relu() * values.detach()).sum(dim=1))
    return torch.stack(maps)


@contextmanager
def _graph_from(stage: nn.Module) -> Iterator[list[torch.Tensor]]:
    """Within, a graph begins at what `stage` puts out, which is appended to the list; there is none before it."""
    found: list[torch.Tensor] = []

    def begin(_: nn.Module, __: Any, output: torch.Tensor) -> torch.Tensor:
        torch.set_grad_enabled(True)
        found.append(output.detach().requires_grad_())
        return found[-1].clone()  # layers that work in place change the copy

    hook = stage.register_forward_hook(begin)
    try:
        with torch.no_grad():  # ends what `begin` turned on
            yield found
    finally:
        hook.remove()


def _stages(backbone: Any) -> list[nn.Module]:
    names = {str(info["module"]) for info in getattr(backbone, "feature_info", ())} - {""}  # "": all of the network
    return [module for name, module in backbone.named_modules() if name in names]


def _channels_first(network: JointModel, maps: torch.Tensor) -> torch.Tensor:
    is_last = getattr(network.backbone, "output_fmt", None) == "NHWC"  # timm's name, of its Swin transformers
    return maps.permute(0, 3, 1, 2) if is_last else maps
