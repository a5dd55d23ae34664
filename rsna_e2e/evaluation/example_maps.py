"""Maps of what a run sees of its task's headline, over the slices that a report shows."""

import io

import matplotlib.image
import numpy as np

from rsna_e2e.evaluation.explain import coloured, find_label
from rsna_e2e.evaluation.report.theme import data_uri
from rsna_e2e.evaluation.report.thumbnails import Thumbnails, fitted
from rsna_e2e.inference.activation_maps import ActivationMaps, activation_maps
from rsna_e2e.inference.trained_model import TrainedModel
from rsna_e2e.store import Store
from rsna_e2e.tasks.windows import sharpest_window

_JPEG_QUALITY = 85


class ExampleMaps:
    """Pictures of slices of a store with a run's maps over them, by image id."""

    def __init__(self, trained: TrainedModel, store: Store) -> None:
        self._trained, self._store = trained, store
        self._thumbnails = Thumbnails(store, sharpest_window(trained.task)[1])
        self._label = find_label(trained, trained.task.headline)
        self._of_series: tuple[int, ActivationMaps] | None = None  # the first row of those made last

    def data_uri(self, image_id: str) -> str:
        """Return a slice with its map as a JPEG data URI. Raises BadInputError when the store has no such image."""
        grey = self._thumbnails.picture(image_id)
        row = int(np.flatnonzero(self._store.index["image_id"] == image_id)[0])
        first_row, maps = self._maps(row)
        side = len(grey)
        shape = int(self._store.index["rows"][row]), int(self._store.index["columns"][row])
        shown = maps.on_picture(row - first_row, fitted(*shape, side=side), side=side)
        buffer = io.BytesIO()
        picture = coloured(grey, shown, brightest=maps.brightest)
        matplotlib.image.imsave(buffer, picture, format="jpg", pil_kwargs={"quality": _JPEG_QUALITY})
        return data_uri("image/jpeg", buffer.getvalue())

    def _maps(self, row: int) -> tuple[int, ActivationMaps]:
        """Return the maps of the series that a row lies in, and its first row."""
        span = next(span for span in self._store.series if span.rows.start <= row < span.rows.stop)
        if self._of_series is None or self._of_series[0] != span.first_row:
            (maps,) = activation_maps(self._trained, self._store, span, labels=[self._label])
            self._of_series = span.first_row, maps
        return self._of_series
