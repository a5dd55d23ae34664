"""Simulated studies seen as physics: geometry, partial volume, noise, and labels that follow from what is there."""

import time
from collections.abc import Callable
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest

from rsna_e2e.tasks.ich import ICH
from rsna_e2e.tools.synth.common.plan import Request, plan_studies
from rsna_e2e.tools.synth.common.scanner import to_stored
from rsna_e2e.tools.synth.common.series import Series
from rsna_e2e.tools.synth.head import bleeds
from rsna_e2e.tools.synth.head.acquire import acquire, draw_scanner, headrest
from rsna_e2e.tools.synth.head.geometry import draw_series
from rsna_e2e.tools.synth.head.patient import Head, draw_head
from rsna_e2e.tools.synth.head.render import Rendering, Scene, render_slice
from rsna_e2e.tools.synth.head.study import draw_scene, label_masks, make_images

# a spot of 3 mm on pixels of 1 mm and planes 1.3 mm apart: its centroid is good to a small part of a pixel
CENTROID_MM = 0.3
SAME_PLANES_HU = 0.01  # float32 sums in another order


def _plain_head(seed: int = 1) -> Head:
    return replace(draw_head(np.random.default_rng(seed)), scale=(1.0, 1.0, 1.0), warp_mm=0.0, calcified=(), scars=())


def _tilted_series(head: Head, *, tilted: bool) -> Series:
    return next(
        series
        for series in (draw_series(np.random.default_rng(seed), head) for seed in range(100))
        if (series.column_direction[2] < -0.1) == tilted and series.thickness_mm > 3.5
    )


def test_storage_forms() -> None:
    head = _plain_head()
    series = _tilted_series(head, tilted=False)
    scanner = draw_scanner(np.random.default_rng(0), series)
    hu = np.full((512, 512), 40.4, np.float32)
    hu[256, 256], hu[256, 257] = 9000.0, -5000.0
    signed = to_stored(hu, replace(scanner, is_signed=True))
    assert (signed[0, 0], signed[256, 255], signed[256, 256], signed[256, 257]) == (-2000, 1064, 10024, -3976)
    unsigned = to_stored(hu, replace(scanner, is_signed=False))
    assert (unsigned[0, 0], unsigned[256, 255], unsigned[256, 256], unsigned[256, 257]) == (0, 1064, 4095, 0)


@pytest.mark.parametrize("tilted", [False, True])
def test_pixels_lie_where_the_header_says(tilted: bool) -> None:
    """A spot put at a known place of the head is found there again from position, orientation and spacing."""
    place = np.array([20.0, -15.0, 12.0])
    head = _plain_head()
    series = _tilted_series(head, tilted=tilted)
    marked = replace(head, calcified=((*place, 3.0),))
    scenes = [Scene(head=h, bleeds=(), series=series, white_hu=28.0, grey_hu=37.0) for h in (head, marked)]
    total, moment = 0.0, np.zeros(3)
    for k in range(series.n_slices):
        without, with_spot = (render_slice(scene, k).hu for scene in scenes)
        added = (with_spot - without).astype(np.float64)
        row, column = np.nonzero(added)
        # pixel (i, j) of the half-resolution rendering covers pixels 2 i, 2 i + 1 and 2 j, 2 j + 1 of the file
        world = (
            series.origins_mm[k]
            + np.outer((2 * column + 0.5) * series.spacing_mm, series.row_direction)
            + np.outer((2 * row + 0.5) * series.spacing_mm, series.column_direction)
        )
        total += added.sum()
        moment += added[row, column] @ world
    found = series.rotation.T @ (moment / total - np.array(series.centre_mm))
    np.testing.assert_allclose(found, place, rtol=0, atol=CENTROID_MM)


def test_thickness_is_integrated() -> None:
    """A slice of 5 mm equals the mean of the two of 2.5 mm that it is made of."""
    head = _plain_head()
    series = replace(_tilted_series(head, tilted=True), thickness_mm=5.0)
    bleed = bleeds.draw_epidural(np.random.default_rng(3))
    scene = Scene(head=head, bleeds=(bleed,), series=series, white_hu=28.0, grey_hu=37.0)
    k = series.n_slices // 2
    halves = [
        render_slice(
            replace(scene, series=replace(
                series, thickness_mm=2.5, origins_mm=series.origins_mm + shift * series.normal)), k
        ).hu
        for shift in (-1.25, 1.25)
    ]  # fmt: skip
    np.testing.assert_allclose(render_slice(scene, k).hu, (halves[0] + halves[1]) / 2, rtol=0, atol=SAME_PLANES_HU)


def test_gain_is_what_the_bleed_adds() -> None:
    """Blood in the ventricles moves nothing, so that the image with it less the one without is the gain."""
    head = _plain_head()
    series = _tilted_series(head, tilted=False)
    bleed = next(
        b for b in (bleeds.draw_intraventricular(np.random.default_rng(seed)) for seed in range(50)) if b.site == "cast"
    )
    scene = Scene(head=head, bleeds=(bleed,), series=series, white_hu=28.0, grey_hu=37.0)
    area = 0.0
    for k in range(series.n_slices):
        seen = render_slice(scene, k)
        before = render_slice(replace(scene, bleeds=()), k).hu
        np.testing.assert_allclose(seen.hu - before, seen.gain_hu[0], rtol=0, atol=SAME_PLANES_HU)
        area += seen.area_mm2[0]
        pure = seen.gain_hu[0] > 0.9 * (bleed.hu - 7.0)
        assert np.all(np.abs(before[pure] - 7.0) < 6.0)  # it fills fluid, which has 7 HU, and nothing else
    assert area > 0


