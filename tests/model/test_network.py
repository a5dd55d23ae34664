from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from rsna_e2e.config import ModelConfig, load_config
from rsna_e2e.core.errors import BadInputError, MissingCapabilityError, UsageError
from rsna_e2e.model.heads import SequenceHead
from rsna_e2e.model.losses import weighted_bce
from rsna_e2e.model.network import JointModel
from rsna_e2e.tasks.ich import ICH

GOLDEN = {"rtol": 0, "atol": 1e-5}  # float32 LSTM of 9 steps against the published one's output
MATES = {"rtol": 0, "atol": 1e-6}  # the same sums in another order of batching
TINY = ModelConfig(backbone="test_resnet", embedding_width=16, slice_loss_weight=0.5)


@pytest.fixture(scope="module")
def golden() -> dict[str, torch.Tensor]:
    with np.load(Path(__file__).parents[1] / "golden" / "sequence_model.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays}


@pytest.fixture(scope="module")
def head(golden: dict[str, torch.Tensor]) -> SequenceHead:
    head = SequenceHead(16, 6)
    head.load_state_dict(_weights(golden))
    return head.eval()


@pytest.fixture(scope="module")
def padded_head(golden: dict[str, torch.Tensor]) -> SequenceHead:
    head = SequenceHead(16, 6, padding="left")
    head.load_state_dict(_weights(golden))
    return head.eval()


def _weights(golden: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name[2:]: tensor for name, tensor in golden.items() if name.startswith("w.")}


def _three_series(golden: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.cat([golden[f"emb_{series}"] for series in (0, 1, 2)]), torch.tensor([5, 9, 1])


@pytest.mark.parametrize("series", [0, 1, 2])
def test_head_equals_the_published_head(head: SequenceHead, golden: dict[str, torch.Tensor], series: int) -> None:
    embeddings = golden[f"emb_{series}"]
    logits = head(embeddings, torch.tensor([len(embeddings)]))
    torch.testing.assert_close(logits, golden[f"logits_alone_{series}"], **GOLDEN)


def test_logits_do_not_depend_on_batch_mates(head: SequenceHead, golden: dict[str, torch.Tensor]) -> None:
    alone = torch.cat([head(e, torch.tensor([len(e)])) for e in (golden[f"emb_{series}"] for series in (0, 1, 2))])
    together = head(*_three_series(golden))
    torch.testing.assert_close(together, alone, **MATES)


def test_padded_on_the_left_the_head_equals_the_published_batch(
    padded_head: SequenceHead, golden: dict[str, torch.Tensor]
) -> None:
    logits = padded_head(*_three_series(golden))
    expected = torch.cat([golden[f"logits_leftpadded_batch_{series}"] for series in (0, 1, 2)])
    torch.testing.assert_close(logits, expected, **GOLDEN)
    labels = torch.cat([golden[f"labels_{series}"] for series in (0, 1, 2)])
    everything = torch.ones(labels.shape, dtype=torch.bool)
    total, weight = weighted_bce(logits, labels, everything, label_weights_L=torch.tensor(ICH.slices.weights))
    torch.testing.assert_close(total / weight, golden["loss"], **GOLDEN)


def test_padded_on_the_left_logits_depend_on_batch_mates_and_packed_they_do_not(
    head: SequenceHead, padded_head: SequenceHead, golden: dict[str, torch.Tensor]
) -> None:
    short = golden["emb_0"]
    for either in (head, padded_head):  # by itself there is nothing to pad
        torch.testing.assert_close(either(short, torch.tensor([5])), golden["logits_alone_0"], **GOLDEN)
    differences = [
        (either(*_three_series(golden))[:5] - golden["logits_alone_0"]).abs().amax(dim=1)
        for either in (head, padded_head)
    ]
    assert differences[0].max() < 1e-5
    assert differences[1].max() > 1e-3
    assert differences[1][0] > 2 * differences[1][-1]  # the padding is in front, and is forgotten on the way


def test_a_series_of_one_slice_has_logits_either_way(
    head: SequenceHead, padded_head: SequenceHead, golden: dict[str, torch.Tensor]
) -> None:
    for either in (head, padded_head):
        torch.testing.assert_close(either(golden["emb_2"], torch.tensor([1])), golden["logits_alone_2"], **GOLDEN)


def test_without_a_backbone_embeddings_go_to_the_head_as_they_are(golden: dict[str, torch.Tensor]) -> None:
    model = JointModel(ModelConfig(backbone="none", padding="left"), n_channels=16, n_labels=6)
    model.head.load_state_dict(_weights(golden))
    embeddings, lengths = _three_series(golden)
    logits = model(embeddings[:, :, None, None], lengths).slices
    expected = torch.cat([golden[f"logits_leftpadded_batch_{series}"] for series in (0, 1, 2)])
    torch.testing.assert_close(logits, expected, **GOLDEN)


def test_loss_equals_the_published_loss(golden: dict[str, torch.Tensor]) -> None:
    logits = torch.cat([golden[f"logits_leftpadded_batch_{series}"] for series in (0, 1, 2)])
    labels = torch.cat([golden[f"labels_{series}"] for series in (0, 1, 2)])
    everything = torch.ones(labels.shape, dtype=torch.bool)
    total, weight = weighted_bce(logits, labels, everything, label_weights_L=torch.tensor(ICH.slices.weights))
    torch.testing.assert_close(total / weight, golden["loss"], **GOLDEN)


def test_unknown_labels_give_exactly_no_gradient() -> None:
    logits = torch.randn(4, 6, requires_grad=True, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(4, 6, dtype=torch.bool)
    mask[1, 2] = mask[3, 5] = False
    labels = torch.zeros(4, 6)
    labels[1, 2] = torch.nan
    total, weight = weighted_bce(logits, labels, mask, label_weights_L=torch.tensor(ICH.slices.weights))
    total.backward()
    assert logits.grad is not None
    assert (logits.grad[~mask] == 0).all()
    assert (logits.grad[mask] != 0).all()
    assert weight == 4 * 7 - 1 - 2


def test_one_loss_reaches_the_first_convolution() -> None:
    torch.manual_seed(0)
    model = JointModel(TINY, n_channels=3, n_labels=6)
    model(torch.randn(5, 3, 32, 32), torch.tensor([3, 2])).slices.sum().backward()
    first = next(model.backbone.parameters())
    assert first.grad is not None
    assert first.grad.abs().max() > 0


def test_reference_backbone_has_2048_features() -> None:
    with torch.device("meta"):
        config = ModelConfig(backbone="resnext101_32x8d.fb_wsl_ig1b_ft_in1k")
        model = JointModel(config, n_channels=3, n_labels=6)
    assert model.head.lstm1.input_size == 3 * 2048
    assert model.head.linear.in_features == 4096


def test_unknown_backbone_is_named() -> None:
    with pytest.raises(UsageError, match="no backbone 'resnet19'"):
        JointModel(ModelConfig(backbone="resnet19"), n_channels=3, n_labels=6)


def test_backbone_weights_come_from_a_local_file(tmp_path: Path) -> None:
    torch.manual_seed(1)
    source = JointModel(TINY, n_channels=3, n_labels=6).backbone
    safetensors.torch.save_file({**source.state_dict(), "fc.weight": torch.zeros(2, 2)}, tmp_path / "model.safetensors")
    config = TINY.model_copy(update={"weights_file": tmp_path / "model.safetensors"})
    loaded = JointModel(config, n_channels=3, n_labels=6).backbone
    assert all(torch.equal(a, b) for a, b in zip(source.parameters(), loaded.parameters(), strict=True))


def test_weights_of_three_channels_are_added_up_for_one(tmp_path: Path) -> None:
    """A grey image gets the features that it had in three equal channels."""
    three = JointModel(TINY, n_channels=3, n_labels=6).eval()
    safetensors.torch.save_file(three.backbone.state_dict(), tmp_path / "model.safetensors")
    config = TINY.model_copy(update={"weights_file": tmp_path / "model.safetensors"})
    one = JointModel(config, n_channels=1, n_labels=6).eval()
    grey = torch.randn(2, 1, 32, 32)
    torch.testing.assert_close(one.embed(grey), three.embed(grey.expand(-1, 3, -1, -1)), **GOLDEN)


def test_a_pickled_weights_file_is_refused_and_not_run(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    torch.save({"a": torch.zeros(1)}, path)
    with pytest.raises(BadInputError, match=r"model\.pth: not a readable safetensors file"):
        JointModel(TINY.model_copy(update={"weights_file": path}), n_channels=3, n_labels=6)


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    safetensors.torch.save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(BadInputError, match=r"other\.safetensors: weights do not fit this model"):
        JointModel(TINY.model_copy(update={"weights_file": path}), n_channels=3, n_labels=6)


def test_weights_that_cannot_be_downloaded_say_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    config = ModelConfig(backbone="resnext101_32x8d.fb_wsl_ig1b_ft_in1k", pretrained=True)
    with pytest.raises(MissingCapabilityError, match=r"--set model\.weights_file=FILE"):
        JointModel(config, n_channels=3, n_labels=6)


def test_dropout_of_features_has_one_setting() -> None:
    with pytest.raises(UsageError, match=r"instead of drop_rate, set model\.backbone_dropout"):
        load_config("demo", ["model.backbone_arguments={drop_rate: 0.5}"])


def test_the_series_head_is_set_and_saved_under_the_names_of_earlier_runs() -> None:
    model = JointModel(ModelConfig(backbone="none", study_loss_weight=0.5), n_channels=4, n_labels=6)
    saved = {name: list(tensor.shape) for name, tensor in model.state_dict().items() if not name.startswith("head.")}
    assert saved == {"study_head.linear.weight": [6, 16], "study_head.linear.bias": [6]}  # maximum and mean, 8 each
