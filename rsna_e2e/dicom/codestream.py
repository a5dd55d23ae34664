"""Checks the header of a compressed frame before it is decoded, because decoders allocate whatever it claims."""

import struct
from dataclasses import dataclass

from rsna_e2e.core.reasons import Reason
from rsna_e2e.dicom.elements import RefusedError
from rsna_e2e.dicom.syntaxes import RLE_LOSSLESS, Syntax

MAX_TILES = 1 << 12  # of JPEG 2000; decoders keep something for each
MAX_MARKERS = 1 << 10  # of JPEG, before the frame header

# Markers of JPEG that nothing follows: TEM, RST0 to RST7, SOI (ISO/IEC 10918-1 B.1.1.3)
_BARE_MARKERS = (0x01, *range(0xD0, 0xD9))
_SCAN = 0xDA


@dataclass(frozen=True, slots=True)
class FrameClaim:
    """Size in px, number of components, bits of a sample; is_signed: None where the format does not say."""

    rows: int
    columns: int
    n_components: int
    precision: int
    is_signed: bool | None = None


def read_claim(frame: bytes, syntax: Syntax, *, bytes_per_sample: int) -> FrameClaim | None:
    """Return what the header of a frame claims; None for RLE, whose header says where segments lie and no more.

    Raises RefusedError when there is no header of that syntax, RLE has other than `bytes_per_sample` segments, or a
    JPEG frame has no end; decoders of the other formats notice a missing end themselves.
    """
    if syntax.uid == RLE_LOSSLESS:
        _check_rle(frame, bytes_per_sample)
        return None
    if syntax.start_of_frame:
        claim = jpeg_claim(frame, syntax.start_of_frame)
        check_jpeg_end(frame)
        return claim
    return _jpeg2000(frame, at=find_size(frame))


def find_size(frame: bytes) -> int:
    """Return where the content of the SIZ marker segment of a JPEG 2000 frame begins. Raises RefusedError."""
    if frame[:4] == b"\xff\x4f\xff\x51":
        return 4
    if frame[4:8] == b"jP  " and (at := frame.find(b"\xff\x4f\xff\x51")) >= 0:
        return at + 4  # a whole JP2 file, against PS3.5 A.4.4, but seen
    raise RefusedError(Reason.DECODER_FAILED, "the frame is not a JPEG 2000 codestream")


def _check_rle(frame: bytes, n_segments: int) -> None:
    """Source: PS3.5 annex G.5 (number of segments, and where each begins)."""
    if len(frame) < 64:
        raise RefusedError(Reason.DECODER_FAILED, "the RLE frame ends inside its header")
    said, *begins = struct.unpack_from(f"<{1 + n_segments}L", frame)
    ends = [*begins[1:], len(frame)]
    if said != n_segments or begins[0] != 64 or any(a >= b for a, b in zip(begins, ends, strict=True)):
        raise RefusedError(Reason.CODESTREAM_MISMATCH, f"the RLE frame does not hold {n_segments} segment(s) in a row")


def jpeg_claim(frame: bytes, start_of_frame: tuple[int, ...]) -> FrameClaim:
    """Return what the frame header of a JPEG file, or frame, claims. start_of_frame: markers of the processes that are
    taken.

    Source: ISO/IEC 10918-1 B.2.2 (frame header), which JPEG-LS shares (ISO/IEC 14495-1 C.2.2).
    """
    at = 0
    for _ in range(MAX_MARKERS):
        if frame[at : at + 1] != b"\xff" or at + 4 > len(frame):
            break
        marker = frame[at + 1]
        if marker == 0xFF or marker in _BARE_MARKERS:
            at += 1 if marker == 0xFF else 2
            continue
        if marker in start_of_frame:
            try:
                precision, rows, columns, n_components = struct.unpack_from(">BHHB", frame, at + 4)
            except struct.error:
                break
            return FrameClaim(rows, columns, n_components, precision)
        if marker == _SCAN:
            break
        at += 2 + int.from_bytes(frame[at + 2 : at + 4], "big")
    raise RefusedError(Reason.DECODER_FAILED, "the frame has no frame header of its transfer syntax")


def check_jpeg_end(frame: bytes) -> None:
    """Refuse a frame that was cut: decoders fill in the rest without an error.

    Source: ISO/IEC 10918-1 B.1.1.3 and ISO/IEC 14495-1 C.1.1 (EOI ends an image, and stands nowhere in a scan),
    PS3.5 A.4 (padding to an even length; some writers fill fragments up with more of it).
    """
    end = frame.rfind(b"\xff\xd9")
    if end < 0 or frame[end + 2 :].strip(b"\0\xff"):
        raise RefusedError(Reason.TRUNCATED, "the compressed frame has no end: EOI is missing")


def _jpeg2000(frame: bytes, *, at: int) -> FrameClaim:
    """Source: ISO/IEC 15444-1 A.5.1 (SIZ marker segment)."""
    try:
        _, _, x1, y1, x0, y0, tile_x, tile_y, _, _, n_components = struct.unpack_from(">HHLLLLLLLLH", frame, at)
        depth, step_x, step_y = struct.unpack_from(">BBB", frame, at + 38)
    except struct.error:
        raise RefusedError(Reason.DECODER_FAILED, "the JPEG 2000 codestream ends inside its header") from None
    if tile_x == 0 or tile_y == 0 or x1 <= x0 or y1 <= y0 or (step_x, step_y) != (1, 1):
        raise RefusedError(Reason.DECODER_FAILED, "the JPEG 2000 codestream claims an impossible size")
    if -(-(x1 - x0) // tile_x) * -(-(y1 - y0) // tile_y) > MAX_TILES:
        raise RefusedError(Reason.TOO_LARGE, f"more than {MAX_TILES:,} tiles of JPEG 2000")
    return FrameClaim(y1 - y0, x1 - x0, n_components, (depth & 0x7F) + 1, is_signed=depth >= 0x80)
