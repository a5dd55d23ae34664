"""Metrics of predicted probabilities: log losses, ROC curves, calibration, and intervals by resampling clusters.

In come truth, 0 or 1, and predictions, probabilities in [0, 1], both float64; out come numbers with their intervals.
What scipy is needed for, or few need, has modules of its own: `ranked`, `delong`, `permute`, `brier`, `decision_curve`.
"""

from rsna_e2e.tasks.metrics.calibrators import (
    NO_TEMPERATURE,
    Scaling,
    Scalings,
    cross_fitted,
    fit_scalings,
    resampled_ece,
    rescaled,
)
from rsna_e2e.tasks.metrics.curves import (
    Calibration,
    Int64Array,
    RocCurve,
    auc,
    auc_by_group,
    calibration,
    roc_curve,
)
from rsna_e2e.tasks.metrics.decisions import (
    DECISION_THRESHOLD,
    Decisions,
    LabelDecisions,
    sensitivity_threshold,
    youden_threshold,
)
from rsna_e2e.tasks.metrics.losses import (
    LOG_LOSS_EPS,
    constant_prediction,
    known_weighted_log_loss,
    log_loss_cells,
    scorable,
    weighted_log_loss,
    weighted_log_loss_rows,
)
from rsna_e2e.tasks.metrics.resample import (
    CONFIDENCE,
    Draws,
    Estimate,
    draw_resamples,
    group_max,
    resampled_mean,
    with_interval,
)
from rsna_e2e.tasks.metrics.study import best_constants, study_log_loss, study_log_loss_of

__all__ = [
    "CONFIDENCE",
    "DECISION_THRESHOLD",
    "LOG_LOSS_EPS",
    "NO_TEMPERATURE",
    "Calibration",
    "Decisions",
    "Draws",
    "Estimate",
    "Int64Array",
    "LabelDecisions",
    "RocCurve",
    "Scaling",
    "Scalings",
    "auc",
    "auc_by_group",
    "best_constants",
    "calibration",
    "constant_prediction",
    "cross_fitted",
    "draw_resamples",
    "fit_scalings",
    "group_max",
    "known_weighted_log_loss",
    "log_loss_cells",
    "resampled_ece",
    "resampled_mean",
    "rescaled",
    "roc_curve",
    "scorable",
    "sensitivity_threshold",
    "study_log_loss",
    "study_log_loss_of",
    "weighted_log_loss",
    "weighted_log_loss_rows",
    "with_interval",
    "youden_threshold",
]
