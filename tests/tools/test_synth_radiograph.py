"""Simulated radiographs: files as the competition and detectors have them, and tables that agree with them."""

import csv
import json
import warnings
from collections import Counter
from dataclasses import replace
from hashlib import sha256
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image as PilImage
from pydicom.uid import JPEGBaseline8Bit

from rsna_e2e.core.errors import UsageError
from rsna_e2e.tools.synth.common.plan import Request, stream
from rsna_e2e.tools.synth.preview import preview
from rsna_e2e.tools.synth.radiograph.data_set import FOLDERS, RADIOGRAPH
from rsna_e2e.tools.synth.radiograph.plan import ImagePlan, plan_images
from rsna_e2e.tools.synth.radiograph.preview import shown
from rsna_e2e.tools.synth.radiograph.spelling import BITS, VOI_FUNCTIONS, Spelling, draw_spelling
from rsna_e2e.tools.synth.radiograph.write import Header, write_dicom, write_png
from rsna_e2e.tools.synth.simulate import SynthReport, simulate

ARGUMENTS: dict[str, Any] = {
    "n_studies": 12, "seed": 11, "kind": "radiograph", "prevalence": "demo", "test_fraction": 0.4, "size_px": 128
}  # fmt: skip
TABLES = {
    "train": ("stage_2_train_labels.csv", "stage_2_detailed_class_info.csv"),
    "test": ("stage_2_test_truth.csv", "stage_2_test_class_info.csv"),
    "balanced": ("stage_2_balanced_truth.csv", "stage_2_balanced_class_info.csv"),
}
ROUNDING = 0.51  # of a stored value, and of an entry of a table


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SynthReport]:
    out = tmp_path_factory.mktemp("radiograph") / "raw"
    return out, simulate(out, n_jobs=2, **ARGUMENTS)


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _truth(out: Path) -> list[dict[str, Any]]:
    studies: list[dict[str, Any]] = json.loads((out / "truth.json").read_text())["studies"]
    return studies


def test_tables_have_the_competitions_layout(made: tuple[Path, SynthReport]) -> None:
    out, report = made
    truths = {study["patient_id"]: study for study in _truth(out)}
    for split, (boxes, classes) in TABLES.items():
        rows, named = _rows(out / boxes), _rows(out / classes)
        assert list(rows[0]) == ["patientId", "x", "y", "width", "height", "Target"]
        assert list(named[0]) == ["patientId", "class"]
        assert [row["patientId"] for row in rows] == [row["patientId"] for row in named]  # a row for each box
        assert {row["patientId"] for row in rows} == {path.stem for path in (out / FOLDERS[split]).glob("*.dcm")}
        for row, name in zip(rows, named, strict=True):
            truth = truths[row["patientId"]]
            assert truth["split"] == split
            assert (row["Target"] == "1") == (name["class"] == "Lung Opacity") == bool(truth["boxes"])
            if row["Target"] == "1":
                assert [float(row[c]) for c in ("x", "y", "width", "height")] in truth["boxes"]
            else:
                assert {row[c] for c in ("x", "y", "width", "height")} == {""}
    for split, table in (
        ("test", "stage_2_sample_submission.csv"),
        ("balanced", "stage_2_balanced_sample_submission.csv"),
    ):
        sample = _rows(out / table)
        assert {row["patientId"] for row in sample} == {path.stem for path in (out / FOLDERS[split]).iterdir()}
        assert {row["PredictionString"] for row in sample} == {"0.5 0 0 100 100"}
    assert {study["class"] for study in truths.values()} == set(report.label_rates)
    assert sum(report.label_rates.values()) == pytest.approx(1.0)
    assert report.n_studies == report.n_slices == 12
    assert report.n_test_studies == 5


def test_files_say_what_the_truth_says(made: tuple[Path, SynthReport]) -> None:
    out, _ = made
    found = Counter()
    for study in _truth(out):
        dataset = pydicom.dcmread(out / FOLDERS[study["split"]] / f"{study['patient_id']}.dcm")
        spelling = study["spelling"]
        assert dataset.PatientID == study["patient_id"]
        assert dataset.StudyInstanceUID == study["study_uid"]
        assert (dataset.ViewPosition, dataset.PatientSex) == (study["view"], study["sex"])
        assert int(str(dataset.PatientAge).rstrip("Y")) == study["age_y"]
        assert dataset.BitsStored == spelling["bits"]
        assert dataset.PhotometricInterpretation == ("MONOCHROME1" if spelling["is_monochrome1"] else "MONOCHROME2")
        assert max(dataset.Rows, dataset.Columns) == 128
        is_jpeg = dataset.file_meta.TransferSyntaxUID == JPEGBaseline8Bit
        assert is_jpeg == spelling["is_capture"] == ("PixelSpacing" in dataset) == ("ConversionType" in dataset)
        if not is_jpeg:  # 35 to 43 cm on the longer side, or less where the field is made smaller
            assert 0.25 < float(dataset.ImagerPixelSpacing[0]) * 128 / 1000.0 <= 0.43
        for x, y, width, height in study["boxes"]:
            assert 0 <= x < x + width <= dataset.Columns
            assert 0 <= y < y + height <= dataset.Rows
        found.update([spelling["is_capture"], spelling["voi"]])
    assert found[True] > 2
    assert len(found) > 4


