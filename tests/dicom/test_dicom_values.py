"""What the tags of a slice do to its HU: documented per tag, exact, and every repair by name."""

import struct
from pathlib import Path
from typing import Any

import encoders
import numpy as np
import phantoms
import pydicom
import pydicom.data
import pytest
from pydicom.uid import ExplicitVRBigEndian, JPEG2000Lossless

from rsna_e2e import dicom
from rsna_e2e.core.reasons import Reason
from rsna_e2e.core.records import Refusal, SliceRecord
from rsna_e2e.dicom import Repair

STORED = phantoms.stored_image(12, 10, seed=1, form=phantoms.SIGNED_16)
PIXELREP_MISMATCH = Path(pydicom.data.__file__).parent / "test_files" / "J2K_pixelrep_mismatch.dcm"

pytestmark = pytest.mark.filterwarnings("ignore:.*:UserWarning")  # pydicom's remarks on odd values


def read(path: Path, stored: np.ndarray, **tags: Any) -> tuple[SliceRecord, list[Any]]:
    return taken(phantoms.write_dicom(path / "a.dcm", phantoms.slice_dataset(stored, **tags)))


def taken(path: Path) -> tuple[SliceRecord, list[Any]]:
    result = dicom.read_slice(path)
    assert not isinstance(result, Refusal), result
    return result[0], result[1].tolist()


def outcome(path: Path, name: str, text: bytes) -> tuple[float, float] | Reason:
    """Slope and intercept of a slice in which the tag says `text`, or the reason to refuse it."""
    marker = b"1.25"
    dataset = phantoms.slice_dataset(STORED, **{"RescaleSlope": 1, "RescaleIntercept": 0, name: marker.decode()})
    raw = phantoms.write_dicom(path / "a.dcm", dataset).read_bytes()
    old = b"DS" + struct.pack("<H", 4) + marker
    assert raw.count(old) == 1
    (path / "a.dcm").write_bytes(raw.replace(old, b"DS" + struct.pack("<H", len(text)) + text))
    result = dicom.read_slice(path / "a.dcm")
    return result.reason if isinstance(result, Refusal) else (result[0].slope, result[0].intercept)


@pytest.mark.parametrize(
    ("text", "slope", "intercept"),
    [
        (b"nan ", Reason.BAD_VALUE, Reason.BAD_VALUE),
        (b"inf ", Reason.BAD_VALUE, Reason.BAD_VALUE),
        (b"1E400 ", Reason.BAD_VALUE, Reason.BAD_VALUE),
        (b"1,5 ", Reason.BAD_VALUE, Reason.BAD_VALUE),
        (b"1\\2 ", Reason.BAD_VALUE, Reason.BAD_VALUE),
        ("\u0661 ".encode(), Reason.BAD_VALUE, Reason.BAD_VALUE),  # a digit, but not one of DICOM's
        (b"", Reason.MISSING_TAG, Reason.MISSING_TAG),
        (b"  ", Reason.MISSING_TAG, Reason.MISSING_TAG),
        (b"0 ", Reason.BAD_VALUE, (1.0, 0.0)),
        (b"-1", (-1.0, 0.0), (1.0, -1.0)),
        (b" 2.5e0 ", (2.5, 0.0), (1.0, 2.5)),
        (b"+.5\0", (0.5, 0.0), (1.0, 0.5)),
    ],
)
def test_what_a_rescale_may_say(tmp_path: Path, text: bytes, slope: object, intercept: object) -> None:
    assert outcome(tmp_path, "RescaleSlope", text) == slope
    assert outcome(tmp_path, "RescaleIntercept", text) == intercept


@pytest.mark.parametrize(
    ("unit", "expected"), [("HU", None), ("", None), ("US", None), ("MGML", Reason.NOT_HOUNSFIELD)]
)
def test_only_hounsfield_units_are_taken(tmp_path: Path, unit: str, expected: Reason | None) -> None:
    path = phantoms.write_dicom(tmp_path / "a.dcm", phantoms.slice_dataset(STORED, RescaleType=unit))
    result = dicom.read_slice(path)
    assert (result.reason if isinstance(result, Refusal) else None) == expected


