"""Signed distances of simple solids, in mm, negative inside; `ax` is |x|, so that one call describes both sides."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Field = npt.NDArray[np.floating]  # values at places; float32 in practice
Point = tuple[float, float, float]

FAR_MM = 60.0  # the distance written where a shape is not evaluated: far outside


@dataclass(frozen=True, slots=True)
class Points:
    """Places in one frame, mm, LPS (x to the patient's left, y to the back, z to the top); arrays of one shape."""

    x: Field
    y: Field
    z: Field

    @property
    def folded(self) -> "Points":
        """The same places with |x|."""
        return Points(np.abs(self.x), self.y, self.z)


def ellipsoid(p: Points, centre: Point, radii: Point) -> Field:
    """Distance to an ellipsoid, exact for a sphere, right to first order at the surface of any other."""
    qx, qy, qz = ((v - c) * (1.0 / r) for v, c, r in zip((p.x, p.y, p.z), centre, radii, strict=True))
    k = np.sqrt(qx * qx + qy * qy + qz * qz)
    qx *= 1.0 / radii[0]
    qy *= 1.0 / radii[1]
    qz *= 1.0 / radii[2]
    slope = np.sqrt(qx * qx + qy * qy + qz * qz)
    slope += 1e-6
    return np.asarray(k * (k - 1.0) / slope)


def blob(p: Points, centre: Point, radii: Point) -> Field:
    """Cheaper distance to a small ellipsoid: scaled by its mean radius."""
    qx, qy, qz = ((v - c) * (1.0 / r) for v, c, r in zip((p.x, p.y, p.z), centre, radii, strict=True))
    qx *= qx
    qx += qy * qy
    qx += qz * qz
    k = np.sqrt(qx, out=qx)
    k -= 1.0
    k *= (radii[0] * radii[1] * radii[2]) ** (1.0 / 3.0)
    return np.asarray(k)


def tube(p: Points, start: Point, end: Point, radii: tuple[float, float]) -> Field:
    """Distance to a tube with round ends whose radius goes linearly from `radii[0]` at start to `radii[1]` at end."""
    d = [e - s for s, e in zip(start, end, strict=True)]
    length2 = sum(v * v for v in d)
    qx, qy, qz = p.x - start[0], p.y - start[1], p.z - start[2]
    t = qx * (d[0] / length2)
    t += qy * (d[1] / length2)
    t += qz * (d[2] / length2)
    np.clip(t, 0.0, 1.0, out=t)
    qx -= t * d[0]
    qy -= t * d[1]
    qz -= t * d[2]
    qx *= qx
    qx += qy * qy
    qx += qz * qz
    t *= radii[1] - radii[0]
    t += radii[0]
    return np.asarray(np.sqrt(qx, out=qx) - t)


def union(*distances: Field) -> Field:
    """Distance to the union of solids."""
    result = distances[0]
    for other in distances[1:]:
        result = np.minimum(result, other)
    return result


def intersection(*distances: Field) -> Field:
    """Distance to what solids have in common."""
    result = distances[0]
    for other in distances[1:]:
        result = np.maximum(result, other)
    return result


def smooth_union(a: Field, b: Field, radius_mm: float) -> Field:
    """Union with a fillet of `radius_mm` (polynomial smooth minimum)."""
    h = np.abs(a - b)
    np.subtract(radius_mm, h, out=h)
    np.maximum(h, 0.0, out=h)
    h *= h
    h *= 0.25 / radius_mm
    return np.asarray(np.minimum(a, b) - h)


def smooth_intersection(a: Field, b: Field, radius_mm: float) -> Field:
    """Intersection with a rounded edge of `radius_mm`."""
    return np.asarray(-smooth_union(-a, -b, radius_mm))


def coverage(distance_mm: Field, width_mm: float) -> Field:
    """Share of a pixel that lies inside: 1 at -width/2 and deeper, 0 at +width/2 and beyond, linear between."""
    share = distance_mm * (-1.0 / width_mm)
    share += 0.5
    return np.clip(share, 0.0, 1.0, out=share)


@dataclass(frozen=True, slots=True)
class Waves:
    """A smooth random field: K plane waves, `k` [K, 3] in rad/mm and `phase` [K]; standard deviation 1."""

    k: Field
    phase: Field

    @classmethod
    def draw(cls, rng: np.random.Generator, *, n: int, wavelength_mm: float) -> "Waves":
        """Waves of one length in `n` random directions."""
        direction = rng.standard_normal((n, 3))
        direction *= 2.0 * np.pi / wavelength_mm / np.linalg.norm(direction, axis=1, keepdims=True)
        return cls(direction.astype(np.float32), rng.uniform(0.0, 2.0 * np.pi, n).astype(np.float32))

    def __call__(self, p: Points) -> Field:
        """Values of the field at `p`."""
        total = np.zeros_like(p.x)
        for (kx, ky, kz), phase in zip(self.k, self.phase, strict=True):
            angle = p.x * kx
            angle += p.y * ky
            angle += p.z * kz
            angle += phase
            total += np.cos(angle, out=angle)
        total *= np.float32(np.sqrt(2.0 / len(self.phase)))
        return total