def test_images_look_exposed_and_lungs_are_dark(made: tuple[Path, SynthReport]) -> None:
    """Below the middle there is the abdomen, bright; beside the middle lung, darker; MONOCHROME1 or not."""
    out, _ = made
    for study in _truth(out):
        image = shown(out / FOLDERS[study["split"]] / f"{study['patient_id']}.dcm")
        rows, columns = image.shape
        middle = image[: int(0.6 * rows), int(0.46 * columns) : int(0.54 * columns)].mean()
        beside = image[int(0.3 * rows) : int(0.5 * rows), int(0.2 * columns) : int(0.35 * columns)].mean()
        below = image[int(0.88 * rows) :, int(0.4 * columns) : int(0.6 * columns)].mean()
        assert beside < middle - 0.1
        assert beside < below - 0.2


HEADER = Header(
    patient_id="a", study_uid="2.25.1", series_uid="2.25.2", sop_uid="2.25.3", view="PA", sex="F", age_y=7,
    pixel_mm=0.4, sid_mm=1800.0, number=0,
)  # fmt: skip


SPELLINGS = [
    (bits, voi, is_monochrome1)
    for bits, voi, is_monochrome1 in product(BITS, VOI_FUNCTIONS, (False, True))
    if not (voi == "LUT" and bits < 12)  # a table of 4,096 entries needs 12 bits
]


@pytest.mark.parametrize(("bits", "voi", "is_monochrome1"), SPELLINGS)
def test_every_spelling_shows_the_same_image(bits: int, voi: str, is_monochrome1: bool, tmp_path: Path) -> None:
    """A ramp, through the file and pydicom's own VOI functions, is the ramp to half a step of what is stored."""
    ramp = np.linspace(-0.1, 1.1, 64 * 64, dtype=np.float32).reshape(64, 64)
    whole = 1 << bits
    width, first = round((0.3 if voi == "SIGMOID" else 0.6) * whole), whole - 4096 if voi == "LUT" else 0
    spelling = Spelling(
        is_capture=False, is_dx=True, bits=bits, is_monochrome1=is_monochrome1, voi=voi,
        center=0.5 * whole, width=float(width), lut_first=first, lut_curve=1.4,
    )  # fmt: skip
    write_dicom(tmp_path / "a.dcm", ramp, spelling, HEADER)
    again = shown(tmp_path / "a.dcm")
    wanted = np.clip(ramp, 0.01, 0.99) if voi == "SIGMOID" else np.clip(ramp, 0.0, 1.0)
    step = 1.0 / ((whole if voi == "" else width) - 1)
    if voi == "LUT":
        step = 1.4 / 4095 + 1.0 / 4095  # the table's steepest step, and its rounding
    assert np.abs(again - wanted).max() < ROUNDING * step


def test_a_capture_is_the_image_to_what_jpeg_loses(tmp_path: Path) -> None:
    smooth = np.add.outer(np.linspace(0.0, 0.5, 64), np.linspace(0.0, 0.5, 64)).astype(np.float32)
    for is_monochrome1 in (False, True):
        spelling = Spelling(is_capture=True, is_dx=False, bits=8, is_monochrome1=is_monochrome1, voi="")
        write_dicom(tmp_path / "a.dcm", smooth, spelling, HEADER)
        assert np.abs(shown(tmp_path / "a.dcm") - smooth).max() < 4 / 255
        assert pydicom.dcmread(tmp_path / "a.dcm").PatientAge == "7"


def test_spellings_are_as_common_as_planned() -> None:
    drawn = [draw_spelling(stream(5, "spelling", i)) for i in range(2000)]
    assert np.mean([s.is_monochrome1 for s in drawn]) == pytest.approx(0.25, abs=0.03)  # three standard errors
    assert np.mean([s.is_capture for s in drawn]) == pytest.approx(0.4, abs=0.033)
    assert {s.bits for s in drawn} == set(BITS)
    assert {s.voi for s in drawn if not s.is_capture} == set(VOI_FUNCTIONS)
    assert all(s.voi == "" and s.bits == 8 for s in drawn if s.is_capture)


def _plans(n: int, **asked: Any) -> tuple[ImagePlan, ...]:
    return plan_images(Request(n_studies=n, seed=3, **asked))


