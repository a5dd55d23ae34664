"""Simulated studies: files as the competition has them, geometry that is true, labels that follow from the truth."""

import json
import time
import warnings
from hashlib import sha256
from itertools import pairwise
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image as PilImage
from scipy.ndimage import binary_dilation

from rsna_e2e.core.errors import BadInputError, UsageError
from rsna_e2e.core.table_files import table_at
from rsna_e2e.evaluation.series_facts import read_series_facts
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.tasks.labels import read_labels
from rsna_e2e.tools.synth.common.plan import Request, make_id, plan_studies, scatter
from rsna_e2e.tools.synth.head.events import EVENTS, draw_bleeds
from rsna_e2e.tools.synth.head.geometry import MAX_SLICES, MIN_SLICES
from rsna_e2e.tools.synth.head.study import draw_scene
from rsna_e2e.tools.synth.preview import preview
from rsna_e2e.tools.synth.simulate import SynthReport, simulate

TAGS = {
    "SOPInstanceUID", "Modality", "PatientID", "StudyInstanceUID", "SeriesInstanceUID", "StudyID",
    "ImagePositionPatient", "ImageOrientationPatient", "SamplesPerPixel", "PhotometricInterpretation", "Rows",
    "Columns", "PixelSpacing", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "WindowCenter",
    "WindowWidth", "RescaleIntercept", "RescaleSlope", "PixelData",
}  # fmt: skip
ARGUMENTS = {"n_studies": 3, "seed": 153, "prevalence": "demo", "test_fraction": 0.34}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SynthReport]:
    out = tmp_path_factory.mktemp("synth") / "raw"
    return out, simulate(out, n_jobs=1, **ARGUMENTS)


def _read(path: Path) -> pydicom.Dataset:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ids of this kind are no valid UIDs
        dataset = pydicom.dcmread(path)
        dataset.decode()
    return dataset


def _files(out: Path, split: str) -> dict[str, Path]:
    return {path.stem: path for path in sorted((out / f"stage_2_{split}_images").glob("ID_*.dcm"))}


