"""Pages of a task other than hemorrhage: its own labels and windows, and no word of any other."""

import base64
import io
import json
import re
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import matplotlib.image
import numpy as np
import pytest
import small
from pages import pictures

from rsna_e2e.core.records import Int16Image, Presentation, VoiLut
from rsna_e2e.evaluation.evaluate import evaluate
from rsna_e2e.evaluation.inspection import content, inspect_store, write_inspection
from rsna_e2e.evaluation.report import write_report
from rsna_e2e.inference.predictions import PredictionTable, predictions_path, write_predictions
from rsna_e2e.store import Store
from rsna_e2e.store.prepare import prepare
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.tasks.labels import write_labels
from rsna_e2e.tasks.pe import PE
from rsna_e2e.tasks.task import Inputs, Labels, Task
from rsna_e2e.tasks.windows import named_windows

OWN = Task(
    name="own",
    title="An example",
    slices=Labels(names=("dense", "deep"), weights=(1.0, 1.0)),
    headline="dense",
    inputs=Inputs(windows_hu=((300.0, 600.0), (-600.0, 1500.0)), mean=(0.5, 0.5), std=(0.25, 0.25)),
)
OF_ANOTHER = re.compile(
    r"\b(?:brain|bleed\w*|hemorrhage|subdural|pe_present\w*|competition\w*)\b|“any”|> *any *<", re.IGNORECASE
)


@dataclass
class FakeStore:
    """What the report asks of a store: every slice is 450 HU."""

    path: Path
    index: dict[str, np.ndarray]
    values: str = "hu"

    def read_slice(self, row: int) -> Int16Image:
        return np.full((64, 64), 450, dtype=np.int16)


def test_windows_have_the_names_of_radiology() -> None:
    assert list(named_windows(ICH)) == ["brain", "subdural", "soft tissue"]
    assert list(named_windows(PE)) == ["lung", "pulmonary arteries", "mediastinum"]
    assert named_windows(OWN) == {"channel 1": (300.0, 600.0), "lung": (-600.0, 1500.0)}


class FakeRadiographs(FakeStore):
    """Every image is 450 of 0 to 1000, black being 1000."""

    luts: ClassVar[dict[str, VoiLut]] = {}

    def presentation(self, row: int) -> Presentation:
        window = {"voi_function": "LINEAR_EXACT", "window_center": 500.0, "window_width": 1000.0}
        form = {"value_offset": 0, "pixel_representation": 0, "slope": 1.0, "intercept": 0.0, "bits_stored": 12}
        return Presentation(photometric="MONOCHROME1", **form, **window)  # type: ignore[arg-type]


def report_of(task: Task, folder: Path, *, n_slices: int, store: FakeStore) -> str:
    """Return the page of a submission for 60 slices in series of `n_slices`."""
    ids = [f"IM{row:03d}" for row in range(60)]
    truth = np.zeros((60, 2))
    truth[10:16, 0] = truth[12:14, 1] = truth[40:44, 0] = 1
    probability = np.clip(truth * 0.6 + np.random.default_rng(0).uniform(0.05, 0.3, (60, 2)), 0, 1)
    submission = folder / "own.csv"
    write_labels(submission, task, ids, probability)
    write_labels(folder / "truth.csv", task, ids, truth)
    table = PredictionTable(
        image_ids=ids,
        series_keys=[f"series{row // n_slices:02d}" for row in range(60)],
        slice_index=np.arange(60) % n_slices,
        position_mm=np.arange(60) % n_slices * 5.0,
        probability=probability,
    )
    write_predictions(predictions_path(submission), task, table)
    found = evaluate(submission, folder / "truth.csv", task=task, n_bootstrap=5)
    store.index["image_id"] = np.array(ids)
    return write_report(found, out=folder / "out", store=store).read_text()  # type: ignore[arg-type]


def test_a_report_speaks_of_its_task(tmp_path: Path) -> None:
    page = report_of(OWN, tmp_path, n_slices=20, store=FakeStore(tmp_path, {}))
    assert "slices shown, channel 1 window (300/600 HU)" in page
    assert "AUC of “dense”, slices" in page
    assert re.search(r"<b>dense</b>", page), "a positive slice that has no other label"
    assert re.search(r"<b>deep</b>", page)
    assert strange_words(page) == []


def test_a_report_shows_radiographs_as_a_screen_does(tmp_path: Path) -> None:
    inputs = Inputs(windows_hu=((16383.5, 32767.0),), mean=(0.5,), std=(0.25,), values="grey")
    store = FakeRadiographs(tmp_path, {}, values="grey")
    page = report_of(replace(OWN, inputs=inputs), tmp_path, n_slices=1, store=store)
    images = re.findall(r'<img class="radiograph" src="data:image/jpeg;base64,([^"]+)"', page)
    assert len(images) == 3  # two true positives and a true negative, as nothing is predicted wrong
    for image in images:
        grey = matplotlib.image.imread(io.BytesIO(base64.b64decode(image)), format="jpg")[..., 0] / 255
        np.testing.assert_allclose(grey.mean(), 0.55, atol=0.01)
    assert re.search(r'<th scope="row">Dense</th><td>0.\d\d</td><td>yes</td>', page)
    assert "slice normal" not in page
    assert "slices shown" not in page
    assert strange_words(page) == []


def test_series_of_one_slice_each_are_not_scored_once_more(tmp_path: Path) -> None:
    """With intervals, whose resamples are of series still, and nothing that says that these are not known."""
    for n_slices, levels in ((20, {"slice", "series"}), (1, {"slice"})):
        page = report_of(OWN, tmp_path, n_slices=n_slices, store=FakeStore(tmp_path, {}))
        content = json.loads((tmp_path / "out/metrics.json").read_text())
        assert {one["level"] for one in content["labels"]} == levels
        assert ("AUC of “dense”, series" in page) == ('swatch line series"' in page) == (n_slices > 1)
        assert "not known which series" not in page
    assert content["labels"][0]["auc"]["low"] is not None


def test_an_inspection_speaks_of_its_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small.make_store_of(tmp_path, [[np.full((32, 32), 450)] * 2]).close()
    write_labels(tmp_path / "own.csv", OWN, ["ID_0000", "ID_0001"], np.array([[1.0, 0.0], [0.0, 0.0]]))
    prepare(tmp_path / "raw", tmp_path / "own", task=OWN, labels=tmp_path / "own.csv", n_jobs=1)
    monkeypatch.setattr(content, "get_task", {"own": OWN}.__getitem__)
    with closing(Store.open(tmp_path / "own")) as store:
        page = write_inspection(*inspect_store(store), out=tmp_path / "out").read_text()
    section = page.split("<h2>Contact sheets</h2>")[1].split("</section>")[0]
    assert strange_words(page) == []
    assert "<b>channel 1</b>300/600" in section
    assert "<b>lung</b>-600/1500" in section
    assert "with the label “dense”" in section
    shown = [matplotlib.image.imread(io.BytesIO(one), format="jpg") / 255 for one in pictures(section)]
    assert [one.shape[:2] for one in shown] == [(2 * 128, 128)] * 2
    middles = [[one[start + 32 : start + 96, 32:96].mean() for start in (0, 128)] for one in shown]
    np.testing.assert_allclose(middles, [[450 / 600, 1.0]] * 2, atol=0.01)


def strange_words(page: str) -> list[str]:
    text = re.sub(r"<style.*?</style>|data:[^\"]*", "", page, flags=re.DOTALL)
    return OF_ANOTHER.findall(text)
