"""Norm layers with running statistics: found by their buffers, frozen, and their buffers restored."""

from functools import partial

import pytest
import timm
import torch
from timm.layers import BatchNormAct2d, EvoNorm2dB0, EvoNorm2dS0, GroupNorm, LayerNorm2d
from torch import nn

from rsna_e2e.model.norms import buffers_kept, freeze_norms, mixes_slices, moving_buffers, running_norms
from rsna_e2e.training.distributed import Ranks

MIXING = (nn.BatchNorm2d, BatchNormAct2d, EvoNorm2dB0)
BY_SLICE = (LayerNorm2d, partial(GroupNorm, num_groups=2), partial(EvoNorm2dS0, groups=2))


@pytest.mark.parametrize("norm", [*MIXING, *BY_SLICE])
def test_a_norm_mixes_slices_if_it_is_found_to(norm: type[nn.Module]) -> None:
    """By what comes out for a slice, alone and with others."""
    torch.manual_seed(0)
    layer = norm(8).train()
    images = torch.randn(6, 8, 16, 16)
    differs = not torch.allclose(layer(images)[:1], layer(images[:1]), atol=1e-5)
    assert differs == mixes_slices(nn.Sequential(layer)) == (norm in MIXING)
    freeze_norms(layer)
    assert torch.allclose(layer(images)[:1], layer(images[:1]), atol=1e-5)
    assert torch.allclose(layer(images)[:1], layer(images[:1]), atol=1e-5)


@pytest.mark.parametrize("norm", MIXING)
def test_what_a_forward_pass_moves_is_put_back(norm: type[nn.Module]) -> None:
    net = nn.Sequential(norm(8))
    before = [buffer.clone() for buffer in net.buffers()]
    with buffers_kept(net):
        net(torch.randn(4, 8, 5, 5))
        assert not all(map(torch.equal, before, net.buffers()))
    assert all(map(torch.equal, before, net.buffers()))


def test_buffers_of_frozen_norms_do_not_move_and_are_not_averaged() -> None:
    net = timm.create_model("test_resnet", num_classes=0).train()
    net.register_buffer("place", torch.zeros(3))
    assert len(moving_buffers(net)) == len(list(net.buffers()))
    freeze_norms(net)
    assert moving_buffers(net) == [net.place]
    assert not any(norm.training for norm in running_norms(net))
    del net.place
    assert moving_buffers(net) == []
    Ranks(n_ranks=2).average_buffers_(net, weight=1.0)  # there is no other rank: asking it would fail
    with pytest.raises(ValueError, match="process group"):
        Ranks(n_ranks=2).average_buffers_(net.train(), weight=1.0)
