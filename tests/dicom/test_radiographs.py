"""Radiographs in DICOM: values exactly as stored, how they are shown, and what is no radiograph."""

import io
import math
from pathlib import Path
from typing import Any

import encoders
import numpy as np
import phantoms
import pydicom
import pytest
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.uid import (
    CTImageStorage,
    DigitalXRayImageStorageForProcessing,
    GrayscaleSoftcopyPresentationStateStorage,
    JPEGBaseline8Bit,
    SecondaryCaptureImageStorage,
)
from radiographs import chest, dataset, spellings, voi_lut

from rsna_e2e import dicom
from rsna_e2e.core.limits import XRAY_SIDES_PX
from rsna_e2e.core.reasons import Reason
from rsna_e2e.core.records import Int16Image, RawFile, Refusal, SliceRecord, VoiLut, XrayRecord
from rsna_e2e.dicom.header import read_voi_lut

GREY = chest()


def read(path: Path) -> tuple[SliceRecord, XrayRecord, Int16Image]:
    result = dicom.read_slice(path, "xr")
    assert not isinstance(result, Refusal), result
    record, values = result
    assert record.xray is not None
    return record, record.xray, values


def read_tags(folder: Path, stored: np.ndarray = GREY, bits: int = 12, **tags: Any) -> XrayRecord:
    return read(phantoms.write_dicom(folder / "a.dcm", dataset(stored, bits, **tags)))[1]


def why_not(folder: Path, **tags: Any) -> str:
    result = dicom.read_slice(phantoms.write_dicom(folder / "a.dcm", dataset(GREY, 12, **tags)), "xr")
    assert isinstance(result, Refusal), result
    return result.reason


def lut_of(path: Path) -> VoiLut | None:
    with path.open("rb") as stream:
        return read_voi_lut(stream, RawFile(str(path), path.stat().st_size, 0))


@pytest.mark.parametrize("name", [name for name in spellings(GREY) if "PNG" not in name])
def test_values_are_those_that_pydicom_reads(tmp_path: Path, name: str) -> None:
    path = spellings(GREY)[name](tmp_path / "image")
    record, xray, values = read(path)
    file = pydicom.dcmread(path)
    np.testing.assert_array_equal(values.astype(np.int64) + xray.value_offset, file.pixel_array)
    assert xray.value_offset == (32768 if name == "16 bits, window" else 0)
    assert xray.photometric == file.PhotometricInterpretation
    expected = np.percentile(file.pixel_array, [0.5, 99.5], method="inverted_cdf")
    assert [xray.low_grey, xray.high_grey] == expected.tolist()
    assert (record.hu_min, record.hu_max) == (values.min(), values.max())
    assert (record.slope, record.intercept) == (1.0, 2048.0 if "rescale" in name else 0.0)
    assert (xray.view, xray.sex, xray.age_y, xray.imager_spacing_mm) == ("PA", "F", 61.0, 0.139)
    assert math.isnan(record.image_position_mm[0])
    expected_repairs = ["for_processing_without_window"] * ("raw" in name) + ["monochrome1"] * ("MONOCHROME1" in name)
    assert record.repair == "+".join(expected_repairs)


def test_how_values_are_shown(tmp_path: Path) -> None:
    shown = {name: read(write(tmp_path / name.replace(" ", "_")))[1] for name, write in spellings(GREY).items()}
    assert {name: one.voi_function for name, one in shown.items()} == {
        "8 bits": "",
        "8 bits, MONOCHROME1": "",
        "10 bits, window": "LINEAR",
        "12 bits, MONOCHROME1, exact window": "LINEAR_EXACT",
        "12 bits, sigmoid": "SIGMOID",
        "14 bits, LUT": "LUT",
        "15 bits, MONOCHROME1, window": "LINEAR",
        "16 bits, window": "LINEAR",
        "12 bits, signed, rescale": "LINEAR",
        "12 bits, JPEG-LS, MONOCHROME1, raw": "",
        "16 bits, signed, JPEG 2000": "LINEAR",
        "16 bits, PNG": "",
    }
    assert (shown["12 bits, sigmoid"].window_center, shown["12 bits, sigmoid"].window_width) == (2048.0, 4096.0)


REAL = [
    "RG1_UNCR.dcm",
    pytest.param("RG1_J2KR.dcm", marks=pytest.mark.slow),
]  # 1955 x 1841 px, 15 bits, MONOCHROME1: by pydicom-data


