"""Heads over the slices of a series: recurrent ones for every slice, and one for the series as a whole."""

# N slices (packed), B series, T longest series, D embedding width, H hidden width, L labels, P attention heads

import math
from typing import Literal

import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence, pad_sequence, unpack_sequence

N_ATTENTION_HEADS = 4
MLP_WIDTH = 512  # fastai's

Pool = Literal["max_mean", "attention", "evidence", "last"]


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
        self.width = 2 * width
        self.lstm1 = nn.LSTM(3 * width, width, bidirectional=True)
        self.lstm2 = nn.LSTM(2 * width, width, bidirectional=True)
        self.linear1 = nn.Linear(2 * width, 2 * width)
        self.linear2 = nn.Linear(2 * width, 2 * width)
        self.linear = nn.Linear(2 * width, n_labels)

    def forward(self, embeddings_ND: torch.Tensor, lengths_B: torch.Tensor) -> torch.Tensor:
        """Return logits [N, L]. lengths_B: int64 on the CPU."""
        logits: torch.Tensor = self.linear(self.hidden(embeddings_ND, lengths_B))
        return logits

    @torch.no_grad()
    def start_as(self, classifier: nn.Linear) -> None:
        """Make the logits those of a classifier of embeddings [D] to [L], plus what the LSTMs add to the states."""
        self.linear.weight.copy_(torch.cat([classifier.weight, classifier.weight], dim=1) / 2)  # hidden has [e, e]
        self.linear.bias.copy_(classifier.bias)

    def hidden(self, embeddings_ND: torch.Tensor, lengths_B: torch.Tensor) -> torch.Tensor:
        """Return the hidden states [N, 2D], of which the logits are a linear function."""
        series = [_with_deltas(e) for e in torch.split(embeddings_ND, lengths_B.tolist())]
        if self._padding == "left":
            hidden_TBH = self._run(pad_sequence(series, padding_side="left"))
            return torch.cat([hidden_TBH[-n:, b] for b, n in enumerate(lengths_B.tolist())])
        inputs = pack_sequence(series, enforce_sorted=False)
        h1, _ = self.lstm1(inputs)
        h2, _ = self.lstm2(h1)
        return _in_order(self._add_up(inputs.data, h1.data, h2.data), inputs)

    def hidden_of_one(self, embeddings_TD: torch.Tensor) -> torch.Tensor:
        """Return `hidden` of one whole series, by operators that ONNX has."""
        return self._run(_with_deltas(embeddings_TD)[:, None])[:, 0]

    def _run(self, inputs_TBI: torch.Tensor) -> torch.Tensor:
        h1_TBH, _ = self.lstm1(inputs_TBI)
        h2_TBH, _ = self.lstm2(h1_TBH)
        return self._add_up(inputs_TBI, h1_TBH, h2_TBH)

    def _add_up(self, inputs: torch.Tensor, h1: torch.Tensor, h2: torch.Tensor) -> torch.Tensor:
        """[..., 3D], [..., 2D], [..., 2D] -> [..., 2D]: both layers, their transformations and the embedding twice."""
        embeddings = inputs[..., : inputs.shape[-1] // 3]
        added: torch.Tensor = h1 + h2 + torch.relu(self.linear1(h1)) + torch.relu(self.linear2(h2))
        return added + torch.cat([embeddings, embeddings], dim=-1)


class OneWayHead(nn.Module):
    """One LSTM from the first slice to the last; logits of every slice are a linear function of its hidden state.

    The heads of the published solution of RSNA-STR Pulmonary Embolism 2020 by EC601, at any width, from zero initial
    states: those of the source were random, in prediction too. Series do not affect each other.
    """

    def __init__(self, embedding_width: int, hidden_width: int, n_labels: int) -> None:
        super().__init__()
        self.width = hidden_width
        self.lstm = nn.LSTM(embedding_width, hidden_width)
        self.linear = nn.Linear(hidden_width, n_labels)

    def hidden(self, embeddings_ND: torch.Tensor, lengths_B: torch.Tensor) -> torch.Tensor:
        """Return the hidden states [N, H], of which the logits are a linear function. lengths_B: int64 on the CPU."""
        inputs = pack_sequence(list(torch.split(embeddings_ND, lengths_B.tolist())), enforce_sorted=False)
        states, _ = self.lstm(inputs)
        return _in_order(states.data, inputs)

    def hidden_of_one(self, embeddings_TD: torch.Tensor) -> torch.Tensor:
        """Return `hidden` of one whole series, by operators that ONNX has."""
        states_TH: torch.Tensor = self.lstm(embeddings_TD)[0]
        return states_TH


class SeriesHead(nn.Module):
    """Outputs for a whole series: the hidden states of its slices pooled, and one linear layer.

    max_mean: their maximum and mean. last: that of the last slice. attention: `N_ATTENTION_HEADS` weighted means, each
    with weights that sum to 1 over the slices, the softmax of their products with a learned query (Ilse et al. 2018,
    arXiv:1802.04712, without its tanh). ABMILX (arXiv:2506.02408) reports that attention with sparse weights fails in
    end-to-end training, where such plain heads do not. evidence: for each label of slices the mean weighted by the
    softmax of its logits over the slices, and the maximum, mean and log of the mean exponential of those logits: what
    the slices that look positive show, and how positive they look.
    """

    def __init__(self, hidden_width: int, n_outputs: int, *, n_slice_labels: int, pool: Pool = "max_mean") -> None:
        super().__init__()
        self._pool_by = pool
        n_means = {"max_mean": 2, "last": 1, "attention": N_ATTENTION_HEADS, "evidence": n_slice_labels}[pool]
        n_pooled = n_means * hidden_width + (3 * n_slice_labels if pool == "evidence" else 0)
        self.queries = nn.Linear(hidden_width, N_ATTENTION_HEADS, bias=False) if pool == "attention" else None
        self.linear = nn.Linear(n_pooled, n_outputs)

    def forward(self, hidden_NH: torch.Tensor, logits_NL: torch.Tensor, lengths_B: torch.Tensor) -> torch.Tensor:
        """Return outputs [B, n_outputs]. logits_NL: of the slices' labels. lengths_B: int64 on the CPU."""
        lengths = lengths_B.tolist()
        series = zip(torch.split(hidden_NH, lengths), torch.split(logits_NL, lengths), strict=True)
        outputs: torch.Tensor = self.linear(torch.stack([self._pool(hidden, logits) for hidden, logits in series]))
        return outputs

    def of_one(self, hidden_TH: torch.Tensor, logits_TL: torch.Tensor) -> torch.Tensor:
        """Return the outputs [1, n_outputs] of one whole series."""
        outputs: torch.Tensor = self.linear(self._pool(hidden_TH, logits_TL))[None]
        return outputs

    def _pool(self, hidden_TH: torch.Tensor, logits_TL: torch.Tensor) -> torch.Tensor:
        """The hidden states of one series, pooled and flat."""
        if self.queries is not None:
            return torch.matmul(self.queries(hidden_TH).softmax(dim=0).T, hidden_TH).flatten()
        if self._pool_by == "evidence":
            shown = torch.matmul(logits_TL.softmax(dim=0).T, hidden_TH).flatten()
            log_mean = logits_TL.logsumexp(0) - math.log(len(logits_TL))
            return torch.cat([shown, logits_TL.amax(0), logits_TL.mean(0), log_mean])
        return hidden_TH[-1] if self._pool_by == "last" else torch.cat([hidden_TH.amax(0), hidden_TH.mean(0)])


def make_classifier(width: int, n_labels: int, *, kind: Literal["linear", "mlp"], dropout: float) -> nn.Module:
    """Return a classifier of single slices: embeddings [N, width] -> logits [N, n_labels].

    mlp: the head of fastai's image classifiers, with its initial weights (create_head of fastai 2, ps=dropout: the
    first dropout has half of it). Norms see the slices of all ranks, as every rank computes the classifier on all.
    """
    if kind == "linear":
        return nn.Linear(width, n_labels)
    first = nn.Linear(width, MLP_WIDTH, bias=False)
    last = nn.Linear(MLP_WIDTH, n_labels, bias=False)
    for linear in (first, last):
        nn.init.kaiming_normal_(linear.weight)
    return nn.Sequential(
        *(nn.BatchNorm1d(width), nn.Dropout(dropout / 2), first, nn.ReLU()),
        *(nn.BatchNorm1d(MLP_WIDTH), nn.Dropout(dropout), last),
    )


def flatten_lstms(module: nn.Module) -> None:
    """Make the weights of each LSTM contiguous on a GPU: in a copied module they are scattered, and cuDNN would gather
    them in every pass."""
    for child in module.modules():
        if isinstance(child, nn.RNNBase):
            child.flatten_parameters()


def _in_order(states: torch.Tensor, inputs: PackedSequence) -> torch.Tensor:
    """States [N, H] in the order of torch's packing of `inputs` -> [N, H], series after series."""
    packed = PackedSequence(states, inputs.batch_sizes, inputs.sorted_indices, inputs.unsorted_indices)
    return torch.cat(unpack_sequence(packed))


def _with_deltas(embeddings_TD: torch.Tensor) -> torch.Tensor:
    """[T, D] -> [T, 3D]: each embedding, its difference to the previous slice and to the next; 0 at the ends."""
    step = embeddings_TD[1:] - embeddings_TD[:-1]
    none = torch.zeros_like(embeddings_TD[:1])
    return torch.cat([embeddings_TD, torch.cat([none, step]), torch.cat([-step, none])], dim=1)
