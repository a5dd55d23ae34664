"""Foreign weights: our models give the same logits, and files that would run code are refused."""

from collections import OrderedDict
from pathlib import Path

import pytest
import torch
import torchvision
from weights_files import PICKLES, pickles

from rsna_e2e.cli import main
from rsna_e2e.config import ModelConfig
from rsna_e2e.core.errors import BadInputError, OutOfResourcesError
from rsna_e2e.core.weights_file import decode, encode, load_weights
from rsna_e2e.model import import_published as module
from rsna_e2e.model.heads import SequenceHead
from rsna_e2e.model.import_published import import_weights, read_foreign
from rsna_e2e.model.network import JointModel
from rsna_e2e.model.unpickling import tensors_of
from rsna_e2e.tasks.catalogue import get_task

TASK = get_task("ich")
N_LABELS = 6


def _parallel(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """As the published solution saved its models."""
    return OrderedDict((f"module.{name}", value) for name, value in model.state_dict().items())


def _head(width: int = 4) -> SequenceHead:
    torch.manual_seed(1)
    return SequenceHead(width, N_LABELS)


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("resnet18", 64),
        pytest.param("resnext50_32x4d", 64, marks=pytest.mark.slow),
        pytest.param("resnext101_32x8d", 64, marks=pytest.mark.slow),
    ],
)
def test_a_classifier_of_torchvision_gives_the_same_logits_in_ours(name: str, side: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = torchvision.models.get_model(name, num_classes=N_LABELS)
    images = torch.randn(2, 3, side, side)
    with torch.no_grad():
        theirs(images)  # running statistics that are not 0 and 1
    torch.save(_parallel(theirs), tmp_path / "model.bin")
    out = tmp_path / "images.safetensors"
    done = import_weights(tmp_path / "model.bin", out, kind="images", task=TASK, backbone=name)
    assert done.n_tensors == len(theirs.state_dict())
    config = ModelConfig(backbone=name, head="none", slice_loss_weight=1.0)
    ours = JointModel(config, n_channels=3, n_labels=N_LABELS)
    load_weights(ours, out)  # as train --init-from does
    with torch.inference_mode():
        assert torch.equal(ours.eval()(images, torch.tensor([2])).slices, theirs.eval()(images))


@pytest.mark.parametrize(
    "kind",
    ["safetensors", "old, nested and half", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("zip", "old"))],
)
def test_the_published_head_comes_in_any_wrapping(kind: str, tmp_path: Path) -> None:
    head, file, out = _head(), tmp_path / "file", tmp_path / "head.safetensors"
    weights, is_half = _parallel(head), kind.endswith("half")
    if kind == "safetensors":
        file.write_bytes(encode(weights))
    elif is_half:
        halves = {name: value.half() for name, value in weights.items()}
        torch.save({"epoch": 3, "state_dict": halves}, file, _use_new_zipfile_serialization=False)
    else:
        torch.save(weights, file, _use_new_zipfile_serialization=kind == "zip")
    assert main(["import-weights", str(file), str(out), "--kind", "sequences"]) == 0
    ours = JointModel(ModelConfig(backbone="none"), n_channels=4, n_labels=N_LABELS)
    load_weights(ours, out)
    assert ours.head is not None
    for (name, value), expected in zip(ours.head.state_dict().items(), head.state_dict().values(), strict=True):
        assert torch.equal(value, expected.half().float() if is_half else expected), name


def test_tensors_of_one_storage_are_told_apart() -> None:
    both = torch.arange(6.0).reshape(2, 3)
    tensors = decode(encode(tensors_of({"a": both.T, "b": both[1]})), path=Path("file"))
    assert tensors["a"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert tensors["b"].tolist() == [3, 4, 5]


# One of each format that torch reads; the others are refused by their first bytes
@pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=[] if k in ("a.pt", "old.pt") else pytest.mark.slow) for k in PICKLES]
)
def test_a_pickle_that_would_run_something_is_refused_and_does_not(kind: str, tmp_path: Path) -> None:
    (tmp_path / "file.pth").write_bytes(pickles(tmp_path / "canary", tmp_path)[kind])
    with pytest.raises(BadInputError, match=r"file\.pth: .*Only a state_dict of tensors is read"):
        read_foreign(tmp_path / "file.pth", scratch=tmp_path)
    assert not (tmp_path / "canary").exists()


