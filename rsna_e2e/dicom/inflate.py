"""The deflated transfer syntax, inflated to a limit that no claim in the file can move."""

import io
import zlib
from typing import BinaryIO

from rsna_e2e.elements import RefusedError
from rsna_e2e.reasons import Reason

MAX_INFLATED_BYTES = 64 << 20  # the largest slice, 4096 x 4096 px of 2 bytes, twice
CHUNK_BYTES = 1 << 16


def inflate(stream: BinaryIO, *, begin: int) -> io.BytesIO:
    """Return the data set that lies deflated from `begin` on (PS3.5 A.5, RFC 1951).

    Raises RefusedError when it inflates to more than MAX_INFLATED_BYTES, which is not waited for, or is damaged.
    """
    stream.seek(begin)
    inflater = zlib.decompressobj(wbits=-zlib.MAX_WBITS)  # without zlib's own head
    inflated = io.BytesIO()
    while not inflater.eof:
        chunk = inflater.unconsumed_tail or stream.read(CHUNK_BYTES)
        if not chunk:
            raise RefusedError(Reason.TRUNCATED, "the deflated data set ends early")
        try:
            inflated.write(inflater.decompress(chunk, 1 << 20))
        except zlib.error as error:
            raise RefusedError(Reason.MALFORMED, "the deflated data set is damaged") from error
        if inflated.tell() > MAX_INFLATED_BYTES:
            raise RefusedError(Reason.TOO_LARGE, f"inflates to more than {MAX_INFLATED_BYTES:,} bytes")
    inflated.seek(0)
    return inflated
