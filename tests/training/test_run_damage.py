"""A run whose files were damaged, or made by somebody else: the same result, or one line and exit code 3."""

import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import small
import torch
import yaml

from rsna_e2e.cli import main
from rsna_e2e.config import RunConfig
from rsna_e2e.core.errors import BadInputError
from rsna_e2e.core.files import read_json, sealed, unsealed
from rsna_e2e.model.network import JointModel
from rsna_e2e.store import Store
from rsna_e2e.store.embeddings.layout import read_manifest as read_embeddings
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.tools.synth.head.data_set import STUDY_TRUTH
from rsna_e2e.tools.synth.preview import preview
from rsna_e2e.training.checkpoint import find_checkpoint, load_model
from rsna_e2e.training.pipeline.ledger import Ledger
from rsna_e2e.training.run_folder import read_config
from rsna_e2e.training.train import TrainSummary, train

Damage = Callable[[bytes, random.Random], bytes]


def flipped(content: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(content))
    return content[:at] + bytes([content[at] ^ 1 << rng.randrange(8)]) + content[at + 1 :]


def zeroed(content: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(content))
    return content[:at] + bytes(len(content[at : at + 64])) + content[at + 64 :]


DAMAGES: dict[str, Damage] = {
    "flip": flipped,
    "cut": lambda content, rng: content[: rng.randrange(len(content))],
    "zero": zeroed,
    "append": lambda content, rng: content + bytes([rng.randrange(256)]),
    "empty": lambda content, rng: b"",
}
TURNS = {"flip": 6, "cut": 2, "zero": 2, "append": 1, "empty": 1}


@dataclass(frozen=True)
class Trained:
    """A run of one epoch on slices and two on series, the last of them the best, that has ended."""

    run: Path
    store: Store
    config: RunConfig
    summary: TrainSummary


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
    folder = tmp_path_factory.mktemp("damage")
    phase = "slice_phase={epochs: 1, slices_per_batch: 4, optimizer: {learning_rate: 0.01}}"
    config = small.config("epochs=2", "checkpoint.keep_last=3", "model.slice_loss_weight=0.5", phase)
    store = small.make_store(folder)
    summary = train(store, folder / "run", config)
    yield Trained(folder / "run", store, config, summary)
    store.close()


def predicts_with(run: Path, model: JointModel, told: list[BadInputError]) -> tuple[RunConfig, str, torch.Tensor]:
    """All that a prediction depends on: the configuration, and the name and weights of the checkpoint."""
    config = read_config(run)
    folder = find_checkpoint(run, on_damaged=told.append)
    load_model(model, folder)
    return config, folder.name, torch.cat([tensor.flatten() for tensor in model.state_dict().values()])


def damaged_copies(run: Path, folder: Path) -> Iterator[tuple[str, str, Path]]:
    """A copy of a run with one file damaged in one way, and then another: which, how, and the copy."""
    rng, copy = random.Random(0), folder / "copy"
    shutil.copytree(run, copy)
    for path in sorted(path for path in run.rglob("*") if path.is_file()):
        name, content = path.relative_to(run), path.read_bytes()
        for kind, damage in DAMAGES.items():
            for _ in range(TURNS[kind]):
                (copy / name).write_bytes(damage(content, rng))
                yield str(name), kind, copy
        (copy / name).write_bytes(content)


def test_no_damage_is_more_than_one_line_or_another_result_in_silence(trained: Trained, tmp_path: Path) -> None:
    model = JointModel.for_task(trained.config.model, ICH)
    before, refusals, outcomes = predicts_with(trained.run, model, []), [], set()
    for name, kind, copy in damaged_copies(trained.run, tmp_path):
        told: list[BadInputError] = []
        try:
            config, folder, weights = predicts_with(copy, model, told)
        except BadInputError as error:
            refusals.append(str(error))
            continue
        if folder == before[1]:
            assert config == before[0]
            assert torch.equal(weights, before[2])
            outcomes.add("same")
        else:  # only for weights, or for what vouches for them
            assert name.endswith(("model.safetensors", "checkpoint.json")), (name, kind)
            assert folder.endswith("epoch-002")
            assert len(told) == 1
            outcomes.add("another")
    assert outcomes == {"same", "another"}
    assert refusals
    assert not any("\n" in refusal for refusal in refusals)


