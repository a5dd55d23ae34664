"""Inflates the deflated transfer syntax, up to a fixed number of bytes."""

import io
import zlib
from typing import Any, BinaryIO

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
        inflated.write(_piece(inflater, stream))
        _check_size(inflated.tell())
    inflated.seek(0)
    return inflated


class InflatedHead:
    """The begin of a data set that lies deflated, as a stream that is read onwards: no more than a piece of it is held.

    Seeking back leads to the last read at most.
    """

    def __init__(self, stream: BinaryIO, *, begin: int) -> None:
        stream.seek(begin)
        self._stream = stream
        self._inflater = zlib.decompressobj(wbits=-zlib.MAX_WBITS)
        self._held = bytearray()
        self._begin = self._position = 0  # of what is held; of the next read

    def tell(self) -> int:
        """Return the position in the data set."""
        return self._position

    def seek(self, position: int) -> int:
        """Go to a position in the data set, which is looked for at the next read."""
        assert position >= self._begin, "what came before is not held any more"
        self._position = position
        return position

    def read(self, n_bytes: int) -> bytes:
        """Return so many bytes, fewer at the end. Raises what `inflate` raises, but for what comes later."""
        while self._begin + len(self._held) < self._position + n_bytes and not self._inflater.eof:
            n_passed = min(self._position - self._begin, len(self._held))
            del self._held[:n_passed]
            self._begin += n_passed
            self._held += _piece(self._inflater, self._stream)
            _check_size(self._begin + len(self._held))
        at = self._position - self._begin
        part = bytes(self._held[at : at + n_bytes])
        self._position += len(part)
        return part


def _piece(inflater: Any, stream: BinaryIO) -> bytes:
    chunk = inflater.unconsumed_tail or stream.read(CHUNK_BYTES)
    try:
        piece: bytes = inflater.decompress(chunk, MAX_PIECE_BYTES)
    except zlib.error as error:
        raise RefusedError(Reason.MALFORMED, "the deflated data set is damaged") from error
    # All input was read, but the inflater may hold more output than one piece, and the end of the stream.
    if not (chunk or piece or inflater.eof):
        raise RefusedError(Reason.TRUNCATED, "the deflated data set ends early")
    return piece


def _check_size(n_bytes: int) -> None:
    if n_bytes > MAX_INFLATED_BYTES:
        raise RefusedError(Reason.TOO_LARGE, f"inflates to more than {MAX_INFLATED_BYTES:,} bytes")
