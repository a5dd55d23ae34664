import pytest
import torch

from rsna_e2e.loader.batch import positive_share, series_targets


def test_targets_of_series_by_hand() -> None:
    # two series, of 2 and 3 slices, and one of 1; labels: known throughout, partly known, and not at all
    labels = torch.tensor([[0, 1, 1], [1, 0, 0], [0, 0, 0], [0, 1, 1], [0, 0, 0], [0, 0, 1]], dtype=torch.float32)
    mask = torch.tensor([[1, 0, 0], [1, 1, 0], [1, 0, 0], [1, 1, 0], [1, 1, 0], [1, 1, 0]], dtype=torch.bool)
    targets, known = series_targets(labels, mask, torch.tensor([2, 3, 1]))
    # series 0, label 1: slice 0 is unknown and slice 1 negative, so nothing is known; series 1: one positive is enough
    assert known.tolist() == [[True, False, False], [True, True, False], [True, True, False]]
    assert targets[known].tolist() == [1.0, 0.0, 1.0, 0.0, 0.0]


def test_shares_of_positive_slices_by_hand() -> None:
    # four slices, one of them positive and one unknown; two negative ones; one of which nothing is known
    labels = torch.tensor([0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 1.0])
    mask = torch.tensor([True, True, True, False, True, True, False])
    assert positive_share(labels, mask, torch.tensor([4, 2, 1])).tolist() == pytest.approx([1 / 3] * 4 + [0.0] * 3)
