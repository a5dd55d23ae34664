"""What a network is made of: each layer with its output, its weights, and how many of them learn."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence

from rsna_e2e.config import RunConfig
from rsna_e2e.model.box_model import BoxModel
from rsna_e2e.model.freezing import freeze
from rsna_e2e.model.make import Network, make_network
from rsna_e2e.tasks.task import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A layer by its name in saved weights. kind: its class. shape: of its output for one slice, () of a layer that did
    not run. n_learned: of its weights, how many learn."""

    name: str
    kind: str
    shape: tuple[int, ...]
    n_weights: int
    n_learned: int


def list_layers(config: RunConfig, task: Task, *, n_channels: int | None = None) -> list[Layer]:
    """List the layers of the network of `config` in the order in which a slice goes through them.

    n_channels: of the images, by default a channel for each window; of a network on embeddings, their width. What
    learns is what does in the last epoch. Weights are counted once, where they belong to two layers.
    """
    model = make_network(config.model.without_initial_weights(), task, n_channels=n_channels).eval()
    phase = config.slice_phase
    if config.epochs > 0:
        freeze(model.backbone, learns=config.freeze_backbone_epochs < config.epochs)
    elif phase is not None:
        freeze(model.backbone, learns=phase.n_frozen < phase.epochs, learns_from=phase.learns_from)
    side = 1 if config.model.backbone == "none" else config.image.size
    shapes = _run(model, n_channels=n_channels or len(task.inputs.windows_hu), side=side)
    named = dict(model.named_modules())
    ran = [*shapes, *(name for name in named if name not in shapes)]
    seen: set[nn.Parameter] = set()
    layers = []
    for name in ran:
        weights = [weight for weight in named[name].parameters(recurse=False) if weight not in seen]
        seen.update(weights)
        if weights or (shapes.get(name) and not list(named[name].children())):
            layers.append(
                Layer(
                    name=name,
                    kind=type(named[name]).__name__,
                    shape=shapes.get(name, ()),
                    n_weights=sum(weight.numel() for weight in weights),
                    n_learned=sum(weight.numel() for weight in weights if weight.requires_grad),
                )
            )
    return layers


@torch.inference_mode()
def _run(model: Network, *, n_channels: int, side: int) -> dict[str, tuple[int, ...]]:
    """Send one black slice through the model; return the shapes of what layers gave, by name, in their order."""
    shapes: dict[str, tuple[int, ...]] = {}

    def note(name: str) -> Any:
        def hook(module: nn.Module, given: Any, output: Any) -> None:  # what it returned would replace the output
            shapes.setdefault(name, _shape(output))

        return hook

    hooks = [
        module.register_forward_hook(note(name))
        for name, module in model.named_modules()
        if name and not isinstance(module, nn.Identity)
    ]
    image_1CSS = torch.zeros(1, n_channels, side, side)
    if isinstance(model, BoxModel):
        model.find(image_1CSS)
    else:
        embeddings_1F = model.embed(image_1CSS)
        model.classify(embeddings_1F, torch.tensor([1]))
        if model.slice_classifier is not None:
            model.classify_slices(embeddings_1F)
    for hook in hooks:
        hook.remove()
    return shapes


def _shape(output: Any) -> tuple[int, ...]:
    """The shape of what a layer gives for the slice; of several tensors, the first's; of no tensor, none."""
    while isinstance(output, tuple | list | dict) and not isinstance(output, PackedSequence) and output:
        output = next(iter(output.values() if isinstance(output, dict) else output))
    tensor = output.data if isinstance(output, PackedSequence) else output
    return tuple(tensor.shape[1:]) if isinstance(tensor, torch.Tensor) else ()
