"""The training loop: steps, validation, checkpoints, and resumption from a checkpoint."""

import logging
import math
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from rsna_e2e.core.device import without_tuning
from rsna_e2e.core.errors import DivergedError, OutOfResourcesError, PreemptedError
from rsna_e2e.core.files import without_nan
from rsna_e2e.core.records import Progress
from rsna_e2e.loader.batch import SeriesBatch
from rsna_e2e.model.heads import flatten_lstms
from rsna_e2e.model.make import Network
from rsna_e2e.training.checkpoint import Best, Checkpoint, restore, save_checkpoint
from rsna_e2e.training.divergence import write_bundle
from rsna_e2e.training.initial_weights import start_head
from rsna_e2e.training.keep_choices import keep_choices
from rsna_e2e.training.meter import Meter
from rsna_e2e.training.phases import Epoch, Phase, StepBatches
from rsna_e2e.training.prepared_run import PreparedRun
from rsna_e2e.training.run_layout import DEBUG, PREEMPTION_MARKER
from rsna_e2e.training.runlog import TRAINING_SLICES, VALIDATION, RunLog, SilentLog
from rsna_e2e.training.scoring import Scores, scores_from_plain
from rsna_e2e.training.step import Stepper, StepResult

logger = logging.getLogger(__name__)

_FEW_SHAPES = 8


