"""The verb that measures speed: bench."""

import argparse

from rsna_e2e.cli.bench import add_modes
from rsna_e2e.cli.verbs import Verbs, add_verb, tell


def add_bench(verbs: Verbs) -> None:
    """Add `rsna-e2e bench`."""
    verb = add_verb(
        verbs,
        "bench",
        _bench,
        "Measure speed: the fused operator beside its peers, the loader, training.",
        "rsna-e2e bench transform",
        "rsna-e2e bench loader store --recipe demo",
        "rsna-e2e bench train store --out train.json",
        "rsna-e2e bench embed store --recipe demo",
        "rsna-e2e bench prepare --folder /dev/shm --memory-slices",
    )
    add_modes(verb)


def _bench(options: argparse.Namespace) -> None:
    from rsna_e2e.core.console import progress_bar

    with progress_bar(f"bench {options.mode}", unit="rounds") as progress:
        result = options.measure(options, progress)
    tell(*str(result).splitlines())
    if options.out is not None:
        tell(f"figures: {options.out}")
