"""The program: parses, runs a verb, turns errors into one line and an exit code."""

import argparse
import os
import select
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rsna_e2e import __version__
from rsna_e2e.cli.baselines import add_baseline
from rsna_e2e.cli.bench import add_bench
from rsna_e2e.cli.boxes import add_gate
from rsna_e2e.cli.calibration import add_calibrate
from rsna_e2e.cli.comparison import add_compare
from rsna_e2e.cli.console import add_console
from rsna_e2e.cli.data import add_prepare
from rsna_e2e.cli.embeddings import add_embed, add_import_embeddings
from rsna_e2e.cli.explanations import add_explain
from rsna_e2e.cli.inspection import add_inspect, add_quirks
from rsna_e2e.cli.pipelines import add_bag, add_merge, add_pipeline, add_smooth
from rsna_e2e.cli.predictions import add_predict
from rsna_e2e.cli.results import add_evaluate
from rsna_e2e.cli.service import add_serve
from rsna_e2e.cli.service_admin import add_serve_admin
from rsna_e2e.cli.serving import add_export, add_process
from rsna_e2e.cli.settings import add_settings_list
from rsna_e2e.cli.shards import add_export_shards
from rsna_e2e.cli.stores import add_label, add_store
from rsna_e2e.cli.studies import add_study
from rsna_e2e.cli.summaries import add_summary
from rsna_e2e.cli.suspects import add_suspects
from rsna_e2e.cli.synth import add_synth
from rsna_e2e.cli.tasks import add_tasks
from rsna_e2e.cli.training import add_find_lr, add_train
from rsna_e2e.cli.verbs import Parser, one_line_warnings, tell
from rsna_e2e.cli.weights import add_import_weights
from rsna_e2e.core.errors import BadInputError, OutOfResourcesError, RsnaError, UsageError, is_out_of_memory
from rsna_e2e.core.files import FULL, is_full
from rsna_e2e.training.launch import for_libraries

VERBS = (
    add_synth,
    add_prepare,
    add_label,
    add_store,
    add_export_shards,
    add_inspect,
    add_quirks,
    add_settings_list,
    add_tasks,
    add_summary,
    add_import_weights,
    add_find_lr,
    add_train,
    add_embed,
    add_import_embeddings,
    add_predict,
    add_calibrate,
    add_bag,
    add_merge,
    add_smooth,
    add_baseline,
    add_gate,
    add_evaluate,
    add_explain,
    add_export,
    add_process,
    add_serve,
    add_serve_admin,
    add_console,
    add_compare,
    add_suspects,
    add_pipeline,
    add_study,
    add_bench,
)
_OUTPUT = 1  # descriptor
RESEARCH_USE = "For research use only. Not a medical device; not for diagnosis."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb and return its exit code: 0 done, 2 usage, 3 bad input, 4 missing capability, 5 out of disk or
    memory, 6 diverged, 130 interrupted, 141 the reader of the output is gone."""
    os.environ.update(for_libraries(os.environ))  # before they are imported
    parsed = _parser().parse_args(arguments)
    run: Callable[[argparse.Namespace], None] = parsed.run
    try:
        _check_names(parsed)
        with one_line_warnings():
            run(parsed)
        sys.stdout.flush()
    except RsnaError as error:
        tell(f"rsna-e2e {parsed.verb}: {error}", to=sys.stderr)
        return error.exit_code
    except OSError as error:  # a file or folder that the system does not let us use
        if isinstance(error, BrokenPipeError) and _is_reader_gone():  # as after `| head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), _OUTPUT)  # or Python complains when it ends
            return 128 + signal.SIGPIPE  # what shells make of it
        what = FULL if is_full(error) else error.strerror or str(error)
        tell(f"rsna-e2e {parsed.verb}: {error.filename or 'input or output'}: {what}", to=sys.stderr)
        return (OutOfResourcesError if is_full(error) else BadInputError).exit_code
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        hint = "Smaller images, a smaller model or fewer slices at a time need less"
        tell(f"rsna-e2e {parsed.verb}: memory ran out. {hint}", to=sys.stderr)
        return OutOfResourcesError.exit_code
    except KeyboardInterrupt:
        tell(f"rsna-e2e {parsed.verb}: interrupted", to=sys.stderr)
        return 130
    return 0


def _is_reader_gone() -> bool:
    """Whether the reader of stdout is gone, and not that of another pipe, to a process of ours. Source: poll(2)."""
    output = select.poll()
    output.register(_OUTPUT, 0)
    return any(event & select.POLLERR for _, event in output.poll(0))


def _check_names(options: argparse.Namespace) -> None:
    """Parquet and TensorBoard cannot write to a path that is not UTF-8; say so before any work."""
    for value in vars(options).values():
        if isinstance(value, Path) and str(value) != str(value).encode(errors="replace").decode():
            raise UsageError(
                f"{str(value).encode(errors='replace').decode()}: not a UTF-8 name. Rename it or choose another"
            )


def _parser() -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = Parser(
        prog="rsna-e2e",
        description="Train a CNN and a recurrent head jointly over whole CT series.",
        epilog=f"example: rsna-e2e synth raw --studies 40 && rsna-e2e prepare raw store\n\n{RESEARCH_USE}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"rsna-e2e {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for add in VERBS:
        add(verbs)
    return parser
