"""Effect of each quirk of the published pipeline on a data set, measured one by one without training."""

# N slices, S series

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from rsna_e2e.config import RunConfig, resolve_task
from rsna_e2e.core.errors import UsageError
from rsna_e2e.core.records import Float32Array, Float64Array, Progress, no_progress
from rsna_e2e.loader.embedding_loader import published_places
from rsna_e2e.loader.holdout import series_folds
from rsna_e2e.loader.image_loader import ImageLoader
from rsna_e2e.loader.sampler import series_batches
from rsna_e2e.store import Store
from rsna_e2e.store.label_runs import check_order
from rsna_e2e.tasks.task import Task

LEVELS = 255  # of an 8-bit image
PUBLISHED_BATCH = 4  # series; darraghdog/rsna, trainlstm.py
CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class Quirk:
    """One quirk, what is measured of it, and the numbers: as published, and by default where that is another."""

    name: str
    measure: str
    published: str
    default: str


def measure_quirks(
    store: Store, config: RunConfig, *, n_series: int = 16, progress: Progress = no_progress
) -> tuple[Quirk, ...]:
    """Measure on the labelled series of `store`; what needs pixels on `n_series` of them, spread evenly.

    config: of image runs; its image size and seed count. Raises UsageError when no series has labels.
    """
    task = resolve_task(config)
    labelled = [position for position, span in enumerate(store.series) if span.split == "train"]
    if not labelled:
        raise UsageError(f"{store.path}: has no labelled series. Add labels with: rsna-e2e label (docs/labels.md)")
    chosen = [labelled[i] for i in np.unique(np.linspace(0, len(labelled) - 1, n_series).astype(int))]
    return (
        *_pixels(store, config, task, chosen, progress),
        _crop(store, chosen),
        *_folds(store, task, labelled),
        _order(store, task, labelled),
        _padding(store, config, labelled),
    )


def _pixels(store: Store, config: RunConfig, task: Task, chosen: Sequence[int], progress: Progress) -> Iterator[Quirk]:
    """Grey levels of images, made the published way, beside those from 16 bits with the same geometry."""
    image = config.image.model_copy(update={"crop": "none", "supersample": 1})
    gaps: dict[str, list[Float64Array]] = {"uint8": [], "jpeg": []}
    std = torch.tensor(task.inputs.std).reshape(1, -1, 1, 1)
    loaders = {}
    for values in ("hu", *gaps):
        sized = config.model_copy(update={"image": image.model_copy(update={"values": values})})
        loaders[values] = ImageLoader(store, sized, task=task, device=CPU)
    for done, position in enumerate(chosen, start=1):
        exact, *others = (next(iter(loader.load([(position,)], epoch=None))).images[:] for loader in loaders.values())
        for name, images in zip(gaps, others, strict=True):
            gaps[name].append(((images - exact) * std * LEVELS).abs().double().mean((0, 2, 3)).numpy())
        progress(done, len(chosen))
    for name, what in (("uint8", "8 bits, cut off"), ("jpeg", "8 bits through JPEG")):
        mean = np.mean(gaps[name], axis=0)
        shown = ", ".join(f"{gap:.2f}" for gap in mean)
        yield Quirk(what, "mean distance from 16 bits, grey levels of 255, by window", shown, "0")


def _crop(store: Store, chosen: Sequence[int]) -> Quirk:
    """Variation of the scale within a series."""
    ratios = []
    for position in chosen:
        rows = store.series[position].rows
        corners = {name: store.index[f"content_{name}"][rows].astype(np.int64) for name in ("x0", "y0", "x1", "y1")}
        sides = np.maximum(corners["x1"] - corners["x0"], corners["y1"] - corners["y0"])
        sides = sides[sides > 0]
        if len(sides):
            ratios.append(sides.max() / sides.min())
    shown = f"{np.mean(ratios):.2f}" if ratios else "n/a"
    return Quirk("crop of every slice by itself", "largest over smallest scale within a series, mean", shown, "1")


def _folds(store: Store, task: Task, labelled: Sequence[int]) -> Iterator[Quirk]:
    """Imbalance of the folds in slices and in positive slices."""
    n_slices = np.array([store.series[position].n_slices for position in labelled], dtype=np.float64)
    n_positive = np.array([np.nansum(_labels(store, position, task.headline_index)) for position in labelled])
    rules: tuple[Literal["published", "store"], ...] = ("published", "store")
    fold_of = {rule: np.array(series_folds(store, rule))[labelled] for rule in rules}
    for counts, what in ((n_slices, "slices"), (n_positive, "positive slices")):
        published, by_default = (_evenness(np.bincount(fold_of[rule], counts).astype(np.float64)) for rule in rules)
        yield Quirk(
            "folds by row number", f"{what} of the largest over those of the smallest fold", published, by_default
        )


def _evenness(counts: Float64Array) -> str:
    return f"{counts.max() / counts.min():.2f}" if counts.min() > 0 else "a fold has none"


def _order(store: Store, task: Task, labelled: Sequence[int]) -> Quirk:
    """Series whose slices come in another order, and the runs of positive labels in either order."""
    place_N = published_places(store)
    n_reversed = n_scrambled = 0
    by_default, published = [], []
    for position in labelled:
        span = store.series[position]
        order = np.argsort(place_N[span.rows])
        if (np.diff(order) == -1).all() and span.n_slices > 1:
            n_reversed += 1
        elif (np.diff(order) != 1).any():
            n_scrambled += 1
        by_default.append(_labels(store, position, task.headline_index))
        published.append(by_default[-1][order])
    lengths = [store.series[position].n_slices for position in labelled]
    runs, default_runs = (check_order(np.concatenate(labels), lengths).runs for labels in (published, by_default))
    return Quirk(
        "slices by x, then y, then z",
        f"of {len(labelled)} series reversed, scrambled; runs of positives in a series",
        f"{n_reversed}, {n_scrambled}; {runs:.2f}",
        f"0, 0; {default_runs:.2f}",
    )


def _padding(store: Store, config: RunConfig, labelled: Sequence[int]) -> Quirk:
    """Share of padding among the time steps that the recurrent head reads."""
    lengths = np.array([store.series[position].n_slices for position in labelled])
    batches = series_batches(len(lengths), batch_size=PUBLISHED_BATCH, seed=config.seed, epoch=1)
    n_read = sum(len(batch) * lengths[list(batch)].max() for batch in batches)
    share = 1 - lengths.sum() / n_read
    return Quirk("batches padded on the left", "zeros among the steps that a head reads", f"{share:.1%}", "0")


def _labels(store: Store, position: int, label: int) -> Float32Array:
    return store.labels[store.series[position].rows, label]
