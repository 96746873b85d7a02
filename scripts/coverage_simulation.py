"""How often the 95 % interval of a mean holds the true mean, by simulation. Prints a Markdown table.

    python scripts/coverage_simulation.py --replicates 20000

Nine ways in which the scores of seeds can fall, at 3, 5 and 10 seeds: normal ones; accuracies that can only be k/277
(RTE's validation set), whose mean lies anywhere between two steps; and runs over 277 examples of unequal difficulty.
Three intervals: `harness.stats.confidence_interval`, told the resolution; the same without it (plain Student's t); and
a percentile bootstrap of the seeds.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
from scipy.special import ndtr

from harness import stats

ITEMS = 277
STEP = 100 / ITEMS
SEEDS = (3, 5, 10)
Draw = Callable[[np.random.Generator, int], tuple[np.ndarray, float]]


def normal(rng: np.random.Generator, seeds: int) -> tuple[np.ndarray, float]:
    """Scores [seeds] of mean 86, std 1, and their true mean."""
    return rng.normal(86.0, 1.0, seeds), 86.0


def rounded(spread: float) -> Draw:
    """Normal scores of std `spread` (points) rounded to k/277, the mean anywhere between two steps."""

    def draw(rng: np.random.Generator, seeds: int) -> tuple[np.ndarray, float]:
        centre = 86.0 + STEP * rng.random()
        steps = np.arange(round(80 / STEP), round(92 / STEP))
        edges = np.concatenate([[-np.inf], (steps[:-1] + 0.5) * STEP, [np.inf]])
        mass = np.diff(ndtr((edges - centre) / spread))
        return np.round(rng.normal(centre, spread, seeds) / STEP) * STEP, float(mass @ steps * STEP)

    return draw


def binomial(right: float) -> Draw:
    """Every seed answers 277 equally hard examples, each right with probability `right`."""

    def draw(rng: np.random.Generator, seeds: int) -> tuple[np.ndarray, float]:
        return rng.binomial(ITEMS, right, seeds) * STEP, 100 * right

    return draw


def unequal(rng: np.random.Generator, seeds: int) -> tuple[np.ndarray, float]:
    """Every seed answers the same 277 examples, most of them always right or always wrong (one fixed test set)."""
    right = np.random.default_rng(277).beta(0.5, 0.08, ITEMS)
    return (rng.random((seeds, ITEMS)) < right).sum(axis=1) * STEP, float(right.sum()) * STEP


SCORES: dict[str, Draw] = {
    "normal, std 1": normal,
    "k/277, std 2": rounded(2.0),
    "k/277, std 1": rounded(1.0),
    "k/277, std 0.5": rounded(0.5),
    "k/277, binomial at 86 %": binomial(0.86),
    "k/277, binomial at 97 %": binomial(0.97),
    "k/277, unequal items": unequal,
    "k/277, std 0.2 (seeds tie)": rounded(0.2),
    "k/277, std 0.1 (seeds tie)": rounded(0.1),
}


def with_resolution(scores: np.ndarray, rng: np.random.Generator) -> stats.Interval:
    """What the tables print."""
    del rng
    return stats.confidence_interval(scores, resolution=STEP)


def plain_t(scores: np.ndarray, rng: np.random.Generator) -> stats.Interval:
    """Student's t that knows nothing of the steps."""
    del rng
    return stats.confidence_interval(scores)


def percentile_bootstrap(scores: np.ndarray, rng: np.random.Generator) -> stats.Interval:
    """The 2.5 and 97.5 percentiles of 500 resampled means."""
    means = rng.choice(scores, (500, scores.size)).mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return stats.Interval(float(low), float(high))


INTERVALS = {"ours": with_resolution, "plain t": plain_t, "percentile bootstrap": percentile_bootstrap}


def coverage(draw: Draw, interval: Callable, seeds: int, *, replicates: int, rng: np.random.Generator) -> float:
    """Percentage of `replicates` in which the interval of `seeds` scores holds the true mean."""
    hits = 0
    for _ in range(replicates):
        scores, truth = draw(rng, seeds)
        low, high = interval(scores, rng)
        hits += low - 1e-9 <= truth <= high + 1e-9
    return 100 * hits / replicates


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Coverage of the 95 % intervals, in percent, by simulation.")
    parser.add_argument("--replicates", type=int, default=20_000, help="simulated means a cell (default: %(default)s)")
    replicates = parser.parse_args().replicates
    print("| scores | " + " | ".join(f"{name}, n = {n}" for name in INTERVALS for n in SEEDS) + " |")
    print("|---" * (1 + len(INTERVALS) * len(SEEDS)) + "|")
    for name, draw in SCORES.items():
        cells = []
        for label, interval in INTERVALS.items():
            count = min(replicates, 2_000) if label == "percentile bootstrap" else replicates
            for n in SEEDS:
                rng = np.random.default_rng([n, *name.encode()])
                cells.append(f"{coverage(draw, interval, n, replicates=count, rng=rng):.1f}")
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
