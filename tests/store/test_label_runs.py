"""Runs of positive slices, counted by hand and against shuffles."""

import itertools

import numpy as np
import pytest

from rsna_e2e.store.label_runs import check_order

NAN = float("nan")


def test_runs_by_hand() -> None:
    labels = np.array([0, 1, 1, 0, 1, 0, 0, 1], dtype=np.float32)  # series 0 1 1 0 1 (2 runs), 0 0 1 (1 run)
    check = check_order(labels, [5, 3])
    assert check.n_series == 2
    assert check.runs == 1.5
    assert check.shuffled_runs == pytest.approx((3 * 3 / 5 + 1 * 3 / 3) / 2)


def test_expected_runs_are_those_of_all_permutations() -> None:
    series = (1, 1, 1, 0, 0)
    all_orders = np.array(list(itertools.permutations(series)), dtype=np.float32)
    counted = check_order(all_orders.reshape(-1), [5] * len(all_orders))
    assert counted.runs == pytest.approx(counted.shuffled_runs)


@pytest.mark.parametrize("is_shuffled", [False, True])
def test_a_shuffled_data_set_is_told_from_one_in_order(is_shuffled: bool) -> None:
    rng = np.random.default_rng(0)
    series = [np.repeat([0, 1, 0], [10, 8, 12]).astype(np.float32) for _ in range(20)]
    check = check_order(np.concatenate([rng.permutation(s) if is_shuffled else s for s in series]), [30] * 20)
    assert check.looks_shuffled == is_shuffled
    assert ("SHUFFLED" in str(check)) == is_shuffled


def test_the_order_in_words() -> None:
    one_run, three_runs = np.array([0, 1, 1, 0, 0, 0]), np.array([1, 0, 1, 0, 1, 0])
    words = {
        "looks right (positive slices form 1.0 runs a series; shuffled they would form 1.7)": np.tile(one_run, 5),
        "LOOKS SHUFFLED (positive slices form 3.0 runs a series; shuffled they would form 2.0)": np.tile(three_runs, 5),
        "too little to tell (positive slices form 1.0 runs a series; shuffled they would form 1.7)": np.tile(
            one_run, 4
        ),
        "too little to tell (positive slices form 1.0 runs a series; shuffled they would form 1.0)": np.ones(30),
    }
    for text, labels in words.items():
        assert str(check_order(labels.astype(np.float32), [6] * (len(labels) // 6))) == text


def test_what_cannot_tell_says_nothing() -> None:
    unknown = np.array([1, NAN, 0, 0, 0], dtype=np.float32)
    check = check_order(unknown, [3, 2])
    assert check.n_series == 0
    assert not check.looks_shuffled
    assert str(check) == "no series with positive slices"
    alternating = np.array([1, 0, 1, 0, 1, 0], dtype=np.float32)
    assert not check_order(np.tile(alternating, 4), [6] * 4).looks_shuffled  # few series
    assert check_order(np.tile(alternating, 5), [6] * 5).looks_shuffled
    assert not check_order(np.ones(20, dtype=np.float32), [2] * 10).looks_shuffled  # no order could be seen
