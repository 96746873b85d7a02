"""What a report shows, whatever it is of: rows, columns, and cells with all that is known of the runs behind them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from harness import fill, stats, twin
from harness.bundle import Held, records
from harness.cells import Cell
from harness.compare import AVERAGE, Comparison, Entry
from harness.identity import group
from harness.record import DONE, Record

OURS = "ours"


@dataclass(frozen=True)
class Shown:
    """One cell of the page.

    Attributes:
        word: the verdict, OURS for runs without a published number, or "" for none. lines: (label, text) in the cell.
        facts: (label, text) of its page. paper, mean, interval: numbers for the figures. params: adapter parameters.
    """

    row: str
    column: str
    word: str
    lines: list[tuple[str, str]]
    facts: list[tuple[str, str]]
    records: tuple[Record, ...] = ()
    scores: dict[int, float] = field(default_factory=dict)
    paper: float | None = None
    mean: float | None = None
    interval: stats.Interval | None = None
    params: float | None = None
    metric: str = ""


@dataclass(frozen=True)
class Sheet:
    """A page's content.

    Attributes:
        rows: title -> what else stands beside it, of `heads`. cells: by (row, column). summary: the column that sums up
            the others, or "".
    """

    title: str
    heads: list[str]
    rows: dict[str, list[str]]
    columns: list[str]
    cells: dict[tuple[str, str], Shown]
    notes: list[str]
    commands: list[str]
    summary: str = ""


def of_comparison(found: Comparison) -> Sheet:
    """A published table beside our runs."""
    table, lines = found.table, twin.Lines(found)
    titles = _distinct({row.key: row.title for row in table.rows.values()})
    cells = [_compared(entry, titles[entry.row.key], lines) for entry in found.entries]
    rows = {titles[key]: [row.counts[name].printed for name in table.counts] for key, row in table.rows.items()}
    by_place = {(cell.row, cell.column): cell for cell in cells}
    columns = list(found.columns.values())
    return Sheet(
        table.title, list(table.counts.values()), rows, columns, by_place,
        twin.beneath(found, lines.reasons), fill.commands(found), table.average.title if table.average else "",
    )  # fmt: skip


def _distinct(titles: dict[str, str]) -> dict[str, str]:
    """Row key -> title; where two rows have one title, the key with it."""
    several = {title for title in titles.values() if list(titles.values()).count(title) > 1}
    return {key: f"{title} ({key.rpartition('_')[2]})" if title in several else title for key, title in titles.items()}


def _compared(entry: Entry, row: str, lines: twin.Lines) -> Shown:
    """A published cell."""
    setting, verdict, published = entry.published.setting, entry.verdict, entry.published
    shown = [("paper", lines.paper(entry)), ("ours", lines.ours(entry)), ("difference", lines.difference(entry))]
    shown += [("holds at", lines.settle(entry) + (" seeds" if verdict.more_seeds else ""))]
    lines.verdict(entry)  # numbers its reasons
    seeds = f"{setting.seeds_claimed or 'not said'} claimed, {setting.seeds_inferred or 'none'} inferred"
    facts = [
        ("verdict", "; ".join([verdict.word, *verdict.why])),
        *[(label, text) for label, text in shown if text],
        ("by chance", lines.chance(entry)),
        ("prediction interval", _span(verdict.predicted)),
        ("margin", f"±{setting.margin:g} points"),
        ("paper's number", f"{setting.statistic}; seeds: {seeds}. {setting.seeds_reason}".strip()),
        ("backbone, split, selection", f"{setting.model}, {setting.split}, {setting.selection}"),
        ("metric", entry.metric),
        ("source", setting.source),
        ("remarks", " ".join(filter(None, (published.remark, entry.row.remark)))),
    ]
    word = verdict.word if published.value is not None or entry.ours.scores else ""
    count = entry.row.counts.get("params")
    return Shown(
        row, entry.title, word, [line for line in shown if line[1]], [fact for fact in facts if fact[1]],
        entry.ours.records if entry.column != AVERAGE else (), entry.ours.scores, published.value,
        stats.mean(entry.ours.values) if entry.ours.scores else None, entry.interval,
        count.computed if count else None, entry.metric,
    )  # fmt: skip


def _span(interval: stats.Interval | None) -> str:
    return "" if interval is None else f"{interval.low:.2f} to {interval.high:.2f}"


def of_store(cells: list[Cell], remarks: list[str], held: Iterable[Held]) -> Sheet:
    """Everything in a store, method by task."""
    runs: dict[tuple[str, ...], list[Record]] = {}
    for one in records(held):
        if isinstance(one, Record) and one.state == DONE:
            runs.setdefault(_place(one), []).append(one)
    rows, by_place = {}, {}
    for cell in cells:
        name = " ".join(filter(None, (cell.row.method, f"({cell.row.settings})" if cell.row.settings else "")))
        row = name if len({other.row.model for other in cells}) == 1 else f"{name}, {cell.row.model}"
        row += "" if cell.row.budget == "default" else f", {cell.row.budget}"
        rows[row] = [f"{count:,}" for count in cell.params.get("adapter", [])[:1]] or ["–"]
        members = runs.get((cell.row.method, cell.row.model, cell.row.budget, cell.task), [])
        mine = [one for one in members if cell.scores.get(one.identity["seed"]) == one.science["main"]["score"]]
        by_place[row, cell.task] = _own(cell, row, tuple(mine))
    return Sheet(
        "What the results store holds", ["adapter parameters"], rows, sorted({cell.task for cell in cells}), by_place,
        remarks, [],
    )  # fmt: skip


def _place(one: Record) -> tuple[str, ...]:
    return tuple(str(one.identity[part]["name"]) for part in ("method", "model", "budget", "task"))


def _own(cell: Cell, row: str, records: tuple[Record, ...]) -> Shown:
    """A cell of the store's table."""
    mean = stats.mean(cell.values) if cell.scores else None
    half = f" ± {cell.interval.half_width:.2f}" if cell.interval else ""
    lines = [] if mean is None else [("ours", f"{mean:.2f}{half} ({len(cell.scores)})")]
    lines += [(state, str(count)) for state, count in sorted(cell.absent.items())]
    facts = [*lines, ("metric", f"{cell.metric} on {cell.split}")]
    facts += [(f"remark ({len(runs)})", note.text) for note, runs in cell.notes.items()]
    params = float(cell.params["adapter"][0]) if cell.params.get("adapter") else None
    kept = records if len({group(one.identity) for one in records}) <= 1 else ()
    return Shown(
        row, cell.task, OURS if cell.scores else "", lines, facts, kept, cell.scores, None, mean, cell.interval,
        params, cell.metric,
    )  # fmt: skip
