"""Files that are not taken: the right reason for each, whatever bytes come, and no other error."""

import errno
import os
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import phantoms
import pydicom
import pytest
from pydicom.uid import JPEG2000Lossless, RLELossless

from rsna_e2e import dicom
from rsna_e2e.core.reasons import Reason
from rsna_e2e.core.records import Refusal

STORED = phantoms.stored_image(12, 10, seed=1, form=phantoms.SIGNED_16)


def refused(path: Path) -> Refusal:
    result = dicom.read_slice(path)
    assert isinstance(result, Refusal)
    return result


REFUSED_TAGS: list[tuple[dict[str, Any], Reason]] = [
    *(
        ({name: None}, Reason.MISSING_TAG)
        for name in (
            "StudyInstanceUID",
            "SeriesInstanceUID",
            "SOPInstanceUID",
            "ImagePositionPatient",
            "ImageOrientationPatient",
            "PixelSpacing",
            "Rows",
            "Columns",
            "BitsAllocated",
            "BitsStored",
            "PixelRepresentation",
            "PhotometricInterpretation",
            "RescaleSlope",
            "RescaleIntercept",
        )
    ),
    ({"RescaleSlope": ""}, Reason.MISSING_TAG),
    ({"Rows": 0}, Reason.BAD_VALUE),
    ({"Rows": 65535, "Columns": 65535}, Reason.BAD_VALUE),
    ({"RescaleSlope": 0}, Reason.BAD_VALUE),
    ({"PixelSpacing": [0.5, 0]}, Reason.BAD_VALUE),
    ({"PixelSpacing": [0.5]}, Reason.BAD_VALUE),
    ({"PixelSpacing": [0.5, "1e30"]}, Reason.BAD_VALUE),
    ({"PixelSpacing": ["1e-30", 0.5]}, Reason.BAD_VALUE),
    ({"ImagePositionPatient": [1, 2]}, Reason.BAD_VALUE),
    ({"ImagePositionPatient": [0, 0, "1e308"]}, Reason.BAD_VALUE),
    ({"ImagePositionPatient": [0, "-10000.5", 0]}, Reason.BAD_VALUE),
    ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, Reason.BAD_VALUE),
    ({"ImageOrientationPatient": [0, 0, 0, 0, 0, 0]}, Reason.BAD_VALUE),
    ({"BitsStored": 17}, Reason.BAD_VALUE),
    ({"BitsStored": 12, "HighBit": 5}, Reason.BAD_VALUE),
    ({"PixelRepresentation": 2}, Reason.BAD_VALUE),
    ({"PhotometricInterpretation": "PALETTE COLOR"}, Reason.UNSUPPORTED_PIXEL_FORMAT),
    ({"SamplesPerPixel": 3}, Reason.UNSUPPORTED_PIXEL_FORMAT),
    ({"BitsAllocated": 32}, Reason.UNSUPPORTED_PIXEL_FORMAT),
    ({"NumberOfFrames": 2}, Reason.MULTI_FRAME),
    ({"NumberOfFrames": 0}, Reason.BAD_VALUE),
    ({"NumberOfFrames": 10**9}, Reason.TOO_LARGE),
    ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, Reason.LOCALIZER),
    ({"Modality": "MR"}, Reason.NOT_CT),
    ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.4"}, Reason.NOT_CT),
    ({"Rows": 11}, Reason.WRONG_PIXEL_LENGTH),
]


@pytest.mark.parametrize(("tags", "reason"), REFUSED_TAGS, ids=lambda value: str(value))
def test_refusals_by_tag(tmp_path: Path, tags: dict[str, Any], reason: Reason) -> None:
    result = refused(phantoms.write_dicom(tmp_path / "a.dcm", phantoms.slice_dataset(STORED, **tags)))
    assert result.reason == reason
    assert result.path == str(tmp_path / "a.dcm")
    assert str(tmp_path) not in result.detail


@pytest.mark.parametrize("text", [b"nan ", b"inf ", b"1E400 ", b"1,5 ", b"1\\2 ", b"1_0 ", b"0x10", b"--1 "])
def test_numbers_that_are_none(tmp_path: Path, text: bytes) -> None:
    path = phantoms.write_dicom(tmp_path / "a.dcm", phantoms.slice_dataset(STORED, RescaleSlope="1.25"))
    raw = path.read_bytes()
    assert raw.count(b"DS\x04\x001.25") == 1
    path.write_bytes(raw.replace(b"DS\x04\x001.25", b"DS" + struct.pack("<H", len(text)) + text))
    assert refused(path).reason == Reason.BAD_VALUE


