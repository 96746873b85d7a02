"""Statistics of a few seeds: intervals, tests, equivalence with a published number, how many seeds are still needed.

Everything here takes plain arrays of scores, one per seed: shape [seeds], in percent, higher is better. Matrices of
per-example scores, [seeds, items], are in harness/itemwise.py. Functions are pure; where one draws random numbers it
takes a keyword-only `rng`. Bad input (a NaN, too few seeds, a wrong shape) raises ValueError.

Which interval: a percentile bootstrap of 3 seeds covers 75 %, Student's t covers 95 % of normal scores at every n. A
score that can only be k/277 adds one trap: where seeds tie, the sample std is 0 although the true one is not, and t
alone covers as little as 20 %. So the std is never taken below that of the rounding itself, `resolution / sqrt(12)`
(the std of a uniform error one step wide); scripts/coverage_simulation.py prints what that covers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import special  # scipy.stats costs most of a second at import; the distributions needed here are in special

LEVEL = 0.95
Scores = Sequence[float] | np.ndarray
STATISTICS: dict[str, Callable[..., Any]] = {"mean": np.mean, "median": np.median, "best": np.max}


class Interval(NamedTuple):
    """From `low` to `high`, in the unit of the scores."""

    low: float
    high: float

    @property
    def half_width(self) -> float:
        """Half of high - low: what stands behind the plus-minus sign."""
        return (self.high - self.low) / 2


class Comparison(NamedTuple):
    """mean(a) - mean(b), the two-sided p-value of no difference, and the interval of the difference (None: none)."""

    difference: float
    p: float
    interval: Interval | None = None


class Equivalence(NamedTuple):
    """Two one-sided tests: ours minus published, their p-value, and the smallest margin at which they would succeed."""

    difference: float
    p: float
    smallest_margin: float


def vector(scores: Any, *, at_least: int = 1) -> np.ndarray:
    """`scores` as a float array [seeds]. Raises ValueError unless it is 1-D, finite and holds `at_least` values."""
    values = np.asarray(scores, dtype=float)
    if values.ndim != 1 or values.size < at_least:
        raise ValueError(f"needs {at_least} or more scores in one dimension, found shape {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError(f"scores must be finite numbers, found {values.tolist()}")
    return values


def between(name: str, value: float, low: float = 0.0, high: float = 1.0) -> float:
    """`value`, if it lies strictly between the bounds. Raises ValueError otherwise."""
    if not low < value < high:
        raise ValueError(f"{name} must lie between {low:g} and {high:g}, found {value!r}")
    return value


def mean(scores: Scores) -> float:
    """Arithmetic mean of [seeds]."""
    return float(vector(scores).mean())


def std(scores: Scores, *, resolution: float = 0.0) -> float:
    """Sample standard deviation (n - 1 below) of [seeds], two or more, and never below `resolution / sqrt(12)`."""
    if not resolution >= 0:
        raise ValueError(f"resolution must be 0 or more, found {resolution!r}")
    return max(float(vector(scores, at_least=2).std(ddof=1)), resolution / math.sqrt(12))


def interquartile_mean(scores: Scores) -> float:
    """Mean of the middle half of [seeds] (Agarwal et al. 2021, arXiv:2108.13264).

    A quarter of the *weight* is cut off either end, so that with n not divisible by 4 the outer scores left count in
    part: [0, 1, 2, 3, 100] gives (0.75 * 1 + 2 + 0.75 * 3) / 2.5 = 2. With n = 4k it is the 25 % trimmed mean.
    """
    values = np.sort(vector(scores))
    ends = np.arange(values.size + 1)
    inside = np.clip(ends, values.size / 4, values.size * 3 / 4)  # where each score's unit of weight is cut
    return float(np.average(values, weights=np.diff(inside)))


def _t(level: float, degrees: float) -> float:
    """Two-sided critical value of Student's t: P(|T| <= t) = level."""
    return float(special.stdtrit(degrees, (1 + between("level", level)) / 2))


def t_comparison(difference: float, error: float, degrees: float, level: float = LEVEL) -> Comparison:
    """Comparison of a difference whose standard error is `error`, by Student's t with `degrees` of freedom."""
    reach = _t(level, degrees) * error
    if error > 0:
        p = 2 * float(special.stdtr(degrees, -abs(difference) / error))
    else:
        p = float(difference == 0)
    return Comparison(difference, p, Interval(difference - reach, difference + reach))


