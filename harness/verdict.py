"""Does our number agree with the paper's? One of five words, what it rests on, and what would settle an open case.

    reproduced      two one-sided tests: our mean lies within the margin of the paper's number, at the 5 % level
    differs         it lies beyond the margin, at the same level: the 95 % interval of the difference is all outside
    under-powered   neither: at which margin equivalence would hold, and how many more seeds would settle it
    not comparable  our runs are unlike the paper's: said in what
    not run         there are none

A paper's std counts (Welch) where its number of runs is known; else its number is taken as exact, and whether it lies
where a paper's number would fall by chance is told by the prediction interval of its own statistic.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from harness import stats
from harness.match import Ours
from harness.paper import Published

REPRODUCED, DIFFERS, UNDER_POWERED = "reproduced", "differs", "under-powered"
NOT_COMPARABLE, NOT_RUN = "not comparable", "not run"
WORDS = (REPRODUCED, DIFFERS, UNDER_POWERED, NOT_COMPARABLE, NOT_RUN)
MOST_SEEDS = 1_000


@dataclass(frozen=True)
class Verdict:
    """A word of WORDS and its numbers (points of the score; None where there are none).

    Attributes:
        difference: ours minus published. smallest_margin: at which the runs there are would show equivalence.
        more_seeds: that would settle it with probability 0.8 if the difference is the one seen; None: over
            MOST_SEEDS, or no number, where the paper's own few seeds leave it open.
        predicted: where the paper's own statistic would fall by chance. inside: whether its number does.
        why: in what our runs are unlike the paper's, or what became of them.
    """

    word: str
    difference: float | None = None
    smallest_margin: float | None = None
    more_seeds: int | None = None
    predicted: stats.Interval | None = None
    inside: bool | None = None
    why: tuple[str, ...] = ()


def judge(ours: Ours, published: Published) -> Verdict:
    """The verdict on one cell."""
    values = ours.values
    difference = None
    if values and published.value is not None:
        difference = stats.mean(values) - published.value
    if ours.unlike:
        only = all(why.startswith("statistic:") for why in ours.unlike) and len(values) > 1 and difference is not None
        predicted = _predicted(ours, published) if only else None  # the paper's own statistic does compare
        return Verdict(NOT_COMPARABLE, difference, None, None, predicted, _inside(published, predicted), ours.unlike)
    if not values:
        return Verdict(NOT_RUN, why=(ours.absent,) if ours.absent else ())
    if difference is None:
        return Verdict(NOT_COMPARABLE, why=("the paper prints no number here",))
    if len(values) == 1:
        return Verdict(UNDER_POWERED, difference, more_seeds=1, why=("one seed has no spread",))
    return _tested(ours, published, difference)


def _tested(ours: Ours, published: Published, difference: float) -> Verdict:
    """The verdict on two or more comparable runs."""
    values, setting, printed = ours.values, published.setting, published.value or 0.0

    def equivalence(level: float) -> stats.Equivalence:
        return stats.equivalence(
            values, printed, margin=setting.margin, level=level, resolution=ours.resolution,
            published_std=published.std, published_runs=setting.seeds or None,
        )  # fmt: skip

    agree, strict = equivalence(stats.LEVEL), equivalence((1 + stats.LEVEL) / 2)
    reach = strict.smallest_margin - abs(difference)  # half of the 95 % interval of the difference
    predicted = _predicted(ours, published)
    inside = _inside(published, predicted)
    if agree.p < 1 - stats.LEVEL:
        return Verdict(REPRODUCED, difference, agree.smallest_margin, predicted=predicted, inside=inside)
    if abs(difference) - reach > setting.margin:
        return Verdict(DIFFERS, difference, agree.smallest_margin, predicted=predicted, inside=inside)
    more = _more(stats.std(values, resolution=ours.resolution), len(values), difference, published)
    return Verdict(UNDER_POWERED, difference, agree.smallest_margin, more, predicted, inside)


def _inside(published: Published, predicted: stats.Interval | None) -> bool | None:
    """Whether the paper's number lies in the interval; None without one."""
    return None if predicted is None or published.value is None else predicted.low <= published.value <= predicted.high


def _predicted(ours: Ours, published: Published) -> stats.Interval:
    """Where the paper's statistic would fall if its runs were like ours; an unknown statistic counts as one run."""
    setting = published.setting
    known = setting.statistic in stats.STATISTICS and setting.seeds
    return stats.prediction_interval(
        ours.values,
        rng=np.random.default_rng(0),
        of=setting.statistic if known else "mean",
        runs=setting.seeds if known else 1,
        resolution=ours.resolution,
    )


def _more(spread: float, seeds: int, difference: float, published: Published) -> int | None:
    """Further seeds with which equivalence, or a difference beyond the margin, would be shown."""
    setting, printed = published.setting, published.std if published.setting.seeds > 1 else None
    needed = stats.seeds_needed(
        spread, margin=setting.margin, difference=difference,
        published_error=(printed or 0.0) / math.sqrt(max(setting.seeds, 1)), published_runs=setting.seeds,
    )  # fmt: skip
    return None if needed is None or needed > MOST_SEEDS else max(1, needed - seeds)
