"""What a training run leaves behind beside its weights: metrics.jsonl, TensorBoard events, manifest."""

import json
import os
import platform
import shutil
import time
from pathlib import Path
from types import TracebackType

import torch
from torch.utils.tensorboard import SummaryWriter

from rsna_e2e import __version__
from rsna_e2e.config import RunConfig, save_config
from rsna_e2e.device import Compute
from rsna_e2e.errors import UsageError
from rsna_e2e.files import make_folder, write_json


class RunLog:
    """A run folder being written: config.yaml, manifest.json, metrics.jsonl, tensorboard/.

    A run folder that already holds files is refused with UsageError. A run that fails before its first checkpoint
    leaves no folder behind.
    """

    def __init__(self, run: Path, config: RunConfig, *, data_hash: str, compute: Compute, loader: str) -> None:
        if run.exists() and (not run.is_dir() or any(run.iterdir())):
            raise UsageError(f"{run}: already exists. Choose another run folder, or remove it first")
        self.run, self.data_hash = run, data_hash
        make_folder(run)
        save_config(config, path=run / "config.yaml")
        manifest = {
            "rsna_e2e": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            "compute": str(compute),
            "loader": loader,
            "threads": torch.get_num_threads(),
            "seed": config.seed,
            "data_hash": data_hash,
            "started_utc": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        write_json(run / "manifest.json", manifest)
        self._metrics = (run / "metrics.jsonl").open("a", buffering=1)
        self._tensorboard = SummaryWriter(str(run / "tensorboard"))

    def write(self, kind: str, step: int, **values: float) -> None:
        """Append one line to metrics.jsonl and one scalar per value to TensorBoard, named kind/value."""
        self._metrics.write(json.dumps({"kind": kind, "step": step, **values}) + "\n")
        for name, value in values.items():
            self._tensorboard.add_scalar(f"{kind}/{name}", value, step)

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._metrics.close()
        self._tensorboard.close()
        if kind is not None and not (self.run / "checkpoints").exists():
            shutil.rmtree(self.run)
