"""Grows trees of vessels and airways that fill a lung, one fork at a time."""

# T tubes of a tree, n points that a branch still has to reach

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from rsna_e2e.core.records import Float64Array
from rsna_e2e.tools.synth.chest.tubes import Layer, Tubes

LENGTH_RADII = 8.0  # a branch forks at the latest after this many of its radii
LEAF_TAPER = 0.6


@dataclass(slots=True)
class Tree:
    """Tubes that hang together. Of each tube: both ends, radius at both, the index of the one it leaves (-1: none), the
    name of its part, such as a lobe.
    """

    start: list[npt.NDArray[np.float64]] = field(default_factory=list)
    end: list[npt.NDArray[np.float64]] = field(default_factory=list)
    radius_mm: list[tuple[float, float]] = field(default_factory=list)
    parent: list[int] = field(default_factory=list)
    part: list[str] = field(default_factory=list)

    def add(
        self, start: Float64Array, end: Float64Array, radius_mm: tuple[float, float], *, parent: int, part: str
    ) -> int:
        """Add one tube and return its index."""
        self.start.append(start)
        self.end.append(end)
        self.radius_mm.append(radius_mm)
        self.parent.append(parent)
        self.part.append(part)
        return len(self.parent) - 1

    def add_chain(self, points: npt.ArrayLike, radii_mm: tuple[float, ...], *, parent: int, part: str) -> int:
        """Add a chain of tubes through `points` [n, 3]; return the index of the last one."""
        at = np.asarray(points, np.float64)
        for i in range(len(at) - 1):
            parent = self.add(at[i], at[i + 1], (radii_mm[i], radii_mm[i + 1]), parent=parent, part=part)
        return parent

    def grow(
        self, rng: np.random.Generator, points: Float64Array, radius_mm: float, *, parent: int, part: str,
        straight: float = 0.0,
    ) -> None:  # fmt: skip
        """Grow a tree from the end of tube `parent` to `points` [n, 3].

        At each fork the points are divided in two; radii follow Murray's law, r0^3 = r1^3 + r2^3 (C. D. Murray, 1926),
        with the number of points as flow. straight: from 0, as angular as forks make it, to 1, as the branch before.
        """
        n_all = len(points)
        draws = iter(rng.random((4 * n_all + 4, 3)))
        todo = [(parent, self.end[parent], points)] if n_all else []
        while todo:
            before, at, left = todo.pop()
            n = len(left)
            radius = radius_mm * (n / n_all) ** (1.0 / 3.0)
            if n == 1:
                self.add(at, at + 0.95 * (left[0] - at), (radius, LEAF_TAPER * radius), parent=before, part=part)
                continue
            way = left.sum(axis=0) / n - at
            far = float(np.sqrt(way @ way)) + 1e-6
            a, b, c = next(draws)
            step = min((0.45 + 0.3 * a) * far, LENGTH_RADII * radius * (0.7 + 0.6 * b))
            way = way * (step / far)
            if straight > 0.0:
                way = way + straight * (self._way_of(before) * step - way)
            end = at + way + (next(draws) - 0.5) * ((1.0 - straight) * (0.25 * step))
            here = self.add(at, end, (radius, 0.96 * radius), parent=before, part=part)
            spread = left.max(axis=0) - left.min(axis=0)
            order = np.argsort(left[:, int(np.argmax(spread))])
            cut = min(max(round(n * (0.32 + 0.36 * c)), 1), n - 1)
            todo.append((here, end, left[order[:cut]]))
            todo.append((here, end, left[order[cut:]]))

    def _way_of(self, index: int) -> Float64Array:
        """Unit vector along a tube."""
        way = self.end[index] - self.start[index]
        return np.asarray(way / (np.sqrt(way @ way) + 1e-6))

    def tubes(self, layer: Layer) -> Tubes:
        """All of it as tubes of one layer, in the same order."""
        return Tubes(
            start=np.array(self.start),
            end=np.array(self.end),
            radius_mm=np.array(self.radius_mm),
            layer=np.full(len(self.parent), int(layer)),
        )

    def children(self) -> list[list[int]]:
        """Indices of the tubes that leave each tube."""
        found: list[list[int]] = [[] for _ in self.parent]
        for index, parent in enumerate(self.parent):
            if parent >= 0:
                found[parent].append(index)
        return found
