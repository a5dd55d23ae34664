"""Files made to take time or memory, cut files and files of other kinds: refused soon, for the right reason."""

import io
import json
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import encoders
import numpy as np
import phantoms
import pydicom
import pydicom.data
import pytest
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

from rsna_e2e import dicom
from rsna_e2e.core.reasons import Reason
from rsna_e2e.core.records import Refusal
from rsna_e2e.dicom.elements import RefusedError
from rsna_e2e.dicom.inflate import inflate

PYDICOM_FILES = Path(pydicom.data.__file__).parent / "test_files"
SHAPE = (66, 70)
STORED = phantoms.stored_image(*SHAPE, seed=1, form=phantoms.SIGNED_16)

pytestmark = pytest.mark.filterwarnings("ignore:.*:UserWarning")  # pydicom's advice to whoever writes such files

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

READ_ALL = """
import json, sys, time
from pathlib import Path
from rsna_e2e import dicom

def memory_mb(kind):
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(kind))
    return int(line.split()[1]) / 1024

dicom.read_slice(Path(sys.argv[1]))  # whatever is imported late
for name in sys.argv[2:]:
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before_mb, began_s = memory_mb("VmRSS"), time.process_time()
    result = dicom.read_slice(Path(name))
    took_s = time.process_time() - began_s
    print(json.dumps([getattr(result, "reason", "taken"), took_s, memory_mb("VmHWM") - before_mb]))
"""


@pytest.mark.needs_jpeg
@pytest.mark.parametrize(
    ("cases", "limit_s", "limit_mb"), [(DIMENSION_LIES, 0.05, 64), (BOMBS, 1.0, 128)], ids=["dimensions", "bombs"]
)
def test_claims_take_neither_time_nor_memory(
    tmp_path: Path, cases: list[tuple[Callable[[Path], None], Reason]], limit_s: float, limit_mb: float
) -> None:
    encoders.write_in(tmp_path / "first.dcm", phantoms.slice_dataset(STORED), JPEG2000Lossless)
    paths = [tmp_path / f"{number:02d}.dcm" for number in range(len(cases))]
    for (make, _), path in zip(cases, paths, strict=True):
        make(path)
    told = subprocess.run(
        [sys.executable, "-c", READ_ALL, str(tmp_path / "first.dcm"), *map(str, paths)],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    ).stdout
    results = [json.loads(line) for line in told.splitlines()]
    assert [reason for reason, _, _ in results] == [str(reason) for _, reason in cases]
    for (reason, took_s, grown_mb), path in zip(results, paths, strict=True):
        assert took_s <= limit_s, (path.name, reason)
        assert grown_mb <= limit_mb, (path.name, reason)


