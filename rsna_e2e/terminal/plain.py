"""The console as a numbered menu of lines: for scripts, pipes and screen readers."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from rsna_e2e.core.console import table
from rsna_e2e.core.errors import BadInputError, RsnaError
from rsna_e2e.core.files import make_folder
from rsna_e2e.evaluation.explain import write_png
from rsna_e2e.serving.result import RESEARCH_ONLY
from rsna_e2e.serving.study_key import study_key
from rsna_e2e.serving.study_page import write_study
from rsna_e2e.terminal.curves import read_curves
from rsna_e2e.terminal.patients import Study, find, matching, short_key
from rsna_e2e.terminal.picture import model_colour
from rsna_e2e.terminal.session import Session
from rsna_e2e.terminal.texts import HEADER, label_rows, truth_word
from rsna_e2e.terminal.view import View, frame

_PICTURES = "console-pictures"  # the folder that is made unless one is named
_SIDE = 512  # of an overlay, in px
_MOST_LISTED = 200

Say = Callable[..., None]  # takes lines


class _EndOfInputError(Exception):
    """There are no more lines."""


class PlainConsole:
    """A menu on lines. lines: what the user types; say: prints lines; out: folder for pictures, made when the first is
    written, by default a new one in the working directory."""

    def __init__(self, session: Session, lines: Iterator[str], say: Say, out: Path | None) -> None:
        self._session, self._lines, self._say, self._out = session, lines, say, out
        n_models = len(session.models)
        self._items: dict[str, tuple[str, Callable[[], None]]] = {
            str(number + 1): (f"predict a patient with {model.title}", self._predictor(number))
            for number, model in enumerate(session.models)
        }
        self._items[str(n_models + 1)] = ("loss curves of a run", self._curves)
        if session.models:
            self._items[str(n_models + 2)] = ("ensemble overlay", self._overlay)
        self._items["p"] = ("list patients", self._patients)

    def run(self) -> None:
        """Ask and answer until q, or until there are no more lines."""
        store, n_series = self._session.store, len(self._session.store.series)
        self._say(
            f"{store.path}: {n_series} series of {len(self._session.studies)} studies, {self._session.task.title}"
        )
        try:
            while (chosen := self._menu()) != "q":
                try:
                    self._items[chosen][1]()
                except RsnaError as error:
                    self._say(str(error))
        except _EndOfInputError:
            self._say("end of input")

    def _menu(self) -> str:
        while True:
            self._say("", RESEARCH_ONLY, *(f"{key}  {title}" for key, (title, _) in self._items.items()), "q  quit")
            chosen = self._asked("choose: ").lower()
            if chosen == "q" or chosen in self._items:
                return chosen
            self._say(f"{chosen[:80]}: is not in the menu")

    def _asked(self, prompt: str) -> str:
        self._say(prompt)
        line = next(self._lines, None)
        if line is None:
            raise _EndOfInputError
        return line.strip()

    def _asked_studies(self) -> list[Study]:
        who = self._asked("patient id, or the beginning of a series key: ")
        return find(self._session.studies, who)

    def _predictor(self, number: int) -> Callable[[], None]:
        def predict() -> None:
            for study in self._asked_studies():
                self._predict(number, study)

        return predict

    def _predict(self, number: int, study: Study) -> None:
        session = self._session
        model, answer = session.models[number].served, session.ask(number, study)
        self._say(self._heading(study), answer.result.sentence)
        self._say(*table(HEADER, label_rows(session, study, answer)).split("\n"))
        folder = self._folder() / f"{answer.result.study}-model{number + 1}"
        make_folder(folder)
        write_study(answer.result, session.store, model, folder)
        self._say(f"pictures and page: {folder}")

    def _heading(self, study: Study) -> str:
        series = ", ".join(f"{short_key(span)} of {span.n_slices} slices" for span in study.spans)
        return f"patient {study.patient}, study {study_key(study.spans[0].study_uid)}, series {series}"

    def _curves(self) -> None:
        models = self._session.models
        named = "".join(f"{number + 1} for {model.title}, or " for number, model in enumerate(models))
        chosen = self._asked(f"{named}the folder of a run: ")
        paths = {str(number): model.path for number, model in enumerate(models, start=1)}
        header, rows = read_curves(paths.get(chosen, Path(chosen))).rows()
        self._say(*table(header, rows).split("\n"))

    def _overlay(self) -> None:
        session = self._session
        headline = session.task.headline_index
        label, name = session.labels[headline]
        for study in self._asked_studies():
            span, place = session.key_slice(study)
            view = replace(View.first(session, span).at(place), is_overlay=True)
            maps = tuple(session.maps(number, span, label) for number in view.mapped_by(len(session.models)))
            study_name = study_key(study.spans[0].study_uid)
            path = self._folder() / f"{study_name}-overlay-{name}-{short_key(span)}-{place:04d}.png"
            write_png(path, frame(session, span, view, maps, side=_SIDE).picture())
            self._say(self._heading(study), f"{name} in slice {place + 1} of {span.n_slices}, series {short_key(span)}")
            for number, model in enumerate(session.models):
                probability = session.ask(number, study).slices[span.series_key][place, headline]
                self._say(f"{model_colour(number)[0]}: {model.title}, probability {probability:.4f}")
            truth = float(session.truth_of_slices(span)[place, headline])
            self._say(f"red: the mean of their maps; truth: {truth_word(truth)}", f"picture: {path}")

    def _patients(self) -> None:
        text = self._asked("part of a patient id, or nothing for all: ")
        found = matching(self._session.studies, text)
        rows = [(study.patient, short_key(span), str(span.n_slices)) for study, span in found[:_MOST_LISTED]]
        self._say(*table(("patient", "series", "slices"), rows).split("\n"))
        if len(found) > _MOST_LISTED:
            self._say(f"and {len(found) - _MOST_LISTED} more series. Give a part of the id")

    def _folder(self) -> Path:
        """Return the folder for pictures, which is there from then on."""
        if self._out is None:
            names = (f"{_PICTURES}-{number}" if number > 1 else _PICTURES for number in range(1, 1000))
            self._out = next((Path(name) for name in names if not Path(name).exists()), None)
            if self._out is None:
                raise BadInputError(f"{_PICTURES}-2 to -999: are there already. Choose a folder with --out")
        make_folder(self._out)
        return self._out
