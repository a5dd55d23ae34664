"""Joint training of backbone and heads on whole series, on one device or many, in a run that can always be resumed."""

import json
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from rsna_e2e.config import Frozen, RunConfig
from rsna_e2e.core.device import Compute
from rsna_e2e.core.errors import BadInputError, UsageError
from rsna_e2e.core.files import SEAL, read_json, sealed, unsealed, write_json
from rsna_e2e.core.records import Progress, Rows, never, no_progress
from rsna_e2e.loader.division import WHOLE
from rsna_e2e.loader.holdout import balanced_held_out, training_slices
from rsna_e2e.loader.series_loader import SeriesLoader
from rsna_e2e.model.make import Network
from rsna_e2e.store import Store
from rsna_e2e.store.embeddings import Embeddings
from rsna_e2e.tasks.label_counts import count_labels, warnings_of_levels
from rsna_e2e.training.checkpoint import Checkpoint, check_task, valid_checkpoints
from rsna_e2e.training.distributed import ALONE, Ranks
from rsna_e2e.training.foretell import describe_epochs, foretell_sharing
from rsna_e2e.training.initial_weights import report_damage
from rsna_e2e.training.loop import Trainer
from rsna_e2e.training.prepared_run import PreparedRun, RunData, make_loaders, prepare_run
from rsna_e2e.training.resume import check_same_settings
from rsna_e2e.training.run_folder import read_config, read_task
from rsna_e2e.training.run_layout import CONFIG, PREEMPTION_MARKER, SUMMARY
from rsna_e2e.training.runlog import ResumePoint, RunLog, SilentLog
from rsna_e2e.training.scoring import Scores, score_held_out, scores_from_plain

logger = logging.getLogger(__name__)


class TrainSummary(Frozen):
    """How a run ended. best: validation of the best epoch, None without a validation fold.

    slices_per_s, stalls and the shares: since the run was last resumed. stalls: steps that had to wait for their batch.
    stall_share, save_share: time spent waiting for batches and saving, as parts of the whole. skipped: steps without a
    finite loss. elapsed_s: of training, over all resumptions. peak_mib: most memory since the last one, of the GPU
    where there is one, else of this process. Both are None in runs of earlier versions.
    """

    steps: int
    slices_per_s: float
    stalls: int
    stall_share: float
    save_share: float
    skipped: int
    best_epoch: int
    best: Scores | None
    compute: str
    elapsed_s: float | None = None
    peak_mib: float | None = None


def train(
    store: Store,
    run: Path,
    config: RunConfig,
    *,
    embeddings: Embeddings | None = None,
    device: str = "auto",
    init_from: Path | None = None,
    init_backbone: Path | None = None,
    resume: bool = False,
    ranks: Ranks = ALONE,
    is_stopping: Callable[[], bool] = never,
    progress: Progress = no_progress,
    say: Callable[[str], None] = lambda text: None,
) -> TrainSummary:
    """Train the joint model of `config` on the labelled series of `store`; leave everything in the folder `run`.

    embeddings: the input of a model without a backbone. init_from, init_backbone: see `prepare_run`. resume: continue
    from the newest intact checkpoint of `run`, if there is one. is_stopping: asked after every step; a run that must
    stop saves first. say: is given lines for the operator at the start. All `ranks` call this in the same way. Raises
    UsageError when `run` exists and is not to be resumed, or has other settings; DivergedError when loss or gradient
    are not finite for too long; PreemptedError when it was asked to stop; what `RunData.of` and `prepare_run` do.
    """
    if resume and (run / CONFIG).is_file():
        _check_is_of(run, config)
    data = RunData.of(store, config, embeddings=embeddings)
    resumed_at, last = _find_last(run, data, ranks) if resume else (None, None)
    if last is not None and (run / SUMMARY).is_file():
        return read_summary(run)
    if resumed_at is not None:
        config = _with_chunk_of(run, config)
    prepared = prepare_run(
        data, config, device=device, ranks=ranks, init_from=init_from, init_backbone=init_backbone, last=last
    )
    prepared.check_norms(*prepared.phases)
    if ranks.is_main and not config.model.finds_boxes:  # labels are no boxes
        _warn_of_labels(data)
    return _train(prepared, run, resumed_at, last, is_stopping=is_stopping, progress=progress, say=say)


def _warn_of_labels(data: RunData) -> None:
    """Tell the operator which labels, of slices and of series, cannot be learned from the training set."""
    of_slices = count_labels(data.store.labels[data.training_rows], data.task)
    of_series = count_labels(data.store.series_labels[data.training], data.task, level="series")
    for text in warnings_of_levels(of_slices, of_series, "the training set"):
        logger.warning(text)


def _train(
    prepared: PreparedRun,
    run: Path,
    resumed_at: ResumePoint | None,
    last: Checkpoint | None,
    *,
    is_stopping: Callable[[], bool],
    progress: Progress,
    say: Callable[[str], None],
) -> TrainSummary:
    """Take a prepared run to its end in the folder `run`, from the checkpoint `last` on if there is one."""
    data, config, is_main = prepared.data, prepared.config, prepared.ranks.is_main
    loader = make_loaders(data, config, prepared.compute, division=WHOLE)(config.image.size)
    make_log = partial(
        RunLog,
        *(run, config, data.task),
        data_hash=data.data_hash,
        store_hash=data.store.data_hash,
        compute=prepared.compute,
        loader=loader.backend,
        classifiers=data.embeddings.classifiers if data.embeddings else (),
        n_ranks=prepared.ranks.n_ranks,
        resumed_at=resumed_at,
    )
    score = _scoring(prepared, loader, is_stopping)
    with make_log() if is_main else SilentLog() as log:
        if is_main:
            (run / PREEMPTION_MARKER).unlink(missing_ok=True)
            say(describe_epochs(config) + (f"; continues after epoch {last.state.epoch}" if last else ""))
            foretell_sharing(prepared.phases, config, say)
        prepared.ranks.barrier()
        trainer = Trainer(
            prepared, run=run, log=log, validate=score, is_stopping=is_stopping, progress=progress, say=say
        )
        trainer.fit(last)
        summary = _summary(trainer, prepared.compute)
        if is_main:
            values = json.loads(summary.model_dump_json()) | {"best": trainer.best_scores}
            write_json(run / SUMMARY, sealed(values))
    return summary


