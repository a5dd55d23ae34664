"""One checkpoint: a folder that is written atomically and checked against its checksums whenever it is read."""

import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch

from rsna_e2e.core.errors import BadInputError
from rsna_e2e.core.files import full_disk_named, make_folder, sha256_of, sync
from rsna_e2e.core.weights_file import decode, encode, read_file
from rsna_e2e.training.checkpoint import state
from rsna_e2e.training.checkpoint.state import CheckpointState, Description, FileName, Scalars, damaged, describe

MODEL: FileName = "model.safetensors"
OPTIMIZER: FileName = "optimizer.safetensors"
EMA: FileName = "ema.safetensors"

Tensors = Mapping[str, torch.Tensor]


def write_folder(
    folder: Path, current: CheckpointState, *, tensors: Mapping[FileName, Tensors], optimizer_groups: Scalars
) -> None:
    """Write `folder` under a temporary name, wait until it is on the disk, and rename it.

    Something damaged of that name gives way. Raises OutOfResourcesError when the disk is full, BadInputError when
    nothing can be written there; no part of it stays.
    """
    needed = sum(tensor.nbytes for file in tensors.values() for tensor in file.values())
    temporary = temporary_name(folder)
    with _named(folder, needed=needed):
        make_folder(folder.parent)
        sync(folder.parent.parent)
        shutil.rmtree(temporary, ignore_errors=True)  # of a dead process with our number
        try:
            temporary.mkdir()
            digests: dict[FileName, str] = {}
            for name, group in tensors.items():
                content = encode(group)
                digests[name] = hashlib.sha256(content).hexdigest()
                _write(temporary / name, content)
            described = Description(state=current, optimizer_groups=optimizer_groups, sha256=digests)
            _write(temporary / state.NAME, state.to_json(described))
            sync(temporary)
            if folder.exists():
                remove_folder(folder)
            temporary.rename(folder)
            sync(folder.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def read_tensors(folder: Path, name: FileName, described: Description) -> dict[str, torch.Tensor]:
    """Return the tensors of one file, from the very bytes whose checksum was compared. Raises BadInputError."""
    if name not in described.sha256:
        raise BadInputError(f"{folder}: has no {name}. Give the settings that the run was started with")
    content = read_file(folder / name)
    if hashlib.sha256(content).hexdigest() != described.sha256[name]:
        raise damaged(folder / name)
    return decode(content, path=folder / name)


def predicting_file(described: Description, *, prefer_ema: bool = True) -> FileName:
    """Return which file has the weights to predict with: the moving average, where there is one and it is wanted."""
    return EMA if prefer_ema and EMA in described.sha256 else MODEL


def check_weights(folder: Path) -> CheckpointState:
    """Return the state of a checkpoint, once its metadata and the weights to predict with were verified.

    Raises BadInputError. What only a resumption needs may be damaged.
    """
    described = describe(folder)
    return _check(folder, described, [predicting_file(described)])


def check_folder(folder: Path) -> CheckpointState:
    """Return the state of a checkpoint, once every file of it was verified. Raises BadInputError."""
    described = describe(folder)
    return _check(folder, described, dict.fromkeys([MODEL, *described.sha256]))


def _check(folder: Path, described: Description, names: Iterable[FileName]) -> CheckpointState:
    for name in names:
        if name not in described.sha256:
            raise BadInputError(f"{folder}: not a checkpoint (no {name}). Use another checkpoint")
        path, digest = folder / name, described.sha256[name]
        if not path.is_file():
            raise BadInputError(f"{path}: missing from its checkpoint. Use another checkpoint")
        try:
            found = sha256_of(path)
        except OSError as error:
            raise BadInputError(f"{path}: cannot be read: {error.strerror}") from error
        if found != digest:
            raise damaged(path)
    return described.state


def remove_folder(folder: Path) -> None:
    """Remove a folder so that at no moment a part of it stands under its name."""
    doomed = temporary_name(folder.with_name(f"{folder.name}.old"))
    shutil.rmtree(doomed, ignore_errors=True)
    folder.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def temporary_name(folder: Path) -> Path:
    """The name beside `folder` under which this process works on it."""
    return folder.with_name(f"{folder.name}.tmp-{os.getpid()}")


def _write(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def _named(folder: Path, *, needed: int) -> Iterator[None]:
    full = (
        f"the disk is full; a checkpoint needs {needed:,} bytes. Free some space there and continue with --resume "
        "auto; the checkpoints before it are whole"
    )
    try:
        with full_disk_named(folder, full):
            yield
    except OSError as error:
        raise BadInputError(f"{folder}: cannot be written: {error.strerror}. Make the run folder writable") from error
