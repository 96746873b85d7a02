"""A comparison as text: rows and columns as in the paper, in each cell its number, ours, the difference, the verdict.

In Markdown and LaTeX a row of the paper takes up to six lines, since eleven such cells do not fit beside each other,
and Markdown breaks what is wider than a terminal into bands of columns. CSV has one line a cell, with everything.
"""

from __future__ import annotations

import html
import textwrap
from collections.abc import Callable
from typing import TYPE_CHECKING

from harness import doubts, fill, stats
from harness.compare import Comparison, Entry, rows
from harness.layout import WIDTH, latex_text
from harness.verdict import MOST_SEEDS, NOT_RUN

if TYPE_CHECKING:
    import pandas as pd

TERMINAL = 160  # columns of a terminal, for the bands of the Markdown table
NONE = "–"
LEGEND = (
    "paper: as printed. ours: mean ± half-width of its 95 % interval (Student's t over seeds), and how many seeds.",
    "verdict, each at the 5 % level on its own: reproduced = our mean lies within the margin of the paper's number "
    "(two one-sided tests); differs = beyond the margin; under-powered = neither; not comparable = unlike runs.",
    "would hold: the smallest margin at which our runs would show equivalence, and how many more seeds would settle "
    "the case (with probability 0.8, if the difference is the one seen; > 1000 also where the paper's own spread leaves "
    "it open for any number).",
    "by chance: whether the paper's number lies in the 95 % prediction interval of its own statistic, were its runs "
    "like ours (an unknown statistic counts as one run).",
)


def digits(comparison: Comparison) -> int:
    """Decimals that the paper prints."""
    values = [entry.published.value for entry in comparison.entries if entry.published.value is not None]
    return max((len(f"{value:.6g}".partition(".")[2]) for value in values), default=0)


class Lines:
    """What a cell's lines say, and the numbered reasons they point at."""

    def __init__(
        self, comparison: Comparison, bold: Callable[[str], str] = str, plain: Callable[[str], str] = str
    ) -> None:
        self.bold, self.plain, self.digits = bold, plain, digits(comparison)
        self.reasons: dict[str, int] = {}

    def paper(self, entry: Entry) -> str:
        """The published number and its std."""
        value, std = entry.published.value, entry.published.std
        text = NONE if value is None else f"{value:.{self.digits}f}"
        return self.plain(text if std is None else f"{text} ± {std:.{self.digits}f}")

    def ours(self, entry: Entry) -> str:
        """`90.61 ± 0.12 (5)`, in bold where it leads its column."""
        if not entry.ours.scores:
            return ""
        half = f" ± {entry.interval.half_width:.2f}" if entry.interval else ""
        stale = "†" if entry.ours.cell and entry.ours.cell.stale else ""
        text = self.plain(f"{stats.mean(entry.ours.values):.2f}{half} ({len(entry.ours.scores)}){stale}")
        return self.bold(text) if entry.best else f"{text}{self.plain('≈')}" if entry.tied else text

    def difference(self, entry: Entry) -> str:
        """Ours minus the paper's, with its sign."""
        difference = entry.verdict.difference
        return "" if difference is None else self.plain(f"{difference:+.2f}".replace("-", "−"))

    def verdict(self, entry: Entry) -> str:
        """The word, and the number of its reason."""
        if entry.verdict.word == NOT_RUN and not entry.verdict.why:
            return NOT_RUN if entry.published.value is not None else ""
        marks = [str(self.reasons.setdefault(why, len(self.reasons) + 1)) for why in entry.verdict.why]
        return self.plain(entry.verdict.word + (f" [{','.join(marks)}]" if marks else ""))

    def settle(self, entry: Entry) -> str:
        """`±0.82, +7`: the margin that would hold, the seeds that are missing."""
        verdict = entry.verdict
        if verdict.word != "under-powered":
            return ""
        more = f"+{verdict.more_seeds}" if verdict.more_seeds else f"> {MOST_SEEDS}"
        if len(entry.ours.scores) == 1:
            more = f"at least {more}"  # one seed says nothing of the spread
        held = f"±{verdict.smallest_margin:.2f}, " if verdict.smallest_margin is not None else ""
        return self.plain(f"{held}{more}")

    def chance(self, entry: Entry) -> str:
        """Whether the paper's number lies in the prediction interval."""
        return "" if entry.verdict.inside is None else "inside" if entry.verdict.inside else "outside"


