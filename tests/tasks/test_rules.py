"""Consistency with a tree of labels, against rules written out by hand and a search through all sides of all labels."""

from collections.abc import Callable
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from scipy.special import rel_entr

from rsna_e2e.core.records import Float64Array
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.tasks.pe import PE
from rsna_e2e.tasks.rules import project, violations
from rsna_e2e.tasks.task import Labels, Task
from rsna_e2e.tasks.tree import Choice, Some

SAME = 1e-12  # float64, sums in another order
N_SLICES = 3

NESTED = replace(
    ICH,
    name="nested",
    slices=Labels(names=("positive",), weights=(0.5,)),
    headline="positive",
    series=Labels(
        names=("none", "left", "right", "upper", "lower", "late"),
        weights=(1.0, 0.5, 2.0, 0.25, 0.75, 1.5),
        tree=(
            Choice(branches=("none", "left", "right", "other*")),
            Some(branches=("upper", "lower"), given="right"),
            Choice(branches=("early*", "late"), given="upper"),
        ),
    ),
    series_truth="own",
)
Sides = dict[str, bool]


def obeys_the_competition(holds: Sides, slices: list[bool]) -> bool:
    """The competition's consistency rules, as its page "Evaluation" words them."""
    positive = [
        "central_pe",
        "rightsided_pe",
        "leftsided_pe",
        "rv_lv_ratio_gte_1",
        "rv_lv_ratio_lt_1",
        "chronic_pe",
        "acute_and_chronic_pe",
    ]
    if any(slices):
        return (
            holds["rv_lv_ratio_gte_1"] + holds["rv_lv_ratio_lt_1"] == 1
            and (holds["central_pe"] or holds["rightsided_pe"] or holds["leftsided_pe"])
            and not (holds["acute_and_chronic_pe"] and holds["chronic_pe"])
            and not holds["indeterminate"]
            and not holds["negative_exam_for_pe"]
        )
    return holds["indeterminate"] + holds["negative_exam_for_pe"] == 1 and not any(holds[name] for name in positive)


def obeys_the_nested_tree(holds: Sides, slices: list[bool]) -> bool:
    if holds["none"] + holds["left"] + holds["right"] > 1:
        return False
    if holds["right"] != (holds["upper"] or holds["lower"]):
        return False
    return holds["upper"] or not holds["late"]


CASES = [(PE, obeys_the_competition), (NESTED, obeys_the_nested_tree)]
BY_HAND = pytest.mark.parametrize(("task", "obeys"), CASES, ids=[task.name for task, _ in CASES])
Obeys = Callable[[Sides, list[bool]], bool]


def consistent_sides(task: Task, obeys: Obeys) -> np.ndarray:
    """All ways of putting series labels and slices on either side of 0.5 that are consistent, one a row."""
    names = task.series.names
    return np.array(
        [
            sides
            for sides in product((False, True), repeat=len(names) + N_SLICES)
            if obeys(dict(zip(names, sides, strict=False)), list(sides[len(names) :]))
        ]
    )


def made_up(task: Task, n: int, seed: int) -> tuple[Float64Array, Float64Array]:
    """Probabilities of slices [n, slices] and series [n, M]; many are 0, 1 or next to 0.5."""
    rng = np.random.default_rng(seed)
    odd = np.array([0.0, 1.0, 0.5, np.nextafter(0.5, 1), 0.5 + 2**-11, 1e-9])
    both = rng.random((n, N_SLICES + len(task.series)))
    both = np.where(rng.random(both.shape) < 0.15, rng.choice(odd, both.shape), both)
    return both[:, :N_SLICES], both[:, N_SLICES:]


def cells(slices: Float64Array, series: Float64Array) -> Float64Array:
    return np.concatenate([series, slices], axis=1)


def projected(slices: Float64Array, series: Float64Array, task: Task) -> tuple[Float64Array, Float64Array]:
    places = np.repeat(np.arange(len(series)), slices.shape[1])
    moved_slices, moved_series = project(slices.reshape(-1, 1), places, series, task)
    return moved_slices.reshape(slices.shape), moved_series


def n_violations(slices: Float64Array, series: Float64Array, task: Task) -> np.ndarray:
    return violations(slices.reshape(-1, 1), np.repeat(np.arange(len(series)), slices.shape[1]), series, task)


def is_consistent(slices: Float64Array, series: Float64Array, task: Task, obeys: Obeys) -> list[bool]:
    return [
        bool(obeys(dict(zip(task.series.names, labels, strict=True)), list(images)))
        for labels, images in zip((series > 0.5).tolist(), (slices > 0.5).tolist(), strict=True)
    ]


