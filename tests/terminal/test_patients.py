"""Patients are found by their id or by the beginning of a series key; of others the nearest are named."""

import pytest

from rsna_e2e.core.errors import UsageError
from rsna_e2e.store import SeriesSpan
from rsna_e2e.terminal.patients import UnknownPatientError, find, matching, studies_of

HOSTILE = "\x1b[2J[red]p\u202e"
SHOWN = r"\x1b[2J[red]p\u202e"


def _span(number: int, *, patient: str, study: str, key: str) -> SeriesSpan:
    return SeriesSpan(
        series_key=key, patient_id=patient, study_uid=study, series_uid=f"1.{number}", first_row=3 * number, n_slices=3,
        split="test", fold=-1,
    )  # fmt: skip


SPANS = (
    _span(0, patient="ID_p0", study="a", key="00ab000000000001"),
    _span(1, patient="ID_p1", study="b", key="00ac000000000001"),
    _span(2, patient="ID_p0", study="c", key="1111000000000001"),
    _span(3, patient="ID_p0", study="a", key="1112000000000001"),
    _span(4, patient=HOSTILE, study="d", key="face000000000001"),
    _span(5, patient="face", study="e", key="2222000000000001"),
    _span(6, patient="ID_p1", study="a", key="3333000000000001"),
)
STUDIES = studies_of(SPANS)


def _numbers(studies: list) -> list[list[int]]:
    return [[SPANS.index(span) for span in study.spans] for study in studies]


def test_series_of_a_study_belong_together_and_those_of_two_patients_do_not() -> None:
    assert _numbers(STUDIES) == [[0, 3], [1], [2], [4], [5], [6]]


@pytest.mark.parametrize(
    ("who", "expected"),
    [
        ("ID_p0", [[0, 3], [2]]),
        (" ID_p1\n", [[1], [6]]),
        ("00ac", [[1]]),
        ("00AC", [[1]]),
        ("111200", [[0, 3]]),  # the whole study
        (SHOWN, [[4]]),  # typed as it is shown
        (HOSTILE, [[4]]),
        ("face", [[5]]),  # an id counts before a key
        ("face0", [[4]]),
    ],
)
def test_who_is_found(who: str, expected: list[list[int]]) -> None:
    assert _numbers(find(STUDIES, who)) == expected


def test_of_an_unknown_id_the_nearest_are_named() -> None:
    with pytest.raises(UnknownPatientError, match=r"called ID_p2\. The nearest: ID_p1, ID_p0, ") as error:
        find(STUDIES, "ID_p2")
    assert "[red]" not in str(error.value)
    with pytest.raises(UnknownPatientError, match="nearest: face0000, "):
        find(STUDIES, "faceb000")
    with pytest.raises(UnknownPatientError) as error:
        find(STUDIES, "\x1b[2J[red]q" + "x" * 1000)
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 200


@pytest.mark.parametrize("who", ["00", "11", "0"])
def test_a_key_of_several_studies_needs_more_digits(who: str) -> None:
    with pytest.raises(UsageError, match=r"2 studies begin with .* Give more digits"):
        find(STUDIES, who)


def test_nobody_is_called_nothing() -> None:
    with pytest.raises(UsageError, match="nobody was named"):
        find(STUDIES, " \n")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("", [0, 3, 1, 2, 4, 5, 6]), ("id_P1", [1, 6]), ("p0", [0, 3, 2]), ("face", [4, 5]), (r"\x1b", [4]), ("zz", [])],
)
def test_search(text: str, expected: list[int]) -> None:
    assert [SPANS.index(span) for _, span in matching(STUDIES, text)] == expected
