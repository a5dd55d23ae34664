"""Files of simulated head CT studies in the layout of the RSNA hemorrhage competition of 2019."""

# N slices, L labels

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rsna_e2e.core.files import as_json, atomic_writer
from rsna_e2e.core.records import Float64Array
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.tasks.labels import write_labels
from rsna_e2e.tasks.task import Task
from rsna_e2e.tools.synth.common.kind import Counts, Kind
from rsna_e2e.tools.synth.common.plan import Request, StudyPlan, make_id, plan_studies, stream
from rsna_e2e.tools.synth.common.write import SeriesWriter, write_masks
from rsna_e2e.tools.synth.head.context import Candidate
from rsna_e2e.tools.synth.head.render import Scene
from rsna_e2e.tools.synth.head.study import (
    MAX_VISIBLE_HU,
    MIN_CONTRAST_HU,
    MIN_OVER_GREY_HU,
    MIN_VISIBLE_MM2,
    draw_scene,
    make_images,
)

TRAIN_IMAGES = "stage_2_train_images"
TEST_IMAGES = "stage_2_test_images"
TRAIN_LABELS = "stage_2_train.csv"
SAMPLE_SUBMISSION = "stage_2_sample_submission.csv"
TEST_TRUTH = "stage_2_test_truth.csv"
STUDY_TRUTH = "stage_2_truth.json"
SERIES_FACTS = "stage_2_series.csv"
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
    candidates: tuple[dict[str, Any], ...]  # of the dial of context, and where to see them
    context: str


def make_study(plan: StudyPlan, folder: Path, *, masks: Path | None = None) -> StudyTruth:
    """Make one study's files under `folder` and return its ground truth. masks: folder for those of its labels."""
    scene, scanner = draw_scene(plan)
    ids = (
        make_id(plan.seed, "patient", plan.patient, bits=32),
        make_id(plan.seed, "study", plan.index, bits=40),
        make_id(plan.seed, "series", plan.index, bits=40),
    )
    writer = SeriesWriter(patient_id=ids[0], study_uid=ids[1], series_uid=ids[2], series=scene.series, scanner=scanner)
    images = folder / (TEST_IMAGES if plan.is_test else TRAIN_IMAGES)
    image_ids, labels, volumes = [], [], np.zeros(len(scene.labels))
    for k, image in enumerate(make_images(plan, scene, scanner, ICH)):
        image_ids.append(make_id(plan.seed, "image", (plan.index << SLICES_PER_STUDY_BITS) | k))
        writer.write(images / f"{image_ids[-1]}.dcm", image_id=image_ids[-1], index=k, stored=image.stored)
        if masks is not None:
            write_masks(masks, image_ids[-1], image.masks)
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
            {"label": label, "site": site, "density_hu": round(hu, 1), "volume_ml": round(float(v), 3)}
            for (label, site, hu), v in zip(_bleeds(scene), volumes, strict=True)
            if hu is not None
        ),
        candidates=tuple(_candidate_truth(c, image_ids) for c in scene.candidates),
        context=plan.context,
    )


def _bleeds(scene: Scene) -> Iterator[tuple[str, str, float | None]]:
    """Label, site and density of every bleed, then of every candidate; the density is None where there is no blood."""
    yield from ((b.label, b.site, b.hu) for b in scene.bleeds)
    for c in scene.candidates:
        yield c.label, c.site, float(np.mean([look.hu for look in c.looks.values()])) if c.is_blood else None


def _candidate_truth(candidate: Candidate, image_ids: Sequence[str]) -> dict[str, Any]:
    return {
        "label": candidate.label,
        "site": candidate.site,
        "is_blood": candidate.is_blood,
        "images": [
            {
                # fine pixel i lies at the file's pixel 2 i + 1/2
                "image_id": image_ids[k], "row": round(2.0 * look.row + 0.5, 1),
                "column": round(2.0 * look.column + 0.5, 1), "radius_mm": round(look.radius_mm, 1),
                "density_hu": round(look.hu, 1), "is_dense": look.is_dense,
            }
            for k, look in sorted(candidate.looks.items())
        ],
    }  # fmt: skip


def write_tables(folder: Path, truths: Sequence[StudyTruth], seed: int) -> Counts:
    """Write label files and the ground truth of all studies."""
    task = ICH
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
    _write_truth(folder / STUDY_TRUTH, truths)
    _write_series(folder / SERIES_FACTS, truths)
    labels = np.concatenate([truth.labels for truth in truths])
    return Counts(
        n_slices=len(labels),
        n_repeated_images=len(picked),
        label_rates=dict(zip(task.slices.names, labels.mean(axis=0).tolist(), strict=True)),
    )


def _write_truth(path: Path, truths: Sequence[StudyTruth]) -> None:
    studies = [
        {
            "patient_id": t.patient_id, "study_uid": t.study_uid, "series_uid": t.series_uid,
            "split": "test" if t.is_test else "train", "image_ids": list(t.image_ids), "bleeds": list(t.bleeds),
        } | ({} if t.context == "natural" else {"candidates": list(t.candidates)})
        for t in truths
    ]  # fmt: skip
    rule = {
        "min_contrast_hu": MIN_CONTRAST_HU,
        "min_over_grey_hu": MIN_OVER_GREY_HU,
        "max_visible_hu": MAX_VISIBLE_HU,
        "min_visible_mm2": MIN_VISIBLE_MM2,
    }
    context = truths[0].context
    dial = {} if context == "natural" else {"context": context}
    with atomic_writer(path) as file:
        file.write((as_json({**dial, "label_rule": rule, "studies": studies}, indent=1) + "\n").encode())


def _write_series(path: Path, truths: Sequence[StudyTruth]) -> None:
    """Write the volume of all blood that a series shows, ml; it is empty where there is none."""
    lines = ["SeriesInstanceUID,bleed_volume_ml"]
    for truth in truths:
        volume_ml = sum(float(bleed["volume_ml"]) for bleed in truth.bleeds)
        lines.append(f"{truth.series_uid},{f'{volume_ml:.3f}' if volume_ml else ''}")
    with atomic_writer(path) as file:
        file.write(("\n".join(lines) + "\n").encode())


def _write(path: Path, rows: list[tuple[str, Float64Array]], task: Task) -> None:
    values = np.stack([row[1] for row in rows]) if rows else np.zeros((0, len(task.slices.names)))
    write_labels(path, task, [row[0] for row in rows], values)


def _plan(request: Request) -> tuple[StudyPlan, ...]:
    request.refuse_thick()
    return plan_studies(request)


HEAD = Kind(
    folders=(TRAIN_IMAGES, TEST_IMAGES), plan=_plan, make_study=make_study, write_tables=write_tables, has_masks=True
)
