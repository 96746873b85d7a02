"""`python -m harness.table`: what the store holds, method by task, as Markdown (or LaTeX, CSV, HTML).

    python -m harness.table                                   everything in results/runs
    python -m harness.table --task glue/mrpc,glue/rte --format latex -o table.tex
    python -m harness.table table=adalora_glue                a published table, our runs beside its numbers

A cell is `mean ± half-width (n)`: the 95 % t interval over n seeds, of runs that differ in nothing else. Bold is the
best of a column, if it is separable from every other row of it; rows that share the lead are marked ≈. Beneath
stands all that is not in the numbers: runs that failed, stale ones, remarks, records that cannot be read. Exit code 0,
or 2 for bad input.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from harness import costs, index, layout, output, provenance, published, skim, twin, versus
from harness.bundle import Held
from harness.cells import PARAMS, Stale, gather
from harness.compare import compare
from harness.errors import ConfigError, HarnessError, reader_left
from harness.examples import Examples
from harness.grid import grid
from harness.paths import STORE, store
from harness.select import FILTERS, asked, select, where

EMPTY = """\
{root} holds no runs yet. One command makes one, another a small table:
  python -m harness
  python -m harness -m method=head,bitfit,lora,full seed=0,1,2"""


def published_table(options: argparse.Namespace, name: str, held: list[Held], examples: Examples) -> dict[str, str]:
    """A published table beside our runs, as text, and by option what stands beneath it."""
    found = compare(published.load(name), held, stale=stale_by(options), include_stale=options.stale, examples=examples)
    written = output.chosen(options.format, options.output)
    tables = {"": twin.FORMATS[written](found, options.plain)}
    if options.pairs:
        columns = {title: versus.pairs(found.column(key), examples) for key, title in found.columns.items()}
        tables["pairs"] = paired(columns, written, found.titles)
    if options.costs and found.has_runs:
        rows = {key: [run for entry in found.entries if entry.row.key == key for run in entry.ours.records]
                for key in found.table.rows}  # fmt: skip
        tables["costs"] = output.frame(*costs.lean(costs.of_rows(rows)), written)
    return tables


def stale_by(options: argparse.Namespace) -> Stale:
    """What makes a run stale: that present code is not what made it; nothing, where runs are shown as made."""
    return (lambda _: []) if options.as_made else index.remembered(provenance.stale)


def paired(columns: dict[str, list[versus.Pair]], written: str, named: dict[int, str] | None = None) -> str:
    """The comparisons of our rows with each other, as a table beneath the table."""
    few = "" if any(columns.values()) else " None: no column has two rows with two seeds or more, all fresh and alike."
    return output.frame(versus.frame(columns, named), versus.MEANING + few, written)


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m harness.table",
        description="What the results store holds, method by task.",
        allow_abbrev=False,
    )
    parser.add_argument("table", nargs="*", metavar="table=NAME", help="compare with a published table instead")
    parser.add_argument("--root", type=Path, default=STORE, help="the store (default: %(default)s)")
    parser.add_argument("--format", choices=tuple(layout.FORMATS), help="default: by the suffix of -o, else markdown")
    parser.add_argument("-o", dest="output", type=Path, metavar="FILE", help="write there instead of printing")
    parser.add_argument("--all-params", action="store_true", help="active, head and total parameters as well")
    parser.add_argument("--stale", action="store_true", help="average runs of other code or versions with fresh ones")
    parser.add_argument("--as-made", action="store_true", help="do not ask whether present code would give the same")
    parser.add_argument("--costs", action="store_true", help="parameters, stored bytes, memory, speed and time as well")
    parser.add_argument("--pairs", action="store_true", help="our rows against each other, paired, as well")
    parser.add_argument("--plain", action="store_true", help="table=NAME: the paper's numbers in its own layout")
    parser.add_argument(
        "--where", action="append", default=[], metavar="KEY=VALUE", help="only runs with this (train.select=best)"
    )
    for part in FILTERS:
        parser.add_argument(f"--{part}", type=_names, default=[], metavar="A,B", help=f"only these {part}s")
    return parser.parse_args(argv)


def _run(options: argparse.Namespace) -> None:
    """Everything `main` does, with errors still raised."""
    name, written = asked(options.table, options), output.chosen(options.format, options.output)
    wanted: dict[str, list[str]] = {part: getattr(options, part) for part in FILTERS}
    held, examples = where(select(index.bundles(options.root), wanted), options.where), Examples(options.root)
    if name is not None:
        output.deliver(published_table(options, name, held, examples), written, options.output)
        return
    if not held:
        store(options.root)
        if options.where and index.bundles(options.root):
            raise ConfigError(f"{options.root} holds no run with --where {' --where '.join(options.where)}")
        print(EMPTY.format(root=options.root))
        return
    found, remarks = gather(held, stale=stale_by(options), include_stale=options.stale)
    whole = grid(found, remarks, examples)
    text, aside = layout.FORMATS[written].write(whole, PARAMS if options.all_params else PARAMS[:1])
    tables = {"": text}
    if options.pairs:
        tables["pairs"] = paired({task: versus.pairs(whole.column(task), examples) for task in whole.tasks}, written)
    if options.costs:
        tables["costs"] = output.frame(*costs.lean(costs.of_store(held)), written)
    output.deliver(tables, written, options.output)
    if aside:
        print(aside, file=sys.stderr)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; returns the exit code."""
    try:
        with skim.no_collection():
            _run(_arguments(argv))
    except HarnessError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        return reader_left()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
