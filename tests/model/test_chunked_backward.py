"""Chunked backprop against one big graph.

Two graphs to compare with. One over the same chunks, with every graph kept until one backward pass: the definition,
which must agree to the bit, in any precision. And one over the whole batch, where BatchNorm uses running statistics,
which agrees to rounding. Most of that is the whole batch's own: oneDNN sums a filter's gradient over all pixels of all
images in one chain for each thread, so that 32 images of 64 px in float32 are 1.4e-6 (two threads) to 3e-6 (one) from
float64, and chunks of 1 to 7 slices 0.3e-6 to 0.7e-6. And where rounding carries a value over the kink of a ReLU or
turns a maximum, gradients jump by 1e-3. Hence matrix products, image by image, and a smooth network for that test.
"""

# N slices (packed), D embedding width

import copy
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import pytest
import timm
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, interpolate

from rsna_e2e.loader.division import Chunk, Division
from rsna_e2e.model.chunked_backward import Backward, backward_in_chunks, derive_seed
from rsna_e2e.model.heads import SequenceHead
from rsna_e2e.model.losses import weighted_bce
from rsna_e2e.model.slice_dropout import SliceKeys, drop_by_slice, slice_keys

LENGTHS = (19, 1, 12)
N = sum(LENGTHS)
SIDE = 32
SEED, STEP = 5, 7
ROWS = torch.arange(100, 100 + N)  # where the slices are stored
FP32, FP64 = 1e-6, 1e-12  # ||difference|| / ||gradient|| of each tensor
HALF = 1.5  # times the error of one graph in the same precision

Loss = Callable[[torch.Tensor], torch.Tensor]


class Joint(nn.Module):
    """A CNN with BatchNorm, dropout and drop-path, and the recurrent head with dropout before it.

    smooth: without kinks, so that gradients are continuous.
    """

    def __init__(self, backbone: str, *, dropout: float, smooth: bool) -> None:
        super().__init__()
        self.backbone = timm.create_model(
            backbone,
            num_classes=0,
            drop_rate=dropout,
            drop_path_rate=dropout,
            act_layer=nn.SiLU if smooth else nn.ReLU,
        )
        if smooth:
            self.backbone.maxpool = nn.AvgPool2d(3, 2, 1)
        self.keys = SliceKeys()
        drop_by_slice(self.backbone, self.keys)
        self.dropout = nn.Dropout(dropout)
        self.head = SequenceHead(self.backbone.num_features, 2)

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        return self.backbone(images)

    def embed_chunk(self, images: torch.Tensor, chunk: Chunk, *, step: int = STEP) -> torch.Tensor:
        with self.keys.of(slice_keys(derive_seed(SEED, step), ROWS[chunk.rows])):
            return self.embed(images)

    def loss(self, embeddings: torch.Tensor) -> torch.Tensor:
        logits = self.head(self.dropout(embeddings), torch.tensor(LENGTHS))
        truth = (torch.arange(logits.numel()) % 7 == 0).reshape(logits.shape).to(logits.dtype)
        return binary_cross_entropy_with_logits(logits, truth)


def make(
    dtype: torch.dtype,
    *,
    backbone: str = "test_resnet",
    dropout: float = 0.0,
    train: bool = False,
    smooth: bool = True,
) -> tuple[Joint, torch.Tensor]:
    """The same float32 weights and images in every dtype: a few soft blots and noise."""
    torch.manual_seed(0)
    model = Joint(backbone, dropout=dropout, smooth=smooth)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):  # as after some training
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)  # timm starts some at 0, which stops gradients
            nn.init.normal_(module.bias, 0.0, 0.1)
    side = 64 if train else SIDE  # BatchNorm in train mode needs two pixels of the single slice after all strides
    blots = interpolate(1.0 + 0.3 * torch.randn(N, 3, 4, 4), size=side, mode="bilinear")
    images = blots + 0.1 * torch.randn(N, 3, side, side)
    return model.to(dtype).train(train), images.to(dtype)


def in_chunks(
    model: Joint, images: torch.Tensor, size: int, *, graph_slices: int = 1, step: int = STEP, loss: Loss | None = None
) -> Backward:
    return backward_in_chunks(
        *(model, partial(model.embed_chunk, step=step), images, chunks_of(size), loss or model.loss),
        seed=derive_seed(SEED, step),
        graph_slices=graph_slices,
    )


def chunks_of(size: int) -> tuple[Chunk, ...]:
    return Division(chunk_size=size, keeps_series=True).chunks(LENGTHS)