@pytest.mark.parametrize("name", REAL)
def test_a_real_radiograph(name: str) -> None:
    path = Path(str(get_testdata_file(name)))
    record, xray, values = read(path)
    np.testing.assert_array_equal(values, pydicom.dcmread(path).pixel_array)
    assert (record.rows, record.columns, record.bits_stored) == (1955, 1841, 15)
    assert (xray.photometric, xray.voi_function, xray.window_center, xray.window_width) == (
        "MONOCHROME1",
        "LINEAR",
        15000.0,
        30000.0,
    )
    assert (xray.view, xray.sex) == ("PA", "F")
    assert math.isnan(xray.imager_spacing_mm)  # which the file calls 0
    assert math.isnan(xray.age_y)


def test_jpeg_baseline_in_a_secondary_capture(tmp_path: Path) -> None:
    grey = (GREY >> 4).astype(np.uint8)
    tags = {"SOPClassUID": SecondaryCaptureImageStorage, "Modality": "CR", "ImagerPixelSpacing": None}
    frame = encoders.jpeg_baseline(grey)
    path = encoders.write_frames(tmp_path / "a.dcm", dataset(grey, 8, **tags), [frame], JPEGBaseline8Bit)
    record, xray, values = read(path)
    np.testing.assert_array_equal(values, np.asarray(Image.open(io.BytesIO(frame))))  # other decoders round otherwise
    assert record.decoder.startswith("pillow")
    assert xray.imager_spacing_mm == 0.2  # PixelSpacing, as RSNA 2018 has it


LUTS: dict[str, tuple[dict[str, Any], VoiLut]] = {
    "of words": (
        {"VOILUTSequence": voi_lut(np.arange(5) * 13107, first=7, bits=16)},
        VoiLut(7, 16, np.arange(5) * 13107),
    ),
    "as bytes": (
        {"VOILUTSequence": voi_lut(np.arange(5) * 800, first=7, bits=12, vr="OW")},
        VoiLut(7, 12, np.arange(5) * 800),
    ),
    "packed in words": (
        {"VOILUTSequence": voi_lut(np.arange(6) * 50, first=0, bits=8, vr="OW")},
        VoiLut(0, 8, np.arange(6) * 50),
    ),
    "of all values": (
        {"VOILUTSequence": voi_lut(np.arange(65536), first=0, bits=16, vr="OW")},
        VoiLut(0, 16, np.arange(65536)),
    ),
    "below 0": (
        {"VOILUTSequence": voi_lut(np.arange(9) * 31, first=-4, bits=8), "RescaleSlope": 1, "RescaleIntercept": -4},
        VoiLut(-4, 8, np.arange(9) * 31),
    ),
}


@pytest.mark.parametrize(("tags", "expected"), LUTS.values(), ids=LUTS)
def test_luts(tmp_path: Path, tags: dict[str, Any], expected: VoiLut) -> None:
    xray = read_tags(tmp_path, WindowCenter=5, WindowWidth=9, **tags)
    lut = lut_of(tmp_path / "a.dcm")
    assert lut is not None
    assert (lut.first, lut.bits, lut.entries.tolist()) == (expected.first, expected.bits, expected.entries.tolist())
    assert (xray.voi_function, xray.voi_lut, xray.window_center) == ("LUT", lut.sha256, 5.0)


def _lut(descriptor: list[int], n: int) -> Any:
    sequence = voi_lut(np.arange(n), first=0, bits=16)
    sequence[0].add_new("LUTDescriptor", "US", descriptor)
    return sequence


IGNORED: dict[str, dict[str, Any]] = {
    "too few entries": {"VOILUTSequence": _lut([10, 0, 16], 9)},
    "more bits than a word": {"VOILUTSequence": _lut([9, 0, 17], 9)},
    "entries of more bits": {"VOILUTSequence": _lut([400, 0, 8], 400)},
    "half a descriptor": {"VOILUTSequence": _lut([9, 0], 9)},
    "width 0": {"WindowCenter": 5, "WindowWidth": 0},
    "width below that of a step": {"WindowCenter": 5, "WindowWidth": 0.5},
    "no width": {"WindowCenter": 5},
    "unknown function": {"WindowCenter": 5, "WindowWidth": 10, "VOILUTFunction": "CUBIC"},
}


@pytest.mark.parametrize("tags", IGNORED.values(), ids=IGNORED)
def test_what_cannot_be_right_is_not_applied(tmp_path: Path, tags: dict[str, Any]) -> None:
    record, xray, _ = read(phantoms.write_dicom(tmp_path / "a.dcm", dataset(GREY, 12, **tags)))
    assert (xray.voi_function, xray.voi_lut) == ("", "")
    assert math.isnan(xray.window_width)
    assert record.repair == "voi_ignored"


def test_raw_values_without_a_window_are_marked(tmp_path: Path) -> None:
    raw = {"SOPClassUID": DigitalXRayImageStorageForProcessing}
    path = tmp_path / "a.dcm"
    assert read(phantoms.write_dicom(path, dataset(GREY, 12, **raw)))[0].repair == "for_processing_without_window"
    assert read(phantoms.write_dicom(path, dataset(GREY, 12, **raw, WindowCenter=5, WindowWidth=9)))[0].repair == ""


