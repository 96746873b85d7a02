"""Our rows against each other in one column: paired over seeds and, where predictions are stored, over examples.

Two rows are separable if their difference would be found again with other seeds and other examples, at 5 % after
Holm's correction for all comparisons made. What is not separable is a tie, and shown as one.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy import special

from harness import itemwise, stats
from harness.cells import Cell
from harness.examples import Examples, score_of

if TYPE_CHECKING:
    import pandas as pd

MOST_ROWS = 12  # of a column: with more only its best row is compared with the others, over seeds alone
NONE = "–"
MEANING = (
    "Pairs: the row with the higher mean first. Difference in points with its 95 % interval, paired over the seeds "
    "that both rows have, and over examples where predictions are stored (crossed bootstrap: new seeds and new "
    "examples); Welch's t without two common seeds. p after Holm's correction for all pairs of the column; a tie is p "
    "of 0.05 or more. P(better): chance that a run of the first scores above one of the second, ties half. found from: "
    "the smallest difference that these seeds would have found with probability 0.8."
)


class Pair(NamedTuple):
    """Two cells of a column, the first with the higher mean. p: adjusted. items: examples paired over, 0 for none."""

    first: Cell
    second: Cell
    found: stats.Comparison
    p: float
    seeds: int
    items: int

    @property
    def separable(self) -> bool:
        """Whether they can be told apart."""
        return self.p < 1 - stats.LEVEL and self.found.difference > 0


def comparable(column: Sequence[Cell]) -> list[Cell]:
    """The cells of a column that may be compared: two seeds or more.

    [] where scores are not alike (other rows of data, another metric), or made by code or versions that differ in what
    all rows need; one code for all of them may well be stale.
    """
    scored = [cell for cell in column if cell.scores]
    if len({(cell.like, cell.stale) for cell in scored}) > 1 or not _one_code(
        [code for cell in scored for code in cell.made]
    ):
        return []
    return sorted((cell for cell in scored if len(cell.scores) > 1), key=lambda cell: -stats.mean(cell.values))


def _one_code(codes: list[dict[str, Any]]) -> bool:
    """Whether codes agree where they have the same module or package; each method has modules of its own."""
    known: dict[tuple[str, str], Any] = {}
    for code in {id(code): code for code in codes}.values():
        for kind in ("modules", "versions"):
            for name, digest in (code.get(kind) or {}).items():
                if known.setdefault((kind, name), digest) != digest:
                    return False
    return True


def against_best(column: Sequence[Cell], examples: Examples | None) -> list[Pair]:
    """The best row with each of the others."""
    rows = comparable(column)
    if len(rows) <= MOST_ROWS:
        return _adjusted([(rows[0], other) for other in rows[1:]], examples)
    same = [row for row in rows[1:] if row.scores.keys() == rows[0].scores.keys()]
    found = dict(zip(map(id, same), _paired(rows[0], same), strict=True))
    made = [(found[id(row)], len(row.scores), 0) if id(row) in found else compare(rows[0], row) for row in rows[1:]]
    return _pairs([(rows[0], row) for row in rows[1:]], made)


def _paired(first: Cell, others: list[Cell]) -> list[stats.Comparison]:
    """stats.paired_t of one row with each of many that have its seeds, in one pass and without intervals."""
    if not others:
        return []
    seeds = sorted(first.scores)
    theirs = np.array([[other.scores[seed] for seed in seeds] for other in others])
    apart = np.array([first.scores[seed] for seed in seeds]) - theirs  # [rows, seeds]
    steps = np.array([max(first.resolution, other.resolution) for other in others])
    spread = np.maximum(apart.std(axis=1, ddof=1), np.sqrt(2 / 12) * steps)  # two roundings in each difference
    differences, errors = apart.mean(axis=1), spread / np.sqrt(len(seeds))
    with np.errstate(divide="ignore", invalid="ignore"):
        p = 2 * special.stdtr(len(seeds) - 1, -np.abs(differences) / errors)
    p = np.where(errors > 0, p, differences == 0)
    return [stats.Comparison(float(d), float(one)) for d, one in zip(differences, p, strict=True)]


def pairs(column: Sequence[Cell], examples: Examples | None) -> list[Pair]:
    """All pairs of a column; of a long one those with its best row."""
    rows = comparable(column)
    if len(rows) > MOST_ROWS:
        return against_best(column, None)
    return _adjusted(list(combinations(rows, 2)), examples, thorough=True)


def _adjusted(chosen: list[tuple[Cell, Cell]], examples: Examples | None, *, thorough: bool = False) -> list[Pair]:
    return _pairs(chosen, [compare(first, second, examples, thorough=thorough) for first, second in chosen])


def _pairs(chosen: list[tuple[Cell, Cell]], made: list[tuple[stats.Comparison, int, int]]) -> list[Pair]:
    """With p-values after Holm's correction for all of them."""
    adjusted = stats.holm([found.p for found, _, _ in made])
    return [
        Pair(first, second, found, float(p), seeds, items)
        for (first, second), (found, seeds, items), p in zip(chosen, made, adjusted, strict=True)
    ]


