"""Simulated chests seen as physics: geometry, densities, and labels that follow from what is there."""

import time
from collections.abc import Callable
from dataclasses import replace
from itertools import islice, product
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from rsna_e2e.core.records import Float64Array
from rsna_e2e.tools.synth.chest.acquire import acquire, couch, draw_scanner
from rsna_e2e.tools.synth.chest.emboli import LAYERS
from rsna_e2e.tools.synth.chest.findings import Findings, draw_findings
from rsna_e2e.tools.synth.chest.organs import Heart, chamber_widths
from rsna_e2e.tools.synth.chest.render import Renderer, Scene, sub_offsets
from rsna_e2e.tools.synth.chest.scene import draw_scene
from rsna_e2e.tools.synth.chest.study import make_images
from rsna_e2e.tools.synth.chest.truth import (
    LOSS_HU,
    NOTES,
    STUDY_LABELS,
    VISIBLE_MM2,
    StudyLabels,
    measure,
    study_labels,
)
from rsna_e2e.tools.synth.chest.tubes import Layer, Planes, Raster, Tubes
from rsna_e2e.tools.synth.common.plan import Request, StudyPlan, plan_studies, stream
from rsna_e2e.tools.synth.simulate import simulate

SAME_PLACES_MM = 1e-3  # float32, over a field of view of 400 mm
CENTROID_MM = 0.4  # of a spot of 8 mm on pixels of 1.4 mm and planes 3 mm apart
SAME_SUMS_HU = 0.01  # float32 sums in another order
REGIONS = ("central_pe", "leftsided_pe", "rightsided_pe")
AGES = ("chronic_pe", "acute_and_chronic_pe")
RATIOS = ("rv_lv_ratio_gte_1", "rv_lv_ratio_lt_1")


def _plan(seed: int, prevalence: str = "demo") -> StudyPlan:
    (plan,) = plan_studies(Request(n_studies=1, seed=seed, prevalence=prevalence, test_fraction=0.0, is_thick=True))
    return plan


def _findings(seed: int) -> Findings:
    return draw_findings(stream(seed, "findings", 0), "demo")


def _first(wanted: Callable[[Findings], bool]) -> Scene:
    return draw_scene(_plan(next(seed for seed in range(1000) if wanted(_findings(seed)))))


@pytest.fixture(scope="module")
def clotted() -> Scene:
    """A chest that does not move, with at least three emboli."""
    return _first(lambda f: len(f.emboli) > 2 and len(f.poses) == 1 and not f.flow)


def _without_emboli(scene: Scene) -> Scene:
    return replace(scene, laid=replace(scene.laid, tubes=scene.laid.tubes.at(np.zeros(0, np.int64)), hu={}))


def _obeys_the_rules(labels: StudyLabels) -> bool:
    """The rules of the competition, as its host states them."""
    study = labels.study
    is_positive = bool(labels.positive.any())
    states = is_positive + study["negative_exam_for_pe"] + study["indeterminate"]
    n_regions, n_ages, n_ratios = (sum(study[name] for name in names) for names in (REGIONS, AGES, RATIOS))
    if not is_positive:
        return states == 1 and n_regions == n_ages == n_ratios == 0
    return states == 1 and n_regions >= 1 and n_ages <= 1 and n_ratios == 1


def test_labels_obey_the_rules() -> None:
    for plan in plan_studies(Request(n_studies=8, seed=4, prevalence="demo", test_fraction=0.0, is_thick=True)):
        labels = measure(draw_scene(plan))
        assert set(labels.study) == {*STUDY_LABELS, *NOTES}
        assert _obeys_the_rules(labels)


@pytest.mark.slow
@pytest.mark.parametrize("prevalence", ["natural", "demo"])
def test_200_studies_obey_the_rules_and_are_as_common_as_planned(prevalence: str) -> None:
    """In the competition's data 5.4 % of the slices are positive (96,540 of 1,790,594)."""
    plans = plan_studies(
        Request(n_studies=200, seed=12, prevalence=prevalence, test_fraction=0.0, is_thick=prevalence == "demo")
    )
    found = []
    for plan in plans:
        scene = draw_scene(plan)
        labels = measure(scene)
        assert _obeys_the_rules(labels)
        found.append(
            (labels.positive.any(), labels.study["indeterminate"], labels.positive.sum(), len(labels.positive))
        )
        if prevalence == "demo" and labels.positive.any():
            assert scene.findings.emboli[0].site != "subsegmental"
    positive, indeterminate, slices, n = np.sum(found, axis=0)
    wanted = (0.305, 0.02, 0.054) if prevalence == "natural" else (0.56, 0.04, 0.10)
    assert abs(positive / 200 - wanted[0]) < 0.1  # three standard errors
    assert abs(indeterminate / 200 - wanted[1]) < 0.04
    assert 0.7 * wanted[2] < slices / n < 1.3 * wanted[2]


