"""Joint training of backbone and heads on whole series, on one device or many, in a run that can always be resumed."""

import json
import warnings
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import torch

from rsna_e2e.config import Frozen, RunConfig
from rsna_e2e.core.device import Compute, check_compute, choose_compute
from rsna_e2e.core.errors import BadInputError, UsageError, is_out_of_memory
from rsna_e2e.core.files import SEAL, read_json, sealed, unsealed, write_json
from rsna_e2e.core.records import Progress, Rows, never, no_progress
from rsna_e2e.core.weights_file import load_weights
from rsna_e2e.loader.choice import choose_loader, count_channels
from rsna_e2e.loader.division import WHOLE, Division
from rsna_e2e.loader.holdout import split_series, training_slices
from rsna_e2e.loader.series_loader import SeriesLoader
from rsna_e2e.model.network import JointModel
from rsna_e2e.store import Store
from rsna_e2e.store.embeddings import Embeddings
from rsna_e2e.store.reader import check_labels
from rsna_e2e.tasks.task import Task, get_task
from rsna_e2e.training.checkpoint import Checkpoint, find_checkpoint, load_model, valid_checkpoints
from rsna_e2e.training.chunk_size import resolve_chunks
from rsna_e2e.training.distributed import ALONE, Ranks
from rsna_e2e.training.loop import Trainer
from rsna_e2e.training.phases import check_norms, divide, foretell_sharing, plan_phases
from rsna_e2e.training.preemption import MARKER
from rsna_e2e.training.resume import check_same_settings
from rsna_e2e.training.run_folder import CONFIG, read_config, read_task
from rsna_e2e.training.runlog import ResumePoint, RunLog, SilentLog
from rsna_e2e.training.validation import Validation, validate

SUMMARY_NAME = "summary.json"


class TrainSummary(Frozen):
    """How a run ended. best: validation of the best epoch, None without a validation fold.

    slices_per_s, stalls and the shares: since the run was last resumed. stalls: steps whose batch was not there when it
    was asked for; stall_share, save_share: waiting for batches and saving, as parts of the time. skipped: steps without
    a finite loss.
    """

    steps: int
    slices_per_s: float
    stalls: int
    stall_share: float
    save_share: float
    skipped: int
    best_epoch: int
    best: Validation | None
    compute: str


def train(
    store: Store,
    run: Path,
    config: RunConfig,
    *,
    embeddings: Embeddings | None = None,
    device: str = "auto",
    init_from: Path | None = None,
    resume: bool = False,
    ranks: Ranks = ALONE,
    is_stopping: Callable[[], bool] = never,
    progress: Progress = no_progress,
    say: Callable[[str], None] = lambda text: None,
) -> TrainSummary:
    """Train the joint model of `config` on the labelled series of `store`; leave everything in `run`.

    embeddings: what a head without a backbone learns from, in the place of images. init_from: a run folder or a
    safetensors file of a joint model to start from. resume: go on from the last whole
    checkpoint of `run`, if there is one. is_stopping: asked after every step; a run that is told to stop saves first.
    say: takes what is worth knowing at the start.
    All `ranks` call this alike. Raises UsageError when `run` exists and is not to be resumed, has other settings, when
    no series is left to train on, and when the classifier of the embeddings saw what is to be validated on;
    BadInputError for unusable weights; DivergedError when the loss stays not finite; PreemptedError when it was told to
    stop.
    """
    task = get_task(config.task)
    check_labels(store, task)
    n_channels = count_channels(config, task, embeddings)
    data_hash = store.data_hash if embeddings is None else embeddings.data_hash
    training, held_out = split_series(store, config)
    if embeddings is not None and held_out:
        _check_unseen(embeddings, config)
    resumed_at, last = _find_last(run, config, store, data_hash, ranks) if resume else (None, None)
    if last is not None and (run / SUMMARY_NAME).is_file():
        return _read_summary(run)
    compute = choose_compute(config.precision, device, local_rank=ranks.local_rank, cpu_threads=config.cpu_threads)
    check_compute(compute, compiles=config.compile)
    if resumed_at is not None:
        config = _with_chunk_of(run, config)
    model, config = prepare_model(config, task, compute, ranks, n_channels=n_channels, init_from=init_from, last=last)
    loading = partial(make_loaders, store, config, task, compute, embeddings=embeddings)
    loader_at = loading(division=divide(model, config, ranks))
    validation_loader = loading(division=WHOLE)(config.image.size)

    only_rows: Rows | None = None
    if not held_out and config.training_slices_scored is not None:
        held_out, only_rows = training_slices(store, training, n=config.training_slices_scored)
        if ranks.is_main:
            warnings.warn(_no_validation(len(only_rows)), stacklevel=2)

    def score(scored: JointModel) -> Validation | None:
        return validate(
            *(scored, validation_loader, held_out, store, task, compute),
            only_rows=only_rows,
            ranks=ranks,
            is_stopping=is_stopping,
        )

    make_log = partial(
        RunLog,
        *(run, config, task),
        data_hash=data_hash,
        compute=compute,
        loader=validation_loader.backend,
        classifiers=embeddings.classifiers if embeddings else (),
        n_ranks=ranks.n_ranks,
        resumed_at=resumed_at,
    )
    phases = plan_phases(config, lambda epoch: loader_at(config.image.size_at(epoch)), training)
    spans = [store.series[position] for position in training]
    check_norms(
        model, config, {phase.kind: phase.smallest_chunk for phase in phases}, spans=spans, n_channels=n_channels
    )
    if ranks.is_main:
        foretell_sharing(phases, config, say)
    with make_log() if ranks.is_main else SilentLog() as log:
        if ranks.is_main:
            (run / MARKER).unlink(missing_ok=True)
        ranks.barrier()
        trainer = Trainer(
            model,
            config,
            task,
            compute,
            ranks,
            run=run,
            log=log,
            phases=phases,
            data_hash=data_hash,
            validate=score if held_out else None,
            is_stopping=is_stopping,
            progress=progress,
        )
        trainer.fit(last)
        summary = _summary(trainer, compute)
        if ranks.is_main:
            write_json(run / SUMMARY_NAME, sealed(json.loads(summary.model_dump_json())))
    return summary


