"""Plans a training: which commands it consists of, in which order, and what each depends on."""

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rsna_e2e.config import Crop, FoldRule, Mode, RunConfig, TwoStageConfig
from rsna_e2e.core.errors import UsageError
from rsna_e2e.core.files import real_path
from rsna_e2e.core.limits import CLIP
from rsna_e2e.store.embeddings import MANIFEST as EMBEDDINGS_MANIFEST
from rsna_e2e.store.embeddings import read_manifest
from rsna_e2e.tasks.task import Task
from rsna_e2e.training.pipeline import Part
from rsna_e2e.training.pipeline.planned_step import PREPARE, Folders, PlannedStep, Verb
from rsna_e2e.training.run_layout import SUMMARY


def plan_prepare(folders: Folders, task: Task) -> Iterator[PlannedStep]:
    """Yield the step that makes the store, when there is something to make it of. task: what its labels are of."""
    if folders.raw is not None:
        labels = [] if folders.labels is None else ["--labels", str(folders.labels)]
        facts: dict[str, Any] = {
            "raw": hashlib.sha256(str(real_path(folders.raw)).encode()).hexdigest()[:16]  # the path stays here
        }
        if folders.labels == "folders":
            facts["labels"] = "folders"
        if folders.columns:
            labels += ["--columns", *("=".join(pair) for pair in folders.columns)]
            facts["columns"] = dict(folders.columns)
        yield PlannedStep(
            name=PREPARE,
            part="prepare",
            verb="prepare",
            arguments=(str(folders.raw), str(folders.store), *labels),
            output=folders.store,
            inputs=(folders.labels,) if isinstance(folders.labels, Path) else (),
            facts=facts,
            task=task,
        )


def plan_joint(config: RunConfig, folders: Folders) -> tuple[PlannedStep, ...]:
    """Plan the end-to-end counterpart of the single mode: one joint model on all the data, and its submission.

    Raises UsageError for a network that finds boxes.
    """
    config.model.check_predicts_labels("the mode joint")
    everything = config.model_copy(update={"validation_fold": None})
    plan = Planner(folders, config.task)
    train = plan.train("joint", "sequences", everything, scale=_epochs(everything))
    predicted = folders.out / "predictions" / "joint.csv.gz"
    arguments = (_run(train), str(folders.store), "--out", str(predicted))
    predict = plan.add("predictions/joint", "sequences", "predict", arguments, predicted, depends=(train.name,))
    plan.bag([predict], clip=CLIP)
    return plan.steps


def plan_two_stage(
    mode: Mode, config: TwoStageConfig, folders: Folders, *, embeddings: Sequence[Path] = ()
) -> tuple[PlannedStep, ...]:
    """Plan a mode.

    embeddings: folders that the heads of mode fast learn from, one each, or as many as there are classifiers side by
    side; no other mode takes any. Raises UsageError when their number does not divide.
    """
    assert bool(embeddings) == (mode == "fast")
    plan, chosen = Planner(folders, config.images.task), config.of_mode(mode)
    n_beside = len(chosen.image_runs)
    sources = plan.stored(embeddings, n_beside) if mode == "fast" else plan.images_and_embeddings(chosen)
    predictions = [plan.head(chosen, source, sources) for source in sources]
    plan.bag(predictions, clip=chosen.two_stage.clip)
    return plan.steps


