"""Small CT series as DICOM files whose every stored value is known."""

# N slices

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
# Gantry tilted about the left-right axis, as in facts of the 2019 files: columns run down and forward.
TILTED = (1.0, 0.0, 0.0, 0.0, 0.968, -0.25)
REVERSED = (1.0, 0.0, 0.0, 0.0, -1.0, 0.0)

SIGNED_16 = {"BitsStored": 16, "HighBit": 15, "PixelRepresentation": 1, "RescaleIntercept": 0}
UNSIGNED_12 = {"BitsStored": 12, "HighBit": 11, "PixelRepresentation": 0, "RescaleIntercept": -1024}


def stored_image(rows: int, columns: int, *, seed: int, form: dict[str, int]) -> npt.NDArray[Any]:
    """Random stored values over the whole range of HU that the form can hold."""
    rng = np.random.default_rng(seed)
    if form["PixelRepresentation"]:
        return rng.integers(-2000, 4096, size=(rows, columns)).astype("<i2")
    return rng.integers(0, 1 << form["BitsStored"], size=(rows, columns)).astype("<u2")


def slice_dataset(stored: npt.NDArray[Any], **tags: Any) -> Dataset:
    """Return one CT slice with the tags the competition's files have; `tags` override, None removes."""
    rows, columns = stored.shape
    values: dict[str, Any] = {
        "SOPClassUID": CTImageStorage,
        "SOPInstanceUID": "1.2.826.1",
        "Modality": "CT",
        "PatientID": "ID_patient",
        "StudyInstanceUID": "1.2.826.2",
        "SeriesInstanceUID": "1.2.826.3",
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": rows,
        "Columns": columns,
        "PixelSpacing": [0.5, 0.5],
        "ImagePositionPatient": [-125.0, -125.0, 0.0],
        "ImageOrientationPatient": list(AXIAL),
        "BitsAllocated": 8 * stored.itemsize,
        **SIGNED_16,
        "RescaleSlope": 1,
        "WindowCenter": 40,
        "WindowWidth": 80,
        **tags,
    }
    dataset = Dataset()
    for name, value in values.items():
        if value is not None:
            setattr(dataset, name, value)
    dataset.PixelData = stored.tobytes()
    dataset["PixelData"].VR = "OW" if stored.itemsize == 2 else "OB"
    return dataset


def write_numbered(path: Path, *, series: int, index: int, side: int) -> Path:
    """Write slice `index` of a series, 5 mm above the one before it, to a file of any name."""
    dataset = slice_dataset(
        stored_image(side, side, seed=8 * series + index, form=SIGNED_16),
        SOPInstanceUID=f"1.2.3.{series}.{index}",
        PatientID=f"p{series}",
        SeriesInstanceUID=f"1.2.5.{series}",
        ImagePositionPatient=[-125.0, -125.0, 5.0 * index],
    )
    return write_dicom(path, dataset)


def write_dicom(path: Path, dataset: Dataset, *, syntax: str = ExplicitVRLittleEndian, meta: bool = True) -> Path:
    """Write a data set as a DICOM file; `meta` False leaves out preamble and file meta information."""
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID = CTImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = str(dataset.get("SOPInstanceUID") or "1.2")
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    if not meta:
        length = 144 + int.from_bytes(path.read_bytes()[140:144], "little")
        path.write_bytes(path.read_bytes()[length:])
    return path


def write_series(
    folder: Path,
    *,
    name: str,
    n_slices: int = 3,
    shape: tuple[int, int] = (16, 16),
    orientation: tuple[float, ...] = AXIAL,
    form: dict[str, int] = SIGNED_16,
    patient_id: str = "ID_patient",
    spacing_mm: float = 5.0,
) -> dict[str, npt.NDArray[np.int64]]:
    """Write a series whose slices lie `spacing_mm` apart, feet first, and return the HU of each by image id.

    File names say nothing of the order: they run against it.
    """
    hu: dict[str, npt.NDArray[np.int64]] = {}
    for index, position in enumerate(_positions(orientation, n_slices, spacing_mm)):
        stored = stored_image(*shape, seed=index, form=form)
        image_id = f"ID_{name}_{n_slices - index:03d}"
        dataset = slice_dataset(
            stored,
            SOPInstanceUID=f"1.2.826.9.{sum(name.encode())}.{(index * 7) % 101}",
            PatientID=patient_id,
            StudyInstanceUID=f"1.2.826.2.{sum(name.encode())}",
            SeriesInstanceUID=f"1.2.826.3.{sum(name.encode())}",
            ImagePositionPatient=position,
            ImageOrientationPatient=list(orientation),
            **form,
        )
        write_dicom(folder / f"{image_id}.dcm", dataset)
        hu[image_id] = stored.astype(np.int64) + form["RescaleIntercept"]
    return hu


def _positions(orientation: tuple[float, ...], n_slices: int, spacing_mm: float) -> Iterator[list[float]]:
    """Table positions of a scan from feet to head: only z moves, also with a tilted gantry."""
    for index in range(n_slices):
        yield [-125.0, -125.0, -40.0 + spacing_mm * index]


def read(path: Path) -> Dataset:
    """Read a file written here, to change it."""
    return dcmread(path)
