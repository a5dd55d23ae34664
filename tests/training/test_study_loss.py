"""The score of slices and series at once as a loss: against the score row by row, and through a whole model."""

# N slices, B series, M labels of series

import copy
import math
from collections.abc import Iterator, Sequence

import levels
import numpy as np
import pytest
import small
import torch
from torch import nn

from rsna_e2e.config import ModelConfig, load_config
from rsna_e2e.core.device import Compute
from rsna_e2e.core.process import in_fresh_process
from rsna_e2e.loader.batch import SeriesBatch
from rsna_e2e.model.network import JointModel
from rsna_e2e.tasks.pe import PE
from rsna_e2e.training.objectives.losses import StudyLogLoss, loss_of
from rsna_e2e.training.series_step import measure_peak
from rsna_e2e.training.step import Stepper

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
FP32, FP64 = 1e-6, 1e-12  # of a loss near 1: rounding of some hundred terms
ROUNDING = 1e-5  # ||difference|| / ||gradient|| of each tensor: the same float32 sums in another order
FLAT = 0.05
PLAIN = (
    "task=pe",
    "chunk=7",
    "graph_slices=7",
    "model.slice_loss_weight=0.5",
    "model.backbone_dropout=0.0",
    "optimizer.name=sgd",
    "optimizer.schedule=constant",
    "optimizer.warmup_fraction=0",
    "optimizer.clip_norm=null",
)

Logits = tuple[torch.Tensor, torch.Tensor]


def cross_entropy(truth: float, logit: float) -> float:
    """-ln of the probability of what is true, which is the sigmoid of the logit or of its negative."""
    return math.log1p(math.exp(-logit if truth == 1.0 else logit))


def row_by_row(batches: Sequence[SeriesBatch], logits: Sequence[Logits], *, floor: float) -> float:
    """The score of the competition, with a floor under what slices weigh."""
    total = weight = 0.0

    def add(w: float, truth: torch.Tensor, logit: torch.Tensor, is_known: torch.Tensor) -> None:
        nonlocal total, weight
        if is_known:
            total, weight = total + w * cross_entropy(float(truth), float(logit)), weight + w

    for batch, (of_slices, of_series) in zip(batches, logits, strict=True):
        start = 0
        for number, length in enumerate(batch.series_lengths.tolist()):
            rows = range(start, start + length)
            start += length
            known = [float(batch.labels[row, 0]) for row in rows if batch.label_mask[row, 0]]
            q = sum(known) / len(known) if known else 0.0
            for label, w in enumerate(PE.series.weights):
                place = number, label
                add(w, batch.series_labels[place], of_series[place], batch.series_mask[place])
            for row in rows:
                scaled = (q + floor) * PE.slices.weights[0]
                add(scaled, batch.labels[row, 0], of_slices[row, 0], batch.label_mask[row, 0])
    return total / weight


