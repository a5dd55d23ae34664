"""Parts of a backbone that do not learn: their weights stay, their norms use running statistics, nothing is dropped."""

from typing import Any

from torch import nn

from rsna_e2e.core.errors import UsageError

_SHOWN = 12  # names in a message


def freeze(backbone: Any, *, learns: bool, learns_from: str | None = None) -> list[nn.Module]:
    """Let a backbone learn, or a part of it, or nothing; return the modules that are to be kept in eval mode.

    learns_from: see `modules_before`; None: all of it learns.
    """
    backbone.requires_grad_(learns)
    if not learns:
        return [backbone]
    if learns_from is None:
        return []
    before = modules_before(backbone, learns_from)
    for module in before:
        module.requires_grad_(False)
    for name, weight in backbone.named_parameters():  # of a module around it, such as the class token of a transformer
        owner = name.rpartition(".")[0]
        if not owner or learns_from.startswith(f"{owner}."):
            weight.requires_grad_(False)
    return before


def modules_before(backbone: nn.Module, name: str) -> list[nn.Module]:
    """Return the modules of a backbone that are defined before the one of this name, such as layer4 or features.9.

    Raises UsageError when it has no such module.
    """
    modules = {key: module for key, module in backbone.named_modules() if key}
    if name not in modules:
        known = [key for key in modules if key.count(".") < 2]
        raise UsageError(
            f"slice_phase.learns_from: the backbone has no part {name!r:.60}. It has {', '.join(known[:_SHOWN])}"
            + (", ..." if len(known) > _SHOWN else "")
        )
    names = list(modules)
    return [modules[key] for key in names[: names.index(name)] if not name.startswith(f"{key}.")]
