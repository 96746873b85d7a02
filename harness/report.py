"""`python -m harness.report`: the table as a page to look at, one file that works offline.

    python -m harness.report table=adalora_glue -o report.html
    python -m harness.report -o report.html                     everything in results/runs

    python -m harness.report --figures figures                  its figures as SVG and PNG as well

A table to sort and filter; behind each cell its runs with command, configuration, commit, learning curves, confusion and
cost; scores against parameters, bits and seconds; intervals; a critical-difference diagram; the ranks that a method
allocated, and when. Exit code 0, or 2 for bad input.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from harness import figures, output, page, provenance, published, record, runsheet, traces
from harness.bundle import Held
from harness.cells import Stale, gather
from harness.compare import compare
from harness.drawing import Drawn
from harness.errors import ConfigError, HarnessError
from harness.examples import Examples
from harness.figures import Point
from harness.grid import grid
from harness.paths import STORE, store
from harness.ranking import Ranking, rank
from harness.select import asked, where
from harness.sheet import Sheet, Shown, of_comparison, of_store
from harness.verdict import NOT_COMPARABLE

MOST_PANELS, MOST_MAPS, MOST_CURVES = 12, 4, 8
FRONT = (
    "Score against what it costs. Filled: ours, with 95 % intervals; hollow: the paper's. The grey line joins the points "
    "that no other one beats at a lower cost. Left out: runs that do not compare, costs that nobody measured, costs of 0 (no "
    "place on a logarithmic axis)."
)
MEANS = "Means with 95 % intervals over seeds (dots){papers}."
PAPERS = ", and the paper's numbers (diamonds)"
CURVES = "Learning curves: means over seeds, with the 95 % interval of the mean at each evaluation; runs in brackets."
RANKS = {
    "ranks": "Ranks that remain at the end, by matrix and layer:",
    "time": "Mean ranks over time, by matrix and by layer:",
    "matrix": "The rank of one matrix over time, that which moved most:",
}


def sheet(
    name: str | None, held: list[Held], *, stale: Stale, include_stale: bool = False, examples: Examples | None = None
) -> Sheet:
    """What the page shows: a published table, or the store."""
    if name is not None:
        found = compare(published.load(name), held, stale=stale, include_stale=include_stale, examples=examples)
        return of_comparison(found)
    cells, remarks = gather(held, stale=stale, include_stale=include_stale)
    return of_store(grid(cells, remarks, examples), held)


def render(shown: Sheet, root: Path, folder: Path | None = None) -> str:
    """The page. root: the store, for predictions. folder: where its figures are written as SVG and PNG as well."""
    with_runs = [cell for cell in shown.cells.values() if cell.lines or cell.word]
    details = [page.detail(cell, runsheet.parts(cell, root)) for cell in with_runs]
    whole = list(_figures(shown))
    if folder is not None:
        for _, drawn in whole:
            drawn.write(folder)
    return page.document(shown, [(caption, drawn.element()) for caption, drawn in whole], details)


def _figures(shown: Sheet) -> Iterator[tuple[str, Drawn]]:
    """(caption, figure) of what there is to draw."""
    summary = [shown.summary] if shown.summary else shown.columns[:MOST_MAPS]
    for index, column in enumerate(summary):
        if axes := _axes(shown, column):
            yield FRONT, figures.pareto(column, axes, f"pareto-{index + 1}")
    points = {column: [point for row in shown.rows for point in _points(shown.cells.get((row, column)))]
              for column in shown.columns}  # fmt: skip
    ours = [column for column in shown.columns if any(not point.paper for point in points[column])][-MOST_PANELS:]
    if ours:
        papers = PAPERS if any(point.paper for column in ours for point in points[column]) else ""
        yield MEANS.format(papers=papers), figures.intervals({column: points[column] for column in ours}, "intervals")
    if (found := _ranking(shown)) is not None:
        whose, ranking = found
        yield f"{whose} {_ranked(ranking)}", figures.critical(ranking, "critical-difference")
    yield from _curves(shown)
    yield from _allocations(shown)


def _axes(shown: Sheet, column: str) -> dict[str, list[Point]]:
    """Cost -> points of a column; costs that fewer than two points have are left out."""
    found: dict[str, list[Point]] = {}
    for row in shown.rows:
        cell = shown.cells.get((row, column))
        for point in _points(cell):
            costs = {"adapter parameters": point.at} if point.paper or not cell else cell.costs
            for name, at in costs.items():
                if at:
                    found.setdefault(name, []).append(point._replace(at=at))
    return {name: points for name, points in found.items() if len(points) > 1}


def _ranking(shown: Sheet) -> tuple[str, Ranking] | None:
    """Whose rows are ranked, and their ranks: ours over tasks, else ours over the seeds of one task, else the paper's."""
    columns = [column for column in shown.columns if column != shown.summary]
    sides: list[tuple[str, str, dict[str, dict[str, float]]]] = []
    ours = {row: {column: cell.mean for column in columns if (cell := shown.cells.get((row, column)))
                  and cell.mean is not None and cell.word != NOT_COMPARABLE} for row in shown.rows}  # fmt: skip
    sides.append(("Ours.", "tasks", ours))
    for column in columns:
        cells = {
            row: cell for row in shown.rows if (cell := shown.cells.get((row, column))) and cell.word != NOT_COMPARABLE
        }
        by_seed = {row: {str(seed): score for seed, score in cell.scores.items()} for row, cell in cells.items()}
        sides.append((f"Ours, {column}.", "seeds", by_seed))
    paper = {row: {column: cell.paper for column in columns if (cell := shown.cells.get((row, column)))
                   and cell.paper is not None} for row in shown.rows}  # fmt: skip
    sides.append(("The paper's numbers.", "columns", paper))
    for whose, of, table in sides:
        filled = {row: values for row, values in table.items() if values}
        blocks = sorted(set.intersection(*map(set, filled.values()))) if filled else []
        if found := rank({row: [values[block] for block in blocks] for row, values in filled.items()}, of):
            return whose, found
    return None


