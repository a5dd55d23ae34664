"""Enhanced CT: every frame becomes a slice, in any syntax; what its groups leave open or contradict is refused."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import data_store
import encoders
import numpy as np
import phantoms
import pydicom
import pytest
from enhanced import enhanced_dataset
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLosslessSV1,
    RLELossless,
)

from rsna_e2e import dicom
from rsna_e2e.core.reasons import Reason
from rsna_e2e.core.records import Int16Image, RawFile, Refusal, SliceRecord
from rsna_e2e.dicom import stored_pixels
from rsna_e2e.store import Store
from rsna_e2e.store.prepare import prepare
from rsna_e2e.store.prepare.repair import repair
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.tasks.labels import write_labels

PERFUSION = Path(data_store.__file__).parent / "data" / "eCT_Supplemental.dcm"
N_FRAMES = 4
STORED = np.stack([phantoms.stored_image(10, 12, seed=f, form=phantoms.SIGNED_16) for f in range(N_FRAMES)])

pytestmark = pytest.mark.filterwarnings("ignore:.*:UserWarning")  # pydicom's advice to whoever writes such files


def taken(path: Path) -> list[tuple[SliceRecord, Int16Image]]:
    result = dicom.read_slices(path)
    assert not isinstance(result, Refusal), result
    return result


def refused(path: Path) -> Refusal:
    result = dicom.read_slices(path)
    assert isinstance(result, Refusal)
    return result


def assert_is_stored(path: Path) -> list[SliceRecord]:
    slices = taken(path)
    np.testing.assert_array_equal(np.stack([hu for _, hu in slices]), STORED)
    return [record for record, _ in slices]


@pytest.mark.parametrize(
    "syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]
)
@pytest.mark.parametrize("per_frame", [(), ("PlaneOrientationSequence", "PixelValueTransformationSequence")])
def test_every_frame_becomes_a_slice(tmp_path: Path, per_frame: tuple[str, ...], syntax: str) -> None:
    dataset = enhanced_dataset(STORED, per_frame=per_frame)
    records = assert_is_stored(encoders.write_in(tmp_path / "ID_a.dcm", dataset, syntax))
    assert [record.image_id for record in records] == ["ID_a_1", "ID_a_2", "ID_a_3", "ID_a_4"]
    assert [record.frame_number for record in records] == [1, 2, 3, 4]
    assert {record.sop_uid for record in records} == {"1.2.826.1"}
    assert [record.image_position_mm[2] for record in records] == [100.0, 95.0, 90.0, 85.0]
    assert [record.window_center_hu for record in records] == [40.0, 41.0, 42.0, 43.0]
    assert {(r.slice_thickness_mm, r.pixel_spacing_mm, r.slope) for r in records} == {(5.0, (0.5, 0.5), 1.0)}


def test_a_deflated_file_is_inflated_once_for_all_its_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = encoders.write_in(tmp_path / "e.dcm", enhanced_dataset(STORED), DeflatedExplicitVRLittleEndian)
    inflated = []
    inflate = stored_pixels.inflate
    monkeypatch.setattr(
        stored_pixels, "inflate", lambda stream, begin: inflated.append(begin) or inflate(stream, begin=begin)
    )
    raw_file = RawFile("e.dcm", path.stat().st_size, 0)
    for n_opened in (1, 2):
        with path.open("rb") as stream:
            headers = dicom.read_headers(stream, raw_file)
            assert not isinstance(headers, Refusal)
            for header, stored in zip(headers, STORED, strict=True):
                result = dicom.read_hounsfield(stream, raw_file, header)
                assert not isinstance(result, Refusal)
                np.testing.assert_array_equal(result[1], stored)
        assert len(inflated) == n_opened


def test_a_rescale_of_each_frames_own(tmp_path: Path) -> None:
    dataset = enhanced_dataset(STORED, per_frame=("PixelValueTransformationSequence",))
    for number, groups in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        groups.PixelValueTransformationSequence[0].RescaleIntercept = -100 * number
    slices = taken(phantoms.write_dicom(tmp_path / "a.dcm", dataset))
    for number, (record, hu) in enumerate(slices):
        assert record.intercept == -100.0 * number
        np.testing.assert_array_equal(hu, STORED[number] - 100 * number)


def test_a_frame_of_one_is_named_as_a_frame(tmp_path: Path) -> None:
    (slice_,) = taken(phantoms.write_dicom(tmp_path / "ID_a.dcm", enhanced_dataset(STORED[:1])))
    assert (slice_[0].image_id, slice_[0].frame_number) == ("ID_a_1", 1)


def test_bytes_in_words_of_big_endian(tmp_path: Path) -> None:
    stored = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
    form = {"BitsStored": 8, "HighBit": 7, "PixelRepresentation": 0, "RescaleIntercept": 0}
    dataset = enhanced_dataset(stored, form=form)
    dataset["PixelData"].VR = "OW"
    path = encoders.write_in(tmp_path / "a.dcm", dataset, ExplicitVRBigEndian)
    np.testing.assert_array_equal(np.stack([hu for _, hu in taken(path)]), stored)
    odd = enhanced_dataset(stored[:, :, :3], form=form)
    odd["PixelData"].VR = "OW"
    assert refused(phantoms.write_dicom(path, odd, syntax=ExplicitVRBigEndian)).reason == (
        Reason.UNSUPPORTED_PIXEL_FORMAT
    )


def test_compressed_frames_by_their_decoder(tmp_path: Path) -> None:
    path = phantoms.write_dicom(tmp_path / "a.dcm", enhanced_dataset(STORED))
    dataset = pydicom.dcmread(path)
    dataset.compress(RLELossless, generate_instance_uid=False)
    dataset.save_as(path)
    assert [record.decoder for record in assert_is_stored(path)] == [taken(path)[0][0].decoder] * N_FRAMES
    assert taken(path)[0][0].decoder.startswith("pylibjpeg-rle ")


@pytest.mark.needs_jpeg
@pytest.mark.parametrize("n_fragments", [1, 3])
def test_frames_in_fragments_by_the_offset_table(tmp_path: Path, n_fragments: int) -> None:
    frames = [encoders.jpeg_lossless(stored.view(np.uint16), predictor=1) for stored in STORED]
    path = tmp_path / "a.dcm"
    encoders.write_frames(path, enhanced_dataset(STORED), frames, JPEGLosslessSV1, n_fragments=n_fragments)
    assert_is_stored(path)


def _no_offset_table(dataset: Dataset, frames: list[bytes]) -> None:
    dataset.PixelData = pydicom.encaps.encapsulate(frames, fragments_per_frame=2, has_bot=False)


def _offset_between_fragments(dataset: Dataset, frames: list[bytes]) -> None:
    whole = pydicom.encaps.encapsulate(frames, fragments_per_frame=2)
    dataset.PixelData = whole[:12] + (int.from_bytes(whole[12:16], "little") + 2).to_bytes(4, "little") + whole[16:]


def _offsets_that_fall(dataset: Dataset, frames: list[bytes]) -> None:
    whole = pydicom.encaps.encapsulate(frames, fragments_per_frame=2)
    dataset.PixelData = whole[:12] + whole[16:20] + whole[12:16] + whole[20:]


def _a_frame_too_few(dataset: Dataset, frames: list[bytes]) -> None:
    dataset.PixelData = pydicom.encaps.encapsulate(frames[:-1])


@pytest.mark.needs_jpeg
@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_no_offset_table, Reason.MALFORMED),
        (_offset_between_fragments, Reason.MALFORMED),
        (_offsets_that_fall, Reason.MALFORMED),
        (_a_frame_too_few, Reason.WRONG_PIXEL_LENGTH),
    ],
)
def test_fragments_of_unknown_frames_are_refused(
    tmp_path: Path, spoil: Callable[[Dataset, list[bytes]], None], reason: Reason
) -> None:
    frames = [encoders.jpeg_lossless(stored.view(np.uint16), predictor=1) for stored in STORED]
    dataset = enhanced_dataset(STORED)
    path = encoders.write_frames(tmp_path / "a.dcm", dataset, frames, JPEGLosslessSV1)
    spoil(dataset, frames)
    dataset["PixelData"].is_undefined_length = True
    assert refused(phantoms.write_dicom(path, dataset, syntax=JPEGLosslessSV1)).reason == reason


def _without(group: str) -> Callable[[Dataset], None]:
    def spoil(dataset: Dataset) -> None:
        holder = dataset.SharedFunctionalGroupsSequence[0]
        delattr(holder if group in holder else dataset.PerFrameFunctionalGroupsSequence[2], group)

    return spoil


def _position_shared_too(dataset: Dataset) -> None:
    group = dataset.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence
    dataset.SharedFunctionalGroupsSequence[0].PlanePositionSequence = group


def _two_positions(dataset: Dataset) -> None:
    groups = dataset.PerFrameFunctionalGroupsSequence[1]
    groups.PlanePositionSequence = [*groups.PlanePositionSequence, *groups.PlanePositionSequence]


def _another_unit(dataset: Dataset) -> None:
    dataset.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence[0].RescaleType = "MGML"


def _a_localizer(dataset: Dataset) -> None:
    types = dataset.SharedFunctionalGroupsSequence[0].CTImageFrameTypeSequence[0]
    types.FrameType = ["ORIGINAL", "PRIMARY", "LOCALIZER", "NONE"]


def _set(name: str, value: Any) -> Callable[[Dataset], None]:
    return lambda dataset: setattr(dataset, name, value)


def _position_in_the_root(dataset: Dataset) -> None:
    _without("PlanePositionSequence")(dataset)
    dataset.ImagePositionPatient = [0, 0, 0]


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_without("PlanePositionSequence"), Reason.MISSING_TAG),
        (_without("PlaneOrientationSequence"), Reason.MISSING_TAG),
        (_without("PixelMeasuresSequence"), Reason.MISSING_TAG),
        (_without("PixelValueTransformationSequence"), Reason.MISSING_TAG),
        (_position_in_the_root, Reason.MISSING_TAG),
        (_position_shared_too, Reason.BAD_VALUE),
        (_two_positions, Reason.BAD_VALUE),
        (_another_unit, Reason.NOT_HOUNSFIELD),
        (_a_localizer, Reason.LOCALIZER),
        (_set("NumberOfFrames", 3), Reason.BAD_VALUE),
        (_set("NumberOfFrames", 5000), Reason.TOO_LARGE),
        (_set("NumberOfFrames", 0), Reason.BAD_VALUE),
        (_set("PerFrameFunctionalGroupsSequence", []), Reason.BAD_VALUE),
        (_set("Rows", 11), Reason.WRONG_PIXEL_LENGTH),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_a_file_whose_frames_cannot_all_be_told_is_refused_whole(
    tmp_path: Path, spoil: Callable[[Dataset], None], reason: Reason
) -> None:
    dataset = enhanced_dataset(STORED)
    spoil(dataset)
    assert refused(phantoms.write_dicom(tmp_path / "a.dcm", dataset)).reason == reason


def test_a_group_gives_nothing_but_its_own_elements(tmp_path: Path) -> None:
    dataset = enhanced_dataset(STORED)
    for groups in dataset.PerFrameFunctionalGroupsSequence:
        groups.FrameVOILUTSequence[0].RescaleSlope = 2
    assert {record.slope for record in assert_is_stored(phantoms.write_dicom(tmp_path / "a.dcm", dataset))} == {1.0}


def test_windows_and_thickness_may_be_missing(tmp_path: Path) -> None:
    dataset = enhanced_dataset(STORED)
    for groups in dataset.PerFrameFunctionalGroupsSequence:
        del groups.FrameVOILUTSequence
    del dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SliceThickness
    records = assert_is_stored(phantoms.write_dicom(tmp_path / "a.dcm", dataset))
    assert {(r.window_center_hu, r.slice_thickness_mm) for r in records} == {(None, None)}


def test_a_real_perfusion_map_is_refused_and_read_right_once_it_says_hu(tmp_path: Path) -> None:
    assert refused(PERFUSION).reason == Reason.NOT_HOUNSFIELD
    dataset = pydicom.dcmread(PERFUSION)
    expected = dataset.pixel_array.astype(np.int64) - 1024
    dataset.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence[0].RescaleType = "HU"
    dataset.save_as(tmp_path / "a.dcm")
    slices = taken(tmp_path / "a.dcm")
    np.testing.assert_array_equal(np.stack([hu for _, hu in slices]), expected)
    assert [record.image_position_mm for record, _ in slices] == [(99.5, -301.5, -159.0), (99.5, -301.5, -149.0)]


@pytest.mark.parametrize("n_frames", [256, pytest.param(4096, marks=pytest.mark.slow)])
def test_as_many_frames_as_are_allowed_take_a_millisecond_each_at_most(tmp_path: Path, n_frames: int) -> None:
    path = phantoms.write_dicom(tmp_path / "a.dcm", enhanced_dataset(np.zeros((n_frames, 2, 2), "<i2"), spacing_mm=0.5))
    began_s = time.process_time()
    with path.open("rb") as stream:
        headers = dicom.read_headers(stream, RawFile(path.name, path.stat().st_size, 0))
    assert time.process_time() - began_s < 0.001 * n_frames
    assert not isinstance(headers, Refusal)
    assert len(headers) == n_frames


def test_labels_name_frames(tmp_path: Path) -> None:
    phantoms.write_dicom(tmp_path / "raw" / "ID_a.dcm", enhanced_dataset(STORED))
    write_labels(tmp_path / "labels.csv", ICH, ["ID_a_2"], [[1, 0, 0, 0, 0, 1]])
    prepare(tmp_path / "raw", tmp_path / "store", task=ICH, labels=tmp_path / "labels.csv", n_jobs=1)
    store = Store.open(tmp_path / "store")
    is_labelled = ~np.isnan(store.labels).all(axis=1)
    assert store.index["image_id"][is_labelled].tolist() == ["ID_a_2"]


def test_a_damaged_frame_is_mended_from_its_file(tmp_path: Path) -> None:
    phantoms.write_dicom(tmp_path / "raw" / "ID_a.dcm", enhanced_dataset(STORED))
    phantoms.write_series(tmp_path / "raw", name="b", patient_id="other")
    prepare(tmp_path / "raw", tmp_path / "store", task=ICH, n_jobs=1)
    index = Store.open(tmp_path / "store").index
    row = index["image_id"].tolist().index("ID_a_3")
    shard = tmp_path / "store" / "shards" / index["shard"][row]
    raw = bytearray(shard.read_bytes())
    raw[int(index["byte_offset"][row]) + 7] ^= 1
    shard.write_bytes(raw)
    report = repair(tmp_path / "store", tmp_path / "raw", n_jobs=1)
    assert (report.n_mended_slices, report.left) == (1, ())
    np.testing.assert_array_equal(Store.open(tmp_path / "store").read_slice(row), STORED[2])


def test_a_store_of_enhanced_ct_is_that_of_single_slices(tmp_path: Path) -> None:
    phantoms.write_dicom(tmp_path / "raw" / "ID_a.dcm", enhanced_dataset(STORED))
    phantoms.write_dicom(tmp_path / "raw" / "copy" / "ID_a.dcm", enhanced_dataset(STORED))
    report = prepare(tmp_path / "raw", tmp_path / "store", task=ICH, n_jobs=1)
    store = Store.open(tmp_path / "store")
    # The same instance twice, byte for byte: each of its frames is taken once.
    assert report.refusals == {"duplicate_sop_uid": N_FRAMES}
    assert store.index["image_id"].tolist() == ["ID_a_4", "ID_a_3", "ID_a_2", "ID_a_1"]  # feet first
    assert store.index["frame_number"].tolist() == [4, 3, 2, 1]
    for row in range(N_FRAMES):
        np.testing.assert_array_equal(store.read_slice(row), STORED[3 - row])
    phantoms.write_dicom(tmp_path / "raw" / "copy" / "ID_a.dcm", enhanced_dataset(np.roll(STORED, 1, axis=0)))
    phantoms.write_series(tmp_path / "raw", name="b", patient_id="other")
    report = prepare(tmp_path / "raw", tmp_path / "second", task=ICH, n_jobs=1)
    assert report.refusals == {"conflicting_sop_uid": 2 * N_FRAMES}
