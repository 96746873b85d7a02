"""`python -m harness.table`: what the store holds, method by task, as Markdown (or LaTeX, CSV, HTML).

    python -m harness.table                                   everything in results/runs
    python -m harness.table --task glue/mrpc,glue/rte --format latex -o table.tex

A cell is `mean ± half-width (n)`: the 95 % t interval over n seeds, of runs that differ in nothing else. Bold is the
best of a column, if it is separable from every other row of it. Beneath stands all that is not in the numbers: runs
that failed, stale ones, remarks, records that cannot be read. Exit code 0, or 2 for bad input.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from harness import atomic, layout, paths, provenance, record
from harness.cells import PARAMS, gather, problem
from harness.errors import ConfigError, HarnessError, unknown
from harness.grid import grid
from harness.record import Record, Unreadable

FILTERS = ("task", "method", "model")
EMPTY = """\
{root} holds no runs yet. One command makes one, another a small table:
  python -m harness
  python -m harness -m method=head,bitfit,lora,full seed=0,1,2"""


def select(records: Iterable[Record | Unreadable], wanted: dict[str, list[str]]) -> list[Record | Unreadable]:
    """Records whose task, method and model are among the wanted names (an empty list: all); unreadable ones stay.

    Raises ConfigError for a name that no record has.
    """
    held = list(records)
    for part, names in wanted.items():
        usable = [one for one in held if isinstance(one, Record) and problem(one) is None]
        there = {str(one.identity[part]["name"]) for one in usable}
        if missing := [name for name in names if name not in there]:
            raise ConfigError(f"--{part}: {unknown(f'{part} in the store', missing[0], there)}")
        dropped = {id(one) for one in usable if names and str(one.identity[part]["name"]) not in names}
        held = [one for one in held if id(one) not in dropped]
    return held


def published(name: str) -> str:
    """The rendered comparison with a published table; raises ConfigError, as none can be rendered yet."""
    folder = paths.PUBLISHED
    there = sorted(path.stem for path in folder.glob("[!.]*")) if folder.is_dir() else []
    if name not in there:
        wrong = unknown("table", name, there) if there else f"unknown table '{name}': results/published holds none yet."
        raise ConfigError(f"{wrong}\npython -m harness.table without table= shows what the store holds")
    raise ConfigError(f"table={name} is published data that this version cannot compare with its runs yet")


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m harness.table",
        description="What the results store holds, method by task.",
        allow_abbrev=False,
    )
    parser.add_argument("table", nargs="*", metavar="table=NAME", help="compare with a published table instead")
    parser.add_argument("--root", type=Path, default=Path("results/runs"), help="the store (default: %(default)s)")
    parser.add_argument("--format", choices=tuple(layout.FORMATS), help="default: by the suffix of -o, else markdown")
    parser.add_argument("-o", dest="output", type=Path, metavar="FILE", help="write there instead of printing")
    parser.add_argument("--all-params", action="store_true", help="active, head and total parameters as well")
    parser.add_argument("--stale", action="store_true", help="average runs of other code or versions with fresh ones")
    for part in FILTERS:
        parser.add_argument(f"--{part}", type=_names, default=[], metavar="A,B", help=f"only these {part}s")
    return parser.parse_args(argv)


def _format(chosen: str | None, output: Path | None) -> str:
    """The format asked for, or the one of the file's suffix, or Markdown."""
    if chosen or output is None:
        return chosen or "markdown"
    suffixes = {writer.suffix: name for name, writer in layout.FORMATS.items()}
    if output.suffix not in suffixes:
        raise ConfigError(f"-o {output}: {unknown('suffix', output.suffix, suffixes)}; or say --format")
    return suffixes[output.suffix]


def _show(text: str, output: Path | None) -> None:
    if output is None:
        print(text)
        return
    try:
        atomic.write(output, f"{text}\n".encode())
    except OSError as error:
        reason = f"{error.strerror}; choose an existing, writable folder"
        raise ConfigError(f"-o {output} cannot be written: {reason}") from error


def _run(options: argparse.Namespace) -> None:
    """Everything `main` does, with errors still raised."""
    for word in options.table:
        key, _, name = word.partition("=")
        if key != "table" or not name:
            raise ConfigError(f"unknown argument '{word}'; allowed: table=NAME and the options that --help lists")
        _show(published(name), options.output)
        return
    name = _format(options.format, options.output)
    wanted: dict[str, list[str]] = {part: getattr(options, part) for part in FILTERS}
    held = list(record.read_all(options.root))
    if not held:
        print(EMPTY.format(root=options.root))
        return
    found, remarks = gather(select(held, wanted), stale=provenance.stale, include_stale=options.stale)
    text, aside = layout.FORMATS[name].write(grid(found, remarks), PARAMS if options.all_params else PARAMS[:1])
    _show(text, options.output)
    if aside:
        print(aside, file=sys.stderr)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; returns the exit code."""
    try:
        _run(_arguments(argv))
    except HarnessError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
