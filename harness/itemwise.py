"""Statistics over per-example predictions: which part of a difference is the seeds, which the examples.

Matrices are [seeds, items]: the score of one example in one run (1.0 right, 0.0 wrong, or any number whose mean is the
score), row by row the same seed and column by column the same example in both matrices. Scores that are no mean over
examples (F1, correlations) take [seeds, items, columns], e.g. prediction and target, and a `score` function.

Seeds and examples are crossed: all seeds answer the same examples, so neither the seeds * items answers nor the
examples of one seed are independent draws, and a test that treats them so finds differences between equal methods.
Functions are pure and take a keyword-only `rng`; bad input raises ValueError.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from harness.stats import LEVEL, Comparison, t_comparison

Score = Callable[[np.ndarray], float]


class Components(NamedTuple):
    """Variances of one answer: between seeds, between items, and what is left (their interaction and noise)."""

    seed: float
    item: float
    residual: float

    def of_mean(self, seeds: int, items: int) -> float:
        """Variance of the mean over new seeds and new items."""
        return self.seed / seeds + self.item / items + self.residual / (seeds * items)


class SelectionGap(NamedTuple):
    """One run's score three ways: last evaluation, best on the same examples, best on others (held out)."""

    last: float
    best: float
    held_out: float


def _matrix(values: Any, *, seeds: int, columns: bool = False) -> np.ndarray:
    """`values` as a finite float array [>= seeds, >= 2 items] (with `columns`: or [seeds, items, columns])."""
    array = np.asarray(values, dtype=float)
    fits = array.ndim == 2 or (columns and array.ndim == 3)
    if not fits or array.shape[0] < seeds or array.shape[1] < 2:
        raise ValueError(f"needs [seeds, items] with {seeds} or more seeds and 2 or more items, found {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError("per-example scores must be finite numbers")
    return array


def _pair(a: Any, b: Any, *, seeds: int, columns: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Both matrices, checked to be of one shape."""
    left, right = _matrix(a, seeds=seeds, columns=columns), _matrix(b, seeds=seeds, columns=columns)
    if left.shape != right.shape:
        raise ValueError(f"paired matrices must have one shape, found {left.shape} and {right.shape}")
    return left, right


def paired_permutation(a: Any, b: Any, *, over: str, rng: np.random.Generator, resamples: int = 9_999) -> Comparison:
    """Two-sided permutation test of mean(a) = mean(b) that swaps whole seeds or whole items between the two.

    Args:
        a, b: [seeds, items]. over: "items" asks about new examples for these trained models (one seed will do);
            "seeds" asks about new seeds on these examples, and with n seeds p is never below 2 / 2**n (n = 5: 0.06).
        rng, resamples: random swaps; where there are no more than `resamples` ways, all are tried instead.

    Sampled p-values are (1 + hits) / (1 + resamples) (Phipson and Smyth 2010), so never 0.
    """
    left, right = _pair(a, b, seeds=1)
    if over not in ("seeds", "items"):
        raise ValueError(f"over must be 'seeds' or 'items', found {over!r}")
    units = (left - right).mean(axis=1 if over == "seeds" else 0)
    observed = float(units.mean())
    exact = units.size < 63 and 2**units.size <= resamples
    if exact:
        signs = 1.0 - 2.0 * (np.arange(2**units.size)[:, None] >> np.arange(units.size) & 1)
        swapped = signs @ units / units.size
    else:
        swapped = np.concatenate([_sign_flips(units, rows, rng) for rows in _blocks(resamples, units.size)])
    hits = int((np.abs(swapped) >= abs(observed) - 1e-12 * np.abs(units).max()).sum())
    return Comparison(observed, hits / swapped.size if exact else (1 + hits) / (1 + resamples))


def _blocks(total: int, width: int) -> list[int]:
    """`total` rows in blocks of at most some 8 million numbers, so that memory stays flat."""
    rows = max(1, 8_000_000 // width)
    return [min(rows, total - start) for start in range(0, total, rows)]


def _sign_flips(units: np.ndarray, rows: int, rng: np.random.Generator) -> np.ndarray:
    """Means of `units` [n] under `rows` random sign patterns."""
    return (rng.integers(0, 2, (rows, units.size), dtype=np.int8) * 2 - 1) @ units / units.size


def mean(matrix: np.ndarray) -> float:
    """Of all entries: the score of a mean over examples."""
    return float(matrix.mean())


def paired_bootstrap(
    a: Any,
    b: Any,
    *,
    rng: np.random.Generator,
    score: Score = mean,
    resamples: int = 1_000,
    level: float = LEVEL,
) -> Comparison:
    """score(a) - score(b) with an interval for new seeds *and* new examples, and its two-sided p-value.

    Seeds and items are resampled in turn, the same ones in both matrices; the two bootstrap variances add up (Owen
    2007 on crossed data; the sum is a little too wide, never too narrow). Each draws one unit fewer than there are,
    which makes the variance unbiased with few units (Rao and Wu 1988), and the interval is Student's t with
    Satterthwaite's degrees, since percentiles of a bootstrap of 3 seeds cover 75 % and not 95.

    Args:
        a, b: [seeds, items] or [seeds, items, columns], two or more seeds. score: such a matrix -> a number.
        rng: source of the resamples. resamples: for seeds and for items each.
    """
    left, right = _pair(a, b, seeds=2, columns=True)
    variances = []
    for axis in (0, 1):
        units = left.shape[axis]
        chosen = rng.integers(0, units, (resamples, units - 1))
        if score is mean and left.ndim == 2:  # the same, without a loop
            draws = (left - right).mean(axis=1 - axis)[chosen].mean(axis=1)
        else:
            pairs = ((score(left.take(units, axis)), score(right.take(units, axis))) for units in chosen)
            draws = np.array([a_score - b_score for a_score, b_score in pairs])
        variances.append(float(draws.var()))
    total = sum(variances)
    below = sum(v**2 / (units - 1) for v, units in zip(variances, left.shape, strict=False))
    degrees = total**2 / below if below > 0 else float(left.shape[0] - 1)
    return t_comparison(score(left) - score(right), math.sqrt(total), degrees, level)


def variance_split(scores: Any) -> Components:
    """Variance components of [seeds, items], two-way crossed, one value a cell (Searle, Casella, McCulloch 1992, 4.1).

    From the mean squares of seeds, items and residual; an estimate below 0 counts as 0.
    """
    values = _matrix(scores, seeds=2)
    seeds, items = values.shape
    by_seed, by_item, grand = values.mean(axis=1), values.mean(axis=0), values.mean()
    residual = values - by_seed[:, None] - by_item[None, :] + grand
    mean_square = float((residual**2).sum() / ((seeds - 1) * (items - 1)))
    seed = (items * float(by_seed.var(ddof=1)) - mean_square) / items
    item = (seeds * float(by_item.var(ddof=1)) - mean_square) / seeds
    return Components(max(seed, 0.0), max(item, 0.0), mean_square)


def selection_gap(scores: Any, *, rng: np.random.Generator, splits: int = 200) -> SelectionGap:
    """What choosing the checkpoint on the reported examples adds: best - held_out is that optimism.

    Args:
        scores: [evaluations, items] of one run, in the order of training.
        rng, splits: random halves of the items; the evaluation best on one half is scored on the other, both ways.

    Among equal evaluations the earliest is chosen.
    """
    values = _matrix(scores, seeds=1)
    items, total = values.shape[1], 0.0
    for _ in range(splits):
        order = rng.permutation(items)
        halves = values[:, order[: items // 2]].mean(axis=1), values[:, order[items // 2 :]].mean(axis=1)
        total += halves[1][halves[0].argmax()] + halves[0][halves[1].argmax()]
    return SelectionGap(float(values[-1].mean()), float(values.mean(axis=1).max()), float(total / (2 * splits)))
