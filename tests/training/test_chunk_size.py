import pytest
import small
import torch
from torch import nn

from rsna_e2e.core.device import Compute
from rsna_e2e.core.errors import OutOfResourcesError
from rsna_e2e.model.network import JointModel
from rsna_e2e.model.norms import running_norms
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.training import chunk_size
from rsna_e2e.training.chunk_size import count_fitting, extrapolate, reserved_bytes, resolve_chunks
from rsna_e2e.training.distributed import Ranks

CPU = torch.device("cpu")
FP32 = Compute(CPU, None)
SLICE_PHASE = "slice_phase={epochs: 1, optimizer: {learning_rate: 0.01}}"


def test_slices_that_fit_by_hand() -> None:
    # 2 slices need 100 + 2 * 50, 4 need 100 + 4 * 50: beside the 100, 900 bytes hold 18
    assert extrapolate(200, 300, free=1000) == 18
    assert extrapolate(200, 300, free=149) == 0
    assert extrapolate(200, 300, free=-5) == 0


def test_kept_activations_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    # a linear layer keeps its input, ReLU its output: 4 + 8 floats a slice, and the weights; all of it twice
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU())
    monkeypatch.setattr(chunk_size, "free_bytes", lambda device: 10**6)
    n_parameters = 4 * 8 + 8
    kept_once = 4 * 8 * 4  # the weight, which the input's gradient needs
    per_slice = 2 * 4 * (4 + 8)
    free = 10**6 - 3 * 4 * n_parameters
    n_fit = count_fitting(net, lambda n: net(torch.zeros(n, 4, requires_grad=True)), CPU, reserved=3 * 4 * n_parameters)
    assert n_fit == (free - 2 * kept_once) // per_slice


def make_model(*overrides: str) -> tuple[JointModel, object]:
    config = small.config("model.batchnorm=train", *overrides)
    return JointModel(config.model, n_channels=3, n_labels=6), config


def test_measuring_leaves_the_model_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    model, config = make_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    resolved = resolve_chunks(model.eval(), config, ICH, FP32)
    assert not model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert resolved.chunk == chunk_size.LARGEST_CHUNK
    assert resolved.graph_slices > resolved.chunk
    monkeypatch.setattr(chunk_size, "count_fitting", lambda *arguments, **options: 7)
    assert resolve_chunks(model, config, ICH, FP32).chunk == 7


@pytest.mark.parametrize(
    ("overrides", "n_copies"),
    [((), 3), (("optimizer.name=sgd",), 2), (("ema_decay=0.9",), 4), (("optimizer.name=apex_fused_lamb",), 3)],
)
def test_what_training_keeps_by_hand(overrides: tuple[str, ...], n_copies: int) -> None:
    """Gradients, moments, the average of weights; 8 slices in each of three batches; four buckets between ranks."""
    model, config = make_model(*overrides)
    model_bytes = 4 * sum(parameter.numel() for parameter in model.parameters())
    stored = 512 * 512 * 2
    alone = n_copies * model_bytes + 3 * 8 * (stored + 1000)
    assert reserved_bytes(model, config, ranks=Ranks(), image_bytes=1000) == alone
    shared = n_copies * model_bytes + 3 * 2 * (stored + 1000) + 4 * 25 * 2**20
    assert reserved_bytes(model, config, ranks=Ranks(n_ranks=4), image_bytes=1000) == shared
    by_chunk = config.model_copy(update={"loader": config.loader.model_copy(update={"transform": "chunk"})})
    assert reserved_bytes(model, by_chunk, ranks=Ranks(), image_bytes=1000) == n_copies * model_bytes + 3 * 8 * stored


def test_the_larger_of_two_phases_counts() -> None:
    larger = SLICE_PHASE.replace("}}", ", name: adam}, slices_per_batch: 20}")
    model, config = make_model("optimizer.name=sgd", "model.slice_loss_weight=1", larger)
    model_bytes = 4 * sum(parameter.numel() for parameter in model.parameters())
    expected = 3 * model_bytes + 3 * 20 * (512 * 512 * 2 + 1000)
    assert reserved_bytes(model, config, ranks=Ranks(), image_bytes=1000) == expected


def test_numbers_that_are_given_stay() -> None:
    model, config = make_model("chunk=5", "graph_slices=9")
    assert resolve_chunks(model, config, ICH, FP32) == config
    model, config = make_model("chunk=100")
    assert resolve_chunks(model, config, ICH, FP32).chunk == 100


@pytest.mark.parametrize(
    ("overrides", "is_frozen"),
    [
        (("model.batchnorm=frozen",), True),
        (("model.batchnorm=train",), False),
        (("model.batchnorm=frozen", "model.slice_loss_weight=1", SLICE_PHASE), False),  # which trains norms
    ],
)
def test_a_step_is_measured_as_it_is_taken(
    monkeypatch: pytest.MonkeyPatch, overrides: tuple[str, ...], is_frozen: bool
) -> None:
    """Compiled where steps are, with norms frozen where all steps have them frozen."""
    seen: list[bool] = []
    model, config = make_model(*overrides, "compile=true")
    embed = model.embed

    def compiled(images: torch.Tensor) -> torch.Tensor:
        seen.append(any(norm.training for norm in running_norms(model)))
        return embed(images)

    monkeypatch.setattr(torch, "compile", lambda function: compiled if function == embed else None)
    resolve_chunks(model, config, ICH, FP32)
    assert set(seen) == {not is_frozen}
    assert model.training


def test_a_model_that_does_not_fit_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    model, config = make_model()
    monkeypatch.setattr(chunk_size, "free_bytes", lambda device: 10**5)
    with pytest.raises(OutOfResourcesError, match=r"test_resnet at 32 px: not even 2 slices fit.*Lower image\.size"):
        resolve_chunks(model, config, ICH, FP32)
