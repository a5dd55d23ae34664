"""Writes tables, and slices as DICOM files, with only the tags that the competition's de-identified files have."""

import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from PIL import Image as PilImage
from pydicom import config as pydicom_config
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from rsna_e2e.core.files import atomic_writer, csv_blocks
from rsna_e2e.core.records import BoolImage, Int16Image
from rsna_e2e.tools.synth.common.scanner import RESCALE_INTERCEPT_HU, Scanner
from rsna_e2e.tools.synth.common.series import COLUMNS, ROWS, Series


def save(dataset: Dataset, path: Path) -> None:
    """Write a whole DICOM file."""
    content = io.BytesIO()  # written to memory first: pydicom's own errors do not reveal a full disk
    dataset.save_as(content, enforce_file_format=True)
    path.write_bytes(content.getbuffer())


def write_csv(path: Path, rows: Iterable[Sequence[object]]) -> None:
    """Write a table, whole or not at all."""
    with atomic_writer(path) as file:
        for block in csv_blocks(rows):
            file.write(block)


def write_masks(folder: Path, image_id: str, masks: Mapping[str, BoolImage]) -> None:
    """Write masks [ROWS, COLUMNS] of a slice by label, each as a PNG of one bit a pixel: LABEL/IMAGE_ID.png."""
    for label, mask in masks.items():
        (folder / label).mkdir(exist_ok=True)
        PilImage.fromarray(mask).save(folder / label / f"{image_id}.png")


class SeriesWriter:
    """Writes the slices of one series; only the elements that differ between slices are set for each."""

    def __init__(self, *, patient_id: str, study_uid: str, series_uid: str, series: Series, scanner: Scanner) -> None:
        self._series = series
        with pydicom_config.disable_value_validation():  # ids such as ID_0ab5820b2a are no valid UIDs, there or here
            self._dataset = _header(patient_id, study_uid, series_uid, series, scanner)

    def write(self, path: Path, *, image_id: str, index: int, stored: Int16Image) -> None:
        """Write slice `index` (in the order of acquisition) to `path`."""
        dataset = self._dataset
        with pydicom_config.disable_value_validation():
            dataset.SOPInstanceUID = image_id
            dataset.file_meta.MediaStorageSOPInstanceUID = image_id
            dataset.ImagePositionPatient = [f"{v:.3f}" for v in self._series.origins_mm[index]]
            dataset.PixelData = stored.astype("<i2", copy=False).tobytes()
            save(dataset, path)


def _header(patient_id: str, study_uid: str, series_uid: str, series: Series, scanner: Scanner) -> Dataset:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = CTImageStorage
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.Modality = "CT"
    dataset.PatientID = patient_id
    dataset.StudyInstanceUID = study_uid
    dataset.SeriesInstanceUID = series_uid
    dataset.StudyID = ""
    dataset.ImageOrientationPatient = [f"{v:.6f}" for v in (*series.row_direction, *series.column_direction)]
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows = ROWS
    dataset.Columns = COLUMNS
    dataset.PixelSpacing = [f"{series.spacing_mm:.6f}"] * 2
    dataset.BitsAllocated = 16
    dataset.BitsStored = 16 if scanner.is_signed else 12
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(scanner.is_signed)
    dataset.WindowCenter = list(scanner.window_center_hu)
    dataset.WindowWidth = list(scanner.window_width_hu)
    dataset.RescaleIntercept = str(RESCALE_INTERCEPT_HU)
    dataset.RescaleSlope = "1"
    return dataset
