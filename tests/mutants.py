"""DICOM files with random damage, the same for the same seed, and what another reader takes them for."""

from collections.abc import Iterator
from pathlib import Path

import encoders
import numpy as np
import numpy.typing as npt
import phantoms
import pydicom
import pydicom.data
from enhanced import enhanced_dataset
from pydicom.dataset import Dataset
from pydicom.uid import HTJ2KLossless

from rsna_e2e.dicom.syntaxes import SYNTAXES

SHAPE = (66, 70)
PADDED = {
    "PixelPaddingValue": -2000,
    "SliceThickness": 5,
    "RescaleType": "HU",
    "NumberOfFrames": 1,
    **phantoms.SIGNED_16,
}


def corpus(folder: Path) -> dict[str, bytes]:
    """Files of every lossless syntax, both forms, enhanced CT and a real one, by name."""
    files: dict[str, bytes] = {}
    for syntax in encoders.LOSSLESS:
        for name, form in (("signed", PADDED), ("unsigned", phantoms.UNSIGNED_12)):
            stored = phantoms.stored_image(*SHAPE, seed=4, form=form)
            path = encoders.write_in(folder / "a.dcm", phantoms.slice_dataset(stored, **form), syntax)
            files[f"{syntax} {name}"] = path.read_bytes()
    frames = np.stack([phantoms.stored_image(*SHAPE, seed=seed, form=phantoms.SIGNED_16) for seed in range(2)])
    for syntax in encoders.NATIVE:
        path = encoders.write_in(folder / "a.dcm", enhanced_dataset(frames), syntax)
        files[f"{syntax} enhanced"] = path.read_bytes()
    stored, frame, _, _ = encoders.htj2k("signed_16")
    path = encoders.write_frames(folder / "a.dcm", phantoms.slice_dataset(stored), [frame], HTJ2KLossless)
    files["htj2k"] = path.read_bytes()
    real = Path(pydicom.data.__file__).parent / "test_files" / "CT_small.dcm"
    return files | {"CT_small": real.read_bytes()}


def mutants(files: dict[str, bytes], n: int, rng: np.random.Generator) -> Iterator[bytes]:
    """Yield `n` mutants: bytes or bits changed, blocks cut out or repeated, in three of four the header only."""
    names = sorted(files)
    for number in range(n):
        raw = bytearray(files[names[number % len(names)]])
        # PixelData in either byte order; a deflated file has none that can be seen
        pixels = max(raw.rfind(b"\xe0\x7f\x10\x00"), raw.rfind(b"\x7f\xe0\x00\x10"))
        end = len(raw) if pixels < 0 or rng.random() < 0.25 else pixels + 12
        size, at = int(rng.integers(1, 9)), int(rng.integers(128, end))
        kind = rng.integers(5)
        if kind <= 1:
            for place in rng.integers(128, end, size):
                raw[int(place)] = int(rng.integers(256))
        elif kind == 2:
            raw[at] ^= 1 << int(rng.integers(8))
        elif kind == 3:
            del raw[at : at + size]
        else:
            raw[at:at] = raw[at : at + size]
        yield bytes(raw)


def hounsfield_by_pydicom(path: Path) -> npt.NDArray[np.float64]:
    """HU [frames, rows, columns] by pydicom's elements and pixels, and the documented rules for values."""
    dataset = pydicom.dcmread(path)
    if "SamplesPerPixel" not in dataset:
        dataset.SamplesPerPixel = 1
    decoder = SYNTAXES[dataset.file_meta.TransferSyntaxUID].decoder
    dataset.pixel_array_options(decoding_plugin=decoder.plugin if decoder else "")
    stored_FHW = dataset.pixel_array.reshape(-1, dataset.Rows, dataset.Columns).astype(np.int64)
    if dataset.PixelRepresentation == 0:
        stored_FHW &= (1 << dataset.BitsStored) - 1
    return np.stack([_rescaled(dataset, stored, number) for number, stored in enumerate(stored_FHW)])


def _rescaled(dataset: Dataset, stored: npt.NDArray[np.int64], number: int) -> npt.NDArray[np.float64]:
    groups = dataset
    sop_class_uid = dataset.get("SOPClassUID", "") or dataset.file_meta.get("MediaStorageSOPClassUID", "")
    if sop_class_uid == pydicom.uid.EnhancedCTImageStorage:
        shared = dataset.SharedFunctionalGroupsSequence[0]
        holder = shared if "PixelValueTransformationSequence" in shared else dataset.PerFrameFunctionalGroupsSequence
        groups = (holder if holder is shared else holder[number]).PixelValueTransformationSequence[0]
    slope, intercept = float(groups.RescaleSlope), float(groups.RescaleIntercept)
    hu = np.clip(np.rint(stored * slope + intercept), -32768, 32767)
    if (dataset.BitsStored, dataset.PixelRepresentation, slope) == (12, 0, 1) and intercept in (0, 1):
        hu = np.where(stored >= 3096, stored - 4096, stored)
    value = dataset.get("PixelPaddingValue")
    if value is None:
        return hu
    ends = sorted((value, dataset.get("PixelPaddingRangeLimit", value)))
    low, high = sorted(slope * end + intercept for end in ends)
    is_measurable = low <= 3071 and high >= -999
    return hu if is_measurable else np.where((stored >= ends[0]) & (stored <= ends[1]), -1000.0, hu)
