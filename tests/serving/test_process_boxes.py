"""Radiographs processed by a run that finds boxes: boxes as predict has them, counted, and drawn in place."""

import json
import shutil
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib.image
import numpy as np
import pyarrow.parquet as pq
import pytest
import rectangles
import torch

from rsna_e2e.core.errors import BadInputError, UsageError
from rsna_e2e.core.files import read_json
from rsna_e2e.core.sealed_archive import read_sealed, write_sealed
from rsna_e2e.core.weights_file import decode, encode
from rsna_e2e.inference.bundle import DESCRIPTION, KNOWN, MEMBERS
from rsna_e2e.inference.export import export
from rsna_e2e.inference.predict import predict
from rsna_e2e.inference.predictions import beside
from rsna_e2e.serving.model import ServedModel
from rsna_e2e.serving.process import RESULT, Processed, process
from rsna_e2e.serving.result import RESEARCH_ONLY, Result
from rsna_e2e.serving.study_page import PAGE
from rsna_e2e.store.prepare import Reading, prepare
from rsna_e2e.store.reader import Store
from rsna_e2e.tasks.labels import read_box_submission
from rsna_e2e.tasks.metrics import DECISION_THRESHOLD
from rsna_e2e.tasks.pneumonia import PNEUMONIA
from rsna_e2e.training.operating_points import write_operating_points
from rsna_e2e.training.train import train

pytestmark = pytest.mark.usefixtures("one_thread")

SAME = 1e-6
N_IMAGES = 9
SIDE = 384  # of a picture with boxes


