"""The data report of radiographs: numbers worked out by hand, pictures as they are shown, and no word of HU."""

import base64
import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
import stores
from pages import assert_numbers_are_those_of, assert_self_contained, parsed, pictures

from rsna_e2e.core.errors import UsageError
from rsna_e2e.evaluation.inspection import inspect_store, write_inspection
from rsna_e2e.evaluation.inspection.findings import find
from rsna_e2e.evaluation.inspection.radiographs import describe_radiographs
from rsna_e2e.evaluation.inspection.slices import Slices
from rsna_e2e.loader.present import WHITE, shown_slice
from rsna_e2e.store import Store
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.tasks.task import Inputs

TASK = replace(ICH, inputs=Inputs(windows_hu=((WHITE / 2, float(WHITE)),), mean=(0.5,), std=(0.25,), values="grey"))
BOXES = {"box_rows": np.array([0, 2]), "box_edges": np.array([[-0.5, -0.5, 31.5, 15.5], [11.5, 39.5, 35.5, 79.5]])}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    path = tmp_path_factory.mktemp("radiographs") / "store"
    stores.make_xray_store(path)
    return Store.open(path)


@pytest.fixture(scope="module")
def inspected(store: Store) -> tuple[dict[str, Any], Slices]:
    """With a box in the first image, and one in the third."""
    content, slices = inspect_store(store, task=TASK)
    slices = replace(slices, **BOXES)
    return content | {"radiographs": describe_radiographs(slices)}, slices


