"""Configuration of the published pipeline: image classifiers, their embeddings, recurrent heads on these, and the
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
        if self.out_of_fold and self.folds is None:
            raise ValueError("out_of_fold needs folds: it cannot be used with folds=null")
        for name in ("folds", "crops", "views", "image_epochs"):
            values = getattr(self, name) or ()
            if len(set(values)) < len(values):
                raise ValueError(f"{name} lists a value twice")
        return self


class TwoStageConfig(Frozen):
    """The two-stage pipeline: its own settings, and the settings of its two kinds of training run.

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
    sequences: RunConfig
    """Runs that train the recurrent heads on stored embeddings."""

    @model_validator(mode="after")
    def _are_two_stages(self) -> "TwoStageConfig":
        if self.images.model.head != "none":
            raise ValueError("images trains a classifier of single images: set images.model.head=none")
        if self.sequences.model.backbone != "none":
            raise ValueError("sequences trains on embeddings: set sequences.model.backbone=none")
        assert self.images.slice_phase is not None  # without a head there is one
        if max(self.two_stage.image_epochs or (1,)) > self.images.slice_phase.epochs:
            raise ValueError("image_epochs lists an epoch after the last: raise images.slice_phase.epochs")
        if self.two_stage.image_epochs is None and self.images.slice_phase.epochs > MOST_EMBEDDED:
            raise ValueError(f"every epoch gets a head, and at most {MOST_EMBEDDED} can: list fewer in image_epochs")
        return self

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
        return "published" if self.two_stage.match_reference else self.images.folds

    def image_run(self, *, crop: Crop, fold: int | None) -> RunConfig:
        """The run that trains the image classifier of a crop with `fold` held out."""
        settings, config = self.two_stage, self.images
        image: dict[str, object] = {"crop": crop}
        if settings.match_reference:
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

    def sequence_run(self, *, fold: int | None) -> RunConfig:
        """The run that trains a recurrent head on embeddings with `fold` held out."""
        settings, config = self.two_stage, self.sequences
        quirks: dict[str, object] = {}
        if settings.match_reference:
            quirks["loader"] = config.loader.model_copy(update={"slice_order": "published"})
            quirks["model"] = config.model.model_copy(update={"padding": "left"})
        return config.model_copy(
            update={
                **self._split(fold),
                **quirks,
                "checkpoint": config.checkpoint.model_copy(update={"keep_epochs": True}),
            }
        )

    def _split(self, fold: int | None) -> dict[str, object]:
        """Source of the thousand slices: darraghdog/rsna, trainorig.py."""
        if not self.two_stage.match_reference:
            return {"validation_fold": fold}
        return {
            "validation_fold": fold,
            "folds": "published",
            "training_slices_scored": 1000 if fold is None else None,
        }
