"""Figures over a whole table: scores against what they cost, means with intervals, ranks of rows over tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from harness.drawing import COLOURS, INK, Drawn, drawing, look, panels, ticks
from harness.ranking import Ranking


class Point(NamedTuple):
    """A row's score: `at` on the x axis, value, and its interval or None."""

    label: str
    at: float
    value: float
    low: float | None = None
    high: float | None = None
    paper: bool = False


def pareto(title: str, axes: dict[str, list[Point]], name: str) -> Drawn:
    """Score against each of several costs (log scale): papers' numbers hollow, ours filled; the front as a step line.

    axes: what the cost is -> points. The same rows look the same in every panel.
    """
    fullest = sorted(axes.values(), key=len, reverse=True)  # which has the rows in order
    labels = list(dict.fromkeys(point.label for points in fullest for point in points))
    tall = max(3.4, 0.24 * len(labels) + 0.5)
    with drawing(2.9 * len(axes) + 2.4, tall) as figure:
        drawn = panels(figure, len(axes), len(axes), sharey=True)
        for place, (axis, (cost, points)) in enumerate(zip(drawn, axes.items(), strict=True)):
            _front(axis, [point for point in points if not point.paper] or points)
            for point in points:
                colour, mark = look(labels.index(point.label))
                if point.low is not None and point.high is not None:
                    axis.plot([point.at] * 2, [point.low, point.high], color=colour, linewidth=1.4)
                face = "none" if point.paper else colour
                axis.plot(point.at, point.value, mark, color=colour, markerfacecolor=face, markersize=7)
            axis.set(xscale="log", xlabel=cost, ylabel=f"{title}, %" if not place else "")
            ticks(axis.xaxis, [point.at for point in points])
        for index, label in enumerate(labels):
            drawn[-1].plot([], [], look(index)[1], color=look(index)[0], label=label)
        drawn[-1].legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8.5)
        return Drawn(figure, name, f"Score against cost: {title}")


def _front(axis: Any, points: Sequence[Point]) -> None:
    """A step line over the points that no other one beats at a lower cost."""
    kept: list[Point] = []
    for point in sorted(points, key=lambda one: (one.at, -one.value)):
        if not kept or point.value > kept[-1].value:
            kept.append(point)
    axis.step([p.at for p in kept], [p.value for p in kept], where="post", color=INK, alpha=0.35, linewidth=1.0)


def intervals(columns: dict[str, list[Point]], name: str) -> Drawn:
    """Means with 95 % intervals, a row a line; the paper's numbers as hollow diamonds."""
    across = min(2, len(columns))
    tallest = max(len({point.label for point in points}) for points in columns.values())
    with drawing(4.2 * across, (0.27 * tallest + 0.9) * -(-len(columns) // across)) as figure:
        for axis, (title, points) in zip(panels(figure, len(columns), across), columns.items(), strict=True):
            labels = list(dict.fromkeys(point.label for point in points))[::-1]
            for point in points:
                place = labels.index(point.label)
                if point.paper:
                    axis.plot(point.value, place, "D", color=COLOURS[1], markerfacecolor="none", markersize=5.5)
                    continue
                if point.low is not None and point.high is not None:
                    axis.plot([point.low, point.high], [place, place], color=COLOURS[0], linewidth=2)
                axis.plot(point.value, place, "o", color=COLOURS[0], markersize=4.5)
            axis.set_yticks(range(len(labels)), labels, fontsize=8)
            axis.set(title=title, xlabel="score, %", ylim=(-0.6, len(labels) - 0.4))
        return Drawn(figure, name, "Mean scores with 95 % intervals, beside the paper's numbers")


def critical(found: Ranking, name: str) -> Drawn:
    """Average ranks on a line, best on the left; a bar joins rows whose ranks differ by less than the critical distance.

    As in Demsar (2006), figure 1: names beneath, half of them on either side.
    """
    order = sorted(found.ranks, key=lambda label: found.ranks[label])
    lowest, highest = 1, len(order)
    left = order[: -(-len(order) // 2)]
    bars = found.cliques()
    with drawing(8.4, 0.9 + 0.2 * len(bars) + 0.26 * len(left)) as figure:
        axis = figure.subplots()
        axis.set_axis_off()
        axis.grid(False)
        axis.set(xlim=(lowest - 0.45 * (highest - lowest), highest + 0.45 * (highest - lowest)))
        axis.plot([lowest, highest], [0, 0], color=INK, linewidth=1)
        for tick in range(lowest, highest + 1):
            axis.plot([tick, tick], [0, 0.12], color=INK, linewidth=1)
            axis.text(tick, 0.2, str(tick), ha="center", va="bottom", fontsize=9)
        axis.plot([lowest, lowest + found.distance], [0.95, 0.95], color=INK, linewidth=1.6)
        axis.text(lowest, 1.05, f"critical distance {found.distance:.2f}", ha="left", va="bottom", fontsize=9)
        for level, (low, high) in enumerate(bars):
            y = -0.22 - 0.2 * level
            axis.plot([low - 0.04, high + 0.04], [y, y], color=COLOURS[0], linewidth=3.2, solid_capstyle="butt")
        base = -0.35 - 0.2 * len(bars)
        for index, label in enumerate(order):
            first = label in left
            y = base - 0.26 * (index if first else len(order) - 1 - index)
            end = lowest - 0.06 * (highest - lowest) if first else highest + 0.06 * (highest - lowest)
            rank = found.ranks[label]
            axis.plot([rank, rank, end], [0, y, y], color=INK, linewidth=0.8, alpha=0.7)
            text = f"{label}  {rank:.2f}" if first else f"{rank:.2f}  {label}"
            gap = 0.015 * (highest - lowest) * (-1 if first else 1)
            axis.text(end + gap, y, text, ha="right" if first else "left", va="center", fontsize=9)
        axis.set_ylim(base - 0.26 * len(left), 1.5)
        return Drawn(figure, name, f"Critical-difference diagram of {len(order)} rows over {found.blocks} {found.of}")
