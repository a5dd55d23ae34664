"""A batch of whole series, packed: the slices of all its series in one tensor, one series after the other."""

# N slices (packed), B series, C windows, S image side, L labels of slices, M of series

from dataclasses import dataclass
from typing import Protocol

import torch

from rsna_e2e.core.records import Float32Array, Rows
from rsna_e2e.loader.division import Chunk


class SliceImages(Protocol):
    """Images [N, C, S, S]: a tensor, or an object that makes the images of a range of slices on demand."""

    @property
    def shape(self) -> torch.Size: ...

    def __getitem__(self, rows: slice, /) -> torch.Tensor: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchBoxes:
    """Boxes of the n images of a batch; checked when built.

    edges [K, 4]: float32, x0, y0, x1, y1 in px of the image, where whole numbers are the centres of pixels. classes
    [K], images [K]: int64, the number of the class, and of the image. known [n]: bool, False where the labels do not
    say which boxes an image has; it may have some then.
    """

    edges: torch.Tensor
    classes: torch.Tensor
    images: torch.Tensor
    known: torch.Tensor

    def __post_init__(self) -> None:
        n = len(self.images)
        _check(self.edges.shape == (n, 4) and self.edges.dtype == torch.float32, "boxes must be float32 [K, 4]")
        is_number = all(x.shape == (n,) and x.dtype == torch.int64 for x in (self.classes, self.images))
        _check(is_number, "classes and images of boxes must be int64 [K]")
        _check(self.known.ndim == 1 and self.known.dtype == torch.bool, "known must be bool [n]")
        is_image = bool(((self.images >= 0) & (self.images < len(self.known))).all())
        _check(is_image, "every box must be of an image")
        _check(not is_image or bool(self.known[self.images].all()), "an image with a box must be known")


@dataclass(frozen=True, slots=True)
class SeriesBatch:
    """Labels of B series with N slices in all, and the images of this rank's n slices; checked when built.

    images [n, C, S, S]: float, channels-last. chunks: the places of the rank's slices in the batch. series_lengths [B]:
    int64 on the CPU, each >= 1, sum N. labels [N, L], series_labels [B, M]: of slices and of series, float32, 0 or 1.
    label_mask [N, L], series_mask [B, M]: bool, False where a label is unknown. series_keys [B]: the store's key of
    each series. rows [N]: int64, the store row of each slice. boxes: of the n images; None of a task without boxes.
    affine [n, 2, 3]: maps pixels of the images to those of their slices; None of stored embeddings.
    """

    images: SliceImages
    chunks: tuple[Chunk, ...]
    series_lengths: torch.Tensor
    labels: torch.Tensor
    label_mask: torch.Tensor
    series_labels: torch.Tensor
    series_mask: torch.Tensor
    series_keys: tuple[str, ...]
    rows: Rows
    boxes: BatchBoxes | None = None
    affine: Float32Array | None = None

    def __post_init__(self) -> None:
        n = len(self.rows)
        _check(len(self.images.shape) == 4, f"images must be [N, C, S, S], not {list(self.images.shape)}")
        _check(
            self.series_lengths.dtype == torch.int64
            and self.series_lengths.device.type == "cpu"
            and self.series_lengths.ndim == 1,
            "lengths must be int64 [B] on the CPU",
        )
        _check(bool((self.series_lengths >= 1).all()), "every series must have at least one slice")
        _check(
            int(self.series_lengths.sum()) == n,
            f"lengths sum to {int(self.series_lengths.sum())}, but there are {n} slices",
        )
        _check_labels("label", self.labels, self.label_mask, n)
        _check_labels("series_label", self.series_labels, self.series_mask, len(self.series_lengths))
        _check(len(self.series_keys) == len(self.series_lengths), "one key for every series")
        n_own = sum(map(len, self.chunks))
        _check(self.images.shape[0] == n_own, f"chunks of {n_own} slices, but {self.images.shape[0]} images")
        _check(self.boxes is None or len(self.boxes.known) == n_own, "boxes must be of the rank's images")
        _check(self.affine is None or self.affine.shape == (n_own, 2, 3), "affine must be of the rank's images")
        _check(
            all(0 <= chunk.start < chunk.stop <= n for chunk in self.chunks), "every chunk must be part of the batch"
        )


def series_targets(
    labels_NL: torch.Tensor, mask_NL: torch.Tensor, lengths_B: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return labels [B, L] and mask [B, L] of whole series: 1 where any slice has the label.

    One known positive slice makes a series positive; it is negative only if every slice is known, else masked.
    """
    series_N = _series_of_slices(lengths_B, labels_NL.device)
    empty_BL = labels_NL.new_zeros(len(lengths_B), labels_NL.shape[1])
    n_positive_BL = empty_BL.index_add(0, series_N, torch.where(mask_NL, labels_NL, 0.0))
    n_unknown_BL = empty_BL.index_add(0, series_N, (~mask_NL).to(labels_NL.dtype))
    return (n_positive_BL > 0).to(labels_NL.dtype), (n_positive_BL > 0) | (n_unknown_BL == 0)


def positive_share(labels_N: torch.Tensor, mask_N: torch.Tensor, lengths_B: torch.Tensor) -> torch.Tensor:
    """Return for each slice [N] the share of positives among the known slices of its series; 0 where none is known."""
    series_N = _series_of_slices(lengths_B, labels_N.device)
    empty_B = labels_N.new_zeros(len(lengths_B))
    n_positive_B = empty_B.index_add(0, series_N, torch.where(mask_N, labels_N, 0.0))
    n_known_B = empty_B.index_add(0, series_N, mask_N.to(labels_N.dtype))
    return (n_positive_B / n_known_B.clamp(min=1))[series_N]


def _series_of_slices(lengths_B: torch.Tensor, device: torch.device) -> torch.Tensor:
    return torch.repeat_interleave(torch.arange(len(lengths_B)), lengths_B).to(device)


def _check_labels(what: str, labels: torch.Tensor, mask: torch.Tensor, n: int) -> None:
    is_table = labels.ndim == 2 and labels.shape[0] == n and labels.dtype == torch.float32
    _check(is_table, f"{what}s must be float32 with {n} rows")
    is_mask = mask.shape == labels.shape and mask.dtype == torch.bool
    _check(is_mask, f"the mask of {what}s must be bool and shaped like them")


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(f"SeriesBatch: {message}")
