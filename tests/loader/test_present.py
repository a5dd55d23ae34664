"""What a radiograph looks like is the same in every way that DICOM has of storing it, and what pydicom makes of it."""

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import phantoms
import pydicom
import pytest
import radiographs
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.pixels import apply_modality_lut, apply_voi_lut

from rsna_e2e import dicom
from rsna_e2e.config import AugmentConfig
from rsna_e2e.core.records import Presentation, Refusal, VoiLut
from rsna_e2e.loader.geometry import series_generator
from rsna_e2e.loader.present import (
    STILL,
    WHITE,
    Jitter,
    draw_jitter,
    present,
    presentation_table,
)

ROUNDED = 0.5 / WHITE + 1e-9  # shares of white are rounded to 15 bits
LUTS: dict[str, VoiLut] = {}


def image(bits: int, **columns: object) -> Presentation:
    """How an image is shown; `columns` are other than those of a file that says nothing."""
    plain = {"value_offset": 0, "pixel_representation": 0, "slope": 1.0, "intercept": 0.0, "photometric": "MONOCHROME2"}
    return Presentation(**{"bits_stored": bits, **plain, **columns})  # type: ignore[arg-type]


def windowed(bits: int, function: str, center: float, width: float, **columns: object) -> Presentation:
    return image(bits, voi_function=function, window_center=center, window_width=width, **columns)


def with_lut(bits: int, entries: np.ndarray, *, first: int = 0, n_bits: int = 16, **columns: object) -> Presentation:
    lut = VoiLut(first, n_bits, entries.astype(np.uint16))
    LUTS[lut.sha256] = lut
    return image(bits, voi_function="LUT", voi_lut=lut.sha256, **columns)


EIGHT = image(8, low_grey=3, high_grey=90)


def shown(presentation: Presentation, grey: np.ndarray) -> np.ndarray:
    """Shares of white of greys."""
    stored = (np.asarray(grey) - presentation.value_offset).astype(np.int16)
    return presentation_table(presentation, LUTS)[stored.view(np.uint16)] / WHITE


@pytest.mark.parametrize(
    ("function", "center", "width", "expected"),
    [  # greys that become these shares, by the formulas and notes of PS3.3 C.11.2.1.2 and C.11.2.1.3
        ("LINEAR", 2048, 4096, {0: 0, 4095: 1, 1365: 1 / 3}),
        ("LINEAR", 0, 100, {-51: 0, -50: 0, 49: 1, 50: 1, -17: 33 / 99}),
        ("LINEAR", 2048, 1, {2047: 0, 2048: 1}),
        ("LINEAR_EXACT", 2048, 4096, {0: 0, 4096: 1, 1024: 0.25}),
        ("LINEAR_EXACT", 0, 100, {-50: 0, 50: 1, -25: 0.25}),
        ("SIGMOID", 100, 40, {100: 0.5, 110: 1 / (1 + np.exp(-1)), -32768: 0}),
    ],
)
def test_windows_are_those_of_the_standard(
    function: str, center: float, width: float, expected: dict[int, float]
) -> None:
    shares = np.array(list(expected.values()))
    as_is = windowed(16, function, center, width, pixel_representation=1)
    np.testing.assert_allclose(shown(as_is, np.array(list(expected))), shares, rtol=0, atol=ROUNDED)
    inverse = replace(as_is, photometric="MONOCHROME1")
    np.testing.assert_allclose(shown(inverse, np.array(list(expected))), 1 - shares, rtol=0, atol=ROUNDED)


def test_a_lut_goes_on_as_it_ends() -> None:
    presentation = with_lut(8, np.array([0, 1023, 511]), first=10, n_bits=10)
    shares = [0, 0, 1, 511 / 1023, 511 / 1023]
    np.testing.assert_allclose(shown(presentation, np.array([0, 10, 11, 12, 255])), shares, atol=ROUNDED)


def test_without_a_window_all_of_8_bits_is_shown_and_the_percentiles_of_more() -> None:
    np.testing.assert_allclose(shown(EIGHT, np.array([0, 51, 255])), [0, 0.2, 1], atol=ROUNDED)
    signed = replace(EIGHT, pixel_representation=1)  # by which alone it is told: no grey below 0 occurs
    np.testing.assert_allclose(shown(signed, np.array([-128, -77, 127])), [0, 0.2, 1], atol=ROUNDED)
    more = replace(EIGHT, bits_stored=12, low_grey=100, high_grey=1100)
    np.testing.assert_allclose(shown(more, np.array([0, 100, 350, 1100, 4095])), [0, 0, 0.25, 1, 1], atol=ROUNDED)
    rescaled = replace(more, slope=-0.5, intercept=700.0)  # from 150 to 650, the lowest grey being the highest
    np.testing.assert_allclose(shown(rescaled, np.array([0, 100, 350, 1100])), [1, 1, 0.75, 0], atol=ROUNDED)
    flat = replace(more, high_grey=100)
    assert shown(flat, np.array([99, 100, 101])) == pytest.approx([0, 0.5, 1], abs=ROUNDED)