def classifier_name(crop: Crop, fold: int | None, section: str = "images") -> str:
    """What the classifier of a crop that held out `fold` is called, and its embeddings with `-epochN`.

    section: that it is configured in; beside.0 and so on are numbered.
    """
    numbered = "" if section == "images" else f"-{section.replace('.', '')}"
    return f"{crop}-{'all' if fold is None else f'fold{fold}'}{numbered}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """Embeddings that a head learns from, side by side: of which classifiers, and the steps that make them, if any do.

    folds: the rule by which `fold` was held out; None leaves it to the configuration.
    """

    name: str
    folders: tuple[Path, ...]
    fold: int | None
    folds: FoldRule | None = None
    crop: Crop | None = None
    epoch: int | None = None
    depends: tuple[str, ...] = ()


class Planner:
    """Collects the steps of a plan. first: those that make its store; by default of raw files, where there are any."""

    def __init__(self, folders: Folders, task: Task, first: Iterable[PlannedStep] | None = None) -> None:
        self._folders, self._task = folders, task
        self._steps: list[PlannedStep] = list(plan_prepare(folders, task) if first is None else first)
        self._first = tuple(step.name for step in self._steps[-1:])

    @property
    def steps(self) -> tuple[PlannedStep, ...]:
        return tuple(self._steps)

    def add(
        self,
        name: str,
        part: Part,
        verb: Verb,
        arguments: tuple[str, ...],
        output: Path,
        **more: Any,
    ) -> PlannedStep:
        step = PlannedStep(name=name, part=part, verb=verb, arguments=arguments, output=output, **more)
        self._steps.append(step)
        return step

    def bag(self, predictions: Sequence[PlannedStep], *, clip: float) -> None:
        """The mean of predictions, as a submission."""
        submission = self._folders.out / "submission.csv.gz"
        names = tuple(str(step.output) for step in predictions)
        self.add(
            "submission",
            "bag",
            "bag",
            (*names, "--out", str(submission), "--clip", repr(clip)),
            submission,
            depends=tuple(step.name for step in predictions),
            facts={"clip": clip},
            task=self._task,
        )

    def train(
        self,
        name: str,
        part: Part,
        settings: RunConfig,
        *options: str,
        depends: tuple[str, ...] = (),
        inputs: tuple[Path, ...] = (),
        scale: int,
        section: str = "",
    ) -> PlannedStep:
        """A training run in a folder of the step's name."""
        run = self._folders.out / name
        return self.add(
            name,
            part,
            "train",
            (str(self._folders.store), str(run), *options),
            run / SUMMARY,
            settings=settings,
            depends=(*self._first, *depends),
            inputs=inputs,
            scale=scale,
            section=section,
        )

    def images_and_embeddings(self, config: TwoStageConfig) -> list[_Source]:
        """Classifiers of every crop and fold, and the embeddings of their epochs."""
        sources = []
        for crop in config.two_stage.crops:
            for fold in config.two_stage.folds or (None,):
                classifiers = {}
                for section in config.image_runs:
                    who = classifier_name(crop, fold, section)
                    settings = config.image_run(crop=crop, fold=fold, section=section)
                    scale = _epochs(settings)
                    classifiers[who] = self.train(f"images/{who}", "images", settings, scale=scale, section=section)
                sources += [self._embeddings(config, classifiers, crop, fold, e) for e in config.image_epochs]
        return sources

    def stored(self, embeddings: Sequence[Path], n_beside: int) -> list[_Source]:
        """Embeddings that are there already, so many side by side, named by the first of their folders; heads hold out
        what their classifiers did."""
        if len(embeddings) % n_beside:
            raise UsageError(
                f"--embeddings: {len(embeddings)} folders, and every head learns from {n_beside} side by side. Give "
                f"{n_beside} for each, that of images before those of beside"
            )
        groups = [tuple(embeddings[i : i + n_beside]) for i in range(0, len(embeddings), n_beside)]
        names = [Path(os.path.abspath(group[0])).name for group in groups]
        return [
            _Source(
                name=name if names.count(name) == 1 else f"{name}-{number}",
                folders=group,
                fold=made_from.held_out_fold,
                folds=made_from.folds,
            )
            for number, (name, group) in enumerate(zip(names, groups, strict=True))
            for made_from in [read_manifest(group[0]).source]
        ]

    def head(self, config: TwoStageConfig, source: _Source, sources: Sequence[_Source]) -> PlannedStep:
        """A head on embeddings, and what it predicts; of series, where they have one of their own, what that does."""
        of_slices = self._head(config, source, sources, "sequences", f"predictions/{source.name}")
        if config.series_sequences is None:
            return of_slices
        of_series = self._head(config, source, sources, "series_sequences", f"predictions/{source.name}-series")
        out = self._folders.out / "predictions" / f"{source.name}-both.csv.gz"
        return self.add(
            f"predictions/{source.name}-both",
            "sequences",
            "merge",
            (str(of_slices.output), str(of_series.output), "--out", str(out)),
            out,
            depends=(of_slices.name, of_series.name),
            task=self._task,
        )

    def _head(
        self, config: TwoStageConfig, source: _Source, sources: Sequence[_Source], section: str, predictions: str
    ) -> PlannedStep:
        """A head configured in `section`, and the step `predictions` with what it predicts."""
        settings = config.sequence_run(fold=source.fold, section=section)
        if source.folds is not None:
            settings = settings.model_copy(update={"folds": source.folds})
        embeddings, depends = ("--embeddings", *map(str, source.folders)), source.depends
        options = list(embeddings)
        if config.two_stage.out_of_fold:
            kin = [s for s in sources if (s.crop, s.epoch) == (source.crop, source.epoch)]
            options += [word for s in kin for folder in s.folders for word in ("--out-of-fold", f"{s.fold}={folder}")]
            depends = tuple(name for s in kin for name in s.depends)
        trained = self.train(
            f"{section}/{source.name}",
            "sequences",
            settings,
            *options,
            depends=depends,
            inputs=() if source.depends else tuple(folder / EMBEDDINGS_MANIFEST for folder in source.folders),
            scale=_epochs(settings),
            section=section,
        )
        out = self._folders.out / f"{predictions}.csv.gz"
        return self.add(
            predictions,
            "sequences",
            "predict",
            (_run(trained), str(self._folders.store), *embeddings, "--checkpoint", "epochs", "--out", str(out)),
            out,
            depends=(trained.name, *source.depends),
            scale=settings.epochs,
            spent=trained.output.parent,
        )

    def _embeddings(
        self,
        config: TwoStageConfig,
        classifiers: Mapping[str, PlannedStep],
        crop: Crop,
        fold: int | None,
        epoch: int,
    ) -> _Source:
        """Those of an epoch of classifiers, by their names, side by side."""
        folders, depends, views = [], [], config.two_stage.views
        for who, classifier in classifiers.items():
            name = f"embeddings/{who}-epoch{epoch}"
            folder = self._folders.out / name
            words = ("--checkpoint", f"epoch-{epoch}", "--views", ",".join(views))
            self.add(
                name,
                "embeddings",
                "embed",
                (_run(classifier), str(self._folders.store), str(folder), *words),
                folder,
                depends=(classifier.name,),
                facts={"epoch": epoch, "views": list(views)},
                scale=len(views),
            )
            folders.append(folder)
            depends.append(name)
        return _Source(
            name=f"{classifier_name(crop, fold)}-epoch{epoch}",
            folders=tuple(folders),
            crop=crop,
            fold=fold,
            epoch=epoch,
            depends=tuple(depends),
        )


def _run(trained: PlannedStep) -> str:
    return str(trained.output.parent)


def _epochs(settings: RunConfig) -> int:
    return settings.epochs + (settings.slice_phase.epochs if settings.slice_phase else 0)
