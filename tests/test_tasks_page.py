"""docs/tasks.md: its program run as it stands there, and its tables."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import small
import yaml
from workshop import Workshop

from rsna_e2e.cli import main
from rsna_e2e.core.plain_yaml import parse_yaml
from rsna_e2e.store import Store
from rsna_e2e.tasks.catalogue import get_task
from rsna_e2e.tasks.files import make_task
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.tasks.labels import read_labels, write_labels
from rsna_e2e.tasks.task import flat

PAGE = (Path(__file__).parents[1] / "docs/tasks.md").read_text()
PROGRAMS = dict(re.findall(r"<!-- program: (\w+) -->\n```bash\n(.*?)```", PAGE, re.DOTALL))
PLACES = {"inside": ("intraparenchymal", "intraventricular"), "around": ("epidural", "subarachnoid", "subdural")}


def write_raw(folder: Path) -> None:
    """Write what `rsna-e2e synth` does, of a few small images."""
    small.write_raw(folder / "raw")
    ids = [f"ID_{len(small.LENGTHS):02d}{index:02d}" for index in range(4)]
    values = np.array([[0, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 1], [0, 0, 1, 0, 1, 1], [0, 0, 0, 0, 0, 0]])
    write_labels(folder / "raw/stage_2_test_truth.csv", ICH, ids, values.astype(np.float64))


def expected(path: Path) -> dict[str, list[float]]:
    """The two labels of each image, from a label file of the six."""
    table = read_labels(path, ICH)
    columns = [[ICH.slices.names.index(name) for name in names] for names in PLACES.values()]
    return {
        image_id: [row[place].max() for place in columns]
        for image_id, row in zip(table.image_ids, table.values, strict=True)
    }


def check_results(folder: Path) -> None:
    """Check that the two labels went all the way: into the store, the submission, the truth and the scores."""
    task = get_task(str(folder / "place.yaml"))
    store = Store.open(folder / "store", "place")
    known = expected(folder / "raw/stage_2_train.csv")
    assert store.label_names == task.slices.names == tuple(PLACES)
    for image_id, values in zip(store.index["image_id"], store.labels, strict=True):
        np.testing.assert_array_equal(values, known.get(image_id, [np.nan, np.nan]))
    truth = expected(folder / "raw/stage_2_test_truth.csv")
    table = read_labels(folder / "place_truth.csv", task)
    assert dict(zip(table.image_ids, table.values.tolist(), strict=True)) == truth
    predicted = read_labels(folder / "submission.csv", task)
    assert sorted(predicted.image_ids) == sorted(truth)
    by_id = dict(zip(predicted.image_ids, predicted.values, strict=True))
    p = np.array([by_id[image_id] for image_id in truth]).clip(1e-15, 1 - 1e-15)
    y = np.array(list(truth.values()))
    loss = -(y * np.log(p) + (1 - y) * np.log(1 - p)).mean()  # both labels weigh the same
    metrics = yaml.safe_load((folder / "report/metrics.json").read_text())
    assert metrics["weighted_log_loss"]["value"] == pytest.approx(loss, rel=1e-9)
    assert "AUC of “around”" in (folder / "report/report.html").read_text()
    assert "with the label “around”" in (folder / "inspection/inspection.html").read_text()
    assert Store.open(folder / "store", "ich").label_names == ICH.slices.names


def test_the_program_is_the_only_one() -> None:
    assert list(PROGRAMS) == ["place"]


def test_a_task_of_ones_own_from_labels_to_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The commands in this process, which has torch loaded; all else of the program as it stands."""
    workshop = Workshop.make(tmp_path / "w", stand_ins={"rsna-e2e"})
    (workshop.folder / "commands/python").symlink_to(sys.executable)
    write_raw(workshop.folder)
    calls = workshop.run(PROGRAMS["place"], {})
    assert [call.words[1] for call in calls] == [
        *("tasks", "prepare", "label", "inspect", "train", "predict", "evaluate")
    ]
    monkeypatch.chdir(workshop.folder)
    for call in calls:
        assert main(list(call.words[1:])) == 0
    assert "AUC of around" in capsys.readouterr().out  # as training ends
    check_results(workshop.folder)
    for command in (
        "predict run store --split validation --out held.csv",
        "smooth held.csv --out smoothed.csv --task place.yaml",
    ):
        assert main(command.split()) == 0
        said = capsys.readouterr().out.splitlines()[-1].removeprefix("to score it: rsna-e2e ")
        assert main(said.split()) == 0
    assert main(["inspect", "store", "--out", "again"]) == 2
    assert "has label sets of several tasks: ich, place. Choose one with --task" in capsys.readouterr().err
    assert main(["export-shards", "store", "shards", "--task", "place.yaml", "--labels", "place.csv"]) == 0
    key = str(Store.open("store", "place").index["series_key"][0])[:8]
    assert main(["explain", "run", "store", "--series", key, "--out", "maps"]) == 0
    assert "around, a label of the slice" in capsys.readouterr().out
    shutil.rmtree("store/tasks/ich")
    assert main(["inspect", "store", "--out", "again"]) == 2
    assert (
        "store: has labels of task place. Give the YAML file of that task with --task FILE" in capsys.readouterr().err
    )


@pytest.mark.slow  # every command is a process of its own, and the studies are simulated
def test_the_program_as_it_stands(tmp_path: Path) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    synth = re.search(r"```bash\n(rsna-e2e synth .*)\n```", PAGE)
    assert synth is not None
    for words in (synth[1].replace("--studies 60", "--studies 12"), PROGRAMS["place"]):
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", words],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            env={**os.environ, "PATH": path},
        )
        assert done.returncode == 0, done.stderr
    check_results(tmp_path)


def test_the_table_has_every_field() -> None:
    section = PAGE.split("## The fields of a task\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    assert [name for row in rows for name in re.findall(r"`([\w.]+)`", row)] == list(flat(ICH))


def test_what_may_be_left_out_is_what_it_says(tmp_path: Path) -> None:
    sentence = re.search(r"(.*) are needed; all others may be left out", PAGE)
    assert sentence is not None
    least = parse_yaml(PROGRAMS["place"].split("<<'END'\n")[1].split("END\n")[0])
    assert list(least) == re.findall(r"`(\w+)`", sentence[1])
    assert make_task(least).slices.names == tuple(PLACES)


def test_the_mistake_shown_is_said_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = re.search(r"^own\.yaml: (slices\.weigths: .*)$", PAGE, re.MULTILINE)
    assert said is not None
    text = PROGRAMS["place"].split("<<'END'\n")[1].split("END\n")[0]
    (tmp_path / "own.yaml").write_text(text.replace("weights:", "weigths:"))
    assert main(["tasks", str(tmp_path / "own.yaml")]) == 3
    assert capsys.readouterr().err == f"rsna-e2e tasks: {tmp_path}/own.yaml: {said[1]}\n"


def test_the_tree_shown_is_one(tmp_path: Path) -> None:
    shown = re.search(r"```yaml\n(tree:.*?)```", PAGE, re.DOTALL)
    assert shown is not None
    least = parse_yaml(PROGRAMS["place"].split("<<'END'\n")[1].split("END\n")[0])
    names = ["mild", "severe", "left", "right"]
    series = {"names": names, "weights": [1] * 4, **parse_yaml(shown[1])}
    assert make_task(least | {"series": series, "series_truth": "own"}).series.names == tuple(names)
