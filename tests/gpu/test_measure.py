"""What bin/check_gpu.sh does, as far as it needs no GPU."""

import os
import subprocess
from pathlib import Path

import check_gpu
import counters
import measure
import pytest
import torch
from journal import Journal
from plan import COMMANDS
from runner import Outcome
from transform_cases import noise, turned

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has an NVIDIA GPU")
def test_without_a_gpu_it_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    environment = {**os.environ, "OUT": str(tmp_path / "figures")}
    done = subprocess.run([ROOT / "bin/check_gpu.sh"], env=environment, capture_output=True, text=True)
    assert done.returncode == 4
    assert done.stdout.startswith("check_gpu: torch ")
    assert "sees no NVIDIA GPU; nothing was built, tested or timed" in done.stdout
    assert done.stdout.count("\n") == 1
    assert not (tmp_path / "figures").exists()


def test_arguments(tmp_path: Path) -> None:
    chosen = check_gpu.parse(["--out", str(tmp_path), "--commit", "abc", "--without", "parity", "loader"])
    assert (chosen.out, chosen.commit, chosen.without, chosen.only) == (tmp_path, "abc", ["parity", "loader"], None)
    assert {"parity", "loader"}.isdisjoint(part.name for part in check_gpu.planned_of(chosen))
    everything = [part.name for part in check_gpu.planned_of(check_gpu.parse([]))]
    assert everything == [*everything[:1], *(one.name for one in [*COMMANDS[1], *COMMANDS[2]] if one.name != "unpack")]
    one = check_gpu.planned_of(check_gpu.parse(["--part", "2", "--only", "unpack", "memory", "--sanitize"]))
    assert [part.name for part in one] == ["unpack", "memory"]
    with pytest.raises(SystemExit, match="2"):
        check_gpu.parse(["--no-such-option"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_peer_computes_the_same(dtype: torch.dtype) -> None:
    hu, affine = noise(2, measure.HEIGHT, measure.WIDTH), turned(2, measure.HEIGHT, measure.WIDTH, measure.SIZE)
    work = measure.Work([hu], affine, dtype, channels_last=True)
    eager = measure.Eager(work)
    assert eager(0).dtype == dtype
    assert eager(0).stride() == work.ours(0).stride()
    assert eager.difference() < (measure.AGREEMENT if dtype == torch.float32 else 1e-3)  # float16's own rounding
    shifted = measure.Eager(measure.Work([hu], affine + 0.01, dtype, channels_last=True))
    assert float((shifted(0) - work.ours(0)).float().abs().mean()) > measure.AGREEMENT


def test_bytes_are_counted_once() -> None:
    work = measure.Work([noise(2, 512, 512)], turned(2, 512, 512, 480), torch.float16, channels_last=True)
    assert work.n_bytes == 2 * (512 * 512 * 2 + 480 * 480 * 3 * 2)


def test_median_and_spread() -> None:
    timing = measure.Timing.of([5.0, 1.0, 2.0, 4.0, 3.0])
    assert (timing.n, timing.median_ms, timing.iqr_ms) == (5, 3.0, 2.0)


def test_reading_ncu() -> None:
    text = """==PROF== Connected to process 7
"ID","Kernel Name","dram__bytes.sum","gpu__time_duration.sum","smsp__inst_executed.sum"
"","","Mbyte","us","inst"
"0","transform_tiles","976.5","812.5","1,234"
"""
    found = {"dram_bytes": 976.5e6, "time_ns": 812.5e3, "warp_instructions": 1234.0}
    assert counters.read_ncu(text, counters.METRICS) == found
    assert counters.read_ncu("==ERROR== no permission", counters.METRICS) == {}


def test_a_slice_is_turned_about_its_centre_by_hand() -> None:
    """90 degrees: the first output row reads the last input column, from top to bottom."""
    affine = measure.rotation(90.0)[0]
    scale, last = 512 / 480, 479.0
    first_xy = (scale * last + (scale - 1) / 2, (scale - 1) / 2)
    torch.testing.assert_close(affine @ torch.tensor([0.0, 0.0, 1.0]), torch.tensor(first_xy))
    torch.testing.assert_close(affine @ torch.tensor([last, 0.0, 1.0]), torch.tensor([first_xy[0], first_xy[0]]))
    upright = torch.tensor([[scale, 0, (scale - 1) / 2], [0, scale, (scale - 1) / 2]])
    torch.testing.assert_close(measure.rotation(0.0)[0], upright)


@pytest.mark.parametrize(
    ("statuses", "code"), [([], 1), (["passed"], 0), (["passed", "left out"], 1), (["done before", "overran"], 1)]
)
def test_all_is_well_only_when_every_part_is(
    statuses: list[str], code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    journal = Journal(tmp_path / "figures.jsonl")
    journal.append("figure", part="a", name="b", failed="RuntimeError: c")
    outcomes = [Outcome(f"part {k}", status, 1.0) for k, status in enumerate(statuses)]
    assert check_gpu.conclude(outcomes, journal, is_rehearsal=False) == code
    said = capsys.readouterr().out.splitlines()
    bad = [f"check_gpu: NOT WELL: {outcome}" for outcome in outcomes if not outcome.is_good]
    assert said[:-1] == [*bad, "check_gpu: FAILED: a: b: RuntimeError: c"]


def test_what_stands_in_beyond_the_list_is_not_well(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "figures.jsonl")
    journal.append("stand_in", part="a", name="Nsight Compute")
    assert check_gpu.conclude([Outcome("a", "passed", 1.0)], journal, is_rehearsal=True) == 0
    journal.append("stand_in", part="a", name="everything else")
    assert check_gpu.conclude([Outcome("a", "passed", 1.0)], journal, is_rehearsal=True) == 1


def test_figures_are_made_a_page_afterwards(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("first", "second"):
        Journal(tmp_path / name).append("figure", part=name, name="copy", n=3, median_ms=1.0, iqr_ms=0.5)
    assert check_gpu.main(["--page", str(tmp_path / "first"), str(tmp_path / "second")]) == 0
    shown = capsys.readouterr().out
    assert "## first" in shown
    assert shown.count("| copy | 3 | 1 (0.5) |  |") == 2
