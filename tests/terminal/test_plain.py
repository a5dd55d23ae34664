"""The menu of lines, as a script drives it: what it says is what predict writes, and nothing ends it but q."""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import archives
import consoles
import matplotlib.image
import numpy as np
import pytest
import radiographs
import rectangles
import small
from served import untrained

from rsna_e2e.cli import main
from rsna_e2e.cli.verbs import tell
from rsna_e2e.core.errors import UsageError
from rsna_e2e.serving.result import RESEARCH_ONLY
from rsna_e2e.store import Store
from rsna_e2e.store.prepare import prepare
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.tasks.labels import read_labels
from rsna_e2e.tasks.pe import PE
from rsna_e2e.tasks.pneumonia import PNEUMONIA
from rsna_e2e.terminal.patients import Study, studies_of
from rsna_e2e.terminal.picture import overlay
from rsna_e2e.terminal.plain import PlainConsole
from rsna_e2e.terminal.session import LoadedModel, Session
from rsna_e2e.terminal.view import View, frame
from rsna_e2e.training.train import train

pytestmark = pytest.mark.usefixtures("one_thread")

SAME = 1e-6
LINE = re.compile(r"^(\w+) +(\d\.\d{4}) +(\d\.\d\d)( \(default\))? +(yes|no) +(yes|no|unknown)$", re.MULTILINE)


@pytest.fixture(scope="module")
def session(made: consoles.Made) -> Session:
    return consoles.open_session(made)


class Talk:
    """What was said, line by line, of a console that is typed these lines."""

    def __init__(self, session: Session, typed: Iterable[str], out: Path, capsys: pytest.CaptureFixture[str]) -> None:
        PlainConsole(session, iter(typed), tell, out).run()
        self.text = capsys.readouterr().out

    def count(self, words: str) -> int:
        return self.text.count(words)


def _predicted(model: Path, store: Path, tmp_path: Path, split: str = "train") -> dict[str, list[float]]:
    """What predict --calibrated writes, by image id."""
    out = tmp_path / "submission.csv"
    words = ["predict", str(model), str(store), "--out", str(out), "--split", split, "--device", "cpu", "--raw"]
    is_calibrated = model.is_file()
    assert main([*words, *(["--calibrated"] if is_calibrated else [])]) == 0
    table = read_labels(out, ICH)
    return {image: values.tolist() for image, values in zip(table.image_ids, table.values, strict=True)}


def _highest(store: Store, patient: str, predicted: dict[str, list[float]]) -> np.ndarray:
    rows = [row for row, one in enumerate(store.index["patient_id"]) if one == patient]
    return np.max([predicted[store.index["image_id"][row]] for row in rows], axis=0)


