"""Training by several ranks gives what one gives; and a job of ranks outlives what happens to processes."""

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import rank_training
import small
import torch
from rank_jobs import Job, difference, log_lines, planned, run_ranks, steps, weights

from rsna_e2e.config import RunConfig
from rsna_e2e.loader.division import Division, busy_share
from rsna_e2e.loader.sampler import global_batches
from rsna_e2e.store import Store
from rsna_e2e.training.distributed import Ranks
from rsna_e2e.training.train import train

# Ranks add in another order: rounding of float32, which 30 steps of descent hardly enlarge.
LOSS, WEIGHT = 1e-6, 1e-5
METRIC = 1e-6


@dataclass(frozen=True, slots=True)
class Data:
    """A folder with a store."""

    folder: Path
    store: Store


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    folder = tmp_path_factory.mktemp("ranks")
    return Data(folder, small.make_store(folder))


@dataclass(frozen=True, slots=True)
class Trained:
    """How `n_ranks` ranks ended that trained all cases; one rank alone has trained those without fault."""

    n_ranks: int
    codes: list[int]
    messages: str


@pytest.fixture(scope="module", params=[2, pytest.param(4, marks=pytest.mark.slow)])
def trained(request: pytest.FixtureRequest, data: Data) -> Trained:
    for case in rank_training.EQUAL_CASES:
        if not rank_training.run_folder(data.folder, case, 1).exists():
            with _one_thread():
                rank_training.train_case(data.folder, case, Ranks())
    cases = (*rank_training.EQUAL_CASES, "differs", "poisoned", "raises")
    return Trained(request.param, *run_ranks(request.param, rank_training.__file__, data.folder, *cases))