def confidence_interval(scores: Scores, *, level: float = LEVEL, resolution: float = 0.0) -> Interval:
    """Interval of the mean over seeds: mean +- t(n - 1) * s / sqrt(n) (Student 1908).

    Args:
        scores: [seeds], two or more. level: how often the interval is to hold the true mean.
        resolution: the step between possible scores, in their unit: 100/277 for an accuracy in percent over 277
            examples; 0 for a continuous score. It bounds s from below (see the top of this file).
    """
    values = vector(scores, at_least=2)
    reach = _t(level, values.size - 1) * std(values, resolution=resolution) / math.sqrt(values.size)
    return Interval(float(values.mean() - reach), float(values.mean() + reach))


def prediction_interval(
    scores: Scores, *, rng: np.random.Generator, of: str = "mean", runs: int = 1,
    level: float = LEVEL, resolution: float = 0.0,
) -> Interval:  # fmt: skip
    """Where the `of` ("mean", "median" or "best") of `runs` further seeds will lie; runs=1 is one more run.

    For normal scores (statistic of the new - mean of the old) / s of the old has a distribution without unknowns; for
    the mean it is t(n - 1) * sqrt(1/n + 1/runs) (Hahn 1969), else its quantiles come from 100,000 draws of `rng`.
    """
    values, draws = vector(scores, at_least=2), 100_000
    if of not in STATISTICS or runs < 1:
        raise ValueError(f"of must be one of {', '.join(STATISTICS)} and runs 1 or more, found {of!r} and {runs!r}")
    spread = std(values, resolution=resolution)
    if of == "mean":
        reach = _t(level, values.size - 1) * math.sqrt(1 / values.size + 1 / runs) * spread
        return Interval(float(values.mean() - reach), float(values.mean() + reach))
    old_mean = rng.standard_normal(draws) / math.sqrt(values.size)
    old_std = np.sqrt(rng.chisquare(values.size - 1, draws) / (values.size - 1))
    pivot = (STATISTICS[of](rng.standard_normal((draws, runs)), axis=1) - old_mean) / old_std
    tail = (1 - between("level", level)) / 2
    low, high = np.quantile(pivot, [tail, 1 - tail]) * spread + values.mean()
    return Interval(float(low), float(high))


def paired_t(a: Scores, b: Scores, *, resolution: float = 0.0) -> Comparison:
    """Student's t on the differences of [seeds] with [seeds], position by position the same seed."""
    left, right = vector(a, at_least=2), vector(b, at_least=2)
    if left.size != right.size:
        raise ValueError(f"paired scores need equally many seeds, found {left.size} and {right.size}")
    error = std(left - right, resolution=math.sqrt(2) * resolution) / math.sqrt(left.size)  # two roundings in each
    return t_comparison(float((left - right).mean()), error, left.size - 1)


def welch_t(a: Scores, b: Scores, *, resolution: float = 0.0) -> Comparison:
    """Welch's t for [seeds] against other [seeds], unequal variances, degrees by Welch-Satterthwaite (Welch 1947)."""
    left, right = vector(a, at_least=2), vector(b, at_least=2)
    parts = [std(side, resolution=resolution) ** 2 / side.size for side in (left, right)]
    below = sum(part**2 / (side.size - 1) for part, side in zip(parts, (left, right), strict=True))
    degrees = sum(parts) ** 2 / below if below > 0 else left.size + right.size - 2
    return t_comparison(float(left.mean() - right.mean()), math.sqrt(sum(parts)), degrees)


