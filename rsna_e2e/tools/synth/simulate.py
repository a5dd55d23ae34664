"""The whole simulated data set in the competition's layout: DICOM files, labels, sample submission, ground truth."""

import multiprocessing
import os
import shutil
import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rsna_e2e.core.errors import BadInputError, OutOfResourcesError, UsageError
from rsna_e2e.core.files import as_json, atomic_writer, full_disk_named
from rsna_e2e.core.process import available_cores
from rsna_e2e.core.records import Float64Array, Progress, no_progress
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.tasks.labels import write_labels
from rsna_e2e.tasks.task import Task
from rsna_e2e.tools.synth.plan import StudyPlan, make_id, plan_studies, stream
from rsna_e2e.tools.synth.study import (
    MAX_VISIBLE_HU,
    MIN_CONTRAST_HU,
    MIN_OVER_GREY_HU,
    MIN_VISIBLE_MM2,
    draw_scene,
    make_images,
)
from rsna_e2e.tools.synth.write import SeriesWriter

TRAIN_IMAGES = "stage_2_train_images"
TEST_IMAGES = "stage_2_test_images"
TRAIN_LABELS = "stage_2_train.csv"
SAMPLE_SUBMISSION = "stage_2_sample_submission.csv"
TEST_TRUTH = "stage_2_test_truth.csv"
STUDY_TRUTH = "stage_2_truth.json"
N_REPEATED_IMAGES = 4  # images of the competition's data whose label rows stand there twice
SLICES_PER_STUDY_BITS = 6  # ids are given to 64 numbers per study; a series has at most 60 slices


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyTruth:
    """Ground truth of one study. labels [N, L] go with image_ids, in the order of acquisition."""

    patient_id: str
    study_uid: str
    series_uid: str
    is_test: bool
    image_ids: tuple[str, ...]
    labels: Float64Array
    bleeds: tuple[dict[str, str | float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SynthReport:
    """Counts of a simulated data set. label_rates: share of all slices with each label."""

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
    prevalence: str = "natural",
    test_fraction: float = 0.2,
    n_jobs: int | None = None,
    progress: Progress = no_progress,
) -> SynthReport:
    """Make `n_studies` head CT studies with known truth in the new folder `out`.

    The same arguments give the same bytes for any `n_jobs` (processes; None: one per core). `progress` counts studies.
    The folder appears only when it is complete. Raises UsageError on impossible arguments, BadInputError when `out`
    exists or cannot be written, OutOfResourcesError when disk or memory run out.
    """
    if n_jobs is not None and n_jobs < 1:
        raise UsageError(f"{n_jobs} processes asked for; give at least 1")
    plans = plan_studies(n_studies, seed=seed, prevalence=prevalence, test_fraction=test_fraction)
    with _new_folder(out) as folder:
        (folder / TRAIN_IMAGES).mkdir()
        (folder / TEST_IMAGES).mkdir()
        truths = _run(plans, folder, n_jobs or available_cores(), progress)
        n_repeated = _write_tables(folder, truths, ICH, seed)
    labels = np.concatenate([truth.labels for truth in truths])
    return SynthReport(
        out=out,
        n_patients=plans[-1].patient + 1,
        n_studies=n_studies,
        n_slices=len(labels),
        n_test_studies=sum(plan.is_test for plan in plans),
        n_repeated_images=n_repeated,
        label_rates=dict(zip(ICH.slices.names, labels.mean(axis=0).tolist(), strict=True)),
    )


@contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes `out` when the block succeeds, and is removed when it fails."""
    if os.path.lexists(out):
        way_out = (
            f"Use its studies (rsna-e2e prepare {out} STORE), choose" if (out / TRAIN_IMAGES).is_dir() else "Choose"
        )
        raise BadInputError(
            f"{out}: already exists. {way_out} another folder, such as {out / 'raw'}, or remove it first"
        )
    folder = out.with_name(f"{out.name}.tmp-{os.getpid()}")
    try:
        with full_disk_named(out, "the disk is full. A slice takes 0.5 MB; free some space and run again"):
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


def _run(plans: tuple[StudyPlan, ...], folder: Path, n_jobs: int, progress: Progress) -> list[StudyTruth]:
    """Make all studies; the result is in the order of `plans`."""
    truths: dict[int, StudyTruth] = {}
    n_slices = 0
    for index, truth in _finished(plans, folder, min(n_jobs, len(plans))):
        truths[index] = truth
        n_slices += len(truth.image_ids)
        progress(len(truths), len(plans), f"{n_slices} slices")
    return [truths[plan.index] for plan in plans]


def _finished(plans: tuple[StudyPlan, ...], folder: Path, n_jobs: int) -> Iterator[tuple[int, StudyTruth]]:
    if n_jobs == 1:
        for plan in plans:
            yield plan.index, make_study(plan, folder, ICH)
        return
    # spawned, not forked: the caller may have started threads; Ctrl-C is the caller's to handle
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(n_jobs, context, signal.signal, (signal.SIGINT, signal.SIG_IGN)) as pool:
        waiting = {pool.submit(make_study, plan, folder, ICH): plan.index for plan in plans}
        try:
            for future in as_completed(waiting):
                yield waiting[future], future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def make_study(plan: StudyPlan, folder: Path, task: Task) -> StudyTruth:
    """Make one study's files under `folder` and return its ground truth."""
    scene, scanner = draw_scene(plan)
    ids = (
        make_id(plan.seed, "patient", plan.patient, bits=32),
        make_id(plan.seed, "study", plan.index, bits=40),
        make_id(plan.seed, "series", plan.index, bits=40),
    )
    writer = SeriesWriter(patient_id=ids[0], study_uid=ids[1], series_uid=ids[2], series=scene.series, scanner=scanner)
    images = folder / (TEST_IMAGES if plan.is_test else TRAIN_IMAGES)
    image_ids, labels, volumes = [], [], np.zeros(len(scene.bleeds))
    for k, image in enumerate(make_images(plan, scene, scanner, task)):
        image_ids.append(make_id(plan.seed, "image", (plan.index << SLICES_PER_STUDY_BITS) | k))
        writer.write(images / f"{image_ids[-1]}.dcm", image_id=image_ids[-1], index=k, stored=image.stored)
        labels.append(image.labels)
        volumes += image.volume_ml
    return StudyTruth(
        patient_id=ids[0],
        study_uid=ids[1],
        series_uid=ids[2],
        is_test=plan.is_test,
        image_ids=tuple(image_ids),
        labels=np.stack(labels),
        bleeds=tuple(
            {"label": b.label, "site": b.site, "density_hu": round(b.hu, 1), "volume_ml": round(float(v), 3)}
            for b, v in zip(scene.bleeds, volumes, strict=True)
        ),
    )


def _write_tables(folder: Path, truths: list[StudyTruth], task: Task, seed: int) -> int:
    """Write label files and the ground truth; return the number of images whose label rows stand there twice."""
    tables = {}
    for is_test in (False, True):
        rows = [pair for t in truths if t.is_test == is_test for pair in zip(t.image_ids, t.labels, strict=True)]
        tables[is_test] = sorted(rows, key=lambda row: row[0])
    train, test = tables[False], tables[True]
    picked = sorted(stream(seed, "repeated", 0).permutation(len(train))[:N_REPEATED_IMAGES].tolist())
    _write(folder / TRAIN_LABELS, [*train, *(train[i] for i in picked)], task)
    _write(folder / TEST_TRUTH, test, task)
    constant = np.full(len(task.slices.names), 0.5)
    _write(folder / SAMPLE_SUBMISSION, [(image_id, constant) for image_id, _ in test], task)
    studies = [
        {
            "patient_id": t.patient_id, "study_uid": t.study_uid, "series_uid": t.series_uid,
            "split": "test" if t.is_test else "train", "image_ids": list(t.image_ids), "bleeds": list(t.bleeds),
        }
        for t in truths
    ]  # fmt: skip
    rule = {
        "min_contrast_hu": MIN_CONTRAST_HU,
        "min_over_grey_hu": MIN_OVER_GREY_HU,
        "max_visible_hu": MAX_VISIBLE_HU,
        "min_visible_mm2": MIN_VISIBLE_MM2,
    }
    with atomic_writer(folder / STUDY_TRUTH) as file:
        file.write((as_json({"label_rule": rule, "studies": studies}, indent=1) + "\n").encode())
    return len(picked)


def _write(path: Path, rows: list[tuple[str, Float64Array]], task: Task) -> None:
    values = np.stack([row[1] for row in rows]) if rows else np.zeros((0, len(task.slices.names)))
    write_labels(path, task, [row[0] for row in rows], values)