@contextmanager
def _one_thread() -> Iterator[None]:
    """As many threads as a rank has; more would wait for one another on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("case", rank_training.EQUAL_CASES)
def test_losses_and_weights_do_not_depend_on_the_number_of_ranks(data: Data, trained: Trained, case: str) -> None:
    alone, shared = (rank_training.run_folder(data.folder, case, n) for n in (1, trained.n_ranks))
    assert shared.exists(), trained.messages
    for name in ("loss", "study_loss") if case == "dropout" else ("loss",):
        losses = [[line[name] for line in steps(run)] for run in (alone, shared)]
        assert len(losses[0]) == len(losses[1]) >= 20
        assert max(abs(a - b) for a, b in zip(*losses, strict=True)) <= LOSS
        assert losses[0][0] - losses[0][-1] > 1000 * LOSS  # they have gone some way
    assert difference(learned(alone), learned(shared)) <= WEIGHT


def learned(run: Path) -> dict[str, torch.Tensor]:
    """The weights of a run, without the running statistics: those are averages over ranks."""
    return {name: tensor for name, tensor in weights(run).items() if "running_" not in name and "num_" not in name}


@pytest.mark.parametrize("case", [*rank_training.EQUAL_CASES, "differs", "poisoned"])
def test_all_ranks_have_the_same_weights_to_the_bit(data: Data, trained: Trained, case: str) -> None:
    kept = [data.folder / f"{case}-{trained.n_ranks}.rank-{rank}.pt" for rank in range(trained.n_ranks)]
    first, *others = (torch.load(path, weights_only=True) for path in kept)
    for other in others:
        assert all(torch.equal(tensor, other[name]) for name, tensor in first.items())


def test_ranks_that_come_to_different_gradients_of_the_heads_are_told(data: Data, trained: Trained) -> None:
    told = trained.messages.count("ranks computed different gradients of the heads")
    assert told == 3 * trained.n_ranks  # once in this case and in each of those after it, not at every step
    alone, differing = (
        rank_training.run_folder(data.folder, c, n) for c, n in (("sgd", 1), ("differs", trained.n_ranks))
    )
    assert difference(learned(alone), learned(differing)) <= WEIGHT


def test_some_ranks_had_nothing_in_some_batches(data: Data, trained: Trained) -> None:
    """So that the runs above have shown that this hangs nobody: in `adam` one batch is a single slice."""
    busy = [line["busy_share"] for line in steps(rank_training.run_folder(data.folder, "adam", trained.n_ranks))]
    assert min(busy) == 1 / trained.n_ranks


@pytest.mark.parametrize("case", rank_training.EQUAL_CASES)
def test_ranks_are_as_busy_as_was_planned(data: Data, trained: Trained, case: str) -> None:
    config = rank_training.config(case)
    division = Division(n_ranks=trained.n_ranks, chunk_size=config.chunk, keeps_series=case == "norms")
    lengths = [span.n_slices for span in data.store.series if span.split == "train"]
    batches = [
        [lengths[i] for i in batch]
        for epoch in range(1, config.epochs + 1)
        for batch in global_batches(lengths, slice_budget=config.loader.slices_per_batch, seed=config.seed, epoch=epoch)
    ]
    lines = steps(rank_training.run_folder(data.folder, case, trained.n_ranks))
    waited_for = sum(line["n_slices"] / line["busy_share"] for line in lines)
    assert sum(map(sum, batches)) / waited_for == pytest.approx(busy_share(batches, division))


def test_what_one_rank_cannot_use_all_ranks_skip(data: Data, trained: Trained) -> None:
    run = rank_training.run_folder(data.folder, "poisoned", trained.n_ranks)
    expected = rank_training.poisoned_steps(data.store, trained.n_ranks)
    counts = [line["skipped"] for line in steps(run)]  # the main rank's, whose own images were in order
    assert rank_training.POISONED_RANK != 0
    assert [step for step, n in enumerate(counts) if n > ([0, *counts])[step]] == expected
    assert all(line["loss"] is None for line in steps(run) if line["step"] - 1 in expected)
    assert all(tensor.isfinite().all() for tensor in weights(run).values())


def test_a_fault_of_one_rank_ends_them_all(trained: Trained) -> None:
    assert 0 not in trained.codes
    assert "RuntimeError: a fault of one rank alone" in trained.messages


def _long(*overrides: str) -> RunConfig:
    """Some 60 steps with validation, the same with any number of ranks, and a checkpoint at every fifth."""
    calm = ("optimizer.name=sgd", "optimizer.learning_rate=0.01", "optimizer.head_learning_rate=0.01")
    often = ("checkpoint.every_steps=5", "epochs=25", "validation_fold=0")
    return small.config(*rank_training.EQUAL, *calm, *often, *overrides)


@pytest.fixture(scope="module")
def undisturbed(data: Data) -> Path:
    """What the jobs below come to when nothing happens to them."""
    run = data.folder / "undisturbed"
    with _one_thread():
        train(data.store, run, _long(), device="cpu")
    return run


def _assert_as_undisturbed(data: Data, run: Path, undisturbed: Path) -> None:
    """Every series was there once an epoch, and all comes out the same."""
    lines = steps(run)
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))
    assert [(line["epoch"], line["n_series"], line["n_slices"]) for line in lines] == planned(data.store, _long())
    scores, expected = log_lines(run, "validation"), log_lines(undisturbed, "validation")
    assert [line["epoch"] for line in scores] == [line["epoch"] for line in expected] == list(range(1, 26))
    for line, other in zip(scores, expected, strict=True):
        assert abs(line["weighted_log_loss"] - other["weighted_log_loss"]) <= METRIC
        assert abs(line["any_auc"] - other["any_auc"]) <= METRIC
    assert difference(weights(run), weights(undisturbed)) <= WEIGHT


def test_a_killed_rank_a_signal_and_another_number_of_ranks_change_nothing(data: Data, undisturbed: Path) -> None:
    run = data.folder / "disturbed"
    with Job(data.store.path, run, _long(), n_ranks=2) as job:
        job.wait_for_steps(8)
        os.kill(job.rank_pid(1), signal.SIGKILL)
        job.wait_until(lambda: job.n_resumed() == 1)
        job.wait_for_steps(3)
        job.process.send_signal(signal.SIGTERM)
        assert job.ends() == 75, job.messages
    with _one_thread():
        train(data.store, run, _long(), device="cpu", resume=True)
    _assert_as_undisturbed(data, run, undisturbed)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Data:
    """Ninety series, so that an epoch has many steps."""
    folder = tmp_path_factory.mktemp("many")
    rng = np.random.default_rng(0)
    series = [rng.integers(0, 80, (rng.integers(2, 7), 32, 32)).astype(np.int16) for _ in range(90)]
    return Data(folder, small.make_store_of(folder, [list(slices) for slices in series]))


@pytest.mark.slow
def test_two_ranks_one_four_and_two_in_one_epoch_see_every_series_once(many: Data) -> None:
    calm = ("optimizer.name=sgd", "optimizer.learning_rate=0.01", "optimizer.head_learning_rate=0.01")
    config = small.config(*rank_training.EQUAL, *calm, "epochs=1", "loader.slices_per_batch=6")
    undisturbed, run = many.folder / "undisturbed", many.folder / "two_one_four_two"
    with _one_thread():
        train(many.store, undisturbed, config, device="cpu")
    for n_ranks in (2, 1, 4):
        with Job(many.store.path, run, config, n_ranks=n_ranks) as job:
            job.wait_for_steps(3)
            job.process.send_signal(signal.SIGTERM)
            assert job.ends() == 75, job.messages
    with Job(many.store.path, run, config, n_ranks=2) as job:
        assert job.ends() == 0, job.messages
    lines = steps(run)
    resumed_at = [entry["step"] for entry in json.loads((run / "manifest.json").read_text())["resumed"]]
    assert 0 < resumed_at[0] < resumed_at[1] < resumed_at[2] < len(lines)
    assert [(line["epoch"], line["n_series"], line["n_slices"]) for line in lines] == planned(many.store, config)
    assert difference(weights(run), weights(undisturbed)) <= WEIGHT


@pytest.fixture(scope="module")
def undisturbed_two(data: Data) -> Path:
    """What two ranks come to: rounding included."""
    run = data.folder / "undisturbed_two"
    with Job(data.store.path, run, _long(), n_ranks=2) as job:
        assert job.ends() == 0, job.messages
    return run


@pytest.mark.slow
def test_ranks_told_to_end_save_in_time_and_go_on_exactly(data: Data, undisturbed_two: Path) -> None:
    parts = data.folder / "parts"
    with Job(data.store.path, parts, _long(), n_ranks=2) as job:
        job.wait_for_steps(7)
        job.process.send_signal(signal.SIGUSR1)
        assert job.ends(within_s=30) == 75, job.messages
    with Job(data.store.path, parts, _long(), n_ranks=2) as job:
        assert job.ends() == 0, job.messages
    assert difference(weights(parts), weights(undisturbed_two)) == 0


@pytest.mark.slow
@pytest.mark.parametrize("n_steps", [2, 13, 31])
def test_ranks_killed_at_any_step_are_started_again(data: Data, undisturbed_two: Path, n_steps: int) -> None:
    run = data.folder / f"killed-{n_steps}"
    with Job(data.store.path, run, _long(), n_ranks=2) as job:
        job.wait_for_steps(n_steps)
        os.kill(job.rank_pid(n_steps % 2), signal.SIGKILL)
        assert job.ends() == 0, job.messages
    _assert_as_undisturbed(data, run, undisturbed_two)
    assert difference(weights(run), weights(undisturbed_two)) == 0


@pytest.mark.slow
def test_a_rank_that_stands_still_ends_the_job(data: Data) -> None:
    config = _long("distributed.timeout_s=60")
    with Job(data.store.path, data.folder / "still", config, n_ranks=2, MAX_RESTARTS="0") as job:
        job.wait_for_steps(6)
        os.kill(job.rank_pid(1), signal.SIGSTOP)
        began_s = time.monotonic()
        assert job.ends() == 1, job.messages
        assert time.monotonic() - began_s <= 60 + 40


@pytest.mark.slow
def test_damaged_data_on_one_rank_ends_the_job_with_its_exit_code(data: Data, tmp_path: Path) -> None:
    shutil.copytree(data.store.path, tmp_path / "store")
    shard = next((tmp_path / "store").rglob("*.h5"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    with Job(tmp_path / "store", tmp_path / "run", _long(), n_ranks=2) as job:
        assert job.ends(within_s=120) == 3, job.messages
        assert "checksum" in job.messages
