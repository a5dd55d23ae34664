"""Simulated radiographs seen as physics: lengths along rays, geometry, and boxes that follow from what is there."""

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rsna_e2e.tools.synth.chest.tubes import Layer, Tubes
from rsna_e2e.tools.synth.common.plan import Request
from rsna_e2e.tools.synth.common.shapes import Points, ellipsoid
from rsna_e2e.tools.synth.radiograph.beam import Beam
from rsna_e2e.tools.synth.radiograph.body import axes, make_body
from rsna_e2e.tools.synth.radiograph.chords import facing, projected
from rsna_e2e.tools.synth.radiograph.data_set import FOLDERS, RADIOGRAPH
from rsna_e2e.tools.synth.radiograph.detector import scatter_of
from rsna_e2e.tools.synth.radiograph.findings import Findings
from rsna_e2e.tools.synth.radiograph.layers import Layers
from rsna_e2e.tools.synth.radiograph.plan import plan_images
from rsna_e2e.tools.synth.radiograph.render import Rendering, render
from rsna_e2e.tools.synth.radiograph.scene import Scene, draw_scene
from rsna_e2e.tools.synth.radiograph.truth import NORMAL, OTHER, boxes_of, class_without, labels_of, visible

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


def test_a_joint_counts_nothing_twice_and_leaves_no_gap() -> None:
    """A right angle in the plane of the image: its outer corner is filled, its inner one no thicker than a tube."""
    tubes = Tubes.along([(-30, 0, 0), (0, 0, 0), (0, 0, -30)], 4.0, Layer.BONE)
    beam = _parallel()
    seen = projected(tubes, np.ones(2), beam)
    assert seen.max() <= 8.0
    assert seen[beam.v_mm > 4.5].max() == seen[:, beam.u_mm > 4.5].max() == 0.0
    assert seen.sum() * 0.5**2 == pytest.approx(np.pi * 4.0**2 * 60.0, rel=VOLUME_SHARE)
    row, column = (int(np.argmin(np.abs(at - 2.25))) for at in (beam.v_mm, beam.u_mm))
    assert seen[row, column] == pytest.approx(2.0 * np.sqrt(16.0 - 2.25**2), rel=0.01)


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


def test_lengths_in_a_solid_are_right_between_the_layers_of_a_coarse_grid() -> None:
    """A ball of 40 mm on a grid of 6 mm: a ray at distance d from its middle has 2 sqrt(40^2 - d^2) mm in it."""
    x, y, z = axes()
    places = Points(*(v.astype(np.float32) for v in (
        np.broadcast_to(x, (len(y), len(z), len(x))), np.broadcast_to(y[:, None, None], (len(y), len(z), len(x))),
        np.broadcast_to(z[:, None], (len(y), len(z), len(x))),
    )))  # fmt: skip
    beam = _parallel()
    found = Layers(beam).thickness(ellipsoid(places, (7.0, 1.0, -5.0), (40.0, 40.0, 40.0)))
    u, v = np.meshgrid(beam.u_mm - 7.0, beam.v_mm + 5.0)
    wanted = 2.0 * np.sqrt(np.maximum(1600.0 - u**2 - v**2, 0.0))
    inside = np.hypot(u, v) < 39.0
    assert np.abs(found - wanted)[inside].max() < 1.5
    assert np.abs(found - wanted)[inside].mean() < 0.2
    assert found[np.hypot(u, v) > 41.0].max() < 0.1


def test_a_plate_covers_what_lies_between_its_corners() -> None:
    square = np.array([(-10.0, 0.0, -20.0), (10.0, 0.0, -20.0), (10.0, 0.0, 20.0), (-10.0, 0.0, 20.0)])
    share = facing(square, _parallel())
    assert share.sum() * 0.5**2 == pytest.approx(20.0 * 40.0, rel=0.01)
    assert share.max() == 1.0


NO_FINDINGS = Findings(opacities=(), others=(), effusion_mm=(0.0, 0.0), masses=(), plates=(), has_nipples=False)