def test_a_damaged_run_is_resumed_to_the_same_end_or_refused_in_one_line(trained: Trained, tmp_path: Path) -> None:
    n_same, refusals = 0, []
    for name, kind, copy in damaged_copies(trained.run, tmp_path):
        if kind == "append" or (name.startswith("checkpoints") and kind != "flip"):
            continue  # one kind does for files with a checksum
        try:
            summary = train(trained.store, copy, trained.config, resume=True)
        except BadInputError as error:
            refusals.append(str(error))
            continue
        assert summary == trained.summary
        n_same += 1
    assert n_same
    assert refusals
    assert not any("\n" in refusal for refusal in refusals)


@pytest.mark.parametrize("content", ["", "{", "[]", "1", "null", '{"best": null}', '{"steps": NaN}', "[" * 5000, "\0"])
def test_a_damaged_summary_says_how_to_mend_it(trained: Trained, tmp_path: Path, content: str) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained.run, run)
    (run / "summary.json").write_text(content)
    with pytest.raises(BadInputError, match=r"summary\.json: damaged\. Remove it: train --resume auto writes it again"):
        train(trained.store, run, trained.config, resume=True)
    (run / "summary.json").unlink()
    assert train(trained.store, run, trained.config, resume=True).best == trained.summary.best


def edited(path: Path, **changes: Any) -> None:
    content = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in (content | changes).items() if value is not None}))


def test_runs_of_before_are_read(trained: Trained, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained.run, run)
    edited(run / "manifest.json", config_sha256=None)
    (run / "config.yaml").write_bytes((run / "config.yaml").read_bytes() + b"# read by hand\n")
    assert read_config(run) == read_config(trained.run)
    summary = json.loads((run / "summary.json").read_text())
    del summary["content_sha256"]
    (run / "summary.json").write_text(json.dumps(summary))
    assert train(trained.store, run, trained.config, resume=True) == trained.summary
    (run / "manifest.json").unlink()
    assert read_config(run) == read_config(trained.run)


def test_a_configuration_changed_by_hand_is_refused(trained: Trained, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained.run, run)
    content = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(content.replace("crop: series", "crop: none"))
    with pytest.raises(BadInputError, match=r"config\.yaml: damaged or changed, its sha256 is not the one in manifest"):
        read_config(run)


@pytest.mark.parametrize("task", ["../x", "nodules", "a\nb"])
def test_a_task_that_nobody_knows_is_refused(trained: Trained, tmp_path: Path, task: str) -> None:
    config = yaml.safe_load((trained.run / "config.yaml").read_text()) | {"task": task}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(BadInputError, match=r"config\.yaml: task: unknown task '.*'; known: ich"):
        read_config(tmp_path)


FOREIGN: dict[str, Callable[[dict[str, Any]], object]] = {
    **{
        name: lambda model, name=name, value=value: model["backbone_arguments"].update({name: value})  # type: ignore[misc]
        for name, value in {
            "checkpoint_path": "/tmp/evil.pth",
            "pretrained": True,
            "pretrained_cfg": {"url": "http://127.0.0.1:9/evil.npz", "custom_load": True},
            "pretrained_cfg_overlay": {"file": "/tmp/evil.pth"},
            "cache_dir": "/tmp",
            "channels": [10**6] * 4,
        }.items()
    },
    "a folder": lambda model: model.update(backbone="local-dir:/tmp"),
    "a repository": lambda model: model.update(backbone="hf-hub:somebody/model"),
    "a width": lambda model: model.update(embedding_width=10**9),
}


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("verb", ["predict", "embed", "train", "find-lr", "resume"])
def test_nothing_is_fetched_for_a_run_of_somebody_else(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str], verb: str, name: str
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained.run, run)
    config = yaml.safe_load((run / "config.yaml").read_text())
    FOREIGN[name](config["model"])
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    edited(run / "manifest.json", config_sha256=None)
    store, made = str(trained.store.path), str(tmp_path / "made")
    words = {
        "predict": ["predict", str(run), store, "--out", made],
        "embed": ["embed", str(run), store, made],
        "train": ["train", store, made, "--recipe", str(run / "config.yaml")],
        "find-lr": ["find-lr", store, made, "--recipe", str(run / "config.yaml")],
        "resume": ["train", store, str(run), "--recipe", str(trained.run / "config.yaml"), "--resume", "auto"],
    }[verb]
    assert main(words) == 3
    said = capsys.readouterr().err.splitlines()
    assert "config.yaml: model." in said[-1]
    assert "Traceback" not in "".join(said)