def in_one_graph(model: Joint, images: torch.Tensor, chunks: Sequence[Chunk]) -> torch.Tensor:
    """The definition: every chunk's forward pass, seeded, with all graphs kept until the backward pass."""
    parts = []
    for chunk in chunks:
        torch.manual_seed(derive_seed(derive_seed(SEED, STEP), chunk.start))
        parts.append(model.embed_chunk(images[chunk.rows], chunk))
    torch.manual_seed(derive_seed(derive_seed(SEED, STEP), "head"))
    value = model.loss(torch.cat(parts))
    value.backward()
    return value.detach()


def errors(model: nn.Module, expected: nn.Module) -> dict[str, float]:
    """||difference|| / ||gradient|| of each tensor."""
    pairs = zip(model.named_parameters(), expected.parameters(), strict=True)
    return {name: float((p.grad - e.grad.to(p.grad)).norm() / e.grad.norm()) for (name, p), e in pairs}


def assert_gradients_near(model: nn.Module, expected: nn.Module, limit: float) -> None:
    far = {name: f"{error:.2e}" for name, error in errors(model, expected).items() if not error <= limit}
    assert not far


def assert_same_bits(model: nn.Module, expected: nn.Module) -> None:
    for (name, parameter), other in zip(model.named_parameters(), expected.parameters(), strict=True):
        assert torch.equal(parameter.grad, other.grad), name
    for (name, buffer), other in zip(model.named_buffers(), expected.buffers(), strict=True):
        assert torch.equal(buffer, other), name


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """With two, one and the same graph does not always give the same bits."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


@pytest.fixture
def plain_convolutions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)


@pytest.mark.usefixtures("plain_convolutions")
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, FP32), (torch.float64, FP64)], ids=["fp32", "fp64"])
@pytest.mark.parametrize("size", [1, 7, 16, N])
def test_gradients_are_those_of_one_graph_over_the_batch(dtype: torch.dtype, limit: float, size: int) -> None:
    model, images = make(dtype)
    whole = copy.deepcopy(model)
    expected = whole.loss(whole.embed(images))
    expected.backward()
    assert in_chunks(model, images, size).loss.item() == pytest.approx(expected.item(), rel=limit)
    assert_gradients_near(model, whole, limit)


@pytest.mark.parametrize(
    ("backbone", "size"),
    [
        ("test_resnet", 1),
        ("test_resnet", 7),
        ("resnet18", 16),
        *(
            pytest.param(name, size, marks=pytest.mark.slow)
            for name in ("resnet18", "resnext50_32x4d")
            for size in (1, 7, 16, N)
        ),
    ],
)
@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
def test_gradients_are_bit_for_bit_those_of_one_graph_over_the_chunks(backbone: str, size: int, train: bool) -> None:
    model, images = make(torch.float32, backbone=backbone, smooth=False, dropout=0.4, train=train)
    whole = copy.deepcopy(model)
    in_one_graph(whole, images, chunks_of(size))
    in_chunks(model, images, size)
    assert_same_bits(model, whole)


@pytest.mark.parametrize("size", [1, 7, 16, N])
def test_rounding_is_no_worse_than_in_one_graph(size: int) -> None:
    """Of the worst tensor, in float32 against float64, whatever convolutions this machine has."""
    exact, images = make(torch.float64)
    exact.loss(exact.embed(images)).backward()
    whole, images = make(torch.float32)
    whole.loss(whole.embed(images)).backward()
    model, _ = make(torch.float32)
    in_chunks(model, images, size)
    assert max(errors(model, exact).values()) <= max(errors(whole, exact).values())


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("size", [5, 16])
def test_batchnorm_in_train_mode_and_dropout_follow_the_definition_by_chunk(size: int, dropout: float) -> None:
    model, images = make(torch.float64, dropout=dropout, train=True)
    kept = copy.deepcopy(model)
    expected = in_one_graph(kept, images, chunks_of(size))
    found = in_chunks(model, images, size)
    assert found.loss.item() == pytest.approx(expected.item(), rel=FP64)
    assert found.recompute_error == 0
    assert_gradients_near(model, kept, FP64)
    for (name, buffer), other in zip(model.named_buffers(), kept.buffers(), strict=True):
        torch.testing.assert_close(buffer, other, rtol=FP64, atol=FP64, msg=name)


def test_masks_depend_on_seed_step_and_slice_alone() -> None:
    model, images = make(torch.float64, dropout=0.4, train=True)
    torch.manual_seed(1)
    first = in_chunks(model, images, 7).loss
    torch.manual_seed(2)
    assert in_chunks(copy.deepcopy(model), images, 7).loss == first
    assert in_chunks(model, images, 7, step=STEP + 1).loss != first


@pytest.mark.parametrize("graph_slices", [7, 12, 14, 20, N - 1, N, 10 * N])
def test_how_many_graphs_are_kept_changes_no_bit(graph_slices: int) -> None:
    model, images = make(torch.float32, dropout=0.4, train=True)
    least = copy.deepcopy(model)
    in_chunks(least, images, 7, graph_slices=1)
    in_chunks(model, images, 7, graph_slices=graph_slices)
    assert_same_bits(model, least)


def test_gradients_add_up_over_calls() -> None:
    model, images = make(torch.float64)
    in_chunks(model, images, 7)
    once = [parameter.grad.clone() for parameter in model.parameters()]
    in_chunks(model, images, 7)
    for gradient, parameter in zip(once, model.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, 2 * gradient, rtol=FP64, atol=FP64)


def masked_loss(model: Joint, known: Sequence[bool]) -> Loss:
    """The training loss where only the series with `known` have labels."""
    mask = torch.repeat_interleave(torch.tensor(known), torch.tensor(LENGTHS))[:, None].expand(N, 2)
    labels = torch.where(mask, 1.0, torch.nan)

    def loss(embeddings: torch.Tensor) -> torch.Tensor:
        logits = model.head(embeddings, torch.tensor(LENGTHS))
        total, _ = weighted_bce(logits, labels, mask, label_weights_L=torch.tensor([1.0, 2.0]))
        return total / N

    return loss


def test_a_batch_without_any_label_has_exactly_zero_gradients() -> None:
    model, images = make(torch.float32)
    in_chunks(model, images, 7, loss=masked_loss(model, (False, False, False)))
    assert all(int(parameter.grad.count_nonzero()) == 0 for parameter in model.parameters())


def test_a_series_without_labels_leaves_no_trace_in_the_gradients() -> None:
    model, images = make(torch.float32)
    other = copy.deepcopy(model)
    in_chunks(model, images, 7, loss=masked_loss(model, (True, False, False)))
    assert all(int(parameter.grad.count_nonzero()) > 0 for parameter in model.parameters())
    images[LENGTHS[0] :] = torch.randn(N - LENGTHS[0], 3, SIDE, SIDE)
    in_chunks(other, images, 7, loss=masked_loss(other, (True, False, False)))
    assert_same_bits(model, other)


def test_a_frozen_backbone_is_embedded_once_and_its_head_learns() -> None:
    model, images = make(torch.float64)
    model.backbone.requires_grad_(False)
    whole = copy.deepcopy(model)
    whole.loss(whole.embed(images)).backward()
    embed, calls = model.embed, []

    def counted(images: torch.Tensor) -> torch.Tensor:
        calls.append(len(images))
        return embed(images)

    model.embed = counted  # type: ignore[method-assign]
    found = in_chunks(model, images, 16)
    assert calls == [9, 10, 1, 12]
    assert found.recompute_error == 0
    assert all(parameter.grad is None for parameter in model.backbone.parameters())
    assert_gradients_near(model.head, whole.head, FP64)


@pytest.mark.parametrize(
    ("dtype", "scale", "size"),
    [(torch.bfloat16, 1.0, 1), (torch.bfloat16, 1.0, 7), (torch.bfloat16, 1.0, N), (torch.float16, 2.0**10, 7)],
    ids=["bf16-1", "bf16-7", "bf16-32", "fp16-7"],
)
def test_half_precision_is_no_worse_than_in_one_graph(dtype: torch.dtype, scale: float, size: int) -> None:
    """Error of all gradients together against float64, under autocast, with the loss scaled."""
    exact, images = make(torch.float64)
    exact.loss(exact.embed(images)).backward()

    def error(run: Callable[[Joint, torch.Tensor], object]) -> float:
        model, half_images = make(torch.float32)

        def embed(images: torch.Tensor) -> torch.Tensor:
            with torch.autocast("cpu", dtype=dtype):
                return Joint.embed(model, images).float()

        model.embed = embed  # type: ignore[method-assign]
        run(model, half_images)
        pairs = zip(model.parameters(), exact.parameters(), strict=True)
        return sum(float((p.grad.double() / scale - e.grad).square().sum()) for p, e in pairs) ** 0.5

    whole = error(lambda model, images: (model.loss(model.embed(images)) * scale).backward())
    found = error(lambda model, images: in_chunks(model, images, size, loss=lambda e: model.loss(e) * scale))
    assert found <= HALF * whole
