"""A bundle: the same bytes for the same runs, answers as they do, and every change of it is found."""

import hashlib
import json
import re
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rectangles
import sequences
import small
import torch

from rsna_e2e.cli import main
from rsna_e2e.core.errors import BadInputError, UsageError
from rsna_e2e.core.sealed_archive import read_sealed, write_sealed
from rsna_e2e.core.weights_file import decode, encode
from rsna_e2e.inference.bundle import CARD, DESCRIPTION, KNOWN, LICENCE, open_bundle, task_of
from rsna_e2e.inference.calibrated import Calibrator
from rsna_e2e.inference.export import Exported, export, self_test
from rsna_e2e.inference.trained_model import TrainedModel
from rsna_e2e.store import Store
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.training.calibration import LabelCalibration, RunCalibration, read_calibration, write_calibration
from rsna_e2e.training.checkpoint import find_checkpoint
from rsna_e2e.training.train import train

pytestmark = pytest.mark.usefixtures("one_thread")

SAME = 1e-6  # of probabilities by one process in float32


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with closing(small.make_store(tmp_path_factory.mktemp("bundled"))) as opened:
        yield opened


@pytest.fixture(scope="module")
def runs(store: Store, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two, the second of averaged weights."""
    folder = tmp_path_factory.mktemp("runs")
    for name, setting in (("a", "seed=1"), ("b", "ema_decay=0.5")):
        train(store, folder / name, small.image_config(setting), device="cpu")
    return [folder / "a", folder / "b"]


@pytest.fixture(scope="module")
def bundle(runs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the first run."""
    return _export(runs[:1], tmp_path_factory.mktemp("bundles") / "model.rsna").path


def _export(runs: list[Path], out: Path, licence: str = "CC-BY-4.0") -> Exported:
    return export(runs, out, name="small", version="1.0", licence=licence)


def _predicted(model: Path, store: Store, out: Path, *more: str) -> bytes:
    assert main(["predict", str(model), str(store.path), "--out", str(out), "--device", "cpu", *more]) == 0
    return out.read_bytes()


def test_the_same_runs_give_the_same_bytes(runs: list[Path], tmp_path: Path) -> None:
    first = _export(runs, tmp_path / "one.rsna")
    later = tmp_path / "elsewhere" / "copy"
    later.parent.mkdir()
    for run in runs:
        shutil.copytree(run, later / run.name)
    second = _export([later / run.name for run in runs], tmp_path / "two.rsna")
    assert first.path.read_bytes() == second.path.read_bytes()
    assert first.identity == second.identity == open_bundle(first.path).identity
    assert first.n_bytes == first.path.stat().st_size


def test_it_predicts_what_the_run_does(bundle: Path, runs: list[Path], store: Store, tmp_path: Path) -> None:
    assert _predicted(bundle, store, tmp_path / "a.csv") == _predicted(runs[0], store, tmp_path / "b.csv")


def test_a_bundle_of_several_is_their_mean(runs: list[Path], store: Store, tmp_path: Path) -> None:
    both = _export(runs, tmp_path / "both.rsna").path
    by_hand = _predicted(runs[0], store, tmp_path / "a.csv", "--with", str(runs[1]))
    assert _predicted(both, store, tmp_path / "b.csv") == by_hand
    with pytest.raises(UsageError, match=r"holds 2 runs, and this is of one"):
        TrainedModel.open(both, device="cpu")


def test_messages_and_notes_name_the_bundle(
    bundle: Path,
    runs: list[Path],
    store: Store,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not the temporary folder that it is unpacked to."""
    both = _export(runs, tmp_path / "both.rsna").path
    _predicted(both, store, tmp_path / "a.csv")
    members = json.loads((tmp_path / "a.csv.runs.json").read_text())["members"]
    assert [member["run"] for member in members] == ["both.rsna/members/0", "both.rsna/members/1"]
    capsys.readouterr()
    _predicted(bundle, store, tmp_path / "b.csv", "--split", "train")
    assert f"split train is what {bundle} learned from" in capsys.readouterr().err
    trained = TrainedModel.open(bundle, device="cpu")
    monkeypatch.setattr("rsna_e2e.inference.calibrated.read_calibration", lambda *_: None)
    with pytest.raises(BadInputError, match=re.escape(str(bundle)) + ": has no calibration.* export that again"):
        Calibrator.of(trained, "default", split="test")


def test_the_card_says_how_many_and_how_sure(runs: list[Path], tmp_path: Path) -> None:
    shutil.copytree(runs[0], tmp_path / "run")
    label = LabelCalibration(
        applied="platt", temperature=1.0, slope=1.5, intercept=0.0, n_samples=90, n_positives=40,
        ece_before=0.03, ece_after=0.02, ece_change=-0.01, ece_change_low=-0.015, ece_change_high=0.002,
    )  # fmt: skip
    epoch = TrainedModel.open(runs[0], device="cpu").epoch
    of_all = RunCalibration(epoch=epoch, n_patients=12, slices=dict.fromkeys(ICH.slices.names, label), series={})
    write_calibration(tmp_path / "run", of_all)
    card = (open_bundle(_export([tmp_path / "run"], tmp_path / "model.rsna").path).folder / CARD).read_text()
    assert "fold that it held out, 12 patients, and that chose the epoch" in card
    said = (
        "| 40 of 90 | platt, error 0.0300 to 0.0200, change -0.0100 (95 % interval over patients -0.0150 to +0.0020) |"
    )
    assert card.count(said) == len(ICH.slices.names)


def test_it_holds_what_belongs_to_the_run(bundle: Path, runs: list[Path]) -> None:
    trained, before = TrainedModel.open(bundle, device="cpu"), TrainedModel.open(runs[0], device="cpu")
    assert (trained.task, trained.epoch, trained.damaged) == (before.task, before.epoch, ())
    assert trained.weights_sha256 == before.weights_sha256
    assert read_calibration(trained.run, trained.task) == read_calibration(runs[0], before.task)
    opened = open_bundle(bundle)
    assert opened is open_bundle(bundle)
    assert (opened.description.name, opened.description.n_members, opened.description.task) == ("small", 1, "ich")
    assert "Research use only" in (opened.folder / CARD).read_text()
    assert (opened.folder / LICENCE).read_text() == "SPDX-License-Identifier: CC-BY-4.0\n"
    weights = [path for path in opened.folder.rglob("*.safetensors") if path.name != KNOWN]
    assert [path.parent.name for path in weights] == [find_checkpoint(runs[0]).name]


def test_nothing_of_the_machine_is_in_it(bundle: Path, runs: list[Path], store: Store) -> None:
    content = bundle.read_bytes()
    for secret in (str(runs[0].parent), str(store.path), '"cpu":', '"cores"'):
        assert secret.encode() not in content


def test_known_answers_are_those_of_the_weights(bundle: Path, runs: list[Path], tmp_path: Path) -> None:
    (run,) = open_bundle(bundle).runs
    assert self_test(run) <= SAME
    answers = decode((run / KNOWN).read_bytes(), path=run)["answers"].numpy()
    assert len(np.unique(answers.round(6), axis=0)) > len(answers) / 2  # slices differ
    other = open_bundle(_export(runs[1:], tmp_path / "other.rsna").path).runs[0]
    shutil.copytree(other, tmp_path / "mixed")
    shutil.copyfile(run / KNOWN, tmp_path / "mixed" / KNOWN)
    with pytest.raises(BadInputError, match=r"answers otherwise than where it was exported, by .* of at most 0.0001"):
        self_test(tmp_path / "mixed")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"answers": torch.full((12, 6), torch.nan)}, "answers otherwise"),
        ({"answers": torch.zeros(12, 5)}, "answers of another network"),
        ({"slices": torch.zeros(12, 0, 96, dtype=torch.int16)}, "holds no known answers"),
        ({"more": torch.zeros(1)}, "holds no known answers"),
    ],
)
def test_known_answers_that_are_none_are_refused(
    change: dict[str, torch.Tensor], said: str, bundle: Path, tmp_path: Path
) -> None:
    (run,) = open_bundle(bundle).runs
    shutil.copytree(run, tmp_path / "run")
    known = decode((run / KNOWN).read_bytes(), path=run)
    (tmp_path / "run" / KNOWN).write_bytes(encode(known | change))
    with pytest.raises(BadInputError, match=said):
        self_test(tmp_path / "run")


def test_every_change_is_found(bundle: Path, tmp_path: Path) -> None:
    whole, changed = bundle.read_bytes(), tmp_path / "changed.rsna"
    for place in np.random.default_rng(0).integers(0, len(whole), 200).tolist():
        changed.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(BadInputError, match=r"damaged or changed|not a sealed file"):
            TrainedModel.open(changed)
    for content in (b"", b"x", whole[:-1], whole[:-71], whole[: len(whole) // 2], whole + b"\n", b"x" + whole):
        changed.write_bytes(content)
        with pytest.raises(BadInputError, match=r"damaged or changed|not a sealed file"):
            TrainedModel.open(changed)


@pytest.mark.parametrize(
    "name", ["../model.safetensors", "/etc/passwd", "members/0/../../x", "members/0/config.yaml.sh", "members/0/x\ny"]
)
def test_names_that_no_bundle_has_are_refused(name: str, tmp_path: Path) -> None:
    write_sealed(tmp_path / "sealed.rsna", {name: b"x", DESCRIPTION: b"{}"})
    with pytest.raises(BadInputError, match="sealed, but not by this program"):
        open_bundle(tmp_path / "sealed.rsna")


def _deflated(archive: zipfile.ZipFile) -> None:
    archive.writestr(DESCRIPTION, b"x" * 1000, zipfile.ZIP_DEFLATED)


def _twice(archive: zipfile.ZipFile) -> None:
    for _ in range(2):
        archive.writestr(DESCRIPTION, b"{}")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("fill", [_deflated, _twice])
def test_archives_of_another_form_are_refused(fill: Callable[[zipfile.ZipFile], None], tmp_path: Path) -> None:
    inner = tmp_path / "inner.zip"
    with zipfile.ZipFile(inner, "w") as archive:
        fill(archive)
    (tmp_path / "sealed").write_bytes(_sealed(inner.read_bytes()))
    with pytest.raises(BadInputError, match="sealed, but not by this program"):
        read_sealed(tmp_path / "sealed", tmp_path / "out", is_known=lambda _: True)


def _sealed(archive: bytes) -> bytes:
    """A zip archive with the comment that seals it."""
    body = archive[:-2] + (71).to_bytes(2, "little") + b"sha256:"
    return body + hashlib.sha256(body).hexdigest().encode()


def test_an_archive_unpacks_to_no_more_than_itself(tmp_path: Path) -> None:
    """Members that overlap, each with all that follow it as its content."""
    body = b"x" * 1000
    entries = []
    for number in reversed(range(5)):
        name = str(number).encode()
        numbers = (0, 0, 0, 33, zlib.crc32(body), len(body), len(body), len(name), 0)
        body = b"PK\3\4\n\0" + struct.pack("<HHHHLLLHH", *numbers) + name + body
        entries.append((name, numbers, len(body)))
    directory = b"".join(
        b"PK\1\2\n\0\n\0" + struct.pack("<HHHHLLLHHHHHLL", *numbers, 0, 0, 0, 0, len(body) - n_bytes) + name
        for name, numbers, n_bytes in entries
    )
    end = b"PK\5\6" + struct.pack("<HHHHLLH", 0, 0, 5, 5, len(directory), len(body), 0)
    (tmp_path / "sealed").write_bytes(_sealed(body + directory + end))
    with zipfile.ZipFile(tmp_path / "sealed") as archive:
        assert sum(member.file_size for member in archive.infolist()) > (tmp_path / "sealed").stat().st_size
    with pytest.raises(BadInputError, match="sealed, but not by this program"):
        read_sealed(tmp_path / "sealed", tmp_path / "out", is_known=lambda _: True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({}, "made by another version"),
        ({"format_version": 2}, "made by another version"),
        ({"n_members": 2}, "lacks runs"),
        ({"n_members": 0}, "lacks runs"),
    ],
)
def test_a_description_that_is_none_is_refused(content: dict[str, object], said: str, tmp_path: Path) -> None:
    fields = {"format": "rsna_e2e.bundle", "format_version": 1, "name": "x", "version": "1", "licence": "MIT"}
    whole = {**fields, "task": "ich", "n_members": 1} | content if content else {}
    write_sealed(tmp_path / "model.rsna", {DESCRIPTION: json.dumps(whole).encode()})
    with pytest.raises(BadInputError, match=said):
        open_bundle(tmp_path / "model.rsna")


def test_what_cannot_be_exported_is_refused(runs: list[Path], store: Store, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="neither an SPDX identifier"):
        _export(runs, tmp_path / "model.rsna", licence="do what you like")
    (tmp_path / "licence").write_bytes(b"\xff")
    with pytest.raises(BadInputError, match="is no text in UTF-8"):
        _export(runs, tmp_path / "model.rsna", licence=str(tmp_path / "licence"))
    embeddings = sequences.write_embeddings(tmp_path / "embeddings", store)
    train(store, tmp_path / "head", sequences.config(), device="cpu", embeddings=embeddings)
    with pytest.raises(UsageError, match="learned from stored embeddings"):
        _export([tmp_path / "head"], tmp_path / "model.rsna")
    with pytest.raises(UsageError, match="is a file"):
        _export([tmp_path / "licence"], tmp_path / "model.rsna")
    with pytest.raises(UsageError, match="stands twice"):
        _export([runs[0], runs[0]], tmp_path / "model.rsna")
    assert not (tmp_path / "model.rsna").exists()


def test_runs_for_other_labels_have_no_mean() -> None:
    other = replace(ICH, slices=replace(ICH.slices, names=ICH.slices.names[::-1]))
    with pytest.raises(UsageError, match="runs for different labels"):
        task_of([ICH, other])
    assert task_of([ICH, replace(ICH, inputs=replace(ICH.inputs, windows_hu=ICH.inputs.windows_hu[::-1]))]) == ICH


def test_a_run_that_finds_boxes_can_be_exported(tmp_path: Path) -> None:
    with closing(rectangles.make_store(tmp_path, 6)) as store:
        train(store, tmp_path / "run", rectangles.config("slice_phase.epochs=1"), device="cpu")
        found = _export([tmp_path / "run"], tmp_path / "boxes.rsna").path
        split = ("--split", "train", "--raw")
        by_run = _predicted(tmp_path / "run", store, tmp_path / "a.csv", *split)
        assert _predicted(found, store, tmp_path / "b.csv", *split) == by_run
    assert "- Finds boxes of: opacity, in each radiograph\n" in (open_bundle(found).folder / CARD).read_text()
    (run,) = open_bundle(found).runs
    assert decode((run / KNOWN).read_bytes(), path=run)["answers"].shape == (12, 1)
    both = [tmp_path / "run", shutil.copytree(tmp_path / "run", tmp_path / "copy")]
    with pytest.raises(UsageError, match="mean of several runs is for networks that predict labels"):
        _export(both, tmp_path / "both.rsna")


def test_verbs_that_need_a_run_say_so(bundle: Path, store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["calibrate", str(bundle), "--data", str(store.path)], ["summary", str(bundle)]):
        assert main(words) == BadInputError.exit_code
        assert "is a file, and this needs the folder of a run" in capsys.readouterr().err
    assert main(["predict", str(bundle), str(store.path), "--checkpoint", "epoch-1"]) == UsageError.exit_code
    assert "a bundle holds one of each run" in capsys.readouterr().err


def test_another_checkpoint_than_the_best_can_be_exported(runs: list[Path], tmp_path: Path) -> None:
    best = TrainedModel.open(runs[0], device="cpu").epoch
    other = "epoch-1" if best == 2 else "epoch-2"
    out = tmp_path / "other.rsna"
    export(runs[:1], out, name="other", version="1.0", licence="MIT", checkpoint=other)
    trained = TrainedModel.open(out, device="cpu")
    assert f"epoch-{trained.epoch}" == other
    assert trained.weights_sha256 == TrainedModel.open(runs[0], other, device="cpu").weights_sha256
    assert "| label |" not in (open_bundle(out).folder / CARD).read_text()  # thresholds are of the best


def test_the_verb_says_what_it_made(
    runs: list[Path], store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    licence = tmp_path / "terms.txt"
    licence.write_text("Ask first.\n")
    out = tmp_path / "model.rsna"
    assert main(["export", str(runs[0]), "--out", str(out), "--licence", str(licence)]) == 0
    said = capsys.readouterr().out
    opened = open_bundle(out)
    assert f"{out}: model 1.0 of 1 run" in said
    assert opened.identity in said
    assert (opened.folder / LICENCE).read_text() == "Ask first.\n"
    assert opened.description.licence == "terms.txt"
    key = store.series[0].series_key
    maps = tmp_path / "maps"
    assert main(["explain", str(out), str(store.path), "--series", str(key), "--out", str(maps)]) == 0
    assert (maps / "sheet.png").is_file()
