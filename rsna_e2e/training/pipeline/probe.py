"""Measures how fast this machine goes through the kinds of steps of a plan, each for some seconds."""

import math
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from rsna_e2e.config import RunConfig
from rsna_e2e.core.console import number
from rsna_e2e.core.device import choose_device_type
from rsna_e2e.core.process import available_cores
from rsna_e2e.core.records import Modality, RawFile, Refusal
from rsna_e2e.dicom import read_values, refuse_on_error
from rsna_e2e.dicom.modalities import read_any_headers
from rsna_e2e.dicom.sources.files import Source, open_source
from rsna_e2e.store.prepare import modality_of
from rsna_e2e.training.pipeline.model_sizes import ModelSizes
from rsna_e2e.training.pipeline.planned_step import JOINING, PlannedStep
from rsna_e2e.training.pipeline.rates import PREPARED_PER_S, Basis
from rsna_e2e.training.series_step import SeriesStep

BUDGET_S = 30.0  # for a kind of step, and what it takes to set it up once more
FILES = 32
TURNS = 3  # the first is warm-up
FEW_IMAGES, IMAGES = 2, 16  # slices of a turn: to find out how many there is time for; at most
EMBEDDINGS = 128  # about a batch: a step of the optimiser, over all weights of a head, takes most of the time

Say = Callable[[str], None]


class Probe:
    """Rates of this machine, slices/s, each measured once for a kind of step and a model.

    raw: files to read, if they are here. say: told what is measured. is_rough: a measurement ended before it had as
    many slices and turns as it should, because its time was up.
    """

    def __init__(self, steps: Sequence[PlannedStep], sizes: ModelSizes, *, raw: Path | None, device: str, say: Say):
        self._sizes, self._raw, self._device, self._say = sizes, raw, device, say
        kinds = {self._kind(step): step for step in reversed(steps) if step.verb not in JOINING}
        self._steps = dict(reversed(kinds.items()))
        self._rates: dict[str, float] = {}
        self.is_rough = False

    def run(self) -> Basis:
        """Measure every kind of step, in the order of the plan."""
        n_kinds = len(self._steps)
        self._say(
            f"measuring the time of {n_kinds} kinds of steps, about {BUDGET_S:.0f} s each at most (Ctrl-C ends it)"
        )
        startup_s = _startup_s()
        for place, (kind, step) in enumerate(self._steps.items(), start=1):
            began_s = time.monotonic()
            self._say(f"[{place}/{n_kinds}] {kind} ...")
            self._rates[kind], is_whole = self._measure(step)
            rough = "" if is_whole else "; probe stopped at its limit: rough"
            self.is_rough |= not is_whole
            rate = f"{number(self._rates[kind])} slices/s"
            self._say(f"[{place}/{n_kinds}] {kind}: {rate} ({time.monotonic() - began_s:.0f} s{rough})")
        note = "measured: here, by a probe of some seconds" + (", rough" if self.is_rough else "")
        return Basis(name="measured", note=note, rate=self.rate, startup_s=startup_s)

    def rate(self, step: PlannedStep) -> float:
        """Slices of a step in a second; infinite where it takes next to no time."""
        return math.inf if step.verb in JOINING else self._rates[self._kind(step)]

    def _kind(self, step: PlannedStep) -> str:
        settings = self._sizes.settings_of(step)
        if settings is None:
            return "prepare"
        model = settings.model
        what = f"{model.backbone}, {settings.image.size} px" if model.backbone != "none" else "head on embeddings"
        return f"{step.verb}, {what}" + (", with head" if model.backbone != "none" and model.head != "none" else "")

    def _measure(self, step: PlannedStep) -> tuple[float, bool]:
        settings = self._sizes.settings_of(step)
        if settings is None:
            if self._raw is None or open_source(self._raw).has_shards:
                return PREPARED_PER_S, False
            assert step.task is not None, "a store is made for a task"
            return _files_per_s(self._raw, modality_of(step.task)), True
        is_on_embeddings = settings.model.backbone == "none"
        deadline_s = time.monotonic() + BUDGET_S

        def series(n_slices: int) -> Callable[[], object]:
            step_of = SeriesStep(
                _in_one_chunk(settings, n_slices, self._device),
                n_slices=n_slices,
                n_channels=self._sizes.n_features if is_on_embeddings else None,
                device=self._device,
            )

            def turn() -> None:
                (step_of.train if step.verb == "train" else step_of.infer)()
                step_of.synchronise()

            return turn

        few, most = (EMBEDDINGS, EMBEDDINGS) if is_on_embeddings else (FEW_IMAGES, IMAGES)
        return slices_per_s(series, few=few, most=most, deadline_s=deadline_s)


def slices_per_s(
    work: Callable[[int], Callable[[], object]],
    *,
    few: int,
    most: int,
    deadline_s: float,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[float, bool]:
    """Return the rate of work on `most` slices, or on `few` where there is no time for more; and whether there was, and
    for a second turn.

    work: prepares work on so many slices, and returns a function that does it once. deadline_s: by `clock`, at which
    all turns shall be over, but for a first.
    """
    n, began_s = few, clock()
    turn = work(n)
    setup_s = clock() - began_s
    times_s = [_time(turn, clock)]
    if n < most and clock() + setup_s + TURNS * times_s[0] * most / n < deadline_s:
        del turn  # and the model in it
        n, turn, times_s = most, work(most), []
    while len(times_s) < TURNS and (not times_s or clock() + times_s[-1] < deadline_s):
        times_s.append(_time(turn, clock))
    return n / min(times_s[1:] or times_s), n == most and len(times_s) > 1


def _time(turn: Callable[[], object], clock: Callable[[], float]) -> float:
    began_s = clock()
    turn()
    return clock() - began_s


def _in_one_chunk(settings: RunConfig, n_slices: int, device: str) -> RunConfig:
    """The settings on a GPU as they are. On a CPU the slices of a turn are one chunk: to measure what fits takes as
    long as the probe may."""
    if choose_device_type(device) == "cuda":
        return settings
    return settings.model_copy(update={"chunk": n_slices, "graph_slices": n_slices})


def _startup_s() -> float:
    """Time that a process takes before it can begin, s."""
    return _time(
        lambda: subprocess.run([sys.executable, "-c", "import rsna_e2e.training.train"], check=True), time.monotonic
    )


def _files_per_s(raw: Path, modality: Modality) -> float:
    """Files that all cores read in a second."""
    source = open_source(raw)
    files = source.find()[0]
    chosen = [files[i] for i in np.linspace(0, len(files) - 1, FILES).astype(int)]
    began_s = time.monotonic()
    for raw_file in chosen:
        _read(source, raw_file, modality)
    return available_cores() * len(chosen) / (time.monotonic() - began_s)


def _read(source: Source, raw_file: RawFile, modality: Modality) -> None:
    """Read a file whole, as prepare does; whether it would be taken makes no difference here."""

    def read() -> None:
        with source.open(raw_file) as stream:
            headers = read_any_headers(stream, raw_file, modality)
            if not isinstance(headers, Refusal):
                read_values(stream, raw_file, headers[0])

    refuse_on_error(raw_file.name, read)
