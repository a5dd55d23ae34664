"""Scores by what series differ in: by headers the compression, pixel spacing, slice thickness, gantry tilt and number
of slices, and what a table says of them."""

# N slices, S series or studies, G groups

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from rsna_e2e.core.errors import BadInputError
from rsna_e2e.core.records import Column, Float64Array, Rows
from rsna_e2e.dicom.syntaxes import SYNTAXES
from rsna_e2e.evaluation.comparisons import Subgroup
from rsna_e2e.evaluation.scores import Evaluation, SeriesLayout
from rsna_e2e.evaluation.series_layout import rows_by_image
from rsna_e2e.store import Store

# A group, and what is not in it, is scored from so many series on, and so many of them with the headline: fewer say
# more of themselves than of their kind.
LEAST_SERIES, LEAST_POSITIVE = 10, 5

TILTED_DEG = 1.0  # from here on a gantry counts as tilted
_NO_SYNTAX = "picture files"  # which are no DICOM

Groups = Mapping[str, npt.NDArray[np.bool_]]  # name: which series are in it [S]


@dataclass(frozen=True, slots=True)
class _Kind:
    """What series differ in. value: of slices, by their rows in a store; group: what divides series by that of one of
    their slices."""

    name: str
    value: Callable[[Store, Rows], Column]
    group: Callable[[Column], Groups]


def with_subgroups(
    evaluation: Evaluation, store: Store | None, facts: Mapping[str, Column] = MappingProxyType({})
) -> Evaluation:
    """Add the AUC of the headline over slices of each group of series; what series do not differ in is left out.

    store: whose headers divide the series, if it has them all. facts: numbers or text [S] that divide them too, by
    name, in the order of the layout's series; a series of which one is NaN or "" is in none of its groups.
    """
    if evaluation.layout is None:
        return evaluation
    kinds = [] if store is None else _by_headers(evaluation, evaluation.layout, store)
    kinds += [(name, _by_thirds("") if _is_number(of_S) else _by_text, of_S) for name, of_S in facts.items()]
    found = [
        _score(evaluation, name, group, is_member_S, np.logical_or.reduce(list(groups.values())))
        for name, grouped_by, value_S in kinds
        if len(groups := grouped_by(value_S)) > 1
        for group, is_member_S in groups.items()
    ]
    return replace(evaluation, subgroups=tuple(found))


def _by_headers(
    evaluation: Evaluation, layout: SeriesLayout, store: Store
) -> list[tuple[str, Callable[[Column], Groups], Column]]:
    try:
        rows_N = rows_by_image(store, evaluation.image_ids)
    except BadInputError:  # of a store that lacks images, which `floors_left_out` says
        return []
    rows_S = rows_N[np.unique(layout.series_of_slice, return_index=True)[1]]
    return [(kind.name, kind.group, kind.value(store, rows_S)) for kind in _KINDS]


def _is_number(value_S: Column) -> bool:
    return bool(np.issubdtype(value_S.dtype, np.floating))


def _score(
    evaluation: Evaluation,
    kind: str,
    group: str,
    is_member_S: npt.NDArray[np.bool_],
    is_known_S: npt.NDArray[np.bool_],
) -> Subgroup:
    assert evaluation.layout is not None
    series_N, headline = evaluation.layout.series_of_slice, evaluation.task.headline_index
    truth_N, probability_N = (part[:, headline] for part in (evaluation.slices.truth, evaluation.slices.probability))
    is_positive_S = np.bincount(series_N, weights=truth_N, minlength=len(is_member_S)) > 0
    is_member_N, is_known_N = is_member_S[series_N], is_known_S[series_N]
    counted = Subgroup(
        by=kind,
        group=group,
        n_series=int(is_member_S.sum()),
        n_positive_series=int((is_member_S & is_positive_S).sum()),
        n_slices=int(is_member_N.sum()),
        n_positive=int(truth_N[is_member_N].sum()),
    )
    parts = is_member_S, is_known_S & ~is_member_S
    if any(part.sum() < LEAST_SERIES or (part & is_positive_S).sum() < LEAST_POSITIVE for part in parts):
        return counted
    by_slice = evaluation.by_unit.of(evaluation.by_unit.cluster[series_N]).only(is_known_N)
    auc, others, difference = by_slice.auc_of_part(
        truth_N[is_known_N], probability_N[is_known_N], is_member_N[is_known_N]
    )
    return replace(counted, auc=auc, auc_of_others=others, difference=difference)


def _by_text(value_S: Column) -> Groups:
    texts_S = value_S.astype(str)
    return {text: texts_S == text for text in np.unique(texts_S).tolist() if text}


def _by_thirds(unit: str) -> Callable[[Column], Groups]:
    """Return what divides series by the thirds of their numbers, or by number where there are three or fewer; series of
    which it is not known are in no group."""

    def group(value_S: Column) -> Groups:
        number_S = np.round(value_S.astype(np.float64), 3)
        known, groups = np.unique(number_S[~np.isnan(number_S)]), {}
        ends = known if len(known) <= 3 else np.quantile(number_S[~np.isnan(number_S)], [1 / 3, 2 / 3, 1])
        low = -np.inf
        for high in np.unique(ends):
            is_member_S = (number_S > low) & (number_S <= high)
            low = high
            if is_member_S.any():
                groups[_span(number_S[is_member_S], unit)] = is_member_S
        return groups

    return group


def _span(number: Float64Array, unit: str) -> str:
    low, high = number.min(), number.max()
    return (f"{low:g} {unit}" if low == high else f"{low:g} to {high:g} {unit}").rstrip()


def _by_tilt(value_S: Column) -> Groups:
    groups = {"straight": value_S < TILTED_DEG, f"tilted by {TILTED_DEG:g}° or more": value_S >= TILTED_DEG}
    return {name: is_member_S for name, is_member_S in groups.items() if is_member_S.any()}


def _compression(store: Store, rows: Rows) -> Column:
    syntaxes = store.index["transfer_syntax_uid"][rows].astype(str)
    names = [SYNTAXES[syntax].name if syntax else _NO_SYNTAX for syntax in syntaxes.tolist()]
    return np.array(names, dtype=object)


def _column(name: str) -> Callable[[Store, Rows], Column]:
    return lambda store, rows: store.index[name][rows]


def _n_slices(store: Store, rows: Rows) -> Column:
    n_of = {span.series_key: span.n_slices for span in store.series}
    return np.array([n_of[key] for key in store.index["series_key"][rows].tolist()])


def tilt_deg(store: Store, rows: Rows) -> Float64Array:
    """Return the angle between the normal of slices and the patient's axis from feet to head, 0 to 90; NaN where it is
    not known. Patient axes: DICOM PS3.3 C.7.6.2.1.1."""
    row, column = (
        np.stack([store.index[f"iop_{direction}_{axis}"][rows].astype(np.float64) for axis in "xyz"], axis=1)
        for direction in ("row", "column")
    )
    normal = np.cross(row, column)
    along = np.abs(normal[:, 2]) / np.linalg.norm(normal, axis=1)
    angle: Float64Array = np.degrees(np.arccos(np.clip(along, 0, 1)))
    return angle


_KINDS = (
    _Kind("compression", _compression, _by_text),
    _Kind("pixel spacing", _column("spacing_row_mm"), _by_thirds("mm")),
    _Kind("slice thickness", _column("slice_thickness_mm"), _by_thirds("mm")),
    _Kind("gantry tilt", tilt_deg, _by_tilt),
    _Kind("number of slices", _n_slices, _by_thirds("slices")),
)