def _rendering(scene: Scene, *, hu: float, gain: tuple[float, ...], n_pixels: int) -> Rendering:
    image = np.full((256, 256), 30.0, np.float32)
    image.flat[:n_pixels] = hu
    gains = np.zeros((len(gain), 256, 256), np.float32)
    for index, value in enumerate(gain):
        gains[index].flat[:n_pixels] = value
    return Rendering(hu=image, gain_hu=gains, area_mm2=np.zeros(len(gain)))


def test_label_rule_by_hand() -> None:
    head = _plain_head()
    rng = np.random.default_rng(0)
    two = (bleeds.draw_subdural(rng), bleeds.draw_subdural(rng))
    series = replace(_tilted_series(head, tilted=False), spacing_mm=0.5)  # rendering pixels of 1 mm2
    scene = Scene(head=head, bleeds=two, series=series, white_hu=28.0, grey_hu=37.0)

    def positive(**case: object) -> bool:
        masks = label_masks(scene, _rendering(scene, **case), ICH)  # type: ignore[arg-type]
        assert set(masks) in (set(), {"subdural", "any"})
        n_pixels = case["n_pixels"]
        for mask in masks.values():
            np.testing.assert_array_equal(mask.flat, np.arange(mask.size) < n_pixels)
        return bool(masks)

    assert positive(hu=42.0, gain=(8.0, 0.0), n_pixels=15)
    assert not positive(hu=42.0, gain=(8.0, 0.0), n_pixels=14)
    assert not positive(hu=42.0, gain=(7.9, 0.0), n_pixels=15)
    assert not positive(hu=41.9, gain=(30.0, 0.0), n_pixels=200)
    assert positive(hu=100.0, gain=(30.0, 0.0), n_pixels=200)
    assert not positive(hu=100.1, gain=(30.0, 0.0), n_pixels=200)
    assert positive(hu=42.0, gain=(4.0, 4.0), n_pixels=15)


def test_noise_follows_the_body() -> None:
    """Noise in the brain is what was asked for, correlated between neighbours, and less in the air beside the head."""
    head = _plain_head()
    series = _tilted_series(head, tilted=False)
    scanner = replace(draw_scanner(np.random.default_rng(0), series), hardening=0.0, noise_hu=4.0)
    scene = Scene(head=head, bleeds=(), series=series, white_hu=28.0, grey_hu=37.0)
    heights = series.origins_mm[:, 2] - series.centre_mm[2]
    hu = render_slice(scene, int(np.argmin(np.abs(heights - 10.0)))).hu
    rest = headrest(series)
    images = [
        acquire(hu, rest, series=series, scanner=scanner, rng=np.random.default_rng(seed)).astype(np.float64)
        for seed in (0, 1)
    ]
    noise = (images[0] - images[1]) / np.sqrt(2.0)
    middle, corner = noise[216:296, 216:296], noise[:30, :40]
    assert 3.0 < middle.std() < 5.0
    assert corner.std() < 0.4 * middle.std()
    assert np.corrcoef(middle[:, :-1].ravel(), middle[:, 1:].ravel())[0, 1] > 0.5


def test_tissues_have_their_density() -> None:
    head = _plain_head()
    series = _tilted_series(head, tilted=False)
    scene = Scene(head=head, bleeds=(), series=series, white_hu=28.0, grey_hu=37.0)
    heights = series.origins_mm[:, 2] - series.centre_mm[2]
    hu = render_slice(scene, int(np.argmin(np.abs(heights - 15.0)))).hu
    brain = hu[(hu > 15.0) & (hu < 45.0)]
    pixel_ml = (2.0 * series.spacing_mm / 10.0) ** 2
    assert 26.0 < np.mean(brain) < 36.0
    assert 90.0 < brain.size * pixel_ml < 170.0  # cm2 of a section through an adult brain at the ventricles
    assert 20.0 < np.count_nonzero(hu > 500.0) * pixel_ml < 80.0
    assert hu[0, 0] == -1000.0


@pytest.mark.slow
def test_natural_rates_are_near_the_real_ones() -> None:
    """Labels per slice against the counts of the reference data (674,258 slices)."""
    real = np.array([2761, 32564, 23766, 32122, 42496, 97103]) / 674258
    rates = []
    for plan in plan_studies(Request(n_studies=250, seed=2, prevalence="natural", test_fraction=0.0)):
        scene, _ = draw_scene(plan)
        for k in range(scene.series.n_slices):
            masks = label_masks(scene, render_slice(scene, k), ICH) if scene.bleeds else {}
            rates.append([name in masks for name in ICH.slices.names])
    found = np.mean(rates, axis=0)
    assert np.all(found[1:] > 0.55 * real[1:])
    assert np.all(found[1:] < 1.7 * real[1:])
    assert found[0] < 0.012


def test_speed_has_a_floor(record_property: Callable[[str, object], None]) -> None:
    """Rendering and acquiring keep far above a tenth of the speed that the slow tier asks for, whatever else runs."""
    (plan,) = plan_studies(Request(n_studies=1, seed=0, prevalence="demo", test_fraction=0.0))
    scene, scanner = draw_scene(plan)
    started = time.process_time()
    images = list(islice(make_images(plan, scene, scanner, ICH), 12))
    slices_per_s = len(images) / (time.process_time() - started)
    record_property("slices_per_s", slices_per_s)
    assert slices_per_s > 4.0
