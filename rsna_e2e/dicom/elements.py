"""Strict reading of single DICOM elements: a value is what the standard allows, or the file is refused.

Works on the undecoded bytes of the elements on an allow-list; no other tag of a file is ever looked at.
"""

import functools
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from rsna_e2e.core.reasons import Reason
from rsna_e2e.dicom.tags import ALL_ADVICE, ALL_SEQUENCES, ALL_TAGS, label

# Undecoded values by tag; of a sequence its items.
DataSet: TypeAlias = "dict[int, bytes | list[DataSet]]"

# Decimal string (PS3.5 6.2, VR DS). Python's float() would also take "nan", "inf" and "1_0".
_DECIMAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


_CONTROL = re.compile(r"[\x00-\x1a\x1c-\x1f\x7f]")  # all but ESC; 80 to 9F may be half a character of another script


class RefusedError(Exception):
    """The file is refused. `refuse_on_error` turns it into a `Refusal`, so it never ends more than one file. sop_uid:
    of its instance, where that is known."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail
        self.sop_uid = ""


class Elements:
    """The elements of one data set, read by name. byte_order: "little" or "big"."""

    def __init__(self, data_set: DataSet, *, byte_order: Literal["little", "big"]) -> None:
        self._data_set = data_set
        self._byte_order = byte_order

    def overlaid(self, other: DataSet) -> "Elements":
        """Return these elements, replaced by `other` where both have one."""
        return Elements(self._data_set | other, byte_order=self._byte_order)

    def without(self, names: Sequence[str]) -> "Elements":
        """Return these elements without those of these names."""
        tags = {ALL_TAGS[name] for name in names}
        kept = {tag: value for tag, value in self._data_set.items() if tag not in tags}
        return Elements(kept, byte_order=self._byte_order)

    def items(self, name: str) -> list[DataSet]:
        """Return the items of a sequence, none when it is missing."""
        return items_of(self._data_set, name)

    def first_item(self, name: str) -> "Elements | None":
        """Return the elements of the first item of a sequence, None when there is none."""
        items = self.items(name)
        return Elements(items[0], byte_order=self._byte_order) if items else None

    def words(self, name: str) -> npt.NDArray[np.uint16]:
        """Return the 16-bit words of a table, as many as there are whole; none when it is missing."""
        raw = self._bytes(name) or b""
        order = "<" if self._byte_order == "little" else ">"
        return np.frombuffer(raw, dtype=f"{order}u2", count=len(raw) // 2).astype(np.uint16)

    def text(self, name: str, *, default: str | None = None) -> str:
        """Return a text, without padding. Raises RefusedError when it is missing or empty and has no default."""
        raw = self._bytes(name)
        text = _decode(raw) if raw is not None else ""
        if text:
            return text
        if default is None:
            raise RefusedError(Reason.MISSING_TAG, label(ALL_TAGS[name]))
        return default

    def identifier(self, name: str, *, default: str | None = None) -> str:
        """Return a text that identifies a patient, study, series or instance. Raises RefusedError for control
        characters.

        A NUL or line feed in it is damage, and could make different identifiers equal where they are joined. ESC is
        allowed: it switches the character set. Source: PS3.5 table 6.2-1 (VR LO and UI), 6.1.2.5.3.
        """
        text = self.text(name, default=default)
        if _CONTROL.search(text):
            raise RefusedError(Reason.BAD_VALUE, f"{label(ALL_TAGS[name])} holds control characters")
        return text

    @contextmanager
    def named_if_refused(self) -> Iterator[None]:
        """Add the SOP instance UID to what is refused inside."""
        try:
            yield
        except RefusedError as error:
            with suppress(RefusedError):
                error.sop_uid = self.identifier("SOPInstanceUID")
            raise

    def unsigned(self, name: str, *, default: int | None = None) -> int:
        """Return a number of VR US, 16 bits without sign."""
        raw = self._bytes(name)
        if not raw:
            if default is None:
                raise RefusedError(Reason.MISSING_TAG, label(ALL_TAGS[name]))
            return default
        return self._integer_of_2_bytes(name, raw, is_signed=False)

    def stored_value(self, name: str, *, is_signed: bool) -> int | None:
        """Return a number of VR US or SS, whichever PixelRepresentation says; None when it is missing or empty.

        Source: PS3.3 C.7.5.1.1.2 (padding), PS3.5 annex A (VR "US or SS").
        """
        raw = self._bytes(name)
        return self._integer_of_2_bytes(name, raw, is_signed=is_signed) if raw else None

    def integer(self, name: str, *, default: int) -> int:
        """Return a number of VR IS, digits in text."""
        text = self.text(name, default=str(default))
        if not re.fullmatch(r"[+-]?\d{1,12}", text, re.ASCII):
            raise RefusedError(Reason.BAD_VALUE, f"{label(ALL_TAGS[name])} is {shown(text)}, expected a whole number")
        return int(text)

    def numbers(self, name: str, count: int) -> tuple[float, ...]:
        """Return `count` finite numbers of VR DS."""
        values = _numbers(self.text(name))
        if values is None or len(values) != count:
            detail = f"{label(ALL_TAGS[name])} is {shown(self.text(name))}, expected {count} finite decimal number(s)"
            raise RefusedError(Reason.BAD_VALUE, detail)
        return values

    def first_window(self, *, at_most: float) -> tuple[float, float] | tuple[None, None]:
        """Return the first window center and width in HU. It is advice: None where it makes no sense.

        at_most: center, to either side of 0, and width.
        """
        centers = _numbers(self.text("WindowCenter", default=""))
        widths = _numbers(self.text("WindowWidth", default=""))
        if not centers or not widths or abs(centers[0]) > at_most or not 0 < widths[0] <= at_most:
            return None, None
        return centers[0], widths[0]

    def first_between(self, name: str, low: float, high: float) -> float | None:
        """Return the first number of VR DS if it lies in this range. It is advice: None where it makes no sense."""
        values = _numbers(self.text(name, default=""))
        return values[0] if values and low <= values[0] <= high else None

    def advice(self, name: str) -> str:
        """Return a text of `ADVICE`, empty where it is missing or not text."""
        raw = self._data_set.get(ALL_ADVICE[name])
        return _decode(raw) if isinstance(raw, bytes) else ""

    def advised_number(self, name: str) -> float | None:
        """Return a number of `ADVICE`, of VR DS or IS; None where it is missing or not a number."""
        values = _numbers(self.advice(name))
        return values[0] if values and len(values) == 1 else None

    def advised_first(self, name: str) -> float | None:
        """Return the first of the numbers of `ADVICE`, of VR DS; None where there is none."""
        values = _numbers(self.advice(name))
        return values[0] if values else None

    def advised_integer(self, name: str) -> int | None:
        """Return a number of `ADVICE`, of VR US or UL; None where it is missing or not a number."""
        raw = self._data_set.get(ALL_ADVICE[name])
        return int.from_bytes(raw, self._byte_order) if isinstance(raw, bytes) and len(raw) in (2, 4) else None

    def _integer_of_2_bytes(self, name: str, raw: bytes, *, is_signed: bool) -> int:
        if len(raw) != 2:
            raise RefusedError(Reason.BAD_VALUE, f"{label(ALL_TAGS[name])} is {len(raw)} bytes long, expected 2")
        return int.from_bytes(raw, self._byte_order, signed=is_signed)

    def _bytes(self, name: str) -> bytes | None:
        value = self._data_set.get(ALL_TAGS[name])
        if isinstance(value, list):
            raise RefusedError(Reason.MALFORMED, f"{label(ALL_TAGS[name])} is a sequence")
        return value


def items_of(data_set: DataSet, name: str) -> list[DataSet]:
    """Return the items of a sequence, none when it is missing."""
    value = data_set.get(ALL_SEQUENCES[name], [])
    assert isinstance(value, list), "the elements of ALL_SEQUENCES are read as sequences"
    return value


@functools.lru_cache(maxsize=256)  # slices of a series share most of theirs
def _numbers(text: str) -> tuple[float, ...] | None:
    parts = [part.strip(" ") for part in text.split("\\")]
    if not all(_DECIMAL.fullmatch(part) for part in parts):
        return None
    values = tuple(float(part) for part in parts)
    return values if all(map(math.isfinite, values)) else None


def _decode(raw: bytes) -> str:
    """Return text without padding. Identifiers need one spelling each, not the right script: Latin-1 takes any byte."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    return text.strip(" \0")


def shown(text: str) -> str:
    """Return a code, UID or number as the file spells it, for messages; free text, which a person may have written, is
    replaced."""
    return text if re.fullmatch(r"[0-9.,+\-eE\\ ]{1,64}|[A-Z0-9_]{1,16}", text) else "(not a code)"