def test_demo_has_large_emboli() -> None:
    drawn = [f for f in map(_findings, range(400)) if f.emboli and not f.is_unreadable]
    assert abs(len(drawn) / 400 - 0.56) < 0.075  # three standard errors
    assert np.mean([f.emboli[0].site in {"central", "lobar"} for f in drawn]) >= 0.8


def _areas(*rows: dict[int, float]) -> list[tuple[float, Float64Array]]:
    """Visible areas of slices by number of layer: central, left, right, each acute and chronic."""
    found = []
    for row in rows:
        by_layer = np.zeros(len(LAYERS))
        for layer, area in row.items():
            by_layer[layer] = area
        found.append((float(by_layer.sum()), by_layer))
    return found


def test_label_rule_by_hand(clotted: Scene) -> None:
    wide = replace(clotted, heart=Heart(rv_mm=50.0, lv_mm=45.0, scale=1.0))
    narrow = replace(clotted, heart=Heart(rv_mm=35.0, lv_mm=45.0, scale=1.0))

    def names(scene: Scene, *rows: dict[int, float]) -> set[str]:
        labels = study_labels(replace(scene, findings=replace(scene.findings, notes=frozenset())), _areas(*rows))
        assert labels.positive.tolist() == [sum(row.values()) >= 10.0 for row in rows]
        return {name for name, value in labels.study.items() if value}

    assert names(wide, {0: 10.0}, {}) == {"central_pe", "rv_lv_ratio_gte_1"}
    assert names(narrow, {0: 9.9}, {}) == {"negative_exam_for_pe"}
    assert names(narrow, {2: 30.0, 4: 12.0}) == {"leftsided_pe", "rightsided_pe", "rv_lv_ratio_lt_1"}
    assert names(narrow, {2: 6.0, 4: 5.0}) == {"leftsided_pe", "rv_lv_ratio_lt_1"}  # neither visible alone
    assert names(narrow, {5: 11.0}) == {"rightsided_pe", "chronic_pe", "rv_lv_ratio_lt_1"}
    assert names(narrow, {1: 11.0}, {0: 20.0}) == {"central_pe", "acute_and_chronic_pe", "rv_lv_ratio_lt_1"}
    unreadable = replace(narrow, findings=replace(narrow.findings, is_unreadable=True))
    assert names(unreadable, {0: 3.0}) == {"indeterminate"}
    assert names(unreadable, {0: 30.0}) == {"central_pe", "rv_lv_ratio_lt_1"}


def test_ventricles_are_as_wide_as_drawn() -> None:
    right, left = chamber_widths(Heart(rv_mm=39.0, lv_mm=46.0, scale=1.0))
    assert abs(left - 46.0) < 0.5  # the grid is 1 mm
    assert abs(right - 39.0) < 1.5  # and the septum is bent


def test_image_without_emboli_is_brighter_by_the_loss(clotted: Scene) -> None:
    """Labels from the difference of two renderings, with the emboli and without, are those of the truth."""
    labels = measure(clotted)
    with_them, without = Renderer(clotted), Renderer(_without_emboli(clotted))
    pixel_mm2 = (2.0 * clotted.series.spacing_mm) ** 2
    middle = int(np.flatnonzero(labels.positive)[0])
    for k in range(max(middle - 3, 0), middle + 3):
        lost = without.render(k)[0] - with_them.render(k)[0]
        np.testing.assert_allclose(lost, with_them.loss(k).total, rtol=0, atol=SAME_SUMS_HU)
        assert lost.max() < clotted.findings.artery_hu - min(clotted.laid.hu.values()) + 1.0
        assert (np.count_nonzero(lost >= LOSS_HU) * pixel_mm2 >= VISIBLE_MM2) == labels.positive[k]


