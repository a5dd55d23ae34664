"""A trained run opened to be applied: its settings, task, device, and the network with the weights of a checkpoint."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from rsna_e2e.config import RunConfig
from rsna_e2e.core.device import Compute, choose_compute
from rsna_e2e.core.errors import BadInputError, UsageError
from rsna_e2e.inference.bundle import named, run_of
from rsna_e2e.loader.choice import check_order, choose_loader, count_channels
from rsna_e2e.loader.series_loader import SeriesLoader
from rsna_e2e.model.make import Network, make_network
from rsna_e2e.model.network import JointModel
from rsna_e2e.store import Store
from rsna_e2e.store.embeddings import Embeddings
from rsna_e2e.store.reader import check_labels
from rsna_e2e.tasks.task import Task
from rsna_e2e.training.checkpoint import check_task, find_checkpoint, load_model, weights_sha256
from rsna_e2e.training.operating_points import OperatingPoints, read_operating_points
from rsna_e2e.training.run_folder import read_config, read_manifest, read_task
from rsna_e2e.training.run_layout import MANIFEST


@dataclass(slots=True, kw_only=True)
class TrainedModel:
    """A run's model, ready to be applied to stores in the precision that the run asks for.

    embeddings: the input of a run without a backbone. checkpoint: folder of the weights that are loaded, saved after
    `epoch` epochs. damaged: messages about the checkpoints that were passed over for it.
    """

    run: Path
    config: RunConfig
    task: Task
    compute: Compute
    network: Network
    embeddings: Embeddings | None
    checkpoint: Path
    epoch: int
    damaged: tuple[str, ...]

    @classmethod
    def open(
        cls, run: Path, checkpoint: str = "auto", *, device: str = "auto", embeddings: Embeddings | None = None
    ) -> Self:
        """Open a run, or a bundle of one, with a checkpoint, named as `find_checkpoint` takes them, on `device`.

        Raises BadInputError when the folder is no run or has no such checkpoint, when a file is damaged, and when the
        embeddings are not by the classifiers that the run learned from; UsageError when embeddings are missing or too
        many.
        """
        run = run_of(run)
        damaged: list[str] = []
        folder = find_checkpoint(run, checkpoint, on_damaged=lambda error: damaged.append(str(error)))
        config = read_config(run)
        task = read_task(run, config)
        n_channels = count_channels(config, task, embeddings)
        if embeddings is not None:
            _check_classifiers(run, embeddings)
        compute = choose_compute(config.precision, device, cpu_threads=config.cpu_threads)
        network = make_network(config.model.without_initial_weights(), task, n_channels=n_channels)
        state = load_model(network, folder)
        check_task(folder, state, task)
        return cls(
            run=run,
            config=config,
            task=task,
            compute=compute,
            network=compute.place(network).eval(),
            embeddings=embeddings,
            checkpoint=folder,
            epoch=state.epoch,
            damaged=tuple(damaged),
        )

    @property
    def named(self) -> Path:
        """What the run is called in messages, see `bundle.named`."""
        return named(self.run)

    @property
    def joint(self) -> JointModel:
        """The network of a run that predicts labels. Raises UsageError for one that finds boxes."""
        if not isinstance(self.network, JointModel):
            raise UsageError(f"{self.named}: finds boxes and predicts no labels. For boxes: rsna-e2e predict")
        return self.network

    def load(self, checkpoint: str) -> None:
        """Replace the weights by those of another checkpoint of the run. Raises BadInputError as `open` does."""
        damaged: list[str] = []
        self.checkpoint = find_checkpoint(self.run, checkpoint, on_damaged=lambda error: damaged.append(str(error)))
        state = load_model(self.network, self.checkpoint)
        check_task(self.checkpoint, state, self.task)
        self.epoch = state.epoch
        self.damaged = tuple(damaged)

    @property
    def weights_sha256(self) -> str:
        """The sha256 of the file with the weights that are loaded."""
        return weights_sha256(self.checkpoint)

    @property
    def operating_points(self) -> OperatingPoints | None:
        """The run's thresholds, where they are of the epoch whose weights are loaded. Raises BadInputError."""
        points = read_operating_points(self.run)
        return points if points is not None and points.epoch == self.epoch else None

    def loader(self, store: Store) -> SeriesLoader:
        """Return the loader of its input from `store`.

        Raises BadInputError for a store prepared for another task, UsageError for one whose slices have another order.
        """
        check_labels(store, self.task)
        check_order(store, self.config, setting="")
        return choose_loader(store, self.config, task=self.task, compute=self.compute, embeddings=self.embeddings)


def _check_classifiers(run: Path, embeddings: Embeddings) -> None:
    """Raise BadInputError unless these are embeddings by classifiers whose embeddings the run learned from."""
    try:
        learned = read_manifest(run)["classifiers"]
        fits = len(learned) == len(embeddings.classifiers) and all(
            set(given) <= set(known) for given, known in zip(embeddings.classifiers, learned, strict=True)
        )
    except (TypeError, KeyError):
        raise BadInputError(f"{run / MANIFEST}: missing or damaged. Put it back from a copy, or train again") from None
    if not fits:
        raise BadInputError(
            f"{run}: learned from embeddings by other classifiers. Give those of the ones it learned from"
        )
