"""What runs said of every example, read from the store as matrices that pair over seeds and examples."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np

from harness import itemwise
from harness.cells import Cell

MEANS = ("accuracy",)  # over examples
OTHERS = ("f1", "matthews", "pearson", "spearman")  # of predictions and targets together: functions of harness.scores


class Examples:
    """The predictions of a store. root: its folder."""

    def __init__(self, root: Path) -> None:
        self._read = cache(lambda run, split: _columns(root / run / f"predictions.{split}.parquet"))

    def matrices(self, a: Cell, b: Cell) -> tuple[np.ndarray, np.ndarray] | None:
        """What both cells' runs of the seeds that both have said of the same examples; None where that is not known.

        Returns:
            Twice [seeds, items] of 100 for right and 0 for wrong, or [seeds, items, 2] of prediction and target where
            the score is no mean over examples.
        """
        seeds = sorted(a.runs.keys() & b.runs.keys())
        if len(seeds) < 2 or (a.metric, a.split) != (b.metric, b.split) or a.metric not in (*MEANS, *OTHERS):
            return None
        left, right = (self._matrix(cell, seeds) for cell in (a, b))
        return None if left is None or right is None or left.shape != right.shape else (left, right)

    def right(self, cell: Cell) -> np.ndarray | None:
        """[seeds, items] of 100 for right and 0 for wrong of one cell; None where that is not its score, or not known."""
        return self._matrix(cell, sorted(cell.runs)) if cell.metric in MEANS and cell.runs else None

    def _matrix(self, cell: Cell, seeds: Sequence[int]) -> np.ndarray | None:
        found = [self._read(cell.runs[seed], cell.split) for seed in seeds]
        whole = [one for one in found if one is not None]
        if len(whole) < len(found) or any(not np.array_equal(one[1], whole[0][1]) for one in whole):
            return None
        if cell.metric in MEANS:
            return np.stack([100.0 * (said == target) for said, target in whole])
        return np.stack([np.stack([said, target], axis=-1) for said, target in whole]).astype(float)


def score_of(metric: str) -> itemwise.Score:
    """Such a matrix -> the mean over seeds of a score in percent."""
    if metric in MEANS:
        return itemwise.mean
    from harness import scores  # which needs what takes a second to import

    function = getattr(scores, metric)
    return lambda matrix: 100.0 * float(np.mean([function(run[:, 0], run[:, 1]) for run in matrix]))


def _columns(path: Path) -> tuple[np.ndarray, np.ndarray] | None:
    """Predictions and targets in the order of the examples' ids; None where the file lacks them."""
    import pandas as pd

    try:
        table = pd.read_parquet(path, columns=["id", "prediction", "target"]).sort_values("id")
        return table["prediction"].to_numpy(dtype=float), table["target"].to_numpy(dtype=float)
    except (OSError, ValueError, KeyError, TypeError):
        return None
