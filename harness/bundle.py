"""Runs that a table can count together without looking at each: equal in all but seed, score and cost.

A store of 100,000 runs has some 10,000 configurations. Tables ask a bundle's questions once, of one of its runs, and
make the other records only where somebody wants them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from harness.record import DONE, Record, Unreadable


@dataclass(frozen=True)
class Bundle:
    """Some runs. one: any of them. ids, seeds, scores: of each (score None unless DONE). make: position -> record."""

    one: Record
    ids: list[str]
    seeds: list[Any]
    scores: list[Any]
    make: Callable[[int], Record]

    def records(self) -> list[Record]:
        """All of them, made now."""
        return [self.make(position) for position in range(len(self.ids))]

    def sound(self) -> bool:
        """Whether every seed is an integer and every score a finite number, as far as `one` tells nothing else."""
        whole = all(type(seed) is int for seed in self.seeds)
        return whole and (self.one.state != DONE or all(type(s) is float and possible(s) for s in self.scores))

    def only(self, positions: list[int]) -> Bundle:
        """The runs at these positions."""
        if len(positions) == len(self.ids):
            return self
        columns = {name: [getattr(self, name)[at] for at in positions] for name in ("ids", "seeds", "scores")}
        return replace(self, one=self.make(positions[0]), make=lambda at: self.make(positions[at]), **columns)


Held = Record | Unreadable | Bundle


def possible(score: float) -> bool:
    """Whether a number can be a score in percent: correlations reach down to -100, all else to 0."""
    return math.isfinite(score) and abs(score) <= 100 + 1e-9


def single(record: Record) -> Bundle:
    """A bundle of one run. Its record may be of any form: what it lacks is None here."""
    main = record.science.get("main") if record.state == DONE else None
    score = main.get("score") if isinstance(main, dict) else None
    return Bundle(record, [record.id], [record.identity.get("seed")], [score], lambda _: record)


def records(held: Iterable[Held]) -> list[Record | Unreadable]:
    """All runs one by one."""
    found: list[Record | Unreadable] = []
    for one in held:
        found += one.records() if isinstance(one, Bundle) else [one]
    return found


def problem(record: Record) -> str | None:
    """Why a readable record cannot stand in a table, or None."""
    try:
        for part in ("model", "budget", "method", "task"):
            record.identity[part]["name"]
        seed = record.identity["seed"]
        main = record.science["main"] if record.state == DONE else {"score": 0.0, "metric": "", "split": ""}
        score, labels = main["score"], (main["metric"], main["split"])
    except (KeyError, TypeError) as error:
        return f"its identity or score lacks {error}"
    if isinstance(seed, bool) or not isinstance(seed, int):
        return f"its seed is {seed!r}, not an integer"
    if isinstance(score, bool) or not isinstance(score, int | float) or not possible(score):
        return f"its score is {score!r}, not a finite number in percent"
    task = record.identity["task"]
    reported = (task.get("score", labels[0]), task.get("reports", labels[1]))
    same = record.state != DONE or labels == reported
    return None if same else f"it holds {labels[0]} on {labels[1]}, its task reports {' on '.join(reported)}"
