"""The job of `bench transform`, who does it, and who is not timed. Small and few: speed is not judged here."""

# N slices, C channels, S output size

import importlib.util
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small
import torch

from rsna_e2e.config import AugmentConfig
from rsna_e2e.core.errors import BadInputError
from rsna_e2e.loader.geometry import draw_augmentation
from rsna_e2e.store import Store
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.tools.bench import job as bench_job
from rsna_e2e.tools.bench import ours
from rsna_e2e.tools.bench import transform as bench_transform_module
from rsna_e2e.tools.bench.job import Contestant, DisagreementError, Job, augmentation, check_agreement, find_squares
from rsna_e2e.tools.bench.machine import Machine, pinned
from rsna_e2e.tools.bench.peers.registry import PEERS, Peer, find_contestants
from rsna_e2e.tools.bench.peers.squares import cut
from rsna_e2e.tools.bench.transform import bench_transform

CPU_PEERS = [peer for peer in PEERS if not peer.is_for_gpu]
QUICK: dict[str, Any] = {"n_slices": 2, "size": 24, "rounds": 2, "min_turn_s": 0.0, "device": "cpu"}


def head(height: int, width: int, *, centre: tuple[float, float], radius: float) -> np.ndarray:
    """A disc of tissue of uneven density in a shell of bone in air, int16 HU."""
    y, x = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    distance = np.hypot(x - centre[0], 1.2 * (y - centre[1]))
    tissue = 40 + 25 * np.sin(x / 9) * np.cos(y / 7)
    hu = np.where(distance < radius - 8, tissue, np.where(distance < radius, 900, -1000))
    return hu.astype(np.int16)


@pytest.fixture
def job() -> Job:
    """Two slices of different sizes; the crop square of the second reaches beyond it."""
    slices = (
        head(160, 150, centre=(70.0, 80.0), radius=60.0),
        head(128, 192, centre=(90.0, 64.0), radius=88.0),
    )
    boxes = find_squares(slices, ICH)
    assert boxes[1, 1] + boxes[1, 2] > 128
    return Job(slices=slices, boxes=boxes, size=112, task=ICH)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return small.make_store(tmp_path_factory.mktemp("bench"))


# The job


class _Scripted:
    """A generator that draws flip, transposition and affine, and the job's numbers in the published ranges."""

    def random(self, n: int | None = None) -> np.ndarray:
        return np.zeros(n or ())

    def uniform(self, low: float, high: float, n: int) -> np.ndarray:
        return np.array([0.03 / 0.05, -0.02 / 0.05, 0.04 / 0.05, 12.0 / 20.0])


def test_the_geometry_is_one_that_training_draws() -> None:
    drawn = draw_augmentation(_Scripted(), AugmentConfig(), size=48)  # type: ignore[arg-type]
    np.testing.assert_allclose(augmentation(48), drawn, atol=1e-12)


def test_a_square_beyond_the_slice_is_filled_with_air() -> None:
    hu = np.arange(6, dtype=np.int16).reshape(2, 3)
    assert cut(hu, np.array([1, 0, 2])).tolist() == [[1, 2], [4, 5]]
    assert cut(hu, np.array([-1, 1, 3])).tolist() == [[-1024, 3, 4], [-1024, -1024, -1024], [-1024, -1024, -1024]]


def test_slices_come_evenly_from_what_has_content(store: Store) -> None:
    job = Job.of_store(store, n_slices=4, size=16)
    assert [hu.shape for hu in job.slices] == [(small.SIDE, small.SIDE)] * 4
    assert np.array_equal(job.slices[0], store.read_slice(0))
    assert np.array_equal(job.slices[-1], store.read_slice(len(store) - 1))


def test_a_store_of_air_is_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(store.index, "content_x1", store.index["content_x0"])
    with pytest.raises(BadInputError, match="no slice has any content inside the windows"):
        Job.of_store(store, n_slices=4, size=16)


# Who does it


@pytest.mark.parametrize("peer", CPU_PEERS, ids=lambda peer: peer.module)
def test_a_peer_makes_our_images(peer: Peer, job: Job) -> None:
    if importlib.util.find_spec(peer.library.split(".")[0]) is None:
        pytest.skip(f"{peer.library} is not installed: pip install '.[bench]'")
    found = find_contestants(peer, job)
    assert found
    for contestant in found:
        assert check_agreement(contestant, job) <= bench_job.AGREEMENT_LIMIT
        assert contestant.n_slices == 2


def test_all_our_rows_make_the_same_images(job: Job) -> None:
    rows = ours.contestants(job, available=2)
    names = [row.name for row in rows]
    assert names[0] == ours.OURS
    assert {"ours, content searched", "ours, one slice a call", "ours, into the same tensors", "ours, 2 cores"} <= set(
        names
    )
    first = [image.clone() for image in rows[0].run()]
    for row in rows[1:]:
        assert all(map(torch.equal, row.run(), first)), row.name


def _contestant(job: Job, images: list[torch.Tensor]) -> Contestant:
    return Contestant(name="made up", how="", run=lambda: images, boxes=job.boxes)


