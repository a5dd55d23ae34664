"""Scans in every form that JPEG allows pass; others are refused, each with why."""

import os
import subprocess
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from jpeg_frames import (
    AC,
    CODE_OF_AC,
    CODE_OF_DC,
    CODE_OF_DIFFERENCE,
    DC,
    DIFFERENCES,
    SOF0,
    SOF1,
    SOF3,
    blocks,
    frame,
    samples,
    segment,
)

from rsna_e2e.core.reasons import Reason
from rsna_e2e.dicom.elements import RefusedError
from rsna_e2e.dicom.jpeg_scan import check_scan

RNG = np.random.default_rng(3)
ROWS, COLUMNS = 20, 28
BLOCKS, SAMPLES = blocks(3 * 4, RNG), samples(ROWS * COLUMNS, RNG)
N = len(SAMPLES)

SIZE = {"rows": ROWS, "columns": COLUMNS}
dct = partial(frame, BLOCKS, process=SOF1, **SIZE)
lossless = partial(frame, SAMPLES, process=SOF3, precision=16, last=b"\1\0\0", **SIZE)
END = b"\xff\xd9"
COMMENT = segment(0xFE, b"\xff\xd9\xff\xd0")
OTHER_TABLE = segment(0xC4, b"\0" + bytes([0, 2]) + bytes(14) + b"\5\7")


def lines(n: int) -> bytes:
    return segment(0xDC, n.to_bytes(2, "big"))


def interval(n: int) -> bytes:
    return segment(0xDD, n.to_bytes(2, "big"))


FRAME_HEADER = segment(SOF3, bytes([16, 0, ROWS, 0, COLUMNS, 1, 1, 0x11, 0]))


ALLOWED = {
    "twelve bits": dct(precision=12),
    "baseline": dct(process=SOF0),
    "zeros fill the last byte": dct(pad="0"),
    "zeros fill the last byte, lossless": lossless(pad="0"),
    **{f"restart after {n} blocks": dct(interval=n) for n in (1, 5, 11, 12, 13)},
    **{f"restart after {n} samples": lossless(interval=n) for n in (1, 28, 56, N - 1, N, N + 1)},
    "FF before restarts": lossless(interval=28, fill=3),
    "tables 2 and 3": dct(dc=2, ac=3),
    "table 3, lossless": lossless(dc=3),
    "two tables in a segment": dct(tables=segment(0xC4, b"\0" + DC + b"\x10" + AC)),
    "a table that is defined again": lossless(tables=OTHER_TABLE + segment(0xC4, b"\0" + DIFFERENCES)),
    "restarts that are called off": dct(before=interval(5) + interval(0)),
    "sampling factors": dct(sampling=0x22),
    "another name of the component": lossless(component=200),
    "comments, and FF before segments": b"\xff\xd8" + COMMENT + b"\xff\xff" + lossless(before=b"\xff" + COMMENT)[2:],
    "FF before the end": lossless(end=b"\xff\xff\xff\xd9"),
    "padding after the end": lossless(end=END + b"\0\xff\0"),
    "the number of lines again": dct(end=lines(ROWS) + END),
    # These are not allowed, but the image is whole, and decoders read it.
    "zeros before the end": lossless(end=b"\0\0\0" + END),
    "a comment before the end": dct(end=COMMENT + END),
}

