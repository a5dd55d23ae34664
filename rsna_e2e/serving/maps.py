"""Class-activation maps of a served model: the mean of its runs' maps, as shares of the brightest of a series."""

# R runs of a model, G labels

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from rsna_e2e.core.records import Float32Array, Progress, no_progress
from rsna_e2e.evaluation.report.thumbnails import fitted
from rsna_e2e.inference.activation_maps import ActivationMaps, Label, activation_maps, shares_of
from rsna_e2e.serving.model import ServedModel
from rsna_e2e.store import SeriesSpan, Store


@dataclass(frozen=True, slots=True)
class ServedMaps:
    """The maps of a series for one label, by each of the R runs of a model, and the brightest value of each."""

    of_runs: tuple[ActivationMaps, ...]
    brightest: tuple[float, ...]

    @classmethod
    def of(cls, of_runs: tuple[ActivationMaps, ...]) -> Self:
        """Return those of runs; their brightest values are looked for once."""
        return cls(of_runs, tuple(one.brightest for one in of_runs))

    def on_picture(self, place: int, shape: tuple[int, int], *, side: int) -> Float32Array:
        """Return the mean over runs [side, side], of values from 0 to 1, on the square picture that `windowed` makes.

        place: number of the slice; shape: its rows and columns.
        """
        to_slice = fitted(*shape, side=side)
        shares = [
            shares_of(one.on_picture(place, to_slice, side=side), brightest)
            for one, brightest in zip(self.of_runs, self.brightest, strict=True)
        ]
        mean: Float32Array = np.mean(shares, axis=0).astype(np.float32)
        return mean


def served_maps(
    model: ServedModel,
    store: Store,
    span: SeriesSpan,
    labels: Sequence[Label],
    *,
    progress: Progress = no_progress,
) -> list[ServedMaps]:
    """Return the maps of a series for each of these labels. Each backbone goes over it twice for all of them together.

    Raises UsageError for a backbone without feature maps.
    """
    of_runs_RG = [activation_maps(trained, store, span, labels=labels, progress=progress) for trained in model.members]
    return [ServedMaps.of(of_runs) for of_runs in zip(*of_runs_RG, strict=True)]
