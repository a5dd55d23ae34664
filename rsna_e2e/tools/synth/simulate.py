"""Makes a whole simulated data set in its competition's layout: DICOM files, labels, sample submission, truth."""

import multiprocessing
import os
import shutil
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from rsna_e2e.core.errors import BadInputError, OutOfResourcesError, UsageError
from rsna_e2e.core.files import full_disk_named
from rsna_e2e.core.process import available_cores
from rsna_e2e.core.records import Progress, no_progress
from rsna_e2e.tools.synth.chest.data_set import CTPA
from rsna_e2e.tools.synth.common.kind import Counts, Kind, Plan, StudyTruth
from rsna_e2e.tools.synth.common.plan import Request
from rsna_e2e.tools.synth.head.data_set import HEAD
from rsna_e2e.tools.synth.radiograph.data_set import RADIOGRAPH

FULL_DISK = "the disk is full. A slice takes 0.5 MB, a radiograph 2 MB; free some space and run again"
KINDS = {"head": HEAD, "ctpa": CTPA, "radiograph": RADIOGRAPH}


@dataclass(frozen=True, slots=True, kw_only=True)
class SynthReport:
    """Counts of a simulated data set. label_rates: share of slices (of studies, for theirs) with each label."""

    out: Path
    n_patients: int
    n_studies: int
    n_slices: int
    n_test_studies: int
    n_repeated_images: int
    label_rates: dict[str, float]


def simulate(
    out: Path,
    *,
    n_studies: int,
    seed: int,
    kind: str = "head",
    prevalence: str = "natural",
    context: str = "natural",
    test_fraction: float = 0.2,
    is_thick: bool = False,
    size_px: int | None = None,
    file_format: str | None = None,
    masks: Path | None = None,
    n_jobs: int | None = None,
    progress: Progress = no_progress,
) -> SynthReport:
    """Make `n_studies` studies of a kind (of KINDS) with known truth in the new folder `out`.

    The same arguments give the same bytes for any `n_jobs` (processes; None: one per core). masks: a new folder for
    pictures of where the findings are, of head CT. Folders appear only when they are complete. Raises UsageError on
    impossible arguments, BadInputError when a folder exists or cannot be written, OutOfResourcesError when disk or
    memory run out.
    """
    if n_jobs is not None and n_jobs < 1:
        raise UsageError(f"{n_jobs} processes asked for; give at least 1")
    made = KINDS[kind]
    plans = made.plan(
        Request(
            n_studies=n_studies, seed=seed, prevalence=prevalence, test_fraction=test_fraction, is_thick=is_thick,
            size_px=size_px, file_format=file_format, context=context,
        )
    )  # fmt: skip
    with _new_folders(out, masks, made) as (folder, made):
        truths = _run(made, plans, folder, n_jobs or available_cores(), progress)
        counts = made.write_tables(folder, truths, seed)
    return _report(out, plans, counts)


def _report(out: Path, plans: Sequence[Plan], counts: Counts) -> SynthReport:
    return SynthReport(
        out=out,
        n_patients=len({plan.patient for plan in plans}),
        n_studies=len(plans),
        n_slices=counts.n_slices,
        n_test_studies=sum(plan.is_test for plan in plans),
        n_repeated_images=counts.n_repeated_images,
        label_rates=counts.label_rates,
    )


@contextmanager
def _new_folders(out: Path, masks: Path | None, kind: Kind) -> Iterator[tuple[Path, Kind]]:
    """Yield a temporary folder for `out` with those of its images, and the kind, which writes masks where asked to."""
    with ExitStack() as opened:
        folder = opened.enter_context(_new_folder(out, kind))
        if masks is not None:
            _check_masks(masks, out, kind)
            masked = opened.enter_context(_new_folder(masks, kind))
            kind = replace(kind, make_study=partial(kind.make_study, masks=masked))
        for name in kind.folders:
            (folder / name).mkdir()
        yield folder, kind


def _check_masks(masks: Path, out: Path, kind: Kind) -> None:
    if not kind.has_masks:
        raise UsageError("masks are made of head CT alone; leave --masks out")
    if masks.resolve().is_relative_to(out.resolve()):  # where prepare would take them for images
        raise UsageError(f"--masks {masks}: lies in the folder of the studies. Choose one outside of {out}")


@contextmanager
def _new_folder(out: Path, kind: Kind) -> Iterator[Path]:
    """Yield a temporary folder that becomes `out` when the block succeeds, and is removed when it fails."""
    if os.path.lexists(out):
        way_out = (
            f"Use its studies (rsna-e2e prepare {out} STORE), choose" if (out / kind.folders[0]).is_dir() else "Choose"
        )
        raise BadInputError(
            f"{out}: already exists. {way_out} another folder, such as {out / 'raw'}, or remove it first"
        )
    folder = out.with_name(f"{out.name}.tmp-{os.getpid()}")
    try:
        with full_disk_named(
            out,
            FULL_DISK,
        ):
            folder.mkdir(parents=True)
            yield folder
            folder.rename(out)
    except OSError as error:
        raise BadInputError(f"{out}: cannot be written: {error.strerror}. Choose another folder") from error
    except BrokenProcessPool as error:
        raise OutOfResourcesError(
            f"{out}: a process was killed, probably for lack of memory. Use fewer jobs"
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(kind: Kind, plans: Sequence[Plan], folder: Path, n_jobs: int, progress: Progress) -> list[StudyTruth]:
    """Make all studies; the result is in the order of `plans`."""
    truths: dict[int, StudyTruth] = {}
    n_slices = 0
    for index, truth in _finished(kind, plans, folder, min(n_jobs, len(plans))):
        truths[index] = truth
        n_slices += len(truth.image_ids)
        progress(len(truths), len(plans), f"{n_slices} slices")
    return [truths[plan.index] for plan in plans]


def _finished(kind: Kind, plans: Sequence[Plan], folder: Path, n_jobs: int) -> Iterator[tuple[int, StudyTruth]]:
    if n_jobs == 1:
        for plan in plans:
            yield plan.index, kind.make_study(plan, folder)
        return
    # spawned, not forked: the caller may have started threads; Ctrl-C is the caller's to handle
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(n_jobs, context, signal.signal, (signal.SIGINT, signal.SIG_IGN)) as pool:
        waiting = {pool.submit(kind.make_study, plan, folder): plan.index for plan in plans}
        try:
            for future in as_completed(waiting):
                yield waiting[future], future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
