"""Statistics over per-example predictions: by hand, and by how often equal methods are found to differ."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from harness import itemwise, stats

RNG = np.random.default_rng


def answers(rng, seeds, items, *, by_seed=0.3, by_item=0.7):
    """Two equally good methods: right or wrong, with effects of seed and item of their own."""
    difficulty = 2 + 2 * rng.standard_normal(items)
    shifts = [by_item * rng.standard_normal(items) + by_seed * rng.standard_normal((seeds, 1)) for _ in "ab"]
    return [(difficulty + shift + rng.logistic(size=(seeds, items)) > 0).astype(float) for shift in shifts]


def test_permutation_over_seeds_by_hand():
    a, b = np.array([[1, 1], [1, 1], [1, 0]]), np.zeros((3, 2))
    found = itemwise.paired_permutation(a, b, over="seeds", rng=RNG(0))
    assert found.difference == pytest.approx(5 / 6)
    assert found.p == 2 / 8  # all of 8 sign patterns; only +++ and --- reach it


def test_permutation_over_items_by_hand():
    a, b = np.array([[1.0, 1.0, 1.0, 0.0]]), np.array([[0.0, 0.0, 0.0, 1.0]])
    assert itemwise.paired_permutation(a, b, over="items", rng=RNG(0)).p == 10 / 16  # |sum| >= 2 of 4 signs


def test_sampled_permutation_agrees_with_all_of_them():
    a, b = answers(RNG(1), 2, 12)
    everything = itemwise.paired_permutation(a, b, over="items", rng=RNG(0))
    sampled = itemwise.paired_permutation(a, b, over="items", rng=RNG(0), resamples=4_000)
    assert sampled.p == pytest.approx(everything.p, abs=0.03)


def test_a_sampled_p_value_is_never_zero():
    a, b = np.ones((1, 300)), np.zeros((1, 300))
    assert itemwise.paired_permutation(a, b, over="items", rng=RNG(0), resamples=99).p == 1 / 100


def test_blocks_do_not_change_the_count(monkeypatch):
    assert itemwise._blocks(10, 4_000_000) == [2] * 5
    assert sum(itemwise._blocks(9_999, 277)) == 9_999


@settings(max_examples=25, deadline=None)
@given(arrays.arrays(float, (3, 6), elements=st.sampled_from([0.0, 1.0])))
def test_a_method_against_itself_never_differs(matrix):
    for found in (
        itemwise.paired_permutation(matrix, matrix, over="items", rng=RNG(0)),
        itemwise.paired_bootstrap(matrix, matrix, rng=RNG(0), resamples=20),
    ):
        assert (found.difference, found.p) == (0, 1)


def test_bootstrap_of_a_mean_has_a_closed_form():
    a, b = answers(RNG(2), 5, 60)
    found = itemwise.paired_bootstrap(a, b, rng=RNG(0), resamples=4_000)
    difference = a - b
    parts = [difference.mean(axis=1).var(ddof=1) / 5, difference.mean(axis=0).var(ddof=1) / 60]
    degrees = sum(parts) ** 2 / (parts[0] ** 2 / 4 + parts[1] ** 2 / 59)
    expected = stats.t_comparison(float(difference.mean()), sum(parts) ** 0.5, degrees)
    assert found.difference == pytest.approx(expected.difference)
    assert found.interval.half_width == pytest.approx(expected.interval.half_width, rel=0.06)


def test_equal_methods_are_rarely_separated():
    rng, wrong = RNG(3), np.zeros(2)
    for _ in range(200):
        a, b = answers(rng, 3, 100, by_seed=0.6)
        crossed = itemwise.paired_bootstrap(a, b, rng=rng, resamples=100).p
        wrong += [crossed < 0.05, itemwise.paired_permutation(a, b, over="items", rng=rng, resamples=199).p < 0.05]
    assert wrong[0] / 200 <= 0.08
    assert wrong[1] / 200 > 0.15  # why examples alone are not enough: seeds differ, too


def test_a_score_that_is_no_mean():
    rng = RNG(4)
    target = np.tile(rng.integers(0, 2, 80), (4, 1))

    def f1(matrix):
        predicted, truth = matrix[..., 0], matrix[..., 1]
        return 200 * (predicted * truth).sum() / (predicted.sum() + truth.sum())

    right = np.where(rng.random((4, 80)) < 0.95, target, 1 - target)
    poor = np.where(rng.random((4, 80)) < 0.60, target, 1 - target)
    a, b = np.stack([right, target], axis=-1), np.stack([poor, target], axis=-1)
    found = itemwise.paired_bootstrap(a, b, rng=rng, score=f1, resamples=200)
    assert found.difference == pytest.approx(f1(a) - f1(b))
    assert found.interval.low > 0
    assert found.p < 0.01


def test_variance_split_by_hand():
    # Rows differ by 2, columns by 4, no interaction: MS_seed = 2 * 2, MS_item = 2 * 8, residual 0.
    found = itemwise.variance_split([[0, 4], [2, 6]])
    assert found == pytest.approx((2, 8, 0))
    assert found.of_mean(4, 10) == pytest.approx(2 / 4 + 8 / 10)


def test_variance_split_finds_what_was_put_in():
    rng = RNG(5)
    seed, item = rng.normal(0, 1, (300, 1)), rng.normal(0, 2, 400)
    found = itemwise.variance_split(seed + item + rng.normal(0, 3, (300, 400)))
    assert found == pytest.approx((1, 4, 9), rel=0.25)


def test_selection_on_the_reported_examples_is_optimistic():
    rng = RNG(6)
    noise = (rng.random((20, 100)) < 0.7).astype(float)  # twenty evaluations of one quality: choosing gains nothing
    found = itemwise.selection_gap(noise, rng=rng)
    assert found.best == noise.mean(axis=1).max()
    assert found.last == noise[-1].mean()
    assert found.best > found.held_out
    certain = np.tile([[1.0], [0.0]], (1, 10))
    assert itemwise.selection_gap(certain, rng=rng) == (0.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: itemwise.paired_permutation([1, 0], [1, 0], over="items", rng=RNG(0)), "seeds, items"),
        (lambda: itemwise.paired_permutation(np.ones((1, 2)), np.ones((1, 3)), over="items", rng=RNG(0)), "one shape"),
        (lambda: itemwise.paired_permutation(np.ones((1, 2)), np.ones((1, 2)), over="rows", rng=RNG(0)), "rows"),
        (lambda: itemwise.paired_bootstrap(np.ones((1, 5)), np.ones((1, 5)), rng=RNG(0)), "2 or more seeds"),
        (lambda: itemwise.variance_split([[1.0, float("nan")], [1.0, 2.0]]), "finite"),
    ],
)
def test_bad_input_is_refused(call, says):
    with pytest.raises(ValueError, match=says):
        call()
