"""Statistics of seeds against numbers computed by hand, by scipy.stats, and by simulation."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from harness import stats

scores = st.lists(st.floats(0, 100), min_size=2, max_size=12)


def simulation():
    """The script as a module: its coverage is what the documentation claims."""
    path = Path(__file__).parents[2] / "scripts/coverage_simulation.py"
    spec = importlib.util.spec_from_file_location("coverage_simulation", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_mean_and_std_by_hand():
    assert stats.mean([80.0, 82.0, 87.0]) == 83.0
    assert stats.std([80.0, 82.0, 87.0]) == pytest.approx(13**0.5)  # (9 + 1 + 16) / 2


def test_interquartile_mean_by_hand():
    assert stats.interquartile_mean([0, 1, 2, 3, 100]) == pytest.approx(2.0)
    assert stats.interquartile_mean([7.0]) == 7.0
    values = [3.0, 9.0, 1.0, 50.0, 4.0, 2.0, 8.0, 6.0]
    assert stats.interquartile_mean(values) == pytest.approx(scipy_stats.trim_mean(values, 0.25))


def test_interval_is_students():
    low, high = stats.confidence_interval([80.0, 82.0, 87.0])
    expected = scipy_stats.t.interval(0.95, 2, loc=83.0, scale=13**0.5 / 3**0.5)
    assert (low, high) == pytest.approx(expected)
    assert stats.Interval(1.0, 4.0).half_width == 1.5


def test_tied_seeds_keep_the_width_of_a_rounding():
    assert stats.confidence_interval([85.0] * 3).half_width == 0
    step = 100 / 277
    assert stats.confidence_interval([85.0] * 3, resolution=step).half_width == pytest.approx(
        4.3027 * step / 6, rel=1e-4
    )


@pytest.mark.parametrize("name", ["normal, std 1", "k/277, std 1", "k/277, std 0.5", "k/277, binomial at 97 %"])
@pytest.mark.parametrize("n", [3, 5, 10])
def test_coverage(name, n):
    script = simulation()
    rng = np.random.default_rng(n)
    covered = script.coverage(script.SCORES[name], script.with_resolution, n, replicates=10_000, rng=rng)
    assert 93 <= covered <= 97


@pytest.mark.parametrize("n", [3, 5])
def test_where_seeds_tie_the_interval_errs_to_the_safe_side(n):
    script = simulation()
    draw, rng = script.SCORES["k/277, std 0.1 (seeds tie)"], np.random.default_rng(n)
    assert script.coverage(draw, script.with_resolution, n, replicates=500, rng=rng) >= 95
    assert script.coverage(draw, script.plain_t, n, replicates=500, rng=rng) < 75


def test_prediction_interval_of_a_mean_has_a_closed_form():
    values, rng = [80.0, 82.0, 87.0, 85.0, 84.0], np.random.default_rng(0)
    low, high = stats.prediction_interval(values, rng=rng, runs=3)
    reach = scipy_stats.t.ppf(0.975, 4) * np.std(values, ddof=1) * (1 / 5 + 1 / 3) ** 0.5
    assert (low, high) == pytest.approx((np.mean(values) - reach, np.mean(values) + reach), abs=0.15)


def test_prediction_interval_of_the_best_covers():
    """Its ends are mean + factor * std with factors that do not depend on the scores: one call serves all replicates."""
    rng, base = np.random.default_rng(1), np.array([80.0, 82.0, 87.0, 85.0, 84.0])
    found = stats.prediction_interval(base, rng=rng, of="best", runs=5)
    low, high = (np.array(found) - base.mean()) / base.std(ddof=1)
    old, best = rng.normal(80, 2, (4_000, 5)), rng.normal(80, 2, (4_000, 5)).max(axis=1)
    placed = (best - old.mean(axis=1)) / old.std(axis=1, ddof=1)
    assert np.mean((low <= placed) & (placed <= high)) == pytest.approx(0.95, abs=0.015)


def test_t_tests_agree_with_scipy():
    a, b = [81.0, 84.0, 83.0, 86.5], [80.0, 84.5, 81.0, 82.0]
    paired, welch = stats.paired_t(a, b), stats.welch_t(a, b)
    assert paired.p == pytest.approx(scipy_stats.ttest_rel(a, b).pvalue)
    assert welch.p == pytest.approx(scipy_stats.ttest_ind(a, b, equal_var=False).pvalue)
    expected = scipy_stats.ttest_ind(a, b, equal_var=False).confidence_interval()
    assert (welch.interval.low, welch.interval.high) == pytest.approx((expected.low, expected.high))


def test_equal_and_constant_differences():
    assert stats.paired_t([80, 81], [80, 81]).p == 1
    assert stats.paired_t([80, 81], [79, 80]).p == 0
    assert 0.01 < stats.paired_t([80, 81], [79, 80], resolution=0.5).p < 0.3  # one step apart is no proof
    assert stats.welch_t([80, 80], [80, 80]).p == 1


def test_equivalence_by_hand():
    found = stats.equivalence([80.0, 82.0, 87.0], 83.5, margin=10.0)
    error = 13**0.5 / 3**0.5
    assert found.difference == -0.5
    assert found.p == pytest.approx(scipy_stats.t.sf((10 - 0.5) / error, 2))
    assert found.smallest_margin == pytest.approx(0.5 + scipy_stats.t.ppf(0.95, 2) * error)
    assert stats.equivalence([80.0, 82.0, 87.0], 83.5, margin=found.smallest_margin).p == pytest.approx(0.05)


def test_an_uncertain_published_mean_widens():
    exact = stats.equivalence([80.0, 82.0, 84.0], 82.0, margin=3.0)
    uncertain = stats.equivalence([80.0, 82.0, 84.0], 82.0, margin=3.0, published_std=2.0, published_runs=3)
    pooled = scipy_stats.t.sf(3 / (2 * 4 / 3) ** 0.5, 4)  # equal variances: Welch's degrees are 4
    assert uncertain.p == pytest.approx(pooled)
    assert uncertain.p != exact.p


def test_identical_seeds_are_equivalent_within_the_margin_only():
    assert stats.equivalence([80.0, 80.0], 80.5, margin=1.0).p == 0
    assert stats.equivalence([80.0, 80.0], 81.0, margin=1.0).p == 1


def test_holm_by_hand():
    assert stats.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert stats.holm([]).size == 0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_lies_between_raw_and_bonferroni(p):
    adjusted = stats.holm(p)
    assert (adjusted >= np.array(p)).all()
    assert (adjusted <= np.minimum(1, np.array(p) * len(p))).all()
    assert (np.diff(adjusted[np.argsort(p)]) >= 0).all()


def test_probability_of_improvement_by_hand():
    assert stats.probability_of_improvement([2, 3], [1, 2]) == (1 + 0.5 + 1 + 1) / 4


@given(scores, scores)
def test_probability_of_improvement_is_antisymmetric(a, b):
    assert stats.probability_of_improvement(a, b) + stats.probability_of_improvement(b, a) == pytest.approx(1)


@given(scores, st.floats(-50, 50))
def test_intervals_shift_with_the_scores(values, shift):
    here = stats.confidence_interval(values, resolution=0.3)
    there = stats.confidence_interval([value + shift for value in values], resolution=0.3)
    assert there.low == pytest.approx(here.low + shift, abs=1e-6)
    assert here.low < stats.mean(values) < here.high
    assert stats.std(values, resolution=0.3) >= 0.3 / 12**0.5


@settings(max_examples=30)
@given(scores, scores)
def test_swapping_sides_flips_the_sign(a, b):
    one, other = stats.welch_t(a, b, resolution=0.1), stats.welch_t(b, a, resolution=0.1)
    assert one.difference == -other.difference
    assert one.p == pytest.approx(other.p)
    assert 0 <= one.p <= 1


def test_minimum_detectable_difference_is_detected_with_its_power():
    rng, n = np.random.default_rng(2), 5
    shift = stats.minimum_detectable_difference(1.0, n)
    assert shift == pytest.approx(1.68, abs=0.01)  # Cohen's table: d = 1.68 at n = 5, two-sided 5 %, power 80 %
    found = [stats.paired_t(rng.normal(shift, 1, n), np.zeros(n)).p < 0.05 for _ in range(2_000)]
    assert np.mean(found) == pytest.approx(0.8, abs=0.03)


def test_seeds_needed_give_the_power():
    rng = np.random.default_rng(3)
    n = stats.seeds_needed(1.0, margin=1.0, difference=0.2)
    found = [stats.equivalence(rng.normal(80.2, 1, n), 80.0, margin=1.0).p < 0.05 for _ in range(2_000)]
    assert 0.78 <= np.mean(found) <= 0.86
    assert stats.seeds_needed(1.0, margin=1.0, difference=1.0) is None
    assert stats.seeds_needed(0.0, margin=1.0) == 2
    assert stats.seeds_needed(1.0, margin=0.01) is None


@pytest.mark.parametrize(("margin", "difference"), [(1.5, 0.2), (0.5, 1.3)])
def test_seeds_needed_beside_an_uncertain_paper(margin, difference):
    """Its error stays, so more of our seeds are needed, and where it is wide no number of them will do."""
    rng, runs = np.random.default_rng(3), 25
    known = {"margin": margin, "difference": difference}
    n = stats.seeds_needed(1.0, **known, published_error=1 / runs**0.5, published_runs=runs)
    assert stats.seeds_needed(1.0, **known) < n
    within, level = abs(difference) < margin, (0.95 if abs(difference) < margin else 0.975)
    found = []
    for _ in range(1_000):
        paper, ours = rng.normal(80, 1, runs), rng.normal(80 + difference, 1, n)
        known = {"published_std": paper.std(ddof=1), "published_runs": runs, "level": level}
        said = stats.equivalence(ours, paper.mean(), margin=margin, **known)
        reach = said.smallest_margin - abs(said.difference)
        found.append(said.p < 0.05 if within else abs(said.difference) - reach > margin)
    assert 0.77 <= np.mean(found) <= 0.9
    assert stats.seeds_needed(1.0, margin=margin, difference=difference, published_error=1.0) is None


def test_the_same_generator_gives_the_same_numbers():
    intervals = [
        stats.prediction_interval([80, 81, 83], rng=np.random.default_rng(4), of="median", runs=5) for _ in "ab"
    ]
    assert intervals[0] == intervals[1]


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: stats.mean([]), "1 or more"),
        (lambda: stats.mean([[1.0]]), "one dimension"),
        (lambda: stats.mean([float("nan")]), "finite"),
        (lambda: stats.std([1.0]), "2 or more"),
        (lambda: stats.std([1.0, 2.0], resolution=-1), "resolution"),
        (lambda: stats.confidence_interval([1.0, 2.0], level=95), "level"),
        (lambda: stats.paired_t([1, 2], [1, 2, 3]), "equally many"),
        (lambda: stats.holm([1.5]), "between 0 and 1"),
        (lambda: stats.equivalence([1, 2], 1.0, margin=0), "margin"),
        (lambda: stats.prediction_interval([1, 2], rng=np.random.default_rng(0), of="mode"), "mode"),
        (lambda: stats.minimum_detectable_difference(1.0, 1), "2 or more"),
        (lambda: stats.seeds_needed(-1.0, margin=1.0), "std"),
    ],
)
def test_bad_input_is_refused(call, says):
    with pytest.raises(ValueError, match=says):
        call()
