"""One file in: every pixel's HU against pydicom's own reading, or the right reason for refusing it."""

import os
import struct
from pathlib import Path
from typing import Any

import data_store
import numpy as np
import phantoms
import pydicom
import pydicom.data
import pytest
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from rsna_e2e import dicom
from rsna_e2e.core.reasons import Reason
from rsna_e2e.core.records import Refusal, printable
from rsna_e2e.dicom import Repair

PYDICOM_FILES = Path(pydicom.data.__file__).parent / "test_files"
MORE_FILES = Path(data_store.__file__).parent / "data"

COMPRESSIBLE = (66, 70)  # rows, columns; JPEG 2000's six resolutions need 64

STORED = phantoms.stored_image(12, 10, seed=1, form=phantoms.SIGNED_16)


def taken(path: Path) -> tuple[Any, np.ndarray]:
    result = dicom.read_slice(path)
    assert not isinstance(result, Refusal), result
    return result


@pytest.mark.parametrize("form", [phantoms.SIGNED_16, phantoms.UNSIGNED_12])
@pytest.mark.parametrize(
    "syntax",
    [
        ExplicitVRLittleEndian,
        ImplicitVRLittleEndian,
        ExplicitVRBigEndian,
        RLELossless,
        JPEG2000Lossless,
        JPEGLSLossless,
    ],
)
@pytest.mark.filterwarnings("ignore:.*:UserWarning")  # pydicom's advice to whoever writes such files
def test_every_pixel_of_both_forms_in_every_lossless_syntax(tmp_path: Path, form: dict[str, int], syntax: str) -> None:
    stored = phantoms.stored_image(*COMPRESSIBLE, seed=2, form=form)
    dataset = phantoms.slice_dataset(stored, **form)
    if syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian):
        path = phantoms.write_dicom(tmp_path / "ID_1.dcm", dataset, syntax=syntax)
    elif syntax == ExplicitVRBigEndian:
        dataset.PixelData = stored.byteswap().tobytes()
        path = phantoms.write_dicom(tmp_path / "ID_1.dcm", dataset, syntax=syntax)
    else:
        path = phantoms.write_dicom(tmp_path / "ID_1.dcm", dataset)
        dataset = pydicom.dcmread(path)
        dataset.compress(syntax, generate_instance_uid=False)
        dataset.save_as(path)
    record, hu = taken(path)
    np.testing.assert_array_equal(hu, stored.astype(np.int64) + form["RescaleIntercept"])
    assert hu.dtype == np.int16
    assert (record.image_id, record.transfer_syntax_uid, record.rows, record.columns) == ("ID_1", syntax, *COMPRESSIBLE)
    assert (record.n_rounded, record.n_saturated, record.repair) == (0, 0, "")


@pytest.mark.parametrize(
    ("folder", "n_taken"),
    [
        pytest.param(PYDICOM_FILES, 12, id="pydicom"),
        pytest.param(MORE_FILES, 5, id="pydicom-data", marks=pytest.mark.needs_jpeg),
    ],
)
@pytest.mark.filterwarnings("ignore:.*:UserWarning")  # pydicom's remarks on its own odd files
def test_real_files_equal_pydicoms_reading_or_are_refused(folder: Path, n_taken: int) -> None:
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".py")
    taken_paths = []
    for path in paths:
        result = dicom.read_slice(path)
        if isinstance(result, Refusal):
            assert result.reason in set(Reason)
            continue
        taken_paths.append(path)
        dataset = pydicom.dcmread(path)
        assert dataset.Modality == "CT"
        expected = dataset.pixel_array * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)
        if "PixelPaddingValue" in dataset:  # -2000 in all of them, so no measurement
            padding = dataset.pixel_array == dataset.PixelPaddingValue
            expected[padding] = -1000
            assert result[0].n_padding == padding.sum()
        np.testing.assert_array_equal(result[1], expected)
    # pydicom: CT_small, 693_J2KI, J2K_pixelrep_mismatch, and two small series of 4 and 5 slices; the third
    # small series is of localizers.
    # pydicom-data: 693_J2KR, 693_UNCI, 693_UNCR, explicit_VR-UN, bad_sequence; eCT_Supplemental is a perfusion map.
    assert len(taken_paths) == n_taken


