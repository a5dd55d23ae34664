"""Stored values and Hounsfield units against Python's own exact integers."""

import itertools
from fractions import Fraction

import numpy as np
import pytest

from rsna_e2e.dicom.hounsfield import (
    MEASURABLE_HU,
    can_be_measured_if_wrapped,
    has_unused_bits,
    has_unused_bits_of_signed,
    is_wrapped_12bit,
    stored_values,
    to_hounsfield,
    unwrap_12bit,
)

EVERY_WORD = np.arange(65536, dtype=np.uint16).reshape(256, 256)


def value_of(word: int, bits_stored: int, is_signed: bool) -> int:
    """The value of one word, by PS3.5 8.1.1 in words: the lowest bits, as two's complement if signed."""
    text = f"{word:016b}"[16 - bits_stored :]
    return int(text, 2) - (1 << bits_stored if is_signed and text[0] == "1" else 0)


@pytest.mark.parametrize(
    ("bits_stored", "is_signed"),
    [(16, True), (16, False), (12, True), (12, False), (13, True), (15, False), (1, True)],
)
def test_stored_values_of_every_word(bits_stored: int, is_signed: bool) -> None:
    stored = stored_values(EVERY_WORD, bits_stored=bits_stored, is_signed=is_signed)
    expected = [value_of(word, bits_stored, is_signed) for word in range(65536)]
    assert stored.ravel().tolist() == expected


def test_input_is_left_alone() -> None:
    words = np.full((2, 2), 0xFFFF, dtype=np.uint16)
    stored_values(words, bits_stored=12, is_signed=True)
    to_hounsfield(words, 1.0, -5.0)
    assert (words == 0xFFFF).all()


def test_unused_bits() -> None:
    assert not has_unused_bits(np.array([[0x0FFF]], np.uint16), bits_stored=12)
    assert has_unused_bits(np.array([[0x1000]], np.uint16), bits_stored=12)


@pytest.mark.parametrize(
    ("bits_stored", "bits_allocated"), [(12, 16), (13, 16), (1, 16), (8, 16), (16, 16), (6, 8), (8, 8)]
)
def test_unused_bits_above_every_signed_value(bits_stored: int, bits_allocated: int) -> None:
    for word in range(0, 1 << bits_allocated, 1 if bits_allocated == 8 else 7):
        above = f"{word:0{bits_allocated}b}"[: bits_allocated - bits_stored]
        sign = f"{word >> (bits_stored - 1) & 1}"
        expected = above not in ("0" * len(above), sign * len(above))
        words = np.array([[0, word, 1]], np.uint16)
        found = has_unused_bits_of_signed(words, bits_stored=bits_stored, bits_allocated=bits_allocated)
        assert found is expected, f"{word:0{bits_allocated}b}"


@pytest.mark.parametrize("stored_type", [np.int16, np.uint16])
@pytest.mark.parametrize(("slope", "intercept"), list(itertools.product([1, 2, -1, 3], [0, -1024, 1, 32767])))
def test_integers_are_exact_and_what_lies_outside_int16_is_counted(
    stored_type: type[np.generic], slope: int, intercept: int
) -> None:
    stored = EVERY_WORD.view(stored_type)[::16]
    result = to_hounsfield(stored, float(slope), float(intercept))
    exact = [slope * value + intercept for value in stored.ravel().tolist()]
    assert result.hu.dtype == np.int16
    assert result.hu.ravel().tolist() == [min(max(value, -32768), 32767) for value in exact]
    assert result.n_rounded == 0
    assert result.n_saturated == sum(not -32768 <= value <= 32767 for value in exact)


@pytest.mark.parametrize(("slope", "intercept"), [(1.0, -1024.0), (1.0, 0.0), (2.0, -8192.0), (-1.0, 1000.0)])
def test_results_within_int16_are_exact_without_a_wider_type(slope: float, intercept: float) -> None:
    stored = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    result = to_hounsfield(stored, slope, intercept)
    assert result.hu.ravel().tolist() == [int(slope) * value + int(intercept) for value in range(4096)]
    assert (result.n_rounded, result.n_saturated) == (0, 0)


def test_fractions_are_rounded_half_to_even_and_counted() -> None:
    stored = np.array([[0, 1, 2, 3, 5, -1, -3]], np.int16)
    result = to_hounsfield(stored, 0.5, 0.0)
    # 0, 0.5, 1, 1.5, 2.5, -0.5, -1.5
    assert result.hu.tolist() == [[0, 0, 1, 2, 2, 0, -2]]
    assert result.n_rounded == 5


def test_decimal_slopes_round_as_exact_fractions_do() -> None:
    stored = np.arange(-2000, 2000, dtype=np.int16).reshape(40, 100)
    result = to_hounsfield(stored, 0.9, -1.25)
    slope, intercept = Fraction(0.9), Fraction(-1.25)
    assert result.hu.ravel().tolist() == [round(slope * int(value) + intercept) for value in stored.ravel()]


def test_absurd_slopes_saturate() -> None:
    result = to_hounsfield(np.array([[-3, 0, 3]], np.int16), 1e308, 7.0)
    assert result.hu.tolist() == [[-32768, 7, 32767]]
    assert result.n_saturated == 2


@pytest.mark.parametrize(
    ("bits_stored", "is_signed", "slope", "intercept", "expected"),
    [
        (12, False, 1.0, 0.0, True),
        (12, False, 1.0, 1.0, True),
        (12, False, 1.0, -1024.0, False),
        (12, False, 1.0, -1000.0, False),
        (12, False, 1.0, -99.0, False),
        (12, False, 1.0, 0.5, False),
        (12, False, 1.0, 500.0, False),
        (12, True, 1.0, 0.0, False),
        (16, True, 1.0, 0.0, False),
        (16, False, 1.0, 0.0, False),
        (12, False, 2.0, 0.0, False),
    ],
)
def test_which_slices_lost_their_sign(
    bits_stored: int, is_signed: bool, slope: float, intercept: float, expected: bool
) -> None:
    found = is_wrapped_12bit(bits_stored=bits_stored, is_signed=is_signed, slope=slope, intercept=intercept)
    assert found is expected


def test_lost_signs_come_back() -> None:
    stored = np.array([[3096, 4095, 0, 40, 3095, 2048]], np.uint16)
    # By the published repair: (stored + 1000), minus 4096 where that is 4096 or more, minus 1000.
    assert unwrap_12bit(stored).tolist() == [[-1000, -1, 0, 40, 3095, 2048]]


@pytest.mark.parametrize("low", [0, 3000, 3071, 3072, 3080, 3095, 3096, 3097, 3500, 4094, 4095, 4096, 63536])
@pytest.mark.parametrize("more", [0, 1, 30, 500, 1999])
def test_which_wrapped_values_could_have_been_measured(low: int, more: int) -> None:
    stored = np.arange(low, low + more + 1)
    in_12_bits = stored[stored < 4096].astype(np.uint16).reshape(1, -1)
    hu = [*unwrap_12bit(in_12_bits).ravel().tolist(), *stored[stored >= 4096].tolist()]
    expected = any(MEASURABLE_HU[0] <= value <= MEASURABLE_HU[1] for value in hu)
    assert can_be_measured_if_wrapped(low, low + more) is expected
