"""Every verb on a disk that is really full: one line, exit code 5, nothing half-written is taken for whole."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import phantoms
import pytest
import verbs
from training_runs import one_thread

LIMIT_S = 10.0
QUICK = ("prepare", "train", "predict", "bag", "evaluate")
SLICES, SLICE_BYTES = 20, 512 * 512 * 2  # 10 MiB for a disk of 8

# Runs verbs, each with a disk of its own with so many bytes free; torch is imported once, for them all.
FORKS = """
import ctypes, json, os, subprocess, sys
from pathlib import Path
import rsna_e2e.training.train, rsna_e2e.evaluation.report, rsna_e2e.inference.embed
from rsna_e2e.cli import main
disk, told = Path(sys.argv[1]), []
for free, command in json.loads(sys.argv[2]):
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(disk)], check=True)
    (disk / "others").write_bytes(bytes((1 << 20) - free))
    child = os.fork()
    if child == 0:
        for number in (1, 2):
            os.dup2(os.open(f"{sys.argv[3]}/{number}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        rc = main(command)
        sys.stderr.flush()
        ctypes.CDLL(None).exit(rc)  # what libraries do in the end is done, and Python's own tidying, which is slow, not
    rc = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    names = sorted(str(path.relative_to(disk)) for path in disk.rglob("*") if path.is_file())
    subprocess.run(["umount", str(disk)], check=True)
    told.append({"rc": rc, "err": Path(sys.argv[3], "2").read_text(), "names": names})
print(json.dumps(told))
"""
GROW = ["grow"]
# Runs commands on a disk, which grows in between; tells how each ended and what was on the disk.
DRIVER = """
import json, subprocess, sys, time
from pathlib import Path
disk, told = Path(sys.argv[1]), []
for command in json.loads(sys.argv[2]):
    if command == ["grow"]:
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        continue
    began_s = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", *command], capture_output=True, text=True)
    names = sorted(str(path.relative_to(disk)) for path in disk.rglob("*") if path.is_file())
    told.append({"rc": done.returncode, "err": done.stderr, "out": done.stdout, "s": time.perf_counter() - began_s,
                 "names": names})
print(json.dumps(told))
"""

PLAIN = "import sys; from rsna_e2e.cli import main; sys.exit(main(sys.argv[1:]))"
NO_FORECAST = "import shutil; shutil.disk_usage = lambda path: shutil._ntuple_diskusage(1 << 40, 0, 1 << 40); " + PLAIN
# Every series is a shard, and somebody else takes what is left of the disk after the first.
FILLED_MEANWHILE = """
import sys
from contextlib import suppress
from pathlib import Path
from rsna_e2e.core import console
from rsna_e2e.store.prepare import run
from rsna_e2e.cli import main
run.SHARD_BYTES = 1
class Filler:
    def __enter__(self): return self
    def __exit__(self, *_): pass
    def __call__(self, done, total, note=""):
        if note.startswith("pixels"):
            with suppress(OSError), (Path(sys.argv[3]).parent / "others").open("ab", buffering=0) as file:
                while file.write(bytes(1 << 16)): pass
console.progress_bar = lambda title, unit: Filler()
code = main(sys.argv[1:])
(Path(sys.argv[3]).parent / "others").unlink(missing_ok=True)
sys.exit(code)
"""
DAMAGE = """
import sys
from pathlib import Path
(shard,) = Path(sys.argv[1]).glob("shards/*.h5")
content = bytearray(shard.read_bytes())
content[9] ^= 1
shard.write_bytes(content)
"""


def on_a_small_disk(folder: Path, commands: object, *, driver: str = DRIVER) -> list[dict[str, Any]]:
    """Run commands with a tmpfs of 8 MiB at `folder`/disk, which nobody else sees and that goes with them."""

    def alone(script: str) -> list[str]:
        return ["unshare", "--mount", "sh", "-c", f'mount -t tmpfs -o size=8m none "$1" && {script}', "sh"]

    (folder / "disk").mkdir()
    if subprocess.run([*alone("true"), str(folder / "disk")], check=False, capture_output=True).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    command = [
        *alone('exec "$2" -c "$3" "$1" "$4" "$5"'),
        str(folder / "disk"),
        sys.executable,
        driver,
        json.dumps(commands),
        str(folder),
    ]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=one_thread())
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert isinstance(told, list)
    return told


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("disk") / "raw"
    for series in range(4):
        phantoms.write_series(
            folder, name=f"s{series}", n_slices=SLICES // 4, shape=(512, 512), patient_id=f"p{series}"
        )
    return folder


@pytest.mark.parametrize("options", [[], pytest.param(["--compress"], marks=pytest.mark.slow)], ids=["plain", "packed"])
@pytest.mark.parametrize(
    "program",
    [PLAIN, FILLED_MEANWHILE, pytest.param(NO_FORECAST, marks=pytest.mark.slow)],
    ids=["forecast", "filled", "no forecast"],
)
def test_preparing(raw: Path, tmp_path: Path, program: str, options: list[str]) -> None:
    store = str(tmp_path / "disk" / "store")
    command = ["prepare", str(raw), store, "--jobs", "2", *options]
    commands = [[program, *command], GROW, [PLAIN, *command], [PLAIN, "store", "verify", store]]
    full, again, verified = on_a_small_disk(tmp_path, commands)
    assert full["rc"] == 5
    assert full["s"] < LIMIT_S
    (line,) = [line for line in full["err"].splitlines() if line.startswith("rsna-e2e prepare: ")]
    assert f"{store}: the disk is too small: the store needs" in line
    needed = int(line.split("needs ")[1].split(" bytes")[0].replace(",", ""))
    assert SLICES * SLICE_BYTES < needed < 1.1 * SLICES * SLICE_BYTES + (2 << 20)
    assert not [name for name in full["names"] if name.startswith("store/") or ".tmp-" in name]
    assert (again["rc"], verified["rc"]) == (0, 0)
    assert f"intact: {SLICES} slices" in verified["out"]
    assert not [name for name in again["names"] if not name.startswith("store/")]


@pytest.mark.slow
def test_mending(raw: Path, tmp_path: Path) -> None:
    few = tmp_path / "raw"
    few.mkdir()
    for path in sorted(raw.iterdir())[:10]:
        (few / path.name).symlink_to(path)
    store = str(tmp_path / "disk" / "store")
    repair = [PLAIN, "store", "repair", store, str(few)]
    verify = [PLAIN, "store", "verify", store]
    commands = [[PLAIN, "prepare", str(few), store], [DAMAGE, store], repair, verify, GROW, repair, verify]
    made, spoilt, full, damaged, mended, whole = on_a_small_disk(tmp_path, commands)
    assert (made["rc"], spoilt["rc"], damaged["rc"], mended["rc"], whole["rc"]) == (0, 0, 3, 0, 0)
    assert full["rc"] == 5
    assert full["s"] < LIMIT_S
    (line,) = [line for line in full["err"].splitlines() if line.startswith("rsna-e2e store: ")]
    assert f"{store}/shards/00000.h5: the disk is full; mending it needs 5,2" in line
    assert full["names"] == made["names"] == whole["names"]


@pytest.mark.parametrize(
    ("free", "wanted"), [(0, QUICK), *(pytest.param(free, (), marks=pytest.mark.slow) for free in (0, 8192))]
)
def test_every_verb(tmp_path: Path, free: int, wanted: tuple[str, ...]) -> None:
    """Those wanted, of all where there are none; in the slow cases all."""
    disk = str(tmp_path / "disk")
    made = verbs.command_lines(tmp_path / "made")
    lines = [made[name] for name in wanted or made]
    commands = [[word.replace("DISK", disk) for word in command] for command in lines]
    told = on_a_small_disk(tmp_path, [(free, command) for command in commands], driver=FORKS)
    for command, ended in zip(commands, told, strict=True):
        *_, line = ended["err"].splitlines() or [""]
        assert ended["rc"] in ((0, 5) if free else (5,)), (command, ended)
        assert "Traceback" not in ended["err"], ended["err"]
        if ended["rc"]:
            assert line.startswith(f"rsna-e2e {command[0]}: {disk}/"), (command, ended["err"])
            assert "Free some space" in line or "free some space" in line
        assert not [name for name in ended["names"] if ".tmp-" in name], (command, ended["names"])
