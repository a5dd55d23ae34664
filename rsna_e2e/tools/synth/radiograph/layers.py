"""Lengths of rays within solids that are known by their distance on a coarse grid, by layers across the beam.

Every layer of the grid is interpolated to the detector where the beam carries it; between two layers a ray crosses the
surface where the distance, linear along the ray, is 0. So edges are as sharp as the detector, not as the grid.
"""

# Y layers, Z x X samples of one, h x w pixels of a window of the detector

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from rsna_e2e.core.records import Float32Array, Float64Array
from rsna_e2e.tools.synth.common.resample import cubic_matrix
from rsna_e2e.tools.synth.common.shapes import Field
from rsna_e2e.tools.synth.radiograph.beam import Beam
from rsna_e2e.tools.synth.radiograph.body import STEP_MM, axes

Window = tuple[slice, slice]  # rows, columns
REACH_MM = 2.0 * STEP_MM  # samples that matter lie no farther outside a solid


@dataclass(frozen=True, slots=True)
class Reach:
    """Where a solid is: its layers, and the pixels that rays through it meet."""

    layers: slice
    pixels: Window


class Layers:
    """The layers of the grid as one beam sees them."""

    def __init__(self, beam: Beam) -> None:
        x, y, z = axes()
        self.shape = (beam.rows, beam.columns)
        self._size = (len(z), len(x))
        larger = beam.magnification(y)
        self._columns = [(beam.u_mm / m + (beam.x_mm - x[0])) / STEP_MM for m in larger]
        self._rows = [(beam.v_mm / m + (beam.z_mm - z[0])) / STEP_MM for m in larger]

    def reach(self, field: Field, margin_mm: float = REACH_MM) -> Reach | None:
        """Where a solid is, at most; None if nowhere on the image."""
        inside = field < margin_mm
        layers, rows, columns = (
            np.flatnonzero(inside.any(axis=tuple(j for j in range(3) if j != i))) for i in range(3)
        )
        if len(layers) == 0:
            return None
        spans = [
            _span(self._rows, int(rows[0]) - 1, int(rows[-1]) + 1),
            _span(self._columns, int(columns[0]) - 1, int(columns[-1]) + 1),
        ]
        if any(span.start >= span.stop for span in spans):
            return None
        first, last = max(int(layers[0]) - 1, 0), min(int(layers[-1]) + 2, len(field))
        return Reach(slice(first, last), (spans[0], spans[1]))

    def seen(self, plane: Field, layer: int, window: Window) -> Float32Array:
        """A plane [Z, X] of a field, interpolated to the window's pixels [h, w], as at the depth of a layer."""
        over_z, over_x = self._matrices(layer, window)
        return np.asarray(over_z @ np.ascontiguousarray((over_x @ np.ascontiguousarray(plane.T)).T))

    def _matrices(self, layer: int, window: Window) -> tuple[Any, Any]:
        rows, columns = self._rows[layer][window[0]], self._columns[layer][window[1]]
        return cubic_matrix(rows, self._size[0]), cubic_matrix(columns, self._size[1])

    def shares(self, field: Field, reach: Reach) -> Iterator[tuple[int, Float32Array]]:
        """Share [h, w] of the way from each layer to the next that lies within the solid."""
        before: tuple[Float32Array, Float32Array] | None = None
        for layer in range(reach.layers.start, reach.layers.stop):
            far = self.seen(field[layer], layer, reach.pixels)
            deep = np.maximum(-far, 0.0)
            np.abs(far, out=far)
            far += np.float32(1e-6)
            if before is not None:
                share = deep + before[0]
                share /= far + before[1]
                yield layer - 1, share
            before = deep, far

    def thickness(self, field: Field) -> Float32Array:
        """Length (mm) of each ray within a solid, [rows, columns]."""
        found = np.zeros(self.shape, np.float32)
        reach = self.reach(field)
        if reach is not None:
            into = found[reach.pixels]
            for _, share in self.shares(field, reach):
                into += share
            into *= np.float32(STEP_MM)
        return found


def _span(places: list[Float64Array], low: int, high: int) -> slice:
    """Pixels at which some layer shows samples between `low` and `high`."""
    inside = [np.flatnonzero((at > low) & (at < high)) for at in (places[0], places[-1])]
    ends = [(int(i[0]), int(i[-1]) + 1) for i in inside if len(i)]
    return slice(min(a for a, _ in ends), max(b for _, b in ends)) if ends else slice(0, 0)
