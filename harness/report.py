"""`python -m harness.report`: the table as a page to look at, one file that works offline.

    python -m harness.report table=adalora_glue -o report.html
    python -m harness.report -o report.html                     everything in results/runs

A table to sort and filter; behind each cell its runs with command, configuration, commit, learning curves and
confusion; scores against parameters, intervals, and the ranks that a method allocated. Exit code 0, or 2 for bad input.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from harness import figures, output, page, provenance, published, record, runsheet
from harness.bundle import Held
from harness.cells import gather
from harness.compare import compare
from harness.errors import ConfigError, HarnessError
from harness.figures import Point
from harness.select import named, where
from harness.sheet import Sheet, Shown, of_comparison, of_store
from harness.verdict import NOT_COMPARABLE

MOST_PANELS, MOST_MAPS = 12, 4
FRONT = (
    "Score against adapter parameters. Filled: ours, with 95 % intervals; hollow: the paper's. The grey line joins the "
    "points that no other one beats with fewer parameters. Left out: runs that do not compare, rows without adapter."
)
MEANS = "Means with 95 % intervals over seeds (dots), and the paper's numbers (diamonds)."
RANKS = "Ranks that remain at the end, by matrix and layer:"


def sheet(name: str | None, held: list[Held], *, include_stale: bool = False) -> Sheet:
    """What the page shows: a published table, or the store."""
    if name is not None:
        table = published.load(name)
        return of_comparison(compare(table, held, stale=provenance.stale, include_stale=include_stale))
    cells, remarks = gather(held, stale=provenance.stale, include_stale=include_stale)
    return of_store(cells, remarks, held)


def render(shown: Sheet, root: Path) -> str:
    """The page. root: the store, for predictions."""
    with_runs = [cell for cell in shown.cells.values() if cell.lines or cell.word]
    details = [page.detail(cell, runsheet.parts(cell, root)) for cell in with_runs]
    return page.document(shown, list(_figures(shown)), details)


def _figures(shown: Sheet) -> Iterator[tuple[str, str]]:
    """(caption, SVG) of what there is to draw."""
    points = {
        column: [point for row in shown.rows for point in _points(shown.cells.get((row, column)))]
        for column in shown.columns
    }
    summary = [shown.summary] if shown.summary else shown.columns[:MOST_MAPS]
    for index, column in enumerate(summary):
        if sized := [point for point in points[column] if point.at]:
            yield FRONT, figures.pareto(column, sized, f"pareto{index}")
    ours = [column for column in shown.columns if any(not point.paper for point in points[column])][-MOST_PANELS:]
    if ours:
        yield MEANS, figures.intervals({column: points[column] for column in ours}, "intervals")
    allocated = [cell for cell in shown.cells.values() if cell.records and runsheet.ranks(cell.records[0])]
    for cell in list({cell.row: cell for cell in allocated}.values())[:MOST_MAPS]:
        name = f"{cell.row}, {cell.column}"
        yield (
            f"{RANKS} {cell.records[0].id}",
            figures.heat(runsheet.ranks(cell.records[0]), name, f"top{page.anchor(cell)}"),
        )


def _points(cell: Shown | None) -> list[Point]:
    """The paper's point of a cell and ours; runs that do not compare are not drawn."""
    if cell is None:
        return []
    found = [Point(cell.row, cell.params or 0, cell.paper, paper=True)] if cell.paper is not None else []
    if cell.mean is not None and cell.word != NOT_COMPARABLE:
        low, high = cell.interval or (None, None)
        found.append(Point(cell.row, cell.params or 0, cell.mean, low, high))
    return found


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m harness.report",
        description="The table as one HTML page that works offline.",
        allow_abbrev=False,
    )
    parser.add_argument("table", nargs="*", metavar="table=NAME", help="a published table beside our runs")
    parser.add_argument("--root", type=Path, default=Path("results/runs"), help="the store (default: %(default)s)")
    parser.add_argument(
        "-o", dest="output", type=Path, default=Path("report.html"), metavar="FILE", help="default: %(default)s"
    )
    parser.add_argument("--stale", action="store_true", help="average runs of other code or versions with fresh ones")
    parser.add_argument("--where", action="append", default=[], metavar="KEY=VALUE", help="only runs with this")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Write the page; returns the exit code."""
    options = _arguments(argv)
    try:
        name = named(options.table)
        held = where(list(record.read_all(options.root)), options.where)
        if name is None and not held:
            raise ConfigError(f"{options.root} holds no runs yet; make one (python -m harness), or say table=NAME")
        text = render(sheet(name, held, include_stale=options.stale), options.root)
        output.show(text, options.output)
    except HarnessError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"wrote {options.output} ({len(text.encode()):,} bytes)")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
