"""The page of box scores: numbers as in its JSON file, pictures of what is found, missed and falsely marked, views."""

import json
import re
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import phantoms
import pytest
import radiographs
from pages import assert_numbers_are_those_of, assert_self_contained, parsed, pictures

from rsna_e2e.cli import main
from rsna_e2e.core.errors import BadInputError
from rsna_e2e.core.records import Int16Image, Presentation, VoiLut
from rsna_e2e.evaluation.boxes import BoxEvaluation, evaluate_boxes
from rsna_e2e.evaluation.report import write_box_report
from rsna_e2e.evaluation.report.box_page import choose_images
from rsna_e2e.inference.submission import write_box_submission
from rsna_e2e.tasks.boxes import make_boxes
from rsna_e2e.tasks.labels import BoxTable
from rsna_e2e.tasks.pneumonia import PNEUMONIA

N = 24
ROWS, COLUMNS = 120, 100


class FakeStore:
    """What the page asks of a store: radiographs in two views, two images of each patient."""

    path, values = Path("store"), "grey"
    luts: ClassVar[dict[str, VoiLut]] = {}

    def __init__(self, views: list[str]) -> None:
        numbers = np.arange(N)
        self.index = {
            "image_id": np.array([f"i{number:02d}" for number in numbers], dtype=object),
            "patient_id": np.array([f"p{number // 2}" for number in numbers], dtype=object),
            "series_key": np.array([f"{number:016x}" for number in numbers], dtype=object),
            "view": np.array([views[number % len(views)] for number in numbers], dtype=object),
        }

    def read_slice(self, row: int) -> Int16Image:
        return radiographs.chest((ROWS, COLUMNS), seed=row).astype(np.int16)

    def presentation(self, row: int) -> Presentation:
        window = {"voi_function": "LINEAR_EXACT", "window_center": 2048.0, "window_width": 4096.0}
        form = {"value_offset": 0, "slope": 1.0, "intercept": 0.0, "bits_stored": 12, "pixel_representation": 0}
        return Presentation(photometric="MONOCHROME2", **form, **window)  # type: ignore[arg-type]


def _evaluated(folder: Path, *, views: list[str] | None = None, n_drawn: int = 1) -> tuple[BoxEvaluation, Any]:
    """Images in turn: found the better the later, missed, falsely marked, and with nothing."""
    truth, images, places, scores = ["patientId,x,y,width,height,Target"], [], [], []
    for number in range(N):
        kind, image_id = number % 4, f"i{number:02d}"
        truth.append(f"{image_id},10,20,{30 + number},40,1" if kind < 2 else f"{image_id},,,,,0")
        if kind == 0:
            places, images, scores = (
                [*places, [10, 20 + (N - number) / 4, 30 + number, 40]],
                [*images, number],
                [*scores, 0.9],
            )
        if kind == 2:
            more = [[60 + one, 60, 20, 20] for one in range(n_drawn)]
            places, images = [*places, *more], [*images, *[number] * n_drawn]
            scores += [number / 100 - one / 1000 for one in range(n_drawn)]
    (folder / "truth.csv").write_text("\n".join(truth))
    table = BoxTable(image_ids=[f"i{number:02d}" for number in range(N)], boxes=make_boxes(images, places, scores))
    write_box_submission(folder / "boxes.csv", PNEUMONIA, table)
    store: Any = None if views is None else FakeStore(views)
    files = (folder / "boxes.csv", folder / "truth.csv")
    return evaluate_boxes(*files, task=PNEUMONIA, store=store, n_bootstrap=50), store


@pytest.mark.parametrize("views", [None, ["PA"], ["PA", "AP", "AP"], ["PA", ""]])
def test_the_page_has_the_numbers_of_its_file(tmp_path: Path, views: list[str] | None) -> None:
    evaluation, store = _evaluated(tmp_path, views=views)
    page = write_box_report(evaluation, out=tmp_path / "out", store=store).read_text()
    content = json.loads((tmp_path / "out/metrics.json").read_text())
    assert_self_contained(page)
    assert_numbers_are_those_of(content, parsed(page).numbers)
    shown = {path for path, _, _ in parsed(page).numbers}
    assert {"box_precision.value", "box_precision.low", "union_iou.with boxes.value", "image_auc.high"} <= shown
    assert {"floors.1.box_precision", "average_precision", "sensitivity.0.sensitivity"} <= shown
    assert ("views.1.image_auc.value" in shown) == (views is not None and len(views) > 1)
    assert "not given" in page if views == ["PA", ""] else "not given" not in page
    assert len(pictures(page)) == (1 if views is None else 1 + 12)
    assert ("shows images of patients" in page) == (views is not None)
    assert len(page) < 10e6