@pytest.mark.parametrize("position", [[10000, 0, 0], [0, 0, "-1e4"]])
def test_ten_metres_are_near_enough(tmp_path: Path, position: list[Any]) -> None:
    dataset = phantoms.slice_dataset(STORED, ImagePositionPatient=position)
    assert not isinstance(dicom.read_slice(phantoms.write_dicom(tmp_path / "a.dcm", dataset)), Refusal)


@pytest.mark.parametrize("name", ["PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"])
@pytest.mark.parametrize("character", [b"\0", b"\n", b"\r", b"\t", b"\x7f"])
def test_control_characters_in_identifiers(tmp_path: Path, name: str, character: bytes) -> None:
    path = phantoms.write_dicom(tmp_path / "a.dcm", phantoms.slice_dataset(STORED, **{name: "1.2.77777.3"}))
    raw = path.read_bytes()
    path.write_bytes(raw.replace(b"1.2.77777.3", b"1.2.77" + character + b"77.3"))
    result = refused(path)
    assert (result.reason, result.detail.split(" ")[0]) == (Reason.BAD_VALUE, name)
    assert "77" not in result.detail


def test_identifiers_in_other_scripts(tmp_path: Path) -> None:
    path = phantoms.write_dicom(tmp_path / "a.dcm", phantoms.slice_dataset(STORED, PatientID="12345678"))
    raw = path.read_bytes()
    # Chosen by an escape sequence (ISO 2022 IR 87), and the lead and trail bytes of GB 18030
    for text in (b"\x1b$B;3\x1b(B", b"\x81\x30\x85\x90\xc4\xe3ab"):
        path.write_bytes(raw.replace(b"12345678", text))
        assert not isinstance(dicom.read_slice(path), Refusal)


def _no_meta(path: Path) -> None:
    phantoms.write_dicom(path, phantoms.slice_dataset(STORED), meta=False)


def _text(path: Path) -> None:
    path.write_text("no image\n" * 100)


def _empty(path: Path) -> None:
    path.touch()


def _no_pixels(path: Path) -> None:
    dataset = phantoms.slice_dataset(STORED)
    del dataset.PixelData
    phantoms.write_dicom(path, dataset)


def _cut(path: Path) -> None:
    phantoms.write_dicom(path, phantoms.slice_dataset(STORED))
    path.write_bytes(path.read_bytes()[:-1])


def _no_syntax(path: Path) -> None:
    phantoms.write_dicom(path, phantoms.slice_dataset(STORED))
    raw = path.read_bytes()
    path.write_bytes(raw.replace(b"\x02\x00\x10\x00UI", b"\x02\x00\x11\x00UI", 1))


def _folder(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (_no_meta, Reason.NOT_DICOM),
        (_text, Reason.NOT_DICOM),
        (_empty, Reason.NOT_DICOM),
        (_no_pixels, Reason.NO_PIXEL_DATA),
        (_cut, Reason.TRUNCATED),
        (_no_syntax, Reason.NO_TRANSFER_SYNTAX),
        (_folder, Reason.UNREADABLE_FILE),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_refusals_by_file(tmp_path: Path, make: Callable[[Path], None], reason: Reason) -> None:
    make(tmp_path / "a.dcm")
    assert refused(tmp_path / "a.dcm").reason == reason


def test_no_cut_of_a_file_is_taken(tmp_path: Path) -> None:
    raw = phantoms.write_dicom(tmp_path / "a.dcm", phantoms.slice_dataset(STORED)).read_bytes()
    for length in range(0, len(raw), 7):
        (tmp_path / "cut.dcm").write_bytes(raw[:length])
        assert isinstance(dicom.read_slice(tmp_path / "cut.dcm"), Refusal), length


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless])
def test_flipped_bytes_never_escape_as_another_error(tmp_path: Path, syntax: str) -> None:
    stored = phantoms.stored_image(66, 70, seed=1, form=phantoms.SIGNED_16)
    path = phantoms.write_dicom(tmp_path / "a.dcm", phantoms.slice_dataset(stored))
    dataset = pydicom.dcmread(path)
    dataset.compress(syntax, generate_instance_uid=False)
    dataset.save_as(path)
    raw = np.frombuffer(path.read_bytes(), np.uint8)
    rng = np.random.default_rng(5)
    outcomes = []
    for _ in range(150):
        mutant = raw.copy()
        mutant[rng.integers(132, len(raw), 3)] = rng.integers(0, 256, 3)
        path.write_bytes(mutant.tobytes())
        outcomes.append(isinstance(dicom.read_slice(path), Refusal))
    assert any(outcomes)