def _check_unseen(embeddings: Embeddings, config: RunConfig) -> None:
    """Raise UsageError unless the classifiers held out what is to be validated on."""
    for source in embeddings.sources:
        if (source.held_out_fold, source.folds) != (config.validation_fold, config.folds):
            held_out = "no fold" if source.held_out_fold is None else f"fold {source.held_out_fold} ({source.folds})"
            raise UsageError(
                f"validation on fold {config.validation_fold} ({config.folds}) would flatter: the embeddings are by a "
                f"classifier that held out {held_out}. Set validation_fold and folds alike, or validation_fold=null"
            )


def _find_last(
    run: Path, config: RunConfig, store: Store, data_hash: str, ranks: Ranks
) -> tuple[ResumePoint | None, Checkpoint | None]:
    """Where to go on in a run with these settings, and from which checkpoint; None, None when there is no run yet."""
    last: Checkpoint | None = None
    point: ResumePoint | None = None
    if (run / CONFIG).is_file():
        check_same_settings(run, saved=read_config(run), wanted=config)
        read_task(run, config.task)
        damaged: list[BadInputError] = []
        last = next(valid_checkpoints(run, on_damaged=damaged.append), None)
        if last is None and damaged:
            raise damaged[0]
        if last is not None and last.state.data_hash != data_hash:
            raise BadInputError(
                f"{run}: was trained on other data than {store.path}, or on other embeddings. Give those it began with"
            )
        for error in damaged:
            _warn_of(error)
        point = ResumePoint(step=last.state.step, epoch=last.state.epoch) if last else ResumePoint(step=0, epoch=0)
    found = torch.tensor([-1, -1] if point is None else [point.step, point.epoch])
    if not torch.equal(ranks.max_(found.clone()), ranks.min_(found)):
        raise UsageError(f"{run}: not all ranks see the same checkpoints. Use a folder that all nodes share")
    return point, last


def _warn_of(error: BadInputError) -> None:
    warnings.warn(f"passed over: {error}", stacklevel=3)


def _with_chunk_of(run: Path, config: RunConfig) -> RunConfig:
    """The configuration with the chunk that was measured when the run was started. How many graphs are kept changes no
    bit, and what fits is measured again: there may be other ranks and devices now."""
    if config.chunk != "auto":
        return config
    return config.model_copy(update={"chunk": read_config(run).chunk})


def make_loaders(
    store: Store,
    config: RunConfig,
    task: Task,
    compute: Compute,
    *,
    division: Division,
    embeddings: Embeddings | None = None,
) -> Callable[[int], SeriesLoader]:
    """Return what gives the loader of a rank's share by the side of its images, pixels."""

    @cache
    def loader(size: int) -> SeriesLoader:
        sized = config.model_copy(update={"image": config.image.model_copy(update={"size": size})})
        return choose_loader(store, sized, task=task, compute=compute, embeddings=embeddings, division=division)

    return loader


def prepare_model(
    config: RunConfig,
    task: Task,
    compute: Compute,
    ranks: Ranks,
    *,
    n_channels: int,
    init_from: Path | None,
    last: Checkpoint | None,
) -> tuple[JointModel, RunConfig]:
    """Return the model in its place, the same on every rank, and the configuration with its chunks settled."""
    torch.manual_seed(config.seed)
    has_weights = init_from is not None or last is not None
    architecture = config.model.without_initial_weights() if has_weights else config.model
    model = JointModel.for_task(architecture, task, n_channels=n_channels)
    if last is None and init_from is not None:
        if init_from.is_dir():
            load_model(model, find_checkpoint(init_from, on_damaged=_warn_of))
        else:
            load_weights(model, init_from)
    model = compute.place(model)
    ranks.broadcast_(model)
    _try_one_image(model, config, compute, n_channels=n_channels)
    return model, resolve_chunks(model, config, task, compute, ranks=ranks)


@torch.inference_mode()
def _try_one_image(model: JointModel, config: RunConfig, compute: Compute, *, n_channels: int) -> None:
    """Find out before anything is written whether the backbone takes images of these sizes."""
    for size in sorted({config.image.size, *config.image.size_from_epoch.values()}):
        image = torch.zeros(1, n_channels, size, size, dtype=compute.image_dtype, device=compute.device)
        try:
            with compute.autocast():
                model.eval().embed(image)
        except (AssertionError, AttributeError, RuntimeError, TypeError, ValueError) as error:
            if is_out_of_memory(error):
                raise
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UsageError(f"{config.model.backbone} does not take images of {size} px: {reason}") from None


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
    )


def _read_summary(run: Path) -> TrainSummary:
    """The summary of a run that has ended. Runs of before did not seal it."""
    path = run / SUMMARY_NAME
    try:
        content = read_json(path)
        values = unsealed(content) if SEAL in content else content
        best = None if values["best"] is None else Validation.from_plain(values["best"])
        return TrainSummary.model_validate(values | {"best": best}, strict=True)
    except (AttributeError, LookupError, OSError, TypeError, ValueError):
        raise BadInputError(f"{path}: damaged. Remove it: train --resume auto writes it again") from None
