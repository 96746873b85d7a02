"""Figures of what happened while runs trained: learning curves, and the ranks that a method gave to each matrix."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from harness import stats
from harness.drawing import COLOURS, Drawn, dashes, drawing, look, panels
from harness.record import Record

LAYER = re.compile(r"^(?P<before>.*?)\.(?P<layer>\d+)\.(?P<after>.*)$")
Series = list[tuple[float, float]]  # (step, value)
Ranks = dict[str, dict[str, float]]  # matrix -> layer -> rank


def series(run: Record, key: str) -> Series:
    """(step, value) of each evaluation of a run that has this score."""
    rows = run.science.get("curve") or []
    return [(float(row["step"]), float(row[key])) for row in rows if isinstance(row.get(key), int | float)]


def curves(rows: dict[str, list[Series]], metric: str, name: str) -> Drawn:
    """Mean learning curve of each row over its runs, with a band: the 95 % interval of the mean at every evaluation.

    A row of one run has no band; single runs are thin lines where there is one row only.
    """
    alone = len(rows) == 1
    with drawing(4.8, 2.7) if alone else drawing(8.4, 3.4) as figure:
        if alone:
            figure.set_layout_engine("none")  # many of these stand in a page, and the engine takes most of the time
        axis = figure.add_axes((0.13, 0.19, 0.84, 0.77)) if alone else figure.subplots()
        for index, (label, runs) in enumerate(rows.items()):
            _curve(axis, index, label, runs, alone=alone)
        axis.set(xlabel="updates", ylabel=f"{metric}, %")
        axis.legend(fontsize=8) if alone else axis.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8.5)
        return Drawn(figure, name, f"Learning curves of {sum(map(len, rows.values()))} runs")


def _curve(axis: Any, index: int, label: str, runs: list[Series], *, alone: bool) -> None:
    colour, mark = look(index)
    steps = sorted(set.intersection(*({step for step, _ in run} for run in runs)))
    values = [[dict(run)[step] for run in runs] for step in steps]
    if alone and len(runs) > 1:
        for run in runs:
            axis.plot(*zip(*run, strict=True), color=colour, linewidth=0.7, alpha=0.45)
    if len(runs) > 1:
        bands = [stats.confidence_interval(at) for at in values]
        low = [max(band.low, -100) for band in bands]  # scores are in percent
        high = [min(band.high, 100) for band in bands]
        axis.fill_between(steps, low, high, color=colour, alpha=0.16, linewidth=0)
    means = [sum(at) / len(at) for at in values]
    axis.plot(steps, means, dashes(index), marker=mark, markersize=4, color=colour, linewidth=1.5,
              label=f"{label} ({len(runs)})")  # fmt: skip


def ranks(held: Any) -> Ranks:
    """Matrix -> layer -> rank, from a trace's `ranks` by full name; {} for methods that allocate none."""
    found: Ranks = {}
    names = [match for name in held if (match := LAYER.match(str(name)))] if isinstance(held, dict) else []
    stacks = {match["before"] for match in names}
    for match in names:
        stack = f"{match['before'].split('.')[-2]} " if len(stacks) > 1 and "." in match["before"] else ""
        value = held[match[0]]
        if isinstance(value, int | float):
            found.setdefault(f"{stack}{match['after']}", {})[match["layer"]] = float(value)
    return dict(sorted(found.items()))


def final(run: Record) -> Ranks:
    """The ranks at the end of a run."""
    return ranks((run.science.get("trace") or {}).get("ranks"))


def history(run: Record) -> dict[float, Ranks]:
    """Step -> the ranks then; {} where the curve holds none."""
    rows = [(row["step"], (row.get("trace") or {}).get("ranks")) for row in run.science.get("curve") or []]
    found = {float(step): ranks(held) for step, held in rows}
    return {step: held for step, held in found.items() if held}


def heat(held: Ranks, title: str, name: str) -> Drawn:
    """Ranks by matrix (rows) and layer (columns), each number printed in its cell."""
    layers = _ordered({layer for row in held.values() for layer in row})
    grid = [[row.get(layer, float("nan")) for layer in layers] for row in held.values()]
    with drawing(max(4.2, 0.42 * len(layers) + 1.8), 0.34 * len(held) + 1.2) as figure:
        axis = figure.subplots()
        _grid(axis, grid, list(held), layers)
        axis.set(title=title, xlabel="layer")
        return Drawn(figure, name, f"{title}: ranks by matrix and layer")


