"""Everything long and round (vessels, airways, bones) as tubes, and their distances drawn into planes."""

# T tubes, L layers, n tubes of one patch size P

from dataclasses import dataclass, replace
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from rsna_e2e.core.records import Float32Array, Float64Array
from rsna_e2e.tools.synth.common.series import FINE

Int64Array = npt.NDArray[np.int64]

FAR_MM = 60.0
REACH_PIXELS = 1.5  # distances are right up to this far outside a tube
PATCHES = (8, 12, 16, 24, 32, 48, 64, 96, 128)  # pixels; larger tubes are cut off, there are none


class Layer(IntEnum):
    """What a tube is made of; tubes of one layer are drawn as one body."""

    SOFT = 0  # lymph nodes, oesophagus, mucus, cartilage
    PALE = 1  # veins without contrast
    VEIN = 2  # pulmonary
    WALL = 3  # of airways
    AIRWAY = 4
    AORTA = 5
    SVC = 6  # and the vein that the contrast comes through
    ARTERY = 7  # pulmonary
    DEFECT = 8  # in the superior vena cava and the right atrium
    BONE = 9
    EMBOLUS = 10  # the first of them: one layer for each region and age


@dataclass(frozen=True, slots=True, kw_only=True)
class Tubes:
    """T tubes with round ends. start, end [T, 3] mm; radius_mm [T, 2] at both; layer [T]."""

    start: Float64Array
    end: Float64Array
    radius_mm: Float64Array
    layer: Int64Array

    def __len__(self) -> int:
        return len(self.layer)

    @classmethod
    def join(cls, *parts: "Tubes") -> "Tubes":
        """All tubes of several."""
        return cls(
            start=np.concatenate([part.start for part in parts]),
            end=np.concatenate([part.end for part in parts]),
            radius_mm=np.concatenate([part.radius_mm for part in parts]),
            layer=np.concatenate([part.layer for part in parts]),
        )

    @classmethod
    def along(cls, points: npt.ArrayLike, radii_mm: npt.ArrayLike, layer: Layer) -> "Tubes":
        """A chain of tubes through points [n, 3] with radii [n] (or one for all)."""
        at = np.asarray(points, np.float64)
        radii = np.broadcast_to(np.asarray(radii_mm, np.float64), len(at))
        return cls(
            start=at[:-1],
            end=at[1:],
            radius_mm=np.stack([radii[:-1], radii[1:]], axis=1),
            layer=np.full(len(at) - 1, int(layer)),
        )

    def of(self, *layers: int) -> "Tubes":
        """Those of some layers."""
        return self.at(np.isin(self.layer, layers))

    def at(self, chosen: npt.NDArray[np.generic]) -> "Tubes":
        """Those at a mask or at indices."""
        return Tubes(
            start=self.start[chosen],
            end=self.end[chosen],
            radius_mm=self.radius_mm[chosen],
            layer=self.layer[chosen],
        )

    def scaled(self, scale: tuple[float, float, float]) -> "Tubes":
        """The same in a body of another size; radii grow as the mean of the axes."""
        by = np.array(scale)
        return replace(self, start=self.start * by, end=self.end * by, radius_mm=self.radius_mm * by.mean())

    def mirrored(self) -> "Tubes":
        """The same on the other side of the body."""
        other = np.array((-1.0, 1.0, 1.0))
        return replace(self, start=self.start * other, end=self.end * other)

    def moved(self, rotation: Float64Array, shift_mm: npt.ArrayLike) -> "Tubes":
        """The same in the world: turned by `rotation` [3, 3], then shifted."""
        shift = np.asarray(shift_mm)
        return replace(self, start=self.start @ rotation.T + shift, end=self.end @ rotation.T + shift)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plane:
    """An axial plane at height z_mm whose fine pixel (row, column) = (0, 0) has its centre at (x_mm, y_mm)."""

    x_mm: float
    y_mm: float
    z_mm: float
    pixel_mm: float


