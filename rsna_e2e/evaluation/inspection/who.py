"""Lookup of the identifiers behind the hash of a series, for use where the data may be identified."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rsna_e2e.core.errors import BadInputError, UsageError
from rsna_e2e.core.records import printable
from rsna_e2e.store import StoreFiles
from rsna_e2e.store.prepare import pseudonymous_keys
from rsna_e2e.store.pseudonyms import Pseudonyms

Columns = Mapping[str, npt.NDArray[Any]]

_MAX_SHOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """A series by its real names; image ids in the order of its slices, None where the raw files lack one."""

    series_key: str
    patient_id: str
    study_uid: str
    series_uid: str
    image_ids: tuple[str | None, ...]

    def __str__(self) -> str:
        ids = [image_id or "(not in the raw files)" for image_id in self.image_ids]
        lines = [
            f"series key   {self.series_key}",
            f"patient id   {self.patient_id}",
            f"study uid    {self.study_uid}",
            f"series uid   {self.series_uid}",
            *(f"image {place:>3}    {image_id}" for place, image_id in enumerate(ids)),
        ]
        return "\n".join(map(printable, lines))


def who_is(columns: Columns, who: str, *, where: Path) -> Named:
    """Return the series whose key begins with `who`, out of columns as in a store's index.

    where: they come from, for messages. Raises UsageError for text that is no hash, or is the beginning of several;
    BadInputError for one that is not there.
    """
    return _named(columns, rows_of_key(columns["series_key"], who, where=where))


def who_was(store: StoreFiles, who: str, columns: Columns, pseudonyms: Pseudonyms) -> Named:
    """Return the series of a store with pseudonyms whose key begins with `who`, by its names in raw files.

    columns: of the raw files' headers. Raises what `who_is` raises, and BadInputError for another key than the store's,
    or where the raw files do not hold the series.
    """
    if pseudonyms.check != store.key_check:
        raise BadInputError(f"{store.path}: prepared with another key. Give the key file it was prepared with")
    stored = rows_of_key(store.index["series_key"], who, where=store.path)
    key = store.index["series_key"][stored[0]]
    rows = np.flatnonzero(pseudonymous_keys(dict(columns), pseudonyms) == key)
    if not len(rows):
        raise BadInputError(f"{store.path}: series {key[:8]} is not in the raw files. Give those it was prepared from")
    found = _named(columns, rows)
    name_of = {pseudonyms.of("image", image_id): image_id for image_id in columns["image_id"][rows]}
    return replace(found, series_key=key, image_ids=tuple(name_of.get(one) for one in store.index["image_id"][stored]))


def rows_of_key(keys: npt.NDArray[Any], who: str, *, where: Path) -> npt.NDArray[np.int64]:
    """Return the rows of the one series whose key begins with `who`."""
    if not re.fullmatch("[0-9a-f]{1,16}", who):
        raise UsageError(f"{who!r} is no hash of a series: those are hex digits, as a message or report shows them")
    found = [key for key in dict.fromkeys(keys.tolist()) if key.startswith(who)]
    if not found:
        raise BadInputError(f"{where}: has no series {who}. Check the digits, and that the hash is of these data")
    if len(found) > 1:
        shown = ", ".join(found[:_MAX_SHOWN]) + ", ..." * (len(found) > _MAX_SHOWN)
        raise UsageError(f"{who} is the beginning of {len(found)} series keys. Give more digits of one: {shown}")
    return np.flatnonzero(keys == found[0])


def _named(columns: Columns, rows: npt.NDArray[np.int64]) -> Named:
    return Named(
        series_key=columns["series_key"][rows[0]],
        patient_id=columns["patient_id"][rows[0]],
        study_uid=columns["study_uid"][rows[0]],
        series_uid=columns["series_uid"][rows[0]],
        image_ids=tuple(columns["image_id"][rows]),
    )
