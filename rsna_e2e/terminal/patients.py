"""Who is in a store: its studies, found by the id of a patient or by the beginning of a series key."""

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from rsna_e2e.core.errors import UsageError
from rsna_e2e.core.records import printable
from rsna_e2e.store import SeriesSpan

_N_NEAREST = 3
_SHORT_KEY = 8  # digits of a series key that are shown, as messages and reports show them


class UnknownPatientError(UsageError):
    """Neither a patient nor a series is called so."""


@dataclass(frozen=True, slots=True)
class Study:
    """A study of a patient: its series, at least one, in the order of the store."""

    spans: tuple[SeriesSpan, ...]

    @property
    def patient(self) -> str:
        """The patient's id as it is shown: control characters escaped."""
        return printable(self.spans[0].patient_id)


def studies_of(spans: Sequence[SeriesSpan]) -> list[Study]:
    """Return the studies of a store, in the order of their first series."""
    found: dict[tuple[str, str], list[SeriesSpan]] = {}
    for span in spans:
        found.setdefault((span.patient_id, span.study_uid), []).append(span)
    return [Study(tuple(of_study)) for of_study in found.values()]


def short_key(span: SeriesSpan) -> str:
    """Return the beginning of a series key by which a series is shown."""
    return span.series_key[:_SHORT_KEY]


def find(studies: Sequence[Study], who: str) -> list[Study]:
    """Return the studies of the patient with this id, as it is shown, or the one with the series whose key begins so,
    in small letters or capitals.

    Raises UnknownPatientError, which names the nearest ids, where there is none, and UsageError for an empty text or
    where series of several studies begin so.
    """
    who = printable(who.strip())
    if not who:
        raise UsageError("nobody was named. Type a patient id, or the beginning of a series key")
    if of_patient := [study for study in studies if study.patient == who]:
        return of_patient
    key = who.lower()
    if not re.fullmatch("[0-9a-f]+", key):
        raise _unknown(studies, who)
    of_key = [study for study in studies if any(span.series_key.startswith(key) for span in study.spans)]
    if not of_key:
        raise _unknown(studies, who)
    if len(of_key) > 1:
        raise UsageError(f"the keys of series of {len(of_key)} studies begin with {who}. Give more digits")
    return of_key


def _unknown(studies: Sequence[Study], who: str) -> UnknownPatientError:
    names = dict.fromkeys(study.patient for study in studies)
    keys = dict.fromkeys(short_key(span) for study in studies for span in study.spans)
    nearest = difflib.get_close_matches(who, [*names, *keys], n=_N_NEAREST, cutoff=0.0)
    return UnknownPatientError(f"no patient or series is called {who[:80]}. The nearest: {', '.join(nearest)}")


def matching(studies: Sequence[Study], text: str) -> list[tuple[Study, SeriesSpan]]:
    """Return the series whose patient id has this text in it, in either case, or whose key begins with it; all of
    them for an empty text."""
    wanted = printable(text.strip()).lower()
    return [
        (study, span)
        for study in studies
        for span in study.spans
        if wanted in study.patient.lower() or span.series_key.startswith(wanted)
    ]
