"""Steps of training: what they are normalised by, what they skip, and that chunks change nothing."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
import small
import torch

from rsna_e2e.config import RunConfig
from rsna_e2e.core.device import Compute
from rsna_e2e.loader.batch import SeriesBatch
from rsna_e2e.loader.division import Division
from rsna_e2e.loader.image_loader import ImageLoader
from rsna_e2e.model.network import JointModel
from rsna_e2e.store import Store
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.training.step import Stepper, StepResult

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
FP32 = Compute(CPU, None)
ORDER = {"rtol": 0, "atol": 1e-6}  # the same float32 sums in another order
PLAIN = (
    "chunk=64",
    "graph_slices=999",
    "model.batchnorm=frozen",
    "model.study_loss_weight=0.5",
    "optimizer.name=sgd",  # Adam divides by the size of a gradient, and so magnifies the rounding of a small one
    "optimizer.learning_rate=0.1",
    "optimizer.schedule=constant",
    "optimizer.warmup_fraction=0",
    "loader.backend=torch",
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return small.make_store(tmp_path_factory.mktemp("steps"))


def batches_of(store: Store, config: RunConfig, groups: Sequence[tuple[int, ...]]) -> list[SeriesBatch]:
    division = Division(chunk_size=config.chunk, keeps_series=config.model.batchnorm == "train")
    return list(ImageLoader(store, config, task=ICH, device=CPU, division=division).load(groups, epoch=1))


class Run:
    """A model and its stepper."""

    def __init__(self, *overrides: str, compute: Compute = FP32, is_joint: bool = True) -> None:
        self.config = small.config(*PLAIN, *overrides)
        torch.manual_seed(0)
        self.model = JointModel(self.config.model, n_channels=3, n_labels=6)
        self.step = Stepper(
            self.model, self.config.optimizer, self.config, ICH, compute, n_steps=100, is_joint=is_joint
        )

    def steps(self, batches: Sequence[Sequence[SeriesBatch]]) -> list[StepResult]:
        return [self.step(number, some) for number, some in enumerate(batches)]


def weights_of(model: torch.nn.Module) -> Iterator[torch.Tensor]:
    return iter(copy.deepcopy(model.state_dict()).values())


def assert_close(left: torch.nn.Module, right: torch.nn.Module) -> None:
    for (name, a), b in zip(left.state_dict().items(), right.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, **ORDER, msg=name)


def poisoned(batch: SeriesBatch) -> SeriesBatch:
    images = batch.images[:].clone()
    images[0, 0, 0, 0] = torch.nan
    return replace(batch, images=images)


@pytest.mark.parametrize("chunk", [1, 2, 5])
def test_steps_do_not_depend_on_chunks_with_frozen_norms(store: Store, chunk: int) -> None:
    whole, parts = Run(), Run(f"chunk={chunk}", f"graph_slices={chunk}")
    groups = [batches_of(store, run.config, [(0, 1), (2, 3), (4, 5)]) for run in (parts, whole)]
    results, wholes = (run.steps([[b] for b in some]) for run, some in zip((parts, whole), groups, strict=True))
    for result, expected in zip(results, wholes, strict=True):
        assert result.loss == pytest.approx(expected.loss, abs=1e-6)
        assert result.series_loss == pytest.approx(expected.series_loss, abs=1e-6)
        assert result.gradient_norm == pytest.approx(expected.gradient_norm, rel=1e-5)
    assert_close(parts.model, whole.model)


def test_the_schedule_begins_with_its_phase(store: Store) -> None:
    run = Run("optimizer.schedule=cosine")
    late = Stepper(run.model, run.config.optimizer, run.config, ICH, FP32, n_steps=4, is_joint=True, first_step=10)
    (batch,) = batches_of(store, run.config, [(0,)])
    rates = [late(step, [batch]).learning_rate for step in (10, 11, 12, 13)]
    # half a cosine over four steps: (1 + cos(k * 45 degrees)) / 2
    assert rates == pytest.approx([0.1, 0.0853553, 0.05, 0.0146447], rel=1e-5)


def test_accumulated_batches_are_one_large_batch(store: Store) -> None:
    accumulated, at_once = Run(), Run()
    parts = batches_of(store, at_once.config, [(0,), (1, 2), (3,)])
    (whole,) = batches_of(store, at_once.config, [(0, 1, 2, 3)])
    assert accumulated.step(0, parts).loss == pytest.approx(at_once.step(0, [whole]).loss, abs=1e-6)
    assert_close(accumulated.model, at_once.model)


def test_gradients_are_scaled_where_a_norm_is_given_and_not_touched_elsewhere(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    free, clipped = Run("optimizer.clip_norm=null"), Run("optimizer.clip_norm=0.25")
    (batch,) = batches_of(store, free.config, [(0, 1)])
    norm = clipped.step(0, [batch]).gradient_norm
    monkeypatch.setattr(torch.nn.utils, "clip_grads_with_norm_", None)
    assert free.step(0, [batch]).gradient_norm == norm > 0.25
    for whole, part in zip(free.model.parameters(), clipped.model.parameters(), strict=True):
        torch.testing.assert_close(part.grad, whole.grad * 0.25 / norm, rtol=1e-5, atol=1e-9)


def test_a_poisoned_step_is_skipped_and_changes_nothing(store: Store) -> None:
    run = Run("model.batchnorm=train", "image.size=64")
    good, other = batches_of(store, run.config, [(0, 1), (2, 3)])
    assert not run.step(0, [good]).is_skipped
    weights, moments = list(weights_of(run.model)), copy.deepcopy(run.step.optimizer.state_dict()["state"])
    result = run.step(1, [poisoned(other)])
    assert result.is_skipped
    assert not result.is_overflow
    assert all(map(torch.equal, weights, run.model.state_dict().values()))
    for index, values in run.step.optimizer.state_dict()["state"].items():
        assert all(torch.equal(value, moments[index][key]) for key, value in values.items())
    assert not run.step(2, [other]).is_skipped


def test_float16_lowers_its_scale_until_a_step_fits(store: Store) -> None:
    run = Run(compute=Compute(CPU, torch.float16))
    (batch,) = batches_of(store, run.config, [(0, 1)])
    run.step.scaler.load_state_dict({**run.step.scaler.state_dict(), "scale": 2.0**34})
    before = list(weights_of(run.model))
    first = run.step(0, [batch])
    assert (first.is_skipped, first.is_overflow) == (True, True)
    assert all(map(torch.equal, before, run.model.state_dict().values()))
    results = [run.step(number, [batch]) for number in range(1, 30)]
    assert not results[-1].is_skipped
    assert results[-1].loss < first.loss


def test_a_step_in_bfloat16_is_near_that_in_float32(store: Store) -> None:
    half, full = Run(compute=Compute(CPU, torch.bfloat16)), Run()
    (batch,) = batches_of(store, full.config, [(0, 1, 2)])
    assert half.step(0, [batch]).loss == pytest.approx(full.step(0, [batch]).loss, rel=0.02)


def test_nothing_known_gives_no_gradient(store: Store) -> None:
    run = Run("optimizer.weight_decay=0")
    (batch,) = batches_of(store, run.config, [(0, 1)])
    masks = {name: torch.zeros_like(getattr(batch, name)) for name in ("label_mask", "series_mask")}
    unknown = replace(batch, **masks)
    before = list(weights_of(run.model))
    result = run.step(0, [unknown])
    assert (result.loss, result.series_loss, result.gradient_norm) == (0.0, 0.0, 0.0)
    assert all(map(torch.equal, before, run.model.state_dict().values()))


def test_a_frozen_backbone_rests_and_learns_again(store: Store) -> None:
    run = Run("model.batchnorm=train")
    (batch,) = batches_of(store, run.config, [(0, 1)])
    before = list(weights_of(run.model.backbone))
    run.step.freeze_backbone(True)
    head = run.model.head.linear.weight.clone()
    run.step(0, [batch])
    assert all(map(torch.equal, before, run.model.backbone.state_dict().values()))
    assert not torch.equal(head, run.model.head.linear.weight)
    run.step.freeze_backbone(False)
    run.step(1, [batch])
    assert not torch.equal(before[0], next(run.model.backbone.parameters()))


def test_running_statistics_move_once_a_chunk(store: Store) -> None:
    run = Run("model.batchnorm=train", "chunk=2", "graph_slices=2", "image.size=64")
    (batch,) = batches_of(store, run.config, [(0, 1)])  # 5 and 3 slices: 3 and 2 chunks
    run.step(0, [batch])
    counts = {int(b) for name, b in run.model.named_buffers() if name.endswith("num_batches_tracked")}
    assert counts == {5}


@pytest.mark.slow
@pytest.mark.parametrize("batchnorm", ["frozen", "train"])
def test_the_compiled_backbone_has_one_shape_or_two_and_trains_alike(store: Store, batchnorm: str) -> None:
    settings = (f"model.batchnorm={batchnorm}", "chunk=4", "graph_slices=4", "image.size=64")
    eager, compiled = Run(*settings), Run(*settings, "compile=true")
    for run in (eager, compiled):  # a norm over the 4 values of one slice magnifies float32's rounding past any bound
        run.model.backbone.double()
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    batches = batches_of(store, eager.config, [(0, 1), (3, 4), (2, 5)])  # chunks of 1 to 4 slices
    groups = [[replace(batch, images=batch.images[:].double())] for batch in batches]
    for result, expected in zip(compiled.steps(groups), eager.steps(groups), strict=True):
        assert result.loss == pytest.approx(expected.loss, abs=1e-6)
        assert result.gradient_norm == pytest.approx(expected.gradient_norm, rel=1e-5)
    # each shape without a graph and with one
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= (2 if batchnorm == "frozen" else 4)
