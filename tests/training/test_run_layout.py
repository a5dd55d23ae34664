"""What a run folder holds has its names in one module."""

import ast
from pathlib import Path

from rsna_e2e.training import run_layout

PACKAGE = Path(run_layout.__file__).parents[1]
NAMES = {value for name, value in vars(run_layout).items() if name.isupper()}


def test_no_other_module_spells_a_name_out() -> None:
    assert {"config.yaml", "task.json", "manifest.json", "summary.json", "preempted"} < NAMES
    for package in ("training", "inference", "evaluation", "tools", "cli"):
        for path in (PACKAGE / package).rglob("*.py"):
            constants = {node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)}
            assert path == Path(run_layout.__file__) or not constants & NAMES, path


def test_it_is_there_before_anything_is_imported() -> None:
    tree = ast.parse(Path(run_layout.__file__).read_text())
    assert not any(isinstance(node, ast.Import | ast.ImportFrom) for node in ast.walk(tree))