@pytest.fixture(params=[torch.float32, torch.float64], ids=["fp32", "fp64"])
def dtype(request: pytest.FixtureRequest) -> Iterator[torch.dtype]:
    """The loss computes in the type of its weights."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(request.param)
    yield request.param
    torch.set_default_dtype(before)


@pytest.mark.parametrize("floor", [0.0, 0.05])
def test_the_loss_is_the_score_over_all_accumulated_batches(dtype: torch.dtype, floor: float) -> None:
    loss = StudyLogLoss(PE, ModelConfig(backbone="none", slice_floor=floor), CPU)
    for seed in range(10):
        rng = np.random.default_rng(seed)
        lengths = rng.integers(1, 40, (2, 3)).tolist()
        batches = [levels.made_up_batch(some, seed=seed, side=1, unknown=0.2) for some in lengths]
        logits = [
            tuple(torch.from_numpy(rng.normal(scale=4, size=of.shape)).to(dtype) for of in (b.labels, b.series_labels))
            for b in batches
        ]
        totals = loss.totals(batches)
        found = sum(
            loss.reported(loss.of_slices(a, batch) / totals.slices, loss.of_series(b, batch) / totals.series)[0]
            for batch, (a, b) in zip(batches, logits, strict=True)
        )
        limit = FP32 if dtype == torch.float32 else FP64
        assert float(found) == pytest.approx(row_by_row(batches, logits, floor=floor), rel=limit)


def test_the_classifier_of_single_slices_sees_all_alike() -> None:
    loss = StudyLogLoss(PE, ModelConfig(backbone="none"), CPU)
    batch = levels.made_up_batch((3, 2), seed=0, side=1)
    logits = torch.full_like(batch.labels, math.log(3))  # 3/4
    n_positive = int(batch.labels.sum())
    mean = (n_positive * math.log(4 / 3) + (5 - n_positive) * math.log(4)) / 5
    found = loss.of_single_slices(logits, batch) / loss.totals([batch]).classifier
    assert float(found) == pytest.approx(mean, rel=1e-6)


def test_slices_and_series_may_be_losses_apart() -> None:
    config = ModelConfig(backbone="none", loss="log_loss", study_loss_weight=0.5)
    loss = loss_of(PE, config, CPU)
    batch = levels.made_up_batch((3, 2), seed=0, side=1)
    totals = loss.totals([batch])
    logits = torch.full_like(batch.labels, math.log(3))  # 3/4
    n_positive = int(batch.labels.sum())
    of_slices = loss.of_slices(logits, batch) / totals.slices
    mean = (n_positive * math.log(4 / 3) + (5 - n_positive) * math.log(4)) / 5  # whatever the share of positives is
    assert float(of_slices) == pytest.approx(mean, rel=FP32)
    of_series = loss.of_series(torch.full_like(batch.series_labels, math.log(3)), batch) / totals.series
    weights = np.tile(PE.series.weights, (2, 1))
    cells = np.where(batch.series_labels.numpy() == 1, math.log(4 / 3), math.log(4))
    assert float(of_series) == pytest.approx(np.average(cells, weights=weights), rel=FP32)
    assert loss.series_factor == 0.5
    assert isinstance(loss_of(PE, ModelConfig(backbone="none"), CPU), StudyLogLoss)


class Run:
    """A small model of slices and series, its backbone in float64, where order is no matter, and its stepper."""

    def __init__(self, *overrides: str) -> None:
        self.config = small.config(*PLAIN, *overrides)
        torch.manual_seed(0)
        self.model = JointModel.for_task(self.config.model, PE)
        for module in self.model.backbone.double().modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.ones_(module.weight)  # timm starts some at 0, which stops gradients
        self.step = Stepper(
            *(self.model, self.config.optimizer, self.config, PE, Compute(CPU, None)), n_steps=100, is_joint=True
        )

    def batch(self, lengths: Sequence[int], *, seed: int = 0, unknown: float = 0.0) -> SeriesBatch:
        batch = levels.made_up_batch(lengths, seed=seed, chunk=self.config.chunk, unknown=unknown)
        object.__setattr__(batch, "images", batch.images.double())
        return batch


def assert_same_gradients(one: nn.Module, other: nn.Module) -> None:
    for (name, a), b in zip(one.named_parameters(), other.parameters(), strict=True):
        assert b.grad is not None, name
        assert b.grad.norm() > 0, name
        assert float((a.grad - b.grad).norm() / b.grad.norm()) <= ROUNDING, name


def in_one_graph(run: Run, batch: SeriesBatch) -> nn.Module:
    """The gradients of a forward pass over all slices together, of losses written out once more."""
    model = copy.deepcopy(run.model)
    model.zero_grad()
    model.train()
    model.backbone.eval()  # as frozen norms
    embeddings = model.embed(batch.images[:])
    single, logits = model.classify_slices(embeddings), model.classify(embeddings, batch.series_lengths)
    losses = nn.functional.binary_cross_entropy_with_logits
    shares = [part.mean().expand(len(part)) for part in batch.labels[:, 0].split(batch.series_lengths.tolist())]
    scale = PE.slices.weights[0] * (torch.cat(shares) + run.config.model.slice_floor)
    weights = torch.tensor(PE.series.weights).expand_as(batch.series_labels)
    of_slices = (losses(logits.slices, batch.labels, reduction="none")[:, 0] * scale).sum()
    of_series = (losses(logits.series, batch.series_labels, reduction="none") * weights).sum()
    total = (of_slices + of_series) / (scale.sum() + weights.sum())
    (total + run.config.model.slice_loss_weight * losses(single, batch.labels)).backward()
    return model


@pytest.mark.parametrize(
    "lengths",
    [(3, 31), *(pytest.param((n,), marks=pytest.mark.slow) for n in (100, 300, 400))],
    ids=str,
)
def test_gradients_in_chunks_are_those_of_one_graph(lengths: tuple[int, ...]) -> None:
    run = Run()
    batch = run.batch(lengths, seed=5)
    expected = in_one_graph(run, batch)
    run.step(0, [batch])
    assert len(batch.chunks) >= 5
    assert_same_gradients(run.model, expected)


def test_two_exams_at_once_are_two_that_are_accumulated() -> None:
    at_once, accumulated = Run(), Run()
    whole = at_once.batch((6, 11), unknown=0.2)
    parts = [levels.part(whole, 0), levels.part(whole, 1)]
    together, one_by_one = at_once.step(0, [whole]), accumulated.step(0, parts)
    assert one_by_one.loss == pytest.approx(together.loss, rel=FP32)
    assert one_by_one.series_loss == pytest.approx(together.series_loss, rel=FP32)
    assert_same_gradients(accumulated.model, at_once.model)


def test_an_exam_without_labels_leaves_no_trace() -> None:
    alone, beside = Run(), Run()
    whole = beside.batch((6, 11))
    whole.label_mask[6:] = False
    whole.series_mask[1] = False
    expected, found = alone.step(0, [levels.part(whole, 0)]), beside.step(0, [whole])
    assert found.loss == pytest.approx(expected.loss, rel=FP32)
    assert_same_gradients(beside.model, alone.model)
    nothing = Run("optimizer.weight_decay=0")
    result = nothing.step(0, [levels.part(whole, 1)])
    assert (result.loss, result.series_loss, result.gradient_norm) == (0.0, 0.0, 0.0)


def test_the_head_of_slices_may_rest() -> None:
    run = Run("model.sequence_loss_weight=0", "model.study_loss_weight=1")
    result = run.step(0, [run.batch((6, 11))])
    assert not run.model.head.linear.weight.grad.any()
    assert run.model.study_head.linear.weight.grad.any()
    assert 0 < result.series_loss < result.loss  # what is reported is the score


class KeptActivations:
    """Counts the bytes of images and maps of them that are kept for the backward pass, while it is entered."""

    def __init__(self) -> None:
        self.now = self.peak = 0
        self._hooks = torch.autograd.graph.saved_tensors_hooks(
            lambda tensor: Kept(tensor, self), lambda kept: kept.value
        )

    def __enter__(self) -> "KeptActivations":
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._hooks.__exit__(*error)


class Kept:
    """A tensor that a graph keeps; it counts until the graph lets go of it."""

    def __init__(self, value: torch.Tensor, counted: KeptActivations) -> None:
        self.value, self._counted = value, counted
        self._n_bytes = 0 if value.ndim != 4 or isinstance(value, nn.Parameter) else value.nbytes
        counted.now += self._n_bytes
        counted.peak = max(counted.peak, counted.now)

    def __del__(self) -> None:
        self._counted.now -= self._n_bytes


def test_as_many_activations_are_kept_of_400_slices_as_of_100() -> None:
    run = Run()
    peaks = []
    for length in (7, 100, 400):
        batch = run.batch((length,))
        with KeptActivations() as kept:
            run.step(0, [batch])
        assert kept.now == 0
        peaks.append(kept.peak)
    assert peaks[0] == peaks[1] == peaks[2] > 7 * batch.images[0].nbytes  # those of a chunk of 7 slices


@pytest.mark.slow
def test_the_memory_of_a_step_is_no_more_at_400_slices_than_at_100() -> None:
    """Without what heads and inputs take. Those alone hold their graph at the peak, of which a step lets go before its
    chunks need theirs; so the difference may fall with the length."""
    overrides = ("task=pe", "image.size=192", "chunk=10", "graph_slices=10", "precision=fp32")
    config = load_config("demo", overrides)
    short, long = (
        in_fresh_process(measure_peak, config, "cpu", n, is_whole=True)
        - in_fresh_process(measure_peak, config, "cpu", n, is_whole=False)
        for n in (100, 400)
    )
    assert short > 50  # MiB: there is something to compare
    assert long <= (1 + FLAT) * short, (short, long)
