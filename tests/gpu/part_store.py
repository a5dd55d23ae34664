"""Parts on a simulated store, which lies in memory: training end to end with DALI and without, and memory over time."""

import os
import shutil
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from context import Context, MissingError, store_folder
from devices import Device, device_of
from scales import SCALES, Scale

from rsna_e2e.config import load_config
from rsna_e2e.core.process import Memory
from rsna_e2e.loader.image_loader import ImageLoader
from rsna_e2e.store import Store
from rsna_e2e.store.prepare import prepare
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.tools.bench.train import bench_train
from rsna_e2e.tools.synth.simulate import simulate

SEED, EPOCH = 7, 1
RECIPE = "reference"
MOST_SERIES = 8  # in a batch whose memory is watched: 20 to some 300 slices
SETTLED = 0.25  # of the batches: by then pools have what they need


def store(context: Context) -> None:
    """Simulate studies as DICOM and prepare a store of them, on all cores."""
    folder, scale = store_folder(context.scratch, is_rehearsal=context.is_rehearsal), SCALES[context.scale_name]
    if (folder / "store/store.json").is_file():  # of an earlier command on this machine
        return
    shutil.rmtree(folder, ignore_errors=True)

    def simulated() -> dict[str, Any]:
        began_s = time.perf_counter()
        simulate(folder / "raw", n_studies=scale.n_studies, seed=SEED, prevalence="demo", test_fraction=0.0)
        return _rate(len(list((folder / "raw").rglob("*.dcm"))), began_s)

    def prepared() -> dict[str, Any]:
        began_s = time.perf_counter()
        prepare(folder / "raw", folder / "store", task=ICH, n_folds=1)
        with closing(Store.open(folder / "store")) as made:
            return _rate(len(made), began_s)

    context.take(f"simulating {scale.n_studies} studies, n = 1", simulated)
    context.take("preparing a store of them, n = 1", prepared)
    shutil.rmtree(folder / "raw")


def _rate(n_slices: int, began_s: float) -> dict[str, Any]:
    elapsed_s = time.perf_counter() - began_s
    return {"n_slices": n_slices, "slices_per_s": n_slices / elapsed_s, "cores": len(os.sched_getaffinity(0))}


def end_to_end_dali(context: Context) -> None:
    """Training with DALI's loader, as a share of training on batches that lie ready."""
    _end_to_end(context, "dali")


def end_to_end_torch(context: Context) -> None:
    """The same with the loader in plain torch."""
    _end_to_end(context, "torch")


def _end_to_end(context: Context, backend: str) -> None:
    scale, path = SCALES[context.scale_name], _made_store(context)

    def measure() -> dict[str, Any]:
        found = bench_train(
            path,
            recipe=RECIPE,
            overrides=[*scale.settings, f"loader.backend={backend}"],
            steps=scale.turn_steps,
            rounds=scale.rounds,
            device=context.kind,
        )
        (phase,) = found.phases
        rates = {name: getattr(phase, name) for name in ("resident", "loader", "end_to_end")}
        return {
            "n": phase.share.n,
            **{f"{name}_slices_per_s": rate.median for name, rate in rates.items()},
            **{f"{name}_iqr": rate.iqr for name, rate in rates.items()},
            "share": phase.share.median,
            "share_iqr": phase.share.iqr,
            "bottleneck": phase.bottleneck,
            "compute": found.compute,
        }

    context.take(f"end to end, {backend}, recipe {RECIPE}", measure)


def memory(context: Context) -> None:
    """Memory of the device and the process over many batches of mixed lengths, with each loader."""
    scale, device, path = SCALES[context.scale_name], device_of(context.kind), _made_store(context)
    for backend in ("dali", "torch"):
        name = f"memory over {scale.n_batches} batches of mixed lengths, {backend}"
        context.take(name, lambda backend=backend: watch_memory(path, backend, device, scale))


def watch_memory(path: Path, backend: str, device: Device, scale: Scale) -> dict[str, Any]:
    """What is taken before, when pools have settled, at the end, and at most, MiB."""
    config = load_config(RECIPE, [*scale.settings, f"loader.backend={backend}"])
    with closing(Store.open(path)) as opened:
        loader = ImageLoader(opened, config, task=ICH, device=torch.device(device.kind), dtype=torch.float16)
        rng, positions = np.random.default_rng(SEED), range(len(opened.series))
        sizes = rng.integers(1, min(MOST_SERIES, len(positions)) + 1, scale.n_batches)
        batches = [tuple(rng.choice(positions, size, replace=False).tolist()) for size in sizes]
        before, host_before = device.used_mib(), Memory.read().now_mib
        used, host = [], []
        for _ in loader.load(batches, epoch=EPOCH):
            used.append(device.used_mib())
            host.append(Memory.read().now_mib)
    settled = int(SETTLED * len(used))
    return {
        "n_batches": len(used),
        "most_slices": max(map(loader.n_slices, batches)),
        **{"device_before_mib": before, "device_settled_mib": used[settled], "device_end_mib": used[-1]},
        **{"device_peak_mib": max(used), "host_before_mib": host_before},
        **{"host_settled_mib": host[settled], "host_end_mib": host[-1]},
    }


def _made_store(context: Context) -> Path:
    path = store_folder(context.scratch, is_rehearsal=context.is_rehearsal) / "store"
    if not path.is_dir():
        raise MissingError(f"{path}: the part that makes the store has not")
    return path
