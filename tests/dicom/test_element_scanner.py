"""Where an element ends and the next begins: lengths that add up, limits to the byte, and what is passed over."""

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import phantoms
import pytest
from enhanced import enhanced_dataset
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from rsna_e2e import dicom
from rsna_e2e.core.reasons import Reason
from rsna_e2e.core.records import Refusal

STORED = phantoms.stored_image(6, 5, seed=1, form=phantoms.SIGNED_16)
UNDEFINED = 0xFFFFFFFF


def item(content: bytes, *, length: int | None = None, order: str = "<") -> bytes:
    """An item; of undefined length, with its delimiter, when `length` says so."""
    end = struct.pack(order + "HHL", 0xFFFE, 0xE00D, 0) if length == UNDEFINED else b""
    return struct.pack(order + "HHL", 0xFFFE, 0xE000, len(content) if length is None else length) + content + end


def sequence(
    content: bytes, *, length: int | None = None, vr: bytes = b"SQ", tag: int = 0x00081199, order: str = "<"
) -> bytes:
    """A sequence; of undefined length, with its delimiter, when `length` says so. vr: empty in implicit VR."""
    end = struct.pack(order + "HHL", 0xFFFE, 0xE0DD, 0) if length == UNDEFINED else b""
    head = struct.pack(order + "HH", tag >> 16, tag & 0xFFFF) + (vr + b"\0\0" if vr else b"")
    return head + struct.pack(order + "L", len(content) if length is None else length) + content + end


def element(tag: int, vr: bytes, value: bytes) -> bytes:
    return struct.pack("<HH", tag >> 16, tag & 0xFFFF) + vr + struct.pack("<H", len(value)) + value


def outcome(path: Path, inserted: bytes, *, syntax: str = ExplicitVRLittleEndian, before: int = 0x00100020) -> object:
    """What becomes of a slice with more bytes before one of its elements: None when it is taken as it was."""
    dataset = phantoms.slice_dataset(STORED)
    if syntax == ExplicitVRBigEndian:
        dataset.PixelData = STORED.byteswap().tobytes()
    raw = phantoms.write_dicom(path / "a.dcm", dataset, syntax=syntax).read_bytes()
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    at = raw.index(struct.pack(order + "HH", before >> 16, before & 0xFFFF), 300)
    (path / "a.dcm").write_bytes(raw[:at] + inserted + raw[at:])
    result = dicom.read_slice(path / "a.dcm")
    if isinstance(result, Refusal):
        return result.reason
    np.testing.assert_array_equal(result[1], STORED)
    assert result[0].patient_id == "ID_patient"
    return None


CODE = element(0x00080100, b"SH", b"abcd")
PATIENT = element(0x00100020, b"LO", b"Another!")  # an element of interest, where it means nothing
FRAGMENTS = item(b"") + item(b"\xff\xd8abcdef")


@pytest.mark.parametrize(
    "inserted",
    [
        sequence(b""),
        sequence(b"", length=UNDEFINED),
        sequence(item(CODE)),
        sequence(item(CODE + PATIENT)),
        sequence(item(CODE, length=UNDEFINED) + item(PATIENT, length=UNDEFINED)),
        sequence(item(CODE, length=UNDEFINED) + item(CODE), length=UNDEFINED),
        sequence(item(PATIENT, length=UNDEFINED), length=UNDEFINED),
        sequence(item(sequence(item(PATIENT), length=UNDEFINED), length=UNDEFINED), length=UNDEFINED),
        sequence(FRAGMENTS, length=UNDEFINED, vr=b"OB"),  # something compressed, an icon for one
        sequence(item(CODE[:4] + struct.pack("<L", 4) + b"abcd", length=UNDEFINED), length=UNDEFINED, vr=b"UN"),
        # of unknown VR is implicit VR, even where a length of 20,300 bytes spells "LO"
        sequence(
            item(CODE[:4] + struct.pack("<L", 20300) + bytes(20300), length=UNDEFINED), length=UNDEFINED, vr=b"UN"
        ),
        # some writers change to implicit VR in sequences
        sequence(item(CODE[:4] + struct.pack("<L", 4) + b"abcd", length=UNDEFINED), length=UNDEFINED),
        element(0x00091001, b"LO", b"anything"),
        sequence(bytes(100_000), vr=b"OB", tag=0x00091001),  # large, and of no interest
    ],
)
def test_what_is_of_no_interest_is_passed_over(tmp_path: Path, inserted: bytes) -> None:
    assert outcome(tmp_path, inserted) is None


