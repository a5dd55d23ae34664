"""The scan of a JPEG frame: whole, or cut, too long, or of codes that no table has; decoders would say nothing."""

import shutil
from contextlib import suppress
from pathlib import Path

import encoders
import numpy as np
import phantoms
import pydicom
import pytest
from pydicom.encaps import generate_frames
from pydicom.uid import JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1

from rsna_e2e.core.errors import BUILD_COMMAND
from rsna_e2e.core.reasons import Reason
from rsna_e2e.dicom import jpeg_scan
from rsna_e2e.dicom.elements import RefusedError
from rsna_e2e.dicom.jpeg_scan import check_scan

ROWS, COLUMNS = 61, 75
N_BLOCKS, N_BLOCKS_A_ROW = 8 * 10, 10
RNG = np.random.default_rng(3)
NOISE = RNG.integers(0, 256, (ROWS, COLUMNS), dtype=np.uint8)
STORED = phantoms.stored_image(ROWS, COLUMNS, seed=3, form=phantoms.UNSIGNED_12)

DCT = {
    "baseline": encoders.jpeg_baseline(NOISE),
    "coarse": encoders.jpeg_baseline(NOISE, quality=5),  # runs of zeros
    "own tables": encoders.jpeg_baseline(NOISE, optimize=1),
    "restarts": encoders.jpeg_baseline(NOISE, restart_marker_blocks=3),
    "a restart a row": encoders.jpeg_baseline(NOISE, restart_marker_rows=1),
}
LOSSLESS = {f"lossless {p}": encoders.jpeg_lossless(STORED, predictor=p) for p in (1, 4, 7)}
FRAMES = DCT | LOSSLESS


def begin_of_scan(frame: bytes) -> int:
    at = frame.index(b"\xff\xda")
    return at + 2 + int.from_bytes(frame[at + 2 : at + 4], "big")


def with_rows(frame: bytes, rows: int) -> bytes:
    at = max(frame.find(b"\xff\xc0\0\x0b"), frame.find(b"\xff\xc3\0\x0b")) + 5
    assert int.from_bytes(frame[at : at + 2], "big") == ROWS
    return frame[:at] + rows.to_bytes(2, "big") + frame[at + 2 :]


def refusal(frame: bytes) -> tuple[Reason, str]:
    with pytest.raises(RefusedError) as refused:
        check_scan(frame)
    return refused.value.reason, refused.value.detail


@pytest.mark.parametrize("name", FRAMES)
def test_a_whole_scan_passes(name: str) -> None:
    check_scan(FRAMES[name])


@pytest.mark.parametrize("shape", [(1, 1), (8, 8), (9, 7), (17, 64), (3, 300)])
def test_of_any_size(shape: tuple[int, int]) -> None:
    check_scan(encoders.jpeg_baseline(RNG.integers(0, 256, shape, dtype=np.uint8)))
    check_scan(encoders.jpeg_lossless(RNG.integers(0, 65536, shape, dtype=np.uint16), predictor=1))


@pytest.mark.filterwarnings("ignore")  # pydicom's remarks on files that are damaged elsewhere
def test_frames_of_other_writers_pass() -> None:
    """All of one component that pydicom and pydicom-data ship."""
    syntaxes = (JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1)
    folders = [Path(pydicom.__file__).parent, *Path(pydicom.__file__).parents[1].glob("data_store")]
    checked = set()
    for path in (path for folder in folders for path in sorted(folder.rglob("*.dcm"))):
        dataset = pydicom.dcmread(path, force=True, defer_size=64)
        if dataset.get("SamplesPerPixel") == 1 and dataset.file_meta.get("TransferSyntaxUID") in syntaxes:
            for frame in generate_frames(dataset.PixelData, number_of_frames=int(dataset.get("NumberOfFrames", 1))):
                check_scan(frame)
            checked.add(path.name)
    assert checked >= {"JPEG-LL.dcm", "JPEG-lossy.dcm", "JPGExtended.dcm", "JPGLosslessP14SV1_1s_1f_8b.dcm"}


