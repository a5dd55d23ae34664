"""Estimates the slices, disk space and time that a plan will take, the last by a short measurement on this machine."""

# F features of a backbone

import math
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from rsna_e2e.config import RunConfig
from rsna_e2e.core.errors import BadInputError
from rsna_e2e.core.files import real_path
from rsna_e2e.core.process import available_cores
from rsna_e2e.core.records import RawFile, Refusal
from rsna_e2e.dicom import read_headers, read_hounsfield, refuse_on_error
from rsna_e2e.dicom.sources.files import Source, open_source
from rsna_e2e.loader.holdout import hold_out
from rsna_e2e.model.network import JointModel
from rsna_e2e.store import Store
from rsna_e2e.store.embeddings import MANIFEST, read_manifest
from rsna_e2e.store.prepare import find_labels
from rsna_e2e.tasks.labels import read_labels
from rsna_e2e.tasks.task import get_task
from rsna_e2e.training.pipeline.plan import Folders, PlannedStep
from rsna_e2e.training.pipeline.run import Pipeline, Standing
from rsna_e2e.training.series_step import SeriesStep

PROBE_SLICES = 16
PROBE_FILES = 32
PROBE_TURNS = 3  # the first is warm-up
BYTES_PER_SLICE = 512 * 512 * 2  # int16
HELD_OUT = 0.2  # of the labelled slices, before folds are assigned: one of five
STATE = 3  # an optimiser of Adam's kind keeps two numbers for each weight
N_KEPT = 2  # epochs of a head that has predicted: the last and the best
BYTES_PER_PREDICTION = 60  # a line of a submission, and its cell of the table

