"""Configuration of the published pipelines: image classifiers, their embeddings, recurrent heads on these, and the
mean."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from rsna_e2e.config.limits import MOST_MEMBERS, Clip, Epochs, Fold
from rsna_e2e.config.run import RunConfig
from rsna_e2e.config.sections import Crop, FoldRule, Frozen, View
from rsna_e2e.core.limits import CLIP

Mode = Literal["full", "single", "fast"]

MOST_EMBEDDED = 10_000  # epochs of an image classifier that get embeddings and a head; each is a step of the plan


class TwoStageSettings(Frozen):
    """What the two-stage pipeline trains and averages.

    Every crop and fold gets a classifier of images; every epoch of it that is used gets embeddings of all views and a
    recurrent head on their mean; the predictions of all epochs of all heads are averaged.
    """

    match_reference: bool = False
    """Reproduce the published solution with its known bugs (docs/two_stage.md). By default they are fixed."""
    reference: Literal["darraghdog", "ec601"] = "darraghdog"
    """The solution that match_reference reproduces. darraghdog: 2nd place of RSNA ICH 2019. ec601: that of RSNA-STR
    Pulmonary Embolism 2020 by EC601."""
    jpeg: bool = False
    """With match_reference: pass the images through JPEG, as the published solution did."""
    folds: Annotated[tuple[Fold, ...], Field(max_length=MOST_MEMBERS)] | None
    """Folds that are held out in turn, each with models of its own. null: one model on all the data."""
    crops: Annotated[tuple[Crop, ...], Field(min_length=1)]
    """Values of image.crop; each has classifiers of its own."""
    views: Annotated[tuple[View, ...], Field(min_length=1)]
    """Views of an image whose embeddings are averaged (test-time augmentation)."""
    image_epochs: Annotated[tuple[Epochs, ...], Field(max_length=MOST_MEMBERS)] | None = None
    """Epochs of the image classifiers that get embeddings and a head, counted from 1; null: all."""
    out_of_fold: bool = False
    """Heads learn from embeddings by classifiers that have not seen the series; needs a classifier for every fold."""
    clip: Clip = CLIP
    """Predictions are limited to [clip, 1 - clip]."""

    @model_validator(mode="after")
    def _make_sense(self) -> "TwoStageSettings":
        if self.jpeg and not self.match_reference:
            raise ValueError("jpeg needs match_reference=true")
        if self.jpeg and self.reference != "darraghdog":
            raise ValueError("jpeg is of reference=darraghdog: leave it out")
        if self.out_of_fold and self.folds is None:
            raise ValueError("out_of_fold needs folds: it cannot be used with folds=null")
        for name in ("folds", "crops", "views", "image_epochs"):
            values = getattr(self, name) or ()
            if len(set(values)) < len(values):
                raise ValueError(f"{name} lists a value twice")
        return self


class TwoStageConfig(Frozen):
    """The two-stage pipeline: its own settings, and the settings of its kinds of training run.

    two_stage decides their crop and validation_fold, and that the checkpoints of all epochs are kept; match_reference
    turns on all quirks of the published solution together. To try one quirk alone, leave match_reference off and set
    that one, such as sequences.model.padding=left.
    """

    recipe: str
    """Name of the recipe that the settings came from."""
    two_stage: TwoStageSettings
    """What is trained and averaged."""
    images: RunConfig
    """Runs that train the classifiers of single images."""
    beside: Annotated[tuple[RunConfig, ...], Field(max_length=MOST_MEMBERS)] = ()
    """Further classifiers of every crop and fold, set as beside.0 and so on; heads learn from the embeddings of all of
    them side by side, those of images first."""
    sequences: RunConfig
    """Runs that train the recurrent heads on stored embeddings."""
    series_sequences: RunConfig | None = None
    """Runs that train heads of their own for the labels of whole series, which then come from these, and those of
    slices from sequences. null: sequences predicts both."""

    @model_validator(mode="after")
    def _are_two_stages(self) -> "TwoStageConfig":
        n_epochs = {}
        for name, run in self.image_runs.items():
            if run.model.head != "none":
                raise ValueError(f"{name} trains a classifier of single images: set {name}.model.head=none")
            assert run.slice_phase is not None  # without a head there is one
            n_epochs[name] = run.slice_phase.epochs
        last = max(self.two_stage.image_epochs or (n_epochs["images"],))
        if too_few := [name for name, n in n_epochs.items() if n < last]:
            raise ValueError(f"image_epochs lists an epoch after the last: raise {too_few[0]}.slice_phase.epochs")
        for name, run in self.head_runs.items():
            if run.model.backbone != "none":
                raise ValueError(f"{name} trains on embeddings: set {name}.model.backbone=none")
        if len({run.task for run in self.runs}) > 1:
            raise ValueError("the runs have several tasks: give all of them one")
        if self.two_stage.image_epochs is None and last > MOST_EMBEDDED:
            raise ValueError(f"every epoch gets a head, and at most {MOST_EMBEDDED} can: list fewer in image_epochs")
        return self

    @property
    def image_runs(self) -> dict[str, RunConfig]:
        """Runs of classifiers of single images by the names of their sections, in the order of their embeddings."""
        return {"images": self.images} | {f"beside.{number}": run for number, run in enumerate(self.beside)}

    @property
    def head_runs(self) -> dict[str, RunConfig]:
        """Runs of recurrent heads on embeddings by the names of their sections."""
        of_series = {} if self.series_sequences is None else {"series_sequences": self.series_sequences}
        return {"sequences": self.sequences} | of_series

    @property
    def runs(self) -> tuple[RunConfig, ...]:
        """All runs."""
        return (*self.image_runs.values(), *self.head_runs.values())

    @property
    def image_epochs(self) -> tuple[int, ...]:
        """Epochs, from 1, of an image classifier whose embeddings are used."""
        assert self.images.slice_phase is not None
        return self.two_stage.image_epochs or tuple(range(1, self.images.slice_phase.epochs + 1))

    def of_mode(self, mode: Mode) -> "TwoStageConfig":
        """What a mode trains: full as configured; single one model on all the data, its first crop, images as they are;
        fast the heads on the embeddings of the first crop and fold alone."""
        settings = self.two_stage
        if mode == "full":
            return self
        changes: dict[str, object] = {"crops": settings.crops[:1]}
        if mode == "single":
            changes |= {"folds": None, "views": ("plain",), "out_of_fold": False}
        elif settings.folds is not None:
            changes |= {"folds": settings.folds[:1], "out_of_fold": False}
        return self.model_copy(update={"two_stage": settings.model_copy(update=changes)})

    @property
    def images_folds(self) -> FoldRule:
        """The rule by which series belong to folds."""
        if not self.two_stage.match_reference:
            return self.images.folds
        return "published" if self.two_stage.reference == "darraghdog" else "csv"

    def image_run(self, *, crop: Crop, fold: int | None, section: str = "images") -> RunConfig:
        """The run that trains an image classifier of a crop with `fold` held out. section: one of `image_runs`."""
        settings, config = self.two_stage, self.image_runs[section]
        image: dict[str, object] = {"crop": crop}
        if self._matches("darraghdog"):
            crop = "none" if crop == "none" else "slice"
            values = "jpeg" if settings.jpeg else "uint8"
            image = {"crop": crop, "square": "upper_left", "values": values, "supersample": 1}
        return config.model_copy(
            update={
                **self._split(fold),
                "image": config.image.model_copy(update=image),
                "checkpoint": config.checkpoint.model_copy(update={"keep_epochs": True}),
            }
        )

    def sequence_run(self, *, fold: int | None, section: str = "sequences") -> RunConfig:
        """The run that trains a recurrent head on embeddings with `fold` held out. section: one of `head_runs`."""
        config = self.head_runs[section]
        quirks: dict[str, object] = {}
        if self._matches("darraghdog"):
            quirks["loader"] = config.loader.model_copy(update={"slice_order": "published"})
            quirks["model"] = config.model.model_copy(update={"padding": "left"})
        elif self._matches("ec601"):
            quirks["loader"] = config.loader.model_copy(update={"slice_order": "csv"})
        return config.model_copy(
            update={
                **self._split(fold),
                **quirks,
                "checkpoint": config.checkpoint.model_copy(update={"keep_epochs": True}),
            }
        )

    def _split(self, fold: int | None) -> dict[str, object]:
        """Source of the thousand slices: darraghdog/rsna, trainorig.py."""
        split: dict[str, object] = {"validation_fold": fold}
        if self.two_stage.match_reference:
            split["folds"] = self.images_folds
        if self._matches("darraghdog"):
            split["training_slices_scored"] = 1000 if fold is None else None
        return split

    def _matches(self, reference: str) -> bool:
        """Whether the quirks of this solution are turned on."""
        return self.two_stage.match_reference and self.two_stage.reference == reference
