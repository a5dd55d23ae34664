"""The pointing game: whether class-activation maps are highest where masks say that a finding is.

Source: Zhang et al. 2016, Top-down Neural Attention by Excitation Backprop, arXiv:1608.00507, 4.1. Distances are in
millimetres, since cells of a map are.
"""

# P pairs of a slice and a label, H, W rows and columns of a slice

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
from scipy.ndimage import distance_transform_edt

from rsna_e2e.core.errors import BadInputError
from rsna_e2e.core.files import make_folder, write_json
from rsna_e2e.core.records import BoolImage, Progress, no_progress
from rsna_e2e.evaluation.explain import check_new, open_run
from rsna_e2e.evaluation.resamples import Resamples
from rsna_e2e.inference.activation_maps import ActivationMaps, Label, Target, activation_maps
from rsna_e2e.inference.trained_model import TrainedModel
from rsna_e2e.store import SeriesSpan, Store
from rsna_e2e.tasks.metrics import DECISION_THRESHOLD, Estimate

SCORES = "pointing.json"
NEAR_MM, AROUND_MM = 5.0, 15.0
_N_RESAMPLES = 1000
_IDENTITY = np.array([[1, 0, 0], [0, 1, 0]], dtype=np.float32)  # a picture of the slice's own pixels

Pair = tuple[int, str, Path]  # place in the series, label, mask


