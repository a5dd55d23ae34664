"""A batch of whole series, packed: the slices of all its series in one tensor, one series after the other."""

# N slices (packed), B series, C windows, S image side, L labels

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class StudyBatch:
    """Network input and truth of B series with N slices in all; checked when built.

    images [N, C, S, S]: float, channels-last. series_lengths [B]: int64 on the CPU, each >= 1, sum N. labels [N, L]:
    float32, 0 or 1.
    label_mask [N, L]: bool, False where a label is unknown. series_keys, first_rows: key and first store row of each
    series.
    """

    images: torch.Tensor
    series_lengths: torch.Tensor
    labels: torch.Tensor
    label_mask: torch.Tensor
    series_keys: tuple[str, ...]
    first_rows: tuple[int, ...]

    def __post_init__(self) -> None:
        n = self.images.shape[0]
        _check(self.images.ndim == 4, f"images must be [N, C, S, S], not {list(self.images.shape)}")
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
        _check(
            self.labels.ndim == 2 and self.labels.shape[0] == n and self.labels.dtype == torch.float32,
            "labels must be float32 [N, L]",
        )
        _check(
            self.label_mask.shape == self.labels.shape and self.label_mask.dtype == torch.bool,
            "label_mask must be bool and shaped like labels",
        )
        _check(
            len(self.series_keys) == len(self.first_rows) == len(self.series_lengths),
            "one key and one first row for every series",
        )


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(f"StudyBatch: {message}")