def test_windows_and_luts_are_of_rescaled_grey() -> None:
    rescale = {"slope": 0.25, "intercept": -10.0}
    presentation = windowed(12, "LINEAR_EXACT", 40, 100, **rescale)  # from -10 to 90: grey of 0 to 400
    np.testing.assert_allclose(shown(presentation, np.array([0, 100, 400])), [0, 0.25, 1], atol=ROUNDED)
    presentation = with_lut(12, np.array([0, 2, 4]), first=-10, n_bits=3, **rescale)
    np.testing.assert_allclose(shown(presentation, np.array([0, 4, 8, 400])), [0, 2 / 7, 4 / 7, 4 / 7], atol=ROUNDED)


def test_padding_is_black_however_it_is_stored() -> None:
    inverted = replace(EIGHT, photometric="MONOCHROME1", padding_low=0.0, padding_high=1.0)
    assert shown(inverted, np.array([0, 1, 255])).tolist() == [0, 0, 0]
    np.testing.assert_allclose(shown(inverted, np.array([2, 51])), [253 / 255, 0.8], atol=ROUNDED)
    assert presentation_table(inverted, {}, Jitter(brightness=0.5))[:2].tolist() == [0, 0]


def _shown_file(path: Path) -> np.ndarray:
    """What is shown of a DICOM file."""
    found = dicom.read_slice(path, "xr")
    assert not isinstance(found, Refusal), found
    record, values = found
    known = {one.name: getattr(record, one.name, getattr(record.xray, one.name, None)) for one in fields(Presentation)}
    present(values.reshape(-1), presentation_table(Presentation(**known)))  # type: ignore[arg-type]
    return values


# Bits stored, PixelRepresentation, PixelPaddingValue and limit, and a word of padding
PADDING = {
    "in the range": (12, 0, 4095, 4095, 4095),
    "negative, of values without sign": (12, 0, 63536, 63536, 63536),
    "a range above the bits stored": (12, 0, 61440, 65535, 63536),
    "below the bits stored": (12, 1, -2000 - 4096, -2000 - 4096, 59440),
    "of signed values, in all bits": (12, 1, -2000, -2000, 63536),
    "of signed values, in the bits stored": (12, 1, -2000, -2000, 2096),
    "above 15 bits": (15, 0, 32768, 65535, 40000),
    "one byte": (7, 0, 255, 255, 255),
}


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(("bits", "sign", "value", "limit", "word"), PADDING.values(), ids=PADDING)
def test_padding_of_files_is_black_and_nothing_else_is(
    bits: int, sign: int, value: int, limit: int, word: int, photometric: str, tmp_path: Path
) -> None:
    words = np.full((8, 8), word, np.uint8 if bits == 7 else np.uint16)
    words[:, 4:] = word & ((1 << bits) - 1)  # would be the same without the bits above
    words[:, 5:] = np.arange(40, 64).reshape(8, 3)
    tags = {"PixelRepresentation": sign, "WindowCenter": 0, "WindowWidth": 1e6}
    file = radiographs.dataset(words, bits, PhotometricInterpretation=photometric, **tags)
    for name, number in (("PixelPaddingValue", value), ("PixelPaddingRangeLimit", limit)):
        file.add_new(name, "SS" if sign else "US", number)
    shown = _shown_file(phantoms.write_dicom(tmp_path / "a.dcm", file))
    is_black = np.zeros((8, 8), bool)
    is_black[:, :4] = True
    of_bits = word & ((1 << bits) - 1)  # of 4: is padding itself where the file's range has it
    stored = of_bits - (1 << bits) if sign and of_bits >> (bits - 1) else of_bits
    is_black[:, 4] = value <= stored <= limit
    np.testing.assert_array_equal(shown == 0, is_black)


REAL = ["RG1_UNCR.dcm", "RG3_UNCR.dcm", *(pytest.param(f"RG{n}_J2KR.dcm", marks=pytest.mark.slow) for n in (1, 3))]