def _is_inside(tubes: Tubes, places: Float64Array) -> npt.NDArray[np.bool_]:
    """Which places [n, 3], all within 3 mm of one height, lie in any of some tubes: one tube after another."""
    found = np.zeros(len(places), bool)
    for start, end, (r0, r1) in zip(tubes.start, tubes.end, tubes.radius_mm, strict=True):
        if not min(start[2], end[2]) - 12.0 < places[0, 2] < max(start[2], end[2]) + 12.0:
            continue
        way = end - start
        share = np.clip((places - start) @ way / (way @ way), 0.0, 1.0)
        found |= np.linalg.norm(places - start - share[:, None] * way, axis=1) < r0 + share * (r1 - r0)
    return found


def test_loss_is_that_of_sampled_space(clotted: Scene) -> None:
    """What emboli take, from points in space: 4 x 4 in each pixel, 8 through the slice."""
    series, blood = clotted.series, clotted.findings.artery_hu
    pixel_mm = 2.0 * series.spacing_mm
    fine = (np.arange(4) + 0.5) / 4.0 - 0.5
    through = ((np.arange(8) + 0.5) / 8.0 - 0.5) * series.thickness_mm
    offsets = np.array(list(product(fine * pixel_mm, fine * pixel_mm, through)))
    renderer, taken, sampled = Renderer(clotted), 0.0, 0.0
    for k in np.flatnonzero(measure(clotted).positive)[::4].tolist():
        loss = renderer.loss(k)
        rows, columns = np.nonzero(loss.total > 0.0)
        # pixel (i, j) of the half-resolution rendering covers pixels 2 i, 2 i + 1 and 2 j, 2 j + 1 of the file
        at = np.stack([2 * columns + 0.5, 2 * rows + 0.5, np.zeros(len(rows))], axis=1) * series.spacing_mm
        places = (series.origins_mm[k] + at[:, None] + offsets).reshape(-1, 3)
        lumen = _is_inside(clotted.tubes.of(Layer.ARTERY), places)
        most = np.zeros(len(rows))
        for layer, hu in clotted.laid.hu.items():
            share = (lumen & _is_inside(clotted.laid.tubes.of(layer), places)).reshape(len(rows), -1).mean(axis=1)
            most = np.maximum(most, share * (blood - hu))
        drawn, there = (int(np.count_nonzero(values >= LOSS_HU)) for values in (loss.total, most))
        # edges are linear over a pixel, which makes more of what is thinner than that: those are looked at together
        assert there < 20 or abs(drawn - there) < 0.15 * there
        taken, sampled = taken + float(loss.total.sum()), sampled + float(most.sum())
    assert abs(taken / sampled - 1.0) < 0.12


def test_failed_contrast_hides_emboli() -> None:
    scene = _first(lambda f: f.is_unreadable and bool(f.emboli))
    labels = measure(scene)
    assert not labels.positive.any()
    assert labels.study["indeterminate"] == labels.study["qa_contrast"] == 1
    renderer = Renderer(scene)
    most = max(float(renderer.loss(k).total.max()) for k in range(0, scene.series.n_slices, 2))
    assert 0.0 < most < LOSS_HU
    faint = [f for f in map(_findings, range(2000)) if f.artery_hu < 100.0]
    assert len(faint) > 20
    assert min(e.hu - f.artery_hu for f in faint for e in f.emboli) >= -35.0  # more than 5 HU below the rule


def test_pixels_lie_where_the_header_says(clotted: Scene) -> None:
    """A spot put at a known place in the world is found there again from position and spacing."""
    series = clotted.series
    place = np.array(series.centre_mm) + np.array([60.0, -20.0, 35.0])
    spot = Tubes.along([place, place + 1e-3], 4.0, Layer.BONE)
    marked = replace(clotted, tubes=Tubes.join(clotted.tubes, spot))
    before, after = Renderer(clotted), Renderer(marked)
    total, moment = 0.0, np.zeros(3)
    for k in np.flatnonzero(np.abs(series.origins_mm[:, 2] - place[2]) < 7.0).tolist():
        added = (after.render(k)[0] - before.render(k)[0]).astype(np.float64)
        row, column = np.nonzero(added)
        at = np.stack([2 * column + 0.5, 2 * row + 0.5, np.zeros(len(row))], axis=1) * series.spacing_mm
        total += added.sum()
        moment += added[row, column] @ (series.origins_mm[k] + at)
    np.testing.assert_allclose(moment / total, place, rtol=0, atol=CENTROID_MM)


