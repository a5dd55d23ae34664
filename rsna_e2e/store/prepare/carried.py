"""The folds that patients of a store have in its label sets, and keep in those that are added later.

So no model of one task has learned from the patients that a model of another is scored on, and one may start from the
other. A set that takes the place of another is divided as that was.
"""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np

from rsna_e2e.core.errors import UsageError
from rsna_e2e.store import StoreError, StoreFiles
from rsna_e2e.store.label_sets import are_labelled, read_set
from rsna_e2e.store.prepare.division import DEFAULT, Division
from rsna_e2e.store.series_order import run_starts
from rsna_e2e.store.set_manifest import SetManifest, read_set_manifest, set_names


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried:
    """Folds that patients keep, `HELD_OUT` of those in split "test". sets: that these are from, the first one first.
    default: how the others are divided where nothing else is asked for, as in the set that is replaced."""

    fold_of: dict[str, int] = field(default_factory=dict)
    sets: tuple[SetManifest, ...] = ()
    default: Division = DEFAULT

    @property
    def folds_of(self) -> str:
        """The name of the first set, empty without any."""
        return self.sets[0].task if self.sets else ""

    def division(self, *, n_folds: int | None, holdout: float | None, seed: int | None) -> Division:
        """Return how all other patients are divided; what is None is as in `default`. Raises UsageError where that
        differs from those that are kept."""
        seed = self.default.seed if seed is None else seed
        if not self.sets:
            holdout = self.default.holdout if holdout is None else holdout
            return Division(n_folds=n_folds or self.default.n_folds, holdout=holdout, seed=seed)
        n_kept = max(one.n_folds for one in self.sets)
        for option, is_given in (("--holdout", holdout is not None), ("--folds", n_folds not in (None, n_kept))):
            if is_given:
                raise UsageError(
                    f"{option}: {len(self.fold_of)} of the patients keep the folds ({n_kept}) and the test split of "
                    f"the label set {self.folds_of}. Leave it out; or divide all anew, with --own-folds"
                )
        return Division(n_folds=n_kept, holdout=None, seed=seed)


def carried_folds(files: StoreFiles, patients: Iterable[str], *, name: str) -> Carried:
    """Return the folds that these patients have in the label sets of a store, of several in the earliest.

    name: of the new set. One of this name is replaced: it says how patients without a fold are divided, and where other
    sets count, those that it alone has keep their fold in it. Where it and others divided a patient differently, it was
    made with folds of its own, and no other set counts. Raises StoreError where another set is damaged.
    """
    left = set(patients)
    fold_of: dict[str, int] = {}
    sets: list[SetManifest] = []
    for manifest in _manifests(files, without=name):
        found = _folds_in(files, manifest, left)
        if found:
            sets.append(manifest)
        fold_of |= found
        left -= found.keys()
    try:
        replaced = read_set_manifest(files.path, name)
        own = _folds_in(files, replaced, set(patients)) if sets else {}
    except StoreError:  # there is none, or a damaged one
        return Carried(fold_of=fold_of, sets=tuple(sets))
    default = Division(n_folds=replaced.n_folds, holdout=replaced.holdout, seed=replaced.seed)
    if any(own.get(patient, fold) != fold for patient, fold in fold_of.items()):
        return Carried(default=default)
    return Carried(fold_of=own | fold_of, sets=tuple(sets), default=default)


def _folds_in(files: StoreFiles, manifest: SetManifest, patients: set[str]) -> dict[str, int]:
    """Return the folds of these patients in a label set, of those with labels in it."""
    found, starts = read_set(files.path, manifest, files.manifest, files.index), run_starts(files.index["series_key"])
    is_labelled_S = are_labelled(found.labels, found.series_labels, starts)
    rows = starts[is_labelled_S & np.isin(files.index["patient_id"][starts].astype(str), sorted(patients))]
    return dict(zip(files.index["patient_id"][rows], found.fold[rows].tolist(), strict=True))


def number_of(files: StoreFiles, name: str) -> int:
    """Return the number that a set gets: its own where it is replaced, else the next."""
    with suppress(StoreError):
        return read_set_manifest(files.path, name).number
    return 1 + max((one.number for one in _manifests(files, without=name)), default=0)


def _manifests(files: StoreFiles, *, without: str) -> list[SetManifest]:
    names = [name for name in set_names(files.path) if name != without]
    return sorted((read_set_manifest(files.path, name) for name in names), key=lambda one: one.number)
