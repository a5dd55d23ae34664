"""Predictions that see no pixels: from where a slice lies in its series, and from what its header says."""

# N slices to predict, R slices to learn from, L labels, F features, K bins

import numpy as np

from rsna_e2e.core.records import Column, Float64Array, Rows
from rsna_e2e.store import Store

N_BINS = 20
N_TREES = 200
HEADER = (
    "spacing_row_mm",
    "spacing_column_mm",
    "slice_thickness_mm",
    "rows",
    "columns",
    "bits_stored",
    "pixel_representation",
    "slope",
    "intercept",
    "window_center_hu",
    "window_width_hu",
)

DESCRIBED = ("view", "sex", "age_y", "imager_spacing_mm")  # of radiographs, in stores that have these columns

# Bounds the time of a tree, whatever the store holds; leaves of this many samples keep it from learning single series.
_MOST_SAMPLES, _LEAST_LEAF = 2048, 10


def places(store: Store) -> Float64Array:
    """Return where each slice of a store lies in its series [N], from 0 to 1."""
    lengths = np.array([span.n_slices for span in store.series])
    length_N = np.repeat(lengths, lengths)
    place_N: Float64Array = (store.index["slice_index"] + 0.5) / length_N
    return np.clip(place_N, 0, 1)


def features(store: Store) -> Float64Array:
    """Return what the headers of a store's slices say [N, F], with their place and the number of slices beside it."""
    lengths = np.array([span.n_slices for span in store.series])
    described = [name for name in DESCRIBED if name in store.index]
    columns = [_as_numbers(store.index[name]) for name in (*HEADER, *described)]
    return np.stack([*columns, places(store), np.repeat(lengths, lengths).astype(np.float64)], axis=1)


def _as_numbers(column: Column) -> Float64Array:
    """Return a column of an index as numbers: texts by their place among all different ones, sorted."""
    if column.dtype == object:
        return np.unique(column.astype(str), return_inverse=True)[1].astype(np.float64)
    return column.astype(np.float64)


def by_position(
    place_R: Float64Array, labels_RL: Float64Array, weight_R: Float64Array, place_N: Float64Array
) -> Float64Array:
    """Predict the share of positives in the bin of each slice's place [N, L]."""
    bin_R, bin_N = (np.minimum((place * N_BINS).astype(np.int64), N_BINS - 1) for place in (place_R, place_N))
    return by_bin(bin_R, labels_RL, weight_R, bin_N)


def by_bin(bin_R: Rows, labels_RL: Float64Array, weight_R: Float64Array, bin_N: Rows) -> Float64Array:
    """Predict the share of positives in the bin of each sample [N, L].

    Each bin has one more sample, which is as positive as all together, so that none is ever sure.
    """
    weight_R, n_bins = weight_R / weight_R.mean(), 1 + max(bin_R.max(), bin_N.max())
    overall_L = weight_R @ labels_RL / weight_R.sum()
    sums_KL = np.zeros((n_bins, labels_RL.shape[1]))
    np.add.at(sums_KL, bin_R, weight_R[:, None] * labels_RL)
    weights_K = np.bincount(bin_R, weights=weight_R, minlength=n_bins)
    shares_KL: Float64Array = (sums_KL + overall_L) / (weights_K[:, None] + 1)
    return shares_KL[bin_N]


def by_forest(
    features_RF: Float64Array,
    labels_RL: Float64Array,
    weight_R: Float64Array,
    features_NF: Float64Array,
    *,
    seed: int,
) -> Float64Array:
    """Predict by a random forest of what headers say [N, L]; one more tree says the share of positives of all."""
    from sklearn.ensemble import RandomForestRegressor  # takes seconds to load

    overall_L = weight_R @ labels_RL / weight_R.sum()
    targets = labels_RL[:, 0] if labels_RL.shape[1] == 1 else labels_RL  # of a single label it asks for no columns
    forest = RandomForestRegressor(  # a mean of 0 and 1 is a probability, of several labels at once
        N_TREES,
        min_samples_leaf=min(_LEAST_LEAF, max(1, len(labels_RL) // 10)),
        max_features="sqrt",
        max_samples=min(_MOST_SAMPLES, len(labels_RL)),
        random_state=seed,
    ).fit(features_RF, targets, sample_weight=weight_R)
    found_NL: Float64Array = forest.predict(features_NF).reshape(len(features_NF), -1)
    shares_NL: Float64Array = (N_TREES * found_NL + overall_L) / (N_TREES + 1)
    return shares_NL