def _digests(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def test_layout_and_ids(made: tuple[Path, SynthReport]) -> None:
    out, report = made
    train, test = _files(out, "train"), _files(out, "test")
    labels = read_labels(out / "stage_2_train.csv", ICH)
    truth = read_labels(out / "stage_2_test_truth.csv", ICH)
    sample = read_labels(out / "stage_2_sample_submission.csv", ICH)
    assert labels.image_ids == list(train)
    assert truth.image_ids == sample.image_ids == list(test)
    assert np.all(sample.values == 0.5)
    assert labels.n_repeated_rows == 4 * 6
    assert report.n_repeated_images == 4
    assert report.n_slices == len(train) + len(test)
    assert report.n_test_studies == 1
    for table in (labels, truth):
        assert set(np.unique(table.values)) <= {0.0, 1.0}
        np.testing.assert_array_equal(table.values[:, 5], table.values[:, :5].max(axis=1))
    assert sorted(path.name for path in out.parent.iterdir()) == ["raw"]


def test_headers(made: tuple[Path, SynthReport]) -> None:
    out, _ = made
    series: dict[str, list[pydicom.Dataset]] = {}
    for stem, path in (_files(out, "train") | _files(out, "test")).items():
        dataset = _read(path)
        assert {element.keyword for element in dataset} == TAGS
        assert dataset.SOPInstanceUID == stem
        series.setdefault(dataset.SeriesInstanceUID, []).append(dataset)
    assert len(series) == 3
    for members in series.values():
        assert MIN_SLICES <= len(members) <= MAX_SLICES
        normal = np.cross(members[0].ImageOrientationPatient[:3], members[0].ImageOrientationPatient[3:])
        height = np.sort([np.dot(d.ImagePositionPatient, normal) for d in members])
        assert 2.4 < np.diff(height).min()
        assert np.ptp(np.diff(height)) < 0.003  # positions are written with three decimals
        in_file_order = [np.dot(d.ImagePositionPatient, normal) for d in members]
        assert in_file_order not in (sorted(in_file_order), sorted(in_file_order)[::-1])


def test_both_forms_and_windows_occur_in_files(made: tuple[Path, SynthReport]) -> None:
    out, _ = made
    forms, n_windows = set(), set()
    for path in (_files(out, "train") | _files(out, "test")).values():
        dataset = _read(path)
        forms.add((dataset.BitsStored, dataset.PixelRepresentation, int(dataset.pixel_array[0, 0])))
        n_windows.add(dataset["WindowCenter"].VM)
        assert dataset["WindowWidth"].VM == dataset["WindowCenter"].VM
        assert (dataset.RescaleSlope, dataset.RescaleIntercept) == (1, -1024)
        assert dataset.pixel_array.shape == (512, 512)
    assert forms == {(16, 1, -2000), (12, 0, 0)}
    assert n_windows == {1, 2}


def test_heads_are_those_of_before(made: tuple[Path, SynthReport]) -> None:
    """Ids, and means of the middle of three images, as commit f0e3f55 made them before chests were added."""
    before = {"ID_0a392f40d": 249.92366, "ID_0c54bcfb5": 1204.01416, "ID_0e8f4b867": 1183.87954}
    files = _files(made[0], "train")
    assert list(files)[:3] == list(before)
    for name, mean in before.items():
        # another processor may round single pixels to the next integer, some of 65,536
        assert abs(float(_read(files[name]).pixel_array[128:384, 128:384].mean()) - mean) < 1e-3


@pytest.fixture(scope="module")
def masks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The masks of `made`, and beside them its studies, made a second time."""
    folder = tmp_path_factory.mktemp("masks")
    seen: list[tuple[int, int]] = []
    simulate(
        folder / "raw",
        n_jobs=2,
        masks=folder / "masks",
        progress=lambda done, total, note="": seen.append((done, total)),
        **ARGUMENTS,
    )
    assert seen == [(1, 3), (2, 3), (3, 3)]
    return folder / "masks"


def test_same_bytes_for_any_number_of_processes_and_with_masks(made: tuple[Path, SynthReport], masks: Path) -> None:
    assert _digests(masks.parent / "raw") == _digests(made[0])


def test_a_mask_is_there_for_each_label_of_each_slice(made: tuple[Path, SynthReport], masks: Path) -> None:
    tables = [read_labels(made[0] / name, ICH) for name in ("stage_2_train.csv", "stage_2_test_truth.csv")]
    expected = {
        f"{name}/{image_id}.png"
        for table in tables
        for image_id, values in zip(table.image_ids, table.values, strict=True)
        for name, value in zip(ICH.slices.names, values, strict=True)
        if value
    }
    assert expected
    assert {path.relative_to(masks).as_posix() for path in masks.rglob("*.png")} == expected


def test_masks_lie_on_the_pixels_of_the_file_that_the_bleed_brightens(
    made: tuple[Path, SynthReport], masks: Path
) -> None:
    """Against pixels of the file next to the mask, which shift, turned or mirrored masks would not be brighter than."""
    files = _files(made[0], "train") | _files(made[0], "test")
    contrasts = []
    for path in sorted((masks / "any").iterdir()):
        mask = np.asarray(PilImage.open(path))
        assert mask.dtype == np.bool_
        stored = _read(files[path.stem])
        hu = stored.pixel_array * float(stored.RescaleSlope) + float(stored.RescaleIntercept)
        around = binary_dilation(mask, iterations=12) & ~binary_dilation(mask, iterations=6) & (hu > 0) & (hu < 100)
        if around.any():
            contrasts.append(np.median(hu[mask]) - np.median(hu[around]))
    assert len(contrasts) >= 10
    assert np.mean(np.array(contrasts) > 8.0) > 0.9  # the least that a bleed adds


def test_the_mask_of_any_is_the_union_of_the_others(masks: Path) -> None:
    for path in sorted((masks / "any").iterdir()):
        others = [np.asarray(PilImage.open(other)) for other in sorted(masks.glob(f"*/{path.name}")) if other != path]
        np.testing.assert_array_equal(np.asarray(PilImage.open(path)), np.logical_or.reduce(others))


def test_masks_in_the_wrong_place_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="head CT alone"):
        simulate(tmp_path / "a", n_studies=1, seed=0, kind="ctpa", masks=tmp_path / "masks", n_jobs=1)
    with pytest.raises(UsageError, match="lies in the folder of the studies"):
        simulate(tmp_path / "a", n_studies=1, seed=0, masks=tmp_path / "a" / "masks", n_jobs=1)
    (tmp_path / "masks").mkdir()
    with pytest.raises(BadInputError, match="masks: already exists"):
        simulate(tmp_path / "a", n_studies=1, seed=0, masks=tmp_path / "masks", n_jobs=1)
    assert [path.name for path in tmp_path.iterdir()] == ["masks"]


def test_truth_file(made: tuple[Path, SynthReport]) -> None:
    """Studies list their images; volumes are there for each bleed, and every label seen has its bleed."""
    out, _ = made
    studies = json.loads((out / "stage_2_truth.json").read_text())["studies"]
    files = _files(out, "train") | _files(out, "test")
    train = read_labels(out / "stage_2_train.csv", ICH)
    test = read_labels(out / "stage_2_test_truth.csv", ICH)
    labels = {i: v for table in (train, test) for i, v in zip(table.image_ids, table.values, strict=True)}
    assert sorted(i for study in studies for i in study["image_ids"]) == sorted(files)
    for study in studies:
        assert {_read(files[i]).SeriesInstanceUID for i in study["image_ids"]} == {study["series_uid"]}
        seen = np.max([labels[i] for i in study["image_ids"]], axis=0)
        bled = {bleed["label"] for bleed in study["bleeds"] if bleed["volume_ml"] > 0.5}
        assert bled <= {name for name, value in zip(ICH.slices.names, seen, strict=True) if value}
        assert {n for n, v in zip(ICH.slices.names[:5], seen, strict=False) if v} <= {
            b["label"] for b in study["bleeds"]
        }


def test_the_volume_of_blood_of_each_series(made: tuple[Path, SynthReport]) -> None:
    studies = json.loads((made[0] / "stage_2_truth.json").read_text())["studies"]
    keys = [study["series_uid"] for study in studies]
    (name, volume_ml), *others = read_series_facts(table_at(made[0] / "stage_2_series.csv"), keys).items()
    assert (name, others) == ("bleed_volume_ml", [])
    sums = [sum(bleed["volume_ml"] for bleed in study["bleeds"]) or np.nan for study in studies]
    assert volume_ml == pytest.approx(sums, abs=1e-3, nan_ok=True)
    assert 0 < np.isnan(sums).sum() < len(sums)


def test_plan_keeps_patients_apart() -> None:
    plans = plan_studies(Request(n_studies=400, seed=3, prevalence="natural", test_fraction=0.25))
    in_test = {plan.patient for plan in plans if plan.is_test}
    in_train = {plan.patient for plan in plans if not plan.is_test}
    n_patients = plans[-1].patient + 1
    assert not in_test & in_train
    assert len(in_test) == round(0.25 * n_patients)
    assert 1.08 < len(plans) / n_patients < 1.22  # 21,744 series of 18,938 patients: 1.148
    first, second = next((a, b) for a, b in pairwise(plans) if b.visit == 1)
    (scene_a, _), (scene_b, _) = draw_scene(first), draw_scene(second)
    assert scene_a.head.scale == scene_b.head.scale
    assert scene_a.series.centre_mm != scene_b.series.centre_mm


def test_ids_never_collide() -> None:
    assert sorted(scatter(7, "image", n, bits=8) for n in range(256)) == list(range(256))
    assert make_id(0, "image", 5) != make_id(1, "image", 5)
    assert len(make_id(0, "image", 5)) == len("ID_") + 9


@pytest.mark.parametrize("prevalence", ["natural", "demo"])
def test_events_happen_as_often_as_planned(prevalence: str) -> None:
    n = 1500
    drawn = [draw_bleeds(np.random.default_rng(seed), prevalence) for seed in range(n)]
    column = 1 if prevalence == "natural" else 2
    none = EVENTS[0][column] / sum(row[column] for row in EVENTS)
    share = sum(not found for found in drawn) / n
    assert abs(share - none) < 4.0 * np.sqrt(none * (1.0 - none) / n)
    assert {b.label for found in drawn for b in found} == set(ICH.slices.names) - {"any"}


def test_bad_requests_leave_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown prevalence 'rare'"):
        simulate(tmp_path / "a", n_studies=1, seed=0, prevalence="rare", n_jobs=1)
    with pytest.raises(UsageError, match="at least 1"):
        simulate(tmp_path / "a", n_studies=0, seed=0, n_jobs=1)
    with pytest.raises(UsageError, match="test fraction 1"):
        simulate(tmp_path / "a", n_studies=1, seed=0, test_fraction=1.0, n_jobs=1)
    with pytest.raises(UsageError, match="0 processes"):
        simulate(tmp_path / "a", n_studies=1, seed=0, n_jobs=0)
    (tmp_path / "there").mkdir()
    with pytest.raises(BadInputError, match=r"there: already exists. Choose another folder"):
        simulate(tmp_path / "there", n_studies=1, seed=0, n_jobs=1)
    (tmp_path / "there" / "stage_2_train_images").mkdir()
    with pytest.raises(BadInputError, match=r"Use its studies \(rsna-e2e prepare .*there STORE\), choose another"):
        simulate(tmp_path / "there", n_studies=1, seed=0, n_jobs=1)
    (tmp_path / "there" / "file").touch()
    with pytest.raises(BadInputError, match="cannot be written: Not a directory"):
        simulate(tmp_path / "there" / "file" / "raw", n_studies=1, seed=0, n_jobs=1)

    def stop(done: int, total: int, note: str = "") -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate(tmp_path / "b", n_studies=1, seed=0, n_jobs=1, progress=stop)
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_preview_draws_a_sheet(made: tuple[Path, SynthReport], tmp_path: Path) -> None:
    png = tmp_path / "sheet.png"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        preview(made[0], png, n_studies=2, columns=3)
    assert png.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    with pytest.raises(BadInputError, match="rsna-e2e synth"):
        preview(tmp_path, png)


@pytest.mark.slow
def test_speed(tmp_path: Path) -> None:
    """At least 40 slices/s on one core, files written."""
    started = time.process_time()
    report = simulate(tmp_path / "raw", n_studies=12, seed=1, prevalence="demo", n_jobs=1)
    assert report.n_slices / (time.process_time() - started) >= 40.0
