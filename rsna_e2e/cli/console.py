"""The verb that shows patients and what models say of them in a terminal: console."""

import argparse
import io
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from rsna_e2e.cli.arguments import add_device
from rsna_e2e.cli.signals import ends_at_signals
from rsna_e2e.cli.verbs import Verbs, add_verb, need, task_of_store, tell
from rsna_e2e.core.errors import UsageError

if TYPE_CHECKING:
    from rsna_e2e.store import Store
    from rsna_e2e.terminal.session import LoadedModel, Session

_LIBRARIES = ("textual", "plotext")


def add_console(verbs: Verbs) -> None:
    """Add `rsna-e2e console`."""
    verb = add_verb(
        verbs,
        "console",
        _console,
        "Look at patients in a terminal: slices, what models say of them with heatmaps, truth, loss curves, and all "
        "models over one slice.",
        "rsna-e2e console store --model model.rsna",
        "rsna-e2e console study.zip --model model.rsna runs/first     # DICOM files, two models",
        "rsna-e2e console store --model model.rsna --plain --out pictures   # a menu of lines, for scripts",
    )
    verb.add_argument(
        "data", type=Path, metavar="STORE|DICOM", help="a store, or a folder or zip archive of DICOM files or X-rays"
    )
    verb.add_argument(
        "--model",
        type=Path,
        nargs="+",
        action="extend",
        default=[],
        metavar="MODEL",
        help="bundles made by export, or folders of runs, all for the same labels",
    )
    verb.add_argument(
        "--plain",
        action="store_true",
        help="a numbered menu of lines; so it is too where input or output is no terminal",
    )
    verb.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="folder for the pictures of --plain (default: a new one called console-pictures)",
    )
    add_device(verb)


def _console(options: argparse.Namespace) -> None:
    from rsna_e2e.serving.model import ServedModel
    from rsna_e2e.terminal.session import LoadedModel, Session

    streams: tuple[TextIO | None, ...] = (sys.stdin, sys.stdout, sys.stderr)  # None: closed by who started this
    is_plain = options.plain or not all(stream is not None and stream.isatty() for stream in streams)
    _check(options, is_plain=is_plain)
    with ends_at_signals():
        models = [
            LoadedModel(path=path, served=ServedModel.open(path, device=options.device)) for path in options.model
        ]
        for model in models:
            if model.served.finds_boxes:
                raise UsageError(f"{model.path}: finds boxes, which are not shown here. For boxes: rsna-e2e process")
        with _opened(options.data, models) as store:
            task = models[0].served.task if models else task_of_store(None, store)
            session = Session(store=store, task=task, models=models)
            if is_plain:
                from rsna_e2e.terminal.plain import PlainConsole

                PlainConsole(session, _lines(), tell, options.out).run()
            else:
                _run_app(session)


def _run_app(session: "Session") -> None:
    from rsna_e2e.terminal.app import ConsoleApp

    app = ConsoleApp(session, has_colours=False if os.environ.get("NO_COLOR") else None)
    app.run()
    if app.return_code:  # it has shown what went wrong
        sys.exit(app.return_code)


def _check(options: argparse.Namespace, *, is_plain: bool) -> None:
    """Raise what is wrong with the command before any work."""
    from rsna_e2e.evaluation.explain import check_new

    if not is_plain:
        if options.out is not None:
            raise UsageError("--out: is of --plain, which writes pictures. Leave it out")
        need(_LIBRARIES, extra="console", instead=", or use --plain")
    elif options.out is not None:
        check_new(options.out)


@contextmanager
def _opened(data: Path, models: "Sequence[LoadedModel]") -> "Iterator[Store]":
    """Yield the store, or a temporary one of DICOM files."""
    from rsna_e2e.core.console import progress_bar
    from rsna_e2e.inference.predict_dicom import temporary_store
    from rsna_e2e.store import Store
    from rsna_e2e.store.reader import is_store

    task = models[0].served.task if models else None
    if is_store(data):
        with closing(Store.open(data, task.name if task else None)) as store:
            yield store
    elif task is None and data.exists():
        raise UsageError(f"{data}: is no store, and what is read of other files depends on the model. Give --model")
    elif task is None:
        raise UsageError(f"{data}: is not there. Give a store made by prepare, or DICOM files and --model")
    else:
        with ExitStack() as until_the_end:
            with progress_bar("console", unit="files") as progress:  # which ends before anything else is shown
                store = until_the_end.enter_context(temporary_store(data, task, n_jobs=None, progress=progress))
            yield store


def _lines() -> Iterator[str]:
    """Return what is typed, with bytes that are no UTF-8 escaped; nothing where stdin is closed."""
    typed: TextIO | None = sys.stdin
    if isinstance(typed, io.TextIOWrapper):
        typed.reconfigure(errors="backslashreplace")
    return iter(() if typed is None else typed)