def test_sequences_in_implicit_vr_and_in_big_endian(tmp_path: Path) -> None:
    code = struct.pack("<HHL", 0x0008, 0x0100, 4) + b"abcd"
    nested = sequence(item(code, length=UNDEFINED), length=UNDEFINED, vr=b"")
    assert outcome(tmp_path, nested, syntax=ImplicitVRLittleEndian) is None
    code = struct.pack(">HH2sH", 0x0008, 0x0100, b"SH", 4) + b"abcd"
    nested = sequence(item(code, length=UNDEFINED, order=">"), length=UNDEFINED, order=">")
    assert outcome(tmp_path, nested, syntax=ExplicitVRBigEndian) is None
    long = struct.pack(">HH", 0x0009, 0x1001) + b"OB\0\0" + struct.pack(">L", 6) + b"abcdef"
    assert outcome(tmp_path, long, syntax=ExplicitVRBigEndian) is None


@pytest.mark.parametrize(
    "inserted",
    [
        sequence(CODE, length=UNDEFINED),  # no item
        sequence(item(CODE + item(CODE), length=UNDEFINED), length=UNDEFINED),  # an item in an item
        element(0x00000002, b"UI", b"1.2\0"),
        element(0x00020010, b"UI", b"1.2\0"),
        element(0x00091001, b"??", b"abcd"),
        element(0x00091001, b"\0\0", b"abcd"),
        element(0x00080060, b"CS", b"CT"),  # a second Modality
        element(0x00280010, b"US", b"\6\0"),  # Rows, twice
    ],
)
def test_what_has_no_place_is_refused(tmp_path: Path, inserted: bytes) -> None:
    assert outcome(tmp_path, inserted) == Reason.MALFORMED


@pytest.mark.parametrize(("depth", "expected"), [(32, None), (33, Reason.MALFORMED)])
def test_sequences_may_be_32_deep(tmp_path: Path, depth: int, expected: Reason | None) -> None:
    nested = CODE
    for _ in range(depth):
        nested = sequence(item(nested, length=UNDEFINED), length=UNDEFINED)
    assert outcome(tmp_path, nested) == expected


@pytest.mark.parametrize(("n_bytes", "expected"), [(1 << 16, None), ((1 << 16) + 2, Reason.MALFORMED)])
def test_values_of_interest_may_take_64_kib(tmp_path: Path, n_bytes: int, expected: Reason | None) -> None:
    long_text = struct.pack("<HH", 0x0008, 0x0008) + b"UT\0\0" + struct.pack("<L", n_bytes) + b"A" * n_bytes
    assert outcome(tmp_path, long_text) == expected


@pytest.mark.parametrize(("n_more", "expected"), [(-1, Reason.MALFORMED), (0, None), (1, Reason.MALFORMED)])
@pytest.mark.parametrize("what", ["sequence", "item"])
def test_lengths_of_sequences_and_items_add_up(tmp_path: Path, what: str, n_more: int, expected: Reason | None) -> None:
    """In a file whose groups are of interest: those that are passed over need no more than an end."""
    path = phantoms.write_dicom(tmp_path / "a.dcm", enhanced_dataset(STORED[None]))
    raw = bytearray(path.read_bytes())
    at = raw.index(b"\x28\x00\x10\x91SQ\0\0") + {"sequence": 8, "item": 16}[what]  # pixel measures
    length = int.from_bytes(raw[at : at + 4], "little")
    raw[at : at + 4] = struct.pack("<L", length + 2 * n_more)
    path.write_bytes(raw)
    result = dicom.read_slice(path)
    assert (result.reason if isinstance(result, Refusal) else None) == expected


def _shared_as(length: int | None) -> Callable[[bytes], bytes]:
    return lambda content: sequence(item(content, length=length), length=length, tag=0x52009229)


@pytest.mark.parametrize("wrap", [_shared_as(None), _shared_as(UNDEFINED)], ids=["defined", "undefined"])
def test_groups_of_defined_and_undefined_length_say_the_same(tmp_path: Path, wrap: Callable[[bytes], bytes]) -> None:
    path = phantoms.write_dicom(tmp_path / "a.dcm", enhanced_dataset(STORED[None]))
    raw = path.read_bytes()
    begin, end = raw.index(b"\x00\x52\x29\x92SQ"), raw.index(b"\x00\x52\x30\x92SQ")
    path.write_bytes(raw[:begin] + wrap(raw[begin + 20 : end]) + raw[end:])
    result = dicom.read_slice(path)
    assert not isinstance(result, Refusal)
    assert result[0].pixel_spacing_mm == (0.5, 0.5)
    np.testing.assert_array_equal(result[1], STORED)
