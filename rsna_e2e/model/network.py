"""The joint model: a 2D CNN over every slice and a recurrent head over the whole series."""

# N slices (packed), B series, T longest series, C windows, S image side, L labels
# F features of the backbone, D embedding width after projection, H hidden width

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence, pad_sequence, unpack_sequence

from rsna_e2e.config import ModelConfig
from rsna_e2e.core.errors import MissingCapabilityError, UsageError, is_out_of_memory
from rsna_e2e.core.weights_file import load_weights
from rsna_e2e.model.pretrained import check_pretrained, no_weights
from rsna_e2e.model.slice_dropout import SliceDropout, SliceKeys, drop_by_slice
from rsna_e2e.tasks.task import Task

MOST_WEIGHTS = 10**10  # the largest of timm, a ViT of DINOv3, has 6.7e9
# What timm and torch raise for arguments that do not fit together: a short list, heads that do not divide a width, ...
_UNSUITED = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


class SequenceHead(nn.Module):
    """Two bidirectional LSTMs over embeddings with their lag and lead differences; logits for every slice.

    The head of the published 2nd-place solution of RSNA ICH 2019, at any width D, with its parameter names. hidden =
    h1 + h2 + relu(linear1(h1)) + relu(linear2(h2)) + [e, e]. Runs in float32 whatever the backbone's precision.

    padding packed: a series' logits do not depend on its batch mates. left, as published: each series gets zeros in
    front up to the longest of the batch, which the LSTMs run over as if they were slices. So logits depend on the
    series in one call, on batch mates: in training those of the whole batch, whatever chunks and ranks there are; in
    validation those that the same rank predicts. Differences never reach into the padding.
    """

    def __init__(self, embedding_width: int, n_labels: int, *, padding: Literal["packed", "left"] = "packed") -> None:
        super().__init__()
        self._padding = padding
        width = embedding_width
        self.lstm1 = nn.LSTM(3 * width, width, bidirectional=True)
        self.lstm2 = nn.LSTM(2 * width, width, bidirectional=True)
        self.linear1 = nn.Linear(2 * width, 2 * width)
        self.linear2 = nn.Linear(2 * width, 2 * width)
        self.linear = nn.Linear(2 * width, n_labels)

    def forward(self, embeddings_ND: torch.Tensor, lengths_B: torch.Tensor) -> torch.Tensor:
        """Return logits [N, L]. lengths_B: int64 on the CPU."""
        logits: torch.Tensor = self.linear(self.hidden(embeddings_ND, lengths_B))
        return logits

    def hidden(self, embeddings_ND: torch.Tensor, lengths_B: torch.Tensor) -> torch.Tensor:
        """Return the hidden states [N, 2D], of which the logits are a linear function."""
        series = [_with_deltas(e) for e in torch.split(embeddings_ND, lengths_B.tolist())]
        if self._padding == "left":
            inputs_TBI = pad_sequence(series, padding_side="left")
            h1_TBH, _ = self.lstm1(inputs_TBI)
            h2_TBH, _ = self.lstm2(h1_TBH)
            hidden_TBH = self._add_up(inputs_TBI, h1_TBH, h2_TBH)
            return torch.cat([hidden_TBH[-n:, b] for b, n in enumerate(lengths_B.tolist())])
        inputs = pack_sequence(series, enforce_sorted=False)
        h1, _ = self.lstm1(inputs)
        h2, _ = self.lstm2(h1)
        hidden = self._add_up(inputs.data, h1.data, h2.data)
        packed = PackedSequence(hidden, inputs.batch_sizes, inputs.sorted_indices, inputs.unsorted_indices)
        return torch.cat(unpack_sequence(packed))

    def _add_up(self, inputs: torch.Tensor, h1: torch.Tensor, h2: torch.Tensor) -> torch.Tensor:
        """[..., 3D], [..., 2D], [..., 2D] -> [..., 2D]: both layers, their transformations and the embedding twice."""
        embeddings = inputs[..., : inputs.shape[-1] // 3]
        added: torch.Tensor = h1 + h2 + torch.relu(self.linear1(h1)) + torch.relu(self.linear2(h2))
        return added + torch.cat([embeddings, embeddings], dim=-1)


class SeriesHead(nn.Module):
    """Logits of a whole series from the hidden states of its slices: their maximum and mean, and one linear layer."""

    def __init__(self, hidden_width: int, n_labels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(2 * hidden_width, n_labels)

    def forward(self, hidden_NH: torch.Tensor, lengths_B: torch.Tensor) -> torch.Tensor:
        """Return logits [B, L]. lengths_B: int64 on the CPU."""
        series = torch.split(hidden_NH, lengths_B.tolist())
        pooled = torch.stack([torch.cat([h.amax(0), h.mean(0)]) for h in series])
        logits: torch.Tensor = self.linear(pooled)
        return logits


@dataclass(frozen=True, slots=True)
class Logits:
    """Model output: slice logits [N, L] and, with a series head, series logits [B, L]."""

    slices: torch.Tensor
    series: torch.Tensor | None


class JointModel(nn.Module):
    """Backbone, optional projection, and heads: images of whole series to logits of every slice and of every series.

    With backbone "none" images are stored embeddings, [N, D, 1, 1], `n_channels` is D, and only the head is trained.

    `embed` works slice by slice and `classify` over whole series, so that they can be called apart. With
    `config.slice_loss_weight` > 0 there is also a linear classifier of single slices on the embeddings, an auxiliary
    target in training only; with `config.study_loss_weight` > 0 a head for whole series. With `config.head` "none" that
    classifier is the only head. `slice_keys`: of the slices being embedded, for the masks of dropout and drop-path.
    """

    def __init__(self, config: ModelConfig, *, n_channels: int, n_labels: int) -> None:
        super().__init__()
        self.backbone = _create_backbone(config, n_channels)
        self.slice_keys = SliceKeys()
        drop_by_slice(self.backbone, self.slice_keys)
        self.dropout = SliceDropout(config.backbone_dropout, self.slice_keys)
        self.n_features: int = getattr(self.backbone, "head_hidden_size", self.backbone.num_features)
        width = config.embedding_width or self.n_features
        self.projection = nn.Linear(self.n_features, width) if config.embedding_width else nn.Identity()
        self.n_labels = n_labels
        is_joint = config.head == "lstm"
        self.head = SequenceHead(width, n_labels, padding=config.padding) if is_joint else None
        self.slice_classifier = nn.Linear(width, n_labels) if config.slice_loss_weight > 0 else None
        # "study": saved weights have this name
        self.study_head = SeriesHead(2 * width, n_labels) if config.study_loss_weight > 0 else None

    @classmethod
    def for_task(cls, config: ModelConfig, task: Task, *, n_channels: int | None = None) -> Self:
        """Build a model whose outputs are a task's labels, and whose channels are its windows, unless given."""
        return cls(config, n_channels=n_channels or len(task.inputs.windows_hu), n_labels=len(task.slices.names))

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
            series = None if self.study_head is None else self.study_head(hidden, lengths_B)
            return Logits(self.head.linear(hidden), series)

    def classify_slices(self, embeddings_NF: torch.Tensor) -> torch.Tensor:
        """Return the slice classifier's logits [N, L], each of one slice alone, in float32."""
        assert self.slice_classifier is not None
        with _in_float32(embeddings_NF):
            logits: torch.Tensor = self.slice_classifier(self.projection(embeddings_NF))
        return logits


def flatten_lstms(module: nn.Module) -> None:
    """Make the weights of each LSTM contiguous on a GPU: in a copied module they are scattered, and cuDNN would gather
    them in every pass."""
    for child in module.modules():
        if isinstance(child, nn.RNNBase):
            child.flatten_parameters()


def _in_float32(tensor: torch.Tensor) -> torch.autocast:
    return torch.autocast(tensor.device.type, enabled=False)


def _with_deltas(embeddings_TD: torch.Tensor) -> torch.Tensor:
    """[T, D] -> [T, 3D]: each embedding, its difference to the previous slice and to the next; 0 at the ends."""
    step = embeddings_TD[1:] - embeddings_TD[:-1]
    none = torch.zeros_like(embeddings_TD[:1])
    return torch.cat([embeddings_TD, torch.cat([none, step]), torch.cat([-step, none])], dim=1)


def _create_backbone(config: ModelConfig, n_channels: int) -> Any:
    if config.backbone == "none":  # images are embeddings already, [N, D, 1, 1]
        nothing: Any = nn.Flatten()
        nothing.num_features = n_channels
        return nothing
    _check_weights(config, n_channels)
    backbone = _timm_model(config, n_channels, pretrained=config.pretrained and config.weights_file is None)
    if config.weights_file is not None:
        load_backbone(backbone, config.weights_file)
    return backbone


def load_backbone(backbone: nn.Module, path: Path) -> None:
    """Copy a safetensors file into a backbone, but for the file's classifier. Raises BadInputError."""
    load_weights(backbone, path, allow_extra=("fc.", "head.", "classifier."))


def _check_weights(config: ModelConfig, n_channels: int) -> None:
    """Raise UsageError, before memory is allocated, when arguments ask for more weights than any known model has."""
    if not config.backbone_arguments:
        return
    with torch.random.fork_rng(devices=[]), torch.device("meta"):  # leaves the random state to the real model
        sketch = _timm_model(config, n_channels, pretrained=False)
    n_weights = sum(weight.numel() for weight in sketch.parameters())
    if n_weights > MOST_WEIGHTS:
        raise UsageError(
            f"model.backbone_arguments make {config.backbone} a model of {n_weights:.2g} weights; "
            f"{MOST_WEIGHTS:.0e} are the most. Use smaller ones"
        )


def _timm_model(config: ModelConfig, n_channels: int, *, pretrained: bool) -> Any:
    import timm  # takes two seconds, and heads on embeddings need none of it

    if pretrained:
        check_pretrained(config.backbone)  # timm would try for a minute
    name, arguments = config.backbone, config.backbone_arguments
    try:
        return timm.create_model(name, pretrained=pretrained, num_classes=0, in_chans=n_channels, **arguments)
    except OSError as error:
        raise MissingCapabilityError(no_weights(name, error)) from None
    except _UNSUITED as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if "Unknown model" in reason:
            raise UsageError(f"timm knows no backbone {name!r}; timm.list_models() lists those it has") from None
        if is_out_of_memory(error):
            raise
        raise UsageError(
            f"model.backbone_arguments do not suit {name}: {reason}" if arguments else f"model.backbone: {reason}"
        ) from None