def test_depth_in_a_tube_by_hand() -> None:
    """A cone from (0, 0, 0) to (30, 0, 40), radius 4 to 6 mm, in the planes z = 20 and z = 60."""
    cone = Tubes.along([(0.0, 0.0, 0.0), (30.0, 0.0, 40.0)], (4.0, 6.0), Layer.VEIN)
    planes = Planes(x_mm=-128.0, y_mm=-128.0, z_mm=np.array([20.0, 60.0]), pixel_mm=1.0)
    found = Raster(cone).depths(planes)
    assert list(found) == [Layer.VEIN]
    depth, (rows, columns) = found[Layer.VEIN]

    def at(plane: int, x: float, y: float) -> float:
        return float(depth[plane, int(y) + 128 - rows.start, int(x) + 128 - columns.start])

    assert abs(at(0, 15.0, 0.0) - 5.0) < SAME_PLACES_MM  # on the axis, half way
    assert abs(at(0, 15.0, 3.0) - 2.0) < SAME_PLACES_MM
    assert abs(at(0, 20.0, 0.0) - (5.0 + 2.0 * 3.0 / 50.0 - 4.0)) < SAME_PLACES_MM  # 3 mm along, 4 mm beside the axis
    assert at(1, 30.0, 0.0) < -1.0  # 20 mm above its end


def test_tissues_have_their_density(clotted: Scene) -> None:
    series, scale = clotted.series, np.array(clotted.chest.scale)
    places = {  # in the canonical chest, with the density there
        "aorta": ((30.0, 37.0, -45.0), clotted.findings.aorta_hu),
        "trachea": ((0.0, -3.0, 45.0), -1000.0),
        "liver": ((-60.0, 0.0, -145.0), clotted.chest.liver_hu),
        "right ventricle": ((8.0, -42.0, -74.0), 0.94 * clotted.findings.artery_hu),
        "marrow": ((0.0, 49.0, 92.0 - 24.5 * 4), clotted.chest.bone_hu),
    }
    renderer = Renderer(_without_emboli(clotted))
    for name, (place, hu) in places.items():
        x, y, z = series.rotation @ (np.array(place) * scale) + series.centre_mm
        k = int(np.argmin(np.abs(series.origins_mm[:, 2] - z)))
        column, row = ((np.array((x, y)) - series.origins_mm[k, :2]) / series.spacing_mm / 2.0).round().astype(int)
        assert abs(float(renderer.render(k)[0][row, column]) - hu) < 12.0, name


def test_noise_is_that_of_real_scans(clotted: Scene) -> None:
    """8 to 35 HU in the middle of the chest, correlated between neighbours."""
    scanner = draw_scanner(np.random.default_rng(0), clotted.series)
    k = clotted.series.n_slices // 2
    hu, rest = Renderer(clotted).render(k)[0], couch(clotted.series)
    images = [
        acquire(hu, rest, k, scene=clotted, scanner=replace(scanner, hardening=0.0), rng=np.random.default_rng(seed))
        for seed in (0, 1)
    ]
    noise = ((images[0] - images[1]) / np.sqrt(2.0)).astype(np.float64)[206:306, 206:306]
    assert 8.0 < noise.std() < 35.0
    assert np.corrcoef(noise[:, :-1].ravel(), noise[:, 1:].ravel())[0, 1] > 0.5


def test_sub_planes_fill_the_slice() -> None:
    assert sub_offsets(1.25).tolist() == [0.0]
    assert sub_offsets(3.0).tolist() == [-0.75, 0.75]


def test_speed_has_a_floor(record_property: Callable[[str, object], None]) -> None:
    """Rendering and acquiring keep far above a tenth of the speed that the slow tier asks for, whatever else runs."""
    plan = _plan(0)
    scene = draw_scene(plan)
    scanner = draw_scanner(np.random.default_rng(0), scene.series)
    started = time.process_time()
    images = list(islice(make_images(plan, scene, scanner), 12))
    slices_per_s = len(images) / (time.process_time() - started)
    record_property("slices_per_s", slices_per_s)
    assert slices_per_s > 4.0


@pytest.mark.slow
def test_speed(tmp_path: Path) -> None:
    """At least 40 slices/s on one core, files written."""
    started = time.process_time()
    report = simulate(tmp_path / "raw", n_studies=8, seed=1, kind="ctpa", n_jobs=1)
    assert report.n_slices / (time.process_time() - started) >= 40.0