@BY_HAND
def test_projection_is_the_cheapest_of_all_sides(task: Task, obeys: Obeys) -> None:
    slices, series = made_up(task, 2000, seed=1)
    given, moved = cells(slices, series), cells(*projected(slices, series, task))
    image_weight = task.slices.weights[0] * slices.mean(axis=1, keepdims=True)
    weights = cells(np.broadcast_to(image_weight, slices.shape), np.broadcast_to(task.series.weights, series.shape))

    def cost(to: Float64Array) -> Float64Array:
        return weights * (rel_entr(given, to) + rel_entr(1 - given, 1 - to))

    above, below = (cost(to) for to in (np.where(given > 0.5, given, 0.5 + 2**-10), np.where(given > 0.5, 0.5, given)))
    sides = consistent_sides(task, obeys)
    cheapest = (above @ sides.T + below @ ~sides.T).min(axis=1)
    np.testing.assert_allclose(cost(moved).sum(axis=1), cheapest, rtol=0, atol=SAME)


@BY_HAND
def test_nothing_is_violated_after_projection(task: Task, obeys: Obeys) -> None:
    slices, series = made_up(task, 2000, seed=2)
    before = is_consistent(slices, series, task, obeys)
    assert 20 < sum(before) < 1900  # of either kind
    after = projected(slices, series, task)
    assert all(is_consistent(*after, task, obeys))
    assert [n == 0 for n in n_violations(slices, series, task).tolist()] == before
    assert not n_violations(*after, task).any()


@BY_HAND
def test_consistent_predictions_stay_as_they_are(task: Task, obeys: Obeys) -> None:
    rng = np.random.default_rng(3)
    sides = rng.choice(consistent_sides(task, obeys), 500)
    low, high = rng.choice([0.0, 0.5, 0.2], sides.shape), rng.choice([np.nextafter(0.5, 1), 0.501, 1.0], sides.shape)
    both = np.where(sides, high, low)
    series, slices = both[:, : len(task.series)], both[:, len(task.series) :]
    moved_slices, moved_series = projected(slices, series, task)
    np.testing.assert_array_equal(moved_slices, slices)
    np.testing.assert_array_equal(moved_series, series)


@BY_HAND
def test_violations_are_the_fewest_values_to_change(task: Task, obeys: Obeys) -> None:
    slices, series = made_up(task, 300, seed=4)
    given = cells(slices, series) > 0.5
    fewest = (given[:, None] != consistent_sides(task, obeys)[None]).sum(axis=2).min(axis=1)
    np.testing.assert_array_equal(n_violations(slices, series, task), fewest)


def test_slices_take_part_only_where_a_state_goes_with_them() -> None:
    slices, series = made_up(NESTED, 50, seed=5)
    moved_slices, moved_series = projected(slices, series, NESTED)
    np.testing.assert_array_equal(moved_slices, slices)
    assert (moved_series != series).any()


def truth_of(**labels: float) -> Float64Array:
    return np.array([[labels.get(name, 0.0) for name in PE.series.names]])


def test_what_is_unknown_is_on_either_side() -> None:
    positive = {"rv_lv_ratio_lt_1": 1.0, "central_pe": 1.0}
    no_slices = (np.zeros((0, 1)), np.zeros(0, dtype=np.int64))
    assert violations(*no_slices, truth_of(**positive), PE).tolist() == [0]
    assert violations(*no_slices, truth_of(**positive, chronic_pe=1.0, acute_and_chronic_pe=np.nan), PE).tolist() == [0]
    assert violations(*no_slices, truth_of(**positive, chronic_pe=1.0, acute_and_chronic_pe=1.0), PE).tolist() == [1]
    one_slice = np.zeros(1, dtype=np.int64)
    assert violations(np.array([[np.nan]]), one_slice, truth_of(**positive), PE).tolist() == [0]
    assert violations(np.array([[0.0]]), one_slice, truth_of(**positive), PE).tolist() == [1]
    assert violations(np.array([[0.0]]), one_slice, np.full((1, 9), np.nan), PE).tolist() == [0]


def test_a_task_without_a_tree_has_no_rules() -> None:
    slices, series = np.full((4, 6), 0.9), np.full((2, 6), 0.1)
    places = np.array([0, 0, 1, 1])
    assert violations(slices, places, series, ICH).tolist() == [0, 0]
    for before, after in zip((slices, series), project(slices, places, series, ICH), strict=True):
        np.testing.assert_array_equal(before, after)
