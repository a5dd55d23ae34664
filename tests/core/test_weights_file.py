"""safetensors files from anywhere: malformed ones, and pickles in their place, are refused by name and never run."""

import os
import pickle
from pathlib import Path

import pytest
import torch
from torch import nn
from weights_files import MALFORMED, PICKLES, WHOLE, pickles

from rsna_e2e.core.errors import BadInputError
from rsna_e2e.core.weights_file import decode, encode, load_weights


def test_a_file_by_hand() -> None:
    assert decode(WHOLE, path=Path("x")) == {"a": torch.tensor([1.0])}


@pytest.mark.parametrize("kind", MALFORMED)
def test_a_malformed_file_is_named(kind: str) -> None:
    with pytest.raises(BadInputError, match=r"^dir/w\.safetensors: not a readable safetensors file"):
        decode(MALFORMED[kind], path=Path("dir/w.safetensors"))


def test_a_file_cut_anywhere_is_refused() -> None:
    content = encode({"a": torch.arange(5.0), "b": torch.ones(2, 2, dtype=torch.int64)})
    for length in range(len(content)):
        with pytest.raises(BadInputError):
            decode(content[:length], path=Path("x"))


@pytest.mark.parametrize("kind", PICKLES)
def test_a_pickle_is_refused_and_not_run(kind: str, tmp_path: Path) -> None:
    canary, path = tmp_path / "canary", tmp_path / "model.safetensors"
    path.write_bytes(pickles(canary, tmp_path)[kind])
    with pytest.raises(BadInputError, match=r"model\.safetensors: not a readable safetensors file"):
        load_weights(nn.Linear(1, 1), path)
    assert not canary.exists()


def test_the_attack_would_have_worked(tmp_path: Path) -> None:
    content = pickles(tmp_path / "canary", tmp_path)["bare"]
    pickle.loads(content)
    assert (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    ("tensors", "why"),
    [
        ({"weight": torch.ones(1, 1)}, "Missing key"),
        ({"weight": torch.ones(1, 1), "bias": torch.ones(1), "c": torch.ones(1)}, "Unexpected key"),
        ({"weight": torch.ones(1, 2), "bias": torch.ones(1)}, "size mismatch for weight"),
        ({"weight": torch.ones(1, 1, dtype=torch.int64), "bias": torch.ones(1)}, "weight is torch.int64 in the file"),
    ],
)
def test_weights_that_do_not_fit_say_why(tensors: dict[str, torch.Tensor], why: str, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(encode(tensors))
    with pytest.raises(BadInputError, match=rf"w\.safetensors: weights do not fit this model: .*{why}"):
        load_weights(nn.Linear(1, 1), path)


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "missing", "."):
        with pytest.raises(BadInputError, match="no such file"):
            load_weights(nn.Linear(1, 1), tmp_path / name)
