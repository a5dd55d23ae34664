"""Training and validation sets: the series of the training folds, and those of the fold that is held out."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from rsna_e2e.config import FoldRule, RunConfig
from rsna_e2e.core.errors import UsageError
from rsna_e2e.core.records import Rows
from rsna_e2e.loader.label_file_order import in_label_file_order, label_file_places
from rsna_e2e.loader.sampler import balanced_shard_rows
from rsna_e2e.store import Store, rows_of
from rsna_e2e.store.embeddings import Embeddings, EmbeddingSource
from rsna_e2e.store.folds import published_folds
from rsna_e2e.tasks.catalogue import task_option
from rsna_e2e.tasks.metrics import scorable
from rsna_e2e.tasks.task import Task

# EC601 trained on the first 70,000 of 96,540 positive slices in the order of the label file
_HELD_OUT, _TRAINED_ON, _TRAINED_SHARE = 0, 1, 70_000 / 96_540
_HELD_OUT_SHARDS = 2  # of the negatives for validation: EC601, shards 6 and 7 beside the six for training


def hold_out(store: Store, config: RunConfig) -> tuple[list[int], list[int]]:
    """Return the positions in `store.series` to train on and to validate on.

    Raises UsageError when there are no labels, when one of the two would be empty, or when nothing of the fold that is
    held out can be scored.
    """
    fold_of, held = series_folds(store, config.folds), config.validation_fold
    by_fold: dict[int, list[int]] = defaultdict(list)
    for position, span in enumerate(store.series):
        if span.split == "train":
            by_fold[fold_of[position]].append(position)
    if problem := _problem(store, by_fold, held, config.task.name):
        raise UsageError(f"{store.path}: {problem}")
    if (only := config.training_fold) is not None and only not in by_fold:
        raise UsageError(f"{store.path}: no series in fold {only}; training_fold is one of {sorted(by_fold)}")
    learned = [fold for fold in by_fold if fold != held and only in (None, fold)]
    training = sorted(position for fold in learned for position in by_fold[fold])
    return training, by_fold[held] if held is not None else []


def learned_from(store: Store, config: RunConfig) -> list[int]:
    """Return the positions in `store.series` that a run learned from, or that the classifier of its embeddings may have
    seen: all of split "train" but what the run is validated on, which that held out too (`check_unseen`).

    What a run started from is not known. Raises what `hold_out` does.
    """
    training, held_out = hold_out(store, config)
    if config.model.backbone != "none":
        return training
    is_held_out = set(held_out)
    return [p for p, span in enumerate(store.series) if span.split == "train" and p not in is_held_out]


def _problem(store: Store, by_fold: Mapping[int, Sequence[int]], held: int | None, task: str) -> str:
    """Return why there is nothing to train on or to score where the fold `held` is held out, and the way out."""
    if not by_fold:
        return (
            "none of its series has a label, so there is nothing to train on. Add labels: rsna-e2e label "
            f"{store.path} LABELS {task_option(task)} (docs/labels.md)"
        )
    if held is None:
        return ""
    hold_none = "hold nothing out: --set validation_fold=null"
    if held not in by_fold:
        return (
            f"no series in fold {held}; it has folds {sorted(by_fold)}. Choose one with --set validation_fold=N, or "
            f"{hold_none}"
        )
    if len(by_fold) == 1:
        return (
            f"all {len(by_fold[held])} labelled series are in fold {held}, the one that is held out. Prepare series of "
            f"more patients, or {hold_none}"
        )
    if _scorable_rows(store, by_fold[held]).size:
        return ""
    others = [fold for fold in sorted(by_fold) if _scorable_rows(store, by_fold[fold]).size]
    what = f"fold {held} cannot be scored: " if others else f"no fold can be scored; of fold {held}: "
    choice = f"choose one of the folds {others} with --set validation_fold=N, or " if others else ""
    return f"{what}{_incomplete(store, by_fold[held])}. Add labels, or {choice}{hold_none}"


def validation_series(store: Store, config: RunConfig) -> list[int]:
    """Return the positions in `store.series` of the fold that a run holds out; none where it holds nothing out."""
    return [p for p, fold in enumerate(series_folds(store, config.folds)) if fold == config.validation_fold]


def check_learned(embeddings: Embeddings, config: RunConfig) -> None:
    """Raise UsageError where a run learns from one fold alone, and a classifier of the embeddings had seen it."""
    for source in embeddings.sources:
        if (source.held_out_fold, source.folds) != (config.training_fold, config.folds):
            raise UsageError(
                f"training_fold={config.training_fold} learns from embeddings by classifiers that held out that fold; "
                f"these are by one that held out {_held_out(source)}"
            )


def check_unseen(embeddings: Embeddings, config: RunConfig) -> None:
    """Raise UsageError unless the classifiers of the embeddings held out what a run is validated on."""
    for source in embeddings.sources:
        if (source.held_out_fold, source.folds) != (config.validation_fold, config.folds):
            raise UsageError(
                f"validation on fold {config.validation_fold} ({config.folds}) would be too optimistic: the embeddings "
                f"are by a classifier that held out {_held_out(source)}. Give those of one that held out the same "
                "fold, or train with its validation_fold and folds, or with validation_fold=null"
            )


def _held_out(source: EmbeddingSource) -> str:
    return "no fold" if source.held_out_fold is None else f"fold {source.held_out_fold} ({source.folds})"


def balanced_held_out(store: Store, task: Task, held_out: Sequence[int], *, seed: int, epoch: int) -> Rows:
    """Return the store rows of a balanced sample of the series at `held_out`: all positives and as many negatives.

    Negatives come from one of two parts in turn, in the order of the label file, as in EC601. Raises UsageError when
    they cannot be balanced.
    """
    rows = in_label_file_order(store, rows_of([store.series[position] for position in held_out]).tolist())
    drawn = balanced_shard_rows(
        *by_headline(store, task, rows),
        n_shards=_HELD_OUT_SHARDS,
        seed=seed,
        epoch=epoch,
        setting="validation_sampling",
    )
    return np.array(drawn, dtype=np.int64)


def by_headline(store: Store, task: Task, rows: Sequence[int]) -> tuple[list[int], list[int]]:
    """Return those of these store rows whose headline label is 1, and those where it is 0, each in the order given."""
    values = store.labels[list(rows), task.headline_index]
    positives, negatives = ([row for row, of in zip(rows, values == one, strict=True) if of] for one in (1, 0))
    return positives, negatives


def filtered(store: Store, config: RunConfig, rows: Rows) -> Rows:
    """Return those of these store rows that `training_filter` leaves to the phase on single slices.

    Raises UsageError where the store does not know what is asked of a slice, and where none is left.
    """
    if config.training_filter is None:
        return rows
    least = config.training_filter.min_brain_share
    if store.brain_share is None:
        raise UsageError(
            f"{store.path}: training_filter.min_brain_share needs the share of brain of each slice. Measure it: "
            f"rsna-e2e label {store.path} LABELS {task_option(config.task.name)} --replace --measure brain"
        )
    kept: Rows = rows[store.brain_share[rows] >= least]
    if not len(kept):
        raise UsageError(
            f"{store.path}: none of {len(rows)} training slices has training_filter.min_brain_share={least:g}. Choose "
            "less"
        )
    return kept


def series_folds(store: Store, rule: FoldRule) -> list[int]:
    """Return the fold of every series of `store` by a rule, -1 in split "test": see `RunConfig.folds`."""
    match rule:
        case "store":
            return [span.fold for span in store.series]
        case "published":
            return _published_folds(store)
        case "csv":
            return _csv_folds(store)


def training_slices(store: Store, training: Sequence[int], *, n: int) -> tuple[list[int], Rows]:
    """Return the first `n` slices with all labels, by image id, of the series at `training`: positions, store rows.

    The published solution scores a thousand slices where it holds nothing out. Source: darraghdog/rsna, trainorig.py.
    Raises UsageError when there are none.
    """
    spans = [store.series[position] for position in training]
    rows = _scorable_rows(store, training)
    if not rows.size:
        raise UsageError(
            f"{store.path}: the training set cannot be scored: {_incomplete(store, training)}. Add labels, or score "
            "nothing: --set training_slices_scored=null"
        )
    rows = np.sort(rows[np.argsort(store.index["image_id"][rows].astype(str), kind="stable")][:n])
    firsts = [span.first_row for span in spans]
    holding = np.unique(np.searchsorted(firsts, rows, side="right") - 1)
    return [training[i] for i in holding], rows


def _scorable_rows(store: Store, positions: Sequence[int]) -> Rows:
    """Return the store rows of these series that have all labels which any of them has."""
    rows = rows_of([store.series[position] for position in positions])
    is_scorable, _ = scorable(store.labels[rows].astype(np.float64))
    return rows[is_scorable]


def _incomplete(store: Store, positions: Sequence[int]) -> str:
    rows = rows_of([store.series[position] for position in positions])
    known = dict(zip(store.label_names, (~np.isnan(store.labels[rows])).sum(axis=0).tolist(), strict=True))
    counts = ", ".join(f"{name} of {n}" for name, n in known.items() if n)
    if not counts:
        return f"none of its {len(rows)} slices has a label"
    return f"none of its {len(rows)} slices has all the labels that are known of others ({counts})"


def _published_folds(store: Store) -> list[int]:
    """The fold of every series by the published rule, over the labelled images of split "train"; -1 in "test"."""
    rows = np.flatnonzero(~np.isnan(store.labels).all(axis=1) & (store.index["split"] == "train"))
    image_ids, patient_ids = (store.index[name][rows].tolist() for name in ("image_id", "patient_id"))
    fold_of = dict(zip(patient_ids, published_folds(image_ids, patient_ids).tolist(), strict=True))
    return [fold_of[span.patient_id] if span.split == "train" else -1 for span in store.series]


def _csv_folds(store: Store) -> list[int]:
    """The fold of every series by the places of its patient's slices in the label file; -1 in "test".

    EC601 divided slices, so that patients were on both sides; here a patient is on one.
    """
    place_N, n_labels_N = label_file_places(store), (store.labels > 0).sum(axis=1)
    first: dict[str, int] = {}
    n_positive: dict[str, int] = defaultdict(int)
    for span in store.series:
        if span.split == "train":
            place = int(place_N[span.rows].min())
            first[span.patient_id] = min(first.get(span.patient_id, place), place)
            n_positive[span.patient_id] += int(np.count_nonzero(n_labels_N[span.rows]))
    in_order = sorted(first, key=first.__getitem__)
    limit, n_so_far, fold_of = _TRAINED_SHARE * sum(n_positive.values()), 0, {}
    for patient in in_order:
        n_so_far += n_positive[patient]
        fold_of[patient] = _TRAINED_ON if n_so_far <= limit else _HELD_OUT
    return [fold_of[span.patient_id] if span.split == "train" else -1 for span in store.series]
