"""A grid of cells as text: Markdown, LaTeX (booktabs), HTML, or CSV with one line a cell. pandas holds the rows."""

from __future__ import annotations

import html
import re
import textwrap
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from harness import stats
from harness.cells import PARAMS, Cell, Note, Row
from harness.grid import Grid

if TYPE_CHECKING:
    import pandas as pd

ABSENT = "–"
WIDTH = 120  # columns of the text beneath the table
MOST_RUNS = 10  # named one by one beneath the table; the rest are counted, and CSV names them all
SHOWN = ("method", "model", "budget")
LONGEST_LABEL = 32  # characters; longer settings move beneath the table
MEANING = {
    "adapter": "trained by the method, without the head",
    "active": "of these in use at the end",
    "head": "of the task's head",
    "total": "of the whole model",
}
LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
LATEX |= {mark: f"\\{mark}" for mark in "&%$#_{}"} | {"≈": r"$\approx$", "±": r"$\pm$", "†": r"$^\dagger$", "–": "--"}
LATEX |= {"−": "$-$", "…": r"\ldots{}", "<": "$<$", ">": "$>$", "|": r"\textbar{}"}
MINUS = re.compile(r"(?<![\w.–])-(?=\d)")  # before a number, not within a name


def cell_text(cell: Cell | None, marks: Sequence[int] = (), *, tied: bool = False) -> str:
    """`85.1 ± 0.9 (3)`, `85.1 (1)`, or what became of its runs: `FAILED (2)`; then ≈ if tied, † if stale, its notes."""
    if cell is None:
        return ABSENT
    if cell.scores:
        text = _score(cell)
    else:
        text = ", ".join(f"{state} ({count})" for state, count in sorted(cell.absent.items())) or ABSENT
    text += ("≈" if tied else "") + ("†" if cell.stale else "")
    return f"{text} [{','.join(map(str, marks))}]" if marks else text


def _score(cell: Cell) -> str:
    middle, interval = stats.mean(cell.values), cell.interval
    if interval is None:
        return f"{middle:.1f} (1)"
    digits = 1 if interval.half_width >= 0.095 else 2  # so that no interval is printed as 0.0
    return f"{middle:.{digits}f} ± {interval.half_width:.{digits}f} ({len(cell.scores)})"


def latex_text(text: str) -> str:
    """A text as LaTeX prints it literally."""
    return "".join(LATEX.get(mark, mark) for mark in MINUS.sub("−", text))


def numbered(grid: Grid) -> tuple[dict[Note, int], list[Note]]:
    """The notes that need a number in their cells, from 1; and the remarks on every scored cell, which do not."""
    scored = [cell for cell in grid.cells.values() if cell.scores]
    everywhere = [
        note for note in (scored[0].notes if scored else ()) if not note.lists and all(note in c.notes for c in scored)
    ]
    numbers: dict[Note, int] = {}
    for _, cell in sorted(grid.cells.items()):
        for note in cell.notes:
            if note not in everywhere:
                numbers.setdefault(note, len(numbers) + 1)
    return numbers, everywhere


def wide(grid: Grid, params: Sequence[str], bold: Callable[[str], str], plain: Callable[[str], str]) -> pd.DataFrame:
    """One line a row, one column a task: finished strings.

    Args:
        params: which of PARAMS get a column. plain: escapes a text for the format. bold: makes escaped text bold.
    """
    import pandas as pd

    numbers, _ = numbered(grid)
    short = variants(grid.rows)
    told = [key for key in SHOWN if _varies(grid, key)]
    lines = []
    for row in grid.rows:
        line = {"method": row._replace(settings=short.get(row.settings, row.settings)).title}
        line |= {"model": row.model, "budget": row.budget}
        line = {key: plain(text) for key, text in line.items() if key in told}
        for task in grid.tasks:
            cell = grid.cells.get((row, task))
            marks = sorted(numbers[note] for note in cell.notes if note in numbers) if cell else []
            text = plain(cell_text(cell, marks, tied=(row, task) in grid.tied))
            line[plain(task)] = bold(text) if (row, task) in grid.best else text
        line |= {name: plain(_params(grid, row, name)) for name in params}
        lines.append(line)
    return pd.DataFrame(lines)