class Raster:
    """Draws one set of tubes into any number of planes."""

    def __init__(self, tubes: Tubes) -> None:
        self._tubes = tubes
        reach = tubes.radius_mm.max(axis=1, initial=0.0)
        self._low = np.minimum(tubes.start[:, 2], tubes.end[:, 2]) - reach
        self._high = np.maximum(tubes.start[:, 2], tubes.end[:, 2]) + reach
        self.layers = tuple(int(v) for v in np.unique(tubes.layer))

    def depths(self, plane: Plane) -> dict[int, Float32Array]:
        """Depth below the surface (mm, negative outside) [FINE, FINE] of each layer that the plane meets."""
        margin = REACH_PIXELS * plane.pixel_mm
        hit = np.flatnonzero((self._low - margin < plane.z_mm) & (self._high + margin > plane.z_mm))
        if len(hit) == 0:
            return {}
        near = self._tubes.at(hit)
        first, size, is_seen = _boxes(near, plane, margin)
        near, first, size = near.at(is_seen), first[is_seen], size[is_seen]
        present = np.unique(near.layer)
        depth = np.full((len(present), FINE, FINE), -FAR_MM, np.float32)
        row_of = np.searchsorted(present, near.layer)
        group = np.searchsorted(PATCHES, size)
        for index in np.unique(group):
            chosen = group == index
            _draw(depth, row_of[chosen], near.at(chosen), first[chosen], PATCHES[min(index, len(PATCHES) - 1)], plane)
        return {int(layer): depth[row] for row, layer in enumerate(present)}


def _boxes(tubes: Tubes, plane: Plane, margin: float) -> tuple[Int64Array, Int64Array, npt.NDArray[np.bool_]]:
    """First pixel (column, row) [T, 2] and size [T] of the square in which each tube meets a plane, and if it does."""
    along = tubes.end - tubes.start
    rise = np.where(np.abs(along[:, 2]) < 1e-6, 1e-6, along[:, 2])
    reach = tubes.radius_mm.max(axis=1) + margin
    t = (plane.z_mm - tubes.start[:, 2])[:, None] + np.stack([-reach, reach], axis=1)
    t = np.clip(t / rise[:, None], 0.0, 1.0)
    ends = tubes.start[:, None, :2] + t[:, :, None] * along[:, None, :2]
    origin = np.array([plane.x_mm, plane.y_mm])
    low = np.floor((ends.min(axis=1) - reach[:, None] - origin) / plane.pixel_mm).astype(np.int64)
    high = np.ceil((ends.max(axis=1) + reach[:, None] - origin) / plane.pixel_mm).astype(np.int64)
    is_seen = np.all((high >= 0) & (low < FINE), axis=1)
    return low, np.minimum((high - low).max(axis=1) + 1, PATCHES[-1]), is_seen


def _draw(
    depth: Float32Array, layer_row: Int64Array, tubes: Tubes, first: Int64Array, patch: int, plane: Plane
) -> None:
    """Raise `depth` [L, FINE, FINE] to the depth in each of these tubes, within squares of `patch` pixels."""
    first = np.clip(first, 0, FINE - patch)
    pixels = np.arange(patch)
    start = tubes.start.astype(np.float32)
    along = (tubes.end - tubes.start).astype(np.float32)
    along /= np.maximum(np.einsum("ti,ti->t", along, along), 1e-6)[:, None] ** 0.5  # unit vectors
    length = np.linalg.norm(tubes.end - tubes.start, axis=1).astype(np.float32)
    x = ((first[:, :1] + pixels) * plane.pixel_mm + (plane.x_mm - tubes.start[:, :1])).astype(np.float32)
    y = ((first[:, 1:] + pixels) * plane.pixel_mm + (plane.y_mm - tubes.start[:, 1:2])).astype(np.float32)
    z = np.float32(plane.z_mm) - start[:, 2]
    t = (y * along[:, 1:2] + (z * along[:, 2])[:, None])[:, :, None] + (x * along[:, :1])[:, None, :]
    squared = (y * y + (z * z)[:, None])[:, :, None] + (x * x)[:, None, :]
    on = np.clip(t, 0.0, length[:, None, None])
    squared += on * (on - 2.0 * t)  # |q - on u|^2 = |q|^2 - 2 on (q u) + on^2
    np.maximum(squared, 0.0, out=squared)
    inside = np.sqrt(squared, out=squared)
    slope = (tubes.radius_mm[:, 1] - tubes.radius_mm[:, 0]) / np.maximum(length, 1e-3)
    on *= slope.astype(np.float32)[:, None, None]
    on += tubes.radius_mm[:, 0].astype(np.float32)[:, None, None]
    on -= inside
    cell = (layer_row[:, None, None] * FINE + (first[:, 1:] + pixels)[:, :, None]) * FINE
    cell = cell + (first[:, :1] + pixels)[:, None, :]
    np.maximum.at(depth.reshape(-1), cell.reshape(-1), on.reshape(-1))