def _scoring(
    prepared: PreparedRun, loader: SeriesLoader, is_stopping: Callable[[], bool]
) -> Callable[[Network, int], Scores | None] | None:
    """Return what scores a model on the held-out fold, or else on training slices if so configured; None without both.

    loader: of whole batches. Raises UsageError when a balanced sample is asked for and cannot be drawn.
    """
    data, ranks = prepared.data, prepared.ranks
    held_out, only_rows, n = data.held_out, None, prepared.config.training_slices_scored
    if not held_out and n is not None:
        held_out, only_rows = training_slices(data.store, data.training, n=n)
        if ranks.is_main:
            logger.warning(_no_validation(len(only_rows)))
    if not held_out:
        return None

    _balanced_sample(prepared, epoch=1)  # what cannot be drawn is refused before anything is trained

    def score(scored: Network, epoch: int) -> Scores | None:
        return score_held_out(
            *(scored, prepared, loader),
            held_out=held_out,
            only_rows=only_rows,
            balanced_rows=_balanced_sample(prepared, epoch=epoch),
            is_stopping=is_stopping,
        )

    return score


def _balanced_sample(prepared: PreparedRun, *, epoch: int) -> Rows | None:
    """The store rows of a balanced sample of the held-out fold, for an epoch of a slice classifier that asks for it."""
    data, config = prepared.data, prepared.config
    if not data.held_out or config.slice_phase is None or config.slice_phase.validation_sampling == "all":
        return None
    return balanced_held_out(data.store, data.task, data.held_out, seed=config.seed, epoch=epoch)


def _find_last(run: Path, data: RunData, ranks: Ranks) -> tuple[ResumePoint | None, Checkpoint | None]:
    """Return where to resume a run, and from which checkpoint; None, None where there is none."""
    last: Checkpoint | None = None
    point: ResumePoint | None = None
    if (run / CONFIG).is_file():
        damaged: list[BadInputError] = []
        last = next(valid_checkpoints(run, on_damaged=damaged.append), None)
        if last is None and damaged:
            raise damaged[0]
        if last is not None:
            check_task(last.folder, last.state, data.task)
        if last is not None and last.state.data_hash != data.data_hash:
            raise BadInputError(
                f"{run}: was started with other data than {data.store.path}, or with other embeddings. Give the same "
                "ones"
            )
        for error in damaged:
            report_damage(error)
        point = ResumePoint(step=last.state.step, epoch=last.state.epoch) if last else ResumePoint(step=0, epoch=0)
    found = torch.tensor([-1, -1] if point is None else [point.step, point.epoch])
    if not torch.equal(ranks.max_(found.clone()), ranks.min_(found)):
        raise UsageError(f"{run}: not all ranks see the same checkpoints. Use a folder that all nodes share")
    return point, last


def _check_is_of(run: Path, config: RunConfig) -> None:
    """Raise UsageError when a run was started with other settings, BadInputError when its files are damaged."""
    saved = read_config(run)
    check_same_settings(run, saved=saved, wanted=config)
    read_task(run, saved)


def _with_chunk_of(run: Path, config: RunConfig) -> RunConfig:
    """Return the configuration with the chunk that was measured when the run was started. graph_slices changes no bit
    and is measured again: ranks and devices may be others now."""
    if config.chunk != "auto":
        return config
    return config.model_copy(update={"chunk": read_config(run).chunk})


def _no_validation(n_slices: int) -> str:
    return (
        f"no fold is held out: this run is scored on {n_slices} of its own TRAINING slices, as the published solution "
        "was. That says nothing about other patients; it is no validation"
    )


def _summary(trainer: Trainer, compute: Compute) -> TrainSummary:
    state, meter = trainer.state, trainer.meter
    return TrainSummary(
        steps=state.step,
        slices_per_s=meter.slices_per_s,
        stalls=meter.stalls,
        stall_share=meter.stall_share,
        save_share=trainer.save_share,
        skipped=state.skipped,
        best_epoch=state.best.epoch if state.best else state.epoch,
        best=trainer.best,
        compute=str(compute),
        elapsed_s=state.elapsed_s,
        peak_mib=compute.peak_mib(),
    )


def read_summary(run: Path) -> TrainSummary:
    """Return the summary of a run that has ended; earlier versions sealed it with no checksum. Raises BadInputError."""
    path = run / SUMMARY
    try:
        content = read_json(path)
        values = unsealed(content) if SEAL in content else content
        best = None if values["best"] is None else scores_from_plain(values["best"])
        return TrainSummary.model_validate(values | {"best": best}, strict=True)
    except (AttributeError, LookupError, OSError, TypeError, ValueError):
        raise BadInputError(f"{path}: damaged. Remove it: train --resume auto writes it again") from None
