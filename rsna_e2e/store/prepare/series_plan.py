"""Plans a store: groups headers into ordered series, and assigns series to shards.

Pure functions of the headers, so that every machine and every attempt makes the same plan."""

# M headers, N of them taken

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise

import numpy as np

from rsna_e2e.core.errors import BadInputError
from rsna_e2e.core.reasons import Reason
from rsna_e2e.core.records import Acquisition, Column, Float64Array, Refusal, Rows, printable
from rsna_e2e.store.prepare.tables import Table, file_names, holds_xrays, instances, to_numpy
from rsna_e2e.store.series_order import XRAY_IDS, SeriesMembers, order_series, run_starts, series_key
from rsna_e2e.store.volumes import ORDERS

Digest = str | Refusal  # of a slice's place and pixels, or why there is none


@dataclass(frozen=True, slots=True)
class Plan:
    """Which headers are taken, in the order of the store.

    rows [N]: of the table of headers. series_keys [N], position_mm [N]: to which series each belongs, and where it lies
    along the slice normal. told_by: how many series were divided into volumes by which element, by DICOM keyword.
    """

    rows: Rows
    series_keys: Column
    position_mm: Float64Array
    told_by: Mapping[str, int]


def plan_series(headers: Table, digests: Mapping[int, Digest]) -> tuple[Plan, list[Refusal]]:
    """Group headers into series, sorted by (patient, study, series), each in geometric order, and refuse slices without
    a place in it. Each volume of a series becomes a series. Headers without positions keep their order, see
    `_in_given_order`.

    digests: of the rows that `find_copies` gives; those of one SOP instance UID that differ are all refused.
    """
    if holds_xrays(headers):
        return _each_alone(headers, digests)
    if _lack_positions(headers):
        return _in_given_order(headers), []
    ids, image_ids = _ids(headers), to_numpy(headers, "image_id")
    sop_uids = ids.pop()
    position_M3, orientation_M6 = (to_numpy(headers, f"image_{name}") for name in ("position_mm", "orientation"))
    refused = _conflicting(headers, digests)
    acquisition = _acquisition(headers)
    kept, keys, positions = [], [], []
    told_by: Counter[str] = Counter()
    for rows in _groups(ids, without=refused):
        members = SeriesMembers(
            sop_uids[rows].tolist(),
            image_ids[rows].tolist(),
            position_M3[rows],
            orientation_M6[rows],
            acquisition={name: column[rows] for name, column in acquisition.items()},
            digests=_known(digests, rows),
        )
        order = order_series(members)
        for number, volume in enumerate(order.volumes):
            kept.append(rows[volume.rows])
            keys += [series_key(tuple(column[rows[0]] for column in ids), volume=number)] * len(volume.rows)
            positions.append(volume.position_mm)
        told_by.update(order.told_by)
        refused |= {int(rows[i]): (reason, detail) for i, reason, detail in order.refused}
    return _joined(kept, keys, positions, told_by), _refusals(headers, refused)


def _each_alone(headers: Table, digests: Mapping[int, Digest]) -> tuple[Plan, list[Refusal]]:
    """Return a plan in which each X-ray is a series, in the order of their ids, and refuse further copies of one."""
    refused = _conflicting(headers, digests)
    ids = _ids(headers)
    groups = [rows.tolist() for rows in _groups(ids, without=refused)]
    why = (Reason.DUPLICATE_SOP_UID, "an earlier file holds the same SOP instance")
    refused |= dict.fromkeys((row for rows in groups for row in rows[1:]), why)
    kept = np.array([rows[0] for rows in groups], dtype=np.int64)
    study, series, instance = (column[kept].tolist() for column in ids)
    keys = [series_key(one) for one in zip(study, series, instance, strict=True)]
    plan = Plan(kept, np.array(keys, dtype=object), np.zeros(len(kept)), {})
    return plan, _refusals(headers, refused)


def _lack_positions(headers: Table) -> bool:
    """Whether nothing is known of where slices lie, as those of HDF5 shards; a source has only such, or none."""
    return bool(np.isnan(to_numpy(headers, "image_position_mm")).any())


def _in_given_order(headers: Table) -> Plan:
    """Return a plan of all headers, series by series; slices keep the order in which they were found, and have their
    number in the series as their position.

    Raises BadInputError for a slice that is there twice.
    """
    ids = _ids(headers)
    if len(twice := _sharing(ids[-1:])):
        names = sorted(printable(name) for name in file_names(headers.take(twice[:2])))
        raise BadInputError(
            f"{len(twice)} slices have the name of another, such as {' and '.join(names)}. Keep one file of each"
        )
    groups = list(_groups(ids[:-1], without=()))
    keys = [key for rows in groups for key in [series_key(tuple(column[rows[0]] for column in ids[:-1]))] * len(rows)]
    return _joined(groups, keys, [np.arange(len(rows), dtype=np.float64) for rows in groups], {})


def _joined(
    rows: Sequence[Rows], keys: Sequence[str], positions_mm: Sequence[Float64Array], told_by: Mapping[str, int]
) -> Plan:
    """Return the plan of series after series. rows, positions_mm: of each; keys: of each slice."""
    return Plan(
        np.concatenate([np.empty(0, np.int64), *rows]),
        np.array(keys, dtype=object),
        np.concatenate([np.empty(0), *positions_mm]),
        told_by,
    )


def _refusals(headers: Table, refused: Mapping[int, tuple[Reason, str]]) -> list[Refusal]:
    names, sop_uids = file_names(headers), to_numpy(headers, "sop_uid")
    return [Refusal(printable(names[row]), *refused[row], sop_uid=sop_uids[row]) for row in sorted(refused)]


