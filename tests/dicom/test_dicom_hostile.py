"""Files made to take time or memory, cut files and files of other kinds: refused soon, for the right reason."""

import io
import json
import struct
import subprocess
import sys
import time
import tracemalloc
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
from hostile_files import BOMBS, DIMENSION_LIES, STORED, deflated
from pydicom.uid import (
    JPEG2000Lossless,
    RLELossless,
)

from rsna_e2e import dicom
from rsna_e2e.core.reasons import Reason
from rsna_e2e.core.records import Refusal
from rsna_e2e.dicom.arrival import Arrival, read_arrival
from rsna_e2e.dicom.elements import RefusedError
from rsna_e2e.dicom.inflate import inflate

PYDICOM_FILES = Path(pydicom.data.__file__).parent / "test_files"
pytestmark = pytest.mark.filterwarnings("ignore:.*:UserWarning")  # pydicom's advice to whoever writes such files

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


def test_of_a_deflated_file_that_arrives_no_more_is_held_than_is_read(tmp_path: Path) -> None:
    path = tmp_path / "bomb.dcm"
    make = next(make for make, _ in BOMBS if make.__name__ == "_deflate_bomb_behind_a_slice")
    make(path)
    tracemalloc.start()
    with path.open("rb") as stream:
        found = read_arrival(stream)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 << 20
    path.write_bytes(deflated(path)[0])
    with path.open("rb") as stream:
        assert found == read_arrival(stream)
    assert isinstance(found, Arrival)


@pytest.mark.parametrize("private_bytes", [0, 3 << 20, 70 << 20])
def test_what_lies_behind_a_long_element_is_found_up_to_a_limit(tmp_path: Path, private_bytes: int) -> None:
    raw = phantoms.write_dicom(tmp_path / "a.dcm", phantoms.slice_dataset(STORED)).read_bytes()
    with (tmp_path / "a.dcm").open("rb") as stream:
        plain = read_arrival(stream)
    meta = deflated(tmp_path / "b.dcm")[0]
    begin, begin_deflated = (144 + int.from_bytes(one[140:144], "little") for one in (raw, meta))
    place = raw.index(b"\x10\x00\x20\x00LO", begin)  # PatientID, after which come the UIDs of study and series
    long = struct.pack("<HH2sHL", 0x0009, 0x1001, b"OB", 0, private_bytes) + bytes(private_bytes)
    squeezer = zlib.compressobj(6, wbits=-15)
    squeezed = squeezer.compress(raw[begin:place] + long + raw[place:]) + squeezer.flush()
    (tmp_path / "b.dcm").write_bytes(meta[:begin_deflated] + squeezed)
    with (tmp_path / "b.dcm").open("rb") as stream:
        found = read_arrival(stream)
    if private_bytes > 64 << 20:
        assert isinstance(found, Refusal)
        assert found.reason == Reason.TOO_LARGE
    else:
        assert found == plain


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
