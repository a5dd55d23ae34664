"""Reads a frame as 16-bit words; a compressed one is decoded after its header was checked."""

import functools
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from pydicom.encaps import encapsulate
from pydicom.pixels import get_decoder

from rsna_e2e.core.reasons import Reason
from rsna_e2e.dicom.codestream import FrameClaim, read_claim
from rsna_e2e.dicom.element_scanner import ByteReader, read_file_meta
from rsna_e2e.dicom.elements import RefusedError
from rsna_e2e.dicom.header import SliceHeader
from rsna_e2e.dicom.inflate import inflate
from rsna_e2e.dicom.jpeg2000 import check_tiles
from rsna_e2e.dicom.jpeg_scan import check_scan
from rsna_e2e.dicom.refuse import decoder_error
from rsna_e2e.dicom.syntaxes import SYNTAXES, Decoder, Syntax, decoder_version

Words = npt.NDArray[np.uint16]


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """Words [rows, columns], whose `bits_stored` lowest bits are the stored value, of `bits_allocated` they came in.

    decoder: name and version of the decoder, empty where none was needed. lost_its_sign: the codestream declares signed
    values unsigned.
    """

    words: Words
    bits_stored: int
    bits_allocated: int
    decoder: str = ""
    lost_its_sign: bool = False


def read_frame(stream: BinaryIO, header: SliceHeader) -> Frame:
    """Read the pixels of a slice. Raises RefusedError when they cannot be read, or are not what the header says."""
    syntax = SYNTAXES[header.record.transfer_syntax_uid]
    if syntax.decoder is not None:
        return _decode_frame(stream, header, syntax, syntax.decoder)
    words = _read_words(stream, header, syntax)
    return Frame(words=words, bits_stored=header.record.bits_stored, bits_allocated=header.bits_allocated)


def _read_words(stream: BinaryIO, header: SliceHeader, syntax: Syntax) -> Words:
    """Read uncompressed pixel data as it lies in the file, [rows, columns]."""
    if syntax.is_deflated:
        stream = _inflated(stream)
    rows, columns = header.record.rows, header.record.columns
    n_bytes = header.pixel_length
    raw = np.empty(n_bytes + n_bytes % 2 if header.is_swapped else n_bytes, np.uint8)
    stream.seek(header.pixel_offset)
    if stream.readinto(raw.data) != raw.nbytes:  # type: ignore[attr-defined]
        raise RefusedError(Reason.TRUNCATED, "the file became shorter while it was read")
    if header.is_swapped:  # bytes lie in words, and those are big endian (PS3.5 8.1.1, annex A.3)
        raw = raw.view(np.uint16).byteswap().view(np.uint8)[:n_bytes]
    stored_type = np.dtype(f"{syntax.order}u{header.bits_allocated // 8}")
    return raw.view(stored_type).reshape(rows, columns).astype(np.uint16, copy=False)


@functools.lru_cache(maxsize=1)
def _inflated(stream: BinaryIO) -> BinaryIO:
    """The data set of a deflated stream; kept, because frames of one are read one after the other."""
    stream.seek(0)
    reader = ByteReader(stream)
    read_file_meta(reader)
    return inflate(stream, begin=reader.tell())


def _decode_frame(stream: BinaryIO, header: SliceHeader, syntax: Syntax, decoder: Decoder) -> Frame:
    record = header.record
    stream.seek(header.pixel_offset)
    frame = _joined_fragments(stream.read(header.pixel_length))
    claim = read_claim(frame, syntax, bytes_per_sample=header.bits_allocated // 8)
    bits_allocated, bits_stored = header.bits_allocated, record.bits_stored
    if claim is not None:
        _check_claim(claim, header)
        if syntax.is_huffman_jpeg:
            check_scan(frame)
        elif not syntax.start_of_frame:
            check_tiles(frame)
        bits_allocated = 8 if claim.precision <= 8 else 16
        if record.pixel_representation == 1:
            bits_stored = min(bits_stored, claim.precision)  # the sign stands where the codestream ends
    decoded = _decode(
        frame,
        syntax,
        decoder,
        rows=record.rows,
        columns=record.columns,
        bits_allocated=bits_allocated,
        bits_stored=min(record.bits_stored, bits_allocated),
    )
    if decoded.shape != (record.rows, record.columns) or decoded.dtype.kind not in "iu":
        raise RefusedError(Reason.DECODER_FAILED, f"decoded to {decoded.shape} of {decoded.dtype}")
    return Frame(
        words=decoded.astype(np.uint16),
        bits_stored=bits_stored,
        bits_allocated=bits_allocated,
        decoder=decoder_version(decoder),
        lost_its_sign=record.pixel_representation == 1 and claim is not None and claim.is_signed is False,
    )


def _decode(frame: bytes, syntax: Syntax, decoder: Decoder, **form: int) -> npt.NDArray[Any]:
    """Decode a frame with a third-party decoder. form: rows, columns, bits_allocated and bits_stored, as pydicom calls
    them.

    Raises RefusedError, whatever the decoder raises.
    """
    with silent():
        try:
            decoded, _ = get_decoder(syntax.uid).as_array(
                encapsulate([frame], has_bot=False),
                index=0,
                raw=True,
                decoding_plugin=decoder.plugin,
                pixel_keyword="PixelData",
                number_of_frames=1,
                samples_per_pixel=1,
                photometric_interpretation="MONOCHROME2",
                pixel_representation=0,  # all bits as they are; the sign is seen to elsewhere
                **form,
            )
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            raise decoder_error(error) from None
    return np.asarray(decoded)


@contextmanager
def silent() -> Iterator[None]:
    """Keep warnings and Rust panics of decoders off the terminal."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _check_claim(claim: FrameClaim, header: SliceHeader) -> None:
    record = header.record
    if (claim.rows, claim.columns, claim.n_components) != (record.rows, record.columns, 1):
        detail = f"{claim.rows} x {claim.columns} px, {claim.n_components} component(s)"
        expected = f"{record.rows} x {record.columns} px, 1 component"
        raise RefusedError(Reason.CODESTREAM_MISMATCH, f"the compressed frame has {detail}; expected {expected}")
    if not 1 <= claim.precision <= header.bits_allocated:
        detail = f"{claim.precision} bits, BitsAllocated is {header.bits_allocated}"
        raise RefusedError(Reason.CODESTREAM_MISMATCH, f"samples of the compressed frame have {detail}")
    if claim.is_signed and record.pixel_representation == 0:
        detail = "the compressed frame has signed values, PixelRepresentation says unsigned"
        raise RefusedError(Reason.CODESTREAM_MISMATCH, detail)


def _joined_fragments(value: bytes) -> bytes:
    """Return the content of all fragments, without item headers (PS3.5 A.4)."""
    parts, at = [], 0
    while at + 8 <= len(value):
        end = at + 8 + int.from_bytes(value[at + 4 : at + 8], "little")
        parts.append(value[at + 8 : end])
        at = end
    if at != len(value):
        raise RefusedError(Reason.TRUNCATED, "the file became shorter while it was read")
    return b"".join(parts)
