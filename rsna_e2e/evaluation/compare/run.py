"""Trains the runs of a comparison and predicts with them; what is done already is kept."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from rsna_e2e.core.errors import BadInputError
from rsna_e2e.core.files import make_folder, read_json, sealed, unsealed, write_json
from rsna_e2e.core.records import Progress, never, no_progress
from rsna_e2e.evaluation.compare.variants import Variant
from rsna_e2e.inference.predict import predict
from rsna_e2e.inference.predictions import predictions_path
from rsna_e2e.model.layers import list_layers
from rsna_e2e.store import Store
from rsna_e2e.training.checkpoint import find_checkpoint, valid_checkpoints, weights_sha256
from rsna_e2e.training.operating_points import read_operating_points
from rsna_e2e.training.run_folder import read_config, read_task
from rsna_e2e.training.train import train

RUNS, PREDICTIONS = "runs", "predictions"
Split = Literal["validation", "test"]


def run_variants(
    store: Store,
    out: Path,
    variants: Sequence[Variant],
    *,
    split: Split,
    device: str = "auto",
    is_stopping: Callable[[], bool] = never,
    progress: Progress = no_progress,
    say: Callable[[str], None] = lambda text: None,
) -> list[dict[str, Any]]:
    """Train every variant in `out/runs` and predict a split of `store` with it into `out/predictions`, one after the
    other; return what is known of each, in their order.

    A run that was begun is continued, one that is finished is kept, and so are predictions. Raises what `train` and
    `predict` raise; UsageError for a run that was begun with other settings.
    """
    facts = []
    for number, variant in enumerate(variants, 1):
        say(f"run {number} of {len(variants)}: {variant.name}")
        run = out / RUNS / variant.folder
        make_folder(run.parent)
        train(
            store, run, variant.config, device=device, resume=True, is_stopping=is_stopping, progress=progress, say=say
        )
        facts.append(_predict_once(store, out, variant, split=split, device=device, progress=progress))
    return facts


def submission_of(out: Path, folder: str) -> Path:
    """Return where the submission of a variant is, by the name of its folder."""
    return out / PREDICTIONS / f"{folder}.csv"


def _predict_once(
    store: Store, out: Path, variant: Variant, *, split: Split, device: str, progress: Progress
) -> dict[str, Any]:
    """Predict with a finished run, unless its predictions of this split are there; return what is known of it."""
    submission = submission_of(out, variant.folder)
    path = submission.with_suffix(".json")
    run = out / RUNS / variant.folder
    of_what = {"split": split, "data_hash": store.data_hash, "weights_sha256": weights_sha256(find_checkpoint(run))}
    if predictions_path(submission).exists() and path.exists():
        known = _read(path)
        if {name: known.get(name) for name in of_what} == of_what:
            return known
    make_folder(submission.parent)
    done = predict(run, store, split=split, out=submission, device=device, progress=progress)
    if done.truth is None:
        raise BadInputError(f"{store.path}: has no labels of split {split}, so runs cannot be compared on it")
    config = read_config(run)
    layers = list_layers(config, read_task(run, config))
    points = read_operating_points(run)
    last = next(valid_checkpoints(run))
    known = {
        "name": variant.name,
        "folder": variant.folder,
        "settings": variant.settings,
        **of_what,
        "seconds": last.state.elapsed_s,
        "epoch": last.state.best.epoch if last.state.best else last.state.epoch,
        "n_weights": sum(layer.n_weights for layer in layers),
        "n_learned": sum(layer.n_learned for layer in layers),
        "thresholds": points.thresholds if points else {},
    }
    write_json(path, sealed(known))
    return known


def _read(path: Path) -> dict[str, Any]:
    try:
        return unsealed(read_json(path))
    except (OSError, ValueError):
        raise BadInputError(f"{path}: damaged. Remove it: it is made again") from None
