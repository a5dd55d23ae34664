"""Radiographs as PNG and JPEG files: grey of 8 or 16 bits, whose size and whole length are checked before decoding.

The names of such files are all that is known of who is seen. Source of the formats: W3C PNG (third edition), 5 and 11;
ISO/IEC 10918-1 B; EXIF 2.32, 4.6.4 (Orientation).
"""

import io
import struct
import zlib
from collections.abc import Iterator, Sequence
from math import nan
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image

from rsna_e2e.core.limits import XRAY_SIDES_PX
from rsna_e2e.core.reasons import Reason
from rsna_e2e.core.records import Acquisition, RawFile, Refusal, SliceRecord, XrayRecord, printable
from rsna_e2e.dicom.codestream import FrameClaim, check_jpeg_end, jpeg_claim
from rsna_e2e.dicom.common_elements import check_sides
from rsna_e2e.dicom.elements import RefusedError
from rsna_e2e.dicom.header import SliceHeader
from rsna_e2e.dicom.header_xr import NO_PLACE
from rsna_e2e.dicom.image_ids import image_id_of
from rsna_e2e.dicom.jpeg_scan import check_scan
from rsna_e2e.dicom.refuse import decoder_error, refuse_on_error
from rsna_e2e.dicom.repairs import Repair
from rsna_e2e.dicom.stored_pixels import Frame, silent
from rsna_e2e.dicom.syntaxes import PILLOW, decoder_version

MAX_FILE_BYTES = 128 << 20  # three channels of the largest radiograph, as they are
HEAD_BYTES = 1 << 20  # a JPEG frame header comes after at most a preview and a colour profile

PNG = b"\x89PNG\r\n\x1a\n"
JPEG = b"\xff\xd8\xff"
_SEQUENTIAL, _JPEG_FRAMES = (0xC0, 0xC1), (0xC0, 0xC1, 0xC2)  # baseline and extended; and progressive
_GREY, _COLOUR, _PALETTE, _GREY_ALPHA, _COLOUR_ALPHA = 0, 2, 3, 4, 6  # colour types of PNG
_SAMPLES = {_GREY: 1, _COLOUR: 3, _PALETTE: 1, _GREY_ALPHA: 2, _COLOUR_ALPHA: 4}
# Where in a tile of 8 x 8 px each pass of an interlaced image begins, and its steps (PNG 8.2): x, y, dx, dy
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_KEPT_CHUNKS = (b"IHDR", b"PLTE", b"IDAT", b"eXIf", b"IEND")
_ORIENTATION, _UPRIGHT = 0x0112, 1
_TRANSPARENT = "an image with transparent pixels"

Samples = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]


def is_raster(stream: BinaryIO) -> bool:
    """Whether a stream that stands at its begin is a PNG or JPEG file; it stands there again afterwards."""
    head = stream.read(len(PNG))
    stream.seek(0)
    return head == PNG or head.startswith(JPEG)


def is_raster_header(header: SliceHeader) -> bool:
    """Whether a header is that of a PNG or JPEG file, which has no transfer syntax."""
    return header.record.transfer_syntax_uid == ""


def read_raster_header(stream: BinaryIO, raw_file: RawFile) -> list[SliceHeader] | Refusal:
    """Read the size and depth of a PNG or JPEG file; its name stands for patient, study, series and instance."""
    return refuse_on_error(raw_file.name, lambda: [_header(stream, raw_file)])


def read_raster(stream: BinaryIO, header: SliceHeader) -> tuple[Frame, list[Repair]]:
    """Read the pixels of a file whose header was read, and what is unusual about them.

    Raises RefusedError for a file that is cut or damaged, and for an image in colour.
    """
    stream.seek(0)
    file = stream.read(header.pixel_length)
    is_png = file.startswith(PNG)
    if is_png:
        chunks = list(_chunks(file))
        _check_inflated(chunks)
        file = PNG + b"".join(_chunk(*chunk) for chunk in chunks)
    else:
        _check_jpeg(file)
    with silent():
        try:
            samples, orientation = _decoded(file, "PNG" if is_png else "JPEG")
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            raise decoder_error(error) from None
    grey, repairs = _as_grey(samples)
    if grey.shape != (header.record.rows, header.record.columns):
        raise RefusedError(Reason.DECODER_FAILED, f"decoded to {grey.shape}")
    if orientation != _UPRIGHT:
        repairs.append(Repair.EXIF_ORIENTATION)
    bits = header.bits_allocated
    decoder = decoder_version(PILLOW)
    return Frame(words=grey.astype(np.uint16), bits_stored=bits, bits_allocated=bits, decoder=decoder), repairs