class PanicException(BaseException):
    """Stands for pyo3's, which is a BaseException as well."""


DECODER_ERRORS = (
    PanicException("Patient^Name in the text"),
    OSError("broken data stream of Jane"),  # as Pillow has it: not the operating system's
    MemoryError(),
    ValueError("Jane"),
)


@pytest.mark.parametrize("error", DECODER_ERRORS, ids=lambda error: type(error).__name__)
def test_what_a_decoder_raises_is_a_refusal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    path = phantoms.write_dicom(tmp_path / "a.dcm", phantoms.slice_dataset(STORED))
    dataset = phantoms.read(path)
    dataset.compress(RLELossless, generate_instance_uid=False)
    dataset.save_as(path)
    assert not isinstance(dicom.read_slice(path), Refusal)

    def fail(*args: object) -> None:
        raise error

    monkeypatch.setattr("rsna_e2e.dicom.stored_pixels.get_decoder", fail)
    assert dicom.read_slice(path) == Refusal(str(path), Reason.DECODER_FAILED, type(error).__name__)
    error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        dicom.read_slice(path)


def test_an_error_of_the_system_is_called_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = phantoms.write_dicom(tmp_path / "a.dcm", phantoms.slice_dataset(STORED))

    def fail(*args: object) -> None:
        raise OSError(errno.EIO, "on the disk")

    monkeypatch.setattr("rsna_e2e.dicom.pixels.read_frame", fail)
    assert dicom.read_slice(path) == Refusal(str(path), Reason.UNREADABLE_FILE, os.strerror(errno.EIO))


BUGS = {
    "in the header": "rsna_e2e.dicom.header._pixel_format",
    "in the pixels": "rsna_e2e.dicom.pixels.read_frame",
    "before a decoder": "rsna_e2e.dicom.pixels.to_hounsfield",
}


@pytest.mark.parametrize("kind", [KeyError, OSError])  # an OSError of the system has a number
@pytest.mark.parametrize("place", BUGS)
def test_a_bug_is_not_the_fault_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, kind: type[Exception]
) -> None:
    path = phantoms.write_dicom(tmp_path / "a.dcm", phantoms.slice_dataset(STORED))

    def fail(*args: object, **options: object) -> None:
        raise kind("Patient^Name")

    monkeypatch.setattr(BUGS[place], fail)
    refusal = dicom.read_slice(path)
    assert isinstance(refusal, Refusal)
    assert refusal.reason == Reason.INTERNAL_ERROR
    where = rf"{kind.__name__} in test_dicom_refusals\.py, line \d+"
    assert re.fullmatch(f"{where}: a bug of this program, .*", refusal.detail)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("SOPClassUID", Reason.NOT_CT),
        ("Modality", Reason.NOT_CT),
        ("ImageType", None),
        ("PhotometricInterpretation", Reason.UNSUPPORTED_PIXEL_FORMAT),
        ("RescaleType", Reason.NOT_HOUNSFIELD),
        ("NumberOfFrames", Reason.BAD_VALUE),
        ("RescaleSlope", Reason.BAD_VALUE),
        ("PixelSpacing", Reason.BAD_VALUE),
        ("ImagePositionPatient", Reason.BAD_VALUE),
        ("BurnedInAnnotation", None),
        ("SliceThickness", None),
        ("PatientName", None),
    ],
)
@pytest.mark.filterwarnings("ignore:.*:UserWarning")  # pydicom's remarks on such values
def test_what_a_person_may_have_written_is_in_no_refusal(tmp_path: Path, name: str, reason: Reason | None) -> None:
    canary = b"Canary^Jane 1901"
    path = phantoms.write_dicom(tmp_path / "a.dcm", phantoms.slice_dataset(STORED, **{name: "1234567890123456"}))
    raw = path.read_bytes()
    assert b"1234567890123456" in raw
    path.write_bytes(raw.replace(b"1234567890123456", canary))
    result = dicom.read_slice(path)
    assert (result.reason if isinstance(result, Refusal) else None) == reason
    told = result.detail if isinstance(result, Refusal) else repr(result[0])
    assert "Canary" not in told
    assert "Jane" not in told


def test_a_name_in_place_of_a_transfer_syntax(tmp_path: Path) -> None:
    path = phantoms.write_dicom(tmp_path / "a.dcm", phantoms.slice_dataset(STORED))
    path.write_bytes(path.read_bytes().replace(b"1.2.840.10008.1.2.1\0", b"Canary^Jane^Maria^^\0"))
    result = refused(path)
    assert (result.reason, result.detail) == (Reason.UNSUPPORTED_TRANSFER_SYNTAX, "(not a code)")
