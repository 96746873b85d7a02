"""Cells arranged as a table, and what leads each column: one row, or several that cannot be told apart."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from harness.cells import Cell, Row
from harness.examples import Examples
from harness.versus import Pair, against_best


@dataclass(frozen=True)
class Grid:
    """The table before it has a format: its cells, the best ones, and what is said beneath.

    Attributes:
        cells: (row, task) -> cell. best: keys of the bold cells. tied: keys of cells that share the lead of their
            column. remarks: on records that stand in no cell. items: whether examples were paired over, too.
    """

    cells: dict[tuple[Row, str], Cell]
    best: frozenset[tuple[Row, str]]
    tied: frozenset[tuple[Row, str]]
    remarks: tuple[str, ...]
    items: bool = False

    @cached_property
    def rows(self) -> list[Row]:
        """The lines, in order."""
        return sorted({row for row, _ in self.cells})

    @cached_property
    def tasks(self) -> list[str]:
        """The columns, in order."""
        return sorted({task for _, task in self.cells})

    def column(self, task: str) -> list[Cell]:
        """The cells of a task."""
        return [cell for (_, other), cell in self.cells.items() if other == task]


@dataclass(frozen=True)
class Lead:
    """Who leads a column: `best` alone, separable from every other row; or the `tied` ones together; or nobody."""

    best: Cell | None
    tied: list[Cell]
    pairs: list[Pair]


def grid(found: Sequence[Cell], remarks: Iterable[str] = (), examples: Examples | None = None) -> Grid:
    """Arrange cells, and find what leads each column. examples: the store's predictions, to pair over."""
    columns: dict[str, list[Cell]] = {}
    for cell in found:
        columns.setdefault(cell.task, []).append(cell)
    leads = [lead(column, examples) for column in columns.values()]
    return Grid(
        {(cell.row, cell.task): cell for cell in found},
        frozenset((one.best.row, one.best.task) for one in leads if one.best is not None),
        frozenset((cell.row, cell.task) for one in leads for cell in one.tied),
        tuple(remarks),
        any(pair.items for one in leads for pair in one.pairs),
    )


def lead(column: Sequence[Cell], examples: Examples | None = None) -> Lead:
    """The best of a column's cells, if it is separable from every other at 5 % after Holm's correction; else the ties.

    Nobody leads where scores are not alike (other rows of data, another metric) or not of one code. One seed is never
    separable: where a row has no more nobody is the best, and that row itself is not called a tie.
    """
    pairs = against_best(column, examples)
    if not pairs:
        return Lead(None, [], [])
    tied = [pair.second for pair in pairs if not pair.separable]
    if tied:
        return Lead(None, [pairs[0].first, *tied], pairs)
    alone = len(pairs) + 1 == sum(bool(cell.scores) for cell in column)
    return Lead(pairs[0].first if alone else None, [], pairs)