def test_every_item_of_the_menu(
    session: Session, made: consoles.Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = ("1", consoles.PATIENT, "2", consoles.PATIENT, "3", "2", "4", consoles.PATIENT, "P", "p3", "q", "1")
    talk = Talk(session, typed, tmp_path / "out", capsys)
    assert talk.count(RESEARCH_ONLY) == 6 + 2  # with each menu, and in each sentence
    for item in ("1  predict a patient with small 1.0", "2  predict a patient with second", "3  loss curves of a run",
                 "4  ensemble overlay", "p  list patients", "q  quit"):  # fmt: skip
        assert talk.count(f"{item}\n") == 6
    numbers = [
        (name, float(p), float(at), above == "yes", truth) for name, p, at, _, above, truth in LINE.findall(talk.text)
    ]
    n_labels = len(ICH.slices.names)
    assert len(numbers) == 2 * n_labels
    store = session.store
    rows = store.index["patient_id"] == consoles.PATIENT
    truth = ["yes" if one else "no" for one in store.labels[rows].max(axis=0)]
    for number, model in enumerate((made.bundle, made.run)):
        said = numbers[number * n_labels : (number + 1) * n_labels]
        expected = _highest(store, consoles.PATIENT, _predicted(model, made.store, tmp_path))
        np.testing.assert_allclose([p for _, p, *_ in said], expected, rtol=0, atol=0.5e-4 + SAME)
        assert [name for name, *_ in said] == list(ICH.slices.names)
        assert [one for *_, one in said] == truth
        learned = session.models[number].served.thresholds["slices"]
        assert [at for _, _, at, *_ in said] == [round(learned.get(name, 0.5), 2) for name in ICH.slices.names]
    assert session.ask(0, _study(session)).result.sentence in talk.text
    assert "train series loss" in talk.text
    assert "ID_p3  " in talk.text.split("part of a patient id")[1]
    assert "ID_p4" not in talk.text


def _study(session: Session, patient: str = consoles.PATIENT) -> Study:
    (study,) = (study for study in session.studies if study.patient == patient)
    return study


def test_pictures_are_where_it_says(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "console-pictures").mkdir()
    PlainConsole(session, iter(["1", consoles.PATIENT, "4", consoles.PATIENT]), tell, None).run()
    said = capsys.readouterr().out
    folder = Path(re.findall("^pictures and page: (.*)$", said, re.MULTILINE)[0])
    picture = Path(re.findall("^picture: (.*)$", said, re.MULTILINE)[0])
    assert folder.parent == picture.parent == Path("console-pictures-2")
    assert (folder / "report.html").is_file()
    study, names = _study(session), sorted(path.name for path in folder.glob("*.png"))
    keys = [key for label in session.ask(0, study).result.labels for key in label.key_slices if label.above]
    assert len(names) == 2 * max(len(keys), 1)
    assert consoles.PATIENT not in str([*tmp_path.rglob("*")])


def test_the_overlay_is_of_all_models_over_the_key_slice(
    session: Session, made: consoles.Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    talk = Talk(session, ["4", consoles.PATIENT], tmp_path / "out", capsys)
    store, headline = session.store, ICH.headline_index
    both = [_predicted(model, made.store, tmp_path) for model in (made.bundle, made.run)]
    rows = [row for row, one in enumerate(store.index["patient_id"]) if one == consoles.PATIENT]
    mean = [np.mean([each[store.index["image_id"][row]][headline] for each in both]) for row in rows]
    place = int(np.argmax(mean))
    assert f"any in slice {place + 1} of {len(rows)}" in talk.text
    for colour, title, each in zip(("orange", "sky blue"), ("small 1.0", "second"), both, strict=True):
        probability = each[store.index["image_id"][rows[place]]][headline]
        (said,) = re.findall(rf"^{colour}: {title}, probability (\S+)$", talk.text, re.MULTILINE)
        assert float(said) == pytest.approx(probability, abs=0.5e-4 + SAME)
    truth = "yes" if store.labels[rows[place], headline] else "no"
    assert f"red: the mean of their maps; truth: {truth}\n" in talk.text
    (path,) = (tmp_path / "out").glob("*.png")
    span, label = _study(session).spans[0], ("slice", headline)
    view = View.first(session, span).at(place)
    shares = [
        session.maps(number, span, label).on_picture(place, (small.SIDE, small.SIDE), side=512) for number in (0, 1)
    ]
    expected = overlay(frame(session, span, view, (), side=512).grey, shares)
    np.testing.assert_allclose(matplotlib.image.imread(path)[..., :3], expected, rtol=0, atol=1 / 255)
    assert np.mean(shares) > 0


def test_who_is_unknown_is_told_the_nearest_and_on_it_goes(
    session: Session, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = _study(session).spans[0].series_key
    typed = ["1", "ID_p9x", "9", "", "2", key[:6], "3", "1", "3", str(tmp_path), "4", "zz", "q"]
    talk = Talk(session, typed, tmp_path / "out", capsys)
    assert re.search(r"no patient or series is called ID_p9x\. The nearest: ID_p\d, ID_p\d, ID_p\d\n", talk.text)
    assert "9: is not in the menu" in talk.text
    assert f"patient {consoles.PATIENT}, study" in talk.text
    assert "is a bundle, which holds no metrics" in talk.text
    assert f"{tmp_path}/metrics.jsonl: cannot be read" in talk.text
    assert "no patient or series is called zz" in talk.text
    assert talk.count("q  quit") == 8


@pytest.mark.parametrize("typed", [[], ["1"], ["1", consoles.PATIENT], ["3"], ["4"], ["p"]])
def test_it_ends_where_the_input_ends(
    typed: list[str], session: Session, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert Talk(session, typed, tmp_path / "out", capsys).text.endswith("\nend of input\n")


def test_hostile_ids_are_text(session: Session, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    typed = ["1", consoles.SHOWN, "p", "evil", "4", consoles.HOSTILE, "1", "\x1b[31mno\x07", "\x1b[2J", "3", "\x1b[2J"]
    talk = Talk(session, typed, tmp_path / "out", capsys)
    assert all(character.isprintable() or character == "\n" for character in talk.text)
    assert talk.count(f"patient {consoles.SHOWN}, study") == 2
    listed = talk.text.split("part of a patient id")[1].split("Research")[0]
    assert listed.count(consoles.SHOWN) == len(consoles.N_SLICES)
    n_first, n_second = consoles.N_SLICES
    assert f" of {n_first} slices, " in talk.text
    assert f" of {n_second} slices\n" in talk.text
    assert {truth for *_, truth in LINE.findall(talk.text)} == {"unknown"}
    assert not [path for path in tmp_path.rglob("*") if "evil" in path.name]


def test_a_study_is_asked_once(session: Session, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = _study(session, "ID_p0")
    n_asked = session.ask.cache_info().misses
    Talk(session, ["1", "ID_p0", "1", study.spans[0].series_key, "4", "ID_p0"], tmp_path / "out", capsys)
    assert session.ask.cache_info().misses == n_asked + 2  # one for each model


def test_studies_may_have_labels_of_their_own(
    made: consoles.Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare(made.raw, tmp_path / "store", task=PE, labels="none", n_jobs=1)
    session = consoles.session_of(small.config("task=pe"), tmp_path / "store", n_models=2)
    talk = Talk(session, ["1", consoles.PATIENT, "4", consoles.PATIENT, "q"], tmp_path / "out", capsys)
    found = LINE.findall(talk.text)
    assert [name for name, *_ in found] == [*PE.slices.names, *PE.series.names]
    assert {(at, default, truth) for _, _, at, default, _, truth in found} == {("0.50", " (default)", "unknown")}
    assert "truth: unknown" in talk.text


def test_truth_of_studies_is_that_of_their_series(made: consoles.Made, tmp_path: Path) -> None:
    prepare(made.raw, tmp_path / "store", task=PE, labels="none", n_jobs=1)
    session = consoles.session_of(small.config("task=pe"), tmp_path / "store")
    study = _study(session, consoles.EVIL)
    positions = [session.store.series.index(span) for span in study.spans]
    session.store.series_labels[positions, 1] = 0
    assert session.truth(study, ("series", 1)) == 0
    session.store.series_labels[positions[1], 1] = 1
    assert session.truth(study, ("series", 1)) == 1
    assert np.isnan(session.truth(study, ("series", 2)))


def test_radiographs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(2):
        radiographs.write_image(tmp_path / f"raw/x{number}.png", radiographs.chest(seed=number))
    prepare(tmp_path / "raw", tmp_path / "store", task=PNEUMONIA, labels="none", n_jobs=1)
    session = consoles.session_of(small.image_config("task=pneumonia"), tmp_path / "store", n_models=2)
    study = studies_of(session.store.series)[1]
    talk = Talk(session, ["1", study.patient, "4", study.spans[0].series_key, "q"], tmp_path / "out", capsys)
    assert [name for name, *_ in LINE.findall(talk.text)] == list(PNEUMONIA.slices.names)
    assert " in slice 1 of 1, series " in talk.text
    assert len([*(tmp_path / "out").glob("*overlay*.png")]) == 1


def _typed_to_the_verb(
    words: list[str], typed: str, *, code: int = 0, **environment: str
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-m", "rsna_e2e.cli", "console", *words]
    ended = subprocess.run(
        command, input=typed, capture_output=True, text=True, check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
    )  # fmt: skip
    assert ended.returncode == code, ended.stderr
    return ended


@pytest.mark.parametrize("is_zip", [pytest.param(False, marks=pytest.mark.slow), True])
def test_the_verb_reads_dicom_files(is_zip: bool, made: consoles.Made, tmp_path: Path) -> None:
    raw, temporary = made.raw, Path(tempfile.mkdtemp())  # of a short name: sockets are made there
    if is_zip:
        archives.zip_folder(made.raw, raw := tmp_path / "raw.zip")
    typed = f"p\n\n1\n{consoles.PATIENT}\n"
    words = [str(raw), "--model", str(made.bundle), "--plain", "--out", str(tmp_path / "out"), "--device", "cpu"]
    ended = _typed_to_the_verb(words, typed, TMPDIR=str(temporary))
    found = {name: float(p) for name, p, *_ in LINE.findall(ended.stdout)}
    store = Store.open(made.store)
    expected = _highest(store, consoles.PATIENT, _predicted(made.bundle, made.store, tmp_path))
    np.testing.assert_allclose([found[name] for name in ICH.slices.names], expected, rtol=0, atol=0.5e-4 + SAME)
    assert ended.stdout.count("unknown\n") == len(found)  # of files alone the truth is not known
    temporary.rmdir()  # which nothing is left in
    assert ended.stdout.endswith("end of input\n")


def test_without_a_terminal_it_is_plain(made: consoles.Made, tmp_path: Path) -> None:
    ended = _typed_to_the_verb([str(made.store)], "p\np3\nq\n", NO_COLOR="1")
    assert "ID_p3" in ended.stdout
    assert "\x1b" not in ended.stdout + ended.stderr
    assert "predict" not in ended.stdout
    assert "overlay" not in ended.stdout


def test_a_closed_stdin_is_an_empty_one(
    made: consoles.Made, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", None)
    assert main(["console", str(made.store)]) == 0
    assert capsys.readouterr().out.endswith("choose: \nend of input\n")


def test_plain_needs_no_library_of_the_screen(made: consoles.Made, tmp_path: Path) -> None:
    """And the screen says what to install."""
    (tmp_path / "textual.py").write_text("raise ImportError")
    (tmp_path / "plotext.py").write_text("raise ImportError")
    _typed_to_the_verb([str(made.store), "--plain"], "q\n", PYTHONPATH=f"{tmp_path}:{Path(__file__).parents[2]}")


def _says(words: list[str], code: int, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["console", *words, "--device", "cpu"]) == code
    (line,) = capsys.readouterr().err.strip().split("\n")
    return line


def test_what_is_missing_is_named(
    made: consoles.Made, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for stream in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(getattr(sys, stream), "isatty", lambda: True)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    said = _says([str(made.store)], 4, capsys)
    assert "textual and plotext: not installed" in said
    assert "pip install 'rsna_e2e[console]'" in said
    assert "--plain" in said
    assert "--out: is of --plain" in _says([str(made.store), "--out", "x"], 2, capsys)


def test_what_cannot_be_shown_is_refused(
    made: consoles.Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "Give --model" in _says([str(made.raw), "--plain"], 2, capsys)
    assert "is not there" in _says([str(tmp_path / "none"), "--plain"], 2, capsys)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/x").touch()
    words = [str(made.store), "--plain", "--out", str(tmp_path / "full")]
    assert "is there already. Choose another folder" in _says(words, 2, capsys)


def test_boxes_are_shown_elsewhere(made: consoles.Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with closing(rectangles.make_store(tmp_path, 6)) as store:
        train(store, tmp_path / "run", rectangles.config("slice_phase.epochs=1"), device="cpu")
        capsys.readouterr()
        said = _says([str(store.path), "--model", str(tmp_path / "run"), "--plain"], 2, capsys)
    assert "finds boxes" in said
    assert "rsna-e2e process" in said


def test_models_are_for_the_same_labels(made: consoles.Made) -> None:
    models = [LoadedModel(path=Path("run"), served=untrained(small.config(task))) for task in ("task=ich", "task=pe")]
    with pytest.raises(UsageError, match="for different labels, ich, pe"):
        Session(store=Store.open(made.store), task=ICH, models=models)