def head(*, background: int, noise: int = 0) -> np.ndarray:
    """Air, painted or measured, around something between 0 and 99."""
    rng = np.random.default_rng(0)
    hu = rng.integers(0, 100, (20, 20))
    hu[:5] = background + rng.integers(-noise, noise + 1, (5, 20))
    return hu


# Values in HU, other tags, and whether they are taken for HU though RescaleType leaves the unit unspecified
UNSPECIFIED = {
    "computed": (head(background=-1000), {}, True),
    "clamped": (head(background=-1024), {}, True),
    "measured": (head(background=-1000, noise=30), {"RescaleIntercept": -1024}, True),
    "painted": (head(background=-1024), {"RescaleIntercept": -1024}, False),
    "no air": (head(background=0), {}, False),
    "far below": (head(background=-3000), {}, False),
    "a hundredth": (np.pad(np.full((1, 4), -1000), ((0, 19), (0, 16))), {}, False),
    "more than a hundredth": (np.pad(np.full((1, 5), -1000), ((0, 19), (0, 15))), {}, True),
    "padding alone": (head(background=-1000), {"PixelPaddingValue": -1000}, False),
    "steps of a half": (head(background=-1000), {"RescaleSlope": 0.5}, False),
    "half an intercept": (head(background=-1000), {"RescaleIntercept": 0.5}, False),
    "a map": (head(background=-1000, noise=30), {"ImageType": ["DERIVED", "PRIMARY", "PERFUSION", "RCBF"]}, False),
    "another modality": (head(background=-1000), {"Modality": "MR"}, False),
}


@pytest.mark.parametrize(("hu", "tags", "is_taken"), UNSPECIFIED.values(), ids=UNSPECIFIED)
def test_an_unspecified_unit_is_that_of_ct_where_the_values_are(
    tmp_path: Path, hu: np.ndarray, tags: dict[str, Any], is_taken: bool
) -> None:
    stored = (hu - int(tags.get("RescaleIntercept", 0))).astype("<i2")
    dataset = phantoms.slice_dataset(stored, **{"RescaleType": "US", "RescaleIntercept": 0} | tags)
    result = dicom.read_slice(phantoms.write_dicom(tmp_path / "a.dcm", dataset))
    assert isinstance(result, Refusal) != is_taken
    if isinstance(result, Refusal):
        assert result.reason == (Reason.NOT_CT if "Modality" in tags else Reason.NOT_HOUNSFIELD)
    else:
        np.testing.assert_array_equal(result[1], hu)
        assert result[0].repair == Repair.UNSPECIFIED_UNIT


def test_monochrome1_changes_how_a_slice_is_shown_and_not_its_hu(tmp_path: Path) -> None:
    record, hu = read(tmp_path, STORED, PhotometricInterpretation="MONOCHROME1")
    assert hu == STORED.tolist()
    assert record.repair == Repair.MONOCHROME1


def padded(value: int, **tags: Any) -> dict[str, Any]:
    return {"PixelPaddingValue": value, **tags}


UNSIGNED_16 = {"BitsStored": 16, "HighBit": 15, "PixelRepresentation": 0, "RescaleIntercept": -1024}
WRAPPED_12 = {**phantoms.UNSIGNED_12, "RescaleIntercept": 0}
WRAPPED_12_OF_1 = {**WRAPPED_12, "RescaleIntercept": 1}
SIGNED_12 = {"BitsStored": 12, "HighBit": 11, "PixelRepresentation": 1, "RescaleIntercept": 0}


