"""Radiographs as PNG and JPEG files: exact values, and what is cut, too large, coloured or unusual."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from radiographs import chest, write_image

from rsna_e2e import dicom
from rsna_e2e.core.limits import XRAY_SIDES_PX
from rsna_e2e.core.reasons import Reason
from rsna_e2e.core.records import Int16Image, Refusal, SliceRecord

GREY = chest()
GREY8 = (GREY >> 4).astype(np.uint8)
RGB = np.repeat(GREY8[..., None], 3, axis=2)
RGBA = np.dstack([RGB, np.full_like(GREY8, 255)])


def read(path: Path) -> tuple[SliceRecord, Int16Image]:
    result = dicom.read_slice(path, "xr")
    assert not isinstance(result, Refusal), result
    return result


def why_not(path: Path) -> tuple[str, str]:
    result = dicom.read_slice(path, "xr")
    assert isinstance(result, Refusal)
    return result.reason, result.detail


def test_png_of_16_bits(tmp_path: Path) -> None:
    record, values = read(write_image(tmp_path / "covid" / "1.png", GREY << 4))
    assert record.xray is not None
    np.testing.assert_array_equal(values.astype(np.int64) + record.xray.value_offset, GREY.astype(np.int64) << 4)
    assert (record.bits_stored, record.xray.value_offset, record.xray.photometric) == (16, 32768, "MONOCHROME2")
    assert (record.image_id, record.patient_id, record.repair) == ("1", "1", "patient_by_study")
    assert record.sop_uid == str(tmp_path / "covid" / "1.png")
    assert record.decoder.startswith("pillow")


SAME: dict[str, tuple[str, Any, dict[str, Any], str]] = {
    "8 bits": ("a.png", GREY8, {}, ""),
    "equal channels": ("a.png", RGB, {}, "equal_channels"),
    "opaque": ("a.png", RGBA, {}, "equal_channels"),
    "grey and opaque": ("a.png", np.dstack([GREY8, np.full_like(GREY8, 255)]), {}, ""),
    "suffix of another": ("a.jpg", GREY8, {"format": "PNG"}, ""),
    "no suffix": ("a", GREY8, {"format": "PNG"}, ""),
}


@pytest.mark.parametrize(("name", "samples", "options", "repair"), SAME.values(), ids=SAME)
def test_png_of_8_bits(tmp_path: Path, name: str, samples: Any, options: dict[str, Any], repair: str) -> None:
    record, values = read(write_image(tmp_path / name, samples, **options))
    np.testing.assert_array_equal(values, GREY8)
    assert record.repair == "+".join(filter(None, ["patient_by_study", repair]))
    assert record.xray is not None
    expected = np.percentile(GREY8, [0.5, 99.5], method="inverted_cdf")
    assert [record.xray.low_grey, record.xray.high_grey] == expected.tolist()


def test_a_palette_of_greys(tmp_path: Path) -> None:
    image = Image.fromarray(GREY8).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    image.save(tmp_path / "a.png")
    record, values = read(tmp_path / "a.png")
    np.testing.assert_array_equal(values, np.asarray(image.convert("RGB"))[..., 0])
    assert record.repair == "patient_by_study+equal_channels"


@pytest.mark.parametrize("options", [{}, {"progressive": True}], ids=["sequential", "progressive"])
@pytest.mark.parametrize("samples", [GREY8, RGB], ids=["grey", "equal channels"])
def test_jpeg(tmp_path: Path, samples: Any, options: dict[str, Any]) -> None:
    path = write_image(tmp_path / "a.jpeg", samples, quality=95, **options)
    expected = np.asarray(Image.open(path))
    np.testing.assert_array_equal(read(path)[1], expected if expected.ndim == 2 else expected[..., 0])
    assert read(path)[0].image_id == "a"


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_exif_orientation_is_counted_and_not_applied(tmp_path: Path, name: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    plain = read(write_image(tmp_path / "plain" / name, GREY8))[1]
    record, values = read(write_image(tmp_path / name, GREY8, exif=exif))
    np.testing.assert_array_equal(values, plain)
    assert record.repair == "patient_by_study+exif_orientation"


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">L", len(content)) + name + content + struct.pack(">L", zlib.crc32(name + content))


def _png(*chunks: tuple[bytes, bytes]) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*chunk) for chunk in chunks)


def _ihdr(columns: int, rows: int, depth: int = 8, colour_type: int = 0) -> tuple[bytes, bytes]:
    return b"IHDR", struct.pack(">LLBBBBB", columns, rows, depth, colour_type, 0, 0, 0)


def _saved(samples: Any, form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(samples).save(file, form, **options)
    return file.getvalue()


PNG, JPEG = _saved(GREY8, "PNG"), _saved(GREY8, "JPEG")
PIXELS = (b"IDAT", zlib.compress(b"\0" * 9 * 8))
END = (b"IEND", b"")
MOST = XRAY_SIDES_PX[1]


def _animated() -> bytes:
    file = io.BytesIO()
    frames = [Image.fromarray(GREY8), Image.fromarray(255 - GREY8)]
    frames[0].save(file, "PNG", save_all=True, append_images=frames[1:])
    return file.getvalue()


def _coloured() -> Any:
    samples = RGB.copy()
    samples[3, 4, 1] ^= 1
    return samples


def _damaged(file: bytes, at: int) -> bytes:
    return file[:at] + bytes([file[at] ^ 1]) + file[at + 1 :]


REFUSED: dict[str, tuple[bytes, Reason]] = {
    "colour by one step in one pixel": (_saved(_coloured(), "PNG"), Reason.COLOUR),
    "colour in JPEG": (_saved(np.dstack([GREY8, 255 - GREY8, GREY8]), "JPEG"), Reason.COLOUR),
    "an empty file": (b"", Reason.NOT_DICOM),
    "transparent": (_saved(np.dstack([RGB, GREY8]), "PNG"), Reason.UNSUPPORTED_PIXEL_FORMAT),
    "one grey transparent": (_saved(GREY8, "PNG", transparency=7), Reason.UNSUPPORTED_PIXEL_FORMAT),
    "a cut PNG": (PNG[:-20], Reason.TRUNCATED),
    "a PNG without an end": (PNG[:-12], Reason.TRUNCATED),
    "a head of a PNG": (PNG[:20], Reason.TRUNCATED),
    "a damaged pixel chunk": (_damaged(PNG, len(PNG) - 40), Reason.DECODER_FAILED),
    "another checksum": (_damaged(PNG, len(PNG) - 13), Reason.DECODER_FAILED),
    "pixels without their checksum": (_png(_ihdr(8, 8), (b"IDAT", PIXELS[1][:-2]), END), Reason.TRUNCATED),
    "a cut JPEG of equal channels": (_saved(RGB, "JPEG")[:-40], Reason.TRUNCATED),
    "a cut JPEG": (JPEG[:-40], Reason.TRUNCATED),
    "a cut JPEG with an end": (JPEG[:-200] + b"\xff\xd9", Reason.TRUNCATED),
    "a head of a JPEG": (JPEG[:30], Reason.DECODER_FAILED),
    "a wide PNG": (_png(_ihdr(MOST + 1, 2), PIXELS, END), Reason.BAD_VALUE),
    "a bomb": (_png(_ihdr(1 << 30, 1 << 30), PIXELS, END), Reason.BAD_VALUE),
    "one pixel": (_png(_ihdr(1, 1), PIXELS, END), Reason.BAD_VALUE),
    "a second size": (_png(_ihdr(8, 8), _ihdr(1 << 14, 1 << 14), PIXELS, END), Reason.MALFORMED),
    "no header": (_png(PIXELS, END), Reason.MALFORMED),
    "too few pixels": (_png(_ihdr(8, 9), (b"IDAT", zlib.compress(b"\0" * 9)), END), Reason.TRUNCATED),
    "bits": (_png(_ihdr(8, 8, 1), PIXELS, END), Reason.UNSUPPORTED_PIXEL_FORMAT),
    "16 bits of colour": (_png(_ihdr(8, 8, 16, 2), PIXELS, END), Reason.UNSUPPORTED_PIXEL_FORMAT),
    "animated": (_animated(), Reason.MULTI_FRAME),
    "another format": (_saved(GREY8, "TIFF"), Reason.NOT_DICOM),
}


@pytest.mark.parametrize(("content", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused(tmp_path: Path, content: bytes, reason: Reason) -> None:
    (tmp_path / "a.png").write_bytes(content)
    assert why_not(tmp_path / "a.png")[0] == reason


def test_jpeg_of_four_inks_is_refused(tmp_path: Path) -> None:
    Image.fromarray(RGB).convert("CMYK").save(tmp_path / "a.jpg")
    assert why_not(tmp_path / "a.jpg") == (Reason.COLOUR, "JPEG of 4 components")


@pytest.mark.parametrize("cut", range(8, len(PNG), 61))
def test_no_cut_png_is_taken(tmp_path: Path, cut: int) -> None:
    (tmp_path / "a.png").write_bytes(PNG[:cut])
    assert why_not(tmp_path / "a.png")[0] in (Reason.TRUNCATED, Reason.DECODER_FAILED)


@pytest.mark.parametrize("cut", range(4, len(JPEG), 37))
def test_no_cut_jpeg_is_taken(tmp_path: Path, cut: int) -> None:
    (tmp_path / "a.png").write_bytes(JPEG[:cut])
    assert why_not(tmp_path / "a.png")[0] in (Reason.TRUNCATED, Reason.DECODER_FAILED)


def test_an_interlaced_png(tmp_path: Path) -> None:
    """Made by hand, as Pillow writes none: 3 x 2 px are passes 1 (one), 4 (one), 6 (one) and 7 (three)."""
    passes = b"".join(b"\0" + bytes(row) for row in ([10], [30], [20], [40, 50, 60]))
    header = (b"IHDR", struct.pack(">LLBBBBB", 3, 2, 8, 0, 0, 0, 1))
    (tmp_path / "a.png").write_bytes(_png(header, (b"IDAT", zlib.compress(passes)), END))
    np.testing.assert_array_equal(read(tmp_path / "a.png")[1], [[10, 20, 30], [40, 50, 60]])
    (tmp_path / "a.png").write_bytes(_png(header, (b"IDAT", zlib.compress(passes[:-1])), END))
    assert why_not(tmp_path / "a.png")[0] == Reason.TRUNCATED


def test_a_file_that_is_too_long_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "a.png").open("wb") as file:
        file.write(PNG)
        file.truncate((128 << 20) + 1)
    assert why_not(tmp_path / "a.png")[0] == Reason.TOO_LARGE


def test_pixels_behind_the_end_of_a_png_do_no_harm(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNG + b"more")
    np.testing.assert_array_equal(read(tmp_path / "a.png")[1], GREY8)


def test_png_is_no_ct(tmp_path: Path) -> None:
    result = dicom.read_slice(write_image(tmp_path / "a.png", GREY8))
    assert isinstance(result, Refusal)
    assert result.reason == Reason.NOT_DICOM
