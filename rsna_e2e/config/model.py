"""The section of a configuration that says what the network is."""

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from rsna_e2e.config.backbone import Arguments, Backbone
from rsna_e2e.config.boxes import DetectorConfig, SegmenterConfig
from rsna_e2e.config.limits import Fraction, Weight, Width
from rsna_e2e.config.sections import Frozen
from rsna_e2e.core.errors import UsageError

RESIDUAL = "residual"  # the backbone that a segmenter is
_OF_LABELS = ("classifier", "classifier_dropout", "backbone_dropout", "embedding_width", "slice_loss_weight")
HEAD_WIDTH = 64  # EC601: RSNA-STR Pulmonary Embolism 2020


class ModelConfig(Frozen):
    """A backbone on every slice and a recurrent head over the series."""

    backbone: Backbone
    """Name of the backbone in timm, such as resnet50.a1_in1k, or one of torchvision that timm lacks:
    torchvision.squeezenet1_0, torchvision.squeezenet1_1, torchvision.alexnet. none takes stored embeddings in place of
    images; residual is the network of model.segmenter."""
    backbone_arguments: Arguments = Field(default={})
    """Arguments of timm.create_model, such as {drop_path_rate: 0.1}, or {global_pool: catavgmax} for mean and maximum
    side by side; rsna_e2e/config/backbone.py lists those that are accepted."""
    pretrained: bool = False
    """Start the backbone from the weights that timm or torchvision downloads for it."""
    weights_file: Path | None = None
    """Start the backbone from this local safetensors file; nothing is downloaded."""
    head: Literal["lstm", "one_way", "none"] = "lstm"
    """Recurrent head over the series. lstm: two bidirectional LSTMs, of the published solution of RSNA ICH 2019.
    one_way: one LSTM from the first slice to the last, as in the published solution of RSNA-STR Pulmonary Embolism 2020
    (EC601). none: a classifier of single slices, which needs epochs=0 and a slice_phase."""
    head_width: Width = HEAD_WIDTH
    """Hidden width of the head one_way; that of lstm follows from its embeddings."""
    pool: Literal["max_mean", "attention", "evidence"] = "max_mean"
    """How the head for whole series sums up the states of its slices in the head lstm; in one_way it takes the last.
    max_mean: their maximum and mean. attention: four weighted means, with weights that are learned. evidence: their
    mean weighted by the softmax of the slices' logits, and the maximum, mean and log of the mean exponential of those
    logits, for each label of slices."""
    padding: Literal["packed", "left"] = "packed"
    """How the head handles series of different lengths in a batch. packed: they do not affect each other. left, as the
    published solution did: shorter series get zeros in front that are not masked, so that logits depend on the other
    series of the batch."""
    embedding_width: Width | None = None
    """Width that a linear layer brings the features of the backbone to before the head; null keeps their number."""
    classifier: Literal["linear", "mlp"] = "linear"
    """The classifier of head none. linear: one layer. mlp: two with BatchNorm and dropout, the head of fastai's image
    classifiers: BatchNorm, dropout, 512 features, ReLU, BatchNorm, dropout, labels."""
    classifier_dropout: Fraction = 0.5
    """Dropout probability before the last layer of the classifier mlp; before its first it is half of that."""
    backbone_dropout: Fraction = 0.0
    """Dropout probability of the backbone's features in training. Drop-path is drop_path_rate in
    model.backbone_arguments."""
    batchnorm: Literal["train", "frozen"] = "train"
    """BatchNorm of the backbone in epochs on whole series, and of networks that find boxes in theirs on single images.
    train: every chunk, or batch of images, is normalised by its own statistics. frozen: by the running statistics, so
    that a step depends neither on chunks nor on the number of GPUs."""
    slice_loss_weight: Weight = 0.0
    """Weight in the loss of an auxiliary classifier of single slices on the embeddings. It is used in training only."""
    sequence_loss_weight: Weight = 1.0
    """Weight in the loss of the recurrent head's predictions for slices; 0 trains its head for whole series alone."""
    # "study": saved runs have this name
    study_loss_weight: Weight = 0.0
    """Weight in the loss of a head for whole series. It predicts the labels that series have of their own, and where
    they have none, whether any slice has a label; without labels of their own, 0 means no such head."""
    loss: Literal["score", "log_loss"] = "score"
    """Loss of the recurrent head. score: the one that the task is scored by. log_loss: the log losses of slices and of
    whole series, each a mean by itself, with sequence_loss_weight and study_loss_weight, as EC601 trained for a task
    whose score is over both at once."""
    slice_floor: Weight = 0.05
    """For tasks scored as RSNA-STR Pulmonary Embolism 2020, whose metric weighs a slice by the share of positive slices
    in its series, so that those of negative series weigh nothing: in training this is added to that weight."""

    detector: DetectorConfig | None = None
    """Find boxes on the maps of the backbone, in place of all other heads: needs model.head=none."""
    segmenter: SegmenterConfig | None = None
    """Find boxes by segmentation, in place of backbone and heads: needs model.backbone=residual, model.head=none."""

    @property
    def finds_boxes(self) -> bool:
        """Whether it finds boxes in images, in place of labels of slices and series."""
        return self.detector is not None or self.segmenter is not None

    @model_validator(mode="after")
    def _heads_go_together(self) -> "ModelConfig":
        if self.head_width != HEAD_WIDTH and self.head != "one_way":
            raise ValueError("head_width is of the head one_way: leave it out, or set model.head=one_way")
        if self.pool != "max_mean" and self.head != "lstm":
            raise ValueError(f"pool {self.pool} is over the states of the head lstm: set model.head=lstm")
        if self.classifier == "mlp" and self.head != "none":
            raise ValueError("classifier mlp is of slices alone: leave it out, or set model.head=none")
        if self.padding == "left" and self.head == "one_way":
            raise ValueError("padding left is of the head lstm: leave it out, or set model.head=lstm")
        if self.head != "none" and self.sequence_loss_weight == 0 and self.study_loss_weight == 0:
            raise ValueError(
                "nothing trains the recurrent head: set model.sequence_loss_weight or model.study_loss_weight above 0"
            )
        return self

    @model_validator(mode="after")
    def _boxes_are_found_in_one_way(self) -> "ModelConfig":
        if self.detector is not None and self.segmenter is not None:
            raise ValueError("one of model.detector and model.segmenter finds boxes: set the other to null")
        if (self.segmenter is not None) != (self.backbone == RESIDUAL):
            raise ValueError("the backbone residual and model.segmenter go together: set both, or neither")
        if self.finds_boxes and self.head != "none":
            raise ValueError("model.detector and model.segmenter find boxes in single images: set model.head=none")
        if self.detector is not None and self.backbone == "none":
            raise ValueError("model.backbone none takes stored embeddings, in which there are no boxes")
        idle = [name for name in _OF_LABELS if getattr(self, name) != type(self).model_fields[name].default]
        if self.finds_boxes and idle:
            raise ValueError(f"{', '.join(idle)}: of networks that predict labels; leave out what does not find boxes")
        if self.segmenter is not None and (self.pretrained or self.weights_file is not None):
            raise ValueError("the backbone residual has no weights to start from: set model.pretrained=false")
        return self

    def check_predicts_labels(self, what: str) -> None:
        """Raise UsageError where it finds boxes, which `what` is not for."""
        if self.finds_boxes:
            raise UsageError(
                f"{what} is for networks that predict labels, and model.detector or model.segmenter finds boxes. Give "
                "another recipe, such as xray_classify"
            )

    def without_initial_weights(self) -> "ModelConfig":
        """The same architecture, for weights that come from a checkpoint."""
        return self.model_copy(update={"pretrained": False, "weights_file": None})
