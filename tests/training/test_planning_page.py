"""docs/planning.md: its commands run as they stand, and its tables are what they print and what the code chooses."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import small
import torch

from rsna_e2e.cli.program import main
from rsna_e2e.config import load_config
from rsna_e2e.core.device import check_compute, choose_compute
from rsna_e2e.core.errors import MissingCapabilityError
from rsna_e2e.training.pipeline.devices import DEVICES
from rsna_e2e.training.pipeline.probe import Probe
from rsna_e2e.training.pipeline.rates import PREPARED_PER_S, Basis

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "planning.md"
RSNA_2019 = ("--slices", "874035", "--series", "25272", "--test-slices", "121232", "--dry-run")
TRAIN, ALL = 752_803, 874_035

# Of the table of forecasts: the devices of its columns of times
GPUS = {"4 x V100": ("v100", "4"), "1 x V100": ("v100", "1"), "1 x A100": ("a100", "1"), "1 x H200": ("h200", "1")}


def blocks() -> list[tuple[str, str]]:
    """The bash blocks that are marked to be run, each with the text block after it, if there is one."""
    pattern = r"<!-- run[^>]*-->\n```bash\n(.*?)```\n(?:\n```text\n(.*?)```)?"
    return [(command, output) for command, output in re.findall(pattern, PAGE.read_text(), flags=re.DOTALL)]


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main([*words]) == 0
    return capsys.readouterr().out


def rows_after(mark: str) -> list[str]:
    """The lines of the table that follows a comment."""
    lines = PAGE.read_text().split(f"<!-- {mark} -->\n\n")[1].splitlines()
    return lines[: lines.index("")]


def forecasts(capsys: pytest.CaptureFixture[str]) -> Iterator[str]:
    """The table of forecasts, of what the commands print."""
    columns = ("mode", "steps", "disk at most", "stays", "4 x V100, published", *GPUS)
    yield f"| {' | '.join(columns)} |"
    yield "|---" * len(columns) + "|"
    for mode in ("joint", "single", "full", "fast"):
        cells: list[str] = []
        for device, n_gpus in GPUS.values():
            options = ("--recipe", "reference", "--device", device, "--gpus", n_gpus)
            shown = printed(capsys, "pipeline", mode, *options, *RSNA_2019)
            (line,) = re.findall(r"\ntime: (.*)\n", shown)
            by_basis = {basis: time for time, basis in re.findall(r"([\d.]+ \w+) (published|modelled)", line)}
            if not cells:
                (steps,) = re.findall(r"to be run: \d+ of (\d+) steps", shown)
                (disk,) = re.findall(r"disk: (\S+ GB) needed; (\S+ GB) stay", shown)
                cells = [steps, *disk, by_basis.get("published", "-")]
            cells.append(by_basis["modelled"])
        yield f"| {mode} | {' | '.join(cells)} |"


def chunks(capsys: pytest.CaptureFixture[str]) -> Iterator[str]:
    """The table of chunks, of what the commands print."""
    yield "| device | memory needed, joint | chunk, joint | chunk, image classifier of single and full |"
    yield "|---|---|---|---|"
    for name, device in DEVICES.items():
        cells = []
        for mode in ("joint", "single"):
            shown = printed(capsys, "pipeline", mode, "--recipe", "reference", "--device", name, *RSNA_2019)
            (line,) = re.findall(r"GPU memory: (\S+ GB) needed.*chunk=auto takes (\d+) slices", shown)
            cells += line if mode == "joint" else line[1:]
        yield f"| {device.title} | {' | '.join(cells)} |"


def test_the_table_of_forecasts_is_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert rows_after("forecasts") == list(forecasts(capsys))


def test_the_table_of_chunks_is_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert rows_after("chunks") == list(chunks(capsys))


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that the commands are run in: with DICOM files in `raw`."""
    small.write_raw(tmp_path / "raw")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("data")
def test_the_commands_print_what_the_page_shows(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = Basis(name="measured", note="measured: here", rate=lambda step: 1.0)
    monkeypatch.setattr(Probe, "run", lambda probe: measured)
    assert len(blocks()) == PAGE.read_text().count("```bash") == 3
    for command, output in blocks():
        for line in command.splitlines():
            words = shlex.split(line, comments=True)
            assert words[0] == "rsna-e2e"
            shown = printed(capsys, *words[1:])
            assert output in ("", shown)


@pytest.mark.slow
def test_the_commands_run_in_a_shell(data: Path) -> None:
    for command, output in blocks():
        path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
        environment = {"PATH": path, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            ["bash", "-ec", command], cwd=data, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert output in ("", done.stdout)


def test_precision_and_compilation_are_those_that_the_code_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    table = PAGE.read_text().split("| device | compute capability |")[1].split("\n\n")[0].splitlines()[2:]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_70", "sm_90"])
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    said = {}
    for row in table:
        device, capability, precision, compiles = (cell.strip() for cell in row.strip("|").split("|"))
        if not capability:
            continue
        major, minor = map(int, capability.split("."))
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda gpu, found=(major, minor): found)
        compute = choose_compute("auto", "cuda")
        assert precision.split(",")[0] == compute.precision
        assert ("with loss scaling" in precision) == compute.needs_scaler
        if compiles != "possible":
            with pytest.raises(MissingCapabilityError, match="compile=true"):
                check_compute(compute, compiles=True)
        said[major, minor] = compute.precision, compiles == "possible"
    assert {capability for capability, (_, compiles) in said.items() if not compiles} == {(7, 0)}
    for device in DEVICES.values():
        assert said[device.capability][0] == device.precision


def test_precision_of_a_cpu_is_what_the_code_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    page = PAGE.read_text()
    for works, row in ((True, "| CPU with AMX that works | | bf16 |"), (False, "| other CPUs | | fp32 |")):
        monkeypatch.setattr("rsna_e2e.core.device._usable_amx", lambda works=works: works)
        assert row in page
        assert choose_compute("auto", "cpu").precision == row.split("|")[3].strip()


def test_numbers_of_the_data_by_hand() -> None:
    """Sizes from shapes, hours from measured rates."""
    page = PAGE.read_text()
    config = load_config("demo")
    assert config.slice_phase is not None
    epochs = config.epochs + config.slice_phase.epochs
    for said in (
        f"874,035: {TRAIN:,} with labels, {ALL - TRAIN:,} to predict",
        f"25,272, of {ALL / 25272:.1f} slices on average",
        f"{ALL * 512 * 512 * 2 / 1e9:.0f} GB: 512 x 512 int16",
        f"{ALL / PREPARED_PER_S / 60:.1f} minutes of computing: {PREPARED_PER_S:,.0f} slices/s",
        f"| {ALL * 2048 * 4 / 1e9:.1f} GB; in mode full 30 epochs in three views: {90 * ALL * 2048 * 4 / 1e9:.0f} GB",
        "image classifier 1.04 GB, recurrent head 3.22 GB, joint model 4.26 GB",
        f"{epochs * TRAIN / 249 / 3600:.1f} hours: {epochs} epochs at 249 slices/s",
    ):
        assert said in page
    for n_weights, said in ((86_742_336 + 6 * 2049, "1.04"), (268_533_766, "3.22"), (355_276_102, "4.26")):
        assert f"{n_weights * 3 * 4 / 1e9:.2f}" == said  # the weight and Adam's two moments