@pytest.mark.parametrize("name", FRAMES)
def test_cut_anywhere_and_given_an_end_again_it_is_refused(name: str) -> None:
    frame = FRAMES[name]
    begin, end = begin_of_scan(frame), len(frame) - 2
    for at in [*range(begin, end, max(1, (end - begin) // 200)), *range(end - 20, end)]:
        reason, detail = refusal(frame[:at] + b"\xff\xd9")
        assert (reason, "decoders make up the rest" in detail) == (Reason.TRUNCATED, True), at


@pytest.mark.parametrize("name", DCT)
def test_a_scan_of_other_rows_than_the_head_says(name: str) -> None:
    if "restart" not in name:
        fewer = N_BLOCKS - N_BLOCKS_A_ROW
        assert refusal(with_rows(DCT[name], ROWS - 8)) == (
            Reason.DECODER_FAILED,
            f"the scan goes on after {fewer} of {fewer} samples or blocks",
        )
    assert refusal(with_rows(DCT[name], ROWS + 8)) == (
        Reason.TRUNCATED,
        f"the scan ends after {N_BLOCKS} of {N_BLOCKS + N_BLOCKS_A_ROW} samples or blocks: decoders make up the rest",
    )
    check_scan(with_rows(DCT[name], ROWS + 3))  # as many blocks


@pytest.mark.parametrize("name", LOSSLESS)
def test_a_lossless_scan_of_one_row_more_or_less(name: str) -> None:
    n, more, fewer = ROWS * COLUMNS, (ROWS + 1) * COLUMNS, (ROWS - 1) * COLUMNS
    reason, detail = refusal(with_rows(LOSSLESS[name], ROWS + 1))
    assert (reason, f"ends after {n:,} of {more:,} samples" in detail) == (Reason.TRUNCATED, True)
    reason, detail = refusal(with_rows(LOSSLESS[name], ROWS - 1))
    assert (reason, f"goes on after {fewer:,} of {fewer:,} samples" in detail) == (Reason.DECODER_FAILED, True)


def test_some_changed_bits_are_noticed_and_none_does_harm() -> None:
    """A changed code is followed by others than before, and seldom by as many."""
    rng = np.random.default_rng(0)
    for name in ("baseline", "lossless 1"):
        begin, n_refused = begin_of_scan(FRAMES[name]), 0
        for _ in range(400):
            frame = bytearray(FRAMES[name])
            frame[rng.integers(begin, len(frame) - 2)] ^= 1 << int(rng.integers(8))
            try:
                check_scan(bytes(frame))
            except RefusedError:
                n_refused += 1
        assert n_refused > 60, name


def test_random_damage_does_no_harm() -> None:
    rng = np.random.default_rng(1)
    for whole in FRAMES.values():
        for _ in range(300):
            frame = bytearray(whole)
            for at in rng.integers(0, [len(frame), 60][int(rng.integers(2))], 4):
                frame[at] = int(rng.choice([0, 0xFF, 0xD0, int(rng.integers(256))]))
            with suppress(RefusedError):
                check_scan(bytes(frame[: int(rng.integers(1, len(frame) + 1))]))


@pytest.mark.parametrize("content", [None, b"no library", "of an earlier version"])
def test_without_the_compiled_check_its_command_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes | str | None
) -> None:
    library = tmp_path / "_jpeg.abi3.so"
    if isinstance(content, bytes):
        library.write_bytes(content)
    elif content:
        shutil.copy(next(Path(np.__file__).parent.glob("_core/_multiarray_umath*.so")), library)
    monkeypatch.setattr(jpeg_scan, "_LIBRARY", library)
    jpeg_scan._checker.cache_clear()
    reason, detail = refusal(FRAMES["baseline"])
    assert (reason, BUILD_COMMAND in detail) == (Reason.MISSING_DECODER, True)
