"""The task as a setting: a name, or a file that is read once and saved whole."""

from dataclasses import replace
from pathlib import Path

import pytest

from rsna_e2e.config import as_yaml, load_config, resolve_task
from rsna_e2e.core.errors import BadInputError, UsageError
from rsna_e2e.tasks.files import task_as_yaml
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.tasks.pe import PE
from rsna_e2e.tasks.task import Inputs


def test_a_name_is_saved_as_a_name() -> None:
    config = load_config("demo", ["task=pe"])
    assert config.task == resolve_task(config) == PE
    assert b"\ntask: pe\n" in as_yaml(config)


def test_a_file_is_saved_whole(tmp_path: Path) -> None:
    own, path = replace(ICH, name="own"), tmp_path / "own.yaml"
    path.write_text(task_as_yaml(own))
    config = load_config("demo", [f"task={path}"])
    path.write_text(task_as_yaml(replace(own, title="Changed")))
    (tmp_path / "saved.yaml").write_bytes(as_yaml(config))
    assert load_config(tmp_path / "saved.yaml").task == own
    assert load_config(tmp_path / "saved.yaml", ["task.headline=subdural"]).task == replace(own, headline="subdural")


def test_a_wrong_file_is_named_with_the_field(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(task_as_yaml(replace(ICH, name="own")).replace("headline", "hedline"))
    with pytest.raises(BadInputError, match=r"own\.yaml: headline: missing.*; hedline: there is no such field; did"):
        load_config("demo", [f"task={path}"])


def test_a_wrong_task_in_a_configuration_is_named_with_the_field(tmp_path: Path) -> None:
    saved = tmp_path / "saved.yaml"
    saved.write_bytes(as_yaml(load_config("demo").model_copy(update={"task": replace(ICH, name="own")})))
    saved.write_text(saved.read_text().replace("headline", "hedline"))
    with pytest.raises(BadInputError, match=r"configuration .*saved\.yaml: task: headline: missing"):
        load_config(saved)


@pytest.mark.parametrize(
    ("settings", "inputs"),
    [
        ([], ICH.inputs),
        (["inputs.std=[1, 2, 3.5]"], replace(ICH.inputs, std=(1.0, 2.0, 3.5))),
        (
            ["inputs.windows_hu=[[0, 1000]]", "inputs.mean=[0.25]", "inputs.std=[0.125]"],
            Inputs(windows_hu=((0.0, 1000.0),), mean=(0.25,), std=(0.125,)),
        ),
    ],
)
def test_inputs_take_the_place_of_the_tasks(settings: list[str], inputs: Inputs) -> None:
    assert resolve_task(load_config("demo", settings)) == replace(ICH, inputs=inputs)


def test_inputs_of_other_lengths_are_refused() -> None:
    with pytest.raises(UsageError, match="configuration demo: task ich: inputs: windows_hu, mean and std must have"):
        load_config("demo", ["inputs.windows_hu=[[0, 1000]]"])