def _extents(scene: Scene) -> dict[str, float]:
    """Of a patient who is not tilted, mm: height of both domes; heart and chest, as seen, to both sides."""
    person = replace(scene.person, centre_mm=(0.0, 0.0, 0.0))
    body = make_body(person, np.eye(3), scene.large_vessels())
    x, y, z = axes()
    larger = scene.beam.magnification(y)
    depth, found = int(np.argmin(np.abs(y + 20.0))), {}
    for side, sign in (("right", -1.0), ("left", 1.0)):
        dome = body.dome[np.argmin(np.abs(y)), :, np.argmin(np.abs(x - sign * 60.0))]
        found[f"{side} dome"] = float(np.interp(0.0, dome, z))
        outwards = np.argsort(sign * x)[len(x) // 2 :]
        heart = body.lung[depth, np.argmin(np.abs(z - found["right dome"] - 22.0))][outwards]
        last = int(np.flatnonzero(heart < 0.0)[0])  # the first place in the lung
        edge = last - 1 + heart[last - 1] / (heart[last - 1] - heart[last])
        found[side] = float(larger[depth] * np.interp(edge, np.arange(len(outwards)), (sign * x)[outwards]))
        in_lung = sign * x * larger[:, None] * (body.lung < 0.0).any(axis=1)
        found[f"{side} wall"] = float(in_lung.max())
    return found


def test_heart_and_diaphragm_are_where_they_belong() -> None:
    """The heart lies more to the left, the right dome is higher; the heart takes less of the chest's width in PA."""
    share = {}
    for view in ("PA", "AP"):
        drawn = [draw_scene(8, index, view=view, opacity_rate=0.0, shape=(128, 128)) for index in range(7)]
        found = [_extents(scene) for scene in drawn if not scene.findings.others]
        assert len(found) > 1
        assert all(one["left"] > one["right"] for one in found)
        assert 5.0 < np.mean([one["right dome"] - one["left dome"] for one in found]) < 20.0
        share[view] = np.mean([(f["left"] + f["right"]) / (f["left wall"] + f["right wall"]) for f in found])
    assert 0.4 < share["PA"] < 0.51
    assert share["PA"] < share["AP"] < 0.58


@pytest.fixture(scope="module")
def cloudy() -> tuple[Scene, Rendering, Rendering]:
    """An image with opacities, and the same without."""
    scene = draw_scene(99, 0, view="PA", opacity_rate=1.0, shape=(192, 192))
    without = replace(scene, findings=replace(scene.findings, opacities=()))
    return scene, render(scene), render(without)


def test_opacities_add_what_is_said_less_what_they_hide(cloudy: tuple[Scene, Rendering, Rendering]) -> None:
    """The difference of two renderings is what opacities add, less the vessels that lie in them and are hidden."""
    _, cloud, clear = cloudy
    difference = cloud.path - clear.path
    assert clear.added.max() == 0.0
    assert cloud.added.max() > 0.1
    hidden = cloud.added - difference
    assert hidden.min() > -0.03  # airways, which show where they run in it
    assert 0.0 < hidden[cloud.added > 0.05].mean() < 0.4 * cloud.added[cloud.added > 0.05].mean()
    assert np.abs(hidden[cloud.added == 0.0]).mean() < 1e-4


def test_boxes_hold_what_is_visible(cloudy: tuple[Scene, Rendering, Rendering]) -> None:
    scene, cloud, clear = cloudy
    scatter = scatter_of(cloud.path, scene.exposure, scene.beam.pixel_mm, cloud.lungs)
    labels = labels_of(scene, cloud, scatter, (1536, 1536))  # 8 times the rendering
    assert labels.name == "Lung Opacity"
    mask = visible(cloud.path, cloud.added, scatter, photons=scene.exposure.photons)
    covered = np.zeros_like(mask)
    for x, y, width, height in labels.boxes:
        assert (x % 8, y % 8, width % 8, height % 8) == (0, 0, 0, 0)
        covered[y // 8 : (y + height) // 8, x // 8 : (x + width) // 8] = True
    left_out = np.count_nonzero(mask & ~covered) * scene.beam.pixel_mm**2
    assert left_out < 400.0  # less than 4 cm2
    bare = labels_of(replace(scene, findings=NO_FINDINGS), clear, scatter, (1536, 1536))
    assert (bare.name, bare.boxes) == (NORMAL, ())
    unseen = replace(scene.findings, others=())
    assert class_without(unseen) == OTHER  # opacities that nobody sees make no normal image


def test_visibility_by_hand() -> None:
    """No scatter; a path of 1: 4 % fewer photons is an added path of 0.0408. With 100 photons noise asks for more."""
    path, added = np.full((1, 4), 1.0, np.float32), np.array([[0.0, 0.0405, 0.0412, 0.4]], np.float32)
    none = np.zeros_like(path)
    assert visible(path + added, added, none, photons=1e6).tolist() == [[False, False, True, True]]
    # 100 exp(-1) = 36.8 photons: 3 standard deviations are 18.2, half of them; an added path of 0.4 takes a third
    assert not visible(path + added, added, none, photons=100.0).any()
    # as many scattered photons as direct ones halve the contrast
    assert visible(path + added, added, np.full_like(path, np.exp(-1.0)), photons=1e6).tolist() == [
        [False, False, False, True]
    ]


def test_boxes_by_hand() -> None:
    mask = np.zeros((40, 40), np.bool_)
    mask[4:14, 6:18] = True  # 120 pixels of 2 mm: 4.8 cm2
    mask[30:39, 30:40] = True  # 90: 3.6 cm2
    mask[20:30, 0:12] = True
    mask[30, 12] = True  # by a corner: one part
    assert boxes_of(mask, 2.0, (80, 80)) == ((0, 40, 26, 22), (12, 8, 24, 20))


@pytest.mark.slow
def test_opacities_are_as_common_as_planned_and_visible() -> None:
    plans = [plan for plan in plan_images(Request(n_studies=400, seed=6, test_fraction=0.0)) if plan.index < 100]
    found: dict[str, list[bool]] = {"PA": [], "AP": []}
    for plan in plans:
        scene = draw_scene(plan.seed, plan.index, view=plan.view, opacity_rate=plan.opacity_rate, shape=(128, 128))
        rendering = render(scene)
        scatter = scatter_of(rendering.path, scene.exposure, scene.beam.pixel_mm, rendering.lungs)
        labels = labels_of(scene, rendering, scatter, (128, 128))
        found[plan.view].append(bool(labels.boxes))
    for view, rate in (("PA", 0.12), ("AP", 0.45)):
        assert abs(np.mean(found[view]) - rate) < 3.0 * np.sqrt(rate * (1.0 - rate) / len(found[view]))


@pytest.mark.slow
def test_a_radiograph_takes_less_than_a_second_of_a_core(tmp_path: Path) -> None:
    (tmp_path / FOLDERS["train"]).mkdir()
    plans = plan_images(Request(n_studies=7, seed=6, test_fraction=0.0))
    RADIOGRAPH.make_study(plans[0], tmp_path)  # the first one imports what others use
    start = time.process_time()
    for plan in plans[1:]:
        RADIOGRAPH.make_study(plan, tmp_path)
    assert (time.process_time() - start) / 6 < 1.0
