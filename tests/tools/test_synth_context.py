"""The dial of context: what a slice alone tells of small bleeds, and what its neighbours tell, by oracles."""

# N slices that show a candidate, F features

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import matplotlib.image
import numpy as np
import pydicom
import pytest
from documents import ROOT
from scipy.ndimage import binary_dilation
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict

from rsna_e2e.core.errors import UsageError
from rsna_e2e.core.records import Float32Array, Float64Array
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.tasks.labels import read_labels
from rsna_e2e.tools.synth.common.plan import Request, StudyPlan, plan_studies
from rsna_e2e.tools.synth.common.series import FINE
from rsna_e2e.tools.synth.head.acquire import acquire, headrest
from rsna_e2e.tools.synth.head.context import Candidate, added_hu
from rsna_e2e.tools.synth.head.render import Scene
from rsna_e2e.tools.synth.head.study import draw_scene, label_masks, render_in_context
from rsna_e2e.tools.synth.simulate import simulate

REACH = (-2, -1, 0, 1, 2)  # slices that the oracle with neighbours sees
NOISE_HU = 3.5
PICTURE = ROOT / "docs/figures/context.png"
Images = dict[int, Float32Array]  # [FINE, FINE] by the number of the slice


def _flat(plan: StudyPlan, scene: Scene, needed: set[int]) -> Images:
    """Candidates in brain without anatomy, and noise: a hundredth of the work of whole images."""
    rng = np.random.default_rng(plan.index)
    images = {}
    for k in sorted(needed):
        image = np.full((FINE, FINE), 30.0, np.float32)
        for candidate in scene.candidates:
            found = added_hu(candidate, k, head=scene.head, series=scene.series, hu=image)
            if found is not None:
                image[found[0]] += found[1]
        images[k] = image + NOISE_HU * rng.standard_normal(image.shape, dtype=np.float32)
    return images


def _acquired(plan: StudyPlan, scene: Scene, needed: set[int]) -> Images:
    """Whole images as the scanner makes them, on the grid of the rendering."""
    rng, rest = np.random.default_rng(plan.index), headrest(scene.series)
    _, scanner = draw_scene(plan)
    images = {}
    for k in sorted(needed):
        hu = render_in_context(scene, k, context=plan.context, task=ICH).hu
        image = acquire(hu, rest, series=scene.series, scanner=scanner, rng=rng)
        images[k] = image.reshape(FINE, 2, FINE, 2).mean(axis=(1, 3))
    return images


def _measured(candidate: Candidate, scene: Scene, k: int, image: Float32Array) -> list[float]:
    """What a reader who knows the place sees there: density, its peak, contrast, and the area like blood."""
    air = np.full(image.shape, -1000.0, np.float32)
    found = added_hu(candidate, k, head=scene.head, series=scene.series, hu=air)
    assert found is not None
    window, _, share = found
    inside = share > 0.9
    if not inside.any():
        return [0.0] * 4
    around = binary_dilation(inside, iterations=3) & (share == 0.0)
    seen = image[window]
    mean = float(seen[inside].mean())
    contrast = mean - float(np.median(seen[around])) if around.any() else 0.0
    return [mean, float(np.percentile(seen[inside], 90)), contrast, float(((seen > 42.0) & (seen < 100.0)).sum())]


def _everywhere(candidate: Candidate, n_slices: int) -> Candidate:
    """The same place in all slices, whether or not they show it; it moves along a line."""
    known = sorted(candidate.looks)
    rows = np.polyfit(known, [candidate.looks[k].row for k in known], 1)
    columns = np.polyfit(known, [candidate.looks[k].column for k in known], 1)
    first = candidate.looks[known[0]]
    radius_mm = 14.0 if candidate.label == "subdural" else 3.6
    return replace(
        candidate,
        looks={
            k: replace(first, row=float(np.polyval(rows, k)), column=float(np.polyval(columns, k)), radius_mm=radius_mm)
            for k in range(n_slices)
        },
    )


def _scenes(context: str, *, n_studies: int) -> Iterator[tuple[StudyPlan, Scene]]:
    request = Request(n_studies=n_studies, seed=11, test_fraction=0.0, context=context)
    for plan in plan_studies(request):
        scene, _ = draw_scene(plan)
        yield plan, replace(scene, bleeds=())  # candidates alone are asked about