@pytest.mark.parametrize(
    ("stored", "tags", "expected", "repair", "n_padding"),
    [
        # as CT scanners write it, signed: -2000 is no measurement
        ([-2000, 40, 0], padded(-2000), [-1000, 40, 0], Repair.PADDING_AS_AIR, 1),
        ([-2000, 40, 0], padded(-2000, **SIGNED_12), [-1000, 40, 0], Repair.PADDING_AS_AIR, 1),
        # without the tag it stays what it is, and shows in hu_min
        ([-2000, 40, 0], {}, [-2000, 40, 0], "", 0),
        # -2000 in 16 bits beside unsigned values would be 62512 HU, and cut to 12 bits 1072: bone
        ([63536, 1064, 24], padded(63536, **UNSIGNED_16), [-1000, 40, -1000], Repair.PADDING_AS_AIR, 1),
        ([63536, 1064, 24], padded(63536, **phantoms.UNSIGNED_12), [-1000, 40, -1000], Repair.PADDING_AS_AIR, 1),
        # a range, either end first
        ([-2000, -1500, -1000], padded(-2000, PixelPaddingRangeLimit=-1500), [-1000] * 3, Repair.PADDING_AS_AIR, 2),
        ([-2000, -1500, -999], padded(-1500, PixelPaddingRangeLimit=-2000), [-1000] * 2 + [-999], "padding_as_air", 2),
        ([65000, 65535, 1024], padded(65000, PixelPaddingRangeLimit=65535, **UNSIGNED_16), [-1000] * 2 + [0], None, 2),
        (
            [63536, 1064, 24],
            padded(64000, PixelPaddingRangeLimit=63000, **phantoms.UNSIGNED_12),
            [-1000, 40, -1000],
            None,
            1,
        ),
        # 0 in signed values is water: no scanner pads with that, whatever the tag says
        ([0, 40, 7], padded(0), [0, 40, 7], Repair.PADDING_KEPT, 1),
        ([0, 40, -900], padded(-2000, PixelPaddingRangeLimit=-500), [0, 40, -900], Repair.PADDING_KEPT, 1),
        # no pixel has it
        ([1, 40, 7], padded(-2000), [1, 40, 7], "", 0),
        # a sign that was lost: 3096 stands for -1000
        (
            [63536, 3096, 40],
            padded(63536, **WRAPPED_12),
            [-1000, -1000, 40],
            None,
            1,
        ),
        # and so does the padding: 3500 is fat, -596, and 3096 the air that it becomes anyway
        ([3500, 40, 0], padded(3500, **WRAPPED_12), [-596, 40, 0], "wrapped_12bit+padding_kept", 1),
        ([3096, 40, 0], padded(3096, **WRAPPED_12_OF_1), [-1000, 40, 0], "wrapped_12bit+padding_as_air", 1),
        (
            [3200, 40, 63536],
            padded(3072, PixelPaddingRangeLimit=65535, **WRAPPED_12),
            [-896, 40, 2096],
            "wrapped_12bit+padding_kept",
            2,
        ),
    ],
)
def test_padding_is_air_or_stays(
    tmp_path: Path, stored: list[int], tags: dict[str, Any], expected: list[int], repair: str | None, n_padding: int
) -> None:
    is_signed = tags.get("PixelRepresentation", 1)
    record, hu = read(tmp_path, np.array([stored], "<i2" if is_signed else "<u2"), **tags)
    assert hu == [expected]
    assert record.n_padding == n_padding
    if repair is not None:
        assert record.repair == repair
    assert (record.hu_min, record.hu_max) == (min(expected), max(expected))
    assert (record.n_rounded, record.n_saturated) == (0, 0)


def test_padding_is_not_counted_among_saturated_or_rounded_pixels(tmp_path: Path) -> None:
    stored = np.array([[-30000, 3, 30000, 20]], "<i2")
    record, hu = read(tmp_path, stored, RescaleSlope="1.5", PixelPaddingValue=-30000)
    assert hu == [[-1000, 4, 32767, 30]]
    assert (record.n_padding, record.n_rounded, record.n_saturated) == (1, 1, 1)


def test_a_slice_of_nothing_but_padding(tmp_path: Path) -> None:
    record, hu = read(tmp_path, np.full((2, 3), -2000, "<i2"), PixelPaddingValue=-2000, RescaleSlope="20.5")
    assert hu == [[-1000] * 3] * 2
    assert (record.n_padding, record.n_rounded, record.n_saturated) == (6, 0, 0)


def test_padding_in_big_endian(tmp_path: Path) -> None:
    dataset = phantoms.slice_dataset(np.array([[-2000, 40]], "<i2"), PixelPaddingValue=-2000)
    record, hu = taken(encoders.write_in(tmp_path / "a.dcm", dataset, ExplicitVRBigEndian))
    assert (hu, record.n_padding) == ([[-1000, 40]], 1)


