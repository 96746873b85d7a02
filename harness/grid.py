"""Cells arranged as a table, and the best of each column where it can be told from the others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from harness import stats
from harness.cells import Cell, Row


@dataclass(frozen=True)
class Grid:
    """The table before it has a format: its cells, the best ones, and what is said beneath.

    Attributes:
        cells: (row, task) -> cell. best: keys of the bold cells. remarks: on records that stand in no cell.
    """

    cells: dict[tuple[Row, str], Cell]
    best: frozenset[tuple[Row, str]]
    remarks: tuple[str, ...]

    @cached_property
    def rows(self) -> list[Row]:
        """The lines, in order."""
        return sorted({row for row, _ in self.cells})

    @cached_property
    def tasks(self) -> list[str]:
        """The columns, in order."""
        return sorted({task for _, task in self.cells})


def grid(found: Sequence[Cell], remarks: Iterable[str] = ()) -> Grid:
    """Arrange cells, and find the best of each column."""
    columns: dict[str, list[Cell]] = {}
    for cell in found:
        columns.setdefault(cell.task, []).append(cell)
    winners = [winner for column in columns.values() if (winner := best(column)) is not None]
    return Grid(
        {(cell.row, cell.task): cell for cell in found},
        frozenset((cell.row, cell.task) for cell in winners),
        tuple(remarks),
    )


def best(column: Sequence[Cell]) -> Cell | None:
    """The cell with the highest mean, if it is separable from every other one at 5 % after Holm's correction; or None.

    Paired t over common seeds where there are two or more, else Welch's t. None, too, where the scores are not alike
    (other rows of data, another metric), where any of them is stale, or where one stands on a single seed.
    """
    scored = [cell for cell in column if cell.scores]
    if len(scored) < 2 or len({cell.like for cell in scored}) > 1:
        return None
    if any(cell.stale or len(cell.scores) < 2 for cell in scored):
        return None
    first, *others = sorted(scored, key=lambda cell: -stats.mean(cell.values))
    comparisons = [compare(first, other) for other in others]
    separable = (stats.holm([found.p for found in comparisons]) < 1 - stats.LEVEL).all()
    return first if separable and all(found.difference > 0 for found in comparisons) else None


def compare(a: Cell, b: Cell) -> stats.Comparison:
    """Paired t over the seeds that both have, or Welch's t where those are fewer than two."""
    resolution = max(a.resolution, b.resolution)
    common = sorted(a.scores.keys() & b.scores.keys())
    if len(common) < 2:
        return stats.welch_t(a.values, b.values, resolution=resolution)
    return stats.paired_t([a.scores[s] for s in common], [b.scores[s] for s in common], resolution=resolution)