def _ranked(found: Ranking) -> str:
    return (
        f"Mean rank of each row over {found.blocks} {found.of}, 1 the best (Demsar 2006). A bar joins rows whose ranks differ "
        f"by less than Nemenyi's critical distance at 5 %. Friedman's test of equal ranks: p = {found.p:.3g}."
    )


def _curves(shown: Sheet) -> Iterator[tuple[str, Drawn]]:
    """Of every column with curves, all rows together."""
    for index, column in enumerate(shown.columns):
        cells = {row: cell for row in shown.rows if (cell := shown.cells.get((row, column))) and cell.records}
        rows = {row: points for row, cell in cells.items() if (points := runsheet.curve(cell))}
        if len(rows) > 1 and index < MOST_PANELS:
            metric = next(iter(cells.values())).metric
            chosen = dict(list(rows.items())[:MOST_CURVES])
            yield f"{CURVES} {column}.", traces.curves(chosen, metric, f"curves-{index + 1}")


def _allocations(shown: Sheet) -> Iterator[tuple[str, Drawn]]:
    """Of some rows that allocate ranks, one cell's: where they are, and how they got there."""
    cells = [cell for cell in shown.cells.values() if cell.records and traces.final(cell.records[0])]
    for index, cell in enumerate(list({cell.row: cell for cell in cells}.values())[:MOST_MAPS]):
        for drawn in runsheet.drawings(cell):
            kind = drawn.name.partition("-")[0]
            if kind in RANKS:
                caption = f"{RANKS[kind]} {cell.row}, {cell.column}, {cell.records[0].id}"
                yield caption, drawn._replace(name=f"{kind}-{index + 1}")


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
    parser.add_argument("--root", type=Path, default=STORE, help="the store (default: %(default)s)")
    parser.add_argument(
        "-o", dest="output", type=Path, default=Path("report.html"), metavar="FILE", help="default: %(default)s"
    )
    parser.add_argument("--figures", type=Path, metavar="DIR", help="write the figures there as SVG and PNG as well")
    parser.add_argument("--as-made", action="store_true", help="do not ask whether present code would give the same")
    parser.add_argument("--stale", action="store_true", help="average runs of other code or versions with fresh ones")
    parser.add_argument("--where", action="append", default=[], metavar="KEY=VALUE", help="only runs with this")
    return parser.parse_args(argv)


def written(shown: Sheet, options: argparse.Namespace) -> str:
    """The page, its figures beside it where asked for. Raises ConfigError where their folder cannot be written."""
    try:
        return render(shown, options.root, options.figures)
    except OSError as error:
        raise ConfigError(f"--figures {options.figures} cannot be written: {error.strerror}") from error


def main(argv: Sequence[str] | None = None) -> int:
    """Write the page; returns the exit code."""
    options = _arguments(argv)
    try:
        name = asked(options.table, options)
        held = where(list(record.read_all(options.root)), options.where)
        if name is None and not held and options.where:
            raise ConfigError(f"{options.root} holds no run with --where {' --where '.join(options.where)}")
        if name is None and not held:
            store(options.root)
            raise ConfigError(f"{options.root} holds no runs yet; make one (python -m harness), or say table=NAME")
        stale = (lambda _: []) if options.as_made else provenance.stale
        shown = sheet(name, held, stale=stale, include_stale=options.stale, examples=Examples(options.root))
        text = written(shown, options)
        output.show(text, options.output)
    except HarnessError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"wrote {options.output} ({len(text.encode()):,} bytes)")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