def test_decoders_keep_their_words_to_themselves(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    # Runs of 128 bytes, two of them more than a byte of every pixel needs: the decoder panics.
    run = b"\x81\0" * (STORED.size // 128 + 2)
    frame = struct.pack("<16L", 2, 64, 64 + len(run), *[0] * 13) + run + run
    path = encoders.write_frames(tmp_path / "a.dcm", phantoms.slice_dataset(STORED), [frame], RLELossless)
    result = dicom.read_slice(path)
    assert isinstance(result, Refusal)
    assert (result.reason, result.detail) == (Reason.DECODER_FAILED, "PanicException")
    print("afterwards", file=sys.stderr, flush=True)  # noqa: T201  # what others say is heard again
    assert capfd.readouterr() == ("", "afterwards\n")


def ct_small(path: Path) -> tuple[bytes, int]:
    """A real file, and where its pixel data ends."""
    raw = (PYDICOM_FILES / "CT_small.dcm").read_bytes()
    dataset = pydicom.dcmread(PYDICOM_FILES / "CT_small.dcm")
    return raw, raw.index(dataset.PixelData) + len(dataset.PixelData)


def compressed(path: Path) -> tuple[bytes, int]:
    raw = encoders.write_in(path, phantoms.slice_dataset(STORED), RLELossless).read_bytes()
    return raw, len(raw)


def deflated(path: Path) -> tuple[bytes, int]:
    # The last byte makes the length even (PS3.5 A.5).
    raw = phantoms.write_dicom(path, phantoms.slice_dataset(STORED), syntax=DeflatedExplicitVRLittleEndian).read_bytes()
    return raw, len(raw) - 1


@pytest.mark.parametrize("beyond", [-1, 0, 1, 5, 100, 194, 195, 3000])
@pytest.mark.parametrize("pieces", [1, 3])
def test_what_inflates_to_whole_pieces_is_read_to_its_end(pieces: int, beyond: int) -> None:
    content = bytes((pieces << 20) + beyond)
    squeezer = zlib.compressobj(9, wbits=-15)
    squeezed = squeezer.compress(content) + squeezer.flush()
    assert inflate(io.BytesIO(squeezed), begin=0).getvalue() == content
    for n_cut in (1, 2, len(squeezed) // 2):
        with pytest.raises(RefusedError) as error:
            inflate(io.BytesIO(squeezed[:-n_cut]), begin=0)
        assert error.value.reason == Reason.TRUNCATED


def enhanced(path: Path) -> tuple[bytes, int]:
    raw = phantoms.write_dicom(path, enhanced_dataset(np.stack([STORED, STORED]))).read_bytes()
    return raw, len(raw)


@pytest.mark.parametrize("make", [ct_small, compressed, deflated, enhanced])
def test_a_file_cut_anywhere_is_refused(tmp_path: Path, make: Callable[[Path], tuple[bytes, int]]) -> None:
    path = tmp_path / "a.dcm"
    raw, end = make(path)
    path.write_bytes(raw)
    whole = dicom.read_slice(path)
    assert not isinstance(whole, Refusal)
    n_taken = 0
    for length in range(0, len(raw), 97):
        path.write_bytes(raw[:length])
        began_s = time.process_time()
        result = dicom.read_slice(path)
        assert time.process_time() - began_s <= 0.1
        if not isinstance(result, Refusal):
            assert length >= end
            np.testing.assert_array_equal(result[1], whole[1])
            n_taken += 1
    assert n_taken == len(range(-(-end // 97) * 97, len(raw), 97))


OTHER_KINDS = {
    "MR_small.dcm": Reason.NOT_CT,
    "RG1_UNCR.dcm": Reason.NOT_CT,
    "examples_palette.dcm": Reason.NOT_CT,  # US
    "test-SR.dcm": Reason.NOT_CT,
    "rtplan.dcm": Reason.NOT_CT,
    "rtdose.dcm": Reason.NOT_CT,
    "rtstruct.dcm": Reason.NOT_DICOM,  # no preamble
    "DICOMDIR": Reason.NOT_CT,
    "no_meta.dcm": Reason.NOT_DICOM,
    "meta_missing_tsyntax.dcm": Reason.NO_TRANSFER_SYNTAX,
    "MR_truncated.dcm": Reason.NOT_CT,
    "liver.dcm": Reason.NOT_CT,  # SEG
    "ExplVR_BigEnd.dcm": Reason.NOT_CT,
}


@pytest.mark.parametrize(("name", "reason"), OTHER_KINDS.items())
def test_other_kinds_of_dicom_files(name: str, reason: Reason) -> None:
    result = dicom.read_slice(Path(pydicom.data.get_testdata_file(name, download=False)))
    assert isinstance(result, Refusal)
    assert result.reason == reason


@pytest.mark.parametrize("begin", [b"%PDF-1.7\n", b"\x89PNG\r\n\x1a\n", b"", b"PK\3\4", b"MZ", b"\x7fELF"])
def test_files_of_other_kinds(tmp_path: Path, begin: bytes) -> None:
    (tmp_path / "a.dcm").write_bytes(begin + bytes(200) if begin else b"")
    result = dicom.read_slice(tmp_path / "a.dcm")
    assert isinstance(result, Refusal)
    assert result.reason == Reason.NOT_DICOM
