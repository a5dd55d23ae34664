"""The console on a whole terminal: a list of patients, and screens of what is chosen there."""

from typing import ClassVar

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import Screen
from textual.widgets import Input, OptionList, Static

from rsna_e2e.core.records import printable
from rsna_e2e.store import SeriesSpan
from rsna_e2e.terminal.pages import HelpScreen
from rsna_e2e.terminal.patients import Study, matching, short_key
from rsna_e2e.terminal.session import Session
from rsna_e2e.terminal.study_screen import StudyScreen
from rsna_e2e.terminal.texts import truth_word
from rsna_e2e.terminal.widgets import Banner

_KEYS = " ↑↓ choose  Enter open  / search  ? help  Q quit"
_ID_WIDTH = 40
_MOST_LISTED = 1000  # series; more would slow down every letter of the search


class PatientsScreen(Screen[None]):
    """All series of the store, and a search among them."""

    CSS = """
    #what, #found, #keys { height: 1; }
    #keys { dock: bottom; background: $panel; }
    Input { height: 3; }
    OptionList { height: 1fr; border: none; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "search", show=False),
        Binding("escape", "leave_search", show=False),
    ]

    def __init__(self, session: Session, *, has_colours: bool) -> None:
        super().__init__()
        self._session, self._has_colours = session, has_colours
        self._shown: list[tuple[Study, SeriesSpan]] = []

    def compose(self) -> ComposeResult:
        """Lay out the list."""
        models = ", ".join(model.title for model in self._session.models) or "no model"
        yield Banner()
        yield Static(f" {printable(str(self._session.store.path))}  {models}", id="what", markup=False)
        yield Input(placeholder="search: part of a patient id, or the beginning of a series key")
        yield OptionList(markup=False)
        yield Static(id="found", markup=False)
        yield Static(_KEYS, id="keys", markup=False)

    def on_mount(self) -> None:
        """List everybody."""
        self._list("")
        self.query_one(OptionList).focus()

    def _list(self, text: str) -> None:
        session, options = self._session, self.query_one(OptionList)
        found = matching(session.studies, text)
        self._shown = found[:_MOST_LISTED]
        options.clear_options()
        options.add_options(self._row(study, span) for study, span in self._shown)
        options.highlighted = 0 if self._shown else None
        n_series = len(session.store.series)
        rest = f", the first {_MOST_LISTED} are listed" if len(found) > _MOST_LISTED else ""
        self.query_one("#found", Static).update(f" {len(found)} of {n_series} series{rest}")

    def _row(self, study: Study, span: SeriesSpan) -> Text:
        (label, name), truth = self._session.labels[self._session.task.headline_index], ""
        if span.split == "train":
            truth = f"  {name} {truth_word(self._session.truth(study, label))}"
        row = f"{study.patient[:_ID_WIDTH]:<{_ID_WIDTH}} {short_key(span)} {span.n_slices:>5} slices{truth}"
        return Text(row, no_wrap=True)

    def on_input_changed(self, event: Input.Changed) -> None:
        """List whom the text fits."""
        self._list(event.value)

    def on_input_submitted(self) -> None:
        """Go from the search to what was found; where it is one series, open it."""
        self.query_one(OptionList).focus()
        if len(self._shown) == 1:
            self._open(0)

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """Open a series."""
        self._open(event.option_index)

    def _open(self, number: int) -> None:
        study, span = self._shown[number]
        self.app.push_screen(StudyScreen(self._session, study, span, has_colours=self._has_colours))

    def action_search(self) -> None:
        """Type what to search for."""
        self.query_one(Input).focus()

    def action_leave_search(self) -> None:
        """List everybody again."""
        self.query_one(Input).value = ""
        self.query_one(OptionList).focus()


class ConsoleApp(App[None]):
    """The console. has_colours: whether slices are drawn in colours, and not in characters; by default where the
    terminal has at least 256 of them."""

    ENABLE_COMMAND_PALETTE = False
    TITLE = "rsna-e2e console"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q,Q", "quit", show=False),
        Binding("question_mark", "help", show=False),
    ]

    def __init__(self, session: Session, *, has_colours: bool | None = None) -> None:
        super().__init__()
        of_terminal = self.console.color_system in ("256", "truecolor")
        self._session, self._has_colours = session, of_terminal if has_colours is None else has_colours

    def on_mount(self) -> None:
        """Begin with the list of patients."""
        self.push_screen(PatientsScreen(self._session, has_colours=self._has_colours))

    def action_help(self) -> None:
        """Show what the keys do."""
        self.push_screen(HelpScreen())