def _candidates(
    context: str, *, n_studies: int, images_of: Callable[[StudyPlan, Scene, set[int]], Images]
) -> tuple[Float64Array, Float64Array, list[int]]:
    """Features [N, F] of candidates in slices k-2 to k+2, whether they are blood [N], and whose they are."""
    features, truth, patients = [], [], []
    for plan, scene in _scenes(context, n_studies=n_studies):
        n = scene.series.n_slices
        shown = [
            (c, k) for c in scene.candidates if len(c.looks) > 1 for k, look in c.looks.items() if not look.is_dense
        ]
        needed = {min(max(k + d, 0), n - 1) for _, k in shown for d in REACH}
        images = images_of(plan, scene, needed)
        place_of = {c.site: _everywhere(c, n) for c, _ in shown}
        see = cache(lambda site, k: _measured(place_of[site], scene, k, images[k]))  # noqa: B023 only used in this turn
        for candidate, k in shown:
            at = [min(max(k + d, 0), n - 1) for d in REACH]
            features.append([value for i in at for value in see(candidate.site, i)])
            truth.append(float(candidate.is_blood))
            patients.append(plan.patient)
    return np.array(features), np.array(truth), patients


def _oracles(features_NF: Float64Array, truth_N: Float64Array, patients: list[int]) -> tuple[float, float]:
    """Areas under the ROC curve of an oracle that sees a slice alone, and of one that sees its neighbours too."""
    n = features_NF.shape[1] // len(REACH)
    middle = features_NF[:, n * REACH.index(0) : n * (REACH.index(0) + 1)]
    aucs = []
    for seen in (middle, features_NF):
        forest = RandomForestClassifier(40, min_samples_leaf=8, random_state=0)
        found = cross_val_predict(forest, seen, truth_N, groups=patients, cv=GroupKFold(5), method="predict_proba")
        aucs.append(float(roc_auc_score(truth_N, found[:, 1])))
    return aucs[0], aucs[1]


def _check(context: str, alone: float, together: float) -> None:
    if context == "strong":
        assert alone <= 0.65
        assert together >= 0.9
    else:
        assert alone >= 0.95
        assert together - alone <= 0.01


@pytest.mark.parametrize("context", ["none", "strong"])
def test_neighbours_tell_what_slices_alone_do_not(context: str, record_property: Callable[[str, object], None]) -> None:
    alone, together = _oracles(*_candidates(context, n_studies=50, images_of=_flat))
    record_property("auc", (alone, together))
    _check(context, alone, together)


@pytest.mark.slow
@pytest.mark.parametrize("context", ["none", "strong"])
def test_neighbours_tell_what_slices_alone_do_not_in_whole_images(
    context: str, record_property: Callable[[str, object], None]
) -> None:
    alone, together = _oracles(*_candidates(context, n_studies=150, images_of=_acquired))
    record_property("auc", (alone, together))
    _check(context, alone, together)


def test_settings_share_patients_bleeds_and_labels() -> None:
    """none and strong differ in how things look, not in what is there: places, blood, labels."""
    n_compared = 0
    for strong_plan in plan_studies(Request(n_studies=12, seed=3, prevalence="demo", context="strong"))[:4]:
        plans = {c: replace(strong_plan, context=c) for c in ("none", "natural", "strong")}
        scenes = {c: draw_scene(plan)[0] for c, plan in plans.items()}
        bleeds = [[(b.label, b.centres, b.radii, b.hu) for b in scene.bleeds] for scene in scenes.values()]
        assert bleeds[0] == bleeds[1] == bleeds[2]
        assert scenes["natural"].candidates == ()
        for one, other in zip(scenes["none"].candidates, scenes["strong"].candidates, strict=True):
            assert (one.site, one.is_blood, list(one.looks)) == (other.site, other.is_blood, list(other.looks))
        for k in range(8, scenes["natural"].series.n_slices, 8):
            seen = {
                c: set(label_masks(scene, render_in_context(scene, k, context=c, task=ICH), ICH))
                for c, scene in scenes.items()
            }
            assert seen["natural"] <= seen["none"] == seen["strong"]
            n_compared += 1
    assert n_compared > 8


