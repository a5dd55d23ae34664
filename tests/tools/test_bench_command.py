"""`rsna-e2e bench` as a user meets it."""

import inspect
import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import small

from rsna_e2e.cli import main
from rsna_e2e.cli.bench import MODES
from rsna_e2e.tools.bench.studies import opened_store


def _says(capsys: pytest.CaptureFixture[str], arguments: list[str], code: int) -> str:
    assert main(arguments) == code
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


@pytest.mark.parametrize("mode", [[], ["speed"]], ids=["none", "unknown"])
def test_a_mode_is_needed_and_known(mode: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["bench", *mode])
    assert end.value.code == 2
    assert "transform|loader|train|chunked" in capsys.readouterr().err


@pytest.mark.parametrize("mode", [mode.name for mode in MODES])
def test_options_are_the_arguments_of_the_benchmark(
    mode: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each by its name, and by default as in Python; the function is not run."""
    module = import_module(f"rsna_e2e.tools.bench.{mode}")
    signature = inspect.signature(getattr(module, f"bench_{mode}"))
    given: dict[str, Any] = {}

    def note(**arguments: Any) -> str:
        signature.bind(**arguments)
        given.update(arguments)
        return "measured"

    monkeypatch.setattr(module, f"bench_{mode}", note)
    assert main(["bench", mode]) == 0
    assert capsys.readouterr().out == "measured\n"
    for name, value in given.items():
        default = signature.parameters[name].default
        if name != "progress" and default is not inspect.Parameter.empty:
            assert (tuple(value) if isinstance(value, list) else value) == default, name


@pytest.mark.parametrize("mode", ["transform", "loader", "train"])
def test_a_folder_that_is_absent_or_no_store_is_named(
    mode: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    option = ["--store"] if mode == "transform" else []
    for folder in (tmp_path / "absent", tmp_path):
        assert str(folder) in _says(capsys, ["bench", mode, *option, str(folder)], 3)


def test_an_unknown_setting_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "image.sise" in _says(capsys, ["bench", "loader", str(tmp_path), "--set", "image.sise=3"], 2)


@pytest.mark.parametrize("option", ["--rounds", "--slices", "--size"])
def test_numbers_are_at_least_one(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["bench", "transform", option, "0"])
    assert end.value.code == 2
    assert "'0' is not a whole number of at least 1" in capsys.readouterr().err


@pytest.mark.parametrize("mode", ["transform", "loader", "train"])
def test_a_file_that_cannot_be_written_is_named_before_any_work(
    mode: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    assert str(tmp_path / "file") in _says(capsys, ["bench", mode, "--out", str(tmp_path / "file" / "x.json")], 3)
    assert "not the name of a file" in _says(capsys, ["bench", mode, "--out", str(tmp_path)], 2)


def test_figures_are_shown_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store, out = small.make_store(tmp_path), tmp_path / "figures.json"
    settings = ["--rounds", "1", "--slices", "16", "--set", "image.size=16", "--out", str(out)]
    assert main(["bench", "loader", str(store.path), *settings]) == 0
    shown = capsys.readouterr().out
    assert "bare operator" in shown
    assert f"figures: {out}" in shown
    assert json.loads(out.read_text())["machine"]["commit"] in shown


def test_without_a_store_one_is_simulated_and_removed() -> None:
    with opened_store(None) as store:
        assert len(store) > 16
        path = store.path
    assert not path.exists()
