"""Plans batches before a pixel is read: their slices and the geometry of each.

A plan is a pure function of (store, configuration, epoch, batch).
"""

# N slices (packed), n of them the rank's own, B series

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rsna_e2e.config import ImageConfig, RunConfig
from rsna_e2e.core.records import Float32Array, Float64Array, Rows
from rsna_e2e.loader.division import Division
from rsna_e2e.loader.geometry import (
    Boxes,
    SliceParams,
    crop_squares,
    cut_window,
    draw_augmentation,
    series_generator,
    slice_params,
)
from rsna_e2e.loader.present import STILL, Jitter, draw_jitter
from rsna_e2e.loader.rank_share import RankShare, series_share
from rsna_e2e.loader.sampler import Batch
from rsna_e2e.store import SeriesSpan, Store

_NO_PARAMS = SliceParams(
    np.empty((0, 2, 3), dtype=np.float32), np.empty((0, 3), dtype=np.int32), np.empty((0, 3, 3), dtype=np.float64)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPlan(RankShare):
    """A rank's share of a batch, with the size and geometry of its slices.

    shapes [n, 2]: height, width. affine [n, 2, 3], source_box [n, 3], augmentation [n, 3, 3]: as in `SliceParams`.
    jitters [n]: of the greys of radiographs.
    """

    shapes: npt.NDArray[np.int32]
    affine: Float32Array
    source_box: Boxes
    augmentation: Float64Array
    jitters: tuple[Jitter, ...]

    @property
    def areas(self) -> Rows:
        """Number of HU values of each slice [n]."""
        areas: Rows = self.shapes.astype(np.int64).prod(axis=1)
        return areas

    @property
    def n_values(self) -> int:
        """Number of HU values of all slices."""
        return int(self.areas.sum())

    @property
    def offsets(self) -> Rows:
        """Where each slice begins [n] when they lie one after another."""
        offsets: Rows = np.cumsum(self.areas) - self.areas
        return offsets

    def cropped_to(self, content: npt.NDArray[np.int64], image: ImageConfig) -> "BatchPlan":
        """The same plan with every slice cropped to its `content` [n, 4], see `crop_squares`."""
        boxes = crop_squares(content, self.shapes.astype(np.int64), "slice", square=image.square)
        params = slice_params(boxes, self.augmentation, size=image.resized)
        return replace(self, affine=params.affine, source_box=params.source_box)


class _Drawn(NamedTuple):
    """Geometry of the slices of a series, and their grey if they are radiographs, in an epoch."""

    params: SliceParams
    jitter: Jitter


class Planner:
    """Plans one rank's share of batches of one store for one configuration."""

    def __init__(self, store: Store, config: RunConfig, *, division: Division) -> None:
        self._store, self._config, self._division = store, config, division
        corners = [store.index[f"content_{name}"] for name in ("x0", "y0", "x1", "y1")]
        self._content = np.stack(corners, axis=1).astype(np.int64)
        self._shapes = np.stack([store.index["rows"], store.index["columns"]], axis=1).astype(np.int32)
        self._drawn: dict[int | None, dict[str, _Drawn]] = {}  # by series key, of one epoch at a time
        self._series_of_row = np.repeat(np.arange(len(store.series)), [span.n_slices for span in store.series])

    def series(self, batch: Batch, *, epoch: int | None) -> BatchPlan:
        """Plan a batch of whole series, given by their positions in `store.series`."""
        return self._plan(series_share(self._store, batch, self._division), epoch)

    def slices(self, rows: Batch, *, epoch: int | None) -> BatchPlan:
        """Plan a batch of single slices, given by store rows; each has its series' geometry and is a series of one."""
        alone = (1,) * len(rows)
        share = RankShare(
            batch_rows=np.array(rows, dtype=np.int64),
            positions=tuple(self._series_of_row[list(rows)].tolist()),
            spans=tuple(self._span_of(row) for row in rows),
            lengths=alone,
            chunks=self._division.by_slices().chunks(alone),
        )
        return self._plan(share, epoch)

    def _plan(self, share: RankShare, epoch: int | None) -> BatchPlan:
        params, jitters = [_NO_PARAMS], list[Jitter]()
        for row in share.rows.tolist():
            span = self._span_of(row)
            place = row - span.first_row
            drawn = self._drawn_of(span, epoch)
            params.append(drawn.params[place : place + 1])
            jitters.append(drawn.jitter)
        return BatchPlan(
            batch_rows=share.batch_rows,
            positions=share.positions,
            spans=share.spans,
            lengths=share.lengths,
            chunks=share.chunks,
            shapes=self._shapes[share.rows],
            affine=np.concatenate([p.affine for p in params]),
            source_box=np.concatenate([p.source_box for p in params]),
            augmentation=np.concatenate([p.augmentation for p in params]),
            jitters=tuple(jitters),
        )

    def _span_of(self, row: int) -> SeriesSpan:
        return self._store.series[int(self._series_of_row[row])]

    def _drawn_of(self, span: SeriesSpan, epoch: int | None) -> _Drawn:
        """What is drawn for a series, kept for the epoch: batches of single slices ask for it once a slice."""
        drawn = self._drawn.setdefault(epoch, {})
        if len(self._drawn) > 1:
            self._drawn = {epoch: drawn}
        if span.series_key not in drawn:
            drawn[span.series_key] = self._draw(span, epoch)
        return drawn[span.series_key]

    def _draw(self, span: SeriesSpan, epoch: int | None) -> _Drawn:
        image = self._config.image
        rng = augmentation = augment = None
        if epoch is not None:
            rng, augment = series_generator(self._config.seed, epoch, span.series_key), self._config.augment_at(epoch)
            augmentation = draw_augmentation(rng, augment, size=image.size)
        if image.resize is not None:
            window = cut_window(rng, margin_px=image.resize - image.size)
            augmentation = window if augmentation is None else window @ augmentation
        shapes = self._shapes[span.rows].astype(np.int64)
        boxes = crop_squares(self._content[span.rows], shapes, image.crop, square=image.square)
        extents = shapes[:, ::-1] if image.is_stretched else None
        jitter = STILL
        if rng is not None and augment is not None and self._store.values == "grey":
            jitter = draw_jitter(rng, augment)  # last, so that all draws before keep their values
        return _Drawn(slice_params(boxes, augmentation, size=image.resized, extents=extents), jitter)