def test_blood_is_clear_or_absent_without_context() -> None:
    """What a bleed adds is at least 25 HU in the middle of what is seen of it, in every slice with its label."""
    plans = plan_studies(Request(n_studies=30, seed=4, prevalence="demo", context="none"))
    n_positive = n_negative = 0
    for plan in (plan for plan in plans if draw_scene(plan)[0].bleeds):
        scene = replace(draw_scene(plan)[0], candidates=())
        for k in range(4, scene.series.n_slices, 4):
            rendering = render_in_context(scene, k, context="none", task=ICH)
            labels = label_masks(scene, rendering, ICH)
            for bleed, gain in zip(scene.bleeds, rendering.gain_hu, strict=True):
                if bleed.label in labels:
                    n_positive += 1
                    assert gain.max() == 0.0 or np.median(gain[gain >= 8.0]) >= 15.0
                else:
                    n_negative += 1
                    assert gain.max() == 0.0
        if n_positive > 8 and n_negative > 8:
            return
    pytest.fail("too few bleeds in the plan")


def test_the_dial_is_written_down_and_reaches_files(tmp_path: Path) -> None:
    out = tmp_path / "raw"
    simulate(out, n_studies=1, seed=19, context="strong", test_fraction=0.0, n_jobs=1)
    truth = json.loads((out / "stage_2_truth.json").read_text())
    assert truth["context"] == "strong"
    labels = read_labels(out / "stage_2_train.csv", ICH)
    row_of = {image_id: row for row, image_id in enumerate(labels.image_ids)}
    n_places = n_blood = 0
    for study in truth["studies"]:
        for candidate in study["candidates"]:
            for place in candidate["images"]:
                pixels = pydicom.dcmread(out / "stage_2_train_images" / f"{place['image_id']}.dcm").pixel_array
                row, column = round(place["row"]), round(place["column"])
                around = pixels[row - 2 : row + 3, column - 2 : column + 3].mean() - 1024.0
                if candidate["label"] != "subdural":  # the middle of a sheet is its edge
                    assert around > place["density_hu"] - 12.0
                    n_places += 1
                if candidate["is_blood"] and candidate["site"] == "pallidum":
                    name = ICH.slices.names.index(candidate["label"])
                    assert labels.values[row_of[place["image_id"]], name] == 1.0
                    n_blood += 1
    assert n_places > 8
    assert n_blood >= 4


def test_other_kinds_have_no_such_dial(tmp_path: Path) -> None:
    for kind in ("ctpa", "radiograph"):
        with pytest.raises(UsageError, match="context is an option of heads"):
            simulate(tmp_path / kind, n_studies=1, seed=0, kind=kind, context="none", n_jobs=1)
    with pytest.raises(UsageError, match="unknown context 'some'"):
        simulate(tmp_path / "head", n_studies=1, seed=0, context="some", n_jobs=1)


@pytest.mark.slow
@pytest.mark.parametrize("context", ["none", "strong"])
def test_speed_at_both_ends_of_the_dial(context: str, tmp_path: Path) -> None:
    """At least 40 slices/s on one core, files written."""
    started = time.process_time()
    report = simulate(tmp_path / "raw", n_studies=12, seed=1, prevalence="demo", context=context, n_jobs=1)
    assert report.n_slices / (time.process_time() - started) >= 40.0


def test_its_picture_is_there() -> None:
    assert matplotlib.image.imread(PICTURE).shape[1] > 600
    assert PICTURE.stat().st_size < 400_000


@pytest.mark.slow
def test_its_picture_is_drawn_again_by_its_script(tmp_path: Path) -> None:
    out = tmp_path / "context.png"
    subprocess.run([sys.executable, "-W", "error", str(PICTURE.parent / "make_context.py"), str(out)], check=True)
    again, committed = (matplotlib.image.imread(path) for path in (out, PICTURE))
    assert again.shape == committed.shape
    assert np.abs(again - committed).mean() < 0.01  # another processor may round single pixels otherwise
