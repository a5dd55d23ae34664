"""One radiograph in many spellings, all of which show the same image but for the steps of grey that they can tell."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import encoders
import numpy as np
import numpy.typing as npt
import phantoms
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    DeflatedExplicitVRLittleEndian,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    SecondaryCaptureImageStorage,
)

Grey = npt.NDArray[np.uint16]

ABSENT: dict[str, Any] = dict.fromkeys(
    (
        "ImagePositionPatient",
        "ImageOrientationPatient",
        "RescaleSlope",
        "RescaleIntercept",
        "WindowCenter",
        "WindowWidth",
    )
)


def chest(shape: tuple[int, int] = (40, 33), *, seed: int = 0) -> Grey:
    """A radiograph in 12 bits, bones white: two dark lungs, a bright spine, noise, and both ends of the range."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : shape[0] * 1j, -1 : 1 : shape[1] * 1j]
    lungs = np.exp(-(((np.abs(x) - 0.5) / 0.3) ** 2) - (y / 0.6) ** 2)
    grey = 2300 - 1800 * lungs + 1200 * np.exp(-((x / 0.1) ** 2)) + rng.normal(0, 30, size=shape)
    grey = np.clip(np.rint(grey), 0, 4095).astype(np.uint16)
    grey[0, 0], grey[0, 1] = 0, 4095
    return grey


def dataset(stored: npt.NDArray[Any], bits: int, **tags: Any) -> Dataset:
    """A file of a radiograph, DX for presentation; `tags` override, None removes."""
    values = {
        **ABSENT,
        "SOPClassUID": DigitalXRayImageStorageForPresentation,
        "Modality": "DX",
        "BitsStored": bits,
        "HighBit": bits - 1,
        "PixelRepresentation": int(stored.dtype.kind == "i"),
        "PixelSpacing": [0.2, 0.2],
        "ImagerPixelSpacing": [0.139, 0.139],
        "ViewPosition": "PA",
        "PatientSex": "F",
        "PatientAge": "061Y",
    }
    return phantoms.slice_dataset(stored, **(values | tags))


def voi_lut(entries: npt.NDArray[np.integer], *, first: int, bits: int, vr: str = "US") -> Sequence:
    """A VOI LUT sequence of one item."""
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(entries) % 65536, first, bits])
    if vr == "US":
        item.add_new("LUTData", vr, entries.tolist())
    else:
        item.add_new("LUTData", vr, entries.astype("<u1" if bits == 8 else "<u2").tobytes())
    return Sequence([item])


def inverted(stored: npt.NDArray[Any], bits: int) -> npt.NDArray[Any]:
    """As MONOCHROME1 spells the same image."""
    return ((1 << bits) - 1 - stored.astype(np.int64)).astype(stored.dtype)


def _window(width: float, **tags: Any) -> dict[str, Any]:
    return {"WindowCenter": width / 2, "WindowWidth": width, **tags}


def _lut14() -> Sequence:
    return voi_lut(np.arange(16384) * 4, first=0, bits=16)


def spellings(grey: Grey) -> dict[str, Callable[[Path], Path]]:
    """Return what writes a radiograph of 12 bits, as `chest`, to a file of this stem, in twelve spellings by name."""
    m1, m2 = {"PhotometricInterpretation": "MONOCHROME1"}, {"PhotometricInterpretation": "MONOCHROME2"}
    g8, g10, g14 = (grey >> 4).astype(np.uint8), grey >> 2, grey << 2
    signed = grey.astype(np.int16) - np.int16(2048)
    exact, sigmoid = _window(4096, VOILUTFunction="LINEAR_EXACT"), _window(4096, VOILUTFunction="SIGMOID")
    hu = {"RescaleSlope": 1, "RescaleIntercept": 2048, "RescaleType": "US"}
    cr, sc = (
        {"SOPClassUID": ComputedRadiographyImageStorage, "Modality": "CR"},
        {"SOPClassUID": SecondaryCaptureImageStorage, "Modality": "CR"},
    )
    raw = {"SOPClassUID": DigitalXRayImageStorageForProcessing}
    files: dict[str, tuple[Dataset, str]] = {
        "8 bits": (dataset(g8, 8, **m2, **sc), ExplicitVRLittleEndian),
        "8 bits, MONOCHROME1": (dataset(inverted(g8, 8), 8, **m1, **cr), ImplicitVRLittleEndian),
        "10 bits, window": (dataset(g10, 10, **m2, **_window(1024)), ExplicitVRBigEndian),
        "12 bits, MONOCHROME1, exact window": (dataset(inverted(grey, 12), 12, **m1, **exact), ExplicitVRLittleEndian),
        "12 bits, sigmoid": (dataset(grey, 12, **m2, **sigmoid), ExplicitVRLittleEndian),
        "14 bits, LUT": (dataset(g14, 14, **m2, VOILUTSequence=_lut14()), ExplicitVRLittleEndian),
        "15 bits, MONOCHROME1, window": (
            dataset(inverted(grey << 3, 15), 15, **m1, **cr, **_window(32768)),
            DeflatedExplicitVRLittleEndian,
        ),
        "16 bits, window": (dataset(grey << 4, 16, **m2, **_window(65536)), ExplicitVRLittleEndian),
        "12 bits, signed, rescale": (dataset(signed, 12, **m2, **hu, **_window(4096)), ExplicitVRLittleEndian),
        "12 bits, JPEG-LS, MONOCHROME1, raw": (dataset(inverted(grey, 12), 12, **m1, **raw), JPEGLSLossless),
        "16 bits, signed, JPEG 2000": (
            dataset(signed * np.int16(16), 16, **m2, **_window(65536, WindowCenter=0)),
            JPEG2000Lossless,
        ),
    }

    def in_dicom(content: Dataset, syntax: str) -> Callable[[Path], Path]:
        return lambda path: encoders.write_in(path.with_suffix(".dcm"), content, syntax)

    return {name: in_dicom(*file) for name, file in files.items()} | {
        "16 bits, PNG": lambda path: write_image(path.with_suffix(".png"), grey << 4)
    }


def write_image(path: Path, samples: npt.NDArray[Any], **options: Any) -> Path:
    """Write samples [H, W] or [H, W, channels] as PNG or JPEG, by the suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(samples).save(path, **options)
    return path
