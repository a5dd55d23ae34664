"""Checks that a store has the series and folds that a plan needs, before anything is trained."""

from rsna_e2e.config import TwoStageConfig
from rsna_e2e.core.errors import UsageError
from rsna_e2e.loader.holdout import series_folds
from rsna_e2e.store import Store


def check_store(store: Store, config: TwoStageConfig | None) -> None:
    """Raise UsageError unless a store has series to predict, to train on, and the folds of `config`.

    config: of a two-stage plan.
    """
    splits = {span.split for span in store.series}
    if splits != {"train", "test"}:
        raise UsageError(
            f"{store.path}: has no labelled series to train on. Prepare with --labels"
            if "train" not in splits
            else f"{store.path}: has no series to predict (split test). Prepare series without labels together with "
            "those that have some, or hold labelled patients out: rsna-e2e prepare RAW STORE --holdout 0.2"
        )
    if config is None or config.two_stage.folds is None:
        return
    found = {fold for fold in series_folds(store, config.images_folds) if fold >= 0}
    wanted = set(config.two_stage.folds)
    if wanted - found:
        raise UsageError(f"{store.path}: has folds {sorted(found)}; two_stage.folds asks for {sorted(wanted)}")
    if config.two_stage.out_of_fold and found - wanted:
        raise UsageError(
            f"two_stage.out_of_fold needs a classifier for every fold: --set two_stage.folds={sorted(found)}"
        )
