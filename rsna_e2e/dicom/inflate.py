"""Inflates the deflated transfer syntax, up to a fixed number of bytes."""

import io
import zlib
from typing import BinaryIO

from rsna_e2e.core.reasons import Reason
from rsna_e2e.dicom.elements import RefusedError

MAX_INFLATED_BYTES = 64 << 20  # the largest slice, 4096 x 4096 px of 2 bytes, twice
CHUNK_BYTES = 1 << 16  # deflated
MAX_PIECE_BYTES = 1 << 20  # inflated at a time


def inflate(stream: BinaryIO, *, begin: int) -> io.BytesIO:
    """Return the data set that lies deflated from `begin` on (PS3.5 A.5, RFC 1951).

    Raises RefusedError as soon as it inflates to more than MAX_INFLATED_BYTES, or is found damaged.
    """
    stream.seek(begin)
    inflater = zlib.decompressobj(wbits=-zlib.MAX_WBITS)  # without zlib's own head
    inflated = io.BytesIO()
    while not inflater.eof:
        chunk = inflater.unconsumed_tail or stream.read(CHUNK_BYTES)
        try:
            n_bytes = inflated.write(inflater.decompress(chunk, MAX_PIECE_BYTES))
        except zlib.error as error:
            raise RefusedError(Reason.MALFORMED, "the deflated data set is damaged") from error
        # All input was read, but the inflater may hold more output than one piece, and the end of the stream.
        if not (chunk or n_bytes or inflater.eof):
            raise RefusedError(Reason.TRUNCATED, "the deflated data set ends early")
        if inflated.tell() > MAX_INFLATED_BYTES:
            raise RefusedError(Reason.TOO_LARGE, f"inflates to more than {MAX_INFLATED_BYTES:,} bytes")
    inflated.seek(0)
    return inflated
