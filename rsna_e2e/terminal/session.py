"""What the console works on: an opened store and models, and the one place where these models are asked."""

# N slices of a series or study, L labels of slices, M of series

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from threading import RLock

import numpy as np

from rsna_e2e.core.records import Float64Array, printable
from rsna_e2e.inference.activation_maps import Label
from rsna_e2e.inference.bundle import task_of
from rsna_e2e.loader.present import check_values
from rsna_e2e.serving.maps import ServedMaps, served_maps
from rsna_e2e.serving.model import ServedModel
from rsna_e2e.serving.result import LabelResult, Result, results
from rsna_e2e.store import SeriesSpan, Store
from rsna_e2e.store.reader import check_labels
from rsna_e2e.tasks.task import Task
from rsna_e2e.terminal.patients import Study, studies_of

_KEPT = 32  # answers and maps that are kept; maps of 400 slices take some MB


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A model and the file or folder that it came from."""

    path: Path
    served: ServedModel

    @property
    def title(self) -> str:
        """Its name and version as they are shown."""
        return printable(f"{self.served.name} {self.served.version}".rstrip())


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a model says of a study. slices: calibrated probabilities [N, L] of each of its series, by their keys."""

    result: Result
    slices: dict[str, Float64Array]

    def label(self, label: Label) -> LabelResult:
        """Return what is said of a label."""
        wanted = "slices" if label[0] == "slice" else "series"
        return [one for one in self.result.labels if one.level == wanted][label[1]]


@dataclass(eq=False)
class Session:
    """A store, and models of one task, which see the same patients. Answers are kept, so that asking again is free.

    asking: held while a model is asked or makes maps, as one network can serve one thread at a time only: the hooks
    that maps need would fire in the pass of another. A thread that asks several times may hold it all the while.

    Raises UsageError where models are for different labels or the store holds other images, BadInputError where its
    labels are not those of the task.
    """

    store: Store
    task: Task
    models: Sequence[LoadedModel]
    studies: list[Study] = field(init=False)
    asking: RLock = field(init=False, repr=False, default_factory=RLock)

    def __post_init__(self) -> None:
        task_of([self.task, *(model.served.task for model in self.models)])
        check_values(self.store, self.task)
        check_labels(self.store, self.task)
        self.studies = studies_of(self.store.series)
        self.ask = lru_cache(_KEPT)(self._ask)
        self.maps = lru_cache(_KEPT)(self._maps)

    def _ask(self, number: int, study: Study) -> Answer:
        """Return what model `number`, from 0, says of a study, as `predict --calibrated` would."""
        model = self.models[number].served
        positions = [self.store.series.index(span) for span in study.spans]
        with self.asking:
            prediction = model(self.store, positions)
        (result,) = results(model, self.store, prediction)
        return Answer(result=result, slices={one.key: np.array(one.probability) for one in result.series})

    def _maps(self, number: int, span: SeriesSpan, label: Label) -> ServedMaps:
        """Return the maps of a series by model `number` for a label. Raises UsageError where it has no such."""
        with self.asking:
            (found,) = served_maps(self.models[number].served, self.store, span, [label])
        return found

    @property
    def labels(self) -> list[tuple[Label, str]]:
        """The labels of slices, then those that series have of their own, with their names."""
        of_slices: list[tuple[Label, str]] = [(("slice", n), name) for n, name in enumerate(self.task.slices.names)]
        return of_slices + [(("series", n), name) for n, name in enumerate(self.task.series.names)]

    def mean_of_slices(self, span: SeriesSpan, study: Study) -> Float64Array:
        """Return the mean of the models' probabilities [N, L] of the slices of a series."""
        answers = [self.ask(number, study) for number in range(len(self.models))]
        mean: Float64Array = np.mean([answer.slices[span.series_key] for answer in answers], axis=0)
        return mean

    def key_slice(self, study: Study) -> tuple[SeriesSpan, int]:
        """Return the series and place of the slice that speaks most for the headline in the mean of all models."""
        means = [self.mean_of_slices(span, study)[:, self.task.headline_index] for span in study.spans]
        best = max(range(len(means)), key=lambda number: float(means[number].max()))
        return study.spans[best], int(means[best].argmax())

    def truth(self, study: Study, label: Label) -> float:
        """Return whether a study has a label: 1 where one of its slices or series does, 0 where it is known that none
        does, NaN where it is not known."""
        level, index = label
        if level == "slice":
            values = np.concatenate([self.truth_of_slices(span)[:, index] for span in study.spans])
        else:
            values = np.array([self.store.series_labels[self.store.series.index(span), index] for span in study.spans])
        return 1.0 if (values == 1).any() else float(values.max())  # the maximum of what has NaN is NaN

    def truth_of_slices(self, span: SeriesSpan) -> Float64Array:
        """Return the labels [N, L] of the slices of a series, NaN where they are not known."""
        found: Float64Array = self.store.labels[span.rows].astype(np.float64)
        return found
