"""docs/figures/make_overview.py: it draws what a demo left, no text lies over another, and its picture is there."""

import importlib.util
import itertools
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import small
from documents import ROOT
from matplotlib.backends.backend_agg import FigureCanvasAgg

from rsna_e2e.inference.predict import predict
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.training.train import train

SCRIPT, PICTURE = ROOT / "docs/figures/make_overview.py", ROOT / "docs/figures/overview.png"
SHAPE = (700, 1600)
MOST_BYTES = 300_000

specification = importlib.util.spec_from_file_location("make_overview", SCRIPT)
assert specification is not None
assert specification.loader is not None
make_overview = importlib.util.module_from_spec(specification)
sys.modules["make_overview"] = make_overview  # its dataclass asks for it
specification.loader.exec_module(make_overview)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Path:
    """What bin/demo.sh leaves of studies, at the size of a thumb; the held-out patients are those of training."""
    folder = tmp_path_factory.mktemp("demo")
    store = small.make_store(folder)
    train(store, folder / "run", small.config(), device="cpu")
    predict(folder / "run", store, split="train", out=folder / "submission.csv", device="cpu")
    shutil.copy(folder / "raw/stage_2_train.csv", folder / "raw/stage_2_test_truth.csv")
    return folder


def test_it_draws_a_demo(demo: Path, tmp_path: Path) -> None:
    out = tmp_path / "overview.png"
    subprocess.run([sys.executable, "-W", "error", str(SCRIPT), str(demo), str(out)], check=True)
    picture = matplotlib.image.imread(out)
    assert picture.shape[:2] == SHAPE
    assert 0.5 < picture[..., :3].mean() < 0.95  # light, and not empty
    again = tmp_path / "again.png"
    make_overview.main([str(demo), str(again)])
    assert again.read_bytes() == out.read_bytes()


def test_no_text_lies_over_another_or_beyond_the_edge() -> None:
    """With numbers that are as wide as any."""
    n, labels = 28, len(ICH.slices.names)
    shown = make_overview.Shown(
        label_names=ICH.slices.names,
        headline=ICH.headline_index,
        pictures=np.zeros((n, 3, 4, 4), dtype=np.float32),
        position_mm=5.0 * np.arange(n) - 1000,
        truth=np.ones((n, labels)),
        probability=np.ones((n, labels)),
    )
    figure = make_overview.draw(shown)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    (profile,) = (axes for axes in figure.axes if axes.axison)
    texts = [text for axes in figure.axes for text in axes.texts]
    texts += [*profile.get_xticklabels(), *profile.get_yticklabels(), profile.xaxis.label]
    boxes = {text: text.get_window_extent(canvas.get_renderer()) for text in texts if text.get_text()}
    assert {"DICOM files", "Predictions", "any: 1.00", "Subdural"} <= {text.get_text() for text in boxes}
    for box in boxes.values():
        assert 0 <= box.x0 < box.x1 <= SHAPE[1]
        assert 0 <= box.y0 < box.y1 <= SHAPE[0]
    over = [(a.get_text(), b.get_text()) for a, b in itertools.combinations(boxes, 2) if boxes[a].overlaps(boxes[b])]
    assert over == []


def test_its_picture_is_there() -> None:
    assert matplotlib.image.imread(PICTURE).shape[:2] == SHAPE
    assert PICTURE.stat().st_size < MOST_BYTES