def test_a_whole_pickled_model_is_refused_by_its_name(tmp_path: Path) -> None:
    torch.save(_head(), tmp_path / "model.pth")
    with pytest.raises(
        BadInputError, match=r"asks for rsna_e2e\.model\.heads\.SequenceHead\. Only a state_dict .*torch\.save\("
    ):
        read_foreign(tmp_path / "model.pth", scratch=tmp_path)


@pytest.mark.parametrize(
    ("loaded", "message"),
    [
        (torch.zeros(2), "it holds a Tensor, not a state_dict"),
        ({}, "it holds a dict, not a state_dict"),
        ({"a": torch.zeros(2), "b": 3}, "b is a int, not a dense tensor"),
        ({3: torch.zeros(2)}, "3 is a Tensor, not a dense tensor"),
        ({"a": torch.zeros(2, 2).to_sparse()}, "a is a Tensor, not a dense tensor"),
        ({"a": torch.zeros(2, dtype=torch.complex64)}, "a is a Tensor, not a dense tensor of real numbers"),
    ],
)
def test_what_is_no_state_dict_is_named(loaded: object, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        tensors_of(loaded)


def test_the_reason_is_passed_on_without_control_characters(tmp_path: Path) -> None:
    torch.save({"a\033[2J": 3}, tmp_path / "file.pth")
    with pytest.raises(BadInputError, match=r"file\.pth: cannot be read: TypeError: a\\x1b\[2J is a int"):
        read_foreign(tmp_path / "file.pth", scratch=tmp_path)


def test_a_small_file_does_not_take_all_memory(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1).expand(3 << 28)}, tmp_path / "expanded.pth")  # 3 GiB of one number
    with pytest.raises(OutOfResourcesError, match=r"expanded\.pth: reading it takes far more memory"):
        read_foreign(tmp_path / "expanded.pth", scratch=tmp_path)


def test_a_process_that_takes_too_long_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(_parallel(_head()), tmp_path / "file.pth")
    monkeypatch.setattr(module, "TIME_LIMIT_S", 0.01)
    with pytest.raises(OutOfResourcesError, match=r"file\.pth: not read within 0\.01 s"):
        read_foreign(tmp_path / "file.pth", scratch=tmp_path)


def _import(tensors: dict[str, torch.Tensor], folder: Path, kind: module.Kind, backbone: str = "resnet18") -> None:
    (folder / "file").write_bytes(encode(tensors))
    import_weights(folder / "file", folder / "out", kind=kind, task=TASK, backbone=backbone)


def test_what_does_not_fit_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    head = _parallel(_head())
    with pytest.raises(
        BadInputError, match=r"--kind images expects .*torchvision.* no matrix fc\.weight; .*linear\.bias"
    ):
        _import(head, tmp_path, "images")
    images = dict(torchvision.models.resnet18(num_classes=N_LABELS).state_dict())
    with pytest.raises(BadInputError, match=r"--kind sequences expects .*lstm1.* no matrix linear\.weight"):
        _import(images, tmp_path, "sequences")
    with pytest.raises(BadInputError, match=r"backbone\.layer"):
        _import(images, tmp_path, "images", backbone="resnet34")
    with pytest.raises(BadInputError, match=r"size mismatch for head\.linear1\.weight: .*\[8, 9\].*\[8, 8\]"):
        _import(head | {"module.linear1.weight": torch.zeros(8, 9)}, tmp_path, "sequences")
    thousand = {"fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}
    with pytest.raises(BadInputError, match=r"size mismatch for slice_classifier\.weight: .*\[1000, 512\].*\[6, 512\]"):
        _import(images | thousand, tmp_path, "images")
    assert not (tmp_path / "out").exists()
    assert main(["import-weights", str(tmp_path / "none"), str(tmp_path / "out"), "--kind", "images"]) == 3
