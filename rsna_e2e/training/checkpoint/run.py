"""The checkpoints of a run: saving and restoring its state, finding the one to use, removing those not needed."""

import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn
from torch.optim import Optimizer

from rsna_e2e.core.errors import BadInputError
from rsna_e2e.core.weights_file import copy_into
from rsna_e2e.training.checkpoint.folder import (
    EMA,
    MODEL,
    OPTIMIZER,
    check_folder,
    check_weights,
    predicting_file,
    read_tensors,
    remove_folder,
    write_folder,
)
from rsna_e2e.training.checkpoint.optimizer import group_scalars, restore_optimizer, state_tensors
from rsna_e2e.training.checkpoint.state import CheckpointState, FileName, describe
from rsna_e2e.training.run_folder import check_is_run, read_config
from rsna_e2e.training.run_layout import CHECKPOINTS

_EMA_PREFIX = "module."  # of names in torch.optim.swa_utils.AveragedModel, beside its counter n_averaged
_FOLDER_NAME = re.compile(r"step-(\d{8,})-epoch-(\d{3,})")
_TEMPORARY_NAME = re.compile(r".+\.tmp-(\d+)")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A complete checkpoint: its folder, and the state saved in its checkpoint.json."""

    folder: Path
    state: CheckpointState


OnDamaged = Callable[[BadInputError], None]
Read = TypeVar("Read")


def _ignore(error: BadInputError) -> None:
    """Pass over a damaged checkpoint silently."""


def save_checkpoint(
    run: Path,
    state: CheckpointState,
    *,
    model: nn.Module,
    optimizer: Optimizer | None = None,
    ema: nn.Module | None = None,
    keep_last: int = 2,
    keep_epochs: bool = False,
) -> Path:
    """Save a run's state as it is now and return the folder; then remove all but the last ones and the best.

    keep_epochs: keep the end of every epoch too. An intact checkpoint of the same step and epoch is left as it is,
    because a resumed run computes the same again. ema: an AveragedModel. Raises OutOfResourcesError when the disk is
    full; earlier checkpoints are still there.
    """
    folder = run / CHECKPOINTS / _folder_name(state.step, state.epoch)
    if not _is_whole(folder):
        tensors: dict[FileName, Mapping[str, torch.Tensor]] = {MODEL: model.state_dict()}
        if optimizer is not None:
            tensors[OPTIMIZER] = state_tensors(optimizer, model)
        if ema is not None:
            tensors[EMA] = ema.state_dict()
        groups = group_scalars(optimizer) if optimizer is not None else []
        write_folder(folder, state, tensors=tensors, optimizer_groups=groups)
    _retain(folder, keep_last, keep_epochs=keep_epochs)
    return folder


def load_model(module: nn.Module, folder: Path, *, prefer_ema: bool = True, part: str = "") -> CheckpointState:
    """Copy a checkpoint's weights into `module`: their moving average, where there is one and it is wanted.

    part: what the names of the weights begin with that are those of `module`; all others are left out.

    Raises BadInputError when it is not a checkpoint, is damaged, or does not fit the model.
    """
    described = describe(folder)
    name = predicting_file(described, prefer_ema=prefer_ema)
    tensors = read_tensors(folder, name, described)
    if name == EMA:
        tensors = {k.removeprefix(_EMA_PREFIX): v for k, v in tensors.items() if k.startswith(_EMA_PREFIX)}
    tensors = {k.removeprefix(part): v for k, v in tensors.items() if k.startswith(part)}
    copy_into(module, tensors, path=folder / name)
    return described.state


def weights_sha256(folder: Path, *, prefer_ema: bool = True) -> str:
    """Return the sha256 of the weights that `load_model` would take. Raises BadInputError as it does."""
    described = describe(folder)
    return described.sha256[predicting_file(described, prefer_ema=prefer_ema)]


def restore(
    folder: Path, *, model: nn.Module, optimizer: Optimizer | None = None, ema: nn.Module | None = None
) -> CheckpointState:
    """Restore a run's state: copy the checkpoint's tensors into the given modules, on whatever device they are.

    Raises BadInputError when a file is missing or damaged, or does not fit; nothing was changed if it is damaged.
    """
    described = describe(folder)
    weights = read_tensors(folder, MODEL, described)
    moments = read_tensors(folder, OPTIMIZER, described) if optimizer is not None else {}
    averages = read_tensors(folder, EMA, described) if ema is not None else {}
    copy_into(model, weights, path=folder / MODEL)
    if ema is not None:
        copy_into(ema, averages, path=folder / EMA)
    if optimizer is not None:
        restore_optimizer(optimizer, model, moments, described.optimizer_groups, path=folder / OPTIMIZER)
    return described.state


def valid_checkpoints(run: Path, *, on_damaged: OnDamaged = _ignore) -> Iterator[Checkpoint]:
    """Yield a run's whole checkpoints, newest first, each checked when it is asked for.

    on_damaged: called with the error of each that is passed over.
    """
    for folder in _folders(run / CHECKPOINTS):
        try:
            state = check_folder(folder)
        except BadInputError as error:
            on_damaged(error)
        else:
            yield Checkpoint(folder, state)


def find_checkpoint(run: Path, name: str = "auto", *, on_damaged: OnDamaged = _ignore) -> Path:
    """Return the folder of a run's checkpoint to predict with: `last`, `best`, or `epoch-N`, the end of epoch N.

    auto: the best, which the newest intact checkpoint names, or the last if nothing was validated. If its weights are
    damaged, the newest intact one of the last phase; `on_damaged` is called. Raises BadInputError when the folder is
    not a run or has no such checkpoint.
    """
    check_is_run(run)
    if name.startswith("epoch-"):
        return _end_of_epoch(run, int(name.removeprefix("epoch-")))
    found = _Damage(on_damaged)
    folders = _folders(run / CHECKPOINTS)
    newest = next(filter(None, (found.try_(describe, folder) for folder in folders)), None)
    best = newest.state.best if newest is not None else None
    if name == "best" or (name == "auto" and best is not None):
        if best is None:
            raise BadInputError(f"{run}: no best checkpoint, because nothing was validated yet. Use --checkpoint last")
        folder = run / CHECKPOINTS / _folder_name(best.step, best.epoch)
        if name == "best":
            check_weights(folder)
            return folder
        if found.try_(check_weights, folder):
            return folder
    for folder in folders:
        state = found.try_(check_weights, folder)
        if state is not None and (not found.names or state.phase == read_config(run).last_phase):
            return folder
    why = "Training has not saved one yet: continue with train --resume auto"
    if found.names:
        why = f"Damaged: {', '.join(sorted(found.names))}. Put one back from a copy, or train again"
    raise BadInputError(f"{run}: no intact checkpoint to predict with. {why}")


class _Damage:
    """Collects checkpoints that were found damaged; each is reported once. names: of their folders."""

    def __init__(self, on_damaged: OnDamaged) -> None:
        self._on_damaged = on_damaged
        self.names: set[str] = set()

    def try_(self, read: Callable[[Path], Read], folder: Path) -> Read | None:
        """Return what is read of a folder, None when it is damaged."""
        try:
            return read(folder)
        except BadInputError as error:
            if folder.name not in self.names:
                self._on_damaged(error)
            self.names.add(folder.name)
            return None


def kept_epochs(run: Path) -> dict[int, Path]:
    """Return the folders of a run that `keep_epochs`, by the epoch at whose end each was saved, in that order.

    They are found by their names alone; `find_checkpoint` checks one. Raises BadInputError for a run that keeps none.
    """
    if not read_config(run).checkpoint.keep_epochs:
        raise BadInputError(f"{run}: has no checkpoint of every epoch. Train with --set checkpoint.keep_epochs=true")
    return _ends_of_epochs(_folders(run / CHECKPOINTS))


def drop_epochs(run: Path) -> None:
    """Remove the ends of epochs that `keep_epochs` kept, except for the last checkpoint and the best."""
    if folders := _folders(run / CHECKPOINTS):
        _retain(folders[0], keep_last=1, keep_epochs=False)


def _end_of_epoch(run: Path, epoch: int) -> Path:
    folders = kept_epochs(run)
    if epoch not in folders:
        raise BadInputError(
            f"{run}: no checkpoint of epoch {epoch}; there is one of {', '.join(map(str, folders)) or 'none yet'}"
        )
    check_weights(folders[epoch])
    return folders[epoch]


def _ends_of_epochs(folders: list[Path]) -> dict[int, Path]:
    """The first of each epoch completed, where none of them was removed: others were saved in the midst of the next."""
    first = {epoch: folder for folder in folders for _, epoch in [_place(folder)] if epoch > 0}  # from newest to oldest
    return dict(sorted(first.items()))


def _folder_name(step: int, epoch: int) -> str:
    return f"step-{step:08d}-epoch-{epoch:03d}"


def _place(folder: Path) -> tuple[int, int]:
    """Where in the run a checkpoint was saved, by its name; (-1, -1) if it is not the name of one."""
    found = _FOLDER_NAME.fullmatch(folder.name)
    return (int(found[1]), int(found[2])) if found else (-1, -1)


def _folders(parent: Path) -> list[Path]:
    """Folders with the name of a checkpoint, newest first."""
    if not parent.is_dir():
        return []
    return sorted((f for f in parent.iterdir() if _FOLDER_NAME.fullmatch(f.name)), key=_place, reverse=True)


def _is_whole(folder: Path) -> bool:
    try:
        check_folder(folder)
    except BadInputError:
        return False
    return True


def _retain(saved: Path, keep_last: int, *, keep_epochs: bool) -> None:
    """Remove what is not needed any more, now that `saved` is whole.

    Stay: the last `keep_last` up to `saved`, and the best that each of them names; the ends of epochs where wanted.
    Checkpoints later than `saved` were passed over when the run was resumed, so they are damaged. Temporary folders of
    processes that no longer run are removed.
    """
    so_far = [folder for folder in _folders(saved.parent) if _place(folder) <= _place(saved)]
    kept = so_far[:keep_last]
    names = {folder.name for folder in kept} | {name for folder in kept if (name := _name_of_best(folder))}
    if keep_epochs:
        names |= {folder.name for folder in _ends_of_epochs(so_far).values()}
    for folder in _folders(saved.parent):
        if folder.name not in names:
            with suppress(OSError):  # the next time, then
                remove_folder(folder)
    for leftover in saved.parent.iterdir():
        found = _TEMPORARY_NAME.fullmatch(leftover.name)
        if found and not _is_alive(int(found[1])):
            shutil.rmtree(leftover, ignore_errors=True)


def _name_of_best(folder: Path) -> str | None:
    try:
        best = describe(folder).state.best
    except BadInputError:
        return None
    return _folder_name(best.step, best.epoch) if best else None


def _is_alive(process: int) -> bool:
    if process == os.getpid():  # what has our number is of a dead one: we are done
        return False
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
