"""What a CSV says of series, such as the scanner or how large a bleed is, by which their scores are divided."""

# S series

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np

from rsna_e2e.core.errors import BadInputError
from rsna_e2e.core.records import Column, some
from rsna_e2e.core.table_files import TableFile, rows_of

SERIES_COLUMNS = ("SeriesInstanceUID", "series", "StudyInstanceUID")  # the last where studies have labels
_EXPECTED = f"Expected the column {' or '.join(SERIES_COLUMNS)}, others by whose values to divide, and a row per series"


def read_series_facts(
    file: TableFile, series_keys: Sequence[str], uid_of: Mapping[str, str] = MappingProxyType({})
) -> dict[str, Column]:
    """Return each further column of the table for the series [S]: as numbers where all of it are, NaN where a cell is
    empty, and else as text. Other series than these are left alone.

    uid_of: the SeriesInstanceUID of each key, by which the table may call a series, where a store knows them.

    Raises BadInputError for a table that lacks a series or says two things of one, and one that is not as it should be.
    """
    with rows_of(file, expected=_EXPECTED) as rows:
        header = rows.fieldnames or ()
        key_column = next((name for name in SERIES_COLUMNS if name in header), None)
        if key_column is None or len(header) < 2:
            raise BadInputError(f"{file}: its columns are {', '.join(header) or 'none'}. {_EXPECTED}")
        facts_of: dict[str, list[str]] = {}
        names = [name for name in header if name != key_column]
        for row in rows:
            facts = [row[name].strip() for name in names]
            if facts_of.setdefault(row[key_column], facts) != facts:
                raise BadInputError(
                    f"{file}, line {rows.line_num}: says other things of series {row[key_column]!r} than before. "
                    f"{_EXPECTED}"
                )
    names_S = [key if key in facts_of else uid_of.get(key, key) for key in series_keys]
    if missing := [name for name in names_S if name not in facts_of]:
        raise BadInputError(
            f"{file}: lacks {len(missing)} of {len(series_keys)} series ({some(missing, most=3)}). With --store they "
            "may be called by their SeriesInstanceUIDs, without it as in --series or the predictions table"
        )
    table = zip(*(facts_of[name] for name in names_S), strict=True)
    return {name: _column(texts) for name, texts in zip(names, table, strict=True)}


def _column(texts_S: Sequence[str]) -> Column:
    try:
        return np.array([float(text or "nan") for text in texts_S])
    except ValueError:
        return np.array(texts_S, dtype=object)