def compare(
    a: Cell, b: Cell, examples: Examples | None = None, *, thorough: bool = False
) -> tuple[stats.Comparison, int, int]:
    """The comparison, the common seeds it pairs over (0: Welch's t), and the examples (0: seeds alone).

    Examples can only add doubt to what the seeds tell: the larger p of both counts. Where seeds alone leave a tie they
    are not read, but if `thorough`.
    """
    resolution = max(a.resolution, b.resolution)
    common = sorted(a.scores.keys() & b.scores.keys())
    if len(common) < 2:
        return stats.welch_t(a.values, b.values, resolution=resolution), 0, 0
    seeds = [a.scores[s] for s in common], [b.scores[s] for s in common]
    by_seeds = stats.paired_t(*seeds, resolution=resolution)
    tied = by_seeds.p >= 1 - stats.LEVEL and not thorough
    if examples is None or tied or (both := examples.matrices(a, b)) is None:
        return by_seeds, len(common), 0
    found = itemwise.paired_bootstrap(*both, rng=np.random.default_rng(0), score=score_of(a.metric))
    wider = by_seeds if by_seeds.p > found.p else found
    return wider._replace(difference=by_seeds.difference), len(common), both[0].shape[1]


def frame(columns: dict[str, list[Pair]], named: dict[int, str] | None = None) -> pd.DataFrame:
    """One line a pair as text. columns: title -> its pairs. named: id of a cell -> what its row is called."""
    import pandas as pd

    return pd.DataFrame([
        {"task": title, "first": _name(pair.first, named), "second": _name(pair.second, named)} | _line(pair)
        for title, found in columns.items() for pair in found
    ])  # fmt: skip


def _name(cell: Cell, named: dict[int, str] | None) -> str:
    return named[id(cell)] if named else cell.row.title


def _line(pair: Pair) -> dict[str, str]:
    interval, few = pair.found.interval, min(len(pair.first.scores), len(pair.second.scores))
    over = f"{pair.seeds} seeds" if pair.seeds else "not paired"
    spread = [cell.scores for cell in (pair.first, pair.second)]
    common = sorted(spread[0].keys() & spread[1].keys()) if pair.seeds else []
    values = [spread[0][seed] - spread[1][seed] for seed in common] or pair.first.values
    detectable = stats.minimum_detectable_difference(
        stats.std(values, resolution=pair.first.resolution), len(values) if common else few, paired=bool(common)
    )
    return {
        "difference": f"{pair.found.difference:+.2f}"
        + (f" [{interval.low:.2f}, {interval.high:.2f}]" if interval else ""),
        "p": f"{pair.p:.3f}" if pair.p >= 0.001 else "< 0.001",
        "verdict": "separable" if pair.separable else "tie",
        "P(better)": f"{stats.probability_of_improvement(pair.first.values, pair.second.values):.2f}",
        "found from": f"{detectable:.2f}",
        "over": over + (f", {pair.items:,} examples" if pair.items else ""),
    }
