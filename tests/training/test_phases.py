"""What is known of a run before its first step."""

import math
import tracemalloc
from contextlib import nullcontext
from pathlib import Path

import pytest
import small
import torch
from training_runs import last_step

from rsna_e2e.config import RunConfig, load_config
from rsna_e2e.core.errors import PreemptedError, UsageError
from rsna_e2e.loader.division import Division
from rsna_e2e.loader.image_loader import ImageLoader
from rsna_e2e.model.network import JointModel
from rsna_e2e.store import Store
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.training.checkpoint import find_checkpoint
from rsna_e2e.training.distributed import Ranks
from rsna_e2e.training.foretell import describe_epochs, foretell_sharing
from rsna_e2e.training.optimizer import make_schedule
from rsna_e2e.training.phases import Phase, divide, plan_phases
from rsna_e2e.training.train import train

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return small.make_store(tmp_path_factory.mktemp("phases"))


def planned(store: Store, config: RunConfig, division: Division) -> tuple[Phase, ...]:
    loader = ImageLoader(store, config, task=ICH, device=CPU, division=division)
    return plan_phases(config, lambda epoch: loader, range(len(small.LENGTHS)))


def two_phases(*settings: str) -> RunConfig:
    """Epochs whose numbers of steps differ, in both phases."""
    config = small.config("loader.slices_per_batch=7", "accumulate=2", "model.slice_loss_weight=1", *settings)
    return config.model_copy(update={"slice_phase": small.slice_phase(epochs=3, slices_per_batch=4)})


