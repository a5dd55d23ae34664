"""The screen of one series: its slices, and what models say of them."""

from dataclasses import replace
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.screen import Screen
from textual.widgets import Static
from textual.worker import Worker, get_current_worker

from rsna_e2e.core.errors import RsnaError
from rsna_e2e.core.records import Float64Array
from rsna_e2e.serving.maps import ServedMaps
from rsna_e2e.store import SeriesSpan
from rsna_e2e.tasks.windows import named_windows
from rsna_e2e.terminal.pages import CurvesScreen
from rsna_e2e.terminal.patients import Study, short_key
from rsna_e2e.terminal.picture import model_colour
from rsna_e2e.terminal.session import Answer, Session
from rsna_e2e.terminal.texts import LABELS_HEADER, N_KEYS, label_lines
from rsna_e2e.terminal.view import Frame, View, best_place, frame
from rsna_e2e.terminal.widgets import Banner, SliceView, labels_text

# N slices of the series, L labels of slices

_LEAP = 10  # slices, by page keys
_KEYS = " ↑↓ slice 1-9 label H map W window M model O overlay L loss Esc back ? help Q"


class StudyScreen(Screen[None]):
    """A series of a study: a slice, the labels along the series, and the sentence of a model."""

    CSS = """
    #who, #status, #keys { height: 1; }
    #who { text-style: bold; }
    #keys { dock: bottom; background: $panel; }
    #sentence { height: auto; padding: 0 1; }
    Horizontal { height: 1fr; min-height: 8; }
    SliceView { width: 1fr; height: 100%; }
    #labels { width: 46; height: 100%; padding-left: 1; }
    #labels Static { width: 100%; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,left", "move(-1)", "previous slice", show=False),
        Binding("down,right", "move(1)", "next slice", show=False),
        Binding("pageup", f"move(-{_LEAP})", show=False),
        Binding("pagedown", f"move({_LEAP})", show=False),
        Binding("home", "go(0)", show=False),
        Binding("end", "go(-1)", show=False),
        *(Binding(str(number), f"label({number - 1})", show=False) for number in range(1, N_KEYS + 1)),
        Binding("k,K", "best", show=False),
        Binding("h,H", "map", show=False),
        Binding("w,W", "window", show=False),
        Binding("m,M", "model", show=False),
        Binding("o,O", "overlay", show=False),
        Binding("l,L", "curves", show=False),
        Binding("escape", "app.pop_screen", show=False),
    ]

    def __init__(self, session: Session, study: Study, span: SeriesSpan, *, has_colours: bool) -> None:
        super().__init__()
        self._session, self._study, self._span = session, study, span
        self._has_colours = has_colours
        self.view = View.first(session, span)
        self.answer: Answer | None = None
        self._maps: tuple[ServedMaps, ...] = ()
        self._is_predicting = False

    def compose(self) -> ComposeResult:
        """Lay out the screen for 80 by 24 cells and more."""
        yield Banner()
        yield Static(id="who", markup=False)
        yield Static(id="sentence", markup=False)
        with Horizontal():
            yield SliceView(self._frame, has_colours=self._has_colours)
            with VerticalScroll(id="labels", can_focus=False):
                yield Static(id="lines", markup=False)
        yield Static(id="status", markup=False)
        yield Static(_KEYS, id="keys", markup=False)

    def on_mount(self) -> None:
        """Show the slice, and ask the model."""
        self._show()
        self._ask(is_leaping=True)

    def _ask(self, *, is_leaping: bool = False) -> None:
        """Have the model asked, and the maps made that the view shows, by a thread; is_leaping: and then go to the
        slice that speaks most for the label."""
        if self._session.models:
            self._is_predicting = True
            self.query_one("#status", Static).update(self._status())
            self.run_worker(lambda: self._work(self.view, is_leaping=is_leaping), thread=True, exclusive=True)

    def _work(self, view: View, *, is_leaping: bool) -> None:
        """In a thread: ask, and report. A thread that was cancelled stops before the next model, and says nothing."""
        worker, label = get_current_worker(), view.label_of(self._session)
        try:
            with self._session.asking:
                said = self._said(view, worker, is_leaping=is_leaping)
        except RsnaError as error:
            if not worker.is_cancelled:
                self.app.call_from_thread(self._failed, view, str(error))
            return
        if said is not None and not worker.is_cancelled:
            answer, maps, probability_NL = said
            place = best_place(probability_NL, label, self._session.task.headline_index) if is_leaping else None
            self.app.call_from_thread(self._answered, view, answer, maps, place)

    def _said(
        self, view: View, worker: Worker[None], *, is_leaping: bool
    ) -> tuple[Answer, tuple[ServedMaps, ...], Float64Array] | None:
        """Return answer, maps and the probabilities [N, L] to leap by; None where the worker was cancelled meanwhile.

        A model that is asked once more for the mean answers from what is kept.
        """
        session, mapping = self._session, view.mapped_by(len(self._session.models))
        is_of_all = view.is_overlay and is_leaping
        for number in range(len(session.models)) if is_of_all else (view.model,):
            if worker.is_cancelled:
                return None
            session.ask(number, self._study)
        maps = []
        for number in mapping:
            if worker.is_cancelled:
                return None
            maps.append(session.maps(number, self._span, view.label_of(session)))
        answer = session.ask(view.model, self._study)
        of_answer = answer.slices[self._span.series_key]
        return answer, tuple(maps), session.mean_of_slices(self._span, self._study) if is_of_all else of_answer

    def _is_late(self, view: View) -> bool:
        """Whether something else was asked meanwhile, or nobody looks any longer."""
        return view.question != self.view.question or not self.is_attached

    def _failed(self, view: View, message: str) -> None:
        """Say what went wrong, and show no map."""
        if not self._is_late(view):
            self.view, self._maps = replace(self.view, has_map=False, is_overlay=False), ()
            self._is_predicting = False
            self.notify(message, severity="error", markup=False)
            self._show()

    def _answered(self, view: View, answer: Answer, maps: tuple[ServedMaps, ...], place: int | None) -> None:
        """Show what was said, and go to the place, unless the user has gone elsewhere meanwhile."""
        if not self._is_late(view):
            self.answer, self._maps, self._is_predicting = answer, maps, False
            if place is not None and self.view.place == view.place:
                self.view = self.view.at(place)
            self._show()

    def _frame(self, side: int) -> Frame | None:
        try:
            return frame(self._session, self._span, self.view, self._maps, side=side)
        except RsnaError as error:
            self.notify(str(error), severity="error", markup=False)
            return None

    def _show(self) -> None:
        """Show the view as it is now."""
        session, view = self._session, self.view
        number = self._study.spans.index(self._span) + 1
        title = session.models[view.model].title if session.models else "no model"
        self.query_one("#who", Static).update(
            f" patient {self._study.patient}  series {short_key(self._span)}, {number} of {len(self._study.spans)}  "
            f"{title}"
        )
        self.query_one("#sentence", Static).update(self._sentence())
        lines = self.query_one("#lines", Static)
        width = max(lines.size.width - 2, 1)
        shown = label_lines(session, self._study, self._span, self.answer, view, width=width)
        lines.update(labels_text(shown, header=LABELS_HEADER, has_colours=self._has_colours))
        self.query_one("#status", Static).update(self._status())
        self.query_one(SliceView).redraw()

    def on_resize(self) -> None:
        """Strips are as wide as there is room."""
        self.call_after_refresh(self._show)

    def _sentence(self) -> Text:
        if self.view.is_overlay:
            text = Text("red: mean of all maps; outlines: ")
            for number, model in enumerate(self._session.models):
                red, green, blue = model_colour(number)[1]
                text.append(f"{model.title} ({model_colour(number)[0]})  ", style=f"rgb({red},{green},{blue})")
            return text
        if self.answer is None:
            return Text("" if self._session.models else "no model was given: slices and truth alone")
        return Text(self.answer.result.sentence)

    def _status(self) -> str:
        session, view = self._session, self.view
        center, width = named_windows(session.task)[view.window]
        parts = [" predicting ..."] if self._is_predicting else []
        parts += [f" slice {view.place + 1} of {view.n_slices}"]
        if session.store.geometry == "patient":
            parts.append(f"{session.store.index['position_mm'][self._span.first_row + view.place]:.1f} mm")
        parts.append(f"{view.window} {center:g} ± {width / 2:g}")
        (level, index), name = session.labels[view.label]
        if self.answer is not None and level == "slice":
            parts.append(f"{name} {self.answer.slices[self._span.series_key][view.place, index]:.2f}")
        if self._maps:
            parts.append("map")
        return "  ".join(parts)

    def _change(self, view: View) -> None:
        """Show another view of what is known."""
        self.view = view
        self._show()

    def _ask_about(self, view: View, *, is_leaping: bool = False) -> None:
        """Show a view of another model, label or map."""
        self._maps = ()
        self._change(view)
        self._ask(is_leaping=is_leaping)

    def action_move(self, n_slices: int) -> None:
        """Go up or down by slices."""
        self._change(self.view.at(self.view.place + n_slices))

    def action_go(self, place: int) -> None:
        """Go to the first slice, or to the last: -1."""
        self._change(self.view.at(place % self.view.n_slices))

    def action_best(self) -> None:
        """Go to the slice that speaks most for the label."""
        self._ask(is_leaping=True)

    def action_label(self, number: int) -> None:
        """Look at another label."""
        self._ask_about(self.view.of_label(number, len(self._session.labels)))

    def action_map(self) -> None:
        """Show the heatmap of the model, or no longer."""
        if self._session.models:
            self._ask_about(replace(self.view, has_map=not self.view.has_map, is_overlay=False))

    def action_window(self) -> None:
        """Show the next window of the task."""
        self._change(self.view.next_window(self._session))

    def action_model(self) -> None:
        """Ask the next model; what the one before said is not its answer."""
        self.answer = None
        self._ask_about(self.view.next_model(len(self._session.models)))

    def action_overlay(self) -> None:
        """Show the maps of all models over the slice that speaks most for the label in their mean, or no longer."""
        if self._session.models:
            is_overlay = not self.view.is_overlay
            self._ask_about(replace(self.view, is_overlay=is_overlay, has_map=False), is_leaping=is_overlay)

    def action_curves(self) -> None:
        """Show the loss curves of the run."""
        if self._session.models:
            path = self._session.models[self.view.model].path
            try:
                self.app.push_screen(CurvesScreen(path, has_colours=self._has_colours))
            except RsnaError as error:
                self.notify(str(error), severity="error", markup=False)
