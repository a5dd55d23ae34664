"""Files made to take time or memory, with what they are refused for: lies about sizes, bombs, endless elements."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import encoders
import numpy as np
import phantoms
from enhanced import enhanced_dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from rsna_e2e.core.reasons import Reason

SHAPE = (66, 70)
STORED = phantoms.stored_image(*SHAPE, seed=1, form=phantoms.SIGNED_16)

SEQUENCE = b"\x08\x00\x99\x10SQ\0\0\xff\xff\xff\xff"  # (0008,1099), which nothing knows, of undefined length
ITEM = b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
PER_FRAME = b"\x00\x52\x30\x92SQ\0\0\xff\xff\xff\xff"  # per-frame functional groups


def plain(path: Path) -> bytes:
    return phantoms.write_dicom(path, phantoms.slice_dataset(STORED)).read_bytes()


def head(path: Path, syntax: str = ExplicitVRLittleEndian) -> bytes:
    """Preamble and file meta information."""
    raw = phantoms.write_dicom(path, phantoms.slice_dataset(STORED), syntax=syntax).read_bytes()
    return raw[: 144 + int.from_bytes(raw[140:144], "little")]


def changed(path: Path, old: bytes, new: bytes) -> None:
    raw = path.read_bytes() if path.exists() else plain(path)
    assert raw.count(old) == 1, old
    path.write_bytes(raw.replace(old, new))


def element(tag: int, vr: bytes, value: bytes) -> bytes:
    return struct.pack("<HH", tag >> 16, tag & 0xFFFF) + vr + struct.pack("<H", len(value)) + value


ROWS = element(0x00280010, b"US", struct.pack("<H", SHAPE[0]))
COLUMNS = element(0x00280011, b"US", struct.pack("<H", SHAPE[1]))


def _sides(rows: int, columns: int) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        changed(path, ROWS, element(0x00280010, b"US", struct.pack("<H", rows)))
        changed(path, COLUMNS, element(0x00280011, b"US", struct.pack("<H", columns)))

    return make


def _rows_of_4_bytes(path: Path) -> None:
    changed(path, ROWS, element(0x00280010, b"UL", struct.pack("<L", SHAPE[0])))


def _a_billion_frames(path: Path) -> None:
    phantoms.write_dicom(path, enhanced_dataset(STORED[None], NumberOfFrames=10**9))


def _in_codestream(syntax: str, find: bytes, at: int, new: bytes) -> Callable[[Path], None]:
    """A compressed slice, with some bytes of its codestream changed, `at` bytes beyond where `find` stands."""

    def make(path: Path) -> None:
        raw = bytearray(encoders.write_in(path, phantoms.slice_dataset(STORED), syntax).read_bytes())
        assert raw.count(find) == 1
        begin = raw.index(find) + at
        raw[begin : begin + len(new)] = new
        path.write_bytes(raw)

    return make


SIZES = b"\xff\x4f\xff\x51"  # J2K: SOC, SIZ; Xsiz stands 8 bytes on, XTsiz 24, Csiz 40, Ssiz 42
RLE = b"\x02\0\0\0\x40\0\0\0"  # two segments, the first after the head of 64 bytes; then where the second begins
JPEG_LS = b"\xff\xf7\x00\x0b"  # precision, rows and columns stand 4, 5 and 7 bytes on
JPEG_LOSSLESS = b"\xff\xc3\x00\x0b"
CODESTREAM_LIES = [
    _in_codestream(JPEGLSLossless, JPEG_LS, 5, struct.pack(">HH", 20000, 20000)),
    _in_codestream(JPEGLSLossless, JPEG_LS, 5, struct.pack(">HH", 32, 32)),
    _in_codestream(JPEGLSLossless, JPEG_LS, 9, b"\x03"),
    _in_codestream(JPEGLosslessSV1, JPEG_LOSSLESS, 5, b"\xff\xff\xff\xff"),
    _in_codestream(JPEGLosslessSV1, JPEG_LOSSLESS, 4, b"\x20"),
    _in_codestream(JPEG2000Lossless, SIZES, 8, struct.pack(">LL", SHAPE[1], SHAPE[0] - 1)),
    _in_codestream(JPEG2000Lossless, SIZES, 40, struct.pack(">H", 3)),
    _in_codestream(JPEG2000Lossless, SIZES, 42, b"\xa5"),  # 38 bits, signed
]
DIMENSION_LIES = [
    (_sides(65535, 65535), Reason.BAD_VALUE),
    (_sides(4096, 4096), Reason.WRONG_PIXEL_LENGTH),
    (_sides(0, 70), Reason.BAD_VALUE),
    (_rows_of_4_bytes, Reason.BAD_VALUE),
    (_a_billion_frames, Reason.TOO_LARGE),
    *((lie, Reason.CODESTREAM_MISMATCH) for lie in CODESTREAM_LIES),
    (_in_codestream(JPEG2000Lossless, SIZES, 8, struct.pack(">LL", 1 << 31, 1 << 31)), Reason.TOO_LARGE),  # in tiles
    (_in_codestream(JPEG2000Lossless, SIZES, 24, struct.pack(">LL", 1, 1)), Reason.TOO_LARGE),
    (_in_codestream(JPEG2000Lossless, SIZES, 24, struct.pack(">LL", 0, 0)), Reason.DECODER_FAILED),
    (_in_codestream(JPEG2000Lossless, SIZES, 0, b"\0\0\0\0"), Reason.DECODER_FAILED),
    (_in_codestream(JPEGLosslessSV1, JPEG_LOSSLESS, 0, b"\xff\xc0"), Reason.DECODER_FAILED),
    (_in_codestream(RLELossless, RLE, 0, b"\x0f"), Reason.CODESTREAM_MISMATCH),
    (_in_codestream(RLELossless, RLE, 0, b"\x01"), Reason.CODESTREAM_MISMATCH),
    (_in_codestream(RLELossless, RLE, 4, b"\x41"), Reason.CODESTREAM_MISMATCH),
    (_in_codestream(RLELossless, RLE, 8, b"\xff\xff\xff\x7f"), Reason.CODESTREAM_MISMATCH),
    (_in_codestream(RLELossless, RLE, 8, b"\0\0\0\0"), Reason.CODESTREAM_MISMATCH),
]


def deflated(path: Path) -> tuple[bytes, int]:
    # The last byte makes the length even (PS3.5 A.5).
    raw = phantoms.write_dicom(path, phantoms.slice_dataset(STORED), syntax=DeflatedExplicitVRLittleEndian).read_bytes()
    return raw, len(raw) - 1


def _deflate_bomb(path: Path) -> None:
    squeezer = zlib.compressobj(9, wbits=-15)
    bomb = b"".join(squeezer.compress(bytes(1 << 20)) for _ in range(300)) + squeezer.flush()
    path.write_bytes(head(path, DeflatedExplicitVRLittleEndian) + bomb)


def _deflate_bomb_behind_a_slice(path: Path) -> None:
    raw = plain(path)
    data_set = raw[len(head(path)) :]
    squeezer = zlib.compressobj(9, wbits=-15)
    bomb = squeezer.compress(data_set) + b"".join(squeezer.compress(bytes(1 << 20)) for _ in range(300))
    path.write_bytes(head(path, DeflatedExplicitVRLittleEndian) + bomb + squeezer.flush())


def _deflated_and_damaged(path: Path) -> None:
    raw = bytearray(deflated(path)[0])
    begin = len(head(path, DeflatedExplicitVRLittleEndian))
    raw[begin] = 0xFF  # a block type that there is none of (RFC 1951, 3.2.3)
    path.write_bytes(raw)


def _deflated_and_cut(path: Path) -> None:
    path.write_bytes(deflated(path)[0][:-100])


def _nested(path: Path) -> None:
    path.write_bytes(head(path) + (SEQUENCE + ITEM) * 200_000)


def _nested_functional_groups(path: Path) -> None:
    path.write_bytes(head(path) + (PER_FRAME + ITEM) * 200_000)


def _nested_in_implicit_vr(path: Path) -> None:
    sequence = SEQUENCE[:4] + SEQUENCE[8:]
    path.write_bytes(head(path, ImplicitVRLittleEndian) + (sequence + ITEM) * 200_000)


def _tiny_elements(path: Path) -> None:
    elements = np.tile(np.frombuffer(element(0x00090000, b"SH", b""), np.uint8), (1_000_000, 1))
    path.write_bytes(head(path) + elements.tobytes())


def _tiny_items(path: Path) -> None:
    path.write_bytes(head(path) + SEQUENCE + b"\xfe\xff\x00\xe0\x00\x00\x00\x00" * 1_000_000)


def _tiny_groups(path: Path) -> None:
    path.write_bytes(head(path) + PER_FRAME + b"\xfe\xff\x00\xe0\x00\x00\x00\x00" * 1_000_000)


def _tiny_meta_elements(path: Path) -> None:
    begin = head(path)[:144]
    path.write_bytes(begin + element(0x00020100, b"SH", b"") * 1_000_000)


def _tiny_fragments(path: Path) -> None:
    encoders.write_in(path, phantoms.slice_dataset(STORED), RLELossless)
    raw = path.read_bytes()
    begin = raw.index(b"\xe0\x7f\x10\x00OB\0\0\xff\xff\xff\xff") + 12
    path.write_bytes(raw[:begin] + b"\xfe\xff\x00\xe0\x00\x00\x00\x00" * 1_000_000)


def _absurd_length(tag: int, vr: bytes) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        at = struct.pack("<HH", tag >> 16, tag & 0xFFFF)
        path.write_bytes(head(path) + at + vr + b"\0\0" + struct.pack("<L", 0xFFFFFFF0) + b"abc")

    return make


def _absurd_pixel_data(path: Path) -> None:
    begin = b"\xe0\x7f\x10\x00OW\0\0"
    changed(path, begin + struct.pack("<L", STORED.nbytes), begin + struct.pack("<L", 0xFFFFFFF0))


def _absurd_offset_table(path: Path) -> None:
    encoders.write_in(path, phantoms.slice_dataset(STORED), RLELossless)
    begin = b"\xe0\x7f\x10\x00OB\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0"
    raw = path.read_bytes()
    at = raw.index(begin) + len(begin)
    after = at + 4 + int.from_bytes(raw[at : at + 4], "little")
    path.write_bytes(raw[:at] + struct.pack("<L", 1 << 25) + bytes(1 << 25) + raw[after:])


def _filled_jpeg(path: Path) -> None:
    frame = b"\xff\xd8" + b"\xff" * (32 << 20)
    encoders.write_frames(path, phantoms.slice_dataset(STORED), [frame], JPEGLosslessSV1)


BOMBS = [
    (_deflate_bomb, Reason.TOO_LARGE),
    (_deflate_bomb_behind_a_slice, Reason.TOO_LARGE),
    (_deflated_and_damaged, Reason.MALFORMED),
    (_deflated_and_cut, Reason.TRUNCATED),
    (_nested, Reason.MALFORMED),
    (_nested_functional_groups, Reason.MALFORMED),
    (_nested_in_implicit_vr, Reason.MALFORMED),
    (_tiny_elements, Reason.TOO_LARGE),
    (_tiny_items, Reason.TOO_LARGE),
    (_tiny_groups, Reason.TOO_LARGE),
    (_tiny_meta_elements, Reason.MALFORMED),
    (_tiny_fragments, Reason.TOO_LARGE),
    (_absurd_length(0x00080060, b"UT"), Reason.MALFORMED),
    (_absurd_length(0x00091001, b"UN"), Reason.NO_PIXEL_DATA),  # passed over, and then there is nothing
    (_absurd_pixel_data, Reason.WRONG_PIXEL_LENGTH),
    (_absurd_offset_table, Reason.MALFORMED),
    (_filled_jpeg, Reason.DECODER_FAILED),
]