def _header(stream: BinaryIO, raw_file: RawFile) -> SliceHeader:
    if raw_file.n_bytes > MAX_FILE_BYTES:
        raise RefusedError(Reason.TOO_LARGE, f"{raw_file.n_bytes:,} bytes; expected up to {MAX_FILE_BYTES:,}")
    head = stream.read(HEAD_BYTES)
    claim = _png_claim(head) if head.startswith(PNG) else _jpeg_claim(head)
    check_sides(claim.rows, claim.columns, XRAY_SIDES_PX)
    name = printable(raw_file.name)
    record = SliceRecord(
        image_id=image_id_of(raw_file.name),
        patient_id=image_id_of(raw_file.name),
        study_uid=name,
        series_uid=name,
        sop_uid=name,
        rows=claim.rows,
        columns=claim.columns,
        image_position_mm=NO_PLACE,
        image_orientation=NO_PLACE + NO_PLACE,
        pixel_spacing_mm=(nan, nan),
        slope=1.0,
        intercept=0.0,
        bits_stored=claim.precision,
        pixel_representation=0,
        window_center_hu=None,
        window_width_hu=None,
        transfer_syntax_uid="",
        repair=Repair.PATIENT_BY_STUDY,
        xray=XrayRecord(value_offset=1 << 15 if claim.precision == 16 else 0, photometric="MONOCHROME2"),
    )
    return SliceHeader(
        record=record,
        bits_allocated=claim.precision,
        pixel_offset=0,
        pixel_length=raw_file.n_bytes,
        is_swapped=False,
        is_monochrome1=False,
        padding_low=None,
        padding_high=None,
        acquisition=Acquisition(),
    )


def _png_claim(head: bytes) -> FrameClaim:
    """Return what IHDR says. Raises RefusedError for another depth than 8 bits, or 16 of grey alone."""
    try:
        length, name, columns, rows, depth, colour_type = struct.unpack_from(">L4sLLBB", head, len(PNG))
    except struct.error:
        raise RefusedError(Reason.TRUNCATED, "the file ends inside its header") from None
    if (length, name) != (13, b"IHDR"):
        raise RefusedError(Reason.MALFORMED, "a PNG file that does not begin with IHDR")
    is_read = depth == 8 or (depth == 16 and colour_type == _GREY) or (colour_type == _PALETTE and depth <= 8)
    if not is_read or colour_type not in (_GREY, _COLOUR, _PALETTE, _GREY_ALPHA, _COLOUR_ALPHA):
        detail = f"PNG of bit depth {depth}, colour type {colour_type}; grey of 8 or 16 bits is read"
        raise RefusedError(Reason.UNSUPPORTED_PIXEL_FORMAT, detail)
    return FrameClaim(rows, columns, 1, 16 if depth == 16 else 8)


def _jpeg_claim(head: bytes) -> FrameClaim:
    """Return what the frame header says. Raises RefusedError for other samples than 8 bits of grey, or of three
    colours, which may be equal."""
    claim = jpeg_claim(head, _JPEG_FRAMES)
    if claim.precision != 8:
        raise RefusedError(Reason.UNSUPPORTED_PIXEL_FORMAT, f"JPEG of {claim.precision} bits; 8 are read")
    if claim.n_components not in (1, 3):
        raise RefusedError(Reason.COLOUR, f"JPEG of {claim.n_components} components")
    return claim