def test_the_view_says_much_in_train_and_test_and_nothing_in_balanced() -> None:
    plans = _plans(4000, test_fraction=0.3)
    n = Counter(plan.split for plan in plans)
    assert n == {"train": 2800, "test": 600, "balanced": 600}
    for split in n:
        rates = {(plan.view, plan.opacity_rate) for plan in plans if plan.split == split}
        assert rates == ({("AP", 0.3), ("PA", 0.3)} if split == "balanced" else {("AP", 0.45), ("PA", 0.12)})
    assert np.mean([plan.view == "AP" for plan in plans]) == pytest.approx(0.456, abs=0.024)


def test_a_few_training_images_are_there_twice() -> None:
    plans = _plans(4000, test_fraction=0.3)
    copies = [plan for plan in plans if plan.source != plan.index]
    assert len(copies) == pytest.approx(0.015 * 2800, abs=20)
    for plan in copies:
        of = plans[plan.source]
        assert plan.split == of.split == "train"
        assert replace(plan, index=of.index) == of


def test_a_copy_has_the_same_pixels_under_another_name(tmp_path: Path) -> None:
    (tmp_path / FOLDERS["train"]).mkdir()
    plan = replace(_plans(2, test_fraction=0.0, size_px=128)[0], split="train")
    truths = [RADIOGRAPH.make_study(one, tmp_path) for one in (plan, replace(plan, index=1))]
    first, second = (pydicom.dcmread(tmp_path / FOLDERS["train"] / f"{t.patient_id}.dcm") for t in truths)
    assert first.PixelData == second.PixelData
    assert first.PatientID != second.PatientID
    assert first.SOPInstanceUID != second.SOPInstanceUID
    assert truths[1].copy_of == truths[0].patient_id
    assert truths[0].copy_of == ""
    assert truths[0].labels == truths[1].labels


def _digests(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def test_an_image_has_the_same_bytes_in_another_process(made: tuple[Path, SynthReport], tmp_path: Path) -> None:
    for folder in FOLDERS.values():
        (tmp_path / folder).mkdir()
    asked = {name: value for name, value in ARGUMENTS.items() if name != "kind"}
    for plan in plan_images(Request(**asked))[:2]:
        RADIOGRAPH.make_study(plan, tmp_path)
    again = _digests(tmp_path)
    assert len(again) == 2
    assert again.items() <= _digests(made[0]).items()


@pytest.mark.slow
def test_same_bytes_for_any_number_of_processes(made: tuple[Path, SynthReport], tmp_path: Path) -> None:
    simulate(tmp_path / "raw", n_jobs=1, **ARGUMENTS)
    assert _digests(tmp_path / "raw") == _digests(made[0])


@pytest.mark.parametrize(("bits", "most"), [(8, 255), (12, 65535)])
def test_a_png_is_the_image_rounded(bits: int, most: int, tmp_path: Path) -> None:
    ramp = np.linspace(-0.1, 1.1, 64 * 64, dtype=np.float32).reshape(64, 64)
    write_png(tmp_path / "a.png", ramp, bits)
    stored = shown(tmp_path / "a.png") * most
    assert np.abs(stored - np.clip(ramp, 0.0, 1.0) * most).max() < ROUNDING
    assert np.abs(stored - np.rint(stored)).max() < 1e-6


def test_a_folder_of_png_files(tmp_path: Path) -> None:
    out = tmp_path / "raw"
    simulate(out, n_jobs=1, **{**ARGUMENTS, "n_studies": 2, "file_format": "png"})
    found = sorted(out.glob("*/*.png"))
    assert len(found) == 2
    for path in found:
        with PilImage.open(path) as image:
            assert image.mode in {"L", "I;16"}
            assert max(image.size) == 128
        assert shown(path).std() > 0.1
    assert {study["spelling"]["bits"] for study in _truth(out)} <= {8, 16}


def test_preview_draws_a_sheet(made: tuple[Path, SynthReport], tmp_path: Path) -> None:
    png = tmp_path / "sheet.png"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        preview(made[0], png, columns=2)
    assert png.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"kind": "radiograph", "size_px": 64}, "radiographs of 64 pixels asked for; give 128 to 4096"),
        ({"kind": "radiograph", "file_format": "tiff"}, "unknown format 'tiff'; known: dicom, png"),
        ({"kind": "radiograph", "is_thick": True}, "thick slices are an option of chests in CT"),
        ({"kind": "head", "size_px": 256}, "size and format are options of radiographs"),
        ({"kind": "ctpa", "file_format": "png"}, "size and format are options of radiographs"),
    ],
)
def test_options_of_another_kind_are_refused(asked: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        simulate(tmp_path / "raw", n_studies=1, seed=0, n_jobs=1, **asked)
    assert not (tmp_path / "raw").exists()


def test_the_documents_picture_is_small() -> None:
    assert 0 < (Path(__file__).parents[2] / "docs/figures/radiograph_preview.png").stat().st_size < 600_000
