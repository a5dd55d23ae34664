"""Plans a training: which commands it consists of, in which order, and what each depends on."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rsna_e2e.config import Crop, FoldRule, Mode, RunConfig, TwoStageConfig
from rsna_e2e.core.files import real_path
from rsna_e2e.core.limits import CLIP
from rsna_e2e.store.embeddings import MANIFEST as EMBEDDINGS_MANIFEST
from rsna_e2e.store.embeddings import read_manifest
from rsna_e2e.training.pipeline import Part
from rsna_e2e.training.run_layout import SUMMARY

Verb = Literal["prepare", "train", "embed", "predict", "bag"]

PREPARE = "prepare"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedStep:
    """One command: `rsna-e2e VERB arguments`, and what it leaves at `output`.

    settings: of a training run; they are saved and given to it. depends: names of earlier steps. facts: all that the
    result depends on beside settings, data, earlier steps and inputs, as plain values. inputs: files from elsewhere.
    scale: number of passes over its slices of the store. spent: a run whose kept epochs, gigabytes of them, can be
    removed when this step is done. section: under which the plan's configuration has the settings, such as images.
    """

    name: str
    part: Part
    verb: Verb
    arguments: tuple[str, ...]
    output: Path
    settings: RunConfig | None = None
    depends: tuple[str, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)
    inputs: tuple[Path, ...] = ()
    scale: int = 1
    spent: Path | None = None
    section: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Folders:
    """Where things are: raw DICOM files, if they are to be prepared, their labels, the store, and what is made.

    columns: names of columns of the labels by what they hold, where their header does not say so.
    """

    raw: Path | None
    labels: Path | None
    store: Path
    out: Path
    columns: tuple[tuple[str, str], ...] = ()

    def settings(self, step: PlannedStep) -> Path:
        """Where a training step finds its settings."""
        return self.out / "settings" / f"{step.name.replace('/', '-')}.yaml"


def plan_prepare(folders: Folders) -> Iterator[PlannedStep]:
    """Yield the step that makes the store, when there is something to make it of."""
    if folders.raw is not None:
        labels = [] if folders.labels is None else ["--labels", str(folders.labels)]
        facts: dict[str, Any] = {
            "raw": hashlib.sha256(str(real_path(folders.raw)).encode()).hexdigest()[:16]  # the path stays here
        }
        if folders.columns:
            labels += ["--columns", *("=".join(pair) for pair in folders.columns)]
            facts["columns"] = dict(folders.columns)
        yield PlannedStep(
            name=PREPARE,
            part="prepare",
            verb="prepare",
            arguments=(str(folders.raw), str(folders.store), *labels),
            output=folders.store,
            inputs=() if folders.labels is None else (folders.labels,),
            facts=facts,
        )


def plan_joint(config: RunConfig, folders: Folders) -> tuple[PlannedStep, ...]:
    """Plan the end-to-end counterpart of the single mode: one joint model on all the data, and its submission."""
    everything = config.model_copy(update={"validation_fold": None})
    plan = _Plan(folders)
    train = plan.train("joint", "sequences", everything, scale=_epochs(everything))
    predicted = folders.out / "predictions" / "joint.csv.gz"
    arguments = (_run(train), str(folders.store), "--out", str(predicted))
    predict = plan.add("predictions/joint", "sequences", "predict", arguments, predicted, depends=(train.name,))
    plan.bag([predict], clip=CLIP)
    return plan.steps


def plan_two_stage(
    mode: Mode, config: TwoStageConfig, folders: Folders, *, embeddings: Sequence[Path] = ()
) -> tuple[PlannedStep, ...]:
    """Plan a mode. embeddings: folders that the heads of mode fast learn from, one each; no other mode takes any."""
    assert bool(embeddings) == (mode == "fast")
    plan, chosen = _Plan(folders), config.of_mode(mode)
    sources = plan.stored(embeddings) if mode == "fast" else plan.images_and_embeddings(chosen)
    predictions = [plan.head(chosen, source, sources) for source in sources]
    plan.bag(predictions, clip=chosen.two_stage.clip)
    return plan.steps


def classifier_name(crop: Crop, fold: int | None) -> str:
    """What the classifier of a crop that held out `fold` is called, and its embeddings with `-epochN`."""
    return f"{crop}-{'all' if fold is None else f'fold{fold}'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """Embeddings that a head learns from: of which classifier, and the step that makes them, if one does.

    folds: the rule by which `fold` was held out; None leaves it to the configuration.
    """

    name: str
    folder: Path
    fold: int | None
    folds: FoldRule | None = None
    crop: Crop | None = None
    epoch: int | None = None
    depends: tuple[str, ...] = ()


class _Plan:
    """Collects steps."""

    def __init__(self, folders: Folders) -> None:
        self._folders = folders
        self._steps: list[PlannedStep] = list(plan_prepare(folders))
        self._first = tuple(step.name for step in self._steps)

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
                who = classifier_name(crop, fold)
                settings = config.image_run(crop=crop, fold=fold)
                classifier = self.train(f"images/{who}", "images", settings, scale=_epochs(settings), section="images")
                sources += [self._embeddings(config, classifier, who, crop, fold, e) for e in config.image_epochs]
        return sources

    def stored(self, embeddings: Sequence[Path]) -> list[_Source]:
        """Embeddings that are there already, named by their folders; heads hold out what their classifier did."""
        names = [Path(os.path.abspath(folder)).name for folder in embeddings]
        return [
            _Source(
                name=name if names.count(name) == 1 else f"{name}-{number}",
                folder=folder,
                fold=made_from.held_out_fold,
                folds=made_from.folds,
            )
            for number, (name, folder) in enumerate(zip(names, embeddings, strict=True))
            for made_from in [read_manifest(folder).source]
        ]

    def head(self, config: TwoStageConfig, source: _Source, sources: Sequence[_Source]) -> PlannedStep:
        """A head on embeddings, and what it predicts."""
        settings = config.sequence_run(fold=source.fold)
        if source.folds is not None:
            settings = settings.model_copy(update={"folds": source.folds})
        name = f"sequences/{source.name}"
        options, depends = ["--embeddings", str(source.folder)], source.depends
        if config.two_stage.out_of_fold:
            kin = [s for s in sources if (s.crop, s.epoch) == (source.crop, source.epoch)]
            options += [word for s in kin for word in ("--out-of-fold", f"{s.fold}={s.folder}")]
            depends = tuple(name for s in kin for name in s.depends)
        inputs = () if source.depends else (source.folder / EMBEDDINGS_MANIFEST,)
        trained = self.train(
            name,
            "sequences",
            settings,
            *options,
            depends=depends,
            inputs=inputs,
            scale=_epochs(settings),
            section="sequences",
        )
        out = self._folders.out / "predictions" / f"{source.name}.csv.gz"
        return self.add(
            f"predictions/{source.name}",
            "sequences",
            "predict",
            (_run(trained), str(self._folders.store), "--embeddings", str(source.folder), "--checkpoint", "epochs",
             "--out", str(out)),
            out,
            depends=(trained.name, *source.depends),
            scale=settings.epochs,
            spent=trained.output.parent,
        )  # fmt: skip

    def _embeddings(
        self, config: TwoStageConfig, classifier: PlannedStep, who: str, crop: Crop, fold: int | None, epoch: int
    ) -> _Source:
        name = f"{who}-epoch{epoch}"
        folder = self._folders.out / "embeddings" / name
        views = config.two_stage.views
        step = self.add(
            f"embeddings/{name}",
            "embeddings",
            "embed",
            (_run(classifier), str(self._folders.store), str(folder), "--checkpoint", f"epoch-{epoch}", "--views",
             ",".join(views)),
            folder,
            depends=(classifier.name,),
            facts={"epoch": epoch, "views": list(views)},
            scale=len(views),
        )  # fmt: skip
        return _Source(name=name, folder=folder, crop=crop, fold=fold, epoch=epoch, depends=(step.name,))


def _run(trained: PlannedStep) -> str:
    return str(trained.output.parent)


def _epochs(settings: RunConfig) -> int:
    return settings.epochs + (settings.slice_phase.epochs if settings.slice_phase else 0)
