"""The joint model: a 2D CNN over every slice and a recurrent head over the whole series."""

# N slices (packed), B series, C windows, S image side, L labels, M labels of series, K branches of their tree
# F features of the backbone, D embedding width after projection

from dataclasses import dataclass
from typing import Self

import torch
from torch import nn

from rsna_e2e.config import ModelConfig
from rsna_e2e.model.backbones import create_backbone
from rsna_e2e.model.heads import OneWayHead, SequenceHead, SeriesHead, make_classifier
from rsna_e2e.model.slice_dropout import SliceDropout, SliceKeys, drop_by_slice
from rsna_e2e.model.tree import branches, marginal_logits
from rsna_e2e.tasks.task import Labels, Task


@dataclass(frozen=True, slots=True)
class Logits:
    """Model output: slice logits [N, L] and, with a series head, series logits [B, M]."""

    slices: torch.Tensor
    series: torch.Tensor | None


class JointModel(nn.Module):
    """Backbone, optional projection, and heads: images of whole series to logits of every slice and of every series.

    With backbone "none" images are stored embeddings, [N, D, 1, 1], `n_channels` is D, and only the head is trained.

    `embed` works slice by slice and `classify` over whole series, so that they can be called apart. With
    `config.slice_loss_weight` > 0 there is also a classifier of single slices on the embeddings, an auxiliary
    target in training only; with `config.study_loss_weight` > 0, and for a task whose series have labels of their own,
    a head for whole series. With `config.head` "none" that classifier is the only head. `slice_keys`: of the slices
    being embedded, for the masks of dropout and drop-path.

    own_series: the labels of series of a task that has such; None: those of the slices. Where they have a tree, the
    series head has one output for each of its branches, and the logits are those of the labels' probabilities, which
    obey the tree.
    """

    def __init__(
        self, config: ModelConfig, *, n_channels: int, n_labels: int, own_series: Labels | None = None
    ) -> None:
        super().__init__()
        self.backbone = create_backbone(config, n_channels)
        self.slice_keys = SliceKeys()
        drop_by_slice(self.backbone, self.slice_keys)
        self.dropout = SliceDropout(config.backbone_dropout, self.slice_keys)
        self.n_features: int = getattr(self.backbone, "head_hidden_size", self.backbone.num_features)
        width = config.embedding_width or self.n_features
        self.projection = nn.Linear(self.n_features, width) if config.embedding_width else nn.Identity()
        self.n_labels = n_labels
        self.n_series_labels = n_labels if own_series is None else len(own_series)
        self.head = _make_head(config, width, n_labels)
        self.slice_classifier = (
            make_classifier(width, n_labels, kind=config.classifier, dropout=config.classifier_dropout)
            if config.slice_loss_weight > 0
            else None
        )
        self._own_series = own_series
        # "study": saved weights have this name
        self.study_head = self._make_series_head(config)

    @classmethod
    def for_task(cls, config: ModelConfig, task: Task, *, n_channels: int | None = None) -> Self:
        """Build a model whose outputs are a task's labels, and whose channels are its windows, unless given.

        Raises UsageError for the settings of a network that finds boxes.
        """
        config.check_predicts_labels("this")
        return cls(
            config,
            n_channels=n_channels or len(task.inputs.windows_hu),
            n_labels=len(task.slices),
            own_series=task.series if task.series_truth == "own" else None,
        )

    def embed(self, images_NCSS: torch.Tensor) -> torch.Tensor:
        """Return float32 embeddings [N, F], the backbone's features, in the autocast precision of the caller."""
        features: torch.Tensor = self.dropout(self.backbone(images_NCSS).float())
        return features

    def forward(self, images_NCSS: torch.Tensor, lengths_B: torch.Tensor) -> Logits:
        """Return the logits of every slice and series."""
        return self.classify(self.embed(images_NCSS), lengths_B)

    def classify(self, embeddings_NF: torch.Tensor, lengths_B: torch.Tensor) -> Logits:
        """Return the logits of every slice and series from embeddings, in float32."""
        if self.head is None:
            return Logits(self.classify_slices(embeddings_NF), None)
        with _in_float32(embeddings_NF):
            hidden = self.head.hidden(self.projection(embeddings_NF), lengths_B)
            logits = self.head.linear(hidden)
            return Logits(
                logits,
                None if self.study_head is None else self._of_labels(self.study_head(hidden, logits, lengths_B)),
            )

    def classify_one(self, embeddings_TF: torch.Tensor) -> Logits:
        """Return `classify` of one whole series, by operators that ONNX has."""
        if self.head is None:
            return Logits(self.classify_slices(embeddings_TF), None)
        with _in_float32(embeddings_TF):
            hidden = self.head.hidden_of_one(self.projection(embeddings_TF))
            logits = self.head.linear(hidden)
            return Logits(
                logits, None if self.study_head is None else self._of_labels(self.study_head.of_one(hidden, logits))
            )

    def classify_slices(self, embeddings_NF: torch.Tensor) -> torch.Tensor:
        """Return the slice classifier's logits [N, L], each of one slice alone, in float32."""
        assert self.slice_classifier is not None
        with _in_float32(embeddings_NF):
            logits: torch.Tensor = self.slice_classifier(self.projection(embeddings_NF))
        return logits

    def start_head(self) -> None:
        """Start the recurrent head as the classifier of single slices, see `SequenceHead.start_as`."""
        assert isinstance(self.head, SequenceHead)
        assert isinstance(self.slice_classifier, nn.Linear)
        self.head.start_as(self.slice_classifier)

    def _of_labels(self, raw_BK: torch.Tensor) -> torch.Tensor:
        """Return the logits of the labels of series [B, M] from the outputs of their head."""
        labels = self._own_series
        return marginal_logits(raw_BK, labels.tree, labels.names) if labels is not None and labels.tree else raw_BK

    def _make_series_head(self, config: ModelConfig) -> SeriesHead | None:
        if self.head is None or (self._own_series is None and config.study_loss_weight == 0):
            return None
        tree = () if self._own_series is None else self._own_series.tree
        pool = "last" if config.head == "one_way" else config.pool
        n_outputs = len(branches(tree)) or self.n_series_labels
        return SeriesHead(self.head.width, n_outputs, n_slice_labels=self.n_labels, pool=pool)


def _make_head(config: ModelConfig, width: int, n_labels: int) -> SequenceHead | OneWayHead | None:
    match config.head:
        case "lstm":
            return SequenceHead(width, n_labels, padding=config.padding)
        case "one_way":
            return OneWayHead(width, config.head_width, n_labels)
        case "none":
            return None


def _in_float32(tensor: torch.Tensor) -> torch.autocast:
    return torch.autocast(tensor.device.type, enabled=False)
