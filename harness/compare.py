"""A published table beside our runs: one entry a cell, averages included, and the same as pandas rows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness import stats
from harness.bundle import Held
from harness.cells import Cell, Stale
from harness.examples import Examples
from harness.grid import lead
from harness.match import Ours, Store, average
from harness.paper import Line, Published, Table
from harness.verdict import Verdict, judge

if TYPE_CHECKING:
    import pandas as pd

AVERAGE = "average"


@dataclass(frozen=True)
class Entry:
    """One cell of the paper and ours. column: a column's key, or AVERAGE. best: ours leads its column, separably;
    tied: it shares the lead."""

    row: Line
    column: str
    title: str
    metric: str
    published: Published
    ours: Ours
    verdict: Verdict
    best: bool = False
    tied: bool = False

    @property
    def interval(self) -> stats.Interval | None:
        """95 % interval of our mean; None below two runs."""
        few = len(self.ours.scores) < 2
        return None if few else stats.confidence_interval(self.ours.values, resolution=self.ours.resolution)


@dataclass(frozen=True)
class Comparison:
    """A table's entries, row by row, and what there is to say about records that stand in none."""

    table: Table
    entries: list[Entry]
    remarks: list[str]

    @property
    def columns(self) -> dict[str, str]:
        """Key -> title, in the paper's order, the average last."""
        found = {key: column.title for key, column in self.table.columns.items()}
        return found | ({AVERAGE: self.table.average.title} if self.table.average else {})

    def column(self, key: str) -> list[Cell]:
        """Our cells of a column that may be compared with each other."""
        return contestants(entry.ours for entry in self.entries if entry.column == key)

    @property
    def titles(self) -> dict[int, str]:
        """The id of each of our cells -> the key of its row."""
        return {id(entry.ours.cell): entry.row.key for entry in self.entries}

    @property
    def has_runs(self) -> bool:
        """Whether any run of ours stands anywhere."""
        return any(entry.ours.records or entry.ours.absent for entry in self.entries)


def compare(
    table: Table, held: Iterable[Held], *, stale: Stale, include_stale: bool = False, examples: Examples | None = None
) -> Comparison:
    """Every cell of a table with our side and the verdict. examples: the store's predictions, to pair over."""
    store = Store(held, stale=stale, include_stale=include_stale)
    parts = {
        row.key: {key: store.ours(row, column, row.cells[key]) for key, column in table.columns.items()}
        for row in table.rows.values()
    }
    leads = {key: lead(contestants(one[key] for one in parts.values()), examples) for key in table.columns}
    entries = []
    for row in table.rows.values():
        for key, column in table.columns.items():
            ours, published = parts[row.key][key], row.cells[key]
            best = ours.cell is not None and ours.cell is leads[key].best
            tied = any(ours.cell is cell for cell in leads[key].tied)
            verdict = judge(ours, published)
            entries.append(Entry(row, key, column.title, column.metric, published, ours, verdict, best, tied))
        if table.average and row.average:
            ours = average(table, row, parts[row.key])
            entries.append(
                Entry(row, AVERAGE, table.average.title, "", row.average, ours, judge(ours, row.average))
            )  # fmt: skip
    return Comparison(table, entries, store.remarks)


def contestants(column: Iterable[Ours]) -> list[Cell]:
    """Our cells of a column that may be compared with each other."""
    return [one.cell for one in column if one.cell is not None and one.scores and not one.unlike]


def rows(comparison: Comparison) -> pd.DataFrame:
    """One line a cell with unrounded numbers: what every format is written from."""
    import pandas as pd

    return pd.DataFrame([_row(comparison.table, entry) for entry in comparison.entries])


def _row(table: Table, entry: Entry) -> dict[str, object]:
    published, setting, verdict, interval = entry.published, entry.published.setting, entry.verdict, entry.interval
    predicted = verdict.predicted
    line: dict[str, object] = {"table": table.name, "row": entry.row.key, "title": entry.row.title}
    line |= {"method": entry.row.method, "budget": entry.row.budget, "model": setting.model}
    line |= {f"{name}_printed": count.printed for name, count in entry.row.counts.items()}
    line |= {f"{name}_computed": count.computed for name, count in entry.row.counts.items()}
    line |= {"column": entry.column, "metric": entry.metric, "split": setting.split, "selection": setting.selection}
    line |= {"statistic": setting.statistic, "paper_seeds": setting.seeds or None, "source": setting.source}
    line |= {"paper": published.value, "paper_std": published.std}
    line |= {"ours": stats.mean(entry.ours.values) if entry.ours.scores else None, "seeds": len(entry.ours.scores)}
    line |= {"low": interval.low if interval else None, "high": interval.high if interval else None}
    line |= {"difference": verdict.difference, "margin": setting.margin, "verdict": verdict.word}
    line |= {"smallest_margin": verdict.smallest_margin, "more_seeds": verdict.more_seeds}
    line |= {
        "predicted_low": predicted.low if predicted else None,
        "predicted_high": predicted.high if predicted else None,
    }
    line |= {
        "paper_inside_prediction": verdict.inside,
        "best": entry.best,
        "tied": entry.tied,
        "why": "; ".join(verdict.why),
    }
    line["remark"] = " ".join(filter(None, (published.remark, entry.row.remark)))
    return line | {"runs": " ".join(record.id for record in entry.ours.records)}