def test_a_plan_counts_what_its_epochs_hold(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    config = two_phases("epochs=40")
    of_slices, of_series = planned(store, config, Division())
    loader = ImageLoader(store, config, task=ICH, device=CPU, division=Division())
    listed = [loader.group(range(len(small.LENGTHS)), epoch=number) for number in range(4, 44)]
    n_steps = [math.ceil(len(batches) / 2) for batches in listed]
    assert len(set(n_steps)) > 1
    assert (of_slices.numbers, of_slices.first_step, of_slices.n_steps) == (range(1, 4), 0, 3 * 3)  # of 21 slices, 20
    assert of_slices.n_slices == 3 * 20
    assert (of_series.numbers, of_series.first_step, of_series.n_steps) == (range(4, 44), 9, sum(n_steps))
    assert of_series.n_slices == 40 * sum(small.LENGTHS)
    assert [of_series.steps_before(4 + k) for k in range(40)] == [9 + sum(n_steps[:k]) for k in range(40)]
    assert [batch for step in of_series.epoch(11).steps for batch in step] == listed[7]
    monkeypatch.setattr("rsna_e2e.training.phases.MOST_COUNTED", 10)
    assert planned(store, config, Division())[1].n_steps == 40 * sum(n_steps[:10]) // 10


def test_a_plan_of_a_run_without_end_takes_no_more_memory(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rsna_e2e.training.phases.MOST_COUNTED", 1000)
    config = two_phases(f"epochs={10**12}", "optimizer.schedule=cosine", "optimizer.warmup_fraction=0")
    tracemalloc.start()
    try:
        _, of_series = planned(store, config, Division())
        factor = make_schedule(config.optimizer, n_steps=of_series.n_steps)
        assert (factor(0), factor(of_series.n_steps)) == (1.0, 0.0)
        assert tracemalloc.get_traced_memory()[1] < 10 << 20
    finally:
        tracemalloc.stop()
    assert 10**12 < of_series.n_steps < 4 * 10**12


@pytest.mark.usefixtures("one_thread")
def test_a_run_without_end_is_resumed_as_any_other(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rsna_e2e.training.phases.MOST_COUNTED", 10)
    config = two_phases(f"epochs={10**12}", "optimizer.schedule=cosine", "optimizer.warmup_fraction=1e-12")

    said: list[str] = []
    phases = describe_epochs(config)
    expected = [phases]

    def train_to(step: int, run: Path) -> None:
        with pytest.raises(PreemptedError, match=f"after step {step};"):
            train(
                *(store, run, config),
                device="cpu",
                resume=True,
                is_stopping=lambda: last_step(run) >= step,
                say=said.append,
            )

    train_to(14, tmp_path / "once")
    for step in (4, 11, 14):
        train_to(step, tmp_path / "again")
        if step < 14:
            epoch = int(find_checkpoint(tmp_path / "again", "last").name.rpartition("-")[2])
            expected.append(f"{phases}; continues after epoch {epoch}")
    assert said[1:] == expected
    once, again = (find_checkpoint(tmp_path / name, "last") for name in ("once", "again"))
    assert once.name == again.name
    for file in ("model.safetensors", "optimizer.safetensors"):
        assert (once / file).read_bytes() == (again / file).read_bytes()


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("ema", ["null", "0.5"])
def test_whole_series_begin_with_what_slices_taught_wherever_a_run_is_stopped(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ema: str
) -> None:
    """Once, before the first step on whole series: the run ends as one that was not stopped before or after it."""
    started: list[dict[str, torch.Tensor]] = []
    start = JointModel.start_head

    def note(self: JointModel) -> None:
        start(self)
        started.append({name: value.clone() for name, value in self.state_dict().items()})

    monkeypatch.setattr(JointModel, "start_head", note)
    config = two_phases("epochs=1", f"ema_decay={ema}")
    config = config.model_copy(update={"slice_phase": small.slice_phase(starts_head=True)})
    train(store, tmp_path / "once", config, device="cpu")
    n_started = len(started)
    n_of_slices = (tmp_path / "once" / "metrics.jsonl").read_text().count('"kind": "train_slices"')
    for k, stop in enumerate((n_of_slices - 1, n_of_slices, n_of_slices + 1)):
        run = tmp_path / f"again{k}"
        with pytest.raises(PreemptedError):
            train(store, run, config, device="cpu", is_stopping=lambda run=run, stop=stop: last_step(run) >= stop)
        train(store, run, config, device="cpu", resume=True)
        once, again = (find_checkpoint(folder, "last") for folder in (tmp_path / "once", run))
        assert (once / "model.safetensors").read_bytes() == (again / "model.safetensors").read_bytes()
    assert len(started) == 4 * n_started == 4 * (1 if ema == "null" else 2)
    for state in started:
        classifier, head = state["slice_classifier.weight"], state["head.linear.weight"]
        assert torch.equal(head, torch.cat([classifier, classifier], dim=1) / 2)


def test_epochs_of_a_slice_phase_come_on_top() -> None:
    slices, series = "shuffled single slices (slice_phase.epochs)", "whole series (epochs)"
    assert describe_epochs(load_config("demo", ["epochs=1"])) == f"8 epochs on {slices}, then 1 epoch on {series}"
    assert describe_epochs(load_config("reference", ["epochs=2000"])) == f"2,000 epochs on {series}"
    alone = ["epochs=0", "model.head=none", "slice_phase.epochs=1"]
    assert describe_epochs(load_config("demo", alone)) == f"1 epoch on {slices}"


def test_ranks_that_share_well_are_told_and_no_more(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    said: list[str] = []
    config = small.config("loader.slices_per_batch=21")  # all of them
    phases = planned(store, config, Division(n_ranks=3, chunk_size=4))
    assert phases[0].busy_share == 1
    foretell_sharing(phases, config, said.append)
    assert not caplog.records
    assert said == ["3 ranks share each batch of series: expected to be busy 100% of the time"]
    foretell_sharing(planned(store, config, Division()), config, said.append)
    assert len(said) == 1


def test_ranks_that_will_wait_are_warned_of_with_what_helps(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    said: list[str] = []
    config = small.config("loader.slices_per_batch=21", "model.slice_loss_weight=1").model_copy(
        update={"slice_phase": small.slice_phase(slices_per_batch=2)}
    )
    phases = planned(store, config, Division(n_ranks=4, chunk_size=6, keeps_series=True))
    # Chunks of 5, 3, 1, 6, 4 and 2 slices: 6, 5, 5 and 5 for four ranks. Single slices: 2 for four, ten times
    foretell_sharing(phases, config, said.append)
    assert "busy 50% of the time" in said[0]
    assert f"busy {21 / 24:.0%} of the time" in said[1]
    first, second = caplog.messages
    assert first.startswith("4 ranks will be busy 50% of the time on slices")
    assert first.endswith("fewer ranks, or in a new run a larger slice_phase.slices_per_batch")
    assert second.endswith("a larger loader.slices_per_batch, a chunk below 6 or model.batchnorm=frozen")


def test_sizes_of_chunks_are_counted(store: Store) -> None:
    config = small.config("loader.slices_per_batch=21")
    for chunk_size, sizes in ((4, {3, 4}), (21, {21}), (6, {5, 6})):
        (phase,) = planned(store, config, Division(chunk_size=chunk_size))
        assert phase.n_shapes == len(sizes)


@pytest.mark.parametrize(("n_ranks", "is_refused"), [(2, False), (3, True)])
def test_a_rank_gets_as_many_slices_as_norms_need(n_ranks: int, is_refused: bool) -> None:
    config = small.config("model.slice_loss_weight=1", "chunk=8").model_copy(
        update={"slice_phase": small.slice_phase(slices_per_batch=4)}
    )
    model = JointModel.for_task(config.model, ICH)
    refused = pytest.raises(UsageError, match=r"leaves one of 3 ranks with fewer than 2 slices.*Use 6 or more")
    with refused if is_refused else nullcontext():
        assert divide(model, config, Ranks(n_ranks=n_ranks)) == Division(n_ranks=n_ranks, chunk_size=8)
    convnext = small.config("model.backbone=test_convnext", "model.batchnorm=train", "chunk=8")
    assert not divide(JointModel.for_task(convnext.model, ICH), convnext, Ranks(n_ranks=3)).keeps_series
    resnet = small.config("model.batchnorm=train", "chunk=8")
    assert divide(JointModel.for_task(resnet.model, ICH), resnet, Ranks(n_ranks=3)).keeps_series
