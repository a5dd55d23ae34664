"""Pictures of what a network sees: whole, of the right slices, in shared colours; what is not there is said."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import matplotlib as mpl
import matplotlib.image
import numpy as np
import pyarrow.parquet as pq
import pytest
import small

from rsna_e2e.cli import main
from rsna_e2e.config import load_config
from rsna_e2e.core.errors import UsageError
from rsna_e2e.evaluation.explain import coloured, find_label
from rsna_e2e.inference.predict import predict
from rsna_e2e.model.network import JointModel
from rsna_e2e.store import Store, StoreError
from rsna_e2e.tasks.pe import PE
from rsna_e2e.training.train import train

pytestmark = pytest.mark.usefixtures("one_thread")

SERIES = 3  # six slices
PROBABILITIES = {"rel": 1e-4}  # slices go through the backbone in other batches
TORCH = "loader.backend=torch"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return small.make_store(tmp_path_factory.mktemp("explain"))


@pytest.fixture(scope="module")
def run(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "joint"
    train(store, folder, small.config(TORCH))
    return folder


def explain(run: Path, store: Store, out: Path, *options: str) -> int:
    return main(["explain", str(run), str(store.path), "--out", str(out), *options])


def test_every_slice_of_a_series_has_a_picture_and_the_logit_that_predict_gives(
    store: Store, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    span = store.series[SERIES]
    assert explain(run, store, tmp_path / "maps", "--series", span.series_key[:8]) == 0
    said = capsys.readouterr().out
    assert "any, a label of the slice, in 6 slices" in said
    content = json.loads((tmp_path / "maps/explanation.json").read_text())
    assert {key: content[key] for key in ("task", "label", "level", "target", "series", "epoch")} == {
        "task": "ich",
        "label": "any",
        "level": "slice",
        "target": "sum",
        "series": span.series_key[:8],
        "epoch": 1,
    }
    assert content["window_hu"] == [40, 80]
    table = pq.read_table(predict(run, store, split="train", out=tmp_path / "s.csv").table).to_pylist()
    predicted = {row["image_id"]: row["any"] for row in table}
    image_ids = store.index["image_id"][span.rows]
    assert [one["place"] for one in content["slices"]] == list(range(6))
    for one, image_id in zip(content["slices"], image_ids, strict=True):
        assert one["probability"] == pytest.approx(predicted[image_id], **PROBABILITIES)
        assert 1 / (1 + np.exp(-one["logit"])) == pytest.approx(one["probability"])
        assert matplotlib.image.imread(tmp_path / "maps" / one["picture"]).shape == (32, 32, 4)
    written = (tmp_path / "maps/explanation.json").read_text()
    assert not any(image_id in written for image_id in image_ids)
    highest = [one["highest_of_map"] for one in content["slices"]]
    assert 0 < content["brightest"] <= max(highest)
    assert matplotlib.image.imread(tmp_path / "maps/sheet.png").shape == (2 * 128, 3 * 128, 4)
    assert len(list((tmp_path / "maps").iterdir())) == 6 + 2


def test_one_image_is_shown_as_in_its_series(store: Store, run: Path, tmp_path: Path) -> None:
    row = store.series[SERIES].first_row + 2
    for name, options in {
        "one": ["--image", store.index["image_id"][row]],
        "all": ["--series", store.index["series_key"][row]],
    }.items():
        assert explain(run, store, tmp_path / name, *options, "--label", "subdural") == 0
    one, every = (json.loads((tmp_path / name / "explanation.json").read_text()) for name in ("one", "all"))
    assert one["slices"] == [every["slices"][2]]
    assert one["brightest"] == every["brightest"]
    picture = "slice-0002.png"
    assert (tmp_path / "one" / picture).read_bytes() == (tmp_path / "all" / picture).read_bytes()


def test_the_logit_of_each_slice_may_be_explained_instead(store: Store, run: Path, tmp_path: Path) -> None:
    found = {}
    for target in ("sum", "slice"):
        assert explain(run, store, tmp_path / target, "--image", "ID_0300", "--target", target) == 0
        found[target] = json.loads((tmp_path / target / "explanation.json").read_text())
        assert found[target]["target"] == target
    assert found["sum"]["slices"][0]["logit"] == pytest.approx(found["slice"]["slices"][0]["logit"], **PROBABILITIES)
    assert found["sum"]["brightest"] != pytest.approx(found["slice"]["brightest"], rel=1e-3)


def test_a_report_shows_maps_beside_the_slices_of_its_examples(
    store: Store, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = predict(run, store, split="train", out=tmp_path / "s.csv")
    assert done.truth is not None
    command = ["evaluate", str(done.submission), str(done.truth.path), "--store", str(store.path)]
    assert main([*command, "--out", str(tmp_path / "plain")]) == 0
    assert main([*command, "--out", str(tmp_path / "maps"), "--run", str(run)]) == 0
    plain, maps = ((tmp_path / name / "report.html").read_text() for name in ("plain", "maps"))
    assert "where the network sees" not in plain
    pictures = re.findall(r'src="([^"]+)" alt="(CT slice|Map of any)', maps)
    kinds = [kind for _, kind in pictures]
    assert kinds == ["CT slice", "Map of any"] * plain.count('alt="CT slice')
    assert pictures
    assert len({source for source, _ in pictures}) == len(pictures)
    assert len(maps) < 10e6
    assert main([*command, "--run", str(run)]) == 2
    assert "Give --out and --store, too" in capsys.readouterr().err
    words = ["evaluate", str(done.submission), *command[1:], "--run", str(run), "--out", str(tmp_path / "paired")]
    assert main(words) == 2
    assert "--run: is of one submission, and here are two. Leave it out" in capsys.readouterr().err
    assert not (tmp_path / "paired").exists()


@pytest.mark.parametrize(("head", "known"), [("lstm", True), ("none", False)])
def test_a_label_of_series_is_explained_by_a_run_that_predicts_it(head: str, known: bool) -> None:
    config = load_config("pe_demo", ["model.backbone=test_resnet", "model.backbone_arguments={}"])
    network = JointModel.for_task(config.model.model_copy(update={"head": head}), PE)
    trained = SimpleNamespace(task=PE, joint=network)
    assert find_label(trained, PE.headline) == ("slice", 0)
    if known:
        assert find_label(trained, PE.series.names[4]) == ("series", 4)
    else:
        with pytest.raises(UsageError, match=f"It predicts {PE.headline}$"):
            find_label(trained, PE.series.names[4])


def test_the_higher_the_map_the_more_colour() -> None:
    grey, map_hw = np.full((1, 4), 0.5, dtype=np.float32), np.array([[-1.0, 0.0, 1.0, 2.0]], dtype=np.float32)
    picture = coloured(grey, map_hw, brightest=2.0)
    half, full = (np.array(mpl.colormaps["inferno"](share)[:3]) for share in (0.5, 1.0))
    expected = [[0.5] * 3, [0.5] * 3, 0.7 * 0.5 + 0.3 * half, 0.4 * 0.5 + 0.6 * full]
    np.testing.assert_allclose(picture[0], expected, atol=1e-6)
    assert (coloured(grey, map_hw - 5, brightest=-3.0) == 0.5).all()


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--series", "0000000000000000"], 3, "has no series 0000000000000000"),
        (["--series", "neck"], 2, "no hash of a series"),
        (["--image", "ID_0300", "--split", "train"], 2, "--split: is of --score. Leave it out"),
        (["--image", "ID_none"], 3, "--image: no image is called so"),
        (["--image", "ID_0300", "--label", "bleed"], 2, "predicts no label 'bleed'. It predicts epidural, "),
    ],
)
def test_what_is_not_there_is_said(
    store: Store,
    run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    code: int,
    said: str,
) -> None:
    assert explain(run, store, tmp_path / "maps", *options) == code
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_what_fails_leaves_nothing(
    store: Store, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def damaged(self: Store, row: int) -> np.ndarray:
        if row == self.series[SERIES].first_row + 2:
            raise StoreError("slice 2 is damaged")
        return read(self, row)

    read = Store.read_slice
    monkeypatch.setattr(Store, "read_slice", damaged)
    assert explain(run, store, tmp_path / "maps", "--series", store.series[SERIES].series_key) == 3
    assert "slice 2 is damaged" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_something_in_it_is_left_alone(
    store: Store, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    assert explain(run, store, tmp_path, "--image", "ID_0300") == 2
    assert "is there already. Choose another folder with --out" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
