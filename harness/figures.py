"""Figures as SVG text for one page, light or dark: matplotlib draws, and the page's own colour is the ink.

An SVG of matplotlib's is changed so that a strict content-security policy lets it stand in a page: what it says in
`style` attributes is said in attributes of SVG itself, and every id gets a prefix of its own. Ink (text, axes) becomes
`currentColor`. Series differ in marker and label as well as in colour.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK = "#010203"  # stands for the page's own colour
COLOURS = ("#2f7fc1", "#d2601a", "#1c9a74", "#c2559d", "#8a7500", "#7367c9", "#c8473f", "#5f7d8c")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
STYLE: Any = {
    "svg.fonttype": "none", "svg.hashsalt": "report", "font.size": 10.0, "font.family": ["sans-serif"],
    "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": INK, "xtick.color": INK, "ytick.color": INK,
    "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False, "axes.titlesize": 10.0,
    "axes.grid": True, "grid.color": INK, "grid.alpha": 0.15, "grid.linewidth": 0.6, "text.parse_math": False,
    "figure.constrained_layout.use": True,
    "axes.facecolor": "none", "figure.facecolor": "none", "savefig.facecolor": "none",
}  # fmt: skip
FONT = re.compile(r"font: (?:(?:normal|italic|oblique|bold|[1-9]00) )*([\d.]+)px [^;\"]*")


class Point(NamedTuple):
    """A row's score: `at` on the x axis, value, and its interval or None."""

    label: str
    at: float
    value: float
    low: float | None = None
    high: float | None = None
    paper: bool = False


@contextmanager
def _drawing(width: float, height: float) -> Iterator[Figure]:
    """A figure of that many inches in the page's style."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        yield Figure(figsize=(width, height))


def svg(figure: Figure, name: str, label: str) -> str:
    """The figure as an <svg> element that may stand in a page with others. label: what a screen reader says."""
    from html import escape

    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = re.sub(r"^.*?(?=<svg )", "", buffer.getvalue(), flags=re.DOTALL)
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r'style="([^"]*)"', lambda found: _attributes(found[1]), text)
    text = (
        re.sub(r'\bid="', f'id="{name}-', text).replace("url(#", f"url(#{name}-").replace('href="#', f'href="#{name}-')
    )
    text = re.sub(r' (?:width|height)="[\d.]+pt"', "", text, count=2)
    start = (
        f'<svg role="img" aria-label="{escape(label)}" stroke-linejoin="round" stroke-linecap="butt" class="figure" '
    )
    return re.sub(r"\n\s*", "\n", text.replace("<svg ", start, 1).replace(INK, "currentColor"))


def _attributes(style: str) -> str:
    """`fill: #fff; stroke: none` as `fill="#fff" stroke="none"`; a font keeps its size alone."""
    style = FONT.sub(r"font-size: \1px", style)
    pairs = [part.split(":", 1) for part in style.split(";") if ":" in part]
    return " ".join(f'{key.strip()}="{value.strip()}"' for key, value in pairs)


def _panels(figure: Figure, count: int, across: int) -> list[Any]:
    """That many axes in rows of `across`."""
    rows = -(-count // across)
    axes = figure.subplots(rows, across, squeeze=False)
    flat = [axis for line in axes for axis in line]
    for axis in flat[count:]:
        axis.set_axis_off()
    return flat[:count]


def pareto(title: str, points: list[Point], name: str) -> str:
    """Score against adapter parameters (log scale): papers' numbers hollow, ours filled; the front as a step line."""
    with _drawing(8.4, 3.6) as figure:
        axis = figure.subplots()
        labels = list(dict.fromkeys(point.label for point in points))
        _front(axis, [point for point in points if not point.paper] or points)
        for point in points:
            colour, mark = _look(labels.index(point.label))
            if point.low is not None and point.high is not None:
                axis.plot([point.at] * 2, [point.low, point.high], color=colour, linewidth=1.4)
            face = "none" if point.paper else colour
            axis.plot(point.at, point.value, mark, color=colour, markerfacecolor=face, markersize=7)
        for index, label in enumerate(labels):
            axis.plot([], [], _look(index)[1], color=_look(index)[0], label=label)
        axis.set(xscale="log", title=title, xlabel="adapter parameters", ylabel="score, %")
        _ticks(axis.xaxis, [point.at for point in points])
        axis.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8.5)
        return svg(figure, name, f"Score against adapter parameters: {title}")