def test_predict_says_on_its_last_line_which_checkpoint_it_took(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def last_line(run: Path) -> str:
        assert main(["predict", str(run), str(trained.store.path), "--out", str(tmp_path / "s.csv")]) == 0
        return capsys.readouterr().out.splitlines()[-1]

    best = find_checkpoint(trained.run)
    assert last_line(trained.run).endswith(str(best))
    run = tmp_path / "run"
    shutil.copytree(trained.run, run)
    (run / "checkpoints" / best.name / "optimizer.safetensors").unlink()  # only a resumption needs it
    assert last_line(run).endswith(str(run / "checkpoints" / best.name))
    (run / "checkpoints" / best.name / "model.safetensors").write_bytes(b"")
    assert last_line(run).endswith("epoch-002, instead of a damaged one (1 skipped)")


def test_no_checkpoint_of_a_head_that_never_learned_takes_a_damaged_ones_place(
    trained: Trained, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained.run, run)
    for number in (2, 3):
        (folder,) = (run / "checkpoints").glob(f"*-epoch-00{number}")
        (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(BadInputError, match=r"no intact checkpoint to predict with\. Damaged: .*epoch-002, .*epoch"):
        find_checkpoint(run)


NO_JSON = ["", "{", "[]", "1", '"x"', "null", "[" * 20000, '{"a": ' * 20000, "9" * 5000, "\0", "\udcff", '{"a": 1e999}']


def _ledger(path: Path) -> object:
    (path / "steps").mkdir()
    (path / "made.json").rename(path / "steps" / "one.json")
    return Ledger(path / "steps").state("one", {})


def _embeddings(path: Path) -> object:
    (path / "made.json").rename(path / "manifest.json")
    return read_embeddings(path)


def _manifest(path: Path) -> object:
    (path / "made.json").rename(path / "manifest.json")
    (path / "config.yaml").write_text("")
    return read_config(path)


def _truth(path: Path) -> None:
    (path / "made.json").rename(path / STUDY_TRUTH)
    preview(path, path / "sheet.png")


READERS: list[Callable[[Path], object]] = [_ledger, _embeddings, _manifest, _truth]


@pytest.mark.parametrize("content", NO_JSON, ids=lambda content: content[:8].encode("unicode_escape").decode())
@pytest.mark.parametrize("read", READERS)
def test_json_that_is_none_or_foreign_is_one_line(read: Callable[[Path], object], content: str, tmp_path: Path) -> None:
    (tmp_path / "made.json").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(BadInputError) as error:
        read(tmp_path)
    assert "\n" not in str(error.value)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "pipe.json")


def test_logs_that_are_a_pipe_are_not_waited_for(trained: Trained, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained.run, run)
    (run / "summary.json").unlink()
    (run / "metrics.jsonl").unlink()
    os.mkfifo(run / "metrics.jsonl")
    with pytest.raises(BadInputError, match=r"metrics\.jsonl: not a file"):
        train(trained.store, run, trained.config, resume=True)


@pytest.mark.parametrize("change", [{"step": 10**30}, {"epoch": -1}, {"step": True}, {"n_slices": 2**63}])
def test_counters_of_somebody_else_are_bounded(trained: Trained, tmp_path: Path, change: dict[str, int]) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained.run, run)
    for folder in (run / "checkpoints").iterdir():
        content = unsealed(read_json(folder / "checkpoint.json"))
        (folder / "checkpoint.json").write_text(json.dumps(sealed(content | {"state": content["state"] | change})))
    with pytest.raises(BadInputError, match=r"no intact checkpoint|checkpoint\.json: damaged"):
        find_checkpoint(run)
    with pytest.raises(BadInputError, match=r"checkpoint\.json: damaged"):
        train(trained.store, run, trained.config, resume=True)
