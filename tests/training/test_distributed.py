"""Collectives among real processes on gloo, against sums done here; and torchrun's variables, complete or not."""

import socket
from pathlib import Path

import pytest
import rank_checks
import torch
from rank_checks import WEIGHTS, Net, values
from rank_jobs import run_ranks
from torch import nn

from rsna_e2e.core.errors import MissingCapabilityError, RsnaError, UsageError
from rsna_e2e.training import distributed
from rsna_e2e.training.buckets import make_buckets
from rsna_e2e.training.distributed import Ranks, fingerprint, joined
from rsna_e2e.training.gradient_sum import GradientSum

TORCHRUN = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
SUM = 3 * 2.0**-24  # float32, up to 4 terms in any order: 3 roundings, each of a partial sum
EXACT = {"rtol": 0, "atol": 0}


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _seen_by(folder: Path, n_ranks: int) -> list[dict[str, torch.Tensor]]:
    """Run `rank_checks` in `n_ranks` processes and return what each saw."""
    codes, messages = run_ranks(n_ranks, rank_checks.__file__, folder)
    assert codes == [0] * n_ranks, messages
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(n_ranks)]


@pytest.fixture(scope="module", params=[2, pytest.param(4, marks=pytest.mark.slow)])
def seen(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, torch.Tensor]]:
    return _seen_by(tmp_path_factory.mktemp("ranks"), request.param)