class Trainer:
    """Trains a model through the phases of a run. `state` is what a checkpoint saves; it is the same on all ranks.

    validate: scores a model after an epoch, or None when the run is to stop; None without a validation fold.
    say: is given lines for the operator.
    """

    def __init__(
        self,
        prepared: PreparedRun,
        *,
        run: Path,
        log: RunLog | SilentLog,
        validate: Callable[[Network, int], Scores | None] | None,
        is_stopping: Callable[[], bool],
        progress: Progress,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._model, self._config, self._task = prepared.model, prepared.config, prepared.data.task
        self._compute, self._ranks, self._phases = prepared.compute, prepared.ranks, prepared.phases
        self._run, self._log = run, log
        self._validate, self._is_stopping, self._progress, self._say = validate, is_stopping, progress, say
        self._ema: AveragedModel | None = None
        if self._config.ema_decay is not None:
            average = get_ema_multi_avg_fn(self._config.ema_decay)  # type: ignore[no-untyped-call]
            self._ema = AveragedModel(self._model, multi_avg_fn=average, use_buffers=True)
            flatten_lstms(self._ema)
        self.state = prepared.first_state()
        self._started_s = self._saved_s = time.monotonic()
        self._saving_s = 0.0

    def fit(self, last: Checkpoint | None) -> None:
        """Train from the beginning, or from `last` on, to the end of the run."""
        if last is not None:
            self.state = last.state
        self._elapsed_before_s = self.state.elapsed_s
        self.meter = Meter(
            self._log,
            self._progress,
            n_slices=sum(phase.n_slices for phase in self._phases),
            n_before=self.state.n_slices,
            n_epochs=self._phases[-1].numbers.stop - 1,
        )
        for phase in self._phases:
            if phase.numbers.stop - 1 > self.state.epoch and not self._has_stopped_early:
                self._run_phase(phase, last)
                last = None

    @property
    def best(self) -> Scores | None:
        """Scores of the best epoch so far."""
        return None if self.state.best is None else scores_from_plain(self.state.best.validation)

    @property
    def best_scores(self) -> dict[str, Any] | None:
        """The same by name, as JSON holds them: None where a score is undefined."""
        return None if self.best is None else without_nan(self.best.plain())

    @property
    def save_share(self) -> float:
        """Part of the time since this was made that was spent saving."""
        return self._saving_s / (time.monotonic() - self._started_s)

    @property
    def _has_stopped_early(self) -> bool:
        patience = self._config.early_stopping_epochs
        return patience is not None and self.state.epochs_since_best >= patience

    def _run_phase(self, phase: Phase, last: Checkpoint | None) -> None:
        stepper = Stepper(
            self._model,
            phase.optimizer,
            self._config,
            self._task,
            self._compute,
            n_steps=phase.n_steps,
            is_joint=phase.kind == "series",
            first_step=phase.first_step,
            ranks=self._ranks,
        )
        if last is not None:
            is_same_phase = last.state.phase == phase.kind and last.state.step > phase.first_step
            self._restore(stepper, last, is_same_phase=is_same_phase)
        self._note(phase=phase.kind)
        if phase.kind == "series" and self.state.step == phase.first_step:
            start_head(self._config, self._model, self._ema)
        # cuDNN tries its algorithms for every shape that is new: worth it where few come again and again
        torch.backends.cudnn.benchmark = phase.n_shapes <= _FEW_SHAPES
        next_number = max(phase.numbers.start, self.state.epoch + 1)
        n_done = self.state.step - phase.steps_before(next_number)
        for number in range(next_number, phase.numbers.stop):
            if self._has_stopped_early:
                return
            self._run_epoch(stepper, phase, phase.epoch(number), n_done=n_done)
            n_done = 0

    def _restore(self, stepper: Stepper, last: Checkpoint, *, is_same_phase: bool) -> None:
        """Restore a checkpoint; its optimiser and scaler only within the phase that they belong to."""
        restore(last.folder, model=self._model, optimizer=stepper.optimizer if is_same_phase else None, ema=self._ema)
        if is_same_phase and last.state.scaler is not None:
            stepper.scaler.load_state_dict(dict(last.state.scaler))

    def _run_epoch(self, stepper: Stepper, phase: Phase, epoch: Epoch, *, n_done: int) -> None:
        stepper.freeze_backbone(epoch.is_backbone_frozen)
        with closing(epoch.load(skip_steps=n_done)) as steps:
            for step, batches in self.meter.watch(steps):
                result = stepper(self.state.step, batches)
                self._record(phase, epoch, step, result)
                if self.state.skipped_in_a_row >= self._config.max_skipped_steps:
                    self._give_up(result, batches)
                if self._ema is not None and not result.is_skipped:
                    self._ema.update_parameters(self._model)
                is_due, is_stopping = self._agree(self._is_due(), self._is_stopping())
                if is_due or is_stopping:
                    self._save(stepper)
                if is_stopping:
                    self._stop()
        self._finish_epoch(stepper, phase, epoch)

    def _record(self, phase: Phase, epoch: Epoch, step: StepBatches, result: StepResult) -> None:
        n_slices = epoch.n_slices(step)
        counts = result.is_skipped and not result.is_overflow
        self._note(
            step=self.state.step + 1,
            n_slices=self.state.n_slices + n_slices,
            skipped=self.state.skipped + result.is_skipped,
            skipped_in_a_row=self.state.skipped_in_a_row + 1 if counts else 0,
            validation_loss=None,
        )
        values = {
            "loss": result.loss,
            "gradient_norm": result.gradient_norm,
            "learning_rate": result.learning_rate,
            "recompute_error": result.recompute_error,
            "busy_share": result.busy_share,
            "heads_agree": result.heads_agree,
            "n_series": sum(map(len, step)),
            "skipped": self.state.skipped,
        }
        values |= result.parts
        if not math.isnan(result.series_loss):
            values["study_loss"] = result.series_loss  # "study": logs of saved runs have this name
        self.meter.record(phase.kind, self.state.step, epoch.number, n_slices, values)

    def _finish_epoch(self, stepper: Stepper, phase: Phase, epoch: Epoch) -> None:
        """Validate, and save the epoch as completed; or, if asked to stop meanwhile, save it as not yet validated."""
        is_finished_model = phase.kind == self._config.last_phase
        if self._validate is None or not is_finished_model:
            self._note(epoch=epoch.number)
            self._save(stepper)
            return
        scored = self._model if self._ema is None else self._ema.module
        assert isinstance(scored, Network)
        with without_tuning():  # batches of validation have many sizes
            validation = self._validate(scored, epoch.number)
        if validation is None:
            self._save(stepper)
            self._stop()
            return
        kind = TRAINING_SLICES if validation.n_training_slices else VALIDATION
        self._log.write(kind, self.state.step, epoch=epoch.number, **validation.plain())
        for name, confusion in validation.confusions.items():
            self._log.write(name, self.state.step, epoch=epoch.number, **confusion.plain())
            if self._ranks.is_main:
                self._say(f"epoch {epoch.number}, {name.replace('_', ' ')}: {confusion}")
        loss = validation.loss
        best, since = self.state.best, self.state.epochs_since_best + 1
        if math.isfinite(loss) and (best is None or loss < best.validation_loss):
            scores = without_nan(validation.plain())
            best = Best(step=self.state.step, epoch=epoch.number, validation_loss=loss, validation=scores)
            since = 0
            if self._ranks.is_main:
                keep_choices(self._run, validation, self._task, epoch=epoch.number)
        finite_loss = loss if math.isfinite(loss) else None
        self._note(epoch=epoch.number, best=best, epochs_since_best=since, validation_loss=finite_loss)
        self._save(stepper)

    def _note(self, **changes: Any) -> None:
        self.state = self.state.model_copy(update=changes)

    def _agree(self, *flags: bool) -> list[bool]:
        """Return for each flag whether it is set on any rank."""
        if self._ranks.n_ranks == 1:
            return list(flags)
        said = torch.tensor(flags, dtype=torch.float32)
        return [flag > 0 for flag in self._ranks.max_(said).tolist()]

    def _is_due(self) -> bool:
        config = self._config.checkpoint
        if config.every_steps is not None and self.state.step % config.every_steps == 0:
            return True
        minutes = (time.monotonic() - self._saved_s) / 60
        return config.every_minutes is not None and self._ranks.is_main and minutes >= config.every_minutes

    def _save(self, stepper: Stepper) -> None:
        """Save on the main rank. On a full disk all ranks stop, or continue if checkpoint.on_disk_full says so."""
        self._check_finite()
        self._note(
            elapsed_s=self._elapsed_before_s + time.monotonic() - self._started_s,
            scaler=stepper.scaler.state_dict() or None,
        )
        failure: OutOfResourcesError | None = None
        began_s = time.monotonic()
        if self._ranks.is_main:
            try:
                self._log.sync()
                save_checkpoint(
                    self._run,
                    self.state,
                    model=self._model,
                    optimizer=stepper.optimizer,
                    ema=self._ema,
                    keep_last=self._config.checkpoint.keep_last,
                    keep_epochs=self._config.checkpoint.keep_epochs,
                )
            except OutOfResourcesError as error:
                failure = error
        self._saved_s = time.monotonic()
        self._saving_s += self._saved_s - began_s
        if not self._agree(failure is not None)[0]:
            return
        if self._config.checkpoint.on_disk_full == "stop":
            raise failure or OutOfResourcesError("the main rank could not save: its message says why")
        if failure is not None:
            logger.warning("no checkpoint at step %d: %s", self.state.step, failure)

    def _stop(self) -> None:
        if self._ranks.is_main:
            (self._run / PREEMPTION_MARKER).touch()
        raise PreemptedError(
            f"stopped by a signal after step {self.state.step}; all is saved. Continue with the same command and "
            "--resume auto"
        )

    def _check_finite(self) -> None:
        """Raise DivergedError for weights that are not finite, which no further step would repair."""
        for name, tensor in self._model.state_dict().items():
            if not bool(torch.isfinite(tensor).all()):
                raise DivergedError(
                    f"{name} is not finite after step {self.state.step}, epoch {self.state.epoch + 1}. "
                    "Lower optimizer.learning_rate"
                )

    def _give_up(self, result: StepResult, batches: Sequence[SeriesBatch]) -> None:
        step = self.state.step
        series = write_bundle(
            self._run,
            step=step,
            rank=self._ranks.rank,
            result=result,
            model=self._model,
            batches=batches,
            compute=self._compute,
        )
        raise DivergedError(
            f"loss {result.loss:.4g}, gradient norm {result.gradient_norm:.4g} on series "
            f"{', '.join(series) or 'of other ranks'}, the last of {self.state.skipped_in_a_row} steps in a row that "
            f"were skipped. Lower optimizer.learning_rate; details are in {self._run / DEBUG}"
        )
