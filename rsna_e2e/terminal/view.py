"""What is looked at: which slice, label, window and model, and what the keys change of it."""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from rsna_e2e.core.records import Float32Array, Float64Array
from rsna_e2e.evaluation.report.thumbnails import windowed
from rsna_e2e.inference.activation_maps import Label
from rsna_e2e.loader.present import shown_slice
from rsna_e2e.serving.maps import ServedMaps
from rsna_e2e.store import SeriesSpan
from rsna_e2e.tasks.windows import named_windows, sharpest_window
from rsna_e2e.terminal.picture import mapped_picture, overlay, plain_picture, shaded
from rsna_e2e.terminal.session import Session

# S side of a picture


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A view of a series. place: number of the slice, from 0; label, model: numbers; window: its name; has_map: the
    heatmap of the model is over the slice; is_overlay: the maps of all models are."""

    n_slices: int
    place: int
    label: int
    model: int
    window: str
    has_map: bool = False
    is_overlay: bool = False

    @classmethod
    def first(cls, session: Session, span: SeriesSpan) -> Self:
        """Return a view of the middle of a series, in the narrowest window of the task, for its headline."""
        window, _ = sharpest_window(session.task)
        return cls(
            n_slices=span.n_slices,
            place=span.n_slices // 2,
            label=session.task.headline_index,
            model=0,
            window=window,
        )

    def at(self, place: int) -> Self:
        """Return the view of another slice, the first or last where there is none."""
        return replace(self, place=min(max(place, 0), self.n_slices - 1))

    def of_label(self, number: int, n_labels: int) -> Self:
        """Return the view for another label; the same where there is none."""
        return replace(self, label=number) if 0 <= number < n_labels else self

    def next_window(self, session: Session) -> Self:
        """Return the view in the next window of the task, after the last in the first."""
        names = list(named_windows(session.task))
        return replace(self, window=names[(names.index(self.window) + 1) % len(names)])

    def next_model(self, n_models: int) -> Self:
        """Return the view with the next model, after the last with the first."""
        return replace(self, model=(self.model + 1) % max(n_models, 1))

    def mapped_by(self, n_models: int) -> tuple[int, ...]:
        """Return the numbers of the models whose maps are shown."""
        if self.is_overlay:
            return tuple(range(n_models))
        return (self.model,) if self.has_map and n_models else ()

    @property
    def question(self) -> tuple[int, int, bool, bool]:
        """What models are asked for it: views with the same one have the same answer and maps."""
        return self.model, self.label, self.has_map, self.is_overlay

    def label_of(self, session: Session) -> Label:
        """Return the label that is looked at."""
        return session.labels[self.label][0]


def best_place(probability_NL: Float64Array, label: Label, headline: int) -> int:
    """Return the slice that speaks most for a label; of a label of series, for the headline of slices."""
    level, index = label
    return int(probability_NL[:, index if level == "slice" else headline].argmax())


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """A slice to draw: grey [S, S] and heatmaps [S, S] of models, all from 0 to 1."""

    grey: Float32Array
    shares: tuple[Float32Array, ...] = ()
    is_overlay: bool = False

    def picture(self) -> Float32Array:
        """Return it in colours [S, S, 3]."""
        if self.is_overlay and self.shares:
            return overlay(self.grey, self.shares)
        return mapped_picture(self.grey, self.shares[0]) if self.shares else plain_picture(self.grey)

    def characters(self) -> list[str]:
        """Return it in S / 2 lines of S characters."""
        return shaded(self.grey, np.mean(self.shares, axis=0) if self.shares else None)


def frame(session: Session, span: SeriesSpan, view: View, maps: tuple[ServedMaps, ...], *, side: int) -> Frame:
    """Return what a view shows. maps: of `view.mapped_by`; side: S, in px. Raises StoreError for a damaged slice."""
    shown = shown_slice(session.store, span.first_row + view.place)
    grey: Float32Array = windowed(shown, [named_windows(session.task)[view.window]], side=side)[0]
    shares = tuple(one.on_picture(view.place, shown.shape, side=side) for one in maps)
    return Frame(grey=grey, shares=shares, is_overlay=view.is_overlay)
