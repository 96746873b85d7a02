"""Average ranks of rows over tasks, and how far apart they must be (Demsar 2006, JMLR 7:1-30, section 3.2)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import special
from scipy.stats import rankdata

from harness.stats import LEVEL

FEWEST = 3  # rows, and blocks, below which a diagram says nothing


@dataclass(frozen=True)
class Ranking:
    """ranks: row -> mean rank over the blocks, 1 the best. p: Friedman's test of equal ranks. distance: Nemenyi's.

    blocks: how many; of: what they are.
    """

    ranks: dict[str, float]
    p: float
    distance: float
    blocks: int
    of: str

    def cliques(self) -> list[tuple[float, float]]:
        """The longest runs of rows within the critical distance of each other, as first and last rank."""
        found: list[tuple[float, float]] = []
        values = sorted(self.ranks.values())
        for low in values:
            high = max(value for value in values if value - low < self.distance)
            if high > low and (not found or high > found[-1][1]):
                found.append((low, high))
        return found


def rank(scores: dict[str, list[float]], of: str) -> Ranking | None:
    """Rows ranked within each block, ties sharing the mean of their ranks; None with fewer than three rows or blocks.

    Args:
        scores: row -> a score a block, higher is better, block by block the same in every row.
        of: what the blocks are: tasks, seeds.
    """
    table = np.array(list(scores.values()), dtype=float)  # [rows, blocks]
    if table.ndim != 2 or min(table.shape) < FEWEST:
        return None
    rows, blocks = table.shape
    ranks = rankdata(-table, axis=0).mean(axis=1)
    ties = sum(count**3 - count for column in table.T for count in np.unique(column, return_counts=True)[1])
    below = 1 - ties / (blocks * (rows**3 - rows))
    statistic = 12 * blocks / (rows * (rows + 1)) * float(((ranks - (rows + 1) / 2) ** 2).sum())
    p = float(special.chdtrc(rows - 1, statistic / below)) if below > 0 else 1.0
    return Ranking(dict(zip(scores, ranks.tolist(), strict=True)), p, distance(rows, blocks), blocks, of)


def distance(rows: int, blocks: int, level: float = LEVEL) -> float:
    """Nemenyi's critical distance: q sqrt(k (k + 1) / (6 n)), q of the studentized range over sqrt(2)."""
    from scipy.stats import studentized_range

    q = float(studentized_range.ppf(level, rows, np.inf)) / math.sqrt(2)
    return q * math.sqrt(rows * (rows + 1) / (6 * blocks))