def plan_shards(headers: Table, plan: Plan, *, shard_bytes: int) -> list[tuple[int, int]]:
    """Divide the plan between series into shards of about `shard_bytes` at most, as even as whole series allow.

    Returns (begin, end) of each. Even, so that workers finish at about the same time.
    """
    if not len(plan.rows):
        return []
    n_bytes_N = 2 * (to_numpy(headers, "rows") * to_numpy(headers, "columns"))[plan.rows]
    ends = np.append(run_starts(plan.series_keys)[1:], len(plan.rows))
    done = np.cumsum(n_bytes_N)[ends - 1]
    n_shards = -(-int(done[-1]) // shard_bytes)
    wanted = done[-1] * np.arange(1, n_shards + 1) / n_shards
    after = np.searchsorted(done, wanted)
    before = np.maximum(after - 1, 0)
    is_nearer = wanted - done[before] < done[after] - wanted
    cuts = ends[np.where(is_nearer, before, after)]
    return list(pairwise([0, *cuts[run_starts(cuts)].tolist()]))


def find_copies(headers: Table) -> Rows:
    """Return the rows, rising, of slices that may be copies of another of their series: those that share their SOP
    instance UID, and those that share their position and all that they say of their acquisition."""
    if _lack_positions(headers) and not holds_xrays(headers):
        return np.empty(0, dtype=np.int64)
    ids = _ids(headers)
    if holds_xrays(headers):
        return np.sort(_sharing(ids))
    place_M9 = np.hstack([to_numpy(headers, "image_position_mm"), to_numpy(headers, "image_orientation")])
    acquisition = [column for name, column in _acquisition(headers).items() if name not in ORDERS]
    places = [*ids[:-1], *place_M9.T, *acquisition]
    return np.union1d(_sharing(ids), _sharing(places))


def _sharing(ids: Sequence[Column]) -> Rows:
    """Return the rows that have the same ids as another."""
    order, starts = _sorted(ids, without=())
    sizes = np.diff(np.append(starts, len(order)))
    return order[np.repeat(sizes > 1, sizes)]


def _known(digests: Mapping[int, Digest], rows: Rows) -> dict[int, str]:
    """Return the digests of some rows, by their position among these."""
    found = {i: digests.get(row) for i, row in enumerate(rows.tolist())} if digests else {}
    return {i: digest for i, digest in found.items() if isinstance(digest, str)}


def _acquisition(headers: Table) -> dict[str, Column]:
    """Return the elements that tell volumes apart, by DICOM keyword, as far as they differ between headers."""
    told = {_keyword(field.name): to_numpy(headers, field.name) for field in fields(Acquisition)}
    told |= {"SliceThickness": to_numpy(headers, "slice_thickness_mm"), "Rows": to_numpy(headers, "rows")}
    told |= {"PixelSpacing": to_numpy(headers, "pixel_spacing_mm")[:, 0]}
    return {name: column for name, column in told.items() if _differ(column)}


def _differ(column: Column) -> bool:
    """Whether values differ; NaN is one of them."""
    if column.dtype.kind == "f" and np.isnan(column[:1]).all():
        return not np.isnan(column).all()
    return bool((column != column[:1]).any())


def _keyword(name: str) -> str:
    return {"stack_id": "StackID", "kvp": "KVP"}.get(name) or name.title().replace("_", "")


def _ids(headers: Table) -> list[Column]:
    """Return the columns that identify a slice: the ids of its series, and its instance; which is one of them where
    each X-ray is a series."""
    if holds_xrays(headers):
        return [to_numpy(headers, name) for name in XRAY_IDS]
    return [*(to_numpy(headers, name) for name in ("patient_id", "study_uid", "series_uid")), instances(headers)]


def _groups(ids: Sequence[Column], *, without: Iterable[int]) -> Iterator[Rows]:
    """Yield the rows of each series, which have the same ids; series in the order of their ids, rows rising."""
    order, starts = _sorted(ids, without=without)
    yield from np.split(order, starts[1:]) if len(order) else ()


def _sorted(ids: Sequence[Column], *, without: Iterable[int]) -> tuple[Rows, Rows]:
    """Return the rows by their ids, rising where these are the same, and where those of each new ids begin."""
    is_taken = np.ones(len(ids[0]), dtype=bool)
    is_taken[list(without)] = False
    codes = [np.unique(column, return_inverse=True)[1] for column in ids]
    order = np.lexsort(codes[::-1])  # stable
    order = order[is_taken[order]]
    is_new = np.ones(len(order), dtype=bool)
    is_new[1:] = np.any([code[order[1:]] != code[order[:-1]] for code in codes], axis=0)
    return order, np.flatnonzero(is_new)


def _conflicting(headers: Table, digests: Mapping[int, Digest]) -> dict[int, tuple[Reason, str]]:
    """Files of one SOP instance UID in one series that differ: which one is right is not known. One that cannot be read
    does not count."""
    if not digests:
        return {}
    refused = {row: (Reason(d.reason), d.detail) for row, d in digests.items() if isinstance(d, Refusal)}
    why = (Reason.CONFLICTING_SOP_UID, "files of this SOP instance UID hold different slices")
    for group in _groups(_ids(headers), without=refused):
        rows = group.tolist()
        if len(rows) > 1 and len({digests[row] for row in rows}) > 1:
            refused |= dict.fromkeys(rows, why)
    return refused
