"""Masks of dropout and drop-path: by slice, at the rate asked for, and the same in whatever chunk a slice is."""

import copy

import pytest
import timm
import torch
from timm.layers import DropPath
from torch import nn

from rsna_e2e.model.slice_dropout import SliceDropout, SliceKeys, drop_by_slice, slice_keys, uniform_of

ROWS = torch.tensor([17, 4, 900000, 5])
# Of SplitMix64 with state 0, 1234567: the first outputs of its authors' program, https://prng.di.unimi.it/splitmix64.c
FIRST_OF_0, FIRST_OF_1234567 = 0xE220A8397B1DCDAF, 6457827717110365317


def keyed(module: nn.Module, keys: SliceKeys, values: torch.Tensor, of: torch.Tensor) -> torch.Tensor:
    with keys.of(of):
        return module(values)


@pytest.mark.parametrize(("state", "output"), [(0, FIRST_OF_0), (1234567, FIRST_OF_1234567)])
def test_numbers_are_those_of_splitmix64(state: int, output: int) -> None:
    """A row's key is the output of the generator whose state is the seed, as many steps on as the row says."""
    assert slice_keys(state, torch.tensor([1])).item() % 2**64 == output


def test_numbers_are_uniform_and_independent() -> None:
    keys = slice_keys(3, torch.arange(400))
    numbers = torch.stack([uniform_of(keys, draw=draw, n_per_slice=250) for draw in (1, 2)])  # 100,000 each
    assert numbers.min() >= 0
    assert numbers.max() < 1
    for of_draw in numbers:
        counts = torch.histc(of_draw, bins=100, min=0, max=1)
        assert ((counts - 1000).square() / 1000).sum() < 160  # chi squared, 99 degrees of freedom: p < 1e-4
    flat = numbers.flatten(1)
    for a, b in ((flat[0], flat[1]), (numbers[0, 1:].flatten(), numbers[0, :-1].flatten())):
        assert torch.corrcoef(torch.stack([a, b]))[0, 1].abs() < 0.015  # 4.7 standard deviations of 1 / sqrt(100,000)


@pytest.mark.parametrize("shape", [(4, 6), (4, 6, 5, 5), (8, 3, 6)], ids=["features", "images", "two windows a slice"])
def test_a_slice_has_its_mask_whichever_slices_come_with_it(shape: tuple[int, ...]) -> None:
    keys = SliceKeys()
    layer = SliceDropout(0.5, keys)
    of, values = slice_keys(1, ROWS), torch.ones(shape)
    together = keyed(layer, keys, values, of)
    assert 0 < int((together == 0).sum()) < together.numel()
    assert set(together.unique().tolist()) == {0.0, 2.0}
    parts = shape[0] // 4
    alone = [keyed(layer, keys, values[i * parts : (i + 1) * parts], of[i : i + 1]) for i in range(4)]
    assert torch.equal(torch.cat(alone), together)
    backwards = keyed(layer, keys, values, of.flip(0)).unflatten(0, (4, parts)).flip(0).flatten(0, 1)
    assert torch.equal(backwards, together)


def test_masks_differ_by_seed_slice_and_draw() -> None:
    keys, values = SliceKeys(), torch.ones(1, 64)
    twice = SliceDropout(0.5, keys)
    masks = set()
    for seed, row in ((1, 1), (2, 1), (1, 2)):
        with keys.of(slice_keys(seed, torch.tensor([row]))):
            masks |= {tuple(layer(values)[0].tolist()) for layer in (twice, SliceDropout(0.5, keys), twice)}
    assert len(masks) == 9


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
@pytest.mark.parametrize(("unit", "n_alike"), [("element", 1), ("channel", 12), ("slice", 60)])
def test_as_much_is_dropped_as_asked_and_the_mean_stays(p: float, unit: str, n_alike: int) -> None:
    keys = SliceKeys()
    n = 20000
    dropped = keyed(
        SliceDropout(p, keys, unit=unit), keys, torch.ones(n, 5, 3, 4), slice_keys(0, torch.arange(n))
    ).view(-1, n_alike)
    assert (dropped == dropped[:, :1]).all()
    n_drawn = len(dropped)
    spread = (p * (1 - p) / n_drawn) ** 0.5
    assert abs((dropped[:, 0] == 0).double().mean() - p) < 4.5 * spread
    assert abs(dropped.double().mean() - 1) < 4.5 * spread / (1 - p)


def test_nothing_is_dropped_in_evaluation_and_torch_draws_without_keys() -> None:
    layer, values = SliceDropout(0.5, SliceKeys()), torch.ones(4, 100)
    torch.manual_seed(0)
    first = layer(values)
    assert not torch.equal(layer(values), first)
    torch.manual_seed(0)
    assert torch.equal(layer(values), first)
    assert layer.eval()(values) is values


@pytest.mark.parametrize(
    ("backbone", "arguments"),
    [
        ("test_resnet", {"drop_path_rate": 0.3}),
        ("test_convnext", {"drop_path_rate": 0.3}),
        ("test_vit", {"drop_path_rate": 0.3, "proj_drop_rate": 0.2, "pos_drop_rate": 0.1}),
        ("efficientnet_b0", {"drop_path_rate": 0.3}),
        ("visformer_tiny", {"drop_path_rate": 0.3, "img_size": 160}),  # each of whose drop-paths is called twice
    ],
)
def test_backbones_of_timm_draw_by_slice(backbone: str, arguments: dict[str, float]) -> None:
    """In evaluation but for what drops, so that slices are independent: each by itself gives what all give."""
    torch.manual_seed(0)
    model = timm.create_model(backbone, num_classes=0, **arguments).eval()
    for parameter in model.parameters():
        if parameter.ndim == 1:  # norms and scales of paths, some of which begin at 0
            nn.init.uniform_(parameter, 0.5, 1.5)
    as_made = copy.deepcopy(model)
    keys = SliceKeys()
    drop_by_slice(model, keys)
    left = [m for m in model.modules() if isinstance(m, nn.Dropout | DropPath) and getattr(m, "p", 0.0) > 0]
    assert not left
    layers = [m for m in model.modules() if isinstance(m, SliceDropout)]
    assert layers
    images = torch.randn(4, 3, 160, 160)
    assert torch.equal(model(images), as_made(images))
    for layer in layers:
        layer.train()
    of = slice_keys(0, ROWS)
    together = keyed(model, keys, images, of)
    assert not torch.allclose(together, as_made(images))
    alone = torch.cat([keyed(model, keys, images[i : i + 1], of[i : i + 1]) for i in range(4)])
    assert (together - alone).abs().max() <= 1e-4 * together.abs().max()  # another mask changes far more


@pytest.mark.slow
def test_a_compiled_model_has_the_same_masks() -> None:
    keys = SliceKeys()
    model = nn.Sequential(SliceDropout(0.5, keys), SliceDropout(0.3, keys, unit="slice"))
    compiled = torch.compile(model)
    for n in (4, 3, 2):
        values, of = torch.randn(n, 50), slice_keys(n, ROWS[:n])
        torch._dynamo.maybe_mark_dynamic(values, 0)
        torch._dynamo.maybe_mark_dynamic(of, 0)
        assert torch.equal(keyed(compiled, keys, values, of), keyed(model, keys, values, of))