def _ours(job: Job) -> list[torch.Tensor]:
    return [image.clone() for image in ours.contestants(job, available=1)[0].run()]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda image: image + 0.1,  # 0.1 after normalisation is 0.03 before
        lambda image: image.flip(2),
        lambda image: image * float("nan"),
        lambda image: image[:, :-1],
    ],
    ids=["brighter", "flipped", "nan", "cropped"],
)
def test_one_wrong_image_is_found(job: Job, spoil: Any) -> None:
    first, second = _ours(job)
    assert check_agreement(_contestant(job, [first, second]), job) < 1e-6
    with pytest.raises(DisagreementError):
        check_agreement(_contestant(job, [first, spoil(second)]), job)


def test_a_missing_image_is_a_disagreement(job: Job) -> None:
    with pytest.raises(DisagreementError, match="1 images of 2 slices"):
        check_agreement(_contestant(job, _ours(job)[:1]), job)


# The benchmark


def _module(monkeypatch: pytest.MonkeyPatch, contestants: Any) -> Peer:
    """A peer whose module is made up."""
    peer = Peer("made up", "made_up_peer", "torch")
    module = type("module", (), {"contestants": staticmethod(contestants)})
    monkeypatch.setitem(sys.modules, f"rsna_e2e.tools.bench.peers.{peer.module}", module)
    return peer


def test_a_peer_that_disagrees_is_not_timed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    peer = _module(monkeypatch, lambda job: [_contestant(job, [image + 1 for image in _ours(job)])])
    result = bench_transform(store.path, peers=[peer], **QUICK)
    assert "made up" not in [row.name for row in result.rows]
    assert "differ from ours by 0.3" in result.not_timed["made up"]
    assert "not timed: made up: its images differ" in str(result)


def test_without_peers_only_ours_are_timed_and_the_way_out_is_named(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for library in ("cv2", "albumentations", "monai"):
        monkeypatch.setitem(sys.modules, library, None)  # as if it were not installed
        for peer in PEERS:
            monkeypatch.delitem(sys.modules, f"rsna_e2e.tools.bench.peers.{peer.module}", raising=False)
    peers = [peer for peer in CPU_PEERS if peer.library in ("cv2", "albumentations", "monai")]
    result = bench_transform(store.path, peers=peers, out=tmp_path / "new" / "transform.json", **QUICK)
    assert set(result.not_timed) == {peer.name for peer in peers}
    assert all("pip install '.[bench]'" in reason for reason in result.not_timed.values())
    assert result.rows[0].name == ours.OURS


def test_a_result_is_written_whole(store: Store, tmp_path: Path) -> None:
    out = tmp_path / "transform.json"
    result = bench_transform(store.path, peers=[], out=out, **QUICK)
    written = json.loads(out.read_text())
    assert written["benchmark"] == "transform"
    assert written["job"] == {"n_slices": 2, "size": 24, "keeps_freed": False, "agreement_limit": 0.02}
    assert written["machine"]["commit"] == result.machine.commit
    first = written["rows"][0]
    assert first["name"] == "ours"
    assert first["slices_per_s"]["n"] == len(first["samples"]) == 2
    assert first["slices_per_s"]["median"] == pytest.approx(np.mean(first["samples"]))
    assert first["ours_is_faster"] == {"n": 2, "median": 1.0, "iqr": 0.0}
    assert "ours" in str(result)
    assert "the C library left as it is" in str(result)


def test_the_c_library_is_told_to_keep_memory_only_on_request(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[bool] = []
    monkeypatch.setattr(bench_transform_module, "keep_freed_memory", lambda: told.append(True))
    bench_transform(store.path, peers=[], **QUICK)
    assert told == []
    assert "told to keep freed memory" in str(bench_transform(store.path, peers=[], keeps_freed=True, **QUICK))
    assert told == [True]


def test_a_gpu_peer_is_listed_on_a_machine_without(store: Store) -> None:
    result = bench_transform(store.path, peers=[peer for peer in PEERS if peer.is_for_gpu], **QUICK)
    assert result.not_timed == {"eager torch, GPU": "no GPU"}


def test_the_machine_is_described() -> None:
    machine = Machine.here()
    assert machine.cores >= 1
    assert machine.versions["numpy"] == np.__version__
    assert machine.commit
    for part in (machine.cpu, machine.commit, f"numpy {np.__version__}"):
        assert part in str(machine)


def test_pinning_ends_with_its_block() -> None:
    cores, threads = os.sched_getaffinity(0), torch.get_num_threads()
    with pinned(1):
        assert len(os.sched_getaffinity(0)) == 1
        assert torch.get_num_threads() == 1
    assert (os.sched_getaffinity(0), torch.get_num_threads()) == (cores, threads)


@pytest.mark.needs_cuda
def test_gpu_rows_make_our_images(job: Job) -> None:
    same_size = replace(job, slices=job.slices[:1], boxes=job.boxes[:1])
    (eager,) = (contestant for peer in PEERS if peer.is_for_gpu for contestant in find_contestants(peer, same_size))
    for contestant in (*ours.gpu_contestants(same_size), eager):
        assert check_agreement(contestant, same_size) <= bench_job.AGREEMENT_LIMIT