def _ticks(axis: Any, values: list[float]) -> None:
    """Ticks of a logarithmic axis as 100k and 1M: at powers of ten, or at even steps where it spans less than one."""
    from matplotlib.ticker import FixedLocator, MaxNLocator, NullFormatter

    if max(values) < 10 * min(values):
        axis.set_major_locator(FixedLocator(MaxNLocator(4).tick_values(0.9 * min(values), 1.1 * max(values))))
    axis.set_major_formatter(lambda value, _: _short(value))
    axis.set_minor_formatter(NullFormatter())


def _look(index: int) -> tuple[str, str]:
    """Colour and marker of a series: 64 pairs before one comes again."""
    return COLOURS[index % len(COLOURS)], MARKERS[(index + index // len(COLOURS)) % len(MARKERS)]


def _short(count: float) -> str:
    """1e5 as 100k, 1.5e6 as 1.5M."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:g}{unit}"
    return f"{count:g}"


def _front(axis: Any, points: Sequence[Point]) -> None:
    """A step line over the points that no other one beats with fewer parameters."""
    kept: list[Point] = []
    for point in sorted(points, key=lambda one: (one.at, -one.value)):
        if not kept or point.value > kept[-1].value:
            kept.append(point)
    axis.step([p.at for p in kept], [p.value for p in kept], where="post", color=INK, alpha=0.35, linewidth=1.0)


def intervals(panels: dict[str, list[Point]], name: str) -> str:
    """Means with 95 % intervals, a row a line; the paper's numbers as hollow diamonds."""
    across = min(2, len(panels))
    tallest = max(len({point.label for point in points}) for points in panels.values())
    with _drawing(4.2 * across, (0.27 * tallest + 0.9) * -(-len(panels) // across)) as figure:
        for axis, (title, points) in zip(_panels(figure, len(panels), across), panels.items(), strict=True):
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
        return svg(figure, name, "Mean scores with 95 % intervals, beside the paper's numbers")


def curves(runs: dict[str, list[tuple[float, float]]], metric: str, name: str) -> str:
    """Learning curves: the score of each evaluation by step, one line a seed."""
    with _drawing(4.6, 2.6) as figure:
        figure.set_layout_engine("none")  # many of these stand in a page, and the layout engine takes most of the time
        axis = figure.add_axes((0.13, 0.19, 0.84, 0.77))
        for index, (label, points) in enumerate(runs.items()):
            colour, mark = _look(index)
            axis.plot(*zip(*points, strict=True), marker=mark, markersize=4, color=colour, linewidth=1.4, label=label)
        axis.set(xlabel="updates", ylabel=f"{metric}, %")
        axis.legend(fontsize=8)
        return svg(figure, name, f"Learning curves of {len(runs)} runs")


def heat(ranks: dict[str, dict[str, float]], title: str, name: str) -> str:
    """Ranks by matrix (rows) and layer (columns), each number printed in its cell."""
    layers = sorted({layer for row in ranks.values() for layer in row}, key=lambda word: (len(word), word))
    grid = [[row.get(layer, float("nan")) for layer in layers] for row in ranks.values()]
    with _drawing(max(4.2, 0.42 * len(layers) + 1.8), 0.34 * len(ranks) + 1.2) as figure:
        axis = figure.subplots()
        axis.grid(False)
        top = max((value for row in grid for value in row if value == value), default=1) or 1
        for place, row in enumerate(grid):
            for index, value in enumerate(row):
                if value == value:
                    axis.fill_between([index - 0.5, index + 0.5], place - 0.5, place + 0.5, color=COLOURS[0],
                                      alpha=0.08 + 0.55 * value / top, linewidth=0)  # fmt: skip
                    axis.text(index, place, f"{value:g}", ha="center", va="center", fontsize=8)
        axis.set_xticks(range(len(layers)), layers, fontsize=8)
        axis.set_yticks(range(len(ranks)), list(ranks), fontsize=8)
        axis.set(title=title, xlabel="layer", xlim=(-0.5, len(layers) - 0.5), ylim=(len(ranks) - 0.5, -0.5))
        return svg(figure, name, f"{title}: ranks by matrix and layer")