def test_padding_stays_and_does_not_count(tmp_path: Path) -> None:
    grey = GREY.copy()
    grey[:20] = 4000
    file = dataset(grey, 12)
    file.add_new("PixelPaddingValue", "US", 4000)
    file.add_new("PixelPaddingRangeLimit", "US", 3900)
    record, xray, values = read(phantoms.write_dicom(tmp_path / "a.dcm", file))
    np.testing.assert_array_equal(values, grey)
    is_padding = (grey >= 3900) & (grey <= 4000)
    assert (record.n_padding, xray.padding_low, xray.padding_high) == (is_padding.sum(), 3900.0, 4000.0)
    assert xray.high_grey == np.percentile(grey[~is_padding], 99.5, method="inverted_cdf") < 3900
    assert record.repair == "padding_kept"


AGES = {"061Y": 61.0, "148Y": 90.0, "51": 51.0, "006M": 0.5, "010D": 10 / 365.25, "": None, "old": None, "1 Y": None}


@pytest.mark.parametrize(("age", "expected"), AGES.items())
def test_ages(tmp_path: Path, age: str, expected: float | None) -> None:
    file = dataset(GREY, 12, PatientAge=None)
    file.add_new("PatientAge", "LO", age)  # pydicom writes no wrong AS
    found = read(phantoms.write_dicom(tmp_path / "a.dcm", file))[1].age_y
    assert math.isnan(found) if expected is None else found == pytest.approx(expected)


@pytest.mark.parametrize(("tag", "column", "known"), [("PatientSex", "sex", "m"), ("ViewPosition", "view", "ll")])
def test_codes_are_codes(tmp_path: Path, tag: str, column: str, known: str) -> None:
    for value, expected in ((known, known.upper()), (None, ""), ("*" * 9, "")):
        file = dataset(GREY, 12, **{tag: None})
        if value is not None:
            file.add_new(tag, "LO", value)
        assert getattr(read(phantoms.write_dicom(tmp_path / "a.dcm", file))[1], column) == expected


REFUSED: dict[str, tuple[dict[str, Any], Reason]] = {
    "CT": ({"SOPClassUID": CTImageStorage, "Modality": "CT"}, Reason.NOT_XR),
    "capture of CT": ({"SOPClassUID": SecondaryCaptureImageStorage, "Modality": "CT"}, Reason.NOT_XR),
    "capture of nothing": ({"SOPClassUID": SecondaryCaptureImageStorage, "Modality": None}, Reason.NOT_XR),
    "fluoroscopy": ({"Modality": "RF"}, Reason.NOT_XR),
    "presentation state": ({"SOPClassUID": GrayscaleSoftcopyPresentationStateStorage}, Reason.NOT_XR),
    "colour": ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, Reason.COLOUR),
    "palette": ({"PhotometricInterpretation": "PALETTE COLOR"}, Reason.COLOUR),
    "frames": ({"NumberOfFrames": 2}, Reason.MULTI_FRAME),
    "modality LUT": ({"ModalityLUTSequence": voi_lut(np.arange(9), first=0, bits=16)}, Reason.UNSUPPORTED_PIXEL_FORMAT),
    "slope": ({"RescaleSlope": 0, "RescaleIntercept": 0}, Reason.BAD_VALUE),
    "no study": ({"StudyInstanceUID": None}, Reason.MISSING_TAG),
}


@pytest.mark.parametrize(("tags", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_single_grey_radiograph_is_refused(tmp_path: Path, tags: dict[str, Any], reason: Reason) -> None:
    assert why_not(tmp_path, **tags) == reason


def test_a_modality_that_is_missing_is_known_by_the_class(tmp_path: Path) -> None:
    assert read_tags(tmp_path, Modality=None).photometric == "MONOCHROME2"


@pytest.mark.parametrize("side", [XRAY_SIDES_PX[1], XRAY_SIDES_PX[1] + 1])
def test_sides(tmp_path: Path, side: int) -> None:
    path = phantoms.write_dicom(tmp_path / "a.dcm", dataset(np.zeros((1, side), np.uint8), 8))
    assert isinstance(dicom.read_slice(path, "xr"), Refusal) == (side > XRAY_SIDES_PX[1])


def test_a_radiograph_is_no_ct(tmp_path: Path) -> None:
    result = dicom.read_slice(phantoms.write_dicom(tmp_path / "a.dcm", dataset(GREY, 12)))
    assert isinstance(result, Refusal)
    assert result.reason == Reason.NOT_CT
