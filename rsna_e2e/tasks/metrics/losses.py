"""Log losses of predicted probabilities, and what of them can be scored."""

# N samples (slices or series), L labels

import numpy as np
import numpy.typing as npt

from rsna_e2e.core.records import Float64Array

# Kaggle's log loss replaces p by max(min(p, 1 - 1e-15), 1e-15), so that a sure mistake costs 34.5, not infinity.
LOG_LOSS_EPS = 1e-15


def log_loss_cells(truth: Float64Array, probability: Float64Array, *, eps: float = LOG_LOSS_EPS) -> Float64Array:
    """Binary log loss in nats of every cell, -[y ln p + (1 - y) ln(1 - p)] with p clipped to [eps, 1 - eps]."""
    clipped = np.clip(probability, eps, 1 - eps)
    loss: Float64Array = -(truth * np.log(clipped) + (1 - truth) * np.log1p(-clipped))
    return loss


def weighted_log_loss_rows(
    truth_NL: Float64Array, probability_NL: Float64Array, weights_L: Float64Array
) -> Float64Array:
    """Weighted mean over labels of each sample's log loss, [N]; the weights are normalised to sum to 1.

    Its mean over the slices is the score of the RSNA 2019 competition.
    """
    rows: Float64Array = log_loss_cells(truth_NL, probability_NL) @ (weights_L / weights_L.sum())
    return rows


def scorable(truth_NL: Float64Array) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Return which samples [N] and labels [L] can be scored where truth is NaN if unknown: the labels that are known of
    any sample, and the samples of which all these are."""
    known_NL = ~np.isnan(truth_NL)
    is_label_L = np.asarray(known_NL.any(axis=0))
    return np.asarray((known_NL | ~is_label_L).all(axis=1) & is_label_L.any()), is_label_L


def weighted_log_loss(truth_NL: Float64Array, probability_NL: Float64Array, weights_L: Float64Array) -> float:
    """Mean over samples of `weighted_log_loss_rows`."""
    return float(weighted_log_loss_rows(truth_NL, probability_NL, weights_L).mean())


def known_weighted_log_loss(truth_NL: Float64Array, probability_NL: Float64Array, weights_L: Float64Array) -> float:
    """`weighted_log_loss` of what is `scorable` where truth is NaN if unknown; NaN when nothing is."""
    known_N, is_label_L = scorable(truth_NL)
    if not known_N.any():
        return float("nan")
    scored = np.ix_(known_N, is_label_L)
    return weighted_log_loss(truth_NL[scored], probability_NL[scored], weights_L[is_label_L])


def constant_prediction(truth_NL: Float64Array, prevalence_L: Float64Array | None = None) -> Float64Array:
    """Return [N, L] predictions that give every sample the same probabilities.

    By default these are the prevalences of `truth_NL` itself, which no constant can beat; pass `prevalence_L` to use
    others, for instance those of the training labels.
    """
    prevalence_L = truth_NL.mean(axis=0) if prevalence_L is None else prevalence_L
    assert prevalence_L.shape == truth_NL.shape[1:]
    return np.broadcast_to(prevalence_L, truth_NL.shape)