def _chunks(file: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield name and content of the chunks of a PNG file that tell pixels and orientation, up to its end.

    Raises RefusedError when it is cut, damaged, or holds several images. Decoders check the content of the pixels by
    their own checksum alone, and take a file without an end.
    """
    at, name = len(PNG), b""
    while name != b"IEND":
        try:
            length, name = struct.unpack_from(">L4s", file, at)
            (crc,) = struct.unpack_from(">L", file, at + 8 + length)
        except struct.error:
            raise RefusedError(Reason.TRUNCATED, "the file ends before IEND") from None
        content = file[at + 8 : at + 8 + length]
        if zlib.crc32(content, zlib.crc32(name)) != crc:
            raise RefusedError(Reason.DECODER_FAILED, f"a chunk {printable(name.decode('latin-1'))} has another CRC-32")
        if (name == b"IHDR") != (at == len(PNG)):
            raise RefusedError(Reason.MALFORMED, "a PNG file with two headers, or none")
        if name == b"acTL":
            raise RefusedError(Reason.MULTI_FRAME, "an animated PNG file")
        if name == b"tRNS":
            raise RefusedError(Reason.UNSUPPORTED_PIXEL_FORMAT, _TRANSPARENT)
        if name in _KEPT_CHUNKS:
            yield name, content
        at += 12 + length


def _check_inflated(chunks: Sequence[tuple[bytes, bytes]]) -> None:
    """Refuse a PNG file whose compressed pixels are fewer than its size asks for: decoders make up the rest."""
    columns, rows, depth, colour_type, _, _, is_interlaced = struct.unpack(">LLBBBBB", chunks[0][1])
    bits = depth * _SAMPLES[colour_type]
    passes = _ADAM7 if is_interlaced else ((0, 0, 1, 1),)
    sizes = ((-(-(columns - x) // dx), -(-(rows - y) // dy)) for x, y, dx, dy in passes)
    expected = sum(n_rows * (1 + -(-n_columns * bits // 8)) for n_columns, n_rows in sizes if n_columns > 0)
    pixels = b"".join(content for name, content in chunks if name == b"IDAT")
    inflater = zlib.decompressobj()
    try:
        n_bytes = len(inflater.decompress(pixels, expected + 1))
    except zlib.error:
        raise RefusedError(Reason.DECODER_FAILED, "its compressed pixels are damaged") from None
    if n_bytes < expected or not inflater.eof:
        raise RefusedError(Reason.TRUNCATED, f"its compressed pixels are {n_bytes:,} bytes of {expected:,}")


def _chunk(name: bytes, content: bytes) -> bytes:
    crc = zlib.crc32(content, zlib.crc32(name))
    return struct.pack(">L4s", len(content), name) + content + struct.pack(">L", crc)


def _check_jpeg(file: bytes) -> None:
    check_jpeg_end(file)
    try:
        claim = jpeg_claim(file, _SEQUENTIAL)
    except RefusedError:
        return  # progressive
    if claim.n_components == 1:
        check_scan(file)


def _decoded(file: bytes, form: str) -> tuple[Samples, int]:
    """Return the samples [H, W] or [H, W, channels], and EXIF's orientation, 1 where there is none."""
    with Image.open(io.BytesIO(file), formats=(form,)) as image:
        image.load()
        samples = np.asarray(image.convert("RGB") if image.mode == "P" else image)
        try:
            orientation = int(image.getexif().get(_ORIENTATION, _UPRIGHT))
        except Exception:  # of damaged EXIF, which says nothing then; it may be of any class
            orientation = _UPRIGHT
    return samples, orientation


def _as_grey(samples: Samples) -> tuple[Samples, list[Repair]]:
    """Return the one channel of an image [H, W], or of [H, W, channels] that are equal and not transparent."""
    if samples.ndim == 2:
        return samples, []
    n_channels = samples.shape[2]
    if n_channels in (2, 4) and int(samples[..., -1].min()) < np.iinfo(samples.dtype).max:
        raise RefusedError(Reason.UNSUPPORTED_PIXEL_FORMAT, _TRANSPARENT)
    grey = samples[..., 0]
    if n_channels >= 3 and not ((grey == samples[..., 1]).all() and (grey == samples[..., 2]).all()):
        raise RefusedError(Reason.COLOUR, "red, green and blue differ")
    return grey, [Repair.EQUAL_CHANNELS] if n_channels >= 3 else []
