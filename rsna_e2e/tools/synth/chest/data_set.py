"""Files of simulated CT pulmonary angiography in the layout of the RSNA-STR pulmonary embolism competition of 2020."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rsna_e2e.core.files import as_json, atomic_writer
from rsna_e2e.tools.synth.chest.acquire import draw_scanner
from rsna_e2e.tools.synth.chest.scene import draw_scene
from rsna_e2e.tools.synth.chest.study import make_images
from rsna_e2e.tools.synth.chest.truth import (
    LOSS_HU,
    SLICE_LABEL,
    STUDY_LABELS,
    VISIBLE_MM2,
    study_labels,
)
from rsna_e2e.tools.synth.common.kind import Counts, Kind
from rsna_e2e.tools.synth.common.plan import Request, StudyPlan, make_id, plan_studies, stream
from rsna_e2e.tools.synth.common.write import SeriesWriter, write_csv

TRAIN, TEST = "train", "test"  # folders of images
TRAIN_LABELS = "train.csv"
TEST_IDS = "test.csv"
TEST_TRUTH = "test_truth.csv"
SAMPLE_SUBMISSION = "sample_submission.csv"
STUDY_TRUTH = "truth.json"
IDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
STUDY_COLUMNS = (  # in the competition's order
    "negative_exam_for_pe", "qa_motion", "qa_contrast", "flow_artifact", "rv_lv_ratio_gte_1", "rv_lv_ratio_lt_1",
    "leftsided_pe", "chronic_pe", "true_filling_defect_not_pe", "rightsided_pe", "acute_and_chronic_pe", "central_pe",
    "indeterminate",
)  # fmt: skip
SLICES_PER_STUDY_BITS = 9  # ids are given to 512 numbers per study; a series has at most 300 slices
ID_BITS = 48  # twelve hexadecimal digits


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyTruth:
    """Ground truth of one study. positive goes with image_ids, in the order of acquisition."""

    patient_id: str
    study_uid: str
    series_uid: str
    is_test: bool
    image_ids: tuple[str, ...]
    positive: tuple[bool, ...]
    labels: dict[str, int]
    rv_lv: float
    emboli: tuple[dict[str, str | float], ...]


def make_study(plan: StudyPlan, folder: Path) -> StudyTruth:
    """Make one study's files under `folder` and return its ground truth."""
    scene = draw_scene(plan)
    scanner = draw_scanner(stream(plan.seed, "scanner", plan.index), scene.series)
    ids = [
        make_id(plan.seed, what, number, bits=ID_BITS, prefix="")
        for what, number in (("patient", plan.patient), ("study", plan.index), ("series", plan.index))
    ]
    writer = SeriesWriter(patient_id=ids[0], study_uid=ids[1], series_uid=ids[2], series=scene.series, scanner=scanner)
    images = folder / (TEST if plan.is_test else TRAIN) / ids[1] / ids[2]
    images.mkdir(parents=True)
    image_ids, areas = [], []
    for k, image in enumerate(make_images(plan, scene, scanner)):
        number = (plan.index << SLICES_PER_STUDY_BITS) | k
        image_ids.append(make_id(plan.seed, "image", number, bits=ID_BITS, prefix=""))
        writer.write(images / f"{image_ids[-1]}.dcm", image_id=image_ids[-1], index=k, stored=image.stored)
        areas.append(image.visible_mm2)
    labels = study_labels(scene, areas)
    return StudyTruth(
        patient_id=ids[0],
        study_uid=ids[1],
        series_uid=ids[2],
        is_test=plan.is_test,
        image_ids=tuple(image_ids),
        positive=tuple(labels.positive.tolist()),
        labels=labels.study,
        rv_lv=labels.rv_lv,
        emboli=tuple(
            {"site": e.site, "age": e.age, "density_hu": round(e.hu, 1), "length_mm": round(e.length_mm, 1)}
            for e in scene.findings.emboli
        ),
    )


def write_tables(folder: Path, truths: Sequence[StudyTruth], seed: int) -> Counts:
    """Write label files and the ground truth of all studies."""
    train, test = ([t for t in truths if t.is_test == is_test] for is_test in (False, True))
    _write_labels(folder / TRAIN_LABELS, train, seed)
    _write_labels(folder / TEST_TRUTH, test, seed)
    write_csv(folder / TEST_IDS, [IDS, *(row[: len(IDS)] for row in _rows(test, seed))])
    names = [f"{t.study_uid}_{label}" for t in test for label in STUDY_LABELS] + [i for t in test for i in t.image_ids]
    write_csv(folder / SAMPLE_SUBMISSION, [("id", "label"), *((name, 0.5) for name in names)])
    studies = [
        {
            "patient_id": t.patient_id, "study_uid": t.study_uid, "series_uid": t.series_uid,
            "split": TEST if t.is_test else TRAIN, "image_ids": list(t.image_ids),
            "labels": [name for name, value in t.labels.items() if value], "rv_lv": round(t.rv_lv, 3),
            "positive_image_ids": [i for i, is_so in zip(t.image_ids, t.positive, strict=True) if is_so],
            "emboli": list(t.emboli),
        }
        for t in truths
    ]  # fmt: skip
    rule = {"min_loss_hu": LOSS_HU, "min_visible_mm2": VISIBLE_MM2}
    with atomic_writer(folder / STUDY_TRUTH) as file:
        file.write((as_json({"label_rule": rule, "studies": studies}, indent=1) + "\n").encode())
    positive = [is_so for t in truths for is_so in t.positive]
    rates = {SLICE_LABEL: sum(positive) / len(positive)}
    rates |= {name: sum(t.labels[name] for t in truths) / len(truths) for name in STUDY_COLUMNS}
    return Counts(n_slices=len(positive), n_repeated_images=0, label_rates=rates)


def _rows(truths: Sequence[StudyTruth], seed: int) -> list[tuple[str | int, ...]]:
    """One row per slice, in no order: ids, the slice's label, and the labels of its study."""
    rows: list[tuple[str | int, ...]] = [
        (t.study_uid, t.series_uid, image_id, int(is_positive), *(t.labels[name] for name in STUDY_COLUMNS))
        for t in truths
        for image_id, is_positive in zip(t.image_ids, t.positive, strict=True)
    ]
    return [rows[i] for i in stream(seed, "rows", 0).permutation(len(rows))]


def _write_labels(path: Path, truths: Sequence[StudyTruth], seed: int) -> None:
    write_csv(path, [(*IDS, SLICE_LABEL, *STUDY_COLUMNS), *_rows(truths, seed)])


def _plan(request: Request) -> tuple[StudyPlan, ...]:
    request.refuse_context()
    return plan_studies(request)


CTPA = Kind(folders=(TRAIN, TEST), plan=_plan, make_study=make_study, write_tables=write_tables)
