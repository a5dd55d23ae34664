"""Compressed frames that were cut, within encapsulation that is whole: refused, or exactly the pixels they had."""

from collections.abc import Callable
from pathlib import Path

import encoders
import numpy as np
import phantoms
import pydicom
import pytest
from pydicom.encaps import get_frame
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from rsna_e2e import dicom
from rsna_e2e.core.reasons import Reason
from rsna_e2e.core.records import Int16Image, Refusal
from rsna_e2e.dicom.syntaxes import SYNTAXES

FORM = phantoms.UNSIGNED_12
FORM_8 = {"BitsStored": 8, "HighBit": 7, "PixelRepresentation": 0, "RescaleIntercept": -100}
STORED = phantoms.stored_image(66, 70, seed=2, form=FORM)  # JPEG 2000's six resolutions need 64
GREY = np.add.outer(np.arange(66), np.arange(70)).astype(np.uint8)

pytestmark = [
    pytest.mark.needs_jpeg,
    pytest.mark.filterwarnings("ignore:.*:UserWarning"),  # pydicom's advice to whoever writes such files
]


def _compressed(syntax: str, **options: object) -> Callable[[Path], bytes]:
    def make(path: Path) -> bytes:
        dataset = phantoms.read(phantoms.write_dicom(path, phantoms.slice_dataset(STORED, **FORM)))
        dataset.compress(syntax, generate_instance_uid=False, **options)
        return get_frame(dataset.PixelData, 0, number_of_frames=1)

    return make


def _fixed(frame: bytes) -> Callable[[Path], bytes]:
    return lambda path: frame


FRAMES = {
    RLELossless: _compressed(RLELossless),
    JPEGBaseline8Bit: _fixed(encoders.jpeg_baseline(GREY)),
    JPEGExtended12Bit: _fixed(encoders.jpeg_baseline(GREY)),  # a process of both
    JPEGLossless: _fixed(encoders.jpeg_lossless(STORED, predictor=7)),
    JPEGLosslessSV1: _fixed(encoders.jpeg_lossless(STORED, predictor=1)),
    JPEGLSLossless: _compressed(JPEGLSLossless),
    JPEGLSNearLossless: _compressed(JPEGLSNearLossless, jls_error=2),
    JPEG2000Lossless: _compressed(JPEG2000Lossless),
    JPEG2000: _compressed(JPEG2000, j2k_cr=[8, 4, 2]),
    HTJ2KLossless: _fixed(encoders.htj2k("unsigned_12")[1]),
    HTJ2KLosslessRPCL: _fixed(encoders.htj2k("unsigned_12")[1]),
    HTJ2K: _fixed(encoders.htj2k("unsigned_12")[2]),
}


def whole_frame(path: Path, syntax: str) -> bytes:
    frame = FRAMES[syntax](path)
    return frame + b"\0" * (len(frame) % 2)


def read(path: Path, frame: bytes, syntax: str) -> Int16Image | Refusal:
    is_8_bits = syntax in (JPEGBaseline8Bit, JPEGExtended12Bit)
    dataset = phantoms.slice_dataset(GREY, **FORM_8) if is_8_bits else phantoms.slice_dataset(STORED, **FORM)
    result = dicom.read_slice(encoders.write_frames(path, dataset, [frame], syntax))
    return result if isinstance(result, Refusal) else result[1]


def test_every_compressed_syntax_is_among_them() -> None:
    assert FRAMES.keys() == {uid for uid, syntax in SYNTAXES.items() if syntax.decoder is not None}


@pytest.mark.parametrize("syntax", FRAMES, ids=lambda uid: pydicom.uid.UID(uid).name)
def test_a_cut_frame_is_refused_or_has_its_pixels(tmp_path: Path, syntax: str) -> None:
    path = tmp_path / "a.dcm"
    frame = whole_frame(path, syntax)
    expected = read(path, frame, syntax)
    assert not isinstance(expected, Refusal), expected
    # Fragments have even lengths (PS3.5 A.4): what is cut off one is even as well.
    half = [len(frame) * percent // 200 * 2 for percent in (10, 50, 90, 98)]
    results = [read(path, frame[:n], syntax) for n in (*half, *range(len(frame) - 40, len(frame), 2))]
    assert all(isinstance(result, Refusal) for result in results[: len(half)])
    for result in results:
        assert isinstance(result, Refusal) or np.array_equal(result, expected)


@pytest.mark.parametrize("syntax", FRAMES, ids=lambda uid: pydicom.uid.UID(uid).name)
def test_a_cut_frame_that_was_given_an_end_again_is_refused(tmp_path: Path, syntax: str) -> None:
    path = tmp_path / "a.dcm"
    frame = whole_frame(path, syntax)
    for percent in (40, 60, 80, 95):
        cut = frame[: len(frame) * percent // 200 * 2] + b"\xff\xd9"
        result = read(path, cut, syntax)
        assert isinstance(result, Refusal)
        assert result.reason == Reason.TRUNCATED or not SYNTAXES[syntax].is_huffman_jpeg


@pytest.mark.parametrize("syntax", [uid for uid in FRAMES if SYNTAXES[uid].start_of_frame])
def test_the_end_of_a_jpeg_frame_may_be_padded_and_not_missing(tmp_path: Path, syntax: str) -> None:
    path = tmp_path / "a.dcm"
    frame = whole_frame(path, syntax).rstrip(b"\0")
    expected = read(path, frame, syntax)
    for padding in (b"\0", b"\0\0\0", b"\xff", b"\xff\xff\0"):
        np.testing.assert_array_equal(read(path, frame + padding, syntax), expected)
    for spoilt in (frame[:-2], frame[: len(frame) // 2] + b"\0\0\xff\xff", frame + frame[100:140]):
        result = read(path, spoilt, syntax)
        assert isinstance(result, Refusal)
        assert (result.reason, "EOI" in result.detail) == (Reason.TRUNCATED, True)