def test_what_a_record_says(tmp_path: Path) -> None:
    dataset = phantoms.slice_dataset(
        STORED,
        ImagePositionPatient=["-125.5", "1e2", "+7"],
        ImageOrientationPatient=list(phantoms.TILTED),
        PixelSpacing=[0.488281, 0.5],
        WindowCenter=["40", "600"],
        WindowWidth=["80", "2800"],
        RescaleIntercept=-24,
        PatientName="Canary^Name",
    )
    record, _ = taken(phantoms.write_dicom(tmp_path / "ID_a.b.dcm", dataset))
    assert record.image_id == "ID_a.b"
    assert record.image_position_mm == (-125.5, 100.0, 7.0)
    assert record.image_orientation == phantoms.TILTED
    assert record.pixel_spacing_mm == (0.488281, 0.5)
    assert (record.window_center_hu, record.window_width_hu) == (40.0, 80.0)
    assert (record.slope, record.intercept, record.bits_stored, record.pixel_representation) == (1.0, -24.0, 16, 1)
    assert "Canary" not in repr(record)


def test_the_competitions_files_have_no_sop_class_in_the_data_set(tmp_path: Path) -> None:
    taken(phantoms.write_dicom(tmp_path / "a.dcm", phantoms.slice_dataset(STORED, SOPClassUID=None)))


def test_wrapped_12bit_values_are_repaired_by_name(tmp_path: Path) -> None:
    stored = np.array([[3096, 40], [0, 4095]], "<u2")
    form = {**phantoms.UNSIGNED_12, "RescaleIntercept": 1}
    record, hu = taken(phantoms.write_dicom(tmp_path / "a.dcm", phantoms.slice_dataset(stored, **form)))
    assert hu.tolist() == [[-1000, 40], [0, -1]]
    assert (record.repair, record.intercept) == (Repair.WRAPPED_12BIT, 1.0)


def test_unused_bits_are_cleared_by_name(tmp_path: Path) -> None:
    stored = np.array([[0x1001, 0x0001]], "<u2")
    record, hu = taken(phantoms.write_dicom(tmp_path / "a.dcm", phantoms.slice_dataset(stored, **phantoms.UNSIGNED_12)))
    assert hu.tolist() == [[1 - 1024, 1 - 1024]]
    assert record.repair == Repair.UNUSED_BITS


def test_eight_bits_and_odd_length(tmp_path: Path) -> None:
    stored = np.arange(9, dtype=np.uint8).reshape(3, 3)
    dataset = phantoms.slice_dataset(stored, BitsStored=8, HighBit=7, PixelRepresentation=0)
    dataset.PixelData += b"\0"  # values have even length (PS3.5 7.1.1)
    _, hu = taken(phantoms.write_dicom(tmp_path / "a.dcm", dataset))
    assert hu.tolist() == stored.tolist()


@pytest.mark.parametrize(("center", "width"), [(None, 0), (40, "1e300"), ("-1e300", 80), (40, -80)])
def test_a_window_that_makes_no_sense_is_no_reason_to_refuse(tmp_path: Path, center: Any, width: Any) -> None:
    dataset = phantoms.slice_dataset(STORED, WindowCenter=center, WindowWidth=width)
    record, _ = taken(phantoms.write_dicom(tmp_path / "a.dcm", dataset))
    assert (record.window_center_hu, record.window_width_hu) == (None, None)


def test_a_file_name_that_is_no_text() -> None:
    assert printable(os.fsdecode(b"ID_\xff")) == "ID_\\udcff"


@pytest.mark.parametrize("labelled", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
@pytest.mark.parametrize("written", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_a_transfer_syntax_that_lies_never_gives_other_pixels(tmp_path: Path, written: str, labelled: str) -> None:
    dataset = phantoms.slice_dataset(STORED)
    if written == ExplicitVRBigEndian:
        dataset.PixelData = STORED.byteswap().tobytes()
    path = phantoms.write_dicom(tmp_path / "a.dcm", dataset, syntax=written)
    raw = path.read_bytes()

    def element(uid: str) -> bytes:
        value = uid.encode() + b"\0" * (len(uid) % 2)
        return b"\x02\x00\x10\x00UI" + struct.pack("<H", len(value)) + value

    assert raw.count(element(written)) == 1
    path.write_bytes(raw.replace(element(written), element(labelled)))
    result = dicom.read_slice(path)
    assert isinstance(result, Refusal) == (written != labelled)
    if not isinstance(result, Refusal):
        np.testing.assert_array_equal(result[1], STORED)
