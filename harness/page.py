"""A sheet as one HTML file: no request leaves it, nothing in it runs but one script whose hash its policy names.

Everything that comes from records, configurations or published files is escaped here, and nowhere else.
"""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Iterable
from html import escape

from harness.paths import PACKAGE
from harness.sheet import OURS, Sheet, Shown
from harness.verdict import WORDS

ASSETS = PACKAGE / "assets"
MARKS = dict(zip(WORDS, ("✓", "✗", "?", "≠", "·"), strict=True))  # so that colour is never alone


def asset(name: str) -> str:
    """The page's own style sheet or script."""
    return (ASSETS / name).read_text(encoding="utf-8").strip()


def _hash(text: str) -> str:
    """As a content-security policy names an inline script or style."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def document(sheet: Sheet, figures: list[tuple[str, str]], details: Iterable[str]) -> str:
    """The whole file. figures: (caption, SVG). details: sections as `detail` gives them."""
    style, script = asset("report.css"), asset("report.js")
    policy = (
        f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; base-uri 'none'; form-action 'none'"
    )
    drawn = "\n".join(f"<figure><figcaption>{escape(text)}</figcaption>\n{svg}</figure>" for text, svg in figures)
    notes = "\n".join(f"<li>{escape(line)}</li>" for line in sheet.notes)
    commands = f"<h2>What is not run</h2>\n<pre>{escape(chr(10).join(sheet.commands))}</pre>" if sheet.commands else ""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(sheet.title)}</title>
<style>{style}</style>
</head>
<body>
<h1>{escape(sheet.title)}</h1>
<p class="summary">{escape(_summary(sheet))}</p>
{_tools(sheet)}
<div class="wide" id="table" tabindex="0" role="region" aria-label="Results">
{_table(sheet)}
</div>
{f'<h2>Figures</h2><div class="figures">{drawn}</div>' if drawn else ""}
{_costs(sheet)}
<h2>Notes</h2>
<ul class="notes">
{notes}
</ul>
{commands}
{chr(10).join(details)}
<script>{script}</script>
</body>
</html>"""


def _costs(sheet: Sheet) -> str:
    """The table of costs."""
    if sheet.costs is None:
        return ""
    heads, rows, note = sheet.costs
    return f'<h2>Costs</h2>{table("", heads, rows)}\n<p class="summary">{escape(note)}</p>'


def _summary(sheet: Sheet) -> str:
    """How many cells have which verdict, and how many runs stand behind them."""
    said = Counter(cell.word for cell in sheet.cells.values())
    runs = len({run.id for cell in sheet.cells.values() for run in cell.records})
    counted = [f"{MARKS[word]} {said[word]} {word}" for word in WORDS if said[word]]
    return ", ".join([*counted, f"{runs} run{'' if runs == 1 else 's'} of ours"])


def _tools(sheet: Sheet) -> str:
    words = [word for word in WORDS if any(cell.word == word for cell in sheet.cells.values())]
    options = "".join(f'<option value="{_class(word)}">{MARKS[word]} {word}</option>' for word in words)
    return f"""<div class="tools">
<label>Rows that say <input id="search" type="search" placeholder="lora" autocomplete="off"></label>
<label{"" if words else " hidden"}>Rows with a verdict
<select id="verdict"><option value="">any</option>{options}</select></label>
<span id="count" role="status"></span>
</div>"""


def _class(word: str) -> str:
    return word.replace(" ", "-")


def _table(sheet: Sheet) -> str:
    heads = ["method", *sheet.heads, *sheet.columns]
    top = "".join(f'<th scope="col"><button type="button">{escape(text)}</button></th>' for text in heads)
    lines = [f"<table>\n<thead><tr>{top}</tr></thead>\n<tbody>"]
    for row, more in sheet.rows.items():
        cells = [sheet.cells.get((row, column)) for column in sheet.columns]
        beside = "".join(f'<td data-sort="{_number(cells)}">{escape(text)}</td>' for text in more)
        filled = "".join(_cell(cell) for cell in cells)
        text = escape(" ".join([row, *more]), quote=True)
        lines.append(f'<tr data-text="{text}"><th scope="row">{escape(row)}</th>{beside}{filled}</tr>')
    return "\n".join([*lines, "</tbody>\n</table>"])


def _number(cells: list[Shown | None]) -> str:
    """The row's parameters as a number to sort by."""
    return next((f"{cell.params:g}" for cell in cells if cell is not None and cell.params is not None), "")


def _cell(cell: Shown | None) -> str:
    if cell is None or not (cell.lines or cell.word):
        return '<td data-sort="">–</td>'
    value = cell.mean if cell.mean is not None else cell.paper
    lines = [f'<div class="{escape(label.split()[0])}">{_text(label, text)}</div>' for label, text in cell.lines]
    if cell.word in MARKS:
        lines.append(f'<div class="word">{MARKS[cell.word]} {cell.word}</div>')
    sort = "" if value is None else f"{value:.6f}"
    classes = _class(cell.word) + " best" * cell.best
    return f'<td class="{classes.strip()}" data-sort="{sort}"><a href="#{anchor(cell)}">{"".join(lines)}</a></td>'


def _text(label: str, text: str) -> str:
    """A line of a cell: its label where the number alone would not say what it is."""
    return escape(text if label in ("paper", OURS, "difference") else f"{label} {text}")


def anchor(cell: Shown) -> str:
    """The id of a cell's own page."""
    return f"cell-{hashlib.sha256(f'{cell.row}|{cell.column}'.encode()).hexdigest()[:10]}"


def detail(cell: Shown, parts: Iterable[str]) -> str:
    """A cell's own page. parts: HTML made of escaped text."""
    facts = "".join(f"<dt>{escape(label)}</dt><dd>{escape(text)}</dd>" for label, text in cell.facts)
    inside = "\n".join(parts)
    return f"""<section class="detail" id="{anchor(cell)}" aria-label="{escape(cell.row)}, {escape(cell.column)}">
<a class="close" href="#table">Close</a>
<h2>{escape(cell.row)} · {escape(cell.column)}</h2>
<dl>{facts}</dl>
{inside}
</section>"""


def table(title: str, heads: list[str], rows: Iterable[Iterable[str]]) -> str:
    """A small table of plain text."""
    top = "".join(f'<th scope="col">{escape(text)}</th>' for text in heads)
    body = "\n".join("<tr>" + "".join(f"<td>{escape(text)}</td>" for text in row) + "</tr>" for row in rows)
    inside = f"<table><thead><tr>{top}</tr></thead><tbody>\n{body}\n</tbody></table>"
    head = f"<h3>{escape(title)}</h3>\n" if title else ""
    return f'{head}<div class="wide">{inside}</div>'


def block(title: str, text: str) -> str:
    """Preformatted text behind a line to click on."""
    return f"<details><summary>{escape(title)}</summary>\n<pre>{escape(text)}</pre></details>"
