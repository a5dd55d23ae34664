"""Writes a radiograph as a DICOM file, with the tags that files of its class have, or as a PNG."""

# H x W pixels

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as PilImage
from pydicom import config as pydicom_config
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    SecondaryCaptureImageStorage,
)

from rsna_e2e.core.records import Float32Array
from rsna_e2e.tools.synth.common.write import save
from rsna_e2e.tools.synth.radiograph.spelling import LUT_BITS, LUT_ENTRIES, Spelling, Stored, to_stored

JPEG_QUALITY = 92
# Spacings (mm) of detectors that the competition's files name, though their images were made smaller afterwards
CAPTURE_SPACINGS_MM = {"PA": (0.143, 0.168, 0.1988), "AP": (0.139, 0.168, 0.171)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What a file says beside its pixels. number: decides among spacings that a file may name."""

    patient_id: str
    study_uid: str
    series_uid: str
    sop_uid: str
    view: str
    sex: str
    age_y: int
    pixel_mm: float
    sid_mm: float
    number: int


def write_png(path: Path, shown: Float32Array, bits: int) -> None:
    """Write grey values, of 8 bits, or of 16 for files of more."""
    stored: Any = np.rint(np.clip(shown, 0.0, 1.0) * ((1 << (8 if bits == 8 else 16)) - 1))
    content = io.BytesIO()
    PilImage.fromarray(stored.astype(np.uint8 if bits == 8 else np.uint16)).save(content, format="PNG")
    path.write_bytes(content.getbuffer())


def write_dicom(path: Path, shown: Float32Array, spelling: Spelling, header: Header) -> None:
    """Write one file."""
    stored = to_stored(shown, spelling)
    with pydicom_config.disable_value_validation():  # PatientAge is 51 in Secondary Captures, not 051Y
        dataset = _common(stored, spelling, header)
        (_capture if spelling.is_capture else _radiograph)(dataset, stored, spelling, header)
        save(dataset, path)


def _common(stored: Stored, spelling: Spelling, header: Header) -> Dataset:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.SOPInstanceUID = header.sop_uid
    dataset.file_meta.MediaStorageSOPInstanceUID = header.sop_uid
    dataset.StudyDate = "19010101"
    dataset.PatientName = header.patient_id
    dataset.PatientID = header.patient_id
    dataset.PatientBirthDate = ""
    dataset.PatientSex = header.sex
    dataset.BodyPartExamined = "CHEST"
    dataset.ViewPosition = header.view
    dataset.StudyInstanceUID = header.study_uid
    dataset.SeriesInstanceUID = header.series_uid
    dataset.StudyID = ""
    dataset.SeriesNumber = "1"
    dataset.InstanceNumber = "1"
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME1" if spelling.is_monochrome1 else "MONOCHROME2"
    dataset.Rows, dataset.Columns = stored.shape
    dataset.BitsAllocated = 8 if spelling.bits == 8 else 16
    dataset.BitsStored = spelling.bits
    dataset.HighBit = spelling.bits - 1
    dataset.PixelRepresentation = 0
    return dataset


def _class(dataset: Dataset, uid: str, modality: str, syntax: str) -> None:
    dataset.SOPClassUID = uid
    dataset.file_meta.MediaStorageSOPClassUID = uid
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.Modality = modality


def _capture(dataset: Dataset, stored: Stored, spelling: Spelling, header: Header) -> None:
    """As the competition's files: Secondary Captures of 8 bits, JPEG baseline."""
    _class(dataset, SecondaryCaptureImageStorage, "CR", JPEGBaseline8Bit)
    dataset.SeriesDescription = f"view: {header.view}"
    dataset.ConversionType = "WSD"
    dataset.PatientAge = str(header.age_y)
    dataset.PatientOrientation = ""
    spacings = CAPTURE_SPACINGS_MM[header.view]
    dataset.PixelSpacing = [str(spacings[header.number % len(spacings)])] * 2
    dataset.LossyImageCompression = "01"
    dataset.LossyImageCompressionMethod = "ISO_10918_1"
    content = io.BytesIO()
    PilImage.fromarray(stored.astype(np.uint8)).save(content, format="JPEG", quality=JPEG_QUALITY)
    dataset.PixelData = encapsulate([content.getvalue()])


def _radiograph(dataset: Dataset, stored: Stored, spelling: Spelling, header: Header) -> None:
    """As files of the detectors' makers: DX for presentation, or CR."""
    uid = DigitalXRayImageStorageForPresentation if spelling.is_dx else ComputedRadiographyImageStorage
    _class(dataset, uid, "DX" if spelling.is_dx else "CR", ExplicitVRLittleEndian)
    dataset.ImageType = ["ORIGINAL", "PRIMARY"]
    dataset.PatientAge = f"{header.age_y:03d}Y"
    dataset.DistanceSourceToDetector = f"{header.sid_mm:.0f}"
    dataset.ImagerPixelSpacing = [f"{header.pixel_mm:.6f}"] * 2
    if spelling.is_dx:
        dataset.PresentationIntentType = "FOR PRESENTATION"
        dataset.PresentationLUTShape = "INVERSE" if spelling.is_monochrome1 else "IDENTITY"
        dataset.PatientOrientation = ["L", "F"]
        dataset.ImageLaterality = "U"
        dataset.RescaleIntercept = "0"
        dataset.RescaleSlope = "1"
        dataset.RescaleType = "US"
    _voi(dataset, spelling)
    dataset.PixelData = stored.astype(np.uint8 if spelling.bits == 8 else "<u2").tobytes()


def _voi(dataset: Dataset, spelling: Spelling) -> None:
    """The window or table by which the stored values are shown; LINEAR is what files mean that name no function."""
    if spelling.voi == "LUT":
        item = Dataset()
        item.add_new("LUTDescriptor", "US", [LUT_ENTRIES, spelling.lut_first, LUT_BITS])
        item.add_new("LUTData", "OW", spelling.lut.astype("<u2").tobytes())
        dataset.VOILUTSequence = [item]
    elif spelling.voi:
        dataset.WindowCenter = f"{spelling.center:.0f}"
        dataset.WindowWidth = f"{spelling.width:.0f}"
        if spelling.voi != "LINEAR":
            dataset.VOILUTFunction = spelling.voi
