"""Checkpoints under kills and on a disk that is really full."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

N_KILLS = 20

# Saves as fast as it can in child after child, and kills each at a random moment. Weights are the step's number.
KILLS = """
import json, os, random, signal, sys, time
from pathlib import Path
import torch
from rsna_e2e.training.checkpoint import CheckpointState, load_model, save_checkpoint, valid_checkpoints

run, rng, seen = Path(sys.argv[1]), random.Random(0), []
torch.set_num_threads(1)

def save(step):
    model = torch.nn.Linear(100, 100)
    torch.nn.init.constant_(model.weight, step)
    save_checkpoint(run, CheckpointState(step=step, epoch=1, phase="series", data_hash="d"), model=model)

def save_forever(step):
    while True:
        step += 1
        save(step)

for _ in range(int(sys.argv[2])):
    child = os.fork()
    if child == 0:
        save_forever(seen[-1]["step"] if seen else 0)
    while not seen and not list(run.glob("checkpoints/step-*[0-9]")):
        time.sleep(0.001)
    time.sleep(rng.uniform(0, 0.05))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    damaged = []
    newest = next(valid_checkpoints(run, on_damaged=lambda error: damaged.append(str(error))))
    model = torch.nn.Linear(100, 100)
    load_model(model, newest.folder)
    leftovers = [path.name for path in (run / "checkpoints").glob("*.tmp-*")]
    right = bool((model.weight == newest.state.step).all())
    seen.append({"step": newest.state.step, "right": right, "damaged": damaged, "leftovers": leftovers})
save(seen[-1]["step"] + 1)
print(json.dumps([seen, len(list((run / "checkpoints").iterdir()))]))
"""

# Saves until the disk is full, and says what is there then.
FULL_DISK = """
import json, sys
from pathlib import Path
import torch
from rsna_e2e.training.checkpoint import CheckpointState, load_model, save_checkpoint, valid_checkpoints
from rsna_e2e.core.errors import OutOfResourcesError

run, model, saved, error = Path(sys.argv[1]) / "run", torch.nn.Linear(250, 250), 0, None
while error is None and saved < 99:
    state = CheckpointState(step=saved + 1, epoch=1, phase="series", data_hash="d")
    try:
        save_checkpoint(run, state, model=model, keep_last=99)
        saved += 1
    except OutOfResourcesError as full:
        error = str(full)
for found in valid_checkpoints(run):
    load_model(torch.nn.Linear(250, 250), found.folder)
names = sorted(path.name for path in (run / "checkpoints").iterdir())
print(json.dumps({"saved": saved, "error": error, "names": names}))
"""


def test_a_kill_at_any_moment_leaves_a_whole_newest_checkpoint(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLS, str(tmp_path), str(N_KILLS)]
    seen, n_folders = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert len(seen) == N_KILLS
    assert all(kill["right"] and not kill["damaged"] for kill in seen)
    steps = [kill["step"] for kill in seen]
    assert steps == sorted(steps)
    assert any(kill["leftovers"] for kill in seen)  # some were killed while they wrote
    assert n_folders == 2  # the next whole save took all that away, but the last two


def test_a_disk_that_is_full_keeps_the_checkpoints_there_are(tmp_path: Path) -> None:
    def alone(script: str) -> list[str]:  # a tmpfs that nobody else sees, and that goes with the process
        return ["unshare", "--mount", "sh", "-c", f'mount -t tmpfs -o size=1m none "$1" && {script}', "sh"]

    if subprocess.run([*alone("true"), str(tmp_path)], check=False, capture_output=True).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    command = [*alone('exec "$2" -c "$3" "$1"'), str(tmp_path), sys.executable, FULL_DISK]
    result = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert result["saved"] == 4  # of 251,000 bytes on 1 MiB
    assert "step-00000005-epoch-001: the disk is full; a checkpoint needs 251,000 bytes" in result["error"]
    assert result["names"] == [f"step-0000000{step}-epoch-001" for step in (1, 2, 3, 4)]