ALL = f"{N} of {N} samples or blocks"
HEAD = "tables or headers of the scan are missing or damaged"
WRONG_END = "something else than the end of the image (EOI) follows the scan"
EARLY, OUT_OF_TURN = "decoders make up the rest", "a restart marker out of its turn, or none, after"
REFUSED = {
    "a sample more": (frame([*SAMPLES, "0" * 5 + "1" * 5], process=SOF3, last=b"\1\0\0", **SIZE), f"on after {ALL}"),
    "a block more": (frame([*BLOCKS, BLOCKS[0]], process=SOF1, **SIZE), "on after 12 of 12 samples or blocks"),
    "a byte more": (lossless(end=b"\1" + END), f"on after {ALL}"),
    "FF more": (lossless(end=b"\xff\0" + END), f"on after {ALL}"),
    "a sample less": (
        frame(SAMPLES[:-1], process=SOF3, **SIZE),
        f"ends after {N - 1} of {N} samples or blocks: {EARLY}",
    ),
    "a block less": (frame(BLOCKS[:-1], process=SOF1, **SIZE), f"ends after 11 of 12 samples or blocks: {EARLY}"),
    "an interval less": (
        frame(BLOCKS[:10], process=SOF1, interval=5, **SIZE),
        f"ends after 10 of 12 samples or blocks: {EARLY}",
    ),
    "a second image": (lossless() + lossless(), WRONG_END),
    "no end": (lossless(end=b""), WRONG_END),
    "a restart at the end": (lossless(end=b"\xff\xd0" + END), WRONG_END),
    "other lines": (dct(end=lines(ROWS + 1) + END), WRONG_END),
    "a comment beyond the end": (dct(end=b"\xff\xfe\0\x40" + END), WRONG_END),
    "other restarts": (lossless(interval=28, first_restart=1), f"{OUT_OF_TURN} 28 of {N} "),
    "earlier restarts": (lossless(interval=28, announced=56), f"{OUT_OF_TURN} 28 of {N} "),
    "later restarts": (lossless(interval=56, announced=28), f"{OUT_OF_TURN} 28 of {N} "),
    "restarts unannounced": (dct(interval=5, announced=0), f"{OUT_OF_TURN} 5 of 12 "),
    "no such code": (frame(["11111", *SAMPLES[1:]], process=SOF3, **SIZE), f"no valid code after 0 of {N} "),
    "DC category 16": (
        frame(
            [CODE_OF_DC[15] + "0" * 16 + CODE_OF_AC[0], *BLOCKS[1:]],
            process=SOF1,
            tables=segment(0xC4, b"\0" + DC[:-1] + b"\x10" + b"\x10" + AC),
            **SIZE,
        ),
        "no valid code after 0 of 12 ",
    ),
    "lossless category 17": (
        frame(
            [CODE_OF_DIFFERENCE[16] + "0" * 17, *SAMPLES[1:]],
            process=SOF3,
            tables=segment(0xC4, b"\0" + DIFFERENCES[:-1] + b"\x11"),
            **SIZE,
        ),
        f"no valid code after 0 of {N} ",
    ),
    "a run past the block": (
        frame([CODE_OF_DC[0] + 4 * CODE_OF_AC[0xF0], *BLOCKS[1:]], process=SOF1, **SIZE),
        "no valid code after 0 of 12 ",
    ),
    "another table": (dct(tables=segment(0xC4, b"\1" + DC + b"\x10" + AC)), HEAD),
    "no AC table": (dct(tables=segment(0xC4, b"\0" + DC)), HEAD),
    "table 4": (dct(before=segment(0xC4, b"\4" + DC)), HEAD),
    "a class of tables that is none": (dct(before=segment(0xC4, b"\x20" + DC)), HEAD),
    "two components": (dct().replace(b"\0\x14\0\x1c\1\1", b"\0\x14\0\x1c\2\1"), HEAD),
    "a table beyond its segment": (dct(tables=segment(0xC4, b"\0" + DC[:-1])), HEAD),
    "counts beyond their segment": (dct(tables=segment(0xC4, b"\0" + DC[:9])), HEAD),
    "more codes than there can be": (lossless(tables=segment(0xC4, b"\0" + bytes([3]) + bytes(15) + b"\1\2\3")), HEAD),
    "an interval of three bytes": (dct(before=segment(0xDD, b"\0\0\0")), HEAD),
    "no frame header": (lossless().replace(FRAME_HEADER, b""), HEAD),
    "no scan": (b"\xff\xd8" + COMMENT + END, HEAD),
    "nothing": (b"", HEAD),
}


@pytest.mark.parametrize("name", ALLOWED)
def test_an_allowed_form_passes(name: str) -> None:
    check_scan(ALLOWED[name])


@pytest.mark.parametrize("name", REFUSED)
def test_another_is_refused_with_why(name: str) -> None:
    content, says = REFUSED[name]
    with pytest.raises(RefusedError) as refused:
        check_scan(content)
    assert says in refused.value.detail
    assert refused.value.reason == (Reason.TRUNCATED if EARLY in says else Reason.DECODER_FAILED)


def test_a_flood_of_tables_takes_no_time() -> None:
    """64 MiB of them, which a frame may have."""
    table = b"\0" + bytes([2]) + bytes(15) + b"\0\1"
    flood = segment(0xC4, table * (65_000 // len(table))) * 1_000
    content = lossless(tables=flood + segment(0xC4, b"\0" + DIFFERENCES))
    began_s = time.process_time()
    check_scan(content)
    assert time.process_time() - began_s < 1


@pytest.mark.parametrize("n", [20_000, pytest.param(200_000, marks=pytest.mark.slow)])
def test_no_damage_makes_it_read_elsewhere(tmp_path: Path, n: int) -> None:
    """Built so that it stops at any address that is not its own, and at what C++ leaves undefined."""
    program = tmp_path / "fuzz"
    checks = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    source = Path(__file__).parents[1] / "jpeg_scan_fuzz.cpp"
    compiler = os.environ.get("CXX", "g++")
    subprocess.run([compiler, "-std=c++20", "-O1", *checks, str(source), "-o", str(program)], check=True)
    for i, whole in enumerate(ALLOWED.values()):
        (tmp_path / f"{i}.jpg").write_bytes(whole)
    frames = sorted(map(str, tmp_path.glob("*.jpg")))
    counts = subprocess.run([program, str(n), *frames], check=True, capture_output=True, text=True).stdout
    assert sum(map(int, counts.split())) == n
    assert all(map(int, counts.split()))  # every verdict
