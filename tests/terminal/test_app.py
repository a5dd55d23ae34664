"""The console on a terminal of 80 by 24 cells, driven by its keys without one; what it shows is what predict writes."""

import asyncio
import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import consoles
import numpy as np
import pytest
import radiographs
import small
from served import untrained

from rsna_e2e.cli import main
from rsna_e2e.core.errors import UsageError
from rsna_e2e.inference import activation_maps
from rsna_e2e.inference.activation_maps import Label
from rsna_e2e.serving.maps import ServedMaps, served_maps
from rsna_e2e.serving.model import ServedModel
from rsna_e2e.serving.result import RESEARCH_ONLY
from rsna_e2e.store import SeriesSpan, Store
from rsna_e2e.store.prepare import prepare
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.tasks.labels import read_labels
from rsna_e2e.tasks.pe import PE
from rsna_e2e.tasks.pneumonia import PNEUMONIA
from rsna_e2e.tasks.windows import named_windows
from rsna_e2e.terminal.patients import Study, find
from rsna_e2e.terminal.picture import half_blocks
from rsna_e2e.terminal.session import Answer, LoadedModel, Session
from rsna_e2e.terminal.view import View, frame

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.needs_console]

if TYPE_CHECKING:
    from textual.pilot import Pilot

    from rsna_e2e.terminal.app import ConsoleApp
    from rsna_e2e.terminal.study_screen import StudyScreen

SAME = 1e-6
SIZE = (80, 24)
PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def session(made: consoles.Made) -> Session:
    return consoles.open_session(made)


