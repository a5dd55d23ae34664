"""The command line of `rsna-e2e bench`; what measures is imported when it is needed, so that --help is quick."""

import argparse
from pathlib import Path

from rsna_e2e.cli.arguments import add_device, add_settings, at_least_one
from rsna_e2e.core.records import Progress

STORE_HELP = "a store made by prepare (default: a small one, simulated for the occasion)"


def add_modes(verb: argparse.ArgumentParser) -> None:
    """Add the benchmarks; each sets `measure`, which takes the options and a `Progress` and returns a result."""
    modes = verb.add_subparsers(
        dest="mode", metavar="transform|loader|train|chunked|embed|prepare|packing", required=True
    )
    transform = modes.add_parser("transform", help="the operator beside its peers at the same job, on one core")
    transform.add_argument("--store", type=Path, help=STORE_HELP)
    transform.add_argument("--slices", type=at_least_one, default=16, help="different slices (default 16)")
    transform.add_argument("--size", type=at_least_one, default=480, help="side of the images, pixels (default 480)")
    transform.add_argument(
        "--keep-freed", action="store_true", help="tell the C library to keep freed memory, which serves the peers"
    )
    _add_common(transform, rounds=7)
    transform.set_defaults(measure=_transform)

    loader = modes.add_parser("loader", help="the loader alone, beside the bare operator on the same slices")
    loader.add_argument("store", type=Path, nargs="?", metavar="STORE", help=STORE_HELP)
    loader.add_argument("--slices", type=at_least_one, default=2048, help="slices in a pass, at least (default 2048)")
    add_settings(loader)
    _add_common(loader, rounds=5)
    loader.set_defaults(measure=_loader)

    train = modes.add_parser("train", help="training on data that lies ready, the loader alone, and both together")
    train.add_argument("store", type=Path, nargs="?", metavar="STORE", help=STORE_HELP)
    train.add_argument("--steps", type=at_least_one, default=8, help="steps in a turn, at least (default 8)")
    add_settings(train)
    _add_common(train, rounds=5)
    train.set_defaults(measure=_train)

    chunked = modes.add_parser(
        "chunked", help="exact gradients in chunks: memory by length of a series, time, share of peak"
    )
    chunked.add_argument(
        "--slices",
        type=at_least_one,
        nargs="+",
        metavar="N",
        default=[30, 60, 120, 250, 400],
        help="lengths of the series whose memory is measured (default 30 60 120 250 400)",
    )
    chunked.add_argument(
        "--timed-slices", type=at_least_one, default=60, help="length of the series that is timed (default 60)"
    )
    add_settings(chunked)
    _add_common(chunked, rounds=5)
    chunked.set_defaults(measure=_chunked)

    embed = modes.add_parser("embed", help="storing embeddings, beside the bare backbone; memory by number of slices")
    embed.add_argument("store", type=Path, nargs="?", metavar="STORE", help=STORE_HELP)
    embed.add_argument("--slices", type=at_least_one, default=2048, help="slices in a turn, at least (default 2048)")
    add_settings(embed)
    _add_common(embed, rounds=5)
    embed.set_defaults(measure=_embed)

    prepare = modes.add_parser("prepare", help="DICOM files to a verified store, beside a plain write; memory")
    prepare.add_argument("--folder", type=Path, help="where to put files and store (default: the temporary folder)")
    prepare.add_argument("--slices", type=at_least_one, default=2000, help="slices in a turn (default 2000)")
    prepare.add_argument(
        "--memory-slices",
        type=at_least_one,
        nargs="*",
        metavar="N",
        default=[1000, 20000],
        help="numbers of slices whose memory is measured, 1 MiB of disk each (default 1000 20000)",
    )
    _add_timing(prepare, rounds=5)
    prepare.set_defaults(measure=_prepare)

    packing = modes.add_parser("packing", help="what prepare --compress saves, and costs in writing and reading")
    packing.add_argument("store", type=Path, nargs="?", metavar="STORE", help=STORE_HELP)
    packing.add_argument("--folder", type=Path, help="where to put shards (default: the temporary folder)")
    packing.add_argument("--slices", type=at_least_one, default=256, help="slices in a turn, at most (default 256)")
    _add_timing(packing, rounds=7)
    packing.set_defaults(measure=_packing)


def _add_common(mode: argparse.ArgumentParser, *, rounds: int) -> None:
    _add_timing(mode, rounds=rounds)
    add_device(mode)


def _add_timing(mode: argparse.ArgumentParser, *, rounds: int) -> None:
    mode.add_argument("--rounds", type=at_least_one, default=rounds, help=f"turns of everyone (default {rounds})")
    mode.add_argument("--out", type=Path, metavar="FILE.json", help="write the figures there too")


def _transform(options: argparse.Namespace, progress: Progress) -> object:
    from rsna_e2e.tools.bench.transform import bench_transform

    return bench_transform(
        options.store,
        n_slices=options.slices,
        size=options.size,
        rounds=options.rounds,
        device=options.device,
        keeps_freed=options.keep_freed,
        out=options.out,
        progress=progress,
    )


def _loader(options: argparse.Namespace, progress: Progress) -> object:
    from rsna_e2e.tools.bench.loader import bench_loader

    return bench_loader(
        options.store,
        recipe=options.recipe,
        overrides=options.set,
        n_slices=options.slices,
        rounds=options.rounds,
        device=options.device,
        out=options.out,
        progress=progress,
    )


def _train(options: argparse.Namespace, progress: Progress) -> object:
    from rsna_e2e.tools.bench.train import bench_train

    return bench_train(
        options.store,
        recipe=options.recipe,
        overrides=options.set,
        steps=options.steps,
        rounds=options.rounds,
        device=options.device,
        out=options.out,
        progress=progress,
    )


def _chunked(options: argparse.Namespace, progress: Progress) -> object:
    from rsna_e2e.tools.bench.chunked import bench_chunked

    return bench_chunked(
        recipe=options.recipe,
        overrides=options.set,
        slices=options.slices,
        timed_slices=options.timed_slices,
        rounds=options.rounds,
        device=options.device,
        out=options.out,
        progress=progress,
    )


def _embed(options: argparse.Namespace, progress: Progress) -> object:
    from rsna_e2e.tools.bench.embed import bench_embed

    return bench_embed(
        options.store,
        recipe=options.recipe,
        overrides=options.set,
        n_slices=options.slices,
        rounds=options.rounds,
        device=options.device,
        out=options.out,
        progress=progress,
    )


def _prepare(options: argparse.Namespace, progress: Progress) -> object:
    from rsna_e2e.tools.bench.prepare import bench_prepare

    return bench_prepare(
        options.folder,
        n_slices=options.slices,
        memory_slices=options.memory_slices,
        rounds=options.rounds,
        out=options.out,
        progress=progress,
    )


def _packing(options: argparse.Namespace, progress: Progress) -> object:
    from rsna_e2e.tools.bench.packing import bench_packing

    return bench_packing(
        options.store,
        folder=options.folder,
        n_slices=options.slices,
        rounds=options.rounds,
        out=options.out,
        progress=progress,
    )