def stacked(comparison: Comparison, lines: Lines, *, plain: bool = False) -> pd.DataFrame:
    """The table as strings: the paper's rows and columns, a line for each part of a cell. plain: its numbers alone."""
    import pandas as pd

    kinds = {"paper": lines.paper, "ours": lines.ours, "difference": lines.difference, "verdict": lines.verdict,
             "would hold": lines.settle, "by chance": lines.chance}  # fmt: skip
    found = []
    for key, row in comparison.table.rows.items():
        entries = [entry for entry in comparison.entries if entry.row.key == key]
        run = any(entry.ours.records or entry.ours.absent for entry in entries) and not plain
        for kind in kinds if run else ("paper",):
            cells = {lines.plain(entry.title): kinds[kind](entry) for entry in entries}
            if not any(cells.values()):
                continue
            first = kind == "paper"
            line = {"method": lines.plain(row.title) if first else ""}
            for name, title in comparison.table.counts.items():
                line[lines.plain(title)] = lines.plain(row.counts[name].printed) if first else ""
            label = {"": kind if run else "paper; not run"} if comparison.has_runs and not plain else {}
            found.append(line | label | cells)
    return pd.DataFrame(found).fillna("")


def beneath(comparison: Comparison, reasons: dict[str, int]) -> list[str]:
    """What a reader must know that the cells do not say."""
    table = comparison.table
    lines = [f"{table.title} ({_sources(comparison)})."]
    if comparison.has_runs:
        lines += [*LEGEND, f"Margins: {_margins(comparison)}. {table.margin_reason}", *_leads(comparison)]
        lines += [f"[{number}] {reason}" for reason, number in reasons.items()]
    if table.average:
        lines.append(f"{table.average.title}: {table.average.convention}")
    lines += list(table.remarks) + [f"Its own numbers: {doubt}" for doubt in doubts.remarks(table)]
    lines += _cell_remarks(comparison) + comparison.remarks
    return lines


def _sources(comparison: Comparison) -> str:
    return "; ".join(dict.fromkeys(entry.published.setting.source for entry in comparison.entries))


def _margins(comparison: Comparison) -> str:
    by_margin: dict[float, dict[str, None]] = {}
    for entry in comparison.entries:
        by_margin.setdefault(entry.published.setting.margin, {})[entry.title] = None
    return "; ".join(f"±{margin:g} points ({', '.join(titles)})" for margin, titles in by_margin.items())


def _leads(comparison: Comparison) -> list[str]:
    """What bold and ≈ mean among our own rows."""
    how = "paired over seeds and, where predictions are stored, examples; 5 % after Holm's correction"
    best, tied = (any(getattr(entry, name) for entry in comparison.entries) for name in ("best", "tied"))
    told = [f"Bold: the best of our column, separable from every other row of ours ({how})."] if best else []
    told += [f"≈: our rows that share the lead of their column, not separable ({how})."] if tied else []
    return told or ["No bold: in no column is our best row separable from all others of ours."]


def _cell_remarks(comparison: Comparison) -> list[str]:
    """Remarks of columns, rows and cells, equal ones once."""
    told: dict[str, list[str]] = {}
    for column in comparison.table.columns.values():
        told.setdefault(column.remark, []).append(column.title)
    for row in comparison.table.rows.values():
        told.setdefault(row.remark, []).append(row.key)
        for key, cell in row.cells.items():
            told.setdefault(cell.remark, []).append(f"{row.key} {comparison.table.columns[key].title}")
        seeds = next(iter(row.cells.values())).setting.seeds_reason
        told.setdefault(f"Number of runs: {seeds}" if seeds else "", []).append(row.key)
    every = len(comparison.table.rows)
    named = {text: "all rows" if len(names) == every else ", ".join(names) for text, names in told.items()}
    return [f"{names}: {text}" for text, names in named.items() if text]


