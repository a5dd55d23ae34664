"""The verb that measures speed: bench, one table of benchmarks and their options."""

import argparse
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from rsna_e2e.cli.arguments import add_device, add_settings, at_least_one
from rsna_e2e.cli.signals import ends_at_signals
from rsna_e2e.cli.verbs import Verbs, add_verb, tell

AddOption: TypeAlias = Callable[[argparse.ArgumentParser], object]

STORE_HELP = "a store made by prepare (default: a small simulated one, made for this)"


class Mode(NamedTuple):
    """A benchmark: `bench NAME` calls `bench_NAME` of the module `rsna_e2e.tools.bench.NAME` with its options."""

    name: str
    help: str
    options: tuple[AddOption, ...]


def add_bench(verbs: Verbs) -> None:
    """Add `rsna-e2e bench`."""
    verb = add_verb(
        verbs,
        "bench",
        _bench,
        "Measure speed: the fused operator compared with other libraries, the loader, training, embeddings, prepare, "
        "a service.",
        "rsna-e2e bench transform",
        "rsna-e2e bench loader store --recipe demo",
        "rsna-e2e bench train store --out train.json",
        "rsna-e2e bench embed store --recipe demo",
        "rsna-e2e bench serve model.rsna",
        "rsna-e2e bench prepare --folder /dev/shm --memory-slices",
    )
    modes = verb.add_subparsers(dest="mode", metavar="|".join(mode.name for mode in MODES), required=True)
    for mode in MODES:
        parser = modes.add_parser(mode.name, help=mode.help)
        for add in mode.options:
            add(parser)


def _bench(options: argparse.Namespace) -> None:
    from rsna_e2e.core.console import progress_bar

    arguments = {name: value for name, value in vars(options).items() if name not in ("verb", "run", "mode")}
    measure = getattr(import_module(f"rsna_e2e.tools.bench.{options.mode}"), f"bench_{options.mode}")
    with ends_at_signals(), progress_bar(f"bench {options.mode}", unit="rounds") as progress:
        result = measure(**arguments, progress=progress)
    tell(*str(result).splitlines())
    if options.out is not None:
        tell(f"figures: {options.out}")


def _option(name: str, **how: Any) -> AddOption:
    return lambda parser: parser.add_argument(name, **how)


def _folder(what: str) -> AddOption:
    return _option("--folder", type=Path, help=f"where to put {what} (default: the temporary folder)")


def _slices(default: int, what: str) -> AddOption:
    return _option(
        "--slices", dest="n_slices", metavar="SLICES", type=at_least_one, default=default,
        help=f"{what} (default {default})",
    )  # fmt: skip


def _rounds(default: int) -> AddOption:
    return _option("--rounds", type=at_least_one, default=default, help=f"turns of each contestant (default {default})")


STORE = _option("store", type=Path, nargs="?", metavar="STORE", help=STORE_HELP)
OUT = _option("--out", type=Path, metavar="FILE.json", help="also write the figures as JSON")

MODES = (
    Mode(
        "transform",
        "the operator and other libraries doing the same work, on one core",
        (
            _option("--store", type=Path, help=STORE_HELP),
            _slices(16, "different slices"),
            _option("--size", type=at_least_one, default=480, help="side of the images, pixels (default 480)"),
            _option(
                "--keep-freed",
                dest="keeps_freed",
                action="store_true",
                help="tell the C library to keep freed memory, which helps the other libraries",
            ),
            _rounds(7),
            OUT,
            add_device,
        ),
    ),
    Mode(
        "loader",
        "the loader alone, compared with the operator alone on the same slices",
        (STORE, _slices(2048, "slices in a pass, at least"), add_settings, _rounds(5), OUT, add_device),
    ),
    Mode(
        "train",
        "training on batches in memory, the loader alone, and both together",
        (
            STORE,
            _option("--steps", type=at_least_one, default=8, help="steps in a turn, at least (default 8)"),
            add_settings,
            _rounds(5),
            OUT,
            add_device,
        ),
    ),
    Mode(
        "chunked",
        "exact gradients in chunks: memory by length of the series, time, share of the device's peak",
        (
            _option(
                "--slices",
                type=at_least_one,
                nargs="+",
                metavar="N",
                default=[30, 60, 120, 250, 400],
                help="lengths of the series whose memory is measured (default 30 60 120 250 400)",
            ),
            _option(
                "--timed-slices",
                type=at_least_one,
                default=60,
                help="length of the series that is timed (default 60)",
            ),
            add_settings,
            _rounds(5),
            OUT,
            add_device,
        ),
    ),
    Mode(
        "embed",
        "storing embeddings, compared with the backbone alone; memory by number of slices",
        (STORE, _slices(2048, "slices in a turn, at least"), add_settings, _rounds(5), OUT, add_device),
    ),
    Mode(
        "prepare",
        "DICOM files to a verified store, compared with a plain write of the same bytes; memory",
        (
            _folder("files and store"),
            _slices(2000, "slices in a turn"),
            _option(
                "--memory-slices",
                type=at_least_one,
                nargs="*",
                metavar="N",
                default=[1000, 20000],
                help="numbers of slices whose memory is measured, 1 MiB of disk each (default 1000 20000)",
            ),
            _rounds(5),
            OUT,
        ),
    ),
    Mode(
        "serve",
        "a service: seconds from a study to its result and pictures, several clients at once, memory",
        (
            _option(
                "model",
                type=Path,
                nargs="?",
                metavar="FILE.rsna",
                help="a bundle by export (default: the demo recipe's network without training)",
            ),
            _slices(40, "slices of a study"),
            _option(
                "--studies",
                dest="n_studies",
                type=at_least_one,
                default=30,
                metavar="N",
                help="studies that are sent one after the other (default 30)",
            ),
            _option(
                "--clients",
                dest="n_clients",
                type=at_least_one,
                default=8,
                metavar="N",
                help="clients at once afterwards (default 8)",
            ),
            _option("--seconds", type=at_least_one, default=60, help="for so long (default 60)"),
            _option(
                "--workers",
                dest="n_workers",
                type=at_least_one,
                default=1,
                metavar="N",
                help="processes that predict (default 1)",
            ),
            OUT,
            add_device,
        ),
    ),
    Mode(
        "packing",
        "what prepare --compress saves on disk, and costs in writing and reading",
        (STORE, _folder("shards"), _slices(256, "slices in a turn, at most"), _rounds(7), OUT),
    ),
)