@pytest.mark.parametrize("name", ["PixelPaddingValue", "PixelPaddingRangeLimit"])
def test_padding_of_another_length_than_a_pixel_is_refused(tmp_path: Path, name: str) -> None:
    dataset = phantoms.slice_dataset(STORED, **padded(-2000), **{"PixelPaddingRangeLimit": -1999})
    dataset[name].value = [-2000, -2000]
    result = dicom.read_slice(phantoms.write_dicom(tmp_path / "a.dcm", dataset))
    assert isinstance(result, Refusal)
    assert (result.reason, name in result.detail) == (Reason.BAD_VALUE, True)


def test_several_repairs_are_named_together(tmp_path: Path) -> None:
    stored = np.array([[63536, 0x1001, 5]], "<u2")
    tags = padded(63536, PhotometricInterpretation="MONOCHROME1", **phantoms.UNSIGNED_12)
    record, hu = read(tmp_path, stored, **tags)
    assert hu == [[-1000, 1 - 1024, 5 - 1024]]
    assert record.repair == "monochrome1+unused_bits+padding_as_air"


@pytest.mark.parametrize(
    ("stored", "tags", "expected", "repair"),
    [
        # 12 bits with room for nothing below 0 are only known to have lost a sign with intercepts of 0 and 1
        ([1000, 3500], {**phantoms.UNSIGNED_12, "RescaleIntercept": 500}, [1500, 4000], ""),
        ([1000, 3500], {**phantoms.UNSIGNED_12, "RescaleIntercept": -99}, [901, 3401], ""),
        ([1000, 3500], WRAPPED_12_OF_1, [1000, -596], "wrapped_12bit"),
        # cleared bits are named beside it
        ([0x1000 + 40, 3500], WRAPPED_12, [40, -596], "unused_bits+wrapped_12bit"),
        # -3000 takes 13 bits: its lowest 12 are 1096
        ([-3000, 40], SIGNED_12, [1096, 40], "unused_bits"),
        ([-3000, 40], padded(-3000, **SIGNED_12), [-1000, 40], "padding_as_air"),
        # the sign, or zeros, above the value
        ([-2048, 2047], SIGNED_12, [-2048, 2047], ""),
        ([0x0FFF, 0x0800], SIGNED_12, [-1, -2048], ""),
        ([0x1000, 40], SIGNED_12, [0, 40], "unused_bits"),
    ],
)
def test_bits_beyond_those_stored(
    tmp_path: Path, stored: list[int], tags: dict[str, Any], expected: list[int], repair: str
) -> None:
    is_signed = tags["PixelRepresentation"]
    record, hu = read(tmp_path, np.array([stored], "<i2" if is_signed else "<u2"), **tags)
    assert (hu, record.repair) == ([expected], repair)


@pytest.mark.parametrize(("word", "repair"), [(0x38, ""), (0xF8, ""), (0x78, "unused_bits")])
def test_signs_that_go_on_in_8_bits(tmp_path: Path, word: int, repair: str) -> None:
    form = {"BitsStored": 6, "HighBit": 5, "PixelRepresentation": 1, "RescaleIntercept": 0}
    record, hu = read(tmp_path, np.array([[word, 1]], np.uint8), **form)
    assert (hu, record.repair) == ([[-8, 1]], repair)


@pytest.mark.parametrize(("low", "word", "n_padding"), [(-100, 0x9C, 1), (-8, 0xF8, 1), (-100, 0x1C, 0)])
def test_padding_below_0_in_8_bits(tmp_path: Path, low: int, word: int, n_padding: int) -> None:
    """-100 is 0x9C: 8 bits, of which the 6 stored would be 28."""
    form = {"BitsStored": 6, "HighBit": 5, "PixelRepresentation": 1, "RescaleIntercept": 0}
    record, _ = read(tmp_path, np.array([[word, 1]], np.uint8), **padded(low, **form))
    assert (record.n_padding, "unused_bits" in record.repair) == (n_padding, False)