@dataclass(frozen=True)
class Made:
    run: Path
    bundle: Path
    raw: Path
    submission: Path
    model: ServedModel


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A run with a threshold that half of its images have a box above; its bundle; what predict finds in the images."""
    folder = tmp_path_factory.mktemp("boxes")
    run, out = folder / "run", folder / "found.csv"
    with closing(rectangles.make_store(folder, N_IMAGES)) as store:
        train(store, run, rectangles.config("slice_phase.epochs=3"), device="cpu")
    prepare(folder / "raw", folder / "unseen", task=PNEUMONIA, labels="none", reading=Reading(modality="xr"), n_jobs=1)
    with closing(Store.open(folder / "unseen")) as store:
        predict(run, store, split="test", out=out, device="cpu")
        highest = [max(box["score"] for box in boxes) for boxes in _table(out).values()]
        write_operating_points(run, epoch=1, thresholds={"opacity": float(np.median(highest))})
        predict(run, store, split="test", out=out, device="cpu")
    bundle = export([run], folder / "boxes.rsna", name="boxes", version="1.0", licence="MIT").path
    return Made(run, bundle, folder / "raw", out, ServedModel.open(bundle, device="cpu"))


@pytest.fixture(scope="module")
def processed(made: Made, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Processed]:
    out = tmp_path_factory.mktemp("processed")
    return out, process(made.raw, out, made.model, n_jobs=1)


def _table(submission: Path) -> dict[str, list[dict[str, float]]]:
    """The rows of the table of boxes beside a submission, by image."""
    rows: dict[str, list[dict[str, float]]] = {}
    for row in pq.read_table(beside(submission, "boxes.parquet")).to_pylist():
        rows.setdefault(row.pop("image_id"), []).append(row)
    return rows


def _placed(box: dict[str, float]) -> list[float]:
    """Upper left corner, size and score; edges count from the centre of the first pixel."""
    return [box["x0"] + 0.5, box["y0"] + 0.5, box["x1"] - box["x0"], box["y1"] - box["y0"], box["score"]]


def _by_image(results: tuple[Result, ...]) -> dict[str, Result]:
    return {result.series[0].images[0]: result for result in results}


def test_boxes_are_those_of_predict(made: Made, processed: tuple[Path, Processed]) -> None:
    found = _by_image(processed[1].results)
    table, submitted = _table(made.submission), read_box_submission(made.submission, PNEUMONIA)
    assert sorted(found) == sorted(table) == sorted(submitted.image_ids)
    assert sum(map(len, table.values())) > len(submitted.boxes) > 0
    for image_id, result in found.items():
        (series,) = result.series
        rows = [[box.x, box.y, box.width, box.height, box.score] for box in series.boxes]
        np.testing.assert_allclose(rows, [_placed(box) for box in table[image_id]], rtol=0, atol=SAME)
        n_above = int((submitted.boxes.images == submitted.image_ids.index(image_id)).sum())
        assert {(box.label, box.slice) for box in series.boxes} == {("opacity", 0)}
        (label,) = result.labels
        assert (label.n_boxes, label.above, label.is_learned) == (n_above, n_above > 0, True)
        assert label.probability == series.probability[0][0] == max(box.score for box in series.boxes)
        assert result.sentence.startswith(f"Above threshold: {n_above} box" if n_above else "No box is above")
        assert result.sentence.endswith(RESEARCH_ONLY)


def test_an_image_alone_has_the_boxes_that_it_has_among_others(
    made: Made, processed: tuple[Path, Processed], tmp_path: Path
) -> None:
    together = _by_image(processed[1].results)
    for path in sorted(made.raw.iterdir())[:3]:
        raw = tmp_path / path.stem
        raw.mkdir()
        shutil.copyfile(path, raw / path.name)
        (alone,) = process(raw, tmp_path / "out", made.model, n_jobs=1, has_pictures=False).results
        wanted = together[path.stem]
        assert (alone.study, alone.content, alone.sentence) == (wanted.study, wanted.content, wanted.sentence)
        pairs = zip(alone.series[0].boxes, wanted.series[0].boxes, strict=True)
        for one, other in pairs:
            assert one.model_dump() == pytest.approx(other.model_dump(), abs=SAME)


def test_results_are_written_and_read_again(processed: tuple[Path, Processed]) -> None:
    out, done = processed
    assert not done.failed
    for result in done.results:
        assert Result.model_validate(read_json(out / result.study / RESULT)) == result


def test_boxes_are_drawn_where_they_are(processed: tuple[Path, Processed]) -> None:
    """The colour of the outline is at the four sides of the best box, and in no picture without boxes."""
    out, done = processed
    assert len({result.labels[0].above for result in done.results}) == 2
    for result in done.results:
        (label,) = result.labels
        (key,) = label.key_slices
        stem = out / result.study / f"opacity-{key.series}-0000"
        plain, marked = (matplotlib.image.imread(f"{stem}{end}.png")[..., :3] for end in ("", "-boxes"))
        assert plain.shape == marked.shape == (SIDE, SIDE, 3)
        is_outline = (marked[..., 2] - marked[..., 0]) > 0.2
        assert is_outline.any() == label.above
        page = (out / result.study / PAGE).read_text()
        assert (result.sentence in page, "://" in page, page.count("<img")) == (True, False, 2)
        if label.above:
            _check_sides(max(result.series[0].boxes, key=lambda box: box.score).model_dump(), is_outline)


def _check_sides(box: dict[str, float], is_outline: np.ndarray) -> None:
    scale, left = SIDE / 64, SIDE * (64 - 56) / 2 / 64  # images of 56 columns and 64 rows, in the middle of a square
    x, y = left + box["x"] * scale, box["y"] * scale
    width, height = box["width"] * scale, box["height"] * scale
    sides = [(x, y + height / 2), (x + width, y + height / 2), (x + width / 2, y), (x + width / 2, y + height)]
    for at_x, at_y in sides:
        column, row = round(at_x), round(at_y)
        assert is_outline[max(row - 2, 0) : row + 3, max(column - 2, 0) : column + 3].any(), (box, column, row)


def test_without_a_box_the_sentence_says_so(made: Made, tmp_path: Path) -> None:
    certain = replace(made.model, thresholds={"slices": {"opacity": 1.0}, "series": {}})
    done = process(made.raw, tmp_path / "out", certain, n_jobs=1, has_pictures=False)
    assert {result.sentence.split(";")[0] for result in done.results} == {"No box is above its threshold"}


def test_a_run_without_an_operating_point_has_the_default(made: Made, tmp_path: Path) -> None:
    shutil.copytree(made.run, tmp_path / "run")
    (tmp_path / "run" / "operating_points.json").unlink()
    model = ServedModel.open(tmp_path / "run", device="cpu")
    assert model.threshold("slices", "opacity") == (DECISION_THRESHOLD, False)
    write_operating_points(tmp_path / "run", epoch=1, thresholds={"other": 0.5})
    with pytest.raises(BadInputError, match="its thresholds are not of its labels"):
        ServedModel.open(tmp_path / "run", device="cpu")


def _changed(made: Made, folder: Path, *, n_members: int = 1, answers: torch.Tensor | None = None) -> Path:
    """The bundle with so many copies of its run, and other known answers."""
    unpacked = folder / "unpacked"
    read_sealed(made.bundle, unpacked, is_known=lambda _: True)
    files = {path.relative_to(unpacked).as_posix(): path.read_bytes() for path in unpacked.rglob("*") if path.is_file()}
    files[DESCRIPTION] = json.dumps(json.loads(files[DESCRIPTION]) | {"n_members": n_members}).encode()
    for number in range(1, n_members):
        own = {name.replace("/0/", f"/{number}/", 1): files[name] for name in files if name.startswith(f"{MEMBERS}/0/")}
        files |= own
    if answers is not None:
        name = f"{MEMBERS}/0/{KNOWN}"
        files[name] = encode(decode(files[name], path=Path(name)) | {"answers": answers})
    write_sealed(folder / "changed.rsna", files)
    return folder / "changed.rsna"


def test_known_answers_are_compared(made: Made, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="answers otherwise than where it was exported"):
        ServedModel.open(_changed(made, tmp_path, answers=torch.full((12, 1), 0.9)), device="cpu")


def test_several_runs_that_find_boxes_are_refused(made: Made, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"boxes of several runs are not merged. Export one of its 2 runs"):
        ServedModel.open(_changed(made, tmp_path, n_members=2), device="cpu")


def test_equal_images_have_equal_digits_whatever_their_names(
    made: Made, processed: tuple[Path, Processed], tmp_path: Path
) -> None:
    (tmp_path / "raw").mkdir()
    for number, path in enumerate(sorted(made.raw.iterdir())):
        shutil.copyfile(path, tmp_path / f"raw/other{number}.png")
    again = process(tmp_path / "raw", tmp_path / "out", made.model, n_jobs=1, has_pictures=False)
    digits = [result.content for result in processed[1].results]
    assert len(set(digits)) == N_IMAGES
    assert sorted(digits) == sorted(result.content for result in again.results)
    assert {result.study for result in again.results}.isdisjoint(result.study for result in processed[1].results)
