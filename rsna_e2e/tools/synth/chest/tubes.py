"""Everything long and round (vessels, airways, bones) as tubes, and their distances drawn into planes."""

# T tubes, S planes, h x w fine pixels of a window

from dataclasses import dataclass, replace
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from rsna_e2e.core.records import Float32Array, Float64Array
from rsna_e2e.tools.synth.common.series import FINE

Int64Array = npt.NDArray[np.int64]
Window = tuple[slice, slice]  # rows, columns

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
class Planes:
    """S axial planes at heights z_mm [S] whose fine pixel (row, column) = (0, 0) has its centre at (x_mm, y_mm)."""

    x_mm: float
    y_mm: float
    z_mm: Float64Array
    pixel_mm: float


class Raster:
    """Draws one set of tubes into any number of planes."""

    def __init__(self, tubes: Tubes) -> None:
        self._tubes = tubes
        reach = tubes.radius_mm.max(axis=1, initial=0.0)
        self._low = np.minimum(tubes.start[:, 2], tubes.end[:, 2]) - reach
        self._high = np.maximum(tubes.start[:, 2], tubes.end[:, 2]) + reach

    def meets(self, planes: Planes) -> bool:
        """Whether any tube comes near one of the planes."""
        margin = REACH_PIXELS * planes.pixel_mm
        return any(bool(np.any((self._low - margin < z) & (self._high + margin > z))) for z in planes.z_mm)

    def depths(self, planes: Planes) -> dict[int, tuple[Float32Array, Window]]:
        """Depth below the surface (mm, negative outside) of each layer that the planes meet.

        [S, h, w] each, with the window [h, w] of fine pixels outside which there is nothing of that layer.
        """
        margin = REACH_PIXELS * planes.pixel_mm
        found = []
        for z in planes.z_mm:
            hit = np.flatnonzero((self._low - margin < z) & (self._high + margin > z))
            near = self._tubes.at(hit)
            first, patch, is_seen = _squares(near, planes, float(z), margin)
            found.append((near.at(is_seen), first[is_seen], patch[is_seen]))
        layers = np.unique(np.concatenate([near.layer for near, _, _ in found]))
        result = {}
        for layer in layers.tolist():
            squares = [(tubes.layer == layer, first, patch) for tubes, first, patch in found]
            low = np.min([f[c].min(axis=0) for c, f, _ in squares if c.any()], axis=0)
            high = np.max([(f[c] + p[c, None]).max(axis=0) for c, f, p in squares if c.any()], axis=0)
            window = (slice(int(low[1]), int(high[1])), slice(int(low[0]), int(high[0])))
            depth = np.full((len(found), *(high - low)[::-1]), -FAR_MM, np.float32)
            result[layer] = (depth, window)
        for s, (near, first, patch) in enumerate(found):
            for size in np.unique(patch).tolist():
                same = patch == size
                _draw({k: (d[s], w) for k, (d, w) in result.items()}, near.at(same), first[same], size, planes, s)
        return result


def _squares(
    tubes: Tubes, planes: Planes, z_mm: float, margin: float
) -> tuple[Int64Array, Int64Array, npt.NDArray[np.bool_]]:
    """First pixel (column, row) [T, 2] and size [T] of the square in which each tube meets a plane, and if it does."""
    along = tubes.end - tubes.start
    rise = np.where(np.abs(along[:, 2]) < 1e-6, 1e-6, along[:, 2])
    reach = tubes.radius_mm.max(axis=1, initial=0.0) + margin
    t = (z_mm - tubes.start[:, 2])[:, None] + np.stack([-reach, reach], axis=1)
    t = np.clip(t / rise[:, None], 0.0, 1.0)
    ends = tubes.start[:, None, :2] + t[:, :, None] * along[:, None, :2]
    origin = np.array([planes.x_mm, planes.y_mm])
    low = np.floor((ends.min(axis=1) - reach[:, None] - origin) / planes.pixel_mm).astype(np.int64)
    high = np.ceil((ends.max(axis=1) + reach[:, None] - origin) / planes.pixel_mm).astype(np.int64)
    is_seen = np.all((high >= 0) & (low < FINE), axis=1)
    size = np.minimum((high - low).max(axis=1, initial=0) + 1, PATCHES[-1])
    patch = np.array(PATCHES)[np.searchsorted(PATCHES, size)]
    return np.clip(low, 0, FINE - patch[:, None]), patch, is_seen


def _draw(
    depth: dict[int, tuple[Float32Array, Window]], tubes: Tubes, first: Int64Array, patch: int, planes: Planes, s: int
) -> None:
    """Raise the depths of plane `s`, each [h, w] in a window, in squares of `patch` pixels that begin at `first`."""
    inside = _depths(tubes, first, patch, planes, float(planes.z_mm[s]))
    pixels = np.arange(patch)
    for layer in np.unique(tubes.layer).tolist():
        chosen = tubes.layer == layer
        into, (rows, columns) = depth[layer]
        row, column = first[chosen, 1] - rows.start, first[chosen, 0] - columns.start
        cell = (row[:, None] + pixels)[:, :, None] * into.shape[1] + (column[:, None] + pixels)[:, None, :]
        np.maximum.at(into.reshape(-1), cell.reshape(-1), inside[chosen].reshape(-1))


def _depths(tubes: Tubes, first: Int64Array, patch: int, planes: Planes, z_mm: float) -> Float32Array:
    """Depth (mm) below the surface of each tube in a square of its own [T, patch, patch]."""
    pixels = np.arange(patch)
    along = tubes.end - tubes.start
    length = np.sqrt((along * along).sum(axis=1)) + 1e-6
    along = (along / length[:, None]).astype(np.float32)
    x = ((first[:, :1] + pixels) * planes.pixel_mm + (planes.x_mm - tubes.start[:, :1])).astype(np.float32)
    y = ((first[:, 1:] + pixels) * planes.pixel_mm + (planes.y_mm - tubes.start[:, 1:2])).astype(np.float32)
    z = (z_mm - tubes.start[:, 2]).astype(np.float32)
    t = (y * along[:, 1:2] + (z * along[:, 2])[:, None])[:, :, None] + (x * along[:, :1])[:, None, :]
    squared = (y * y + (z * z)[:, None])[:, :, None] + (x * x)[:, None, :]
    on = np.clip(t, 0.0, length.astype(np.float32)[:, None, None])
    t *= -2.0
    t += on
    t *= on
    squared += t  # |q - on u|^2 = |q|^2 + on (on - 2 q u)
    np.maximum(squared, 0.0, out=squared)
    np.sqrt(squared, out=squared)
    slope = (tubes.radius_mm[:, 1] - tubes.radius_mm[:, 0]) / length
    on *= slope.astype(np.float32)[:, None, None]
    on += tubes.radius_mm[:, 0].astype(np.float32)[:, None, None]
    on -= squared
    return np.asarray(on)
