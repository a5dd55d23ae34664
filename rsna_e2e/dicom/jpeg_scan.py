"""Detects JPEG frames whose scan is cut or too long: decoders fill in what is missing and drop the rest, unnoticed."""

import ctypes
import functools
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path

from rsna_e2e.core.errors import BUILD_COMMAND
from rsna_e2e.core.reasons import Reason
from rsna_e2e.dicom.elements import RefusedError

_LIBRARY = Path(__file__).with_name("_jpeg.abi3.so")


class _Verdict(IntEnum):
    """As in csrc/jpeg/scan.cpp."""

    WHOLE = 0
    ENDS_EARLY = 1
    GOES_ON = 2
    NO_SUCH_CODE = 3
    WRONG_RESTART = 4
    WRONG_END = 5
    DAMAGED_HEAD = 6


_WHY = {
    _Verdict.ENDS_EARLY: "the scan ends after {n}: decoders make up the rest",
    _Verdict.GOES_ON: "the scan goes on after {n}",
    _Verdict.NO_SUCH_CODE: "the scan has no valid code after {n}",
    _Verdict.WRONG_RESTART: "the scan has a restart marker out of its turn, or none, after {n}",
    _Verdict.WRONG_END: "something else than the end of the image (EOI) follows the scan",
    _Verdict.DAMAGED_HEAD: "tables or headers of the scan are missing or damaged",
}


def check_scan(frame: bytes) -> None:
    """Refuse a baseline, extended or lossless JPEG frame of one component whose scan does not hold exactly the codes
    that its size asks for: it was cut, or changed so that it reads as fewer or more. Raises RefusedError.
    """
    n_read, n_units = ctypes.c_int64(), ctypes.c_int64()
    verdict = _Verdict(_checker()(frame, len(frame), ctypes.byref(n_read), ctypes.byref(n_units)))
    if verdict != _Verdict.WHOLE:
        n = f"{n_read.value:,} of {n_units.value:,} samples or blocks"
        reason = Reason.TRUNCATED if verdict == _Verdict.ENDS_EARLY else Reason.DECODER_FAILED
        raise RefusedError(reason, _WHY[verdict].format(n=n))


@functools.cache
def _checker() -> Callable[..., int]:
    """The check of csrc/jpeg/scan.cpp. It is no torch operator, so that DICOM files are read without torch."""
    try:
        check = ctypes.CDLL(str(_LIBRARY)).rsna_check_jpeg_scan
    except (OSError, AttributeError):  # not there, of another machine, or of another version
        detail = f"the compiled {_LIBRARY.name} is missing or cannot be loaded. Build it: {BUILD_COMMAND}"
        raise RefusedError(Reason.MISSING_DECODER, detail) from None
    check.argtypes = (ctypes.c_char_p, ctypes.c_int64, ctypes.POINTER(ctypes.c_int64), ctypes.POINTER(ctypes.c_int64))
    check.restype = ctypes.c_int32
    return check