@pytest.mark.parametrize("name", REAL)
def test_a_real_radiograph_is_shown_as_pydicom_shows_it_and_bones_are_white(name: str) -> None:
    """A chest of 15 bits, and an extremity of 10, both MONOCHROME1: by pydicom-data."""
    path = Path(str(get_testdata_file(name)))
    shown, file = _shown_file(path) / WHITE, pydicom.dcmread(path)
    values = np.asarray(apply_voi_lut(apply_modality_lut(file.pixel_array, file), file), dtype=np.float64)
    np.testing.assert_allclose(shown, 1 - values / ((1 << file.BitsStored) - 1), rtol=0, atol=ROUNDED)
    if name.startswith("RG1"):
        rows, columns = shown.shape
        left, spine, right = (
            np.median(shown[int(0.3 * rows) : int(0.5 * rows), int(x * columns) : int((x + 0.08) * columns)])
            for x in (0.25, 0.46, 0.67)
        )
        beside_the_neck = np.median(shown[:100, [*range(100), *range(-100, 0)]])
        assert spine > 1.3 * max(left, right)
        assert min(left, right) > 1.3 * beside_the_neck


def _random_form(rng: np.random.Generator) -> tuple[Dataset, np.ndarray]:
    """A random file's header, and the greys that its pixels may have."""
    dataset = Dataset()
    dataset.BitsStored = int(rng.choice([8, 10, 12, 14, 15, 16]))
    dataset.PixelRepresentation = int(rng.integers(2))
    dataset.PhotometricInterpretation = str(rng.choice(["MONOCHROME1", "MONOCHROME2"]))
    low = -(1 << dataset.BitsStored - 1) if dataset.PixelRepresentation else 0
    span = 1 << dataset.BitsStored
    grey = np.arange(low, low + span)
    if rng.random() < 0.4:
        bits = int(rng.choice([8, 10, 12, 14, 16]))
        first = int(rng.integers(low, low + span - 3))
        n = int(rng.integers(2, 257 if bits == 8 else 65536 - first))
        item = Dataset()
        item.LUTDescriptor = [n, first, bits]
        item.add_new("LUTData", "US", rng.integers(0, 1 << bits, size=n).tolist())
        dataset.VOILUTSequence = [item]
        if bits == 8:  # beyond, pydicom counts modulo 256
            grey = grey[grey < first + 256]
    else:
        dataset.WindowCenter = float(rng.uniform(low - 100, low + span + 100))
        dataset.WindowWidth = float(rng.choice([1, 1.5, rng.uniform(2, 2 * span)]))
        if (function := str(rng.choice(["", "LINEAR", "LINEAR_EXACT", "SIGMOID"]))) != "":
            dataset.VOILUTFunction = function
    return dataset, grey


def _image(dataset: Dataset) -> Presentation:
    form = {
        "value_offset": 32768 if dataset.BitsStored == 16 and not dataset.PixelRepresentation else 0,
        "photometric": dataset.PhotometricInterpretation,
        "pixel_representation": dataset.PixelRepresentation,
    }
    bits = dataset.BitsStored
    if "VOILUTSequence" in dataset:
        _, first, n_bits = dataset.VOILUTSequence[0].LUTDescriptor
        return with_lut(bits, np.array(dataset.VOILUTSequence[0].LUTData), first=first, n_bits=n_bits, **form)
    return windowed(bits, dataset.get("VOILUTFunction", "LINEAR"), dataset.WindowCenter, dataset.WindowWidth, **form)


@pytest.mark.parametrize("seed", range(60))
def test_tables_are_what_pydicom_makes_of_files(seed: int) -> None:
    dataset, grey = _random_form(np.random.default_rng(seed))
    with np.errstate(over="ignore"):  # of exp
        values = np.asarray(apply_voi_lut(grey, dataset), dtype=np.float64)
    if "VOILUTSequence" in dataset:
        expected = values / (2 ** dataset.VOILUTSequence[0].LUTDescriptor[2] - 1)
    else:  # between the ends of the bits stored
        low = -(1 << dataset.BitsStored - 1) if dataset.PixelRepresentation else 0
        expected = (values - low) / ((1 << dataset.BitsStored) - 1)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        expected = 1 - expected
    np.testing.assert_allclose(shown(_image(dataset), grey), expected, rtol=0, atol=ROUNDED)


def _radiograph() -> np.ndarray:
    """Shares of white: all greys, and as much black and white as a collimator and a marker make of a radiograph."""
    rng = np.random.default_rng(1)
    ends = np.repeat([0.0, 1.0], 200)
    return np.concatenate([rng.random(20_000), np.linspace(0, 1, 5_000), ends])


