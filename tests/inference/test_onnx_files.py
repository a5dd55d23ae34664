"""A bundle with ONNX files: they answer as the network does at any number of slices, and change nothing else of it."""

import importlib.util
import shutil
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import rectangles
import small
import torch

from rsna_e2e.cli import main
from rsna_e2e.config import RunConfig, resolve_task
from rsna_e2e.core.device import choose_compute
from rsna_e2e.core.errors import BadInputError, MissingCapabilityError, UsageError
from rsna_e2e.inference.bundle import ONNX_BACKBONE, ONNX_HEAD, open_bundle
from rsna_e2e.inference.export import export
from rsna_e2e.inference.onnx_files import write_onnx
from rsna_e2e.inference.trained_model import TrainedModel
from rsna_e2e.model.make import make_network
from rsna_e2e.model.network import JointModel, Logits
from rsna_e2e.store import Store
from rsna_e2e.training.train import train

pytestmark = pytest.mark.usefixtures("one_thread")

CLOSE = 1e-4
ALONE = ("model.head=none", "model.slice_loss_weight=1.0", "epochs=0")
PHASE = "slice_phase={epochs: 1, slices_per_batch: 4, optimizer: {learning_rate: 0.01}}"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with closing(small.make_store(tmp_path_factory.mktemp("onnx"))) as opened:
        yield opened


@pytest.fixture(scope="module")
def run(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "a"
    train(store, folder, small.config(), device="cpu")
    return folder


def _untrained(config: RunConfig) -> TrainedModel:
    """A network of random weights."""
    task, compute = resolve_task(config), choose_compute("fp32", "cpu", cpu_threads=1)
    torch.manual_seed(0)
    return TrainedModel(
        run=Path("run"), config=config, task=task, compute=compute, network=make_network(config.model, task).eval(),
        embeddings=None, checkpoint=Path("run"), epoch=0, damaged=(),
    )  # fmt: skip


@pytest.mark.needs_onnx
@pytest.mark.parametrize(
    "settings",
    [
        ("task=ich",),
        ("task=ich", "model.padding=left"),
        ("task=ich", "model.head=one_way"),
        ("task=ich", "model.pool=attention", "model.study_loss_weight=0.1"),
        ("task=pe",),
        ("task=ich", *ALONE, PHASE),
    ],
)
def test_files_answer_as_the_network(settings: tuple[str, ...], tmp_path: Path) -> None:
    """At lengths that export does not ask about."""
    import onnxruntime

    trained = _untrained(small.config(*settings))
    assert write_onnx(trained, tmp_path) <= CLOSE
    backbone, head = (onnxruntime.InferenceSession(tmp_path / name) for name in (ONNX_BACKBONE, ONNX_HEAD))
    for n in (2, 40):
        images = torch.randn(n, len(trained.task.inputs.windows_hu), small.SIDE, small.SIDE)
        with torch.inference_mode():
            wanted = trained.joint(images, torch.tensor([n]))
        (embeddings,) = backbone.run(["embeddings"], {"images": images.numpy()})
        found = dict(
            zip((one.name for one in head.get_outputs()), head.run(None, {"embeddings": embeddings}), strict=True)
        )
        np.testing.assert_allclose(found["slices"], wanted.slices, rtol=CLOSE, atol=CLOSE)
        assert ("series" in found) == (wanted.series is not None)
        if wanted.series is not None:
            np.testing.assert_allclose(found["series"], wanted.series, rtol=CLOSE, atol=CLOSE)
    assert [one.name for one in (*backbone.get_inputs(), *head.get_inputs())] == ["images", "embeddings"]


@pytest.mark.needs_onnx
def test_a_head_that_counts_slices_is_refused(tmp_path: Path) -> None:
    """ONNX files have the number of slices of the example in them: they answer otherwise at others."""
    config = small.config("task=ich", "model.pool=evidence", "model.study_loss_weight=0.1")
    with pytest.raises(BadInputError, match="in ONNX it answers otherwise"):
        write_onnx(_untrained(config), tmp_path)


@pytest.mark.needs_onnx
def test_what_onnx_lacks_is_said_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(JointModel, "classify_one", lambda _, embeddings: Logits(torch.special.i1(embeddings), None))
    with pytest.raises(BadInputError, match=r"has what ONNX has not: Exporting the operator 'aten::special_i1'"):
        write_onnx(_untrained(small.config()), tmp_path)
    assert capfd.readouterr() == ("", "")


@pytest.mark.needs_onnx
def test_a_bundle_with_them_is_one_as_before(
    run: Path, store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--licence", "MIT", "--name", "small"]
    for name, more in (("plain", []), ("onnx", ["--onnx"]), ("again", ["--onnx"])):
        assert main(["export", str(run), "--out", str(tmp_path / f"{name}.rsna"), *words, *more]) == 0
    assert capsys.readouterr().out.count("answers of onnxruntime differ by") == 2
    assert (tmp_path / "onnx.rsna").read_bytes() == (tmp_path / "again.rsna").read_bytes()
    assert str(run.parent).encode() not in (tmp_path / "onnx.rsna").read_bytes()
    folders = {name: open_bundle(tmp_path / f"{name}.rsna").folder for name in ("plain", "onnx")}
    files = {
        name: {path.relative_to(of): path for path in of.rglob("*") if path.is_file()} for name, of in folders.items()
    }
    assert set(files["onnx"]) - set(files["plain"]) == {Path(ONNX_BACKBONE), Path(ONNX_HEAD)}
    assert all(files["onnx"][name].read_bytes() == path.read_bytes() for name, path in files["plain"].items())
    for name in ("plain", "onnx"):
        predict = ["predict", str(tmp_path / f"{name}.rsna"), str(store.path), "--out", str(tmp_path / f"{name}.csv")]
        assert main([*predict, "--device", "cpu"]) == 0
    assert (tmp_path / "plain.csv").read_bytes() == (tmp_path / "onnx.csv").read_bytes()


@pytest.mark.needs_onnx
def test_what_has_no_onnx_is_refused(run: Path, tmp_path: Path) -> None:
    both = [run, shutil.copytree(run, tmp_path / "copy")]
    with pytest.raises(UsageError, match="--onnx is of one run"):
        export(both, tmp_path / "x.rsna", name="x", version="1", licence="MIT", has_onnx=True)
    with pytest.raises(UsageError, match="--onnx is for networks that predict labels"):
        write_onnx(_untrained(rectangles.config()), tmp_path)
    assert not (tmp_path / "x.rsna").exists()


def test_without_its_libraries_it_says_so(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    missing = "onnxruntime" if importlib.util.find_spec("onnx") else "onnx"
    with pytest.raises(MissingCapabilityError, match=rf"--onnx needs {missing}. Run: pip install 'rsna_e2e\[onnx\]'"):
        export([run], tmp_path / "x.rsna", name="x", version="1", licence="MIT", has_onnx=True)
    assert not (tmp_path / "x.rsna").exists()
