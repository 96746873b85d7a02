"""Published tables as data: every cell with its value, and with what it is a value of. Read by harness/published.py.

Nothing here judges: what does not follow from a table's own numbers is found by harness/doubts.py, and whether our runs
agree with it by harness/verdict.py.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

STATISTICS = ("mean", "median", "best", "one run", "unknown")
SELECTIONS = ("last", "best", "unknown")
OPERATORS: dict[type, Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


@dataclass(frozen=True)
class Setting:
    """What a number is, beyond its value.

    Attributes:
        model: backbone, by the name of its file in conf/model. split: that the score was measured on, or "unknown";
            scheme: the arrangement of splits it belongs to (`task.splits`).
        selection: which checkpoint was scored. statistic: what the number is of several runs.
        seeds_claimed: how many runs, as the paper says (0: it does not). seeds_inferred: as the digits tell (0: they do
            not), and seeds_reason how.
        margin: points of difference that count as none. source: paper and table.
    """

    model: str
    split: str
    selection: str
    statistic: str
    seeds_claimed: int
    seeds_inferred: int
    margin: float
    source: str
    scheme: str = "official"
    seeds_reason: str = ""

    @property
    def seeds(self) -> int:
        """Runs behind the number: inferred ones win over claimed ones; 0 where neither is known."""
        return self.seeds_inferred or self.seeds_claimed


@dataclass(frozen=True)
class Count:
    """A printed count (parameters, percent, bits), and how it follows from the architecture.

    Attributes:
        printed: as in the paper, "1.33M". digits: decimals that carry meaning, where fewer than are printed.
        formula: arithmetic that gives the count, "" where none is known. low, high: the same for the reachable counts
            of a method that learns its allocation. remark: where it comes from, or why the two disagree.
    """

    printed: str
    digits: int | None = None
    formula: str = ""
    low: str = ""
    high: str = ""
    remark: str = ""

    @property
    def computed(self) -> float | None:
        """The formula's value, or None."""
        return arithmetic(self.formula) if self.formula else None


@dataclass(frozen=True)
class Published:
    """One cell. value: None where the paper prints none, and `remark` says why."""

    value: float | None
    setting: Setting
    std: float | None = None
    remark: str = ""


@dataclass(frozen=True)
class Column:
    """A score: task and metric by their names in this harness. items: examples an accuracy is counted over, or 0."""

    key: str
    title: str
    task: str
    metric: str
    items: int = 0
    remark: str = ""


@dataclass(frozen=True)
class Line:
    """A row: what the paper calls it, and the method, budget and other identity keys (`where`) that fill it."""

    key: str
    title: str
    method: str
    budget: str
    where: dict[str, Any]
    cells: dict[str, Published]
    average: Published | None
    counts: dict[str, Count]
    remark: str = ""


@dataclass(frozen=True)
class Average:
    """How the paper averages. of: groups of column keys; the mean of the groups' means. digits: as printed."""

    title: str
    of: list[list[str]]
    convention: str
    digits: int = 2

    def mean(self, values: dict[str, float]) -> float:
        """The average of a row's values by column key."""
        groups = [sum(values[key] for key in group) / len(group) for group in self.of]
        return sum(groups) / len(groups)


@dataclass(frozen=True)
class Table:
    """A published table. counts: key -> column title. can_run: False where nobody outside can fill it.

    `words` are overrides of every run that fills it which are no part of a run's identity: a variant of the recipe, say.
    """

    name: str
    title: str
    margin_reason: str
    columns: dict[str, Column]
    rows: dict[str, Line]
    average: Average | None = None
    counts: dict[str, str] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    can_run: bool = True
    words: list[str] = field(default_factory=list)


def arithmetic(text: str) -> float:
    """The value of numbers joined by + - * / and brackets. Raises ValueError for anything else."""
    try:
        return _value(ast.parse(text, mode="eval").body)
    except (SyntaxError, ZeroDivisionError) as error:
        raise ValueError(f"{text!r} is no arithmetic: {error}") from error


def _value(node: ast.expr) -> float:
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        return OPERATORS[type(node.op)](_value(node.left), _value(node.right))
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float) and not isinstance(node.value, bool):
        return float(node.value)
    raise ValueError(f"{ast.unparse(node)!r} is neither a number nor + - * /")
