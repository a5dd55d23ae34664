"""Detects JPEG 2000 frames with missing tiles, or tiles overwritten by zeros, which decoders do not notice.

An end that was lost, and filled with zeros, has more of them than an encoder writes there: an empty packet is one byte
of zeros, a packet's head has a bit for each code block, and arithmetic codes end in ones (C.2.9), or where they were
cut, which is `_CHANCE` zeros in a row as often as 2^-128. Runs of zeros inside of codes are normal.
Source: ISO/IEC 15444-1 A.4 to A.6 (markers), B.6, B.7 and B.10 (packets).
"""

import struct
from dataclasses import dataclass

from rsna_e2e.core.reasons import Reason
from rsna_e2e.dicom.codestream import MAX_MARKERS, find_size
from rsna_e2e.dicom.elements import RefusedError

_SOT, _SOD, _COD, _COC = 0xFF90, 0xFF93, 0xFF52, 0xFF53
MAX_TILE_PARTS, MAX_TILE_MARKERS = 1 << 13, 1 << 6  # no more are looked at
_CHANCE = 16  # bytes
# Code blocks with bits that are no arithmetic codes, and may be zeros: bypass (table A.19), and HTJ2K (15444-15 A.4)
_RAW_BITS = 0x01 | 0x40
_WHOLE = 15  # of a precinct, where none are said (A.6.1)


@dataclass(frozen=True, slots=True)
class _Coding:
    """How tiles are coded. block, and precincts by resolution: log2 of width and height."""

    n_layers: int
    n_levels: int
    block: tuple[int, int]
    precincts: tuple[tuple[int, int], ...]


def check_tiles(frame: bytes) -> None:
    """Refuse a frame that lacks tiles, or has a tile that ends in more zeros than an encoder writes.

    Its header was checked before. Raises RefusedError. All other damage to a codestream is found by the decoder.
    """
    at = find_size(frame)
    x1, y1, x0, y0, tile_x, tile_y, tile_x0, tile_y0 = struct.unpack_from(">8L", frame, at + 4)
    columns, rows = -(-(x1 - tile_x0) // tile_x), -(-(y1 - tile_y0) // tile_y)
    at, said = _header(frame, at, ends=_SOT, at_most=MAX_MARKERS)
    coding = _coding(said[0][1]) if [marker for marker, _ in said] == [_COD] else None
    seen = set()
    for _ in range(MAX_TILE_PARTS):
        if _number(frame, at) != _SOT or at + 12 > len(frame):
            break
        tile, length = struct.unpack_from(">HL", frame, at + 4)
        end = min(at + length if length else len(frame), len(frame))  # 0: it goes on to the end (A.4.2)
        begin, said = _header(frame, at + 2, ends=_SOD, at_most=MAX_TILE_MARKERS)
        if coding is not None and not said:
            x, y = tile % columns * tile_x + tile_x0, tile // columns * tile_y + tile_y0
            most = _most_zeros(coding, (max(x, x0), max(y, y0), min(x + tile_x, x1), min(y + tile_y, y1)))
            n_zeros = end - begin - len(frame[begin:end].rstrip(b"\0"))
            if n_zeros > most:
                detail = f"a tile of JPEG 2000 ends in {n_zeros:,} bytes of zeros: its data was lost"
                raise RefusedError(Reason.TRUNCATED, detail)
        seen.add(tile)
        at = end
    else:
        return
    if len(seen) < columns * rows:
        raise RefusedError(Reason.TRUNCATED, f"the JPEG 2000 codestream has {len(seen):,} of {columns * rows:,} tiles")


def _number(frame: bytes, at: int) -> int:
    """Read the marker or length that stands there."""
    return int.from_bytes(frame[at : at + 2], "big")


def _header(frame: bytes, at: int, *, ends: int, at_most: int) -> tuple[int, list[tuple[int, bytes]]]:
    """Pass over marker segments, from the content of one on to the marker `ends`, and return where that stands.

    Also what the others say of how tiles are coded: COD and COC, each with its content. Source: A.2.
    """
    said = []
    for _ in range(at_most):
        at += _number(frame, at)  # the length of the segment
        marker = _number(frame, at)
        if marker == ends or at + 4 > len(frame):
            break
        at += 2
        if marker in (_COD, _COC):
            said.append((marker, frame[at + 2 : at + _number(frame, at)]))
    return at, said


def _coding(segment: bytes) -> _Coding | None:
    """Return the content of COD; None where it is damaged, or where runs of zeros are normal in the code blocks.
    Source: A.6.1."""
    if len(segment) < 10:
        return None
    has_precincts, _, n_layers, _, n_levels, block_x, block_y, style, _ = struct.unpack_from(">BBHBBBBBB", segment)
    sizes = tuple((size & 0xF, size >> 4) for size in segment[10 : 11 + n_levels])
    if not has_precincts & 1:
        sizes = ((_WHOLE, _WHOLE),) * (n_levels + 1)
    if len(sizes) != n_levels + 1 or n_levels > 32 or style & _RAW_BITS:
        return None
    return _Coding(n_layers, n_levels, (block_x + 2, block_y + 2), sizes)


def _most_zeros(coding: _Coding, box: tuple[int, int, int, int]) -> int:
    """Return the most bytes of zeros that a whole tile may end in: a byte of each packet, and the header of one.

    box: of the tile, x0, y0, x1, y1, the last two exclusive.
    """
    n_precincts = n_blocks = 0
    for resolution, sizes in enumerate(coding.precincts):
        step = 1 << (coding.n_levels - resolution)
        spans = [(-(-box[axis] // step), -(-box[axis + 2] // step)) for axis in (0, 1)]
        precincts = [_parts(span, 1 << size) for span, size in zip(spans, sizes, strict=True)]
        blocks = [
            _parts(span, 1 << min(block, size)) + 2
            for span, block, size in zip(spans, coding.block, sizes, strict=True)
        ]
        n_precincts += precincts[0] * precincts[1]
        n_blocks += blocks[0] * blocks[1]
    return coding.n_layers * n_precincts + n_blocks // 8 + _CHANCE


def _parts(span: tuple[int, int], size: int) -> int:
    """Return how many parts of a grid of this size lie in a span (B.6)."""
    return -(-span[1] // size) - span[0] // size
