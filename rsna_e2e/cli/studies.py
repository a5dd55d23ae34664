"""The verb that compares training end to end with two stages: study."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rsna_e2e.cli.arguments import add_device, add_settings, at_least_one, seed
from rsna_e2e.cli.verbs import Verbs, add_verb, tell
from rsna_e2e.core.errors import UsageError

if TYPE_CHECKING:
    from rsna_e2e.tools.study.design import Design
    from rsna_e2e.tools.study.run import Part


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
        "rsna-e2e study out --store store   # predicts its split test, which has labels with prepare --holdout",
    )
    verb.add_argument("out", type=Path, metavar="OUT", help="folder of data, runs, predictions, tables and page")
    add_settings(verb)
    verb.add_argument("--store", type=Path, help="a store made by prepare, in place of simulated studies")
    group = verb.add_argument_group("simulated studies")
    group.add_argument("--studies", type=at_least_one, default=300, help="how many, for each context (default 300)")
    group.add_argument(
        "--test-fraction", type=float, default=0.5, help="share of the patients that is predicted (default 0.5)"
    )
    group.add_argument(
        "--contexts",
        type=_contexts,
        default=("none", "natural", "strong"),
        metavar="CONTEXT,...",
        help="what only neighbouring slices tell, as of synth --context (default none,natural,strong)",
    )
    group.add_argument("--data-seed", type=seed, default=2019, help="seed of the first context's data (default 2019)")
    verb.add_argument(
        "--epochs",
        type=at_least_one,
        default=6,
        help="passes of each backbone over the slices to learn from (default 6); a warm start takes half of them on "
        "single slices",
    )
    verb.add_argument("--seeds", type=at_least_one, default=3, help="trainings of each way (default 3)")
    verb.add_argument(
        "--ablation-seeds", type=at_least_one, default=2, help="of the ways that explain the others (default 2)"
    )
    add_device(verb)


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

    if not 0 < options.test_fraction < 1:
        raise UsageError(f"--test-fraction {options.test_fraction}: expected a share between 0 and 1, such as 0.5")
    design = Design.of(
        options.recipe,
        options.overrides,
        epochs=options.epochs,
        seeds=range(1, options.seeds + 1),
        n_ablated=min(options.ablation_seeds, options.seeds),
    )
    parts = _parts(options, design)
    run_parts(parts, device=options.device, say=lambda text: tell(f"study: {text}", to=sys.stderr))
    facts = {
        "command": _command(options),
        "commit": commit(),
        "cpu": cpu_name(),
        "cores": available_cores(),
        "data_seed": None if options.store else options.data_seed,
    }
    page = write_study([results_of(part, design) for part in parts], facts, design, options.out)
    tell(f"page: {page}   numbers: {options.out / NUMBERS}   curves: {options.out / CURVES}")


def _command(options: argparse.Namespace) -> str:
    """Return the command that repeats the study, whatever its folders are called."""
    words = ["rsna-e2e study OUT"]
    if options.store:
        words.append("--store STORE")
    else:
        words.append(f"--studies {options.studies} --test-fraction {options.test_fraction}")
        words.append(f"--contexts {','.join(options.contexts)} --data-seed {options.data_seed}")
    words.append(f"--epochs {options.epochs} --seeds {options.seeds} --ablation-seeds {options.ablation_seeds}")
    words.append(f"--recipe {Path(options.recipe).name}")
    return " ".join([*words, *(f"--set {one}" for one in options.overrides)])


def _parts(options: argparse.Namespace, design: "Design") -> "list[Part]":
    from rsna_e2e.tools.study.plan import Simulated
    from rsna_e2e.tools.study.run import part_of_store, simulated_parts

    if options.store is not None:
        return [part_of_store(design, options.out, options.store)]
    data = [
        Simulated(
            context=context,
            n_studies=options.studies,
            test_fraction=options.test_fraction,
            seed=options.data_seed,
        )
        for context in options.contexts
    ]
    return simulated_parts(design, options.out, data)
