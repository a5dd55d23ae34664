"""What a model says of one study: numbers for programs, and one sentence for people."""

# N slices of a series, L labels of slices, or classes of boxes, M labels of series, K boxes

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from pydantic import Field

from rsna_e2e.config import Frozen
from rsna_e2e.core.records import Float64Array, printable
from rsna_e2e.model.find_boxes import BoxPrediction
from rsna_e2e.model.forward import Prediction
from rsna_e2e.serving.model import ServedModel
from rsna_e2e.serving.study_key import study_key
from rsna_e2e.store import SeriesSpan, Store
from rsna_e2e.store.layout import hash_of_study
from rsna_e2e.tasks.boxes import ImageBoxes, placed

N_KEY_SLICES = 6  # of a label, at most
N_DIGITS = 16  # hexadecimal ones, of a sha256
RESEARCH_ONLY = "Research use only, not for diagnosis."


class KeySlice(Frozen):
    """A slice that speaks for a label: the key of its series, and its place there, from 0 on."""

    series: str
    place: int


class LabelResult(Frozen):
    """A label of a study. probability: the highest over its slices, or series; above: whether it reaches the threshold,
    which is 0.5 where is_learned says that the model has none of its own.
    key_slices: those above it, the highest first, or where there is none, the highest; none of a label of series.
    Of a model that finds boxes, probability is the highest score of a box, 0 without one, and n_boxes how many reach
    the threshold; None of other models."""

    name: str
    level: Literal["slices", "series"]
    probability: float
    threshold: float
    is_learned: bool
    above: bool
    key_slices: list[KeySlice]
    n_boxes: int | None = None


class BoxResult(Frozen):
    """A box in a slice, whose place in its series is counted from 0. x, y: its upper left corner, and width, height: in
    px of the slice, whose own corner is 0, 0, as submissions have them."""

    label: str
    slice: int
    x: float
    y: float
    width: float
    height: float
    score: float


class SeriesResult(Frozen):
    """A series of a study. place_mm: of each slice along their normal, None where slices have no place. images: their
    ids; probability: [N, L], in the order of `labels` of slices, see `LabelResult`. boxes: all that were found, below
    the threshold too, slice by slice."""

    key: str
    n_slices: int
    place_mm: list[float | None]
    images: list[str]
    probability: list[list[float]]
    boxes: list[BoxResult] = Field(default_factory=list)


class ModelName(Frozen):
    """Which model it was, see `ServedModel`."""

    name: str
    version: str
    identity: str


class Result(Frozen):
    """What a model says of one study. study: 16 hexadecimal digits in place of its StudyInstanceUID; content: as many
    of what was seen of it, `hash_of_study`, equal for equal slices; empty in results of earlier versions."""

    schema_name: Literal["rsna_e2e.result/1"] = "rsna_e2e.result/1"
    study: str
    content: str = ""
    task: str
    model: ModelName
    research_only: Literal[True] = True
    sentence: str
    labels: list[LabelResult]
    series: list[SeriesResult]


def results(model: ServedModel, store: Store, prediction: Prediction | BoxPrediction) -> list[Result]:
    """Return the result of each study in a prediction of whole series, in the order of the store, in which it is."""
    if isinstance(prediction, BoxPrediction):
        found = _with_boxes(model, store, prediction)
    else:
        found = _with_labels(store, prediction)
    of_study: dict[str, list[_Seen]] = {}
    for seen in found:
        of_study.setdefault(seen.span.study_uid, []).append(seen)
    return [_result(model, store, study_uid, seen) for study_uid, seen in of_study.items()]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """A series, with the probabilities of its slices [N, L], and its own [M] where the model predicts such; or with the
    boxes in them, None of a model that finds none, and their highest scores [N, L]."""

    span: SeriesSpan
    slices: Float64Array
    series: Float64Array | None
    boxes: ImageBoxes | None


def _with_labels(store: Store, prediction: Prediction) -> Iterator[_Seen]:
    for number, position in enumerate(prediction.positions.tolist()):
        span = store.series[position]
        is_own = (prediction.rows >= span.rows.start) & (prediction.rows < span.rows.stop)
        of_series = None if prediction.series is None else prediction.series[number]
        yield _Seen(span=span, slices=prediction.slices[is_own], series=of_series, boxes=None)


def _with_boxes(model: ServedModel, store: Store, found: BoxPrediction) -> Iterator[_Seen]:
    for span in store.series:
        first, end = np.searchsorted(found.rows, [span.rows.start, span.rows.stop]).tolist()
        if first < end:
            own = found.boxes.at(np.arange(*np.searchsorted(found.boxes.images, [first, end])))
            boxes = replace(own, images=own.images - first)
            highest_NL = np.zeros((end - first, len(model.slice_labels)))
            np.maximum.at(highest_NL, (boxes.images, boxes.classes), boxes.scores)
            yield _Seen(span=span, slices=highest_NL, series=None, boxes=boxes)


