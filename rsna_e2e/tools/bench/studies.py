"""The input of benchmarks: a store, simulated when none is given; and a temporary folder for their output."""

import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from rsna_e2e.core.errors import BadInputError
from rsna_e2e.store import Store
from rsna_e2e.store.prepare import prepare
from rsna_e2e.store.set_manifest import set_names
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.tools.synth.simulate import simulate

N_STUDIES = 2  # some 70 slices of two patients, made in seconds
SEED = 1


@contextmanager
def opened_store(path: Path | None, *, task: str | None = None) -> Iterator[Store]:
    """Open the store at `path`; without one, make a small one that goes away at the end. task: whose labels are read,
    by default any that there are."""
    if path is not None:
        with closing(Store.open(path, task or next(iter(set_names(path)), None))) as store:
            yield store
        return
    with scratch_folder() as folder:
        raw, made = folder / "raw", folder / "store"
        simulate(raw, n_studies=N_STUDIES, seed=SEED, prevalence="demo", test_fraction=0.0)
        prepare(raw, made, task=ICH, n_folds=1)
        with closing(Store.open(made)) as store:
            yield store


@contextmanager
def scratch_folder(parent: Path | None = None) -> Iterator[Path]:
    """Make a folder that is removed at the end, in `parent`, by default the system's folder for temporary files.

    Raises BadInputError when `parent` is no folder.
    """
    if parent is not None and not parent.is_dir():
        raise BadInputError(f"{parent}: no such folder. Give one on the disk to measure")
    with tempfile.TemporaryDirectory(prefix="rsna-e2e-bench-", dir=parent) as name:
        yield Path(name)