Rate = Callable[[PlannedStep], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A step's slices, the bytes that it leaves, and its time, s; the last NaN where nothing was probed."""

    standing: Standing
    n_slices: int
    n_bytes: int
    time_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """All steps, and the bytes that are free where they go."""

    lines: tuple[Line, ...]
    free_bytes: int

    @property
    def n_bytes(self) -> int:
        """Bytes of the steps that are to be run."""
        return sum(line.n_bytes for line in self.lines if line.standing.is_needed)

    @property
    def time_s(self) -> float:
        """Time of the steps that are to be run, s."""
        return sum(line.time_s for line in self.lines if line.standing.is_needed)


class _Counts:
    """How many slices there are: from the store, or else from the files and the label file."""

    def __init__(self, folders: Folders, *, task_name: str) -> None:
        self._store = Store.open(folders.store) if folders.store.exists() else None
        if self._store is not None:
            self.n_slices = len(self._store)
            self.n_test = sum(s.n_slices for s in self._store.series if s.split == "test")
            return
        assert folders.raw is not None
        self.n_slices = len(open_source(folders.raw).find()[0])
        if self.n_slices == 0:
            raise BadInputError(f"{folders.raw}: holds no files. Give the folder or archive of DICOM files")
        labels = folders.labels or find_labels(folders.raw)
        labelled = len(read_labels(labels, get_task(task_name)).image_ids) if labels else 0
        self.n_test = max(self.n_slices - labelled, 0)

    def of(self, step: PlannedStep) -> int:
        """Slices of one round of a step."""
        match step.verb:
            case "train":
                assert step.settings is not None
                return self._to_train_on(step.settings)
            case "predict" | "bag":
                return self.n_test
        return self.n_slices

    def _to_train_on(self, config: RunConfig) -> int:
        if self._store is None:
            share = 1.0 if config.validation_fold is None else 1.0 - HELD_OUT
            return round(share * (self.n_slices - self.n_test))
        training, _ = hold_out(self._store, config)
        return sum(self._store.series[position].n_slices for position in training)


def forecast(pipeline: Pipeline, *, device: str = "auto", probe: bool = True) -> Forecast:
    """Estimate what the steps of a pipeline take. probe: compute for some seconds, to estimate the time."""
    settings = [step.settings for step in pipeline.steps if step.settings is not None]
    counts = _Counts(pipeline.folders, task_name=settings[0].task)
    sizes = _Sizes(pipeline.steps)
    rate = _Probe(pipeline, sizes, device=device).rate if probe else lambda step: math.nan
    startup_s = _startup_s() if probe else math.nan
    lines = []
    for standing in pipeline.standings():
        step = standing.step
        n_slices = counts.of(step) * step.scale
        n_bytes = _bytes(step, n_slices, sizes)
        time_s = startup_s + n_slices / rate(step) if standing.is_needed else 0.0
        lines.append(Line(standing=standing, n_slices=n_slices, n_bytes=n_bytes, time_s=time_s))
    existing = next(p for p in (pipeline.folders.out, *real_path(pipeline.folders.out).parents) if p.exists())
    return Forecast(lines=tuple(lines), free_bytes=shutil.disk_usage(existing).free)


class _Sizes:
    """Widths and weights of the models of a plan; nothing is allocated."""

    def __init__(self, steps: Sequence[PlannedStep]) -> None:
        self._steps = {step.name: step for step in steps}
        images = [s.settings for s in steps if s.settings is not None and s.settings.model.backbone != "none"]
        stored = [path.parent for step in steps for path in step.inputs if path.name == MANIFEST]
        self.n_features: int | None = None
        if images:
            self.n_features = _on_meta(images[0], n_features=None).n_features
        elif stored:
            self.n_features = read_manifest(stored[0]).width

    def settings_of(self, step: PlannedStep) -> RunConfig | None:
        """The settings of a step's model: its own, or those of the training that it comes after."""
        if step.settings is not None:
            return step.settings
        return next((s.settings for name in step.depends if (s := self._steps[name]).settings is not None), None)

    def n_weights(self, config: RunConfig) -> int:
        """Number of weights of a model."""
        model = _on_meta(config, n_features=self.n_features)
        return sum(weight.numel() for weight in model.parameters())


def _on_meta(config: RunConfig, *, n_features: int | None) -> JointModel:
    task = get_task(config.task)
    n_channels = None if config.model.backbone != "none" else n_features or 1
    with torch.device("meta"):
        return JointModel.for_task(config.model.without_initial_weights(), task, n_channels=n_channels)


def _bytes(step: PlannedStep, n_slices: int, sizes: _Sizes) -> int:
    match step.verb:
        case "prepare":
            return n_slices * BYTES_PER_SLICE
        case "train":
            assert step.settings is not None
            n_kept = N_KEPT if step.settings.model.backbone == "none" else step.scale
            return sizes.n_weights(step.settings) * 4 * STATE * min(n_kept, step.scale)
        case "embed":
            return n_slices * (sizes.n_features or 0) * 4
    return n_slices // step.scale * BYTES_PER_PREDICTION


class _Probe:
    """Rates of this machine, slices/s, each measured once for a kind of step and a model."""

    def __init__(self, pipeline: Pipeline, sizes: _Sizes, *, device: str) -> None:
        self._pipeline, self._sizes, self._device = pipeline, sizes, device
        self._known: dict[str, float] = {}

    def rate(self, step: PlannedStep) -> float:
        """Slices of a step in a second; infinite where it takes next to nothing."""
        if step.verb == "bag":
            return math.inf
        settings = self._sizes.settings_of(step)
        key = f"{step.verb} {settings.model if settings else ''} {settings.image.size if settings else ''}"
        if key not in self._known:
            self._known[key] = self._measure(step, settings)
        return self._known[key]

    def _measure(self, step: PlannedStep, settings: RunConfig | None) -> float:
        if step.verb == "prepare":
            return _files_per_s(self._pipeline.folders)
        assert settings is not None
        is_on_embeddings = settings.model.backbone == "none"
        n_channels = self._sizes.n_features if is_on_embeddings else None
        series = SeriesStep(settings, n_slices=PROBE_SLICES, n_channels=n_channels, device=self._device)
        work = series.train if step.verb == "train" else series.infer
        return PROBE_SLICES / _shortest_s(work, series.synchronise)


def _shortest_s(work: Callable[[], object], synchronise: Callable[[], None]) -> float:
    times_s = []
    for _ in range(PROBE_TURNS):
        began_s = time.perf_counter()
        work()
        synchronise()
        times_s.append(time.perf_counter() - began_s)
    return min(times_s[1:])


def _startup_s() -> float:
    """Time that a process takes before it can begin, s."""
    began_s = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import rsna_e2e.training.train"], check=True)
    return time.perf_counter() - began_s


def _files_per_s(folders: Folders) -> float:
    """Files that all cores read in a second."""
    assert folders.raw is not None
    source = open_source(folders.raw)
    files = source.find()[0]
    chosen = [files[i] for i in np.linspace(0, len(files) - 1, PROBE_FILES).astype(int)]
    began_s = time.perf_counter()
    for raw_file in chosen:
        _read(source, raw_file)
    return available_cores() * len(chosen) / (time.perf_counter() - began_s)


def _read(source: Source, raw_file: RawFile) -> None:
    """Read a file whole, as prepare does; whether it would be taken makes no difference here."""

    def read() -> None:
        with source.open(raw_file) as stream:
            headers = read_headers(stream, raw_file)
            if not isinstance(headers, Refusal):
                read_hounsfield(stream, raw_file, headers[0])

    refuse_on_error(raw_file.name, read)