def test_extreme_values_are_seen_in_the_record(tmp_path: Path) -> None:
    record, hu = read(tmp_path, np.array([[-32768, 32767, 0]], "<i2"))
    assert (hu, record.hu_min, record.hu_max, record.repair) == ([[-32768, 32767, 0]], -32768, 32767, "")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1.25", 1.25),
        ("5\\3", 5.0),
        ("", None),
        (None, None),
        ("0", None),
        ("-1", None),
        ("thin", None),
        ("1e30", None),
    ],
)
def test_slice_thickness_is_advice(tmp_path: Path, text: str | None, expected: float | None) -> None:
    dataset = phantoms.slice_dataset(STORED, SliceThickness="9.75")
    raw = phantoms.write_dicom(tmp_path / "a.dcm", dataset).read_bytes()
    old = b"\x18\x00\x50\x00DS\x04\x009.75"
    assert raw.count(old) == 1
    value = (text or "").encode()
    value += b" " * (len(value) % 2)
    new = b"" if text is None else b"\x18\x00\x50\x00DS" + struct.pack("<H", len(value)) + value
    (tmp_path / "a.dcm").write_bytes(raw.replace(old, new))
    assert taken(tmp_path / "a.dcm")[0].slice_thickness_mm == expected


@pytest.mark.parametrize(("said", "expected"), [("YES", "YES"), ("no", "NO"), ("", ""), (None, ""), ("MAYBE", "")])
def test_burned_in_annotation_is_surfaced(tmp_path: Path, said: str | None, expected: str) -> None:
    assert read(tmp_path, STORED, BurnedInAnnotation=said)[0].burned_in_annotation == expected


def test_jpeg_2000_that_calls_signed_values_unsigned(tmp_path: Path) -> None:
    record, hu = taken(PIXELREP_MISMATCH)
    dataset = pydicom.dcmread(PIXELREP_MISMATCH)
    # Values by pydicom's own correction, and its known minimum: without it -2000 would be 6192.
    assert hu == dataset.pixel_array.tolist()
    assert (record.hu_min, record.repair) == (-2000, Repair.CODESTREAM_SIGN)
    dataset.BitsStored, dataset.HighBit = 16, 15  # the sign stands where the codestream ends, not where the file says
    dataset.save_as(tmp_path / "a.dcm")
    assert taken(tmp_path / "a.dcm")[1] == hu


def test_jpeg_2000_that_calls_unsigned_values_signed_is_refused(tmp_path: Path) -> None:
    stored = phantoms.stored_image(66, 70, seed=2, form=phantoms.SIGNED_16)
    path = encoders.write_in(tmp_path / "a.dcm", phantoms.slice_dataset(stored), JPEG2000Lossless)
    assert taken(path)[1] == stored.tolist()
    dataset = pydicom.dcmread(path)
    dataset.PixelRepresentation = 0
    dataset.save_as(path)
    result = dicom.read_slice(path)
    assert isinstance(result, Refusal)
    assert result.reason == Reason.CODESTREAM_MISMATCH


@pytest.mark.parametrize(("bits_stored", "high_bit"), [(12, 15), (12, 10), (4, 11), (16, 11), (17, 16), (0, None)])
def test_bits_that_contradict_each_other_are_refused(tmp_path: Path, bits_stored: int, high_bit: int | None) -> None:
    # Where the value stands is then anybody's guess, and readers differ (PS3.5 8.1.1).
    dataset = phantoms.slice_dataset(STORED, BitsStored=bits_stored, HighBit=high_bit)
    result = dicom.read_slice(phantoms.write_dicom(tmp_path / "a.dcm", dataset))
    assert isinstance(result, Refusal)
    assert result.reason == Reason.BAD_VALUE


@pytest.mark.parametrize(
    ("vr", "wrong"), [(b"US", b"SH"), (b"US", b"AT"), (b"CS", b"US"), (b"DS", b"SS"), (b"UI", b"FL"), (b"LO", b"SL")]
)
def test_values_of_another_kind_than_their_tag_are_refused(tmp_path: Path, vr: bytes, wrong: bytes) -> None:
    raw = phantoms.write_dicom(tmp_path / "a.dcm", phantoms.slice_dataset(STORED)).read_bytes()
    at = raw.index(vr, 144 + int.from_bytes(raw[140:144], "little"))
    (tmp_path / "a.dcm").write_bytes(raw[:at] + wrong + raw[at + 2 :])
    result = dicom.read_slice(tmp_path / "a.dcm")
    assert isinstance(result, Refusal)
    assert (result.reason, result.detail.endswith(f"has the VR {wrong.decode()}")) == (Reason.BAD_VALUE, True)
