"""The command line as a user meets it: quick help, one line for every mistake, the documented exit code."""

import argparse
import errno
import os
import re
import shlex
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
import small

from rsna_e2e.cli import main
from rsna_e2e.cli.program import _parser
from rsna_e2e.config import load_config
from rsna_e2e.store import FORMAT_VERSION, Store
from rsna_e2e.training.foretell import describe_epochs
from rsna_e2e.training.launch import for_libraries

VERBS = (
    *("synth", "prepare", "store verify", "store repair", "export-shards", "inspect", "quirks", "import-weights"),
    *("find-lr", "train", "embed", "import-embeddings", "predict", "bag", "smooth", "evaluate", "pipeline", "bench"),
    *("explain", "gate", "merge", "settings", "tasks", "baseline", "label", "calibrate", "suspects", "study"),
    *("export", "process", "console", "serve", "serve-admin"),
)
HELP_LIMIT_S = 0.5
RUNS = Path(__file__).parents[2] / "docs" / "runs.md"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return small.make_store(tmp_path_factory.mktemp("cli"))


def test_help_answers_at_once() -> None:
    command = [sys.executable, "-m", "rsna_e2e.cli", "--help"]
    times_s = []
    for _ in range(5):
        started_s = time.monotonic()
        subprocess.run(command, check=True, capture_output=True)
        times_s.append(time.monotonic() - started_s)
    assert min(times_s) < HELP_LIMIT_S  # the best of five: the machine may be busy, the code may not


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([*verb.split(), "--help"])
    assert end.value.code == 0
    assert f"  rsna-e2e {verb} " in capsys.readouterr().out.split("example")[-1]