@pytest.fixture(scope="module")
def folder(inspected: tuple[dict[str, Any], Slices], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_inspection(*inspected, out=tmp_path_factory.mktemp("page")).parent


def test_views_people_and_forms_by_hand(inspected: tuple[dict[str, Any], Slices]) -> None:
    found = inspected[0]["radiographs"]
    counted = {
        name: {one["value"][0]: one["n"] for one in found[name]} for name in ("views", "sexes", "photometric", "voi")
    }
    assert counted == {
        "views": {"PA": 2, "AP": 1, "LL": 1, "": 1},
        "sexes": {"F": 2, "M": 1, "O": 1, "": 1},
        "photometric": {"MONOCHROME2": 4, "MONOCHROME1": 1},
        "voi": {"LUT": 2, "LINEAR": 1, "SIGMOID": 1, "": 1},
    }
    frontal = found["views"][0]["prevalence"]  # of two images, one with labels
    assert (frontal["any"], frontal["subdural"]) == (1, 0)
    assert found["views"][1]["share"] == 0.2
    assert (found["age_y"]["n"], found["age_y"]["n_unknown"], found["age_y"]["median"]) == (4, 1, 30.75)
    assert found["longer_side_px"]["max"] == 80
    assert found["n_luts"] == 2
    assert inspected[0]["values"]["highest"][0]["hu"] == 2 + 32768  # in the grey of the file
    assert [one["value"] for one in inspected[0]["values"]["windows"]["values"]].count(["5", "9"]) == 1


def test_boxes_by_hand(inspected: tuple[dict[str, Any], Slices]) -> None:
    boxes = inspected[0]["radiographs"]["boxes"]
    assert (boxes["n"], boxes["n_images"], boxes["per_image"]["max"]) == (2, 2, 1)
    assert [(boxes[name]["min"], boxes[name]["max"]) for name in ("width_px", "height_px")] == [(24, 32), (16, 40)]
    assert (boxes["area_share"]["min"], boxes["area_share"]["max"]) == (0.125, 0.25)
    expected = np.zeros((32, 32), dtype=int)
    expected[:8, :16] += 1  # the upper left quarter and half of 64 x 64
    expected[16:, 8:24] += 1  # the lower half and middle of 80 x 48
    np.testing.assert_array_equal(boxes["map"], expected)


def test_the_histogram_is_of_what_is_shown(store: Store, inspected: tuple[dict[str, Any], Slices]) -> None:
    shown = np.concatenate([shown_slice(store, row).ravel() for row in range(len(store))])
    found = inspected[0]["grey"]
    assert inspected[0]["hu"] is None
    assert found["counts"] == np.histogram(shown, bins=np.arange(0, 32769, 512))[0].tolist()
    assert (found["black_share"], found["white_share"]) == ((shown == 0).mean(), (shown == WHITE).mean())
    (window,) = found["windows"]
    assert (window["mean"], window["std"]) == pytest.approx(((shown / WHITE).mean(), (shown / WHITE).std()), rel=1e-9)


def columns(n_frontal: int, n_positive_frontal: int) -> Slices:
    """40 lateral images, 4 of them positive, and frontal ones."""
    n = 40 + n_frontal
    labels = np.zeros((n, 6), np.float32)
    labels[:4, ICH.headline_index] = labels[40 : 40 + n_positive_frontal, ICH.headline_index] = 1
    texts = {"sex": "F", "photometric": "MONOCHROME2", "voi_function": "", "voi_lut": ""}
    index = {name: np.array([text] * n, dtype=object) for name, text in texts.items()}
    index |= {name: np.ones(n) for name in ("age_y", "imager_spacing_mm", "rows", "columns")}
    index["view"] = np.array(["LL"] * 40 + ["PA"] * n_frontal, dtype=object)
    return Slices(task=TASK, columns=index, labels=labels, refusals=[])


def test_views_that_tell_of_a_label_are_found(inspected: tuple[dict[str, Any], Slices]) -> None:
    found = describe_radiographs(columns(50, 10))
    assert found is not None
    ends = {"low": "LL", "low_prevalence": 0.1, "high": "PA", "high_prevalence": 0.2}
    assert found["telling"] == [{"form": "views", "label": "any", **ends}]
    findings = find(inspected[0] | {"radiographs": found})
    assert "any holds in 20% of PA and in 10% of LL" in next(one["text"] for one in findings if "view" in one["title"])
    rarer = describe_radiographs(columns(50, 2))
    assert rarer is not None
    assert [(one["low"], one["high"]) for one in rarer["telling"]] == [("PA", "LL")]
    for n_frontal, n_positive in ((50, 9), (29, 29)):  # less than twice as common; too few images
        other = describe_radiographs(columns(n_frontal, n_positive))
        assert other is not None
        assert other["telling"] == []


def test_what_is_usual_of_radiographs_is_no_finding(inspected: tuple[dict[str, Any], Slices]) -> None:
    titles = {one["title"] for one in inspected[0]["findings"]}
    assert not titles & {"No positions", "A series for every slice", "Wrapped 12-bit values", "Gaps"}


def test_the_page_shows_radiographs_with_their_boxes(store: Store, folder: Path) -> None:
    page, content = (folder / "inspection.html").read_text(), json.loads((folder / "inspection.json").read_text())
    assert_self_contained(page)
    numbers = parsed(page).numbers
    assert_numbers_are_those_of(content, numbers)
    assert "radiographs.boxes.n" in {path for path, _, _ in numbers}
    words = re.sub(r"<style>.*?</style>|<[^>]*>", " ", page, flags=re.DOTALL)
    assert re.findall(r"\bHU\b|\bslices?\b|\bseries\b|brain", words, flags=re.IGNORECASE) == []
    drawn = [picture.decode() for picture in pictures(page) if b"<image width" in picture and b"rect{" in picture]
    assert sum(one.count('class="truth"') for one in drawn) == 2
    expected = []
    for row in range(len(store)):
        shown = shown_slice(store, row)
        expected.append(shown.sum() / WHITE / max(shown.shape) ** 2)  # in a square
    assert sorted(map(mean_grey, drawn)) == pytest.approx(sorted(expected), abs=0.04)  # JPEG, and soft edges


def mean_grey(svg: str) -> float:
    """Of the picture under the boxes."""
    (picture,) = re.findall(r'href="data:image/jpeg;base64,([^"]+)"', svg)
    grey = matplotlib.image.imread(io.BytesIO(base64.b64decode(picture)), format="jpg")[..., 0] / 255
    return float(grey.mean())


def test_images_of_another_kind_are_refused(store: Store) -> None:
    with pytest.raises(UsageError, match="holds radiographs, and task ich is for Hounsfield units of CT"):
        inspect_store(store)
