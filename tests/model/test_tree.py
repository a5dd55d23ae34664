"""Labels with a tree: the probabilities of their logits are those of all its states, counted out, at any numbers."""

from collections.abc import Iterator, Sequence
from itertools import product
from math import exp, log, prod

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from rsna_e2e.model.tree import branches, marginal_logits
from rsna_e2e.tasks.pe import PE
from rsna_e2e.tasks.tree import Choice, Some, Tree

SUMS = {"rtol": 0, "atol": 1e-6}  # float32 sums of up to three probabilities
COUNTED = {"rtol": 0, "atol": 1e-9}  # float64, sums over up to 144 states

# Three levels, a state without a name, a choice that one branch of "some" opens
BONES: Tree = (
    Choice(branches=("whole", "broken*", "unclear")),
    Some(branches=("arm", "leg"), given="broken*"),
    Choice(branches=("left_leg", "right_leg"), given="leg"),
    Some(branches=("splint",), given="right_leg"),
)
BONE_NAMES = ("splint", "unclear", "leg", "whole", "arm", "right_leg", "left_leg")
TREES = pytest.mark.parametrize(
    ("tree", "names"), [(PE.series.tree, PE.series.names), (BONES, BONE_NAMES)], ids=["pe", "bones"]
)


def _raw(tree: Tree, n_series: int, *, std: float, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return std * torch.randn(n_series, len(branches(tree)), dtype=dtype, generator=generator)


def _states(raw: Sequence[float], tree: Tree) -> Iterator[tuple[float, set[str]]]:
    """Every way in which all groups turn out, its probability, and the branches that hold in it."""
    numbers = dict(zip(branches(tree), raw, strict=True))
    ways: list[list[tuple[float, set[str]]]] = []
    for group in tree:
        values = [exp(numbers[branch]) for branch in group.branches]
        if isinstance(group, Choice):
            ways.append([(v / sum(values), {b}) for v, b in zip(values, group.branches, strict=True)])
        else:
            sides = product(
                *[[(1 / (1 + v), set()), (v / (1 + v), {b})] for v, b in zip(values, group.branches, strict=True)]
            )
            ways.append([(prod(p for p, _ in side), set().union(*(b for _, b in side))) for side in sides])
    for state in product(*ways):
        holding: set[str] = set()
        for group, (_, chosen) in zip(tree, state, strict=True):
            holding |= chosen if not group.given or group.given in holding else set()
        yield prod(p for p, _ in state), holding


@TREES
def test_the_loss_is_that_of_all_states_counted_out(tree: Tree, names: tuple[str, ...]) -> None:
    raw = _raw(tree, 5, std=2.0)
    labels = torch.randint(0, 2, (5, len(names)), generator=torch.Generator().manual_seed(4)).double()
    losses = binary_cross_entropy_with_logits(marginal_logits(raw, tree, names), labels, reduction="none")
    counted = torch.empty_like(losses)
    for b in range(5):
        states = list(_states(raw[b].tolist(), tree))
        assert abs(sum(p for p, _ in states) - 1) < 1e-12
        for m, name in enumerate(names):
            wrong = sum(p for p, holding in states if (name in holding) == bool(labels[b, m]))
            counted[b, m] = -log(wrong)
    torch.testing.assert_close(losses, counted, **COUNTED)


def test_probabilities_of_an_exam_sum_to_those_of_what_they_are_given() -> None:
    probability = marginal_logits(
        _raw(PE.series.tree, 500, std=4.0, dtype=torch.float32), PE.series.tree, PE.series.names
    ).sigmoid()
    of = dict(zip(PE.series.names, probability.unbind(1), strict=True))
    positive = of["rv_lv_ratio_gte_1"] + of["rv_lv_ratio_lt_1"]
    torch.testing.assert_close(positive + of["negative_exam_for_pe"] + of["indeterminate"], torch.ones(500), **SUMS)
    assert (of["chronic_pe"] + of["acute_and_chronic_pe"] <= positive + 1e-6).all()
    for name in ("central_pe", "leftsided_pe", "rightsided_pe"):
        assert (of[name] <= positive + 1e-6).all()


@TREES
def test_gradients_are_those_of_differences(tree: Tree, names: tuple[str, ...]) -> None:
    raw = _raw(tree, 3, std=2.0).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: marginal_logits(x, tree, names), [raw])


@TREES
@pytest.mark.parametrize("label", [0.0, 1.0])
def test_values_and_gradients_are_finite_at_large_numbers(tree: Tree, names: tuple[str, ...], label: float) -> None:
    raw = _raw(tree, 2000, std=25.0, dtype=torch.float32).requires_grad_()
    logits = marginal_logits(raw, tree, names)
    binary_cross_entropy_with_logits(logits, torch.full_like(logits, label)).backward()
    assert logits.isfinite().all()
    assert raw.grad is not None
    assert raw.grad.isfinite().all()


def test_what_is_predicted_wrong_with_confidence_still_learns() -> None:
    """An embolism on the left, p = 1 - 1e-13, in an exam without: the gradient is that of a label without a tree."""
    numbers = dict.fromkeys(branches(PE.series.tree), 0.0) | {"positive*": 60.0, "leftsided_pe": 30.0}
    raw = torch.tensor([list(numbers.values())], requires_grad=True)
    logits = marginal_logits(raw, PE.series.tree, PE.series.names)
    left = logits[:, PE.series.index("leftsided_pe")]
    torch.testing.assert_close(left, torch.tensor([30.0]))
    binary_cross_entropy_with_logits(left, torch.zeros(1)).backward()
    assert raw.grad is not None
    assert raw.grad[0, branches(PE.series.tree).index("leftsided_pe")] == pytest.approx(1.0)


def test_half_precision_is_computed_in_single() -> None:
    raw = _raw(PE.series.tree, 4, std=3.0, dtype=torch.float32).bfloat16()
    logits = marginal_logits(raw, PE.series.tree, PE.series.names)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, marginal_logits(raw.float(), PE.series.tree, PE.series.names), rtol=0, atol=0)
