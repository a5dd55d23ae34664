"""JPEG 2000 of which the end was lost: told where it can be, and no honest codestream is refused."""

import io
import itertools
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import encoders
import numpy as np
import numpy.typing as npt
import phantoms
import pydicom
import pydicom.data
import pytest
from PIL import Image
from pydicom.encaps import generate_frames
from pydicom.uid import HTJ2K, JPEG2000, HTJ2KLossless, JPEG2000Lossless

from rsna_e2e import dicom
from rsna_e2e.core.reasons import Reason
from rsna_e2e.core.records import Refusal
from rsna_e2e.dicom.elements import RefusedError
from rsna_e2e.dicom.jpeg2000 import check_tiles

FORM = phantoms.UNSIGNED_12
END = b"\xff\xd9"
Stored = npt.NDArray[np.uint16]


def head(side: int) -> Stored:
    """A bright disk in air, with noise."""
    y, x = np.mgrid[:side, :side]
    noise = 8 * np.random.default_rng(0).normal(size=(side, side))
    hu = np.where(np.hypot(x - side / 2, y - side / 2) < 0.4 * side, 1064, 24)
    return (hu + noise).clip(0, 4095).astype("<u2")


def patterns(side: int) -> Iterator[Stored]:
    """Images whose codes are least like noise, and some that are noise."""
    y, x = np.mgrid[:side, :side]
    rng = np.random.default_rng(1)
    for values in (
        *(np.full((side, side), value) for value in (0, 1024, 65535)),
        *(7 * x, x + y, 1000 * (x % 2), 64 * (y // 4 % 2), (x + y) % 2 * 4095, (x // 8 + y // 8) % 2 * 65535),
        *((x == side // 3) & (y == side // 2), (x == side - 1) * 100, (x > side - 3) & (y > side - 3)),
        *(
            rng.random((side, side)) < 0.001,
            rng.integers(0, 65536, (side, side)),
            rng.integers(0, 16, (side, side)) << 12,
        ),
    ):
        yield values.astype("<u2")
    yield head(side)


# Of OpenJPEG, by Pillow
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "lossy": {"irreversible": True, "quality_mode": "rates", "quality_layers": [10]},
    "layers": {"quality_mode": "rates", "quality_layers": [40, 20, 10, 5, 1]},
    "lossy layers": {"irreversible": True, "quality_mode": "dB", "quality_layers": [20, 30, 40, 60]},
    "tiles": {"tile_size": (100, 60), "progression": "PCRL"},
    "one resolution": {"num_resolutions": 1},
    "small blocks": {"codeblock_size": (4, 4)},
    "long blocks": {"codeblock_size": (16, 64), "progression": "CPRL"},
    "precincts": {"precinct_size": (32, 32), "progression": "RPCL", "quality_mode": "rates", "quality_layers": [30, 2]},
}


def encode(stored: Stored, options: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(stored).save(file, "JPEG2000", no_jp2=True, **options)
    return file.getvalue()


def read(path: Path, stored: Stored, frame: bytes, syntax: str = JPEG2000Lossless) -> Refusal | npt.NDArray[np.int16]:
    dataset = phantoms.slice_dataset(stored, **FORM)
    result = dicom.read_slice(encoders.write_frames(path, dataset, [frame + b"\0" * (len(frame) % 2)], syntax))
    return result if isinstance(result, Refusal) else result[1]


@pytest.mark.parametrize("side", [17, 130, pytest.param(512, marks=pytest.mark.slow)])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_no_honest_codestream_is_refused(options: dict[str, Any], side: int) -> None:
    for stored in patterns(side):
        check_tiles(encode(stored, options))
        check_tiles(encode(stored, options).removesuffix(END))


def test_those_of_others_are_not_refused() -> None:
    n_frames = 0
    for path in sorted((Path(pydicom.data.__file__).parent / "test_files").glob("*.dcm")):
        if "embedded-sequence" in path.name:
            continue  # damaged, and claims billions of columns
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = pydicom.dcmread(path, force=True)
        if dataset.get("PixelData") and str(dataset.file_meta.get("TransferSyntaxUID", "")) in (
            JPEG2000,
            JPEG2000Lossless,
        ):
            for frame in generate_frames(dataset.PixelData, number_of_frames=int(dataset.get("NumberOfFrames") or 1)):
                check_tiles(frame)
                n_frames += 1
    assert n_frames >= 5


@pytest.mark.parametrize("has_end", [True, False])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_an_end_of_zeros_is_told(tmp_path: Path, options: dict[str, Any], has_end: bool) -> None:
    stored = head(130)
    frame = encode(stored, options)
    whole = read(tmp_path / "a.dcm", stored, frame)
    assert not isinstance(whole, Refusal)
    end = len(frame) - len(END) if has_end else len(frame)
    most = 4000 if options == OPTIONS["small blocks"] else 800 if options == OPTIONS["precincts"] else 128
    for n in (most, (most + end) // 2, end * 9 // 10):
        lost = frame[: end - n] + bytes(n) + frame[end:]
        result = read(tmp_path / "a.dcm", stored, lost)
        assert isinstance(result, Refusal), n
        assert result.reason in (Reason.TRUNCATED, Reason.DECODER_FAILED)


def test_how_many_zeros_a_tile_may_end_in() -> None:
    """64 x 64 in 6 resolutions, each a packet, and of 9 blocks at most: 6 + 54 / 8 + 16 bytes."""
    frame = encode(head(64), {})
    end = len(frame) - len(END)
    check_tiles(frame[: end - 28] + bytes(28) + END)
    with pytest.raises(RefusedError, match="ends in 29 bytes of zeros"):
        check_tiles(frame[: end - 29] + bytes(29) + END)


def test_what_is_not_told_of_a_lossless_slice_is_one_hu_in_some_hundred_pixels(tmp_path: Path) -> None:
    stored = head(512)
    frame = encode(stored, {})
    end = len(frame) - len(END)
    result = read(tmp_path / "a.dcm", stored, frame[: end - 44] + bytes(44) + END)
    assert not isinstance(result, Refusal)
    off = np.abs(result.astype(int) - (stored.astype(int) - 1024))
    assert 0 < np.count_nonzero(off) < 1000
    assert off.max() == 1
    assert isinstance(read(tmp_path / "a.dcm", stored, frame[: end - 45] + bytes(45) + END), Refusal)


def test_a_tile_that_is_missing(tmp_path: Path) -> None:
    stored = head(130)
    frame = encode(stored, {"tile_size": (65, 65)})
    last = frame.rindex(b"\xff\x90\x00\x0a\x00\x03")
    for cut in (frame[:last] + END, frame[:last] + bytes(len(frame) - last)):
        result = read(tmp_path / "a.dcm", stored, cut)
        assert isinstance(result, Refusal)
        assert (result.reason, result.detail) == (Reason.TRUNCATED, "the JPEG 2000 codestream has 3 of 4 tiles")


@pytest.mark.parametrize("style", [0x01, 0x40])
def test_bits_that_may_be_zeros_say_nothing(style: int) -> None:
    frame = bytearray(encode(head(64), {}))
    frame[-200:-2] = bytes(198)
    with pytest.raises(RefusedError):
        check_tiles(bytes(frame))
    frame[frame.index(b"\xff\x52") + 12] |= style  # of code blocks
    check_tiles(bytes(frame))


@pytest.mark.parametrize(("syntax", "place"), [(HTJ2KLossless, 1), (HTJ2K, 2)])
def test_high_throughput_code_blocks_tell_it_themselves(tmp_path: Path, syntax: str, place: int) -> None:
    stored, *frames, _ = encoders.htj2k("unsigned_12")
    frame = (b"", *frames)[place].rstrip(b"\0")
    assert not isinstance(read(tmp_path / "a.dcm", stored, frame, syntax), Refusal)
    end = len(frame) - len(END)
    for n in (2, 4, 16, 64, 1000, end * 9 // 10):
        assert isinstance(read(tmp_path / "a.dcm", stored, frame[: end - n] + bytes(n) + END, syntax), Refusal)


def test_damage_is_no_other_error() -> None:
    rng = np.random.default_rng(2)
    frames = [encode(head(64), options) for options in OPTIONS.values()]
    for frame, _ in itertools.product(frames, range(100)):
        mutant = np.frombuffer(frame, np.uint8).copy()
        places = rng.integers(45, min(len(frame), 200), 3)  # heads, behind SIZ, which was checked before
        mutant[places] = rng.integers(0, 256, 3)
        try:
            check_tiles(mutant.tobytes())
        except RefusedError:
            continue


@pytest.mark.parametrize("n_markers", [0, 2000], ids=["tile-parts", "markers"])
def test_floods_take_no_time(n_markers: int) -> None:
    frame = encode(head(64), {})
    length = 14 + 4 * n_markers
    start = b"\xff\x90\x00\x0a\x00\x00" + length.to_bytes(4, "big") + b"\x00\x01"
    part = start + b"\xff\x64\x00\x02" * n_markers + b"\xff\x93"
    flood = frame[: frame.index(b"\xff\x90")] + part * ((16 << 20) // len(part))
    begun_s = time.process_time()
    check_tiles(flood)
    assert time.process_time() - begun_s < 1