def _verbs(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for verb in action.choices.values():
                yield from _verbs(verb)


def _positional(verb: argparse.ArgumentParser) -> Iterator[str]:
    """As many words as a verb needs."""
    for action in verb._actions:
        if action.required:
            yield from [*action.option_strings[:1], *["0"] * (2 if action.nargs == "+" else 1)]


def test_of_two_switches_for_one_thing_the_default_is_the_one_that_says_so() -> None:
    n_pairs = 0
    for verb in _verbs(_parser()):
        switches = defaultdict(list)
        for action in verb._actions:
            if isinstance(action.const, bool):
                switches[action.dest].append(action)
        for name, actions in switches.items():
            if len(actions) > 1:
                (default,) = [action for action in actions if "the default" in (action.help or "")]
                assert getattr(verb.parse_known_args([*_positional(verb)])[0], name) == default.const, verb.prog
                n_pairs += 1
    assert n_pairs >= 4  # --consistent and --raw of predict, bag, merge and smooth


def test_only_the_verb_that_writes_boxes_says_which_its_raw_is_about() -> None:
    raw = {
        verb.prog.split()[-1]: " ".join(action.help or "" for action in verb._actions if action.dest == "is_raw")
        for verb in _verbs(_parser())
    }
    assert {name for name, text in raw.items() if text} == {"predict", "bag", "merge", "smooth", "baseline"}
    assert [name for name, text in raw.items() if "boxes" in text] == ["predict"]


def _says(capsys: pytest.CaptureFixture[str], arguments: list[str], code: int) -> str:
    """Run a verb that must fail with `code`, and return the one line it says."""
    assert main(arguments) == code
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    assert "Traceback" not in lines[0]
    return lines[0]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (MemoryError(), 5),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 5637144576 bytes"), 5),
        (RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB"), 5),
        (RuntimeError("Critical error in pipeline:\nstd::bad_alloc"), 5),
    ],
)
def test_memory_that_runs_out_is_one_line(
    error: Exception, code: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise error

    monkeypatch.setattr(Store, "open", fail)
    assert "train: memory ran out. Smaller images" in _says(capsys, ["train", "store", "run"], code)
    monkeypatch.setattr(Store, "open", lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):  # a bug stays one
        main(["train", "store", "run"])


def test_a_missing_or_empty_folder_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing, empty, store = tmp_path / "missing", tmp_path / "empty", tmp_path / "store"
    empty.mkdir()
    assert str(missing) in _says(capsys, ["prepare", str(missing), str(store)], 3)
    assert str(empty) in _says(capsys, ["prepare", str(empty), str(store)], 3)
    assert not store.exists()


def test_what_is_no_store_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    assert str(tmp_path) in _says(capsys, ["train", str(tmp_path), str(run)], 3)
    assert not run.exists()


def test_a_store_of_another_version_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = small.make_store(tmp_path).path
    manifest = folder / "store.json"
    manifest.write_text(manifest.read_text().replace(f'"format_version": {FORMAT_VERSION}', '"format_version": 99'))
    line = _says(capsys, ["train", str(folder), str(tmp_path / "run")], 3)
    assert "99" in line
    assert "Prepare it again" in line


def test_a_run_folder_that_exists_is_named(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("mine")
    assert "already exists. Choose another" in _says(capsys, ["train", str(store.path), str(tmp_path / "run")], 2)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["thesis.txt"]


def test_a_short_run_as_documented(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Epochs on single slices come on top of those on whole series, and train says so before it begins."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "store").symlink_to(store.path)
    (command,) = re.findall(r"```bash\nrsna-e2e (.*)\n```", RUNS.read_text())
    assert main(shlex.split(command)) == 0
    slices, series = "1 epoch on shuffled single slices (slice_phase.epochs)", "1 epoch on whole series (epochs)"
    assert f"train: {slices}, then {series}\n" in capsys.readouterr().err
    assert describe_epochs(load_config("demo", ["epochs=1"])) in RUNS.read_text()
    assert main([*shlex.split(command), "--resume", "auto"]) == 0


def test_what_is_no_run_or_no_checkpoint_is_named(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "submission.csv"
    assert "not a run folder" in _says(capsys, ["predict", str(tmp_path), str(store.path), "--out", str(out)], 3)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"not weights")
    line = _says(capsys, ["train", str(store.path), str(tmp_path / "run"), "--init-from", str(weights)], 3)
    assert "model.safetensors" in line
    assert not out.exists()


def test_an_unknown_setting_is_named(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = _says(capsys, ["train", str(store.path), str(tmp_path / "run"), "--set", "image.sise=3"], 2)
    assert "image.sise" in line


def test_a_label_file_without_its_columns_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small.write_raw(tmp_path / "raw")
    labels = tmp_path / "labels.csv"
    labels.write_text("image,value\na_any,1\n")
    line = _says(capsys, ["prepare", str(tmp_path / "raw"), str(tmp_path / "store"), "--labels", str(labels)], 3)
    assert str(labels) in line
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("verb", ["synth", "prepare", "evaluate"])
def test_a_negative_seed_is_a_usage_error(verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([verb, "a", "b", "--out", "c", "--seed", "-1"] if verb == "evaluate" else [verb, "a", "--seed", "-1"])
    assert end.value.code == 2
    assert "'-1' is not a whole number of at least 0" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--merge", "a"], ["--strict"], ["--folds", "3"], ["--seed", "1"]])
def test_what_means_nothing_to_a_part_is_refused(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["prepare", str(tmp_path), str(tmp_path / "store"), "--shard", "1/2", *words]
    assert f"{words[0]}: has no effect on a part of a store. Give it where" in _says(capsys, command, 2)


def test_a_place_that_cannot_be_written_is_named(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    below = tmp_path / "file" / "x"
    tiny = ["--set", "model.backbone=test_resnet", "--set", "model.backbone_arguments={}"]
    assert str(below) in _says(capsys, ["train", str(store.path), str(below), *tiny], 3)
    assert str(below) in _says(capsys, ["predict", str(tmp_path), str(store.path), "--out", str(below / "o.csv")], 3)
    assert "not the name of a file" in _says(
        capsys, ["predict", str(tmp_path), str(store.path), "--out", str(tmp_path)], 2
    )


def test_a_name_that_is_not_utf8_is_refused_before_any_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "not a UTF-8 name" in _says(capsys, ["prepare", str(tmp_path), f"{tmp_path}/st\udcff"], 2)


def test_an_incomplete_manifest_is_damage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "store.json").write_text(
        f'{{"format": "rsna_e2e study store", "format_version": {FORMAT_VERSION}}}'
    )
    assert "damaged" in _says(capsys, ["train", str(tmp_path / "store"), str(tmp_path / "run")], 3)


def test_the_whole_way_through_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw, store, run, out = (str(tmp_path / name) for name in ("raw", "store", "run", "submission.csv"))
    truth = str(tmp_path / "raw" / "stage_2_test_truth.csv")
    settings = [
        "model.backbone=test_resnet",
        "model.backbone_arguments={}",
        "image.size=32",
        "slice_phase.epochs=1",
        "epochs=1",
    ]
    assert main(["synth", raw, "--studies", "6", "--seed", "5", "--prevalence", "demo", "--test-fraction", "0.4"]) == 0
    assert main(["prepare", raw, store, "--folds", "2"]) == 0
    assert main(["train", store, run, *(word for s in settings for word in ("--set", s))]) == 0
    assert main(["predict", run, store, "--out", out]) == 0
    capsys.readouterr()
    assert main(["evaluate", out, truth, "--out", str(tmp_path / "report"), "--store", store]) == 0
    assert "weighted log loss" in capsys.readouterr().out
    assert (tmp_path / "report" / "report.html").stat().st_size > 10_000


def test_a_reader_who_has_enough_is_no_error(store: Store) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "rsna_e2e.cli", "store", "verify", str(store.path), "--json"]
    ended = subprocess.run(command, check=False, stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert ended.returncode == 141
    assert b"rror" not in ended.stderr
    assert b"roken" not in ended.stderr


def test_a_pipe_of_our_own_that_breaks_is_told(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

    monkeypatch.setattr("rsna_e2e.store.verify_store", broken)
    assert "Broken pipe" in _says(capsys, ["store", "verify", str(store.path)], 3)


@pytest.mark.parametrize(("chosen", "expected"), [(None, "20000"), ("7", "7")])
def test_threads_that_wait_sleep_soon_unless_the_user_wants_otherwise(
    chosen: str | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOMP_SPINCOUNT", chosen or "")
    if chosen is None:
        monkeypatch.delenv("GOMP_SPINCOUNT")
    with pytest.raises(SystemExit):
        main(["--version"])
    assert os.environ["GOMP_SPINCOUNT"] == expected


def test_gpu_memory_grows_in_pieces_unless_the_user_wants_otherwise() -> None:
    assert for_libraries({})["PYTORCH_ALLOC_CONF"] == "expandable_segments:True"
    mine = {"PYTORCH_ALLOC_CONF": "backend:native"}
    assert for_libraries(mine)["PYTORCH_ALLOC_CONF"] == "backend:native"
    older = {"PYTORCH_CUDA_ALLOC_CONF": "backend:native"}
    assert "PYTORCH_ALLOC_CONF" not in for_libraries(older)
    assert for_libraries(older).items() >= older.items()
