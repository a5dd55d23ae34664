"""Finds the byte range of each frame's pixels in a file."""

import itertools
import struct

from rsna_e2e.core.reasons import Reason
from rsna_e2e.dicom.element_scanner import ITEM, SEQUENCE_END, UNDEFINED_LENGTH, ByteReader, PixelElement
from rsna_e2e.dicom.elements import RefusedError
from rsna_e2e.dicom.syntaxes import Syntax

MAX_FRAGMENTS = 1 << 16  # 16 for each of 4,096 frames
MAX_FRAME_BYTES = 64 << 20  # compressed; the largest slice takes half of it as it is
MAX_OFFSET_TABLE_BYTES = 1 << 16

Place = tuple[int, int]  # offset and length in bytes


def frame_places(
    reader: ByteReader,
    syntax: Syntax,
    pixels: PixelElement,
    *,
    n_frames: int,
    frame_bytes: int,
    n_bytes_of_stream: int,
) -> list[Place]:
    """Return where each frame lies; compressed, from its first fragment's item header to the end of its last one.

    frame_bytes: of an uncompressed frame. reader: stands where the value of PixelData begins. Raises RefusedError when
    the pixel data is cut, or cannot be divided into frames. Source: PS3.5 A.4 and 7.1.1 (even lengths).
    """
    if not syntax.is_implicit and pixels.vr not in (b"OW", b"OB"):
        raise RefusedError(Reason.MALFORMED, "PixelData is neither OW nor OB")
    if syntax.decoder is None:
        expected = n_frames * frame_bytes
        if pixels.length != expected + expected % 2:
            raise RefusedError(
                Reason.WRONG_PIXEL_LENGTH, f"pixel data {pixels.length} bytes, expected {expected + expected % 2}"
            )
        present = n_bytes_of_stream - pixels.offset
        if present < pixels.length:
            raise RefusedError(Reason.TRUNCATED, f"pixel data {present} bytes, expected {pixels.length}")
        return [(pixels.offset + i * frame_bytes, frame_bytes) for i in range(n_frames)]
    if pixels.length != UNDEFINED_LENGTH:
        raise RefusedError(Reason.MALFORMED, "compressed PixelData has a defined length (PS3.5 A.4)")
    table, fragments = _fragments(reader)
    places = _join(table, fragments, n_frames)
    if max(length for _, length in places) > MAX_FRAME_BYTES:
        raise RefusedError(Reason.TOO_LARGE, f"a compressed frame of more than {MAX_FRAME_BYTES:,} bytes")
    return places


def _fragments(reader: ByteReader) -> tuple[bytes, list[Place]]:
    """Return the basic offset table, and the place of each fragment, its item header included."""
    fragments: list[Place] = []
    table: bytes | None = None
    while True:
        begin = reader.tell()
        head = reader.read(8)
        if len(head) < 8:
            raise RefusedError(Reason.TRUNCATED, "the file ends inside the compressed pixel data")
        group, element, length = struct.unpack("<HHL", head)
        if group << 16 | element == SEQUENCE_END:
            break
        if group << 16 | element != ITEM or length == UNDEFINED_LENGTH:
            raise RefusedError(Reason.MALFORMED, "expected an item (FFFE,E000) in the compressed pixel data")
        if table is None:
            if length > MAX_OFFSET_TABLE_BYTES:
                raise RefusedError(Reason.MALFORMED, f"the basic offset table is {length} bytes long")
            table = reader.read(length)
            continue
        if len(fragments) == MAX_FRAGMENTS:
            raise RefusedError(Reason.TOO_LARGE, f"more than {MAX_FRAGMENTS:,} fragments")
        fragments.append((begin, 8 + length))
        reader.skip(length)
    return table or b"", fragments


def _join(table: bytes, fragments: list[Place], n_frames: int) -> list[Place]:
    """Return where each frame's fragments lie: all for a single frame, else one each, else by the offset table."""
    if len(fragments) < n_frames:
        raise RefusedError(Reason.WRONG_PIXEL_LENGTH, f"{len(fragments)} fragments for {n_frames} frames")
    if len(fragments) == n_frames:
        return fragments
    if n_frames == 1:
        begins = [fragments[0][0]]
    else:
        offsets = [offset for (offset,) in struct.iter_unpack("<L", table[: len(table) // 4 * 4])]
        begins = [fragments[0][0] + offset for offset in offsets]
        heads = {begin for begin, _ in fragments}
        is_rising = all(a < b for a, b in itertools.pairwise(begins))
        if len(begins) != n_frames or begins[0] != fragments[0][0] or not is_rising or not heads.issuperset(begins):
            raise RefusedError(
                Reason.MALFORMED, "the basic offset table does not say which fragments make which frame (PS3.5 A.4)"
            )
    end = sum(fragments[-1])
    return [(begin, following - begin) for begin, following in zip(begins, [*begins[1:], end], strict=True)]