def equivalence(
    scores: Scores, published: float, *, margin: float, level: float = LEVEL,
    published_std: float | None = None, published_runs: int | None = None, resolution: float = 0.0,
) -> Equivalence:  # fmt: skip
    """Do our [seeds] agree with a published mean within +-margin? Two one-sided t tests (Schuirmann 1987).

    p is the larger of the two p-values; p < 1 - level says equivalent. With the published std and number of runs the
    published mean counts as uncertain, too (Welch); else it is taken as exact. `resolution` as in confidence_interval:
    without it seeds that tie would agree with anything near.
    """
    values = vector(scores, at_least=2)
    if not (margin > 0 and math.isfinite(published)):
        raise ValueError(f"needs a margin above 0 and a finite published score, found {margin!r} and {published!r}")
    ours = std(values, resolution=resolution) ** 2 / values.size
    theirs, degrees = 0.0, float(values.size - 1)
    if published_std is not None and published_runs is not None and published_runs > 1:
        theirs = published_std**2 / published_runs
        below = ours**2 / (values.size - 1) + theirs**2 / (published_runs - 1)
        degrees = (ours + theirs) ** 2 / below if below > 0 else degrees
    error, difference = math.sqrt(ours + theirs), float(values.mean() - published)
    reach = float(special.stdtrit(degrees, between("level", level))) * error
    room = margin - abs(difference)  # the nearer bound has the larger p-value
    p = float(special.stdtr(degrees, -room / error)) if error > 0 else float(room <= 0)
    return Equivalence(difference, p, abs(difference) + reach)


def holm(p_values: Scores) -> np.ndarray:
    """Adjusted p-values [tests] that keep the chance of any false rejection at the level (Holm 1979)."""
    p = np.asarray(p_values, dtype=float)
    if p.ndim != 1 or not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"p-values lie between 0 and 1 in one dimension, found {p.tolist()}")
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(p.size, 0, -1)), 1.0)
    return adjusted


def probability_of_improvement(a: Scores, b: Scores) -> float:
    """P(a run of `a` scores above a run of `b`), ties half: U / (n_a n_b) (Mann and Whitney 1947). Shapes [seeds]."""
    difference = vector(a)[:, None] - vector(b)[None, :]
    return float(((difference > 0) + 0.5 * (difference == 0)).mean())


def minimum_detectable_difference(
    spread: float, seeds: int, *, level: float = LEVEL, power: float = 0.8, paired: bool = True
) -> float:
    """The true difference that a two-sided t test over `seeds` finds with probability `power`.

    Args:
        spread: std of the paired differences, or (paired=False) of either group's scores. seeds: per group.

    The non-centrality nc of t at which P(T > t_critical) = power, times the standard error (Cohen 1988, chapter 2).
    """
    if seeds < 2 or not spread >= 0:
        raise ValueError(f"needs 2 or more seeds and a std of 0 or more, found {seeds!r} and {spread!r}")
    degrees = seeds - 1 if paired else 2 * seeds - 2
    shift = special.nctdtrinc(degrees, 1 - between("power", power), _t(level, degrees))
    return float(shift) * spread * math.sqrt((1 if paired else 2) / seeds)


def seeds_needed(
    spread: float, *, margin: float, difference: float = 0.0, level: float = LEVEL, power: float = 0.8,
    published_error: float = 0.0, published_runs: int = 2,
) -> int | None:  # fmt: skip
    """Seeds that show, with probability `power`, equivalence at +-margin, or a difference beyond it; None: over 10,000.

    Args:
        spread: std over seeds. difference: the true one, ours minus published. published_error: standard error of the
            published mean, 0 where it is taken as exact; no number of our seeds makes it smaller.

    From the non-central t with Welch's degrees; within the margin P(both) >= P(one) + P(other) - 1 (Phillips 1990).
    """
    if not (spread >= 0 and margin > 0 and published_error >= 0):
        raise ValueError(f"needs a std and an error of 0 or more and a margin above 0, found {spread!r} and {margin!r}")
    if spread == published_error == 0 or abs(difference) == margin:
        return None if abs(difference) == margin else 2
    seeds = np.unique(np.geomspace(2, 10_000, 2_000).round())  # every number up to some 200, then steps below 1 %
    ours, theirs = spread**2 / seeds, published_error**2
    degrees = (ours + theirs) ** 2 / (ours**2 / (seeds - 1) + theirs**2 / (max(published_runs, 2) - 1))
    beyond = abs(difference) > margin
    sides = [abs(difference) - margin] if beyond else [margin - difference, margin + difference]
    critical = special.stdtrit(degrees, (1 + between("level", level)) / 2 if beyond else between("level", level))
    missed = sum(special.nctdtr(degrees, side / np.sqrt(ours + theirs), critical) for side in sides)
    enough = np.flatnonzero(1 - missed >= between("power", power))
    return int(seeds[enough[0]]) if enough.size else None