def over_time(held: dict[float, Ranks], title: str, name: str) -> Drawn:
    """Mean rank by update: of each matrix over the layers, and of each layer over its matrices."""
    last = held[max(held)]
    layers = _ordered({layer for row in last.values() for layer in row})
    steps = sorted(held)
    by_matrix = [[stats.mean(list(held[step][matrix].values())) for step in steps] for matrix in last]
    by_layer = [
        [stats.mean([row[layer] for row in held[step].values() if layer in row]) for step in steps] for layer in layers
    ]
    ticks = [f"{step:g}" for step in steps]
    tall = 0.3 * max(len(last), len(layers)) + 1.2
    with drawing(2 * max(3.4, 0.36 * len(steps) + 1.7), tall) as figure:
        left, right = panels(figure, 2, 2)
        _grid(left, by_matrix, list(last), ticks, digits=1)
        _grid(right, by_layer, [f"layer {layer}" for layer in layers], ticks, digits=1)
        left.set(title=f"{title}: mean over layers", xlabel="updates")
        right.set(title="mean over matrices", xlabel="updates")
        return Drawn(figure, name, f"{title}: mean ranks over time, by matrix and by layer")


def of_one(runs: dict[str, dict[float, Ranks]], matrix: str, layer: str, name: str) -> Drawn:
    """The rank of one matrix by update, a line a run."""
    with drawing(6, 2.6) as figure:
        axis = figure.subplots()
        for index, (label, held) in enumerate(runs.items()):
            points = [
                (step, found[matrix][layer]) for step, found in sorted(held.items()) if layer in found.get(matrix, {})
            ]
            if points:
                axis.step(*zip(*points, strict=True), dashes(index), where="post", marker=look(index)[1], markersize=4,
                          color=look(index)[0], linewidth=1.4, label=label)  # fmt: skip
        axis.set(xlabel="updates", ylabel="rank", title=f"{matrix}, layer {layer}")
        axis.set_ylim(bottom=0)
        axis.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8.5)
        return Drawn(figure, name, f"Rank over time of {matrix} in layer {layer}")


def telling(held: dict[float, Ranks]) -> tuple[str, str]:
    """The matrix and layer whose rank moved most during a run; of several the one with the most ranks at the end."""
    last = held[max(held)]
    places = [(matrix, layer) for matrix, row in last.items() for layer in row]

    def moved(place: tuple[str, str]) -> tuple[float, float]:
        values = [found[place[0]][place[1]] for found in held.values() if place[1] in found.get(place[0], {})]
        return max(values) - min(values), values[-1]

    return max(places, key=moved)


def _edges(count: int) -> list[float]:
    """Borders of cells around 0, 1, ..."""
    return [place - 0.5 for place in range(count + 1)]


def _ordered(words: set[str]) -> list[str]:
    return sorted(words, key=lambda word: (len(word), word))


def _grid(axis: Any, grid: Sequence[Sequence[float]], rows: list[str], columns: list[str], digits: int = 0) -> None:
    """Numbers in coloured cells: more is darker, and the number says how much."""
    from matplotlib.colors import LinearSegmentedColormap, to_rgb

    axis.grid(False)
    top = max((value for row in grid for value in row if value == value), default=1) or 1
    shades = LinearSegmentedColormap.from_list("", [(*to_rgb(COLOURS[0]), 0.06), (*to_rgb(COLOURS[0]), 0.66)])
    axis.pcolormesh(_edges(len(columns)), _edges(len(rows)), grid, cmap=shades, vmin=0, vmax=top, linewidth=0)
    for place, row in enumerate(grid):
        for index, value in enumerate(row):
            if value == value:
                text = f"{value:.{digits}f}" if digits else f"{value:g}"
                axis.text(index, place, text, ha="center", va="center", fontsize=8)
    axis.set_xticks(range(len(columns)), columns, fontsize=8)
    axis.set_yticks(range(len(rows)), rows, fontsize=8)
    axis.set(xlim=(-0.5, len(columns) - 0.5), ylim=(len(rows) - 0.5, -0.5))
