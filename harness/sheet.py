"""What a report shows, whatever it is of: rows, columns, and cells with all that is known of the runs behind them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from harness import costs, fill, layout, stats, twin
from harness.bundle import Held, records
from harness.cells import PARAMS, Cell
from harness.compare import AVERAGE, Comparison, Entry
from harness.grid import Grid
from harness.record import DONE, Record

OURS = "ours"
LEADS = {"best": " (best)", "tied": "≈", "": ""}  # of its column; ties are marked alike in every format


@dataclass(frozen=True)
class Shown:
    """One cell of the page.

    Attributes:
        word: the verdict, OURS for runs without a published number, or "" for none. lines: (label, text) in the cell.
        facts: (label, text) of its page. paper, mean, interval: numbers for the figures. params: adapter parameters, as
            the paper counts them or as ours has them; costs: what ours cost, by the name of a figure's axis. best: leads its
            column and is separable from every other row of ours; nothing else is bold.
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
    costs: dict[str, float] = field(default_factory=dict)
    cell: Cell | None = None
    best: bool = False


@dataclass(frozen=True)
class Sheet:
    """A page's content.

    Attributes:
        rows: title -> what else stands beside it, of `heads`. cells: by (row, column). summary: the column that sums up
            the others, or "". costs: heads, lines and note of their table.
    """

    title: str
    heads: list[str]
    rows: dict[str, list[str]]
    columns: list[str]
    cells: dict[tuple[str, str], Shown]
    notes: list[str]
    commands: list[str]
    summary: str = ""
    costs: tuple[list[str], list[list[str]], str] | None = None


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
        _costs({titles[row]: [run for entry in found.entries if entry.row.key == row for run in entry.ours.records]
                for row in table.rows}),
    )  # fmt: skip


def _distinct(titles: dict[str, str]) -> dict[str, str]:
    """Row key -> title; where two rows have one title, the key with it."""
    several = {title for title in titles.values() if list(titles.values()).count(title) > 1}
    return {key: f"{title} ({key.rpartition('_')[2]})" if title in several else title for key, title in titles.items()}


def _compared(entry: Entry, row: str, lines: twin.Lines) -> Shown:
    """A published cell."""
    setting, verdict, published = entry.published.setting, entry.verdict, entry.published
    lead = LEADS["best"] if entry.best else ""  # a tie is marked already
    shown = [("paper", lines.paper(entry)), ("ours", lines.ours(entry) + lead), ("difference", lines.difference(entry))]
    shown += [
        (
            "holds at",
            lines.settle(entry)
            + (" seeds" if verdict.more_seeds else "").removesuffix("s" * (verdict.more_seeds == 1)),
        )
    ]
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
        count.computed if count else None, entry.metric, costs.measured(entry.ours.records), entry.ours.cell,
        entry.best,
    )  # fmt: skip


def _span(interval: stats.Interval | None) -> str:
    return "" if interval is None else f"{interval.low:.2f} to {interval.high:.2f}"


def of_store(whole: Grid, held: Iterable[Held]) -> Sheet:
    """Everything in a store, method by task."""
    runs = {one.id: one for one in records(held) if isinstance(one, Record) and one.state == DONE}
    rows, by_place = {}, {}
    short = layout.variants(whole.rows)
    one_model = len({row.model for row in whole.rows}) == 1
    for (row, task), cell in sorted(whole.cells.items()):
        title = row._replace(settings=short.get(row.settings, row.settings)).title
        title += "" if one_model else f", {row.model}"
        title += "" if row.budget == "default" else f", {row.budget}"
        rows[title] = [f"{count:,}" for count in cell.params.get("adapter", [])[:1]] or ["–"]
        lead = "tied" if (row, task) in whole.tied else "best" if (row, task) in whole.best else ""
        mine = tuple(runs[cell.runs[seed]] for seed in sorted(cell.runs))
        by_place[title, task] = _own(cell, title, mine, lead)
    return Sheet(
        "What the results store holds", ["adapter parameters"], rows, whole.tasks, by_place,
        [*layout.legends(whole, PARAMS[:1]), *whole.remarks], [],
        costs=_costs({f"{row}, {task}": list(cell.records) for (row, task), cell in by_place.items()}),
    )  # fmt: skip


def _costs(runs: dict[str, list[Record]]) -> tuple[list[str], list[list[str]], str] | None:
    """What the runs behind each line cost; None where there are none."""
    frame = costs.of_rows(runs)
    if frame.empty:
        return None
    lean, note = costs.lean(frame)
    return list(map(str, lean.columns)), lean.astype(str).values.tolist(), note


def _own(cell: Cell, row: str, kept: tuple[Record, ...], lead: str) -> Shown:
    """A cell of the store's table."""
    mean = stats.mean(cell.values) if cell.scores else None
    half = f" ± {cell.interval.half_width:.2f}" if cell.interval else ""
    lines = [] if mean is None else [("ours", f"{mean:.2f}{half} ({len(cell.scores)}){LEADS[lead]}")]
    lines += [(state, str(count)) for state, count in sorted(cell.absent.items())]
    facts = [*lines, ("metric", f"{cell.metric} on {cell.split}")]
    facts += [(f"remark ({len(runs)})", note.text) for note, runs in cell.notes.items()]
    params = float(cell.params["adapter"][0]) if cell.params.get("adapter") else None
    return Shown(
        row, cell.task, OURS if cell.scores else "", lines, facts, kept, cell.scores, None, mean, cell.interval,
        params, cell.metric, costs.measured(kept), cell, lead == "best",
    )  # fmt: skip
