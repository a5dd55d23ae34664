"""The verb that compares training end to end with two stages: study."""

import argparse
import shlex
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rsna_e2e.cli.arguments import add_device, add_settings, at_least_one, seed
from rsna_e2e.cli.verbs import Verbs, add_verb, tell
from rsna_e2e.core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rsna_e2e.tools.study.design import Design
    from rsna_e2e.tools.study.run import Part


_DATA = {"studies": 440, "test_fraction": 0.6, "contexts": ("none", "natural", "strong"), "data_seed": 2019}
_MOST_JOBS = 8  # unless more are asked for: each takes some 2 GB


def add_study(verbs: Verbs) -> None:
    """Add `rsna-e2e study`."""
    verb = add_verb(
        verbs,
        "study",
        _study,
        "Compare training end to end with two stages: the same backbone, images, augmentation and number of slices, on "
        "simulated studies or on a store. What is done already is kept: the same command goes on where it stopped.",
        "rsna-e2e study out --studies 60 --epochs 2 --seeds 1   # to see that all steps work",
        "rsna-e2e study out --contexts natural,strong",
        "rsna-e2e study out --store store   # by prepare --folds 2 --holdout 0.3: its split test has labels",
    )
    verb.add_argument("out", type=Path, metavar="OUT", help="folder of data, runs, predictions, tables and page")
    add_settings(verb, recipes="demo, reference")
    verb.add_argument(
        "--set-head",
        dest="of_head",
        action="append",
        default=[],
        metavar="a.b=VALUE",
        help="override a value of the recurrent head on embeddings, which --set leaves alone; repeatable",
    )
    verb.add_argument("--store", type=Path, help="a store of two folds, in place of simulated studies")
    _add_data(verb)
    _add_trainings(verb)
    add_device(verb)


def _add_trainings(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--epochs",
        type=at_least_one,
        default=12,
        help="passes of each backbone over the slices to learn from (default 12); a warm start takes a quarter of them "
        "on whole series, and as many the head on embeddings",
    )
    verb.add_argument("--seeds", type=at_least_one, default=3, help="trainings of each way (default 3)")
    verb.add_argument(
        "--ablation-seeds", type=at_least_one, default=2, help="of the ways that explain the others (default 2)"
    )
    verb.add_argument(
        "--jobs",
        type=at_least_one,
        help="steps that run at the same time, each with a log in its folder logs (default: one for each core, at most "
        f"{_MOST_JOBS}; 1 with a GPU)",
    )


def _add_data(verb: argparse.ArgumentParser) -> None:
    group = verb.add_argument_group("simulated studies")
    group.add_argument(
        "--studies", type=at_least_one, help="how many, for each context (default 440, which take 17 GB)"
    )
    group.add_argument("--test-fraction", type=float, help="share of the patients that is predicted (default 0.6)")
    group.add_argument(
        "--contexts",
        type=_contexts,
        metavar="CONTEXT,...",
        help="what only neighbouring slices tell, as of synth --context (default none,natural,strong)",
    )
    group.add_argument("--data-seed", type=seed, help="seed of the data, the same in each context (default 2019)")


def _contexts(text: str) -> tuple[str, ...]:
    from rsna_e2e.tools.study.design import CONTEXTS

    names = tuple(text.split(","))
    if unknown := [name for name in names if name not in CONTEXTS]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(CONTEXTS)}")
    if len(set(names)) < len(names):
        raise argparse.ArgumentTypeError("a context is given twice")
    return names


def _study(options: argparse.Namespace) -> None:
    from rsna_e2e.core.machine import commit, cpu_name
    from rsna_e2e.core.process import available_cores
    from rsna_e2e.tools.study.design import Design
    from rsna_e2e.tools.study.page import CURVES, NUMBERS, write_study
    from rsna_e2e.tools.study.results import results_of
    from rsna_e2e.tools.study.run import run_parts

    data = {name: given for name in _DATA if (given := getattr(options, name)) is not None}
    if options.store is not None and data:
        raise UsageError(f"--{next(iter(data)).replace('_', '-')}: of simulated studies, and --store has others")
    data = _DATA | data
    design = Design.of(
        options.recipe,
        options.overrides,
        options.of_head,
        epochs=options.epochs,
        seeds=range(1, options.seeds + 1),
        n_ablated=min(options.ablation_seeds, options.seeds),
    )
    parts = _parts(options, design, data)
    began_s = time.monotonic()

    def say(text: str) -> None:
        tell(f"study, {timedelta(seconds=round(time.monotonic() - began_s))}: {text}", to=sys.stderr)

    run_parts(parts, device=options.device, jobs=_jobs(options), say=say)
    facts = {
        "command": _command(options, data),
        "commit": commit(),
        "cpu": cpu_name(),
        "cores": available_cores(),
        "data_seed": None if options.store else data["data_seed"],
    }
    page = write_study([results_of(part, design) for part in parts], facts, design, options.out)
    tell(f"page: {page}   numbers: {options.out / NUMBERS}   curves: {options.out / CURVES}")


def _jobs(options: argparse.Namespace) -> int:
    from rsna_e2e.core.device import choose_device_type
    from rsna_e2e.core.process import available_cores

    has_gpu = choose_device_type(options.device) == "cuda"
    n_default = 1 if has_gpu else min(available_cores(), _MOST_JOBS)
    return options.jobs or n_default


def _command(options: argparse.Namespace, data: "Mapping[str, Any]") -> str:
    """Return the command that repeats the study, whatever its folders are called."""
    words = ["rsna-e2e study OUT"]
    if options.store:
        words.append("--store STORE")
    else:
        words.append(f"--studies {data['studies']} --test-fraction {data['test_fraction']}")
        words.append(f"--contexts {','.join(data['contexts'])} --data-seed {data['data_seed']}")
    words.append(f"--epochs {options.epochs} --seeds {options.seeds} --ablation-seeds {options.ablation_seeds}")
    words.append(f"--recipe {Path(options.recipe).name}")
    words += [f"--set {shlex.quote(one)}" for one in options.overrides]
    return " ".join([*words, *(f"--set-head {shlex.quote(one)}" for one in options.of_head)])


def _parts(options: argparse.Namespace, design: "Design", data: "Mapping[str, Any]") -> "list[Part]":
    from rsna_e2e.tools.study.plan import Simulated
    from rsna_e2e.tools.study.run import LEAST_SERIES, part_of_store, simulated_parts

    if options.store is not None:
        return [part_of_store(design, options.out, options.store)]
    share = data["test_fraction"]
    if not 0 < share < 1 or min(share, 1 - share) * data["studies"] < LEAST_SERIES:
        raise UsageError(
            f"--test-fraction {share} of {data['studies']} studies leaves too few on a side. Give 0.5, or more studies"
        )
    simulated = [
        Simulated(context=context, n_studies=data["studies"], test_fraction=share, seed=data["data_seed"])
        for context in data["contexts"]
    ]
    return simulated_parts(design, options.out, simulated)
