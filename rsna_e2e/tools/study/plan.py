"""The steps of the study on one store, and where its predictions are."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rsna_e2e.config import RunConfig
from rsna_e2e.tasks import metrics
from rsna_e2e.tools.study.design import JOINT, Design, Way
from rsna_e2e.training.pipeline.plan import Planner
from rsna_e2e.training.pipeline.planned_step import PREPARE, Folders, PlannedStep

TEST_TRUTH = "stage_2_test_truth.csv"
N_FOLDS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulated:
    """Data to simulate: studies of a context, of which a share is for the test."""

    context: str
    n_studies: int
    test_fraction: float
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One training of a way with a seed: what it predicts for the test, and the runs that it took.

    embedded: names of the steps that stored embeddings on the way. epoch: None at the end; else after which the
    predictions are, for the learning curve.
    """

    way: Way
    seed: int
    submission: Path
    runs: tuple[Path, ...]
    embedded: tuple[str, ...] = ()
    epoch: int | None = None


class StudyPlan:
    """Plans all ways and seeds on the store of `folders`, which has `N_FOLDS` folds.

    simulated: how the store is made; None when it is there.
    """

    def __init__(self, design: Design, folders: Folders, *, simulated: Simulated | None) -> None:
        self._design, self._folders = design, folders
        self._planner = Planner(folders, design.joint.task, () if simulated is None else self._data(simulated))
        self.members: list[Member] = []
        for seed in design.seeds:
            self._classifier_and_what_follows(seed)
        for way in JOINT:
            for seed in design.seeds_of(way):
                self._joint(way, seed)
        for seed in design.seeds_of("out_of_fold"):
            self._out_of_fold(seed)

    @property
    def steps(self) -> tuple[PlannedStep, ...]:
        """All steps, in the order in which they can be run."""
        return self._planner.steps

    def _data(self, simulated: Simulated) -> Iterator[PlannedStep]:
        raw, store = self._folders.raw, self._folders.store
        assert raw is not None
        words = {
            "--studies": simulated.n_studies,
            "--seed": simulated.seed,
            "--context": simulated.context,
            "--test-fraction": simulated.test_fraction,
        }
        options = [str(word) for pair in words.items() for word in pair]
        yield PlannedStep(
            name="synth",
            part="prepare",
            verb="synth",
            arguments=(str(raw), "--prevalence", "demo", *options),
            output=raw,
            facts={name.strip("-"): value for name, value in words.items()},
        )
        yield PlannedStep(
            name=PREPARE,
            part="prepare",
            verb="prepare",
            arguments=(str(raw), str(store), "--folds", str(N_FOLDS)),
            output=store,
            depends=("synth",),
            facts={"folds": N_FOLDS},
        )

    def _classifier_and_what_follows(self, seed: int) -> None:
        trained = self._train(f"slices-{seed}", self._design.classifier(seed))
        predicted = self._predict("slices", seed, (trained,))
        out = self._out(f"mean-{seed}")
        smoothed = self._planner.add(
            f"predictions/mean-{seed}",
            "bag",
            "smooth",
            (str(predicted.output), "--out", str(out)),
            out,
            depends=(predicted.name,),
            task=self._design.joint.task,
        )
        self.members.append(Member(way="mean", seed=seed, submission=smoothed.output, runs=(_run(trained),)))
        embedded = self._embed(trained, f"slices-{seed}")
        head = self._head(f"in_sample-{seed}", self._design.sequence_head(seed), embedded)
        self._predict("in_sample", seed, (trained, head), embedded=embedded)

    def _out_of_fold(self, seed: int) -> None:
        """A classifier of each half of the data, which together see as many slices as one that sees all, each with a
        head that learns from the half that its classifier held out; the mean of what the heads predict."""
        heads: list[PlannedStep] = []
        runs: list[Path] = []
        names: list[str] = []
        for fold in range(N_FOLDS):
            name = f"{seed}-fold{fold}"
            trained = self._train(f"slices-{name}", self._design.classifier(seed, fold=fold))
            embedded = self._embed(trained, f"slices-{name}")
            head = self._head(f"out_of_fold-{name}", self._design.sequence_head(seed, fold=fold), embedded)
            heads.append(self._step_of_prediction(f"out_of_fold-{name}", head, embedded=embedded))
            runs += [_run(trained), _run(head)]
            names.append(embedded.name)
        out = self._out(f"out_of_fold-{seed}")
        self._planner.add(
            f"predictions/out_of_fold-{seed}",
            "bag",
            "bag",
            (*(str(step.output) for step in heads), "--clip", repr(metrics.LOG_LOSS_EPS), "--out", str(out)),
            out,
            depends=tuple(step.name for step in heads),
            task=self._design.joint.task,
        )
        self.members.append(
            Member(way="out_of_fold", seed=seed, submission=out, runs=tuple(runs), embedded=tuple(names))
        )

    def _joint(self, way: Way, seed: int) -> None:
        self._predict(way, seed, (self._train(f"{way}-{seed}", self._design.joint_run(way, seed)),))

    def _predict(
        self, way: Way, seed: int, trained: tuple[PlannedStep, ...], *, embedded: PlannedStep | None = None
    ) -> PlannedStep:
        """Predict the test after the last epoch and, with the first seed, after each of those before."""
        last, runs = trained[-1], tuple(_run(step) for step in trained)
        if seed == self._design.seeds[0] and embedded is None:
            for epoch in _epochs_that_predict(last.settings):
                curve = self._step_of_prediction(f"{way}-{seed}-epoch{epoch}", last, epoch=epoch)
                self.members.append(Member(way=way, seed=seed, submission=curve.output, runs=runs, epoch=epoch))
        step = self._step_of_prediction(f"{way}-{seed}", last, embedded=embedded)
        names = () if embedded is None else (embedded.name,)
        self.members.append(Member(way=way, seed=seed, submission=step.output, runs=runs, embedded=names))
        return step

    def _step_of_prediction(
        self, name: str, trained: PlannedStep, *, embedded: PlannedStep | None = None, epoch: int | None = None
    ) -> PlannedStep:
        out = self._out(name)
        checkpoint = "last" if epoch is None else f"epoch-{epoch}"
        words = [str(_run(trained)), str(self._folders.store), "--checkpoint", checkpoint, "--out", str(out)]
        depends = [trained.name]
        if embedded is not None:
            words += ["--embeddings", str(embedded.output)]
            depends.append(embedded.name)
        return self._planner.add(
            f"predictions/{name}",
            "sequences",
            "predict",
            tuple(words),
            out,
            depends=tuple(depends),
            facts={"checkpoint": checkpoint},
        )

    def _train(self, name: str, settings: RunConfig) -> PlannedStep:
        return self._planner.train(f"runs/{name}", "images", settings, scale=1)

    def _head(self, name: str, settings: RunConfig, embedded: PlannedStep) -> PlannedStep:
        given = ("--embeddings", str(embedded.output))
        return self._planner.train(f"runs/{name}", "sequences", settings, *given, depends=(embedded.name,), scale=1)

    def _embed(self, trained: PlannedStep, name: str) -> PlannedStep:
        folder = self._folders.out / "embeddings" / name
        return self._planner.add(
            f"embeddings/{name}",
            "embeddings",
            "embed",
            (str(_run(trained)), str(self._folders.store), str(folder), "--checkpoint", "last"),
            folder,
            depends=(trained.name,),
        )

    def _out(self, name: str) -> Path:
        return self._folders.out / "predictions" / f"{name}.csv"


def _epochs_that_predict(settings: RunConfig | None) -> range:
    """Epochs before the last that predict: of a joint model those on series, as its head has not learned before."""
    assert settings is not None
    of_slices = settings.slice_phase.epochs if settings.slice_phase else 0
    if settings.model.head == "none":
        return range(1, of_slices)
    return range(of_slices + 1, of_slices + settings.epochs)


def _run(trained: PlannedStep) -> Path:
    return trained.output.parent