CURVE = np.linspace(0, 1, 4096) ** 1.5  # of a LUT
# Name: how it is shown, what becomes of shares of white, and the largest grey step as a share
SPELLINGS: dict[str, tuple[Presentation, Callable[[np.ndarray], np.ndarray], float]] = {
    "8 bits": (image(8), lambda y: 255 * y, 1 / 255),
    "8 bits, inverted": (image(8, photometric="MONOCHROME1"), lambda y: 255 * (1 - y), 1 / 255),
    "10 bits, no window": (image(10, low_grey=40, high_grey=1000), lambda y: 40 + 960 * y, 1 / 960),
    "12 bits, LINEAR": (windowed(12, "LINEAR", 2048, 4096), lambda y: 4095 * y, 1 / 4095),
    "12 bits, LINEAR_EXACT": (windowed(12, "LINEAR_EXACT", 2000, 2000), lambda y: 1000 + 2000 * y, 1 / 2000),
    "12 bits, SIGMOID": (
        windowed(12, "SIGMOID", 2048, 1000),
        lambda y: np.clip(
            2048 - 250 * np.log(np.divide(1, y, out=np.full_like(y, 1e9), where=y > 0) - 1 + 1e-9), 0, 4095
        ),
        1 / 1000,
    ),
    "12 bits, signed": (
        windowed(12, "LINEAR", 0, 4096, pixel_representation=1),
        lambda y: 4095 * y - 2048,
        1 / 4095,
    ),
    "12 bits, LUT": (
        with_lut(12, np.rint(65535 * CURVE)),
        lambda y: 4095 * y ** (1 / 1.5),
        np.diff(CURVE).max() + 1 / 65535,  # and that of the LUT's entries
    ),
    "12 bits, inverted LUT of 10": (
        with_lut(12, np.arange(1024), first=7, n_bits=10, photometric="MONOCHROME1"),
        lambda y: 7 + 1023 * (1 - y),
        1 / 1023,
    ),
    "14 bits, inverted": (
        windowed(14, "LINEAR", 8192, 16384, photometric="MONOCHROME1"),
        lambda y: 16383 * (1 - y),
        1 / 16383,
    ),
    "15 bits, inverted": (
        windowed(15, "LINEAR", 15000, 30000, photometric="MONOCHROME1"),
        lambda y: 29999 * (1 - y),
        1 / 29999,
    ),
    "16 bits": (windowed(16, "LINEAR", 32768, 65536, value_offset=32768), lambda y: 65535 * y, 1 / 65535),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_a_radiograph_is_the_same_in_every_spelling(name: str) -> None:
    presentation, spelled, step = SPELLINGS[name]
    shares = _radiograph()
    grey = np.rint(spelled(shares)).astype(np.int64)
    stored = (grey - presentation.value_offset).astype(np.int16)
    present(stored, presentation_table(presentation, LUTS))
    np.testing.assert_allclose(stored / WHITE, shares, rtol=0, atol=step / 2 + ROUNDED)


def test_values_are_presented_in_place() -> None:
    rng = np.random.default_rng(0)
    table = rng.integers(0, 32768, size=65536).astype(np.int16)
    before = rng.integers(-32768, 32768, size=3 * 65536 + 17).astype(np.int16)
    values = before.copy()
    present(values[5:], table)
    assert np.array_equal(values[:5], before[:5])
    assert values[5:].tolist() == [table[value % 65536] for value in before[5:].tolist()]


def test_images_shown_alike_share_a_table() -> None:
    assert presentation_table(EIGHT) is presentation_table(replace(EIGHT, low_grey=7, high_grey=9))
    assert presentation_table(EIGHT) is not presentation_table(replace(EIGHT, photometric="MONOCHROME1"))


def test_jitter_changes_shares_of_white() -> None:
    shares = np.array([0.0, 0.25, 0.5, 1.0])
    assert Jitter(brightness=0.1).of(shares) == pytest.approx([0.1, 0.35, 0.6, 1])
    assert Jitter(contrast=0.5).of(shares) == pytest.approx([0.25, 0.375, 0.5, 0.75])
    assert Jitter(gamma=2).of(shares) == pytest.approx([0, 0.0625, 0.25, 1])
    assert Jitter(-0.1, 2.0, 2.0).of(shares) == pytest.approx([0, 0, 0, 1])
    inverted = replace(EIGHT, photometric="MONOCHROME1")  # of white, not of what is stored
    assert presentation_table(inverted, {}, Jitter(gamma=2))[204] / WHITE == pytest.approx(0.04, abs=ROUNDED)


def test_jitter_is_drawn_within_its_limits() -> None:
    config = AugmentConfig(brightness_limit=0.1, contrast_limit=0.2, gamma_limit=0.5)
    drawn = np.array([draw_jitter(series_generator(1, 1, str(key)), config) for key in range(2000)])
    for values, ends in zip(drawn.T, [(-0.1, 0.1), (0.8, 1.2), (1 / 1.5, 1.5)], strict=True):
        assert (values.min(), values.max()) == pytest.approx(ends, rel=0.01)
    assert np.mean(drawn[:, 2] < 1) == pytest.approx(0.5, abs=0.05)  # as often brighter as darker
    assert draw_jitter(series_generator(1, 1, "key"), AugmentConfig()) == STILL
