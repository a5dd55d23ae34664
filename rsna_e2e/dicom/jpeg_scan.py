"""Whether the scan of a JPEG frame is whole: decoders make up what is missing of it, and drop what is too much."""

import ctypes
import functools
from collections.abc import Callable
from pathlib import Path

from rsna_e2e.elements import RefusedError
from rsna_e2e.errors import BUILD_COMMAND
from rsna_e2e.reasons import Reason

_LIBRARY = Path(__file__).parents[1] / "_jpeg.abi3.so"
_WHOLE, _ENDS_EARLY, _GOES_ON, _NO_SUCH_CODE = range(4)  # `Verdict` in csrc/jpeg/scan.cpp; a head that is damaged is 4


def check_scan(frame: bytes) -> None:
    """Refuse a baseline, extended or lossless JPEG frame of one component whose scan does not hold exactly the codes
    that its size asks for: it was cut, or changed so that it reads as fewer or more. Raises RefusedError.
    """
    n_read, n_units = ctypes.c_int64(), ctypes.c_int64()
    verdict = _checker()(frame, len(frame), ctypes.byref(n_read), ctypes.byref(n_units))
    if verdict == _WHOLE:
        return
    if verdict == _ENDS_EARLY:
        what = f"the scan ends after {n_read.value:,} of {n_units.value:,} samples or blocks"
        raise RefusedError(Reason.TRUNCATED, f"{what}: decoders make up the rest")
    if verdict == _GOES_ON:
        what = f"the scan goes on after {n_read.value:,} samples or blocks"
    elif verdict == _NO_SUCH_CODE:
        what = f"no Huffman code after {n_read.value:,} of {n_units.value:,} samples or blocks"
    else:
        what = "tables or heads of the scan are missing or damaged"
    raise RefusedError(Reason.DECODER_FAILED, what)


@functools.cache
def _checker() -> Callable[..., int]:
    """The check of csrc/jpeg/scan.cpp. Not among torch's operators: who reads DICOM files needs no torch."""
    if not _LIBRARY.exists():
        detail = f"the compiled {_LIBRARY.name} is missing. Build it: {BUILD_COMMAND}"
        raise RefusedError(Reason.MISSING_DECODER, detail)
    check = ctypes.CDLL(str(_LIBRARY)).rsna_check_jpeg_scan
    check.argtypes = (ctypes.c_char_p, ctypes.c_int64, ctypes.POINTER(ctypes.c_int64), ctypes.POINTER(ctypes.c_int64))
    check.restype = ctypes.c_int32
    return check
