"""Files of simulated chest radiographs in the layout of the RSNA pneumonia competition of 2018."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np

from rsna_e2e.core.files import as_json, atomic_writer
from rsna_e2e.tools.synth.common.kind import Counts, Kind
from rsna_e2e.tools.synth.common.plan import scatter, stream
from rsna_e2e.tools.synth.common.write import write_csv
from rsna_e2e.tools.synth.radiograph.image import make_image, scene_of, shape_of
from rsna_e2e.tools.synth.radiograph.plan import ImagePlan, Split, plan_images
from rsna_e2e.tools.synth.radiograph.scene import Scene
from rsna_e2e.tools.synth.radiograph.spelling import Spelling, draw_spelling
from rsna_e2e.tools.synth.radiograph.truth import (
    MIN_CM2,
    MIN_CONTRAST,
    MIN_NOISE,
    NORMAL,
    OPACITY,
    OTHER,
    Box,
    Labels,
)
from rsna_e2e.tools.synth.radiograph.write import Header, write_dicom, write_png

FOLDERS: dict[Split, str] = {
    "train": "stage_2_train_images", "test": "stage_2_test_images", "balanced": "stage_2_balanced_images"
}  # fmt: skip
BOXES: dict[Split, str] = {
    "train": "stage_2_train_labels.csv", "test": "stage_2_test_truth.csv", "balanced": "stage_2_balanced_truth.csv"
}  # fmt: skip
CLASSES: dict[Split, str] = {
    "train": "stage_2_detailed_class_info.csv",
    "test": "stage_2_test_class_info.csv",
    "balanced": "stage_2_balanced_class_info.csv",
}
SAMPLES: dict[Split, str] = {
    "test": "stage_2_sample_submission.csv", "balanced": "stage_2_balanced_sample_submission.csv"
}  # fmt: skip
STUDY_TRUTH = "truth.json"
BOX_COLUMNS = ("patientId", "x", "y", "width", "height", "Target")
CLASS_COLUMNS = ("patientId", "class")
SAMPLE = "0.5 0 0 100 100"  # confidence, x, y, width, height, as in the competition's sample
ID_BITS = 128
SUFFIX = {"dicom": ".dcm", "png": ".png"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageTruth:
    """Ground truth of one image."""

    patient_id: str
    study_uid: str
    split: Split
    view: str
    sex: str
    age_y: int
    labels: Labels
    others: tuple[str, ...]
    devices: tuple[str, ...]
    spelling: dict[str, Any]
    copy_of: str

    @property
    def image_ids(self) -> tuple[str, ...]:
        """Its id, which is also the name of its file and that of its patient."""
        return (self.patient_id,)


def _image_id(seed: int, index: int) -> str:
    return str(UUID(int=scatter(seed, "image", index, bits=ID_BITS)))


def _uid(seed: int, what: str, index: int) -> str:
    """A UID made of a UUID. Source: PS3.5 B.2."""
    return f"2.25.{scatter(seed, what, index, bits=ID_BITS)}"


def make_study(plan: ImagePlan, folder: Path) -> ImageTruth:
    """Make one image's file under `folder` and return its ground truth."""
    spelling = draw_spelling(stream(plan.seed, "spelling", plan.source))
    scene, shape = scene_of(plan, spelling.sides), shape_of(plan, spelling.sides)
    image = make_image(plan, scene, shape)
    image_id = _image_id(plan.seed, plan.index)
    path = folder / FOLDERS[plan.split] / f"{image_id}{SUFFIX[plan.file_format]}"
    if plan.file_format == "png":
        write_png(path, image.shown, spelling.bits)
    else:
        write_dicom(path, image.shown, spelling, _header(plan, scene, image_id, image.pixel_mm))
    return ImageTruth(
        patient_id=image_id,
        study_uid=_uid(plan.seed, "study", plan.index),
        split=plan.split,
        view=plan.view,
        sex=scene.person.sex,
        age_y=scene.person.age_y,
        labels=image.labels,
        others=scene.findings.others,
        devices=scene.devices.names,
        spelling=_said(spelling, plan.file_format),
        copy_of=_image_id(plan.seed, plan.source) if plan.source != plan.index else "",
    )


def _header(plan: ImagePlan, scene: Scene, image_id: str, pixel_mm: float) -> Header:
    return Header(
        patient_id=image_id,
        study_uid=_uid(plan.seed, "study", plan.index),
        series_uid=_uid(plan.seed, "series", plan.index),
        sop_uid=_uid(plan.seed, "sop", plan.index),
        view=plan.view,
        sex=scene.person.sex,
        age_y=scene.person.age_y,
        pixel_mm=pixel_mm,
        sid_mm=scene.beam.sid_mm,
        number=scatter(plan.seed, "spacing", plan.source),
    )


def _said(spelling: Spelling, file_format: str) -> dict[str, Any]:
    """What truth.json says of how a file spells its values."""
    if file_format == "png":
        return {"bits": 8 if spelling.bits == 8 else 16}
    said = {name: value for name, value in asdict(spelling).items() if name not in {"sides", "lut_curve"}}
    return {name: None if isinstance(value, float) and np.isnan(value) else value for name, value in said.items()}


def write_tables(folder: Path, truths: Sequence[ImageTruth], seed: int) -> Counts:
    """Write label files, sample submissions and the ground truth of all images."""
    for split in FOLDERS:
        chosen = sorted((t for t in truths if t.split == split), key=lambda t: t.patient_id)
        rows = [(t, box) for t in chosen for box in (t.labels.boxes or (None,))]
        write_csv(folder / BOXES[split], [BOX_COLUMNS, *((t.patient_id, *_box_cells(box)) for t, box in rows)])
        write_csv(folder / CLASSES[split], [CLASS_COLUMNS, *((t.patient_id, t.labels.name) for t, _ in rows)])
        if split in SAMPLES:
            sample = ((t.patient_id, SAMPLE) for t in chosen)
            write_csv(folder / SAMPLES[split], [("patientId", "PredictionString"), *sample])
    rule = {"min_contrast": MIN_CONTRAST, "min_noise": MIN_NOISE, "min_cm2": MIN_CM2}
    studies = [
        {
            "patient_id": t.patient_id, "study_uid": t.study_uid, "split": t.split, "view": t.view, "sex": t.sex,
            "age_y": t.age_y, "class": t.labels.name, "boxes": [list(box) for box in t.labels.boxes],
            "others": list(t.others), "devices": list(t.devices), "copy_of": t.copy_of, "spelling": t.spelling,
        }
        for t in truths
    ]  # fmt: skip
    with atomic_writer(folder / STUDY_TRUTH) as file:
        file.write((as_json({"label_rule": rule, "studies": studies}, indent=1) + "\n").encode())
    n = len(truths)
    return Counts(
        n_slices=n,
        n_repeated_images=sum(t.copy_of != "" for t in truths),
        label_rates={name: sum(t.labels.name == name for t in truths) / n for name in (OPACITY, OTHER, NORMAL)},
    )


def _box_cells(box: Box | None) -> tuple[object, ...]:
    return (*(float(v) for v in box), 1) if box else ("", "", "", "", 0)


RADIOGRAPH = Kind(folders=tuple(FOLDERS.values()), plan=plan_images, make_study=make_study, write_tables=write_tables)
