"""One slice in any transfer syntax: what writes files in syntaxes that pydicom does not compress to."""

import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
import phantoms
from jpeg_frames import CODE_OF_DIFFERENCE, SOF3, frame
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

HTJ2K_FILE = Path(__file__).parent / "golden" / "htj2k.npz"

NATIVE = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian)
LOSSLESS = (*NATIVE, RLELossless, JPEGLossless, JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless)


def write_in(path: Path, dataset: Dataset, syntax: str) -> Path:
    """Write a data set of `phantoms.slice_dataset`, whose pixels are native, in one of LOSSLESS."""
    if syntax in (JPEGLossless, JPEGLosslessSV1):
        stored_type = f"<u{dataset.BitsAllocated // 8}"
        words = np.frombuffer(dataset.PixelData, stored_type).reshape(dataset.Rows, dataset.Columns)
        return write_frames(
            path, dataset, [jpeg_lossless(words, predictor=1 if syntax == JPEGLosslessSV1 else 7)], syntax
        )
    if syntax in NATIVE:
        if syntax == ExplicitVRBigEndian:
            dataset.PixelData = np.frombuffer(dataset.PixelData, np.uint16).byteswap().tobytes()
        return phantoms.write_dicom(path, dataset, syntax=syntax)
    compressed = phantoms.read(phantoms.write_dicom(path, dataset))
    compressed.compress(syntax, generate_instance_uid=False)
    compressed.save_as(path)
    return path


def write_frames(path: Path, dataset: Dataset, frames: list[bytes], syntax: str, *, n_fragments: int = 1) -> Path:
    """Write a data set with frames that are compressed already."""
    dataset.PixelData = encapsulate(frames, fragments_per_frame=n_fragments, has_bot=n_fragments > 1)
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    return phantoms.write_dicom(path, dataset, syntax=syntax)


def jpeg_baseline(grey: npt.NDArray[np.uint8], **options: int) -> bytes:
    """Return 8-bit grey as JPEG, by Pillow, with its options."""
    file = io.BytesIO()
    Image.fromarray(grey).save(file, "JPEG", **{"quality": 95} | options)
    return file.getvalue()


def jpeg_lossless(words: npt.NDArray[np.integer], *, predictor: int) -> bytes:
    """Return grey as lossless JPEG: process 14, selection value `predictor`, the table DIFFERENCES.

    Source: ISO/IEC 10918-1 annex H (H.1.2.1 prediction, table H.2 differences).
    """
    rows, columns = words.shape
    precision = 8 * words.itemsize
    values = words.astype(np.int64)
    left, above, corner = (np.zeros_like(values) for _ in range(3))
    left[:, 1:], above[1:], corner[1:, 1:] = values[:, :-1], values[:-1], values[:-1, :-1]
    predicted = {1: left, 4: left + above - corner, 7: (left + above) >> 1}[predictor]
    predicted[0, 1:], predicted[1:, 0] = left[0, 1:], above[1:, 0]
    predicted[0, 0] = 1 << (precision - 1)
    differences = (values - predicted + 32768) % 65536 - 32768
    units = [_difference(int(d)) for d in differences.ravel()]
    last = bytes([predictor, 0, 0])
    return frame(units, process=SOF3, rows=rows, columns=columns, precision=precision, last=last)


def _difference(value: int) -> str:
    """The number of bits as a code, then the bits; of a negative value those of one less."""
    n = abs(value).bit_length()
    if n in (0, 16):  # -32768 needs no bits: nothing else has 16
        return CODE_OF_DIFFERENCE[n]
    return f"{CODE_OF_DIFFERENCE[n]}{value if value > 0 else value + (1 << n) - 1:0{n}b}"


def htj2k(name: str) -> tuple[npt.NDArray[np.integer], bytes, bytes, npt.NDArray[np.integer]]:
    """Return stored values, a lossless and a lossy codestream of them, and what its encoder makes of the lossy one."""
    with np.load(HTJ2K_FILE) as file:
        return (
            file[f"stored_{name}"],
            file[f"lossless_{name}"].tobytes(),
            file[f"lossy_{name}"].tobytes(),
            file[f"decoded_{name}"],
        )
