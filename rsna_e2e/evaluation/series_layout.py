"""Which series the slices of a submission belong to: by its predictions table, by a store, or by a CSV."""

# N slices, S series, L labels

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from rsna_e2e.core.errors import BadInputError
from rsna_e2e.core.records import Float64Array, printable, some
from rsna_e2e.core.table_files import TableFile, rows_of
from rsna_e2e.evaluation.scores import SeriesLayout
from rsna_e2e.inference.predictions import PredictionTable, SeriesTable
from rsna_e2e.store import Store
from rsna_e2e.tasks.labels.layout import plain_name
from rsna_e2e.tasks.metrics import Int64Array

# Columns of a map: of the image, and of its series, or of its study where studies have labels of their own
MAP_COLUMNS = ("ID", "series")
_ALSO_IMAGE, _ALSO_SERIES, _ALSO_STUDY = "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"
some_ids = partial(some, most=3)


def layout_by_table(table: PredictionTable, image_ids: Sequence[str]) -> SeriesLayout:
    """Return the layout of slices, all of which the predictions table has."""
    order_N = np.argsort(np.array(table.image_ids))
    rows_N = order_N[np.searchsorted(np.array(table.image_ids)[order_N], np.array(image_ids))]
    keys = np.array(table.series_keys)[rows_N]
    return _layout(keys, table.slice_index[rows_N], table.position_mm[rows_N])


def layout_by_store(store: Store, image_ids: Sequence[str]) -> SeriesLayout:
    """Return the layout of slices, by their image ids in a store.

    Raises what `rows_by_image` raises.
    """
    rows_N = rows_by_image(store, image_ids)
    keys, slice_index, position_mm = (
        store.index[name][rows_N] for name in ("series_key", "slice_index", "position_mm")
    )
    return _layout(keys.astype(str), slice_index.astype(np.int64), position_mm.astype(np.float64))


def rows_by_image(store: Store, image_ids: Sequence[str]) -> Int64Array:
    """Return the rows of slices in a store's index, by their image ids.

    Raises BadInputError where the store lacks one, or has two of one id.
    """
    row_of: dict[str, int] = {}
    repeated = set()
    for row, image_id in enumerate(map(printable, store.index["image_id"].tolist())):
        if row_of.setdefault(image_id, row) != row:
            repeated.add(image_id)
    _check_all_known(store.path, row_of, image_ids, advice="Give the store that holds them, or --series map.csv")
    if twice := sorted(repeated & set(image_ids)):
        raise BadInputError(
            f"{store.path}: several slices have the image id {some_ids(twice)}. Prepare the store again, or give "
            "--series map.csv"
        )
    return np.array([row_of[image_id] for image_id in image_ids], dtype=np.int64)


def layout_by_map(file: TableFile, image_ids: Sequence[str], *, of_studies: bool = False) -> SeriesLayout:
    """Return the layout of slices by a CSV with the columns ID and series, whatever else it has; the slices of a series
    are in the order of their ids. Columns by DICOM's names of these UIDs will do, of studies where `of_studies`.

    Raises BadInputError where it lacks a slice, or says two things of one.
    """
    series_of = _read_map(file, _ALSO_STUDY if of_studies else _ALSO_SERIES)
    _check_all_known(file, series_of, image_ids, advice="Every image needs its series")
    keys = np.array([series_of[image_id] for image_id in image_ids])
    return _layout(keys, np.arange(len(keys)), None)


def layout_by_study(layout: SeriesLayout, study_of: Mapping[str, str]) -> SeriesLayout:
    """Return a layout by study, of one by series. study_of: the study of each series.

    The slices of a study of several series come one series after another, and then no position is known.
    """
    studies = [study_of[key] for key in layout.series_keys]
    study_keys, study_of_series = np.unique(studies, return_inverse=True)
    has_several = len(study_keys) < len(studies)
    order_N = np.lexsort((layout.slice_index, layout.series_of_slice))
    place_N = np.empty_like(order_N)
    place_N[order_N] = np.arange(len(order_N))
    return SeriesLayout(
        series_keys=study_keys.tolist(),
        series_of_slice=study_of_series[layout.series_of_slice].astype(np.int64),
        slice_index=place_N if has_several else layout.slice_index,
        position_mm=None if has_several else layout.position_mm,
    )


def head_by_layout(table: SeriesTable, layout: SeriesLayout) -> Float64Array:
    """Return the probabilities of the series head in the order of a layout [S, L]."""
    row_of = {key: row for row, key in enumerate(table.series_keys)}
    return table.probability[[row_of[key] for key in layout.series_keys]]


def count(n: int, noun: str) -> str:
    """Return a number and what it counts."""
    several = f"{noun.removesuffix('y')}ies" if noun.endswith("y") else f"{noun}s"
    return f"{n} {noun if n == 1 else several}"


def _layout(keys_N: np.ndarray, slice_index: Int64Array, position_mm: Float64Array | None) -> SeriesLayout:
    series_keys, series_of_slice = np.unique(keys_N, return_inverse=True)
    return SeriesLayout(
        series_keys=series_keys.tolist(),
        series_of_slice=series_of_slice.astype(np.int64),
        slice_index=slice_index,
        position_mm=position_mm,
    )


def _check_all_known(
    source: Path | TableFile, known: dict[str, int] | dict[str, str], image_ids: Sequence[str], *, advice: str
) -> None:
    if missing := [image_id for image_id in image_ids if image_id not in known]:
        raise BadInputError(
            f"{source}: lacks {len(missing)} of the {count(len(image_ids), 'image')} to score ({some_ids(missing)}); "
            f"its first is {next(iter(known), 'none')}. {advice}"
        )


def _read_map(file: TableFile, also_series: str) -> dict[str, str]:
    """Return the series of each image id. also_series: what its column may be called too."""
    series_of: dict[str, str] = {}
    expected = f"Expected the columns {','.join(MAP_COLUMNS)} and one row per image"
    with rows_of(file, expected=expected) as rows:
        header = rows.fieldnames or ()
        columns = {plain_name(word): word for word in (*header, *(name for name in MAP_COLUMNS if name in header))}
        names = zip(MAP_COLUMNS, (_ALSO_IMAGE, also_series), strict=True)
        found = [next(filter(None, (columns.get(plain_name(name)) for name in both)), None) for both in names]
        if None in found:
            raise BadInputError(f"{file}: its columns are {', '.join(header) or 'none'}. {expected}")
        id_column, series_column = map(str, found)
        for row in rows:
            image_id, series = printable(row[id_column]), row[series_column]
            if not series:
                raise BadInputError(f"{file}, line {rows.line_num}: no series of image {image_id!r}. {expected}")
            if series_of.setdefault(image_id, series) != series:
                raise BadInputError(
                    f"{file}, line {rows.line_num}: image {image_id!r} is in another series than before. {expected}"
                )
    return series_of