@dataclass(frozen=True, slots=True, kw_only=True)
class PointingGame:
    """What maps score on pairs of a slice and a label that it has and is called to have, with intervals over series.

    n_pairs: with a mask; n_called: of them, with a probability of at least the label's threshold, which are scored.
    has_thresholds: whether the run has such for the epoch that made the maps; else it is 0.5 for all labels.
    in_mask, near, around: share of pairs whose map is highest in the mask, within `NEAR_MM` and within `AROUND_MM` of
    it. energy: the share of the map's sum within `NEAR_MM`, where values below 0, which speak against the label, count
    as 0; and area: of what the network sees of the slice. Both are means over pairs.
    """

    n_series: int
    n_pairs: int
    n_called: int
    has_thresholds: bool
    in_mask: Estimate
    near: Estimate
    around: Estimate
    energy: Estimate
    area: Estimate

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers for JSON."""
        return asdict(self)


def play(
    run: Path,
    store: Store,
    masks: Path,
    out: Path,
    *,
    split: str = "test",
    checkpoint: str = "auto",
    device: str = "auto",
    target: Target = "sum",
    seed: int = 0,
    progress: Progress = no_progress,
) -> PointingGame:
    """Score the maps of a run on the series of a split that have masks, files LABEL/IMAGE.png as synth makes them.

    Writes the numbers into the new folder `out`. A label is called from the run's own threshold on, and where the
    run has none of the epoch of this checkpoint, from 0.5. seed: of the intervals.

    Raises BadInputError where no image has a mask of a label that the run predicts, for a mask that is no picture of
    the size of its slice, or empty, and for slices without a pixel spacing.
    """
    check_new(out)
    trained = open_run(run, checkpoint, device)
    found = _masked(trained, store, masks, split)
    points = trained.operating_points
    thresholds = points.thresholds if points is not None else None
    scores: list[tuple[float, ...]] = []
    series: list[int] = []
    for number, (span, pairs) in enumerate(found):
        scored = _score_series(trained, store, span, pairs, thresholds or {}, target)
        scores += scored
        series += [number] * len(scored)
        progress(number + 1, len(found))
    n_pairs = sum(len(pairs) for _, pairs in found)
    game = _summary(scores, series, len(found), n_pairs, has_thresholds=thresholds is not None, seed=seed)
    make_folder(out)
    what = {"target": target, "split": split, "weights_sha256": trained.weights_sha256, "epoch": trained.epoch}
    write_json(out / SCORES, what | game.to_dict())
    return game


def _masked(trained: TrainedModel, store: Store, masks: Path, split: str) -> list[tuple[SeriesSpan, list[Pair]]]:
    """Return the series of a split with masks, and these."""
    files = {label: {path.stem: path for path in (masks / label).glob("*.png")} for label in trained.task.slices.names}
    ids = store.index["image_id"]
    found = []
    for span in store.series:
        pairs = [
            (place, label, paths[image_id])
            for place, image_id in enumerate(map(str, ids[span.rows]))
            for label, paths in files.items()
            if image_id in paths
        ]
        if span.split == split and pairs:
            found.append((span, pairs))
    if not found:
        raise BadInputError(
            f"{masks}: has no mask LABEL/IMAGE.png of an image of split {split}. rsna-e2e synth --masks makes some"
        )
    return found


def _score_series(
    trained: TrainedModel,
    store: Store,
    span: SeriesSpan,
    pairs: list[Pair],
    thresholds: Mapping[str, float],
    target: Target,
) -> list[tuple[float, ...]]:
    """Return `_score` of each pair of a series that is called."""
    names = sorted({label for _, label, _ in pairs})
    labels: list[Label] = [("slice", trained.task.slices.names.index(name)) for name in names]
    made = dict(zip(names, activation_maps(trained, store, span, labels=labels, target=target), strict=True))
    return [
        _score(made[name], place, mask, store, span.first_row + place)
        for place, name, mask in pairs
        if made[name].probabilities[place] >= thresholds.get(name, DECISION_THRESHOLD)
    ]


def _score(maps: ActivationMaps, place: int, mask: Path, store: Store, row: int) -> tuple[float, ...]:
    """Return of one pair: peak in mask, near, around, energy, area."""
    rows, columns = int(store.index["rows"][row]), int(store.index["columns"][row])
    spacing_mm = float(store.index["spacing_row_mm"][row]), float(store.index["spacing_column_mm"][row])
    if not all(mm > 0 for mm in spacing_mm):
        raise BadInputError(f"{store.path}: slices without a pixel spacing. Distances need one")
    distance_mm = distance_transform_edt(~_read(mask, (rows, columns)), sampling=spacing_mm)
    side = max(rows, columns)
    is_seen = maps.seen_on_picture(place, _IDENTITY, side=side)[:rows, :columns]
    map_HW = np.where(is_seen, maps.on_picture(place, _IDENTITY, side=side)[:rows, :columns], -np.inf)
    peak_mm = float(distance_mm[np.unravel_index(map_HW.argmax(), map_HW.shape)])
    is_near = distance_mm <= NEAR_MM
    for_HW = np.maximum(map_HW, 0)  # the last ReLU of LayerCAM, which `layer_maps` leaves out
    total = float(for_HW.sum(dtype=np.float64))
    energy = float(for_HW[is_near].sum(dtype=np.float64)) / total if total > 0 else 0.0
    area = np.count_nonzero(is_near & is_seen) / np.count_nonzero(is_seen)
    return peak_mm == 0, peak_mm <= NEAR_MM, peak_mm <= AROUND_MM, energy, area


def _read(mask: Path, shape: tuple[int, int]) -> BoolImage:
    try:
        values = matplotlib.image.imread(mask, format="png")
    except (OSError, SyntaxError, ValueError):  # of Pillow, for what is no PNG file
        raise BadInputError(f"{mask}: is no PNG file. Put it back from a copy") from None
    if values.shape != shape:
        raise BadInputError(
            f"{mask}: {values.shape} is not the size of its slice, {shape}. Give one value for each pixel"
        )
    if not values.any():
        raise BadInputError(f"{mask}: is empty. Leave out masks of slices without the label")
    return np.asarray(values > 0)


def _summary(
    scores: list[tuple[float, ...]], series: list[int], n_series: int, n_pairs: int, *, has_thresholds: bool, seed: int
) -> PointingGame:
    resamples = Resamples.draw(np.array(series), n_resamples=_N_RESAMPLES, seed=seed) if scores else None
    by_kind = np.array(scores, dtype=np.float64).T
    means = [resamples.mean(values) for values in by_kind] if resamples else [Estimate(float("nan"))] * 5
    return PointingGame(
        n_series=n_series,
        n_pairs=n_pairs,
        n_called=len(scores),
        has_thresholds=has_thresholds,
        **dict(zip(("in_mask", "near", "around", "energy", "area"), means, strict=True)),
    )