class Driver:
    """Types keys, and reads what is on the screen."""

    def __init__(self, app: "ConsoleApp", pilot: "Pilot[None]") -> None:
        self.app, self._pilot = app, pilot

    async def press(self, *keys: str) -> None:
        """Press keys, and wait for what they begin."""
        for key in keys:
            await self._pilot.press(key)
            await self._pilot.pause()
            await self.app.workers.wait_for_complete()
            await self._pilot.pause()

    async def hurry(self, *keys: str) -> None:
        """Press keys, and wait for nothing."""
        await self._pilot.press(*keys)

    async def search(self, text: str) -> None:
        await self.press("slash", *text)

    async def resize(self, *size: int) -> None:
        await self._pilot.resize_terminal(*size)
        await self._pilot.pause()

    @property
    def study(self) -> "StudyScreen":
        from rsna_e2e.terminal.study_screen import StudyScreen

        assert isinstance(self.app.screen, StudyScreen)
        return self.app.screen

    def lines(self) -> list[str]:
        """The screen as text."""
        width, height = self.app.size
        strips = self.app.screen._compositor.render_strips()
        assert [strip.cell_length for strip in strips] == [width] * height
        return [strip.text for strip in strips]

    def text(self) -> str:
        assert RESEARCH_ONLY in self.lines()[0]  # on every screen
        return "\n".join(self.lines())

    def notices(self) -> str:
        """What was announced over the screen."""
        return "\n".join(notice.message for notice in self.app._notifications)

    def pixels(self, side: int) -> tuple[np.ndarray, np.ndarray]:
        """The colours of the halves of the cells of a picture."""
        from rsna_e2e.terminal.widgets import UPPER_HALF, SliceView

        view = self.study.query_one(SliceView)
        upper, lower = [], []
        for y in range(side // 2):
            cells = [(character, segment.style) for segment in view.render_line(y) for character in segment.text][:side]
            assert {character for character, _ in cells} == {UPPER_HALF}
            upper.append([style.color.triplet for _, style in cells])
            lower.append([style.bgcolor.triplet for _, style in cells])
        return np.array(upper), np.array(lower)


def drive(session: Session, script: Callable[[Driver], Awaitable[None]], *, has_colours: bool | None = True) -> None:
    """Run the console, and a script on it; an exception in either fails."""
    from rsna_e2e.terminal.app import ConsoleApp

    async def run() -> None:
        app = ConsoleApp(session, has_colours=has_colours)
        async with app.run_test(size=SIZE, notifications=True) as pilot:
            await pilot.pause()
            await script(Driver(app, pilot))

    asyncio.run(run())


def test_patients_are_listed_and_searched(session: Session) -> None:
    async def script(driver: Driver) -> None:
        n_series = len(session.store.series)
        assert f"{n_series} of {n_series} series" in driver.text()
        assert "small 1.0, second" in driver.text()
        for study in session.studies:
            assert study.patient[:40] in driver.text()
        await driver.search("id_p1")
        assert f"1 of {n_series} series" in driver.text()
        assert "ID_p2" not in driver.text()
        await driver.press("escape")
        assert "ID_p2" in driver.text()
        await driver.search("nobody")
        await driver.press("enter", "enter")
        assert f"0 of {n_series} series" in driver.text()
        await driver.press("escape", *["down"] * 3, "enter")  # after two series of the first patient
        assert "patient ID_p1  series" in driver.text()
        await driver.press("escape", "q")
        assert not driver.app.is_running

    drive(session, script)


def test_what_it_says_is_what_predict_writes(session: Session, made: consoles.Made, tmp_path: Path) -> None:
    words = ["predict", str(made.bundle), str(made.store), "--out", str(tmp_path / "all.csv"), "--split", "train"]
    assert main([*words, "--calibrated", "--device", "cpu"]) == 0
    table = read_labels(tmp_path / "all.csv", ICH)
    of_image = dict(zip(table.image_ids, table.values, strict=True))

    async def script(driver: Driver) -> None:
        await driver.search(consoles.PATIENT)
        await driver.press("enter")
        answer = driver.study.answer
        assert answer is not None
        (span,) = (span for span in session.store.series if span.patient_id == consoles.PATIENT)
        expected = np.array([of_image[image] for image in session.store.index["image_id"][span.rows]])
        np.testing.assert_allclose(answer.slices[span.series_key], expected, rtol=0, atol=SAME)
        text = driver.text()
        assert " ".join(answer.result.sentence.split()) in " ".join(text.split())
        for column, name in enumerate(ICH.slices.names):
            (line,) = (line for line in driver.lines() if f"{column + 1} {name} " in line)
            number, sign, threshold, truth = line.split()[-4:]
            assert float(number) == pytest.approx(expected[:, column].max(), abs=0.005 + SAME)
            at = session.models[0].served.threshold("slices", name)[0]
            assert threshold == f"{at:.2f}"
            assert sign == (">" if expected[:, column].max() >= at else "<")
            assert truth == ("yes" if session.store.labels[span.rows, column].any() else "no")
        place = int(expected[:, ICH.headline_index].argmax())  # where it begins
        assert f"slice {place + 1} of 6" in text
        assert f"any {expected[place, ICH.headline_index]:.2f}" in text

    drive(session, script)


def test_keys(session: Session) -> None:
    async def script(driver: Driver) -> None:
        await driver.search(consoles.PATIENT)
        await driver.press("enter", "home")
        assert "slice 1 of 6  0.0 mm  brain 40 ± 40" in driver.text()
        await driver.press("up")
        assert driver.study.view.place == 0
        await driver.press("down", "right")
        assert "slice 3 of 6  10.0 mm" in driver.text()
        await driver.press("left", "pagedown")
        assert driver.study.view.place == 5
        await driver.press("pageup", "end", "w")
        assert "slice 6 of 6" in driver.text()
        name, (center, width) = list(named_windows(ICH).items())[1]
        assert f"{name} {center:g} ± {width / 2:g}" in driver.text()
        await driver.press("2", "9")
        assert driver.study.view.label == 1
        assert f"{ICH.slices.names[1]} 0." in driver.text().split("slice 6 of 6")[1]
        await driver.press("k")
        assert driver.study.answer is not None
        (probability,) = driver.study.answer.slices.values()
        assert driver.study.view.place == int(probability[:, 1].argmax())
        await driver.press("m")
        assert "second" in driver.lines()[1]
        assert driver.study.answer is session.ask(1, driver.study._study)
        await driver.press("m", "question_mark")
        assert "the heatmap of the model for the label" in driver.text()
        await driver.press("question_mark")
        assert "small 1.0" in driver.lines()[1]
        await driver.press("l")  # of a bundle
        assert "which holds no metrics" in driver.notices()
        await driver.press("m", "l")
        assert f"losses of {session.models[1].path}"[:70] in driver.text().replace("\n", "")
        assert "x train series loss" in driver.text()
        await driver.press("l", "escape", "q")
        assert not driver.app.is_running

    drive(session, script)


def test_cells_are_the_pixels_that_numpy_gives(session: Session) -> None:
    async def script(driver: Driver) -> None:
        from rsna_e2e.terminal.widgets import SliceView

        await driver.search(consoles.PATIENT)
        await driver.press("enter", "3")
        for keys, n_models, size in (((), 0, SIZE), (("h",), 1, SIZE), (("o",), 2, SIZE), ((), 2, (120, 50))):
            await driver.press(*keys, "home", "down")
            await driver.resize(*size)
            study = driver.study
            side = study.query_one(SliceView).side
            assert side == min(size[0] - 46, 2 * study.query_one(SliceView).size.height) // 2 * 2
            (span,) = study._study.spans
            maps = tuple(session.maps(number, span, ("slice", 2)) for number in range(n_models))
            view = View(n_slices=6, place=1, label=2, model=0, window="brain", is_overlay=n_models == 2)
            expected = half_blocks(frame(session, span, view, maps, side=side).picture())
            np.testing.assert_array_equal(driver.pixels(side), expected)
            is_grey = (expected[0] == expected[0][..., :1]).all()
            assert is_grey == (n_models == 0)
            assert ("red: mean of all maps" in driver.text()) == (n_models == 2)
        await driver.press("o")
        assert study._maps == ()

    drive(session, script)


def test_without_colours_a_slice_is_characters(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")

    async def script(driver: Driver) -> None:
        from rsna_e2e.terminal.widgets import SliceView

        await driver.search(consoles.PATIENT)
        await driver.press("enter", "home", "h")
        study = driver.study
        (span,) = study._study.spans
        slice_view = study.query_one(SliceView)
        maps = (session.maps(0, span, ("slice", ICH.headline_index)),)
        expected = frame(session, span, study.view, maps, side=slice_view.side).characters()
        top = slice_view.region.y
        assert [line[: slice_view.side] for line in driver.lines()[top : top + len(expected)]] == expected
        assert set("".join(expected)) & set("56789")

    drive(session, script, has_colours=False)


@pytest.mark.parametrize(
    ("environment", "is_coloured"),
    [({"COLORTERM": "truecolor"}, True), ({"TERM": "xterm-256color"}, True), ({"TERM": "xterm"}, False)],
)
def test_terminals_of_few_colours_get_characters(
    environment: dict[str, str], is_coloured: bool, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("COLORTERM", "TERM", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    async def script(driver: Driver) -> None:
        await driver.search(consoles.PATIENT)
        await driver.press("enter")
        assert ("▀" in driver.text()) == is_coloured

    drive(session, script, has_colours=None)


def test_hostile_ids_are_text(session: Session) -> None:
    async def script(driver: Driver) -> None:
        assert consoles.SHOWN[:40] in driver.text()
        await driver.search("[red]evil")
        assert driver.text().count(consoles.SHOWN) == len(consoles.N_SLICES)
        await driver.press("enter", "down", "enter")
        assert f"patient {consoles.SHOWN}  series" in driver.text()
        assert ", 2 of 2  " in driver.text()
        assert "unknown" in driver.text()
        assert all(line.isprintable() for line in driver.lines())

    drive(session, script)


def test_what_fails_is_said_and_on_it_goes(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise UsageError("no feature maps [here]")

    monkeypatch.setattr("rsna_e2e.serving.maps.activation_maps", fail)
    session.maps.cache_clear()

    async def script(driver: Driver) -> None:
        await driver.search(consoles.PATIENT)
        await driver.press("enter", "1", "h")
        assert "no feature maps [here]" in driver.text()
        assert not driver.study.view.has_map
        await driver.press("home")
        assert "slice 1 of 6" in driver.text()

    drive(session, script)
    assert activation_maps.activation_maps is not fail


def test_without_models_there_are_slices_and_truth(made: consoles.Made) -> None:
    async def script(driver: Driver) -> None:
        await driver.search(consoles.PATIENT)
        await driver.press("enter", "h", "o", "m", "l", "k")
        assert "no model was given: slices and truth alone" in driver.text()
        assert "▀" in driver.text()
        assert "map" not in driver.lines()[-2]
        assert " yes" in driver.text()

    drive(Session(store=Store.open(made.store), task=ICH, models=[]), script)


def test_labels_of_studies_have_no_strip_and_a_map(made: consoles.Made, tmp_path: Path) -> None:
    prepare(made.raw, tmp_path / "store", task=PE, labels="none", n_jobs=1)
    models = [LoadedModel(path=made.run, served=untrained(small.config("task=pe")))]
    session = Session(store=Store.open(tmp_path / "store"), task=PE, models=models)

    async def script(driver: Driver) -> None:
        await driver.search(consoles.PATIENT)
        await driver.press("enter", "2", "h")
        text = driver.text()
        assert all(name[:20] in text for name in (*PE.slices.names, *PE.series.names))
        assert driver.study._maps == (session.maps(0, driver.study._span, ("series", 0)),)
        assert "map" in text.split("slice ")[-2] + text.split("slice ")[-1]

    drive(session, script)


def test_of_very_many_series_the_first_are_listed(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rsna_e2e.terminal.app._MOST_LISTED", 3)

    async def script(driver: Driver) -> None:
        n_series = len(session.store.series)
        assert f"{n_series} of {n_series} series, the first 3 are listed" in driver.text()
        assert "ID_p6" not in driver.text()
        await driver.search("p6")
        assert f" 1 of {n_series} series " in driver.text()
        assert "ID_p6" in driver.text()

    drive(session, script)


def test_an_answer_that_comes_late_is_not_shown(session: Session) -> None:
    async def script(driver: Driver) -> None:
        await driver.search(consoles.PATIENT)
        await driver.press("enter", "2")
        study = driver.study
        before, shown = study.answer, driver.text()
        of_other = replace(study.view, model=1)
        assert before is not None
        study._answered(of_other, session.ask(1, study._study), (), 5)
        study._failed(of_other, "late")
        assert (study.answer, driver.text(), driver.notices()) == (before, shown, "")
        study.action_model()  # until the next model has answered, nothing is said in its name
        assert study.answer is None

    drive(session, script)


def test_keys_may_be_faster_than_models(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """One thread at a time asks, and what nobody waits for any longer is not asked for."""
    inside, most, asked, all_typed = 0, 0, list[int](), threading.Event()

    def slow_maps(model: ServedModel, store: Store, span: SeriesSpan, labels: list[Label]) -> list[ServedMaps]:
        nonlocal inside, most
        inside, most = inside + 1, max(most, inside + 1)
        asked.append(labels[0][1])
        try:
            assert all_typed.wait(PATIENCE_S)
            return served_maps(model, store, span, labels)
        finally:
            inside -= 1

    monkeypatch.setattr("rsna_e2e.terminal.session.served_maps", slow_maps)
    session.maps.cache_clear()

    async def script(driver: Driver) -> None:
        await driver.search(consoles.PATIENT)
        await driver.press("enter")
        await driver.hurry("h", "2", "3", "4", "5", "1", "3")
        all_typed.set()
        await driver.press("home")
        span = driver.study._span
        assert driver.study._maps == (session.maps(0, span, ("slice", 2)),)
        assert (most, asked[-1], len(asked) <= 2) == (1, 2, True)

    drive(session, script)


def test_keys_are_capitals_too(session: Session) -> None:
    async def script(driver: Driver) -> None:
        await driver.search(consoles.PATIENT)
        await driver.press("enter", "H", "W", "M")
        view = driver.study.view
        assert (view.has_map, view.window, view.model) == (True, list(named_windows(ICH))[1], 1)
        await driver.press("L")
        assert "x train series loss" in driver.text()
        await driver.press("L", "home", "K", "O")
        assert driver.study.view.is_overlay
        assert driver.study.view.place == int(
            session.mean_of_slices(driver.study._span, driver.study._study)[:, ICH.headline_index].argmax()
        )
        await driver.press("Q")
        assert not driver.app.is_running

    drive(session, script)


def test_who_has_moved_stays_where_the_answer_comes_late(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """And until it comes the screen says that it is awaited."""
    may_answer, ask = threading.Event(), session.ask

    def slow(number: int, study: Study) -> Answer:
        assert may_answer.wait(PATIENCE_S)
        return ask(number, study)

    monkeypatch.setattr(session, "ask", slow)

    async def script(driver: Driver) -> None:
        await driver.search(consoles.PATIENT)
        (study,) = find(session.studies, consoles.PATIENT)
        best = int(ask(0, study).slices[study.spans[0].series_key][:, ICH.headline_index].argmax())
        await driver.hurry("enter")
        elsewhere = 0 if best else 5
        await driver.hurry("home" if best else "end")
        assert f" predicting ...   slice {elsewhere + 1} of 6" in driver.text()
        may_answer.set()
        await driver.press("w")
        assert driver.study.answer is not None
        assert driver.study.view.place == elsewhere
        assert "predicting" not in driver.text()

    drive(session, script)


@pytest.mark.parametrize("no_color", ["", "1"])
def test_the_verb_on_a_terminal(no_color: str, made: consoles.Made) -> None:
    """One that is made for it, of 80 by 24 cells."""
    terminal, inside = pty.openpty()
    fcntl.ioctl(inside, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    environment = os.environ | {"TERM": "xterm-256color", "COLORTERM": "truecolor", "OMP_NUM_THREADS": "1"}
    environment.pop("NO_COLOR", None)
    console = subprocess.Popen(
        [sys.executable, "-m", "rsna_e2e.cli", "console", str(made.store)],
        stdin=inside, stdout=inside, stderr=inside, env=environment | ({"NO_COLOR": no_color} if no_color else {}),
    )  # fmt: skip
    os.close(inside)
    said, deadline_s = b"", time.monotonic() + PATIENCE_S

    def read_until(is_enough: Callable[[], bool]) -> None:
        """Read all the time: who is not read from waits."""
        nonlocal said
        while not is_enough() and time.monotonic() < deadline_s:
            if select.select([terminal], [], [], 0.1)[0]:
                with suppress(OSError):  # there is nothing to read from who has ended
                    said += os.read(terminal, 1 << 16)

    try:
        read_until(lambda: b"9 of 9 series" in said)
        os.write(terminal, b"\r")
        read_until(lambda: b"slices and truth alone" in said and b"Esc back" in said)
        assert ("▀".encode() in said) == (not no_color)
        os.write(terminal, b"q")
        read_until(lambda: console.poll() is not None)
        assert console.returncode == 0, said.decode(errors="replace")
    finally:
        console.kill()
        console.wait()
        os.close(terminal)


def test_a_bug_ends_the_verb_with_1(made: consoles.Made, monkeypatch: pytest.MonkeyPatch) -> None:
    from rsna_e2e.terminal.app import ConsoleApp

    for stream in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(getattr(sys, stream), "isatty", lambda: True)
    monkeypatch.setattr(ConsoleApp, "run", lambda app: setattr(app, "_return_code", 1))
    with pytest.raises(SystemExit) as end:
        main(["console", str(made.store)])
    assert end.value.code == 1


def test_radiographs(tmp_path: Path) -> None:
    radiographs.write_image(tmp_path / "raw/x.png", radiographs.chest())
    prepare(tmp_path / "raw", tmp_path / "store", task=PNEUMONIA, labels="none", n_jobs=1)
    session = consoles.session_of(small.image_config("task=pneumonia"), tmp_path / "store", n_models=2)

    async def script(driver: Driver) -> None:
        await driver.press("enter", "down", "o")
        assert "slice 1 of 1  " in driver.text()
        assert " mm " not in driver.text()
        assert len(driver.study._maps) == 2

    drive(session, script)