def _varies(grid: Grid, key: str) -> bool:
    """Whether a column tells the rows apart. The method always stands; what all rows share is said beneath."""
    return key == "method" or len({getattr(row, key) for row in grid.rows}) > 1


def variants(rows: Sequence[Row]) -> dict[str, str]:
    """Short names for settings that are too long for a column."""
    long = sorted({row.settings for row in rows if len(row.settings) > LONGEST_LABEL})
    return {settings: f"variant {index}" for index, settings in enumerate(long, 1)}


def _params(grid: Grid, row: Row, name: str) -> str:
    """The parameters of a row with thousands separators; a range where tasks differ."""
    cells = filter(None, (grid.cells.get((row, task)) for task in grid.tasks))
    counts = {count for cell in cells for count in cell.params.get(name, ())}
    return ABSENT if not counts else "–".join(f"{count:,}" for count in sorted({min(counts), max(counts)}))


def legends(grid: Grid, params: Sequence[str]) -> list[str]:
    """What numbers and marks mean."""
    named = ", ".join(f"{name} = {MEANING[name]}" for name in params)
    told = [f"{name}: {settings}" for settings, name in variants(grid.rows).items()]
    return [_legend(grid), f"Parameters: {named}.", *_shared(grid), *_verdict(grid), *told]


def beneath(grid: Grid, params: Sequence[str]) -> list[str]:
    """Everything a reader must know that the cells do not say, one text a line."""
    lines = legends(grid, params)
    numbers, everywhere = numbered(grid)
    lines += [f"All scores: {note.text}" for note in everywhere]
    for note, number in numbers.items():
        runs = [run for _, cell in sorted(grid.cells.items()) for run in cell.notes.get(note, ())]
        more = f" and {len(runs) - MOST_RUNS:,} more" if len(runs) > MOST_RUNS else ""
        named = ", ".join(runs[:MOST_RUNS]) + more if note.lists else f"{len(runs):,} run{'s' if len(runs) > 1 else ''}"
        lines.append(f"[{number}] {note.text} ({named})")
    return lines + list(grid.remarks)


def _legend(grid: Grid) -> str:
    """What the numbers are: the metric and split of each task."""
    kinds: dict[str, list[str]] = {}
    for (_, task), cell in sorted(grid.cells.items(), key=lambda item: item[0][1]):
        tasks = kinds.setdefault(f"{cell.metric} on {cell.split}", []) if cell.scores else [task]
        if task not in tasks:
            tasks.append(task)
    scores = "; ".join(f"{kind} ({', '.join(tasks)})" for kind, tasks in kinds.items())
    legend = "Mean ± half-width of its 95 % interval (Student's t over seeds), and the number of seeds."
    return f"{legend} Scores in percent: {scores}." if scores else "No run is DONE yet."


def _shared(grid: Grid) -> list[str]:
    """Model, budget and settings that every row has."""
    if not grid.rows:
        return []
    same = [f"{key} {getattr(grid.rows[0], key)}" for key in ("model", "budget") if not _varies(grid, key)]
    return [f"All rows: {', '.join(same)}."] if same else []


def _verdict(grid: Grid) -> list[str]:
    """What bold means here, or why nothing is bold."""
    lines = []
    contested = False
    for task in grid.tasks:
        scored = [cell for (_, other), cell in grid.cells.items() if other == task and cell.scores]
        contested |= len(scored) > 1
        if len({cell.like for cell in scored}) > 1:
            lines.append(f"{task}: rows differ in data, metric or task settings, so their scores do not compare.")
    over = "seeds and examples" if grid.items else "seeds"
    how = f"paired over {over} (Welch's t without common seeds), 5 % after Holm's correction"
    if grid.best:
        lines.append(f"Bold: the best of its column, separable from every other row: {how}.")
    elif contested and not grid.tied:
        lines.append("No bold: no column's best row is separable from all others (t, Holm, 5 %; one seed never is).")
    if grid.tied:
        lines.append(f"≈: tied for the lead of its column: the best row, and those not separable from it ({how}).")
    return lines


