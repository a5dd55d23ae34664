"""What a radiograph looks like is the same in every way that DICOM has of storing it, and what pydicom makes of it."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.pixels import apply_voi_lut

from rsna_e2e.config import AugmentConfig
from rsna_e2e.loader.geometry import series_generator
from rsna_e2e.loader.present import (
    STILL,
    WHITE,
    Jitter,
    Presentation,
    VoiLut,
    draw_jitter,
    present,
    presentation_of,
    presentation_table,
)

ROUNDED = 0.5 / WHITE + 1e-9  # shares of white are rounded to 15 bits
EIGHT = Presentation(bits_stored=8, low_grey=3, high_grey=90)


def voi_lut(values: np.ndarray, *, first: int = 0, bits: int = 16) -> VoiLut:
    return VoiLut(first, bits, values.astype("<u2").tobytes())


def shown(image: Presentation, grey: np.ndarray) -> np.ndarray:
    """Shares of white of greys."""
    stored = (np.asarray(grey) - image.value_offset).astype(np.int16)
    return presentation_table(image)[stored.view(np.uint16)] / WHITE


@pytest.mark.parametrize(
    ("function", "center", "width", "expected"),
    [  # greys that become these shares, by the formulas and notes of PS3.3 C.11.2.1.2 and C.11.2.1.3
        ("LINEAR", 2048, 4096, {0: 0, 4095: 1, 1365: 1 / 3}),
        ("LINEAR", 0, 100, {-51: 0, -50: 0, 49: 1, 50: 1, -17: 33 / 99}),
        ("LINEAR", 2048, 1, {2047: 0, 2048: 1}),
        ("LINEAR_EXACT", 2048, 4096, {0: 0, 4096: 1, 1024: 0.25}),
        ("LINEAR_EXACT", 0, 100, {-50: 0, 50: 1, -25: 0.25}),
        ("SIGMOID", 100, 40, {100: 0.5, 110: 1 / (1 + np.exp(-1)), -32768: 0}),
        ("", 2048, 4096, {0: 0, 4095: 1}),  # LINEAR, where the file names none
    ],
)
def test_windows_are_those_of_the_standard(
    function: str, center: float, width: float, expected: dict[int, float]
) -> None:
    window = {"voi_function": function, "window_center": center, "window_width": width}
    image = replace(EIGHT, bits_stored=16, **window)
    shares = np.array(list(expected.values()))
    np.testing.assert_allclose(shown(image, np.array(list(expected))), shares, rtol=0, atol=ROUNDED)
    inverse = replace(image, photometric="MONOCHROME1")
    np.testing.assert_allclose(shown(inverse, np.array(list(expected))), 1 - shares, rtol=0, atol=ROUNDED)


def test_a_lut_goes_on_as_it_ends() -> None:
    image = replace(EIGHT, voi_function="LUT", voi_lut=voi_lut(np.array([0, 1023, 511]), first=10, bits=10))
    np.testing.assert_allclose(
        shown(image, np.array([0, 10, 11, 12, 255])), [0, 0, 1, 511 / 1023, 511 / 1023], atol=ROUNDED
    )


def test_without_a_window_all_of_8_bits_is_shown_and_the_percentiles_of_more() -> None:
    np.testing.assert_allclose(shown(EIGHT, np.array([0, 51, 255])), [0, 0.2, 1], atol=ROUNDED)
    signed = replace(EIGHT, pixel_representation=1)
    np.testing.assert_allclose(shown(signed, np.array([-128, -77, 127])), [0, 0.2, 1], atol=ROUNDED)
    more = replace(EIGHT, bits_stored=12, low_grey=100, high_grey=1100)
    np.testing.assert_allclose(shown(more, np.array([0, 100, 350, 1100, 4095])), [0, 0, 0.25, 1, 1], atol=ROUNDED)
    flat = replace(more, high_grey=100)
    assert set(presentation_table(flat).tolist()) <= {0, WHITE // 2 + 1, WHITE}


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
    items = dataset.get("VOILUTSequence")
    return Presentation(
        value_offset=32768 if dataset.BitsStored == 16 and not dataset.PixelRepresentation else 0,
        photometric=dataset.PhotometricInterpretation,
        voi_function="LUT" if items else dataset.get("VOILUTFunction", ""),
        voi_lut=voi_lut(np.array(items[0].LUTData), first=items[0].LUTDescriptor[1], bits=items[0].LUTDescriptor[2])
        if items
        else None,
        window_center=dataset.get("WindowCenter"),
        window_width=dataset.get("WindowWidth"),
        bits_stored=dataset.BitsStored,
        pixel_representation=dataset.PixelRepresentation,
        low_grey=0,
        high_grey=1,
    )


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


def _window(function: str, center: float, width: float, **fields: object) -> Presentation:
    window = {"voi_function": function, "window_center": center, "window_width": width}
    return Presentation(**{"low_grey": 0, "high_grey": 0, **window, **fields})  # type: ignore[arg-type]


def _plain(bits: int, **fields: object) -> Presentation:
    return Presentation(**{"bits_stored": bits, "low_grey": 0, "high_grey": 0, **fields})  # type: ignore[arg-type]


CURVE = np.linspace(0, 1, 4096) ** 1.5  # of a LUT
# Name: how it is shown, what becomes of shares of white, and the largest grey step as a share
SPELLINGS: dict[str, tuple[Presentation, Callable[[np.ndarray], np.ndarray], float]] = {
    "8 bits": (_plain(8), lambda y: 255 * y, 1 / 255),
    "8 bits, inverted": (_plain(8, photometric="MONOCHROME1"), lambda y: 255 * (1 - y), 1 / 255),
    "10 bits, no window": (_plain(10, low_grey=40, high_grey=1000), lambda y: 40 + 960 * y, 1 / 960),
    "12 bits, LINEAR": (_window("LINEAR", 2048, 4096, bits_stored=12), lambda y: 4095 * y, 1 / 4095),
    "12 bits, LINEAR_EXACT": (_window("LINEAR_EXACT", 2000, 2000, bits_stored=12), lambda y: 1000 + 2000 * y, 1 / 2000),
    "12 bits, SIGMOID": (
        _window("SIGMOID", 2048, 1000, bits_stored=12),
        lambda y: np.clip(
            2048 - 250 * np.log(np.divide(1, y, out=np.full_like(y, 1e9), where=y > 0) - 1 + 1e-9), 0, 4095
        ),
        1 / 1000,
    ),
    "12 bits, signed": (
        _window("LINEAR", 0, 4096, bits_stored=12, pixel_representation=1),
        lambda y: 4095 * y - 2048,
        1 / 4095,
    ),
    "12 bits, LUT": (
        _plain(12, voi_function="LUT", voi_lut=voi_lut(np.rint(65535 * CURVE))),
        lambda y: 4095 * y ** (1 / 1.5),
        np.diff(CURVE).max() + 1 / 65535,  # and that of the LUT's entries
    ),
    "12 bits, inverted LUT of 10": (
        _plain(12, photometric="MONOCHROME1", voi_function="LUT", voi_lut=voi_lut(np.arange(1024), first=7, bits=10)),
        lambda y: 7 + 1023 * (1 - y),
        1 / 1023,
    ),
    "14 bits, inverted": (
        _window("LINEAR", 8192, 16384, bits_stored=14, photometric="MONOCHROME1"),
        lambda y: 16383 * (1 - y),
        1 / 16383,
    ),
    "15 bits, inverted": (
        _window("LINEAR", 15000, 30000, bits_stored=15, photometric="MONOCHROME1"),
        lambda y: 29999 * (1 - y),
        1 / 29999,
    ),
    "16 bits": (_window("", 32768, 65536, bits_stored=16, value_offset=32768), lambda y: 65535 * y, 1 / 65535),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_a_radiograph_is_the_same_in_every_spelling(name: str) -> None:
    image, spelled, step = SPELLINGS[name]
    shares = _radiograph()
    grey = np.rint(spelled(shares)).astype(np.int64)
    stored = (grey - image.value_offset).astype(np.int16)
    present(stored, presentation_table(image))
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


def test_the_row_of_an_index_becomes_a_presentation() -> None:
    lut = voi_lut(np.arange(4))
    index = {
        "value_offset": np.array([0, 32768], np.int32),
        "photometric": np.array(["MONOCHROME1", "MONOCHROME2"], object),
        "voi_function": np.array(["LUT", "SIGMOID"], object),
        "voi_lut": np.array(["ab", ""], object),
        "window_center": np.array([np.nan, 300.5]),
        "window_width": np.array([np.nan, 40.0]),
        "bits_stored": np.array([12, 16], np.int32),
        "pixel_representation": np.array([0, 0], np.int32),
        "low_grey": np.array([5, 6], np.int32),
        "high_grey": np.array([50, 60], np.int32),
    }
    first, second = (presentation_of(index, row, {"ab": lut}) for row in range(2))
    plain = {"pixel_representation": 0, "low_grey": 5, "high_grey": 50}
    assert first == Presentation(photometric="MONOCHROME1", voi_function="LUT", voi_lut=lut, bits_stored=12, **plain)
    assert second == _window("SIGMOID", 300.5, 40.0, value_offset=32768, bits_stored=16, low_grey=6, high_grey=60)


def test_jitter_changes_shares_of_white() -> None:
    shares = np.array([0.0, 0.25, 0.5, 1.0])
    assert Jitter(brightness=0.1).of(shares) == pytest.approx([0.1, 0.35, 0.6, 1])
    assert Jitter(contrast=0.5).of(shares) == pytest.approx([0.25, 0.375, 0.5, 0.75])
    assert Jitter(gamma=2).of(shares) == pytest.approx([0, 0.0625, 0.25, 1])
    assert Jitter(-0.1, 2.0, 2.0).of(shares) == pytest.approx([0, 0, 0, 1])
    inverted = replace(EIGHT, photometric="MONOCHROME1")  # of white, not of what is stored
    assert presentation_table(inverted, Jitter(gamma=2))[204] / WHITE == pytest.approx(0.04, abs=ROUNDED)


def test_jitter_is_drawn_within_its_limits() -> None:
    config = AugmentConfig(brightness_limit=0.1, contrast_limit=0.2, gamma_limit=0.5)
    drawn = np.array([draw_jitter(series_generator(1, 1, str(key)), config) for key in range(2000)])
    for values, ends in zip(drawn.T, [(-0.1, 0.1), (0.8, 1.2), (1 / 1.5, 1.5)], strict=True):
        assert (values.min(), values.max()) == pytest.approx(ends, rel=0.01)
    assert np.mean(drawn[:, 2] < 1) == pytest.approx(0.5, abs=0.05)  # as often brighter as darker
    assert draw_jitter(series_generator(1, 1, "key"), AugmentConfig()) == STILL
