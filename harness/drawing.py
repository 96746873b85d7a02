"""matplotlib figures for a page that is light or dark, and the same ones as files: the page's own colour is the ink.

An SVG of matplotlib's is changed so that a strict content-security policy lets it stand in a page: what it says in
`style` attributes is said in attributes of SVG itself, and every id gets a prefix of its own. Ink (text, axes) becomes
`currentColor`. Series differ in marker and label as well as in colour.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK = "#010203"  # stands for the page's own colour
COLOURS = ("#2f7fc1", "#d2601a", "#1c9a74", "#c2559d", "#8a7500", "#7367c9", "#c8473f", "#5f7d8c")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
LINES = ("-", "--", "-.", ":")
STYLE: Any = {
    "svg.fonttype": "none", "svg.hashsalt": "report", "font.size": 10.0, "font.family": ["sans-serif"],
    "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": INK, "xtick.color": INK, "ytick.color": INK,
    "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False, "axes.titlesize": 10.0,
    "axes.grid": True, "grid.color": INK, "grid.alpha": 0.15, "grid.linewidth": 0.6, "text.parse_math": False,
    "figure.constrained_layout.use": True,
    "axes.facecolor": "none", "figure.facecolor": "none", "savefig.facecolor": "none",
}  # fmt: skip
FONT = re.compile(r"font: (?:(?:normal|italic|oblique|bold|[1-9]00) )*([\d.]+)px [^;\"]*")
NO_DATE: Any = {"Date": None, "Creator": None, "Format": None, "Type": None}
DOTS_PER_INCH, PIXELS_PER_INCH = 160, 104  # of a file; of a page
NARROW = 640  # pixels of a page


class Drawn(NamedTuple):
    """A finished figure. name: of its files, and prefix of its ids in a page. label: what a screen reader says."""

    figure: Figure
    name: str
    label: str

    def element(self) -> str:
        """An <svg> element that may stand in a page with others."""
        from html import escape

        text = re.sub(r"^.*?(?=<svg )", "", self._svg().decode(), flags=re.DOTALL)
        text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", text, flags=re.DOTALL)
        text = re.sub(r'style="([^"]*)"', lambda found: _attributes(found[1]), text)
        for mark in ('\\bid="', "url(#", 'href="#'):
            text = re.sub(mark.replace("(", "\\("), f"{mark.removeprefix(chr(92) + 'b')}{self.name}-", text)
        text = re.sub(r' (?:width|height)="[\d.]+pt"', "", text, count=2)
        width = round(self.figure.get_figwidth() * PIXELS_PER_INCH)  # its natural size; the style sheet narrows it
        start = f'<svg role="img" aria-label="{escape(self.label)}" stroke-linejoin="round" stroke-linecap="butt" '
        kind = "figure narrow" if width <= NARROW else "figure"  # a narrow one is still readable on a phone's width
        text = text.replace("<svg ", f'{start}class="{kind}" width="{width}" ', 1)
        return re.sub(r"\n\s*", "\n", text.replace(INK, "currentColor"))

    def _svg(self, **options: Any) -> bytes:
        import matplotlib

        buffer = io.BytesIO()
        with matplotlib.rc_context(STYLE):
            self.figure.savefig(buffer, format="svg", metadata=NO_DATE, **options)
        return buffer.getvalue()

    def write(self, folder: Path) -> list[Path]:
        """NAME.svg and NAME.png on white, for a paper or slides. Raises OSError where the folder cannot be written."""
        import matplotlib

        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / f"{self.name}.svg", folder / f"{self.name}.png"]
        paths[0].write_bytes(self._svg(facecolor="white"))
        with matplotlib.rc_context(STYLE):
            self.figure.savefig(paths[1], dpi=DOTS_PER_INCH, facecolor="white", metadata={"Software": None})
        return paths


def _attributes(style: str) -> str:
    """`fill: #fff; stroke: none` as `fill="#fff" stroke="none"`; a font keeps its size alone."""
    style = FONT.sub(r"font-size: \1px", style)
    pairs = [part.split(":", 1) for part in style.split(";") if ":" in part]
    return " ".join(f'{key.strip()}="{value.strip()}"' for key, value in pairs)


@contextmanager
def drawing(width: float, height: float) -> Iterator[Figure]:
    """A figure of that many inches in the page's style."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        yield Figure(figsize=(width, height))


def panels(figure: Figure, count: int, across: int, **options: Any) -> list[Any]:
    """That many axes in rows of `across`."""
    rows = -(-count // across)
    axes = figure.subplots(rows, across, squeeze=False, **options)
    flat = [axis for line in axes for axis in line]
    for axis in flat[count:]:
        axis.set_axis_off()
    return flat[:count]


def look(index: int) -> tuple[str, str]:
    """Colour and marker of a series: 64 pairs before one comes again."""
    return COLOURS[index % len(COLOURS)], MARKERS[(index + index // len(COLOURS)) % len(MARKERS)]


def dashes(index: int) -> str:
    """Its line, where lines and not markers tell series apart."""
    return LINES[(index + index // len(COLOURS)) % len(LINES)]


def short(count: float) -> str:
    """1e5 as 100k, 1.5e6 as 1.5M."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:g}{unit}"
    return f"{count:g}"


def ticks(axis: Any, values: list[float]) -> None:
    """Ticks of a logarithmic axis as 100k and 1M: at powers of ten, or at even steps where it spans less than one."""
    from matplotlib.ticker import FixedLocator, MaxNLocator, NullFormatter

    if max(values) < 10 * min(values):
        axis.set_major_locator(FixedLocator(MaxNLocator(4).tick_values(0.9 * min(values), 1.1 * max(values))))
    axis.set_major_formatter(lambda value, _: short(value))
    axis.set_minor_formatter(NullFormatter())