def markdown(grid: Grid, params: Sequence[str]) -> tuple[str, str]:
    """A GitHub table and a list."""
    frame = wide(grid, params, lambda text: f"**{text}**", lambda text: text.replace("|", "\\|"))
    sides = ["left" if name in Row._fields else "right" for name in frame.columns]
    table = frame.to_markdown(index=False, disable_numparse=True, colalign=sides) if len(frame) else ""
    notes = [
        textwrap.fill(f"- {line}", WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
        for line in beneath(grid, params)
    ]
    return "\n".join([table, "", *notes]).strip("\n"), ""


def latex(grid: Grid, params: Sequence[str]) -> tuple[str, str]:
    r"""A tabular for `\usepackage{booktabs}`, the notes as paragraphs below."""
    frame = wide(grid, params, lambda text: f"\\textbf{{{text}}}", latex_text)
    sides = "".join("l" if name in Row._fields else "r" for name in frame.columns)
    lines = [" & ".join(line) + r" \\" for line in ([*frame.columns], *frame.itertuples(index=False))]
    body = ["\\toprule", *lines[:1], "\\midrule", *lines[1:], "\\bottomrule"]
    notes = [rf"\par\noindent\footnotesize {latex_text(line)}" for line in beneath(grid, params)]
    return "\n".join([rf"\begin{{tabular}}{{{sides}}}", *body, r"\end{tabular}", *notes]), ""


def page(grid: Grid, params: Sequence[str]) -> tuple[str, str]:
    """One HTML page: the table and a list."""
    import pandas as pd

    frame = wide(grid, params, lambda text: f"<strong>{text}</strong>", html.escape)
    notes = "\n".join(f"<li>{html.escape(line)}</li>" for line in beneath(grid, params))
    head = '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>Results</title>'
    with pd.option_context("display.max_colwidth", None):  # else pandas cuts a cell at 50 characters
        table = frame.to_html(index=False, escape=False, border=0)
    return f"{head}\n{table}\n<ul>\n{notes}\n</ul>\n</html>", ""


def csv(grid: Grid, params: Sequence[str]) -> tuple[str, str]:
    """One line a cell with unrounded numbers, for programs; what stands beneath the other formats comes aside."""
    del params  # all of them
    import pandas as pd

    lines = [_cell_line(cell, key in grid.best) for key, cell in sorted(grid.cells.items())]
    return pd.DataFrame(lines).to_csv(index=False).rstrip("\n"), "\n".join(grid.remarks)


def _cell_line(cell: Cell, best: bool) -> dict[str, object]:
    """A cell as a flat line; None where there is nothing."""
    interval = cell.interval
    line: dict[str, object] = {**cell.row._asdict(), "task": cell.task, "metric": cell.metric, "split": cell.split}
    line |= {"seeds": len(cell.scores), "mean": stats.mean(cell.values) if cell.scores else None}
    line |= {"low": interval.low if interval else None, "high": interval.high if interval else None}
    line |= {"std": stats.std(cell.values) if interval else None, "best": best, "stale": cell.stale}
    line["not_counted"] = ", ".join(f"{state} {count}" for state, count in sorted(cell.absent.items()))
    line |= {f"{name}_params": "-".join(str(count) for count in sorted(cell.params.get(name, []))) for name in PARAMS}
    return line | {"notes": "; ".join(f"{note.text} ({', '.join(runs)})" for note, runs in cell.notes.items())}


class Format(NamedTuple):
    """A file's suffix, and grid and parameter columns -> (text, what belongs on standard error)."""

    suffix: str
    write: Callable[[Grid, Sequence[str]], tuple[str, str]]


FORMATS = {
    "markdown": Format(".md", markdown),
    "latex": Format(".tex", latex),
    "csv": Format(".csv", csv),
    "html": Format(".html", page),
}
