"""Scores a model on the held-out fold, by what it predicts: labels, or boxes."""

from collections.abc import Callable, Mapping
from typing import Any

from rsna_e2e.core.records import Rows
from rsna_e2e.loader.series_loader import SeriesLoader
from rsna_e2e.model.box_model import BoxModel
from rsna_e2e.model.make import Network
from rsna_e2e.training.box_validation import BoxValidation, validate_boxes
from rsna_e2e.training.prepared_run import PreparedRun
from rsna_e2e.training.validation import Validation, validate

Scores = Validation | BoxValidation


def score_held_out(
    model: Network,
    prepared: PreparedRun,
    loader: SeriesLoader,
    *,
    held_out: list[int],
    only_rows: Rows | None,
    balanced_rows: Rows | None,
    is_stopping: Callable[[], bool],
) -> Scores | None:
    """Score `model` on the series at positions `held_out`, see `validate` and `validate_boxes`."""
    data = prepared.data
    if isinstance(model, BoxModel):
        return validate_boxes(
            *(model, loader, held_out, data.store, data.task, prepared.compute),
            only_rows=only_rows,
            ranks=prepared.ranks,
            is_stopping=is_stopping,
        )
    return validate(
        *(model, loader, held_out, data.store, data.task, prepared.compute),
        only_rows=only_rows,
        balanced_rows=balanced_rows,
        ranks=prepared.ranks,
        is_stopping=is_stopping,
    )


def scores_from_plain(scores: Mapping[str, Any]) -> Scores:
    """Return the scores that JSON holds, of either kind."""
    kind = BoxValidation if "box_precision" in scores else Validation
    return kind.from_plain(scores)
