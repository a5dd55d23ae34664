"""The transfer syntaxes that are read, and the decoder of each."""

import functools
import importlib.metadata
from dataclasses import dataclass

from pydicom.pixels import get_decoder

from rsna_e2e.core.reasons import Reason
from rsna_e2e.dicom.elements import RefusedError, shown


@dataclass(frozen=True, slots=True)
class Decoder:
    """What decodes a frame: pydicom's name of the plugin, and the distribution that it comes in.

    extra: the optional dependency of this package that installs it; empty where it comes with this package.
    """

    plugin: str
    distribution: str
    extra: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Syntax:
    """A transfer syntax (PS3.5 10 and annex A) under the name people know; `decoder` is None where pixels are not
    compressed.

    start_of_frame: markers of the only JPEG processes that belong to it (ISO/IEC 10918-1 table B.1, 14495-1 C.1.1).
    """

    uid: str
    name: str
    is_implicit: bool = False
    is_big_endian: bool = False
    is_deflated: bool = False
    decoder: Decoder | None = None
    start_of_frame: tuple[int, ...] = ()

    @property
    def order(self) -> str:
        """Of bytes, as `struct` spells it."""
        return ">" if self.is_big_endian else "<"

    @property
    def is_huffman_jpeg(self) -> bool:
        """Whether its frames are those of ISO/IEC 10918-1, with Huffman codes, and not of JPEG-LS."""
        return bool(self.start_of_frame) and self.start_of_frame != _JPEG_LS


# Pinned, so that a further package on the machine changes nothing. For JPEG-LS CharLS (pyjpegls), which notices damage
# that others pass on as pixels; for 12-bit and lossless JPEG the one package on PyPI that decodes them all, which is
# under the GPL and so not installed unasked.
PILLOW = Decoder("pillow", "pillow")
_RLE = Decoder("pylibjpeg", "pylibjpeg-rle")
_OPENJPEG = Decoder("pylibjpeg", "pylibjpeg-openjpeg")
_CHARLS = Decoder("pyjpegls", "pyjpegls")
_LIBJPEG = Decoder("pylibjpeg", "pylibjpeg-libjpeg", extra="jpeg")

_JPEG_LS = (0xF7,)

RLE_LOSSLESS = "1.2.840.10008.1.2.5"

# PS3.6 table A-1
SYNTAXES = {
    syntax.uid: syntax
    for syntax in (
        Syntax(uid="1.2.840.10008.1.2", name="implicit little endian", is_implicit=True),
        Syntax(uid="1.2.840.10008.1.2.1", name="explicit little endian"),
        Syntax(uid="1.2.840.10008.1.2.1.99", name="deflated", is_deflated=True),
        Syntax(uid="1.2.840.10008.1.2.2", name="explicit big endian", is_big_endian=True),  # retired
        Syntax(uid=RLE_LOSSLESS, name="RLE lossless", decoder=_RLE),
        Syntax(uid="1.2.840.10008.1.2.4.50", name="JPEG baseline", decoder=PILLOW, start_of_frame=(0xC0,)),
        Syntax(uid="1.2.840.10008.1.2.4.51", name="JPEG extended", decoder=_LIBJPEG, start_of_frame=(0xC0, 0xC1)),
        Syntax(uid="1.2.840.10008.1.2.4.57", name="JPEG lossless", decoder=_LIBJPEG, start_of_frame=(0xC3,)),
        Syntax(
            uid="1.2.840.10008.1.2.4.70", name="JPEG lossless, first order", decoder=_LIBJPEG, start_of_frame=(0xC3,)
        ),
        Syntax(uid="1.2.840.10008.1.2.4.80", name="JPEG-LS lossless", decoder=_CHARLS, start_of_frame=_JPEG_LS),
        Syntax(uid="1.2.840.10008.1.2.4.81", name="JPEG-LS near-lossless", decoder=_CHARLS, start_of_frame=_JPEG_LS),
        Syntax(uid="1.2.840.10008.1.2.4.90", name="JPEG 2000 lossless", decoder=_OPENJPEG),
        Syntax(uid="1.2.840.10008.1.2.4.91", name="JPEG 2000", decoder=_OPENJPEG),
        Syntax(uid="1.2.840.10008.1.2.4.201", name="HTJ2K lossless", decoder=_OPENJPEG),
        Syntax(uid="1.2.840.10008.1.2.4.202", name="HTJ2K lossless RPCL", decoder=_OPENJPEG),
        Syntax(uid="1.2.840.10008.1.2.4.203", name="HTJ2K", decoder=_OPENJPEG),
    )
}


def readable_syntax(uid: str) -> Syntax:
    """Return a transfer syntax. Raises RefusedError when it is not read, or its decoder is not installed."""
    syntax = SYNTAXES.get(uid)
    if syntax is None:
        raise RefusedError(Reason.UNSUPPORTED_TRANSFER_SYNTAX, shown(uid))
    decoder = syntax.decoder
    if decoder is not None and decoder.plugin not in get_decoder(uid).available_plugins:
        wanted = f"rsna_e2e[{decoder.extra}]" if decoder.extra else decoder.distribution
        raise RefusedError(
            Reason.MISSING_DECODER, f"{uid} needs {decoder.distribution}. Install it: pip install '{wanted}'"
        )
    return syntax


@functools.cache
def decoder_version(decoder: Decoder) -> str:
    """Return a decoder's name and version, as the store keeps it."""
    return f"{decoder.distribution} {importlib.metadata.version(decoder.distribution)}"