def _result(model: ServedModel, store: Store, study_uid: str, seen: Sequence[_Seen]) -> Result:
    task = model.task
    labels = [_of_slices(model, name, column, seen) for column, name in enumerate(model.slice_labels)]
    if task.series_truth == "own" and not model.finds_boxes:
        labels += [_of_series(model, name, column, seen) for column, name in enumerate(task.series.names)]
    return Result(
        study=study_key(study_uid),
        content=hash_of_study(store.index, [one.span.rows for one in seen], store.values)[:N_DIGITS],
        task=task.name,
        model=ModelName(name=model.name, version=model.version, identity=model.identity),
        sentence=sentence(labels, {one.span.series_key: one.span.n_slices for one in seen}),
        labels=labels,
        series=[_series(model, store, one) for one in seen],
    )


def _of_slices(model: ServedModel, name: str, column: int, seen: Sequence[_Seen]) -> LabelResult:
    threshold, is_learned = model.threshold("slices", name)
    places = [(float(p), one.span.series_key, place) for one in seen for place, p in enumerate(one.slices[:, column])]
    places.sort(key=lambda each: -each[0])  # stable: of equals the first
    keys = [each for each in places if each[0] >= threshold][:N_KEY_SLICES] or places[:1]
    n_boxes = sum(_n_boxes(one.boxes, column, threshold) for one in seen if one.boxes is not None)
    return LabelResult(
        name=name,
        level="slices",
        probability=places[0][0],
        threshold=threshold,
        is_learned=is_learned,
        above=n_boxes > 0 if model.finds_boxes else places[0][0] >= threshold,
        key_slices=[KeySlice(series=key, place=place) for _, key, place in keys],
        n_boxes=n_boxes if model.finds_boxes else None,
    )


def _n_boxes(boxes: ImageBoxes, number: int, threshold: float) -> int:
    return int(((boxes.classes == number) & (boxes.scores >= threshold)).sum())


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


def _series(model: ServedModel, store: Store, one: _Seen) -> SeriesResult:
    rows = one.span.rows
    has_place = store.geometry == "patient"
    return SeriesResult(
        key=one.span.series_key,
        n_slices=one.span.n_slices,
        place_mm=store.index["position_mm"][rows].tolist() if has_place else [None] * one.span.n_slices,
        images=[printable(image_id) for image_id in store.index["image_id"][rows]],
        probability=one.slices.tolist(),
        boxes=[] if one.boxes is None else [*_boxes(one.boxes, model.slice_labels)],
    )


def _boxes(boxes: ImageBoxes, names: Sequence[str]) -> Iterator[BoxResult]:
    columns = (boxes.images, boxes.classes, placed(boxes.edges), boxes.scores)
    for place, number, (x, y, width, height), score in zip(*(column.tolist() for column in columns), strict=True):
        yield BoxResult(label=names[number], slice=place, x=x, y=y, width=width, height=height, score=score)


def sentence(labels: Sequence[LabelResult], n_slices: Mapping[str, int]) -> str:
    """Return what is above its threshold, the most probable first, and where; of boxes, how many. n_slices: of each
    series, by its key."""
    above = sorted((label for label in labels if label.above), key=lambda label: -label.probability)
    if not above:
        return f"{_nothing_above(labels, n_slices)}. {RESEARCH_ONLY}"
    rest = "" if len(above) == len(labels) else " No other label is above its threshold."
    return f"Above threshold: {'; '.join(_said(label, n_slices) for label in above)}.{rest} {RESEARCH_ONLY}"


def _nothing_above(labels: Sequence[LabelResult], n_slices: Mapping[str, int]) -> str:
    highest = max(labels, key=lambda label: label.probability)
    if highest.n_boxes is None:
        return f"No label is above its threshold; the highest is {_said(highest, n_slices)}"
    if highest.probability == 0:
        return f"No box of {' or '.join(_spelled(label) for label in labels)} was found"
    return f"No box is above its threshold; the highest is of {_said(highest, n_slices)}"


def _spelled(label: LabelResult) -> str:
    return label.name.replace("_", " ")


def _said(label: LabelResult, n_slices: Mapping[str, int]) -> str:
    where = ""
    if label.key_slices:
        best = label.key_slices[0]
        n = n_slices[best.series]
        places = [f"slice {best.place + 1} of {n}"] if n > 1 else []  # a radiograph is all of its series
        places += [f"series {best.series[:8]}"] if len(n_slices) > 1 else []
        where = f", highest in {' of '.join(places)}" if places else ""
    count = f"{label.n_boxes} box{'es' if label.n_boxes > 1 else ''} of " if label.n_boxes else ""
    what = "probability" if label.n_boxes is None else "score"
    return f"{count}{_spelled(label)} ({what} {label.probability:.2f}{where})"
