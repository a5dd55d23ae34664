"""Finds the labels of a store that are probably wrong, by predictions of models that did not learn from them."""

# N slices, L labels

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rsna_e2e.core.errors import BadInputError, UsageError
from rsna_e2e.core.records import Float64Array, printable
from rsna_e2e.evaluation.series_layout import layout_by_store, rows_by_image
from rsna_e2e.evaluation.suspects.suspicion import NONE, Suspicion, suspicion
from rsna_e2e.loader.holdout import learned_from
from rsna_e2e.store import Store, rows_of
from rsna_e2e.tasks.labels import read_labels
from rsna_e2e.tasks.metrics import DECISION_THRESHOLD
from rsna_e2e.tasks.task import Task
from rsna_e2e.training.run_folder import read_config, store_hash_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspect:
    """One label that may be wrong. images: slice before, itself, slice after; "" where there is none.

    given, predicted, neighbours (mean of their labels, and of their predictions; NaN without), score of 0 to 1, why.
    """

    images: tuple[str, str, str]
    series: str
    slice_index: int
    label: str
    given: int
    predicted: float
    neighbour_labels: float
    neighbour_predictions: float
    score: float
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """All labels that were looked at, the most suspicious first, and how many images they are of."""

    suspects: list[Suspect]
    n_images: int


def find_suspects(
    store: Store, submissions: Sequence[Path], task: Task, *, runs: Sequence[Path] = (), most: int = 1000
) -> Found:
    """Rank the labels of a store by how suspicious they are; return the first `most`.

    submissions: of models that did not learn from these images; of an image in several, the mean counts. runs: what
    made each submission, in the same order, by which that is checked. Raises BadInputError where a run learned from
    images of its submission, or where that cannot be told; UsageError where runs and submissions are not as many.
    """
    if runs and len(runs) != len(submissions):
        raise UsageError(f"{len(submissions)} submissions and {len(runs)} runs: give --run for each, in the same order")
    tables = [read_labels(path, task) for path in submissions]
    for path, table, run in zip(submissions, tables, runs, strict=False):
        _check_unseen(store, path, table.image_ids, run)
    image_ids, probability = _mean_of([(table.image_ids, table.values) for table in tables])
    rows = rows_by_image(store, image_ids)
    given = np.asarray(store.labels[rows], np.float64)
    is_given = np.asarray(~np.isnan(given).all(axis=1))
    if not is_given.any():
        raise BadInputError(f"{store.path}: has no labels of these images. Predict those of split train")
    image_ids = [image_id for image_id, is_kept in zip(image_ids, is_given, strict=True) if is_kept]
    given, probability = _as_binary(given[is_given]), probability[is_given]
    layout = layout_by_store(store, image_ids)
    found = suspicion(given, probability, layout)
    order = np.argsort(-np.nan_to_num(found.score, nan=-1.0), axis=None, kind="stable")
    n_known = int(np.isfinite(found.score).sum())
    places = [divmod(int(i), given.shape[1]) for i in order[: min(most, n_known)]]
    keys = [layout.series_keys[series] for series in layout.series_of_slice]
    return Found(
        suspects=[
            _suspect(found, n, label, image_ids, keys[n], int(layout.slice_index[n]), task, given, probability)
            for n, label in places
        ],
        n_images=len(image_ids),
    )


def _as_binary(given: Float64Array) -> Float64Array:
    """Soft labels count as what they are nearer to."""
    return np.where(np.isnan(given), np.nan, (given >= DECISION_THRESHOLD).astype(np.float64))


def _mean_of(tables: Sequence[tuple[list[str], Float64Array]]) -> tuple[list[str], Float64Array]:
    """Images of all tables, sorted, and the mean of what they say of each [N, L]."""
    image_ids = sorted({image_id for ids, _ in tables for image_id in ids})
    place = {image_id: n for n, image_id in enumerate(image_ids)}
    total, n_said = np.zeros((len(image_ids), tables[0][1].shape[1])), np.zeros(len(image_ids))
    for ids, values in tables:
        at = [place[image_id] for image_id in ids]
        total[at] += values
        n_said[at] += 1
    return image_ids, total / n_said[:, None]


def _check_unseen(store: Store, submission: Path, image_ids: Sequence[str], run: Path) -> None:
    """Raise BadInputError where a run learned from images of its submission, or its store is not known to be this."""
    if store_hash_of(run) != store.data_hash:
        raise BadInputError(
            f"{run}: was trained on other images or labels than those of {store.path}, so what it learned from is not "
            "known. Give the store that it was trained on"
        )
    rows = rows_of(store.series[position] for position in learned_from(store, read_config(run)))
    learned = set(map(printable, store.index["image_id"][rows]))
    if n_seen := sum(image_id in learned for image_id in image_ids):
        raise BadInputError(
            f"{submission}: {run}, head or backbone, learned from {n_seen} of its {len(image_ids)} images, and finds "
            "no fault with labels that it learned. Give what it held out: rsna-e2e predict "
            f"{run} {store.path} --split validation"
        )


def _suspect(
    found: Suspicion,
    n: int,
    label: int,
    image_ids: Sequence[str],
    series: str,
    slice_index: int,
    task: Task,
    given: Float64Array,
    probability: Float64Array,
) -> Suspect:
    beside = [int(one) for one in (found.before[n], found.after[n])]
    there = [one for one in beside if one != NONE]
    known = [one for one in there if not np.isnan(given[one, label])]
    return Suspect(
        images=(_image(image_ids, beside[0]), image_ids[n], _image(image_ids, beside[1])),
        series=series,
        slice_index=slice_index,
        label=task.slices.names[label],
        given=int(given[n, label]),
        predicted=float(probability[n, label]),
        neighbour_labels=float(given[known, label].mean()) if known else np.nan,
        neighbour_predictions=float(probability[there, label].mean()) if there else np.nan,
        score=float(found.score[n, label]),
        why=_why(found.contradiction[n, label], found.discontinuity[n, label]),
    )


def _image(image_ids: Sequence[str], n: int) -> str:
    return "" if n == NONE else image_ids[n]


def _why(contradiction: float, discontinuity: float) -> str:
    """Which of the two speaks against the label."""
    reasons = [
        *(["prediction contradicts"] if contradiction > 0.5 else []),
        *(["neighbours disagree"] if discontinuity > 0.5 else []),
    ]
    return ", ".join(reasons)