def markdown(comparison: Comparison, plain: bool) -> str:
    """GitHub tables, one a band of columns, and a list."""
    lines = Lines(comparison, bold=lambda text: f"**{text}**", plain=lambda text: text.replace("|", "\\|"))
    frame = stacked(comparison, lines, plain=plain)
    fixed = [name for name in frame.columns if name not in {lines.plain(t) for t in comparison.columns.values()}]
    tables = []
    for band in bands(frame, fixed):
        sides = ["left" if name in ("method", "") else "right" for name in band.columns]
        tables.append(band.to_markdown(index=False, disable_numparse=True, colalign=sides))
    parts = ["\n\n".join(tables)]
    if not plain:
        parts.append("\n".join(_wrapped(f"- {line}") for line in beneath(comparison, lines.reasons)))
        if found := fill.commands(comparison):
            how = "What is not run:" if comparison.has_runs else "No runs yet; these commands would fill the table:"
            parts.append("\n".join([how, "", "```bash", *found, "```"]))
    return "\n\n".join(parts)


def _wrapped(line: str) -> str:
    return textwrap.fill(line, WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def bands(frame: pd.DataFrame, fixed: list[str], width: int = TERMINAL) -> list[pd.DataFrame]:
    """The frame in as many pieces as are needed for lines of `width`, each with the fixed columns."""

    def size(name: str) -> int:
        return max(len(name) + 2, *(len(text) for text in frame[name])) + 3  # as tabulate pads them

    room = width - 1 - sum(size(name) for name in fixed)
    pieces: list[list[str]] = [[]]
    for name in [name for name in frame.columns if name not in fixed]:
        if pieces[-1] and sum(map(size, [*pieces[-1], name])) > room:
            pieces.append([])
        pieces[-1].append(name)
    found = [frame[[*fixed, *piece]] for piece in pieces]
    return [piece[(piece.drop(columns=fixed) != "").any(axis=1)] for piece in found]


def latex(comparison: Comparison, plain: bool) -> str:
    r"""A tabular for `\usepackage{booktabs}`, the notes as paragraphs below, the commands as comments."""

    lines = Lines(comparison, bold=lambda text: rf"\textbf{{{text}}}", plain=latex_text)
    frame = stacked(comparison, lines, plain=plain)
    sides = "".join("l" if name in ("method", "") else "r" for name in frame.columns)
    body = [" & ".join(line) + r" \\" for line in ([*frame.columns], *frame.itertuples(index=False))]
    notes = (
        [] if plain else [rf"\par\noindent\footnotesize {latex_text(s)}" for s in beneath(comparison, lines.reasons)]
    )
    notes += [] if plain else [f"% {line}" for line in fill.commands(comparison)]
    head = [rf"\begin{{tabular}}{{{sides}}}", r"\toprule", body[0], r"\midrule"]
    return "\n".join([*head, *body[1:], r"\bottomrule", r"\end{tabular}", *notes])


def page(comparison: Comparison, plain: bool) -> str:
    """One HTML page: the table and a list. The page to look at is harness/report.py's."""
    import pandas as pd

    lines = Lines(comparison, bold=lambda text: f"<strong>{text}</strong>", plain=html.escape)
    with pd.option_context("display.max_colwidth", None):
        table = stacked(comparison, lines, plain=plain).to_html(index=False, escape=False, border=0)
    notes = [] if plain else [*beneath(comparison, lines.reasons), *fill.commands(comparison)]
    listed = "\n".join(f"<li>{html.escape(line)}</li>" for line in notes)
    title = html.escape(comparison.table.title)
    head = f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>{title}</title>'
    return f"{head}\n{table}\n<ul>\n{listed}\n</ul>\n</html>"


def csv(comparison: Comparison, plain: bool) -> str:
    """One line a cell with unrounded numbers; plain: the paper's own layout."""
    frame = stacked(comparison, Lines(comparison), plain=True) if plain else rows(comparison)
    return frame.to_csv(index=False).rstrip("\n")


FORMATS: dict[str, Callable[[Comparison, bool], str]] = {
    "markdown": markdown, "latex": latex, "csv": csv, "html": page,
}  # fmt: skip
