"""A task in a YAML file: read as it is written, and refused in one line that names the field."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from rsna_e2e.cli import main
from rsna_e2e.core.errors import BadInputError, UsageError
from rsna_e2e.core.files import sealed, write_json
from rsna_e2e.tasks.catalogue import TASKS, get_task
from rsna_e2e.tasks.files import task_as_yaml
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.tasks.task import Csv, Inputs, Labels, Task
from rsna_e2e.tasks.tree import Choice, Some

# With every field that a task may leave out
OWN = """
name: own
title: An example
slices: {names: [dense, deep], weights: [1, 2.5], any_name: deep, notes: [motion]}
series:
  names: [mild, severe, left, right]
  weights: [1, 1, 1, 1]
  tree:
  - {branches: [none*, mild, severe]}
  - {kind: some, branches: [left, right], given: severe}
series_truth: own
headline: dense
inputs: {windows_hu: [[40, 80]], mean: [0.2], std: [0.3]}
csv: {columns: [row, value], series_id: "{study}-{label}"}
"""
BOXES = {"image": "id", "place": ["x", "y", "w", "h"], "target": "box", "prediction": "boxes"}


def written(folder: Path, text: str) -> str:
    path = folder / "own.yaml"
    path.write_text(text)
    return str(path)


def changed(folder: Path, **changes: Any) -> str:
    """The example with other values, by dotted names with __ for the dot; None removes a field."""
    raw = yaml.safe_load(OWN)
    for name, value in changes.items():
        *parents, leaf = name.split("__")
        at = raw
        for parent in parents:
            at = at[int(parent) if parent.isdigit() else parent]
        if value is None:
            del at[leaf]
        else:
            at[leaf] = value
    return written(folder, yaml.safe_dump(raw))


def test_a_file_says_what_a_task_is(tmp_path: Path) -> None:
    assert get_task(written(tmp_path, OWN)) == Task(
        name="own",
        title="An example",
        slices=Labels(names=("dense", "deep"), weights=(1.0, 2.5), any_name="deep", notes=("motion",)),
        series=Labels(
            names=("mild", "severe", "left", "right"),
            weights=(1.0, 1.0, 1.0, 1.0),
            tree=(Choice(branches=("none*", "mild", "severe")), Some(branches=("left", "right"), given="severe")),
        ),
        series_truth="own",
        headline="dense",
        inputs=Inputs(windows_hu=((40.0, 80.0),), mean=(0.2,), std=(0.3,)),
        csv=Csv(columns=("row", "value"), series_id="{study}-{label}"),
    )


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_what_is_printed_is_what_is_read(task: Task, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tasks", task.name]) == 0
    assert get_task(written(tmp_path, capsys.readouterr().out)) == task


def test_all_tasks_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tasks"]) == 0
    assert capsys.readouterr().out == (
        "ich: Intracranial hemorrhage (labels: 6 of slices)\n"
        "pe: Pulmonary embolism on CT angiography (labels: 1 of slices, 9 of series)\n"
        "pneumonia: Lung opacity on chest radiographs (labels: 3 of slices; boxes: opacity)\n"
        "mortality: Death within 30 days on chest radiographs (labels: 1 of slices)\n"
    )


FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"titel": 1}, "titel: there is no such field; did you mean title? Known: name, title, slices, "),
    ({"slices__weigths": [1]}, "slices.weigths: there is no such field; did you mean weights? Known: names, weights, "),
    ({"inputs__gain": 1}, "inputs.gain: there is no such field. Known: windows_hu, mean, std"),
    ({"csv__column": 1}, "csv.column: there is no such field; did you mean columns? Known: columns, slice_id, "),
    ({"series__tree__1__branch": 1}, "series.tree.1.branch: there is no such field; did you mean branches? "),
    ({"csv__box_columns": BOXES | {"plaec": 1}}, "csv.box_columns.plaec: there is no such field; did you mean place? "),
    ({"csv__box_columns": BOXES | {"place": ["x", "y", "w"]}}, "csv.box_columns.place.3: missing"),
    ({"inputs__values": "grays"}, "inputs.values: must be 'hu' or 'grey', not \"grays\""),
    ({"boxes": ["deep"]}, "task own: boxes need csv.box_columns, the columns of tables of boxes"),
    ({"boxes": ["mild"]}, "task own: boxes: a class of boxes is no slice label"),
    ({"boxes": ["deep", "deep"]}, "task own: boxes: a class of boxes is no slice label, or there twice"),
    ({"csv__box_columns": BOXES}, "task own: csv.box_columns needs one class in boxes"),
    ({"boxes": ["deep"], "csv__box_columns": BOXES | {"target": "x"}}, "task own: csv.box_columns must be different"),
    (
        {"boxes": ["deep"], "csv__box_columns": BOXES | {"class_words": ["a"]}},
        "task own: csv.box_columns.class_words must",
    ),
    ({"headline": None}, "headline: missing. rsna-e2e tasks prints a whole task"),
    ({"series__tree__1__given": None}, "series.tree.1.given: missing."),
    ({"slices__weights": "heavy"}, 'slices.weights: must be a list, not "heavy"'),
    ({"slices__weights": [1, "two"]}, 'slices.weights.1: must be a number, not "two"'),
    ({"slices__weights": [1, "1e-3"]}, "slices.weights.1: must be a number, and YAML takes 1e-3 for text: write"),
    ({"slices__weights": [1, True]}, "slices.weights.1: must be a number, not true"),
    ({"inputs__mean": [float("nan")]}, "inputs.mean.0: must be a number, not null"),
    ({"inputs__windows_hu": [[40, 80, 1]]}, "inputs.windows_hu.0: has too many items, not [40, 80, 1]"),
    ({"title": 7}, "title: must be text, not 7"),
    ({"series": 7}, "series: must be a mapping, not 7"),
    ({"score": "auc"}, "score: must be 'log_loss' or 'study_log_loss', not \"auc\""),
    ({"series__tree__0__kind": "sum"}, "series.tree.0.kind: must be 'choice' or 'some', not \"sum\""),
    ({"name": "Own"}, "task Own: name must be lower case"),
    ({"title": "two\nlines"}, "task own: title is empty or of several lines"),
    ({"slices__names": ["dense", "motion"]}, "task own: a label or note stands in it twice"),
    ({"slices__names": ["dense", "a b"]}, "task own: labels and notes must be letters"),
    ({"slices__weights": [1]}, "task own: weights: each label needs one above 0, up to 1e+06"),
    ({"slices__weights": [1, 1e7]}, "task own: weights: each label needs one above 0, up to 1e+06"),
    ({"slices__any_name": "all"}, "task own: any_name is no label of its level"),
    ({"headline": "mild"}, "task own: headline 'mild' is no slice label"),
    ({"series_truth": "any_slice"}, "task own: series_truth own needs series.names"),
    ({"state_of_slices": "left"}, "task own: state_of_slices is no branch of the root"),
    ({"inputs__mean": [0.2, 0.2]}, "task own: inputs: windows_hu, mean and std must have one entry for each channel"),
    ({"inputs__std": [0]}, "task own: inputs: widths of windows and std must be above 0"),
    ({"inputs__windows_hu": [[1e7, 80]]}, "task own: inputs: widths of windows and std must be above 0, and all"),
    ({"csv__columns": ["row", "row"]}, "task own: csv.columns must be two names"),
    ({"csv__slice_id": "{label}"}, "task own: csv.slice_id needs {slice}"),
    ({"csv__slice_id": "{slice.real}_{label}"}, "task own: csv.slice_id needs {slice}, and has no other part"),
    ({"csv__slice_id": "{slice}_{label}_{0}"}, "task own: csv.slice_id needs {slice}, and has no other part"),
    ({"csv__slice_id": "{slice}_{label:9}"}, "task own: csv.slice_id needs {slice}, and has no other part"),
    ({"csv__slice_id": "{slice}_{label"}, "task own: csv.slice_id needs {slice}, and has no other part"),
    ({"csv__slice_id": "{slice}"}, "task own: csv.slice_id needs {label}, for there are several"),
    ({"csv__series_id": "{study}"}, "task own: csv.series_id needs {study} and {label}"),
    ({"series__tree__1__given": "other"}, "task own: series.tree: the group left, right is given 'other'"),
    ({"name": "ich"}, "name: this package has a task ich, and this one is another: its title is An example, not Intr"),
]


@pytest.mark.parametrize(("changes", "said"), FAULTS, ids=[said[:60] for _, said in FAULTS])
def test_each_fault_is_one_line_with_file_and_field(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    path = changed(tmp_path, **changes)
    with pytest.raises(BadInputError) as error:
        get_task(path)
    assert str(error.value).startswith(f"{path}: {said}")
    assert "\n" not in str(error.value)
    assert ";" not in str(error.value).replace("; did you", "")  # one fault is said once


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[1, 2]", "not a task, but [1, 2]"),
        ("", "not a task, but null"),
        ("name: [", "not a readable task: "),
        ("name: a\nname: b", "not a readable task: 'name' appears twice in line 2"),
    ],
)
def test_what_is_no_task_is_named(text: str, said: str, tmp_path: Path) -> None:
    path = written(tmp_path, text)
    with pytest.raises(BadInputError) as error:
        get_task(path)
    assert str(error.value).startswith(f"{path}: {said}")


def test_several_faults_are_said_together(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"title: missing\..*; score: must be .*; titel: there is "):
        get_task(changed(tmp_path, title=None, titel="An example", score="auc"))


def test_the_task_of_a_run_is_one(tmp_path: Path) -> None:
    path = tmp_path / "task.json"
    own = replace(ICH, name="own", slices=replace(ICH.slices, weights=(1e-5,) * 6))  # JSON's 1e-05 is text in YAML
    write_json(path, sealed(asdict(own)))
    assert get_task(str(path)) == own
    path.write_text(path.read_text().replace("Intracranial", "Another"))
    with pytest.raises(BadInputError, match=r"task\.json: not a readable task: changed since it was written"):
        get_task(str(path))


def test_a_task_of_the_catalogue_may_stand_in_a_file_unchanged(tmp_path: Path) -> None:
    assert get_task(written(tmp_path, task_as_yaml(ICH))) == ICH
    with pytest.raises(BadInputError, match=r"its title is Mine, not Intracranial hemorrhage\. Give it a name of its"):
        get_task(written(tmp_path, task_as_yaml(replace(ICH, title="Mine"))))


def test_an_unknown_task_names_those_that_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(
        UsageError,
        match=r"unknown task 'ihc'; did you mean ich\? known: ich, pe, pneumonia, mortality, or the path of a YAML",
    ):
        get_task("ihc")
    assert main(["tasks", "elsewhere.yaml"]) == 2
    assert (
        "rsna-e2e tasks: unknown task 'elsewhere.yaml'; known: ich, pe, pneumonia, mortality" in capsys.readouterr().err
    )