def test_scores_within_a_view_are_those_of_its_images_alone(tmp_path: Path) -> None:
    """Of images with an even number, half are found and half are falsely marked; of the others, half are missed."""
    evaluation, _ = _evaluated(tmp_path, views=["PA", "AP"])
    ap, pa = evaluation.by_view
    assert (ap.view, ap.n_images, ap.n_images_with_boxes) == ("AP", N // 2, N // 4)
    assert ap.box_precision.value == 0.0
    assert ap.auc.value == 0.5  # nothing is predicted: all ties
    assert (pa.view, pa.auc.value) == ("PA", 1.0)
    precision = evaluation.image_precision[::4]
    assert pa.box_precision.value == pytest.approx(precision.sum() / (N // 2), abs=1e-12)
    assert evaluation.image_auc.value == pytest.approx(0.5 * 1.0 + 0.5 * (0.5 * 0 + 0.5 * 0.5), abs=1e-12)


def test_examples_follow_their_rule(tmp_path: Path) -> None:
    evaluation, _ = _evaluated(tmp_path)
    assert choose_images(evaluation) == {
        "found": [20, 16, 12, 8],  # the later, the nearer to the truth
        "missed": [21, 17, 13, 9],  # the later, the larger
        "falsely marked": [22, 18, 14, 10],
    }


def test_pictures_have_the_boxes_with_the_highest_scores(tmp_path: Path) -> None:
    evaluation, store = _evaluated(tmp_path, views=["PA"], n_drawn=7)
    page = write_box_report(evaluation, out=tmp_path / "out", store=store).read_text()
    drawn = [picture.decode() for picture in pictures(page)[1:]]
    n_boxes = [(len(re.findall('class="truth"', one)), len(re.findall('class="predicted"', one))) for one in drawn]
    assert n_boxes == [(1, 1)] * 4 + [(1, 0)] * 4 + [(0, 5)] * 4
    assert re.findall(r">(0\.\d\d)</text>", drawn[8]) == ["0.22"] * 5
    assert "0 true, 7 predicted" in page


def test_names_of_patients_stay_out(tmp_path: Path) -> None:
    evaluation, store = _evaluated(tmp_path, views=["PA"])
    page = write_box_report(evaluation, out=tmp_path / "out", store=store).read_text()
    text = re.sub(r"data:image[^\"]*", "", page)
    assert not re.search(r"\b[ip]\d\d\b", text)
    assert "<code>00000000</code>" in text


def test_a_store_without_an_image_is_refused(tmp_path: Path) -> None:
    evaluation, store = _evaluated(tmp_path, views=["PA"])
    store.index = {name: values[:-1] for name, values in store.index.items()}
    with pytest.raises(BadInputError, match="i23"):
        write_box_report(evaluation, out=tmp_path / "out", store=store)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("nothing", ["true", "predicted", "true nor predicted"])
def test_without_boxes_there_is_a_page_all_the_same(tmp_path: Path, nothing: str) -> None:
    truth = ",".join(["a", *[""] * 4, "0"]) if "true" in nothing else "a,1,2,3,4,1"
    predicted = "" if "predicted" in nothing else "0.5 1 2 3 4"
    (tmp_path / "t.csv").write_text(f"patientId,x,y,width,height,Target\n{truth}\nb,,,,,0\n")
    (tmp_path / "s.csv").write_text(f"patientId,PredictionString\na,{predicted}\nb,\n")
    out = tmp_path / "out"
    assert main(["evaluate", str(tmp_path / "s.csv"), str(tmp_path / "t.csv"), "--out", str(out)]) == 0
    page = (out / "report.html").read_text()
    assert_self_contained(page)
    assert_numbers_are_those_of(json.loads((out / "metrics.json").read_text()), parsed(page).numbers)


def test_from_radiographs_to_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Prepared, scored and shown by the command line, boxes and labels: the store says the views."""
    truth, boxes = ["patientId,x,y,width,height,Target"], ["patientId,PredictionString"]
    labels = ["ID,Label"]
    for number in range(6):
        image_id, uid = f"i{number}", f"1.2.3.{number}"
        own = {"SOPInstanceUID": uid, "StudyInstanceUID": f"{uid}.1", "SeriesInstanceUID": f"{uid}.2"}
        tags = {"PatientID": f"p{number}", "ViewPosition": "AP" if number < 3 else "PA"}
        grey = radiographs.chest((ROWS, COLUMNS), seed=number)
        phantoms.write_dicom(tmp_path / f"raw/{image_id}.dcm", radiographs.dataset(grey, 12, **own, **tags))
        truth.append(f"{image_id},10,20,30,40,1" if number % 2 else f"{image_id},,,,,0")
        boxes.append(f"{image_id},{number / 10} 12 20 30 40")
        labels.append(f"{image_id}_{PNEUMONIA.headline},{number / 10}")
    for name, lines in (("truth.csv", truth), ("boxes.csv", boxes), ("labels.csv", labels)):
        (tmp_path / name).write_text("\n".join(lines) + "\n")
    raw, store, tables = str(tmp_path / "raw"), str(tmp_path / "store"), str(tmp_path / "truth.csv")
    task = ["--task", PNEUMONIA.name]
    assert main(["prepare", raw, store, *task, "--labels", tables, "--folds", "2", "--jobs", "1"]) == 0
    for name, heading in (("boxes.csv", "By view"), ("labels.csv", "Within each view")):
        out = tmp_path / name.removesuffix(".csv")
        assert main(["evaluate", str(tmp_path / name), tables, *task, "--store", store, "--out", str(out)]) == 0
        page = (out / "report.html").read_text()
        assert f"<h2>{heading}</h2>" in page
        assert_numbers_are_those_of(json.loads((out / "metrics.json").read_text()), parsed(page).numbers)
    said = capsys.readouterr().out
    # In AP one image has a box, its score is between the others': 0.5; in PA two of three have, 3 and 5 against 4
    assert re.search(r"has boxes: 0\.667 \[.*\], AP 0\.500.*, PA 0\.500", said)