def _total(tensors: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """The sum in float64 and the largest magnitude, element by element."""
    stacked = torch.stack(tensors).double()
    return stacked.sum(0), stacked.abs().amax(0)


def _assert_is_sum(actual: torch.Tensor, terms: list[torch.Tensor]) -> None:
    total, largest = _total(terms)
    assert ((actual.double() - total).abs() <= SUM * len(terms) * largest).all()


def test_every_rank_sees_the_same_bits(seen: list[dict[str, torch.Tensor]]) -> None:
    for other in seen[1:]:
        for name, tensor in seen[0].items():
            if not name.startswith(("unweighted.", "n_sent")):
                torch.testing.assert_close(other[name], tensor, **EXACT, msg=name)


def test_sums_and_extremes(seen: list[dict[str, torch.Tensor]]) -> None:
    n = len(seen)
    _assert_is_sum(seen[0]["sum"], [values(rank, 1000) for rank in range(n)])
    _assert_is_sum(seen[0]["transposed"], [values(rank, 4, 6).T for rank in range(n)])
    assert torch.equal(seen[0]["max"], torch.stack([values(rank, 10) for rank in range(n)]).amax(0))
    assert torch.equal(seen[0]["min"], torch.stack([values(rank, 10) for rank in range(n)]).amin(0))
    assert seen[0]["count"].item() == n * (n + 1) // 2


def test_gradients_are_summed_and_a_missing_one_counts_as_zeros(seen: list[dict[str, torch.Tensor]]) -> None:
    nets = [Net(rank) for rank in range(len(seen))]
    for rank, net in enumerate(nets):
        net.fill_gradients(rank)
    for name in ("wide", "images", "precise", "sometimes"):
        terms = [net.get_parameter(name).grad for net in nets]
        _assert_is_sum(seen[0][f"gradient.{name}"], [term for term in terms if term is not None])


def test_gradients_leave_while_the_backward_pass_goes_on(seen: list[dict[str, torch.Tensor]]) -> None:
    for rank, one in enumerate(seen):
        assert one["n_sent"].item() == (0 if rank == rank_checks.IDLE else rank_checks.N_LAYERS)
    for number in range(1, rank_checks.N_LAYERS + 1):
        n_passes = [1 if rank == rank_checks.IDLE else 2 for rank in range(len(seen))]
        expected = sum(n * (rank + number) for rank, n in enumerate(n_passes))
        assert (seen[0][f"early.{number}"] == expected).all()


def test_ranks_that_differ_in_a_bit_get_what_rank_0_has(seen: list[dict[str, torch.Tensor]]) -> None:
    expected = values(8, 100)
    expected[50] = torch.nextafter(expected[50], torch.tensor(0.0))
    expected[51] = torch.nextafter(expected[51], torch.tensor(-0.0))
    for one in seen:
        assert not one["agreed"]
        assert torch.equal(one["of_rank_0"], expected)
        assert torch.equal(one["same"], values(7, 100))


def test_fingerprints_tell_small_changes_that_cancel_and_values_that_change_places() -> None:
    tensors = [values(1, 1000), values(2, 10), torch.arange(3)]
    first = fingerprint(tensors)
    assert first == fingerprint([tensor.clone() for tensor in tensors])
    for steps in range(1, 50):  # one value a bit up, another a bit down: a sum of bits would not see it
        moved = tensors[0].clone().view(torch.int32)
        moved[3] += steps
        moved[700] -= steps
        assert fingerprint([moved.view(torch.float32), *tensors[1:]]) != first
    assert fingerprint([tensors[1], tensors[0], tensors[2]]) != first
    large = torch.zeros(distributed._PIECES["cpu"] + 5)
    moved = [torch.where(torch.arange(len(large)) == place, 1.0, large) for place in (0, 5, len(large) - 1)]
    assert len({int(fingerprint([tensor])) for tensor in (large, *moved)}) == 4


def test_buffers_are_averaged_by_weight(seen: list[dict[str, torch.Tensor]]) -> None:
    nets = [Net(rank) for rank in range(len(seen))]
    weights = torch.tensor(WEIGHTS[: len(seen)], dtype=torch.float64)
    stacked = torch.stack([net.mean for net in nets]).double()
    expected = (stacked * weights[:, None] / weights.sum()).sum(0)
    # In float64 until the last rounding; cancelling terms leave errors relative to the largest.
    torch.testing.assert_close(seen[0]["averaged.mean"].double(), expected, rtol=2.0**-24, atol=1e-11)
    assert torch.equal(seen[0]["averaged.same"], nets[0].same)
    assert torch.equal(seen[0]["only_rank_1"], nets[1].mean)
    assert seen[0]["averaged.count"].item() == 10 + len(seen) - 1
    assert seen[0]["averaged.flag"].tolist() == [True, False]


def test_buffers_stay_where_no_rank_had_slices(seen: list[dict[str, torch.Tensor]]) -> None:
    for rank, one in enumerate(seen):
        for name, buffer in Net(rank).named_buffers():
            assert torch.equal(one[f"unweighted.{name}"], buffer), name


def test_rank_0_gives_its_weights_to_all(seen: list[dict[str, torch.Tensor]]) -> None:
    for one in seen:
        for name, tensor in Net(0).state_dict().items():
            assert torch.equal(one[f"broadcast.{name}"], tensor), name


def test_alone_nothing_changes_but_missing_gradients() -> None:
    with joined({"MASTER_ADDR": "somewhere"}, "cpu", timeout_s=60.0) as ranks:
        assert ranks == Ranks()
        assert ranks.is_main
        assert not torch.distributed.is_initialized()
        seen = rank_checks.check(ranks)
    net = Net(0)
    net.fill_gradients(0)
    for name, buffer in net.named_buffers():
        assert torch.equal(seen[f"averaged.{name}"], buffer)
    for name in ("wide", "images", "precise", "sometimes"):
        assert torch.equal(seen[f"gradient.{name}"], net.get_parameter(name).grad)
    assert torch.equal(seen["sum"], values(0, 1000))
    idle = nn.Linear(2, 1)
    GradientSum(ranks, idle.parameters(), bucket_mib=1).finish()
    assert [parameter.grad.tolist() for parameter in idle.parameters()] == [[[0.0, 0.0]], [0.0]]


def test_torchrun_with_one_process_is_alone() -> None:
    with joined(TORCHRUN | {"WORLD_SIZE": "1"}, "cpu", timeout_s=60.0) as ranks:
        assert ranks == Ranks()
        assert not torch.distributed.is_initialized()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"LOCAL_RANK": None}, "RANK and WORLD_SIZE set without LOCAL_RANK. Start with bin/train.sh or torchrun"),
        ({"WORLD_SIZE": ""}, "RANK and LOCAL_RANK set without WORLD_SIZE"),
        ({"MASTER_ADDR": None, "MASTER_PORT": None}, "WORLD_SIZE is over 1 without MASTER_ADDR and MASTER_PORT"),
        ({"RANK": "-1"}, "RANK='-1': not a whole number"),
        ({"RANK": "2"}, "RANK=2 and LOCAL_RANK=0 must be below WORLD_SIZE=2"),
        ({"LOCAL_RANK": "2"}, "RANK=0 and LOCAL_RANK=2 must be below WORLD_SIZE=2"),
        ({"WORLD_SIZE": "0"}, "must be below WORLD_SIZE=0"),
        ({"MASTER_PORT": "http"}, "MASTER_PORT='http': not a whole number"),
        ({"MASTER_PORT": "65536"}, "MASTER_PORT=65536: not a port"),
    ],
)
def test_variables_that_make_no_sense_are_refused(change: dict[str, str | None], message: str) -> None:
    environment = {name: value for name, value in (TORCHRUN | change).items() if value is not None}
    with pytest.raises(UsageError, match=message), joined(environment, "cpu", timeout_s=60.0):
        pass


def test_a_rank_without_a_gpu_is_told_how_many_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    environment = TORCHRUN | {"RANK": "2", "LOCAL_RANK": "2", "WORLD_SIZE": "3"}
    with (
        pytest.raises(MissingCapabilityError, match=r"local rank 2 has no GPU: torch sees 2 .*NPROC=2 bin/train.sh"),
        joined(environment, "cuda", timeout_s=60.0),
    ):
        pass


def test_others_that_do_not_answer_are_an_error() -> None:
    environment = TORCHRUN | {"RANK": "1", "LOCAL_RANK": "1", "MASTER_PORT": str(_free_port())}
    with (
        pytest.raises(RsnaError, match=r"rank 1 of 2 cannot join the others at 127.0.0.1:\d+") as caught,
        joined(environment, "cpu", timeout_s=1.0),
    ):
        pass
    assert caught.value.exit_code == 1  # torchrun starts the ranks again; a code of 2 or more would be final


def test_buckets_keep_their_limit_dtype_and_order() -> None:
    sizes = [3, 3, 5, 1, 1]
    tensors = [torch.zeros(size) for size in sizes] + [torch.zeros(2, dtype=torch.float64)]
    buckets = list(make_buckets(tensors, limit=4 * 4))
    assert [[t.numel() for t in bucket] for bucket in buckets] == [[3], [3], [5], [1, 1], [2]]
