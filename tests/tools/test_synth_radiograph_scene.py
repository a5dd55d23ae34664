"""Simulated radiographs seen as physics: lengths along rays, geometry, and boxes that follow from what is there."""

import numpy as np
import pytest

from rsna_e2e.tools.synth.chest.tubes import Layer, Tubes
from rsna_e2e.tools.synth.radiograph.beam import Beam
from rsna_e2e.tools.synth.radiograph.chords import projected

VOLUME_SHARE = 0.01  # sums over pixels of 0.5 mm against volumes by hand


def _parallel(pixel_mm: float = 0.5) -> Beam:
    """A source so far away that nothing is magnified."""
    return Beam(
        view="PA", sid_mm=1e7, detector_y_mm=-100.0, x_mm=0.0, z_mm=0.0, pixel_mm=pixel_mm, rows=200, columns=256
    )


@pytest.mark.parametrize(
    ("points", "radius"),
    [
        ([(-30, 0, 0), (30, 0, 0)], 5.0),
        ([(-30, -20, 0), (30, 20, 5)], 5.0),
        ([(0, -30, 0), (1, 30, 0)], 6.0),  # along the ray
        ([(-30, 0, 0), (0, 20, 0), (30, 0, 10), (20, -30, 30)], 4.0),  # joints
    ],
)
def test_lengths_along_rays_add_up_to_the_volume(points: list[tuple[float, float, float]], radius: float) -> None:
    tubes = Tubes.along(points, radius, Layer.BONE)
    length = np.linalg.norm(np.diff(np.array(points, np.float64), axis=0), axis=1).sum()
    total = projected(tubes, np.ones(len(tubes)), _parallel()).sum() * 0.5**2
    assert total == pytest.approx(np.pi * radius**2 * length, rel=VOLUME_SHARE)


def test_the_middle_of_a_tube_across_the_beam_is_its_diameter() -> None:
    tubes = Tubes.along([(-30, 0, 0), (30, 0, 0)], 5.0, Layer.BONE)
    seen = projected(tubes, np.full(1, 2.0), _parallel())
    assert seen.max() == pytest.approx(2.0 * 10.0, rel=0.01)


def test_what_is_farther_from_the_detector_is_larger() -> None:
    """A source at 1,000 mm: at 200 mm from the detector everything is 1000 / 800 times as large."""
    beam = Beam(view="AP", sid_mm=1000.0, detector_y_mm=100.0, x_mm=0.0, z_mm=0.0, pixel_mm=0.5, rows=200, columns=256)
    for y, larger in ((100.0, 1.0), (-100.0, 1.25)):
        tubes = Tubes.along([(20, y, -60), (20, y, 60)], 3.0, Layer.BONE)
        row = projected(tubes, np.ones(len(tubes)), beam)[100]
        at = (row * beam.u_mm).sum() / row.sum()
        assert at == pytest.approx(20.0 * larger, abs=0.1)
        assert row.max() == pytest.approx(6.0, rel=0.02)  # lengths are the patient's, not the image's
        assert np.count_nonzero(row) * 0.5 == pytest.approx(6.0 * larger, abs=0.6)
