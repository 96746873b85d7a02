"""A/A tests: one method under several names. How often does a table tell it from itself? At most 5 % of columns may.

python scripts/aa_simulation.py [--columns 2000]

Three kinds. The records of results/reference and results/rehearsal once more under another name: the same seeds, so every
comparison must be a tie. The five seeds of each of their methods dealt out to two names, every way of dealing: no common
seed. And simulated columns of four rows, each score the share of `items` examples that are right with probability 0.85.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np

from harness import grid, index, versus
from harness.bundle import records
from harness.cells import Cell, Row, gather
from harness.examples import Examples
from harness.record import DONE, Record

STORES = [Path(__file__).resolve().parents[1] / "results" / name for name in ("reference", "rehearsal")]
ITEMS, SEEDS, ROWS = (277, 408, 1500), (3, 5, 10), 4


def cells(store: Path) -> list[Cell]:
    """The cells of a store's table, two seeds or more each."""
    held = [one for one in records(index.bundles(store)) if isinstance(one, Record) and one.state == DONE]
    return [cell for cell in gather(held, stale=lambda _: [])[0] if len(cell.scores) > 1]


def named(cell: Cell, name: str, seeds: set[int]) -> Cell:
    """A cell with some of its seeds, under another name of its method."""
    scores = {seed: score for seed, score in cell.scores.items() if seed in seeds}
    return replace(
        cell, row=cell.row._replace(method=name), scores=scores, runs={seed: cell.runs[seed] for seed in scores}
    )


def separable(column: list[Cell], examples: Examples | None) -> bool:
    """Whether any two rows of a column are told apart."""
    return any(pair.separable for pair in versus.pairs(column, examples))


def real() -> dict[str, tuple[int, int]]:
    """What -> how many comparisons of real runs with themselves are separable, of how many."""
    found: dict[str, list[bool]] = defaultdict(list)
    for store in STORES:
        examples = Examples(store)
        for cell in cells(store):
            seeds = set(cell.scores)
            twice = [cell, named(cell, "again", seeds)]
            found["the same runs under two names"].append(separable(twice, examples))
            for half in map(set, combinations(sorted(seeds), len(seeds) // 2)):
                dealt = [named(cell, "one", half), named(cell, "other", seeds - half)]
                found["seeds dealt out to two names"].append(separable(dealt, examples))
    return {what: (sum(told), len(told)) for what, told in found.items()}


def simulated(items: int, seeds: int, columns: int) -> tuple[float, float]:
    """Percent of columns with a bold row, and with any two rows told apart."""
    rng = np.random.default_rng([items, seeds])
    bold = told = 0
    for _ in range(columns):
        scores = rng.binomial(items, 0.85, (ROWS, seeds)) * 100 / items
        column = [
            Cell(Row("m", "b", f"name {row}", ""), "t", scores=dict(enumerate(scores[row])), resolution=100 / items)
            for row in range(ROWS)
        ]
        bold += grid.lead(column).best is not None
        told += separable(column, None)
    return 100 * bold / columns, 100 * told / columns


def main() -> None:
    """Print both."""
    parser = argparse.ArgumentParser(description="How often a table tells a method from itself.")
    parser.add_argument("--columns", type=int, default=2_000, help="simulated, a line (default: %(default)s)")
    columns = parser.parse_args().columns
    for what, (apart, count) in real().items():
        print(f"{what}: {apart} of {count} comparisons separable")
    print(f"\n| items | seeds | columns with a bold row, % | with two rows told apart, % |\n{'|---' * 4}|")
    for items in ITEMS:
        for seeds in SEEDS:
            bold, told = simulated(items, seeds, columns)
            print(f"| {items} | {seeds} | {bold:.1f} | {told:.1f} |", flush=True)


if __name__ == "__main__":
    main()
