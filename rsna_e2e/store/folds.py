"""Folds by patient: no patient has slices in two folds."""

# N images or series, P patients, L labels, K folds

from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from rsna_e2e.core.records import Float64Array


def published_folds(image_ids: Sequence[str], patient_ids: Sequence[str], *, n_folds: int = 5) -> npt.NDArray[np.int64]:
    """Return the fold [N] of each image by the published solution's rule.

    Images are sorted by id; a patient's fold is the row number of its first image, modulo `n_folds`. It depends on
    which images are there and is not balanced. Source: darraghdog/rsna, prepare_folds.py.
    """
    assert len(image_ids) == len(patient_ids)
    fold_of: dict[str, int] = {}
    for row, position in enumerate(sorted(range(len(image_ids)), key=lambda i: image_ids[i])):
        fold_of.setdefault(patient_ids[position], row % n_folds)
    return np.array([fold_of[patient] for patient in patient_ids], dtype=np.int64)


def stratified_folds(
    patient_ids: Sequence[str],
    counts: Float64Array,
    *,
    n_folds: int,
    seed: int,
    sizes: Sequence[float] | None = None,
) -> npt.NDArray[np.int64]:
    """Return a fold [N] for each row so that every fold gets its share of each count, and each patient one fold.

    counts: [N, C], what is to be balanced, such as positive slices per label and slices. sizes: [K], the share of each
    fold; by default all are equal. Patients are dealt out from the heaviest to the lightest, each to the fold that
    stays nearest to its share; `seed` decides among equals. The order of rows makes no difference.
    """
    assert counts.shape[0] == len(patient_ids)
    names, patient_N = np.unique(np.asarray(patient_ids, dtype=object), return_inverse=True)
    shares_PC = np.zeros((len(names), counts.shape[1]))
    np.add.at(shares_PC, patient_N, counts)
    totals_C = shares_PC.sum(axis=0)
    shares_PC = np.divide(shares_PC, totals_C, out=np.zeros_like(shares_PC), where=totals_C > 0)

    rng = np.random.default_rng(seed)
    shuffled_P = rng.permutation(len(names))
    heaviest_first_P = shuffled_P[np.argsort(-shares_PC[shuffled_P].sum(axis=1), kind="stable")]
    load_KC = np.zeros((n_folds, counts.shape[1]))
    fold_P = np.zeros(len(names), dtype=np.int64)
    for patient in heaviest_first_P:
        # Growth of the sum of squared loads if the patient went to each fold; squares count by 1 / size.
        growth_K = 2 * load_KC @ shares_PC[patient]
        if sizes is not None:
            growth_K = (growth_K + shares_PC[patient] @ shares_PC[patient]) / np.asarray(sizes)
        fold_P[patient] = np.argmin(growth_K)
        load_KC[fold_P[patient]] += shares_PC[patient]
    return np.asarray(fold_P[patient_N])


def patients_in_several_folds(patient_ids: Sequence[str], folds: Sequence[int]) -> list[str]:
    """Return the patients, sorted, whose images are in more than one fold; a fold below 0 is none."""
    places = {(patient, fold) for patient, fold in zip(patient_ids, folds, strict=True) if fold >= 0}
    counts = Counter(patient for patient, _ in places)
    return sorted(patient for patient, n in counts.items() if n > 1)
