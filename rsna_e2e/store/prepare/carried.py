"""The folds that patients of a store have in its label sets, and keep in those that are added later.

So no model of one task has learned from the patients that a model of another is scored on, and one may start from the
other.
"""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from rsna_e2e.core.errors import UsageError
from rsna_e2e.core.records import N_FOLDS
from rsna_e2e.store import StoreError, StoreFiles
from rsna_e2e.store.label_sets import are_labelled, read_set
from rsna_e2e.store.prepare.division import Division
from rsna_e2e.store.series_order import run_starts
from rsna_e2e.store.set_manifest import SetManifest, read_set_manifest, set_names


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried:
    """Folds that patients keep, `HELD_OUT` of those in split "test". sets: that these are from, the first one first."""

    fold_of: dict[str, int]
    sets: tuple[SetManifest, ...]

    @property
    def folds_of(self) -> str:
        """The name of the first set, empty without any."""
        return self.sets[0].task if self.sets else ""

    def division(self, *, n_folds: int | None, holdout: float | None, seed: int) -> Division:
        """Return how all other patients are divided. Raises UsageError where that differs from those that are kept."""
        if not self.sets:
            return Division(n_folds=n_folds or N_FOLDS, holdout=holdout, seed=seed)
        n_kept = max(one.n_folds for one in self.sets)
        for option, is_given in (("--holdout", holdout is not None), ("--folds", n_folds not in (None, n_kept))):
            if is_given:
                raise UsageError(
                    f"{option}: {len(self.fold_of)} of the patients keep the folds ({n_kept}) and the test split of "
                    f"the label set {self.folds_of}. Leave it out; or divide all anew, with --own-folds"
                )
        return Division(n_folds=n_kept, holdout=None, seed=seed)


def carried_folds(files: StoreFiles, patients: Iterable[str], *, without: str) -> Carried:
    """Return the folds that these patients have in the label sets of a store, of several in the earliest.

    without: a set that does not count, because it is replaced. Raises StoreError where a set is damaged.
    """
    left = set(patients)
    fold_of: dict[str, int] = {}
    sets: list[SetManifest] = []
    starts = run_starts(files.index["series_key"])
    for manifest in _manifests(files, without=without):
        found = read_set(files.path, manifest, files.manifest, files.index)
        is_labelled_S = are_labelled(found.labels, found.series_labels, starts)
        rows = starts[is_labelled_S & np.isin(files.index["patient_id"][starts].astype(str), sorted(left))]
        if len(rows):
            sets.append(manifest)
        fold_of |= dict(zip(files.index["patient_id"][rows], found.fold[rows].tolist(), strict=True))
        left -= fold_of.keys()
    return Carried(fold_of=fold_of, sets=tuple(sets))


def number_of(files: StoreFiles, name: str) -> int:
    """Return the number that a set gets: its own where it is replaced, else the next."""
    with suppress(StoreError):
        return read_set_manifest(files.path, name).number
    return 1 + max((one.number for one in _manifests(files, without=name)), default=0)


def _manifests(files: StoreFiles, *, without: str) -> list[SetManifest]:
    names = [name for name in set_names(files.path) if name != without]
    return sorted((read_set_manifest(files.path, name) for name in names), key=lambda one: one.number)
