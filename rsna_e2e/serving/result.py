"""What a model says of one study: numbers for programs, and one sentence for people."""

# N slices of a series, L labels of slices, M of series

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from rsna_e2e.config import Frozen
from rsna_e2e.core.records import Float64Array, printable
from rsna_e2e.model.forward import Prediction
from rsna_e2e.serving.model import ServedModel
from rsna_e2e.serving.study_key import study_key
from rsna_e2e.store import SeriesSpan, Store

N_KEY_SLICES = 6  # of a label, at most
RESEARCH_ONLY = "Research use only, not for diagnosis."


class KeySlice(Frozen):
    """A slice that speaks for a label: the key of its series, and its place there, from 0 on."""

    series: str
    place: int


class LabelResult(Frozen):
    """A label of a study. probability: the highest over its slices, or series; above: whether it reaches the threshold,
    which is 0.5 where is_learned says that the model has none of its own.
    key_slices: those above it, the highest first, or where there is none, the highest; none of a label of series."""

    name: str
    level: Literal["slices", "series"]
    probability: float
    threshold: float
    is_learned: bool
    above: bool
    key_slices: list[KeySlice]


class SeriesResult(Frozen):
    """A series of a study. place_mm: of each slice along their normal, None where slices have no place. images: their
    ids; probability: [N, L], in the order of `labels` of slices."""

    key: str
    n_slices: int
    place_mm: list[float | None]
    images: list[str]
    probability: list[list[float]]


class ModelName(Frozen):
    """Which model it was, see `ServedModel`."""

    name: str
    version: str
    identity: str


class Result(Frozen):
    """What a model says of one study. study: 16 hexadecimal digits in place of its StudyInstanceUID."""

    schema_name: Literal["rsna_e2e.result/1"] = "rsna_e2e.result/1"
    study: str
    task: str
    model: ModelName
    research_only: Literal[True] = True
    sentence: str
    labels: list[LabelResult]
    series: list[SeriesResult]


def results(model: ServedModel, store: Store, prediction: Prediction) -> list[Result]:
    """Return the result of each study in a prediction of whole series, in the order of the store."""
    of_study: dict[str, list[_Seen]] = {}
    for number, position in enumerate(prediction.positions.tolist()):
        span = store.series[position]
        is_own = (prediction.rows >= span.rows.start) & (prediction.rows < span.rows.stop)
        of_series = None if prediction.series is None else prediction.series[number]
        seen = _Seen(span=span, slices=prediction.slices[is_own], series=of_series)
        of_study.setdefault(span.study_uid, []).append(seen)
    return [_result(model, store, study_uid, seen) for study_uid, seen in of_study.items()]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """A series, with the probabilities of its slices [N, L], and its own [M] where the model predicts such."""

    span: SeriesSpan
    slices: Float64Array
    series: Float64Array | None


def _result(model: ServedModel, store: Store, study_uid: str, seen: Sequence[_Seen]) -> Result:
    task = model.task
    labels = [_of_slices(model, name, column, seen) for column, name in enumerate(task.slices.names)]
    if task.series_truth == "own":
        labels += [_of_series(model, name, column, seen) for column, name in enumerate(task.series.names)]
    return Result(
        study=study_key(study_uid),
        task=task.name,
        model=ModelName(name=model.name, version=model.version, identity=model.identity),
        sentence=sentence(labels, {one.span.series_key: one.span.n_slices for one in seen}),
        labels=labels,
        series=[_series(store, one) for one in seen],
    )


def _of_slices(model: ServedModel, name: str, column: int, seen: Sequence[_Seen]) -> LabelResult:
    threshold, is_learned = model.threshold("slices", name)
    places = [(float(p), one.span.series_key, place) for one in seen for place, p in enumerate(one.slices[:, column])]
    places.sort(key=lambda each: -each[0])  # stable: of equals the first
    keys = [each for each in places if each[0] >= threshold][:N_KEY_SLICES] or places[:1]
    return LabelResult(
        name=name,
        level="slices",
        probability=places[0][0],
        threshold=threshold,
        is_learned=is_learned,
        above=places[0][0] >= threshold,
        key_slices=[KeySlice(series=key, place=place) for _, key, place in keys],
    )


def _of_series(model: ServedModel, name: str, column: int, seen: Sequence[_Seen]) -> LabelResult:
    threshold, is_learned = model.threshold("series", name)
    highest = max(float(one.series[column]) for one in seen if one.series is not None)
    return LabelResult(
        name=name,
        level="series",
        probability=highest,
        threshold=threshold,
        is_learned=is_learned,
        above=highest >= threshold,
        key_slices=[],
    )


def _series(store: Store, one: _Seen) -> SeriesResult:
    rows = one.span.rows
    has_place = store.geometry == "patient"
    return SeriesResult(
        key=one.span.series_key,
        n_slices=one.span.n_slices,
        place_mm=store.index["position_mm"][rows].tolist() if has_place else [None] * one.span.n_slices,
        images=[printable(image_id) for image_id in store.index["image_id"][rows]],
        probability=one.slices.tolist(),
    )


def sentence(labels: Sequence[LabelResult], n_slices: Mapping[str, int]) -> str:
    """Return what is above its threshold, the most probable first, and where. n_slices: of each series, by its key."""
    above = sorted((label for label in labels if label.above), key=lambda label: -label.probability)
    if not above:
        highest = max(labels, key=lambda label: label.probability)
        return f"No label is above its threshold; the highest is {_said(highest, n_slices)}. {RESEARCH_ONLY}"
    rest = "" if len(above) == len(labels) else " No other label is above its threshold."
    return f"Above threshold: {'; '.join(_said(label, n_slices) for label in above)}.{rest} {RESEARCH_ONLY}"


def _said(label: LabelResult, n_slices: Mapping[str, int]) -> str:
    where = ""
    if label.key_slices:
        best = label.key_slices[0]
        of_which = f" of series {best.series[:8]}" if len(n_slices) > 1 else ""
        where = f", highest in slice {best.place + 1} of {n_slices[best.series]}{of_which}"
    return f"{label.name.replace('_', ' ')} (probability {label.probability:.2f}{where})"
