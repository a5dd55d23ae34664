"""What an optimiser remembers, as tensors with names: `backbone.conv1.weight/exp_avg`.

Names instead of positions, so that a checkpoint says what it holds; and tensors only, so that nothing is pickled.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from rsna_e2e.core.errors import BadInputError
from rsna_e2e.training.checkpoint.state import Scalars


def state_tensors(optimizer: Optimizer, model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the state of every parameter that has one, by `parameter name/key`; a frozen one may have none."""
    names = _names(optimizer, model)
    tensors: dict[str, torch.Tensor] = {}
    for index, values in optimizer.state_dict()["state"].items():
        for key, value in values.items():
            if value is not None:  # SGD before it has a momentum
                assert isinstance(value, torch.Tensor), f"{names[index]}/{key} is no tensor"
                tensors[f"{names[index]}/{key}"] = value
    return tensors


def group_scalars(optimizer: Optimizer) -> Scalars:
    """Return the numbers that an optimiser counts in its parameter groups, such as the step of NVIDIA apex.

    Settings that a group was made with are not among them: those come from the configuration.
    """
    known = {"params", *optimizer.defaults}
    return [
        {key: value for key, value in group.items() if key not in known and isinstance(value, int | float)}
        for group in optimizer.param_groups
    ]


def restore_optimizer(
    optimizer: Optimizer, model: nn.Module, tensors: Mapping[str, torch.Tensor], scalars: Scalars, *, path: Path
) -> None:
    """Put back what `state_tensors` and `group_scalars` gave, on the device and in the memory format of each parameter.

    Raises BadInputError naming `path`, where the tensors come from, when they are not this optimiser's.
    """
    names = _names(optimizer, model)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    positions = {name: index for index, name in enumerate(names)}
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        parameter_name, _, key = name.rpartition("/")
        index = positions.get(parameter_name)
        if index is None or (tensor.ndim > 0 and tensor.shape != parameters[index].shape):
            raise BadInputError(f"{path}: does not fit this optimiser: {name} {list(tensor.shape)}")
        state.setdefault(index, {})[key] = _laid_out_like(parameters[index], tensor)
    if any(not {"params", *optimizer.defaults}.isdisjoint(counts) for counts in scalars):
        raise BadInputError(f"{path}: does not fit this optimiser: it has counters with the names of settings")
    if len(scalars) != len(optimizer.param_groups):
        raise BadInputError(
            f"{path}: has {len(scalars)} groups of parameters, the optimiser {len(optimizer.param_groups)}"
        )
    groups: list[dict[str, Any]] = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict(
        {"state": state, "param_groups": [group | counts for group, counts in zip(groups, scalars, strict=True)]}
    )


def _laid_out_like(parameter: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
    """Fused kernels want a parameter and its state in one memory format."""
    if tensor.ndim == 0:
        return tensor
    return torch.empty_like(parameter, dtype=tensor.dtype, device="cpu", requires_grad=False).copy_(tensor)


def _names(optimizer: Optimizer, model: nn.Module) -> Sequence[str]:
    """The optimiser's parameters by name, in the order in which its state_dict counts them."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]
