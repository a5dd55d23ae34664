"""Imports weights files in the published solution's layout as weights of this project's models.

Pickles are opened in a separate process only (unpickling.py), whose output is checked like any foreign file.
"""

import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from rsna_e2e.config import ModelConfig, make_config
from rsna_e2e.core.errors import BadInputError, OutOfResourcesError
from rsna_e2e.core.files import atomic_writer
from rsna_e2e.core.records import printable
from rsna_e2e.core.weights_file import copy_into, decode, encode, read_file
from rsna_e2e.model import unpickling
from rsna_e2e.model.network import JointModel
from rsna_e2e.tasks.task import Task

Kind = Literal["images", "sequences"]

PUBLISHED_BACKBONE = "resnext101_32x8d"  # of darraghdog/rsna, trainorig.py
DATA_PARALLEL = "module."  # what torch.nn.DataParallel puts before every name
# The published names to ours; the first prefix that fits. torchvision's ResNets and timm's have the same names.
PREFIXES: dict[Kind, dict[str, str]] = {
    "images": {"fc.": "slice_classifier.", "": "backbone."},
    "sequences": {"": "head."},
}
CLASSIFIER: dict[Kind, str] = {"images": "fc.weight", "sequences": "linear.weight"}
EXPECTED: dict[Kind, str] = {
    "images": "the names of torchvision's ResNets: conv1, bn1, layer1 to layer4, fc",
    "sequences": "the names of the published head: lstm1, lstm2, linear1, linear2, linear",
}
TIME_LIMIT_S = 2 * unpickling.CPU_TIME_S
SAID = 4000  # bytes of a failed process's last output, for the message
_HINT = (
    "Only a state_dict of tensors is read, because loading anything else runs code from the file. Where you trust it: "
    "torch.save(model.state_dict(), NEW_FILE)"
)


@dataclass(frozen=True, slots=True)
class ImportedWeights:
    """Summary of an imported file. width: features of the backbone, or of the embeddings that the head takes."""

    n_tensors: int
    n_labels: int
    width: int


def import_weights(
    source: Path, out: Path, *, kind: Kind, task: Task, backbone: str = PUBLISHED_BACKBONE
) -> ImportedWeights:
    """Write a file of foreign weights as `out`, safetensors that `train --init-from` takes.

    images: a classifier of single images with torchvision's names, for a model of `backbone` without a head;
    sequences: the recurrent head, for a model without a backbone. Raises BadInputError when the file is not a plain
    state_dict or does not fit, OutOfResourcesError when reading it takes more than a file of its size may.
    """
    tensors = _without_parallel(read_foreign(source, scratch=out.parent))
    classifier = tensors.get(CLASSIFIER[kind])
    if classifier is None or classifier.ndim != 2:
        first = ", ".join(sorted(tensors)[:3])
        raise BadInputError(
            f"{source}: --kind {kind} expects {EXPECTED[kind]}, but it has no matrix {CLASSIFIER[kind]}; "
            f"its first tensors are {printable(first)}"
        )
    n_labels, width = len(task.slices.names), classifier.shape[1]
    if kind == "images":
        values = {"backbone": backbone, "head": "none", "slice_loss_weight": 1.0}
        config = make_config(ModelConfig, values, name="the model of images")
        model = JointModel.for_task(config, task)
    else:
        width //= 2  # both directions
        model = JointModel(ModelConfig(backbone="none"), n_channels=width, n_labels=n_labels)
    copy_into(model, {_renamed(name, kind): tensor for name, tensor in tensors.items()}, path=source)
    with atomic_writer(out) as file:
        file.write(encode(model.state_dict()))
    return ImportedWeights(n_tensors=len(tensors), n_labels=n_labels, width=width)


def read_foreign(path: Path, *, scratch: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a safetensors file or of a pickled state_dict. scratch: a folder for a copy of it.

    Raises BadInputError and OutOfResourcesError naming the file.
    """
    if not path.is_file():
        raise BadInputError(f"{path}: no such file. Give a .pth, .bin or .safetensors file of weights")
    with path.open("rb") as file:
        is_safetensors = file.read(9)[8:] == b"{"  # the header's length, then JSON
    content = read_file(path) if is_safetensors else _unpickled(path, scratch)
    return decode(content, path=path)


def _unpickled(path: Path, scratch: Path) -> bytes:
    """Convert a pickle in a separate process to the content of a safetensors file, by way of files without a name."""
    command = [sys.executable, "-P", unpickling.__file__, str(path.resolve())]
    with tempfile.TemporaryFile(dir=scratch) as made, tempfile.TemporaryFile(dir=scratch) as said:
        try:
            code = subprocess.run(command, stdout=made, stderr=said, timeout=TIME_LIMIT_S, check=False).returncode
        except subprocess.TimeoutExpired:
            raise OutOfResourcesError(f"{path}: not read within {TIME_LIMIT_S} s") from None
        if code != 0:
            said.seek(max(0, said.seek(0, 2) - SAID))
            raise _refusal(path, code, said.read().decode(errors="replace"))
        made.seek(0)
        return made.read()


def _refusal(path: Path, code: int, said: str) -> BadInputError | OutOfResourcesError:
    if code < 0 or re.search("MemoryError|allocate memory|bad_alloc|File too large", said):
        return OutOfResourcesError(f"{path}: reading it takes far more memory than a file of its size should need")
    what = re.search(r"GLOBAL (\S+) was not an allowed global", said)
    if what is not None:
        return BadInputError(f"{path}: asks for {printable(what[1])}. {_HINT}")
    last = said.strip().splitlines()[-1] if said.strip() else f"exit code {code}"
    reason = "not a file that torch.save wrote" if "Weights only load failed" in said else printable(last)[:200]
    return BadInputError(f"{path}: cannot be read: {reason}. {_HINT}")


def _without_parallel(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    if not all(name.startswith(DATA_PARALLEL) for name in tensors):
        return tensors
    return {name.removeprefix(DATA_PARALLEL): tensor for name, tensor in tensors.items()}


def _renamed(name: str, kind: Kind) -> str:
    before, after = next(item for item in PREFIXES[kind].items() if name.startswith(item[0]))
    return after + name.removeprefix(before)
