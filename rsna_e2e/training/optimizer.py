"""The optimisers, their parameter groups, and learning rate schedules as pure functions of the step.

A schedule keeps no state: resuming at a step is asking for the factor of that step.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from rsna_e2e.config import OptimizerConfig
from rsna_e2e.core.errors import MissingCapabilityError
from rsna_e2e.model.make import Network

_APEX_COMMAND = "APEX_CPP_EXT=1 APEX_CUDA_EXT=1 pip install --no-build-isolation git+https://github.com/NVIDIA/apex"
_NEVER = torch.finfo(torch.float32).max  # finite, so that it can be saved as JSON

# the policy of Smith and Topin 2017 (arXiv:1708.07120) with the defaults of torch.optim.lr_scheduler.OneCycleLR
_ONE_CYCLE_RISE = 0.3  # of the steps
_ONE_CYCLE_START = 1 / 25  # of the peak
_ONE_CYCLE_END = _ONE_CYCLE_START / 1e4


def make_optimizer(model: Network, config: OptimizerConfig, device: torch.device) -> Optimizer:
    """Return the optimiser that `config` names, over all parameters of `model`, which is on `device`.

    Four groups at most, each with its `base_lr`: the backbone and the rest have learning rates of their own, and in
    both biases and norms (fewer than two dimensions) do not decay. adam adds the decay to the gradient (L2), sgd too;
    adamw and apex's two shrink the weights beside the step (Loshchilov and Hutter 2019, arXiv:1711.05101). Betas and
    epsilons are the libraries' defaults. Raises MissingCapabilityError for apex's where there is no GPU or no apex.
    """
    groups = _groups(model, config)
    match config.name:
        case "adamw":
            return AdamW(groups, fused=True)
        case "adam":
            return Adam(groups, fused=True)
        case "sgd":
            return SGD(groups, momentum=config.momentum, fused=True)
        case "apex_fused_adam":
            return _apex("FusedAdam", groups, device, adam_w_mode=True)
        case "apex_fused_lamb":  # its own clipping, at norm 1 by default, would come on top of config.clip_norm
            return _apex("FusedLAMB", groups, device, adam_w_mode=True, max_grad_norm=_NEVER)


def set_learning_rates(optimizer: Optimizer, factor: float) -> None:
    """Give every group `factor` times its base learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = factor * group["base_lr"]


def make_schedule(config: OptimizerConfig, *, n_steps: int) -> Callable[[int], float]:
    """Return the factor on the learning rate as a function of the step, counted from 0 to `n_steps` - 1.

    Linear warm-up; then constant, half a cosine down to 0 at `n_steps` (Loshchilov and Hutter 2017, arXiv:1608.03983,
    without restarts), or steps down. one_cycle rises by half a cosine from 1/25 to 1 and falls by another to 1/250,000.
    """
    n_warmup = round(config.warmup_fraction * n_steps)
    milestones = [round(fraction * n_steps) for fraction in config.step_fractions]

    def factor(step: int) -> float:
        warmup = min((step + 1) / (n_warmup + 1), 1.0)
        match config.schedule:
            case "constant":
                return warmup
            case "cosine":
                return warmup * _cosine(1.0, 0.0, (step - n_warmup) / max(n_steps - n_warmup, 1))
            case "step":
                return warmup * config.step_factor ** sum(step >= milestone for milestone in milestones)
            case "one_cycle":
                return _one_cycle(step, n_steps)

    return factor


def _one_cycle(step: int, n_steps: int) -> float:
    peak, end = _ONE_CYCLE_RISE * n_steps - 1.0, n_steps - 1.0
    if step <= peak:
        return _cosine(_ONE_CYCLE_START, 1.0, step / peak)
    return _cosine(1.0, _ONE_CYCLE_END, (step - peak) / (end - peak))


def _cosine(first: float, last: float, part: float) -> float:
    """Half a cosine from `first` at part 0 to `last` at part 1, level outside."""
    return last + (first - last) * 0.5 * (1.0 + math.cos(math.pi * min(max(part, 0.0), 1.0)))


def _groups(model: Network, config: OptimizerConfig) -> list[dict[str, Any]]:
    head_learning_rate = config.head_learning_rate or config.learning_rate
    rest = [parameter for name, parameter in model.named_parameters() if not name.startswith("backbone.")]
    groups = [
        *_by_decay(model.backbone.parameters(), config.learning_rate, config.weight_decay),
        *_by_decay(rest, head_learning_rate, config.weight_decay),
    ]
    return [group for group in groups if group["params"]]


def _by_decay(parameters: Iterable[nn.Parameter], learning_rate: float, decay: float) -> list[dict[str, Any]]:
    both = list(parameters)
    rates = {"lr": learning_rate, "base_lr": learning_rate}
    return [
        {"params": [p for p in both if p.ndim > 1], "weight_decay": decay, **rates},
        {"params": [p for p in both if p.ndim <= 1], "weight_decay": 0.0, **rates},
    ]


def _apex(name: str, groups: list[dict[str, Any]], device: torch.device, **arguments: Any) -> Optimizer:
    if device.type != "cuda":
        raise MissingCapabilityError(
            f"apex's {name} needs an NVIDIA GPU, and this run is on the {device.type}. Use --set optimizer.name=adamw"
        )
    try:
        from apex import optimizers

        optimizer: Optimizer = getattr(optimizers, name)(groups, **arguments)
    except (ImportError, RuntimeError) as error:  # RuntimeError: apex without its compiled half
        raise MissingCapabilityError(
            f"cannot use {name} of NVIDIA apex ({error}). It is built from source: {_APEX_COMMAND} (the package called "
            "apex on PyPI is something else). Or use --set optimizer.name=adamw"
        ) from None
    return optimizer
