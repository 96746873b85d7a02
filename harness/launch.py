"""`python -m harness.fill ...`: which runs a table, or any grid, still lacks; launch those and no others.

    python -m harness.fill table=adalora_glue seed=0,1,2 --dry-run           the plan, and what it will cost
    python -m harness.fill table=adalora_glue method=adalora task=glue/rte   only these rows and columns of it
    python -m harness.fill method=lora,full task=glue/rte seed=0,1,2 hydra/launcher=slurm hydra.launcher.wait=false
    python -m harness.fill table=adalora_glue --cancel                       its waiting jobs that it no longer names

The words are those of `python -m harness -m`. `method=`, `budget=`, `task=` and `model=` choose among a table's cells
(another `model=` replaces its backbone); `seed=` replaces the number of runs that the paper gives; all else is set in
every run. What was interrupted or lost goes on; what failed is tried twice; what diverged or ran out of memory is tried
again when the code has changed or when --retry says so.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import hydra

from harness import compose, forecast, make, paths, published, standing, sweep, trial
from harness.cancel import cancel
from harness.errors import ConfigError, HarnessError, reader_left, unknown
from harness.paper import Column, Line, Published, Table
from harness.record import DONE, STATES
from harness.standing import Found
from harness.state import LOST, MISSING, State, Survey
from harness.sweep import AllCombinations, Request

SEEDS = 5  # runs a cell, where the paper says nothing
CHOOSING = ("method", "budget", "task", "model")  # words that choose among a table's cells
RETRY = tuple(sorted({*STATES, LOST, MISSING} - {DONE, "RUNNING"}))


def cells(table: Table, words: Sequence[str]) -> tuple[list[list[str]], list[str]]:
    """The overrides of a table's runs, a row each, and the words that are left. Raises ConfigError for a wrong choice."""
    chosen, rest = _choices(table, words)
    seeded = any(word.startswith("seed=") for word in rest)
    rows: dict[tuple[str, ...], None] = {}
    for row in table.rows.values():
        for key, column in table.columns.items():
            cell = row.cells[key]
            names = {"method": row.method, "budget": row.budget, "task": column.task, "model": cell.setting.model}
            if cell.value is None or any(names[part] not in kept for part, kept in chosen.items()):
                continue
            known = [part for part, name in names.items() if not (paths.CONF / part / f"{name}.yaml").is_file()]
            if known:
                print(
                    f"not run: {row.title}, {column.title}: no {known[0]} {names[known[0]]} here yet", file=sys.stderr
                )
                continue
            for seed in [""] if seeded else [f"seed={n}" for n in range(cell.setting.seeds or SEEDS)]:
                rows[(*_words(row, column, cell), *table.words, *([seed] if seed else []))] = None
    return [list(one) for one in rows], rest


def _words(row: Line, column: Column, cell: Published) -> list[str]:
    """The overrides of one cell. `model` stands first, so that a later one wins."""
    found = [f"model={cell.setting.model}", f"method={row.method}", f"budget={row.budget}", f"task={column.task}"]
    found += [f"{key}={value}" for key, value in row.where.items()]
    return found + ([f"train.select={cell.setting.selection}"] if cell.setting.selection != "unknown" else [])


def _choices(table: Table, words: Sequence[str]) -> tuple[dict[str, set[str]], list[str]]:
    """Which names of each kind to keep, and the words that choose nothing."""
    there: dict[str, set[str]] = {
        "method": {row.method for row in table.rows.values()},
        "budget": {row.budget for row in table.rows.values()},
        "task": {column.task for column in table.columns.values()},
        "model": {cell.setting.model for row in table.rows.values() for cell in row.cells.values()},
    }
    chosen, rest = {}, []
    for word in words:
        part, _, names = word.partition("=")
        asked = set(names.split(","))
        if part not in CHOOSING or (part == "model" and not asked <= there["model"]):
            rest.append(word)
            continue
        for name in sorted(asked - there[part]):
            raise ConfigError(f"table {table.name} has no such cell: {unknown(part, name, there[part])}")
        chosen[part] = asked
    return chosen, rest


def plan(found: Found, probe: bool = False) -> None:
    """Print what would be launched, cell by cell, with its expected cost; `probe`: measured where nothing is stored."""
    states = Counter(state.word for _, state in found.values())
    todo = [(one, state) for one, state in found.values() if AllCombinations.to_make(one, state)]
    roots = {one.config.results.root for one, _ in todo}
    known = {root: forecast.Forecast(Survey(Path(root)).records.values()) for root in roots}
    total, unknown_cost, lines = 0.0, 0, Counter[str]()
    cost: dict[str, float] = defaultdict(float)
    guessed: dict[tuple[str, ...], float | None] = {}
    for one, state in todo:
        cell = (one.config.results.root, *(word for word in one.words if not word.startswith("seed=")))
        if cell not in guessed:
            guessed[cell] = known[one.config.results.root].seconds(asdict(one.config))
            if probe and guessed[cell] is None:
                print(f"measuring a few updates of {one.id} here", file=sys.stderr, flush=True)
                guessed[cell] = trial.seconds(one)
        seconds = guessed[cell]
        name = f"{one.id.rsplit('.', 2)[0]} ({state.word.lower()})"
        lines[name] += 1
        cost[name] += seconds or 0.0
        total, unknown_cost = total + (seconds or 0.0), unknown_cost + (seconds is None)
    for name, count in lines.items():
        print(f"  {count:>5} x {name}" + (f"   {cost[name] / 3600:.2f} h" if cost[name] else ""))
    print(f"{len(found)} runs wanted: " + ", ".join(f"{count} {word.lower()}" for word, count in states.most_common()))
    said = [f"{total / 3600:.2f} device hours"] if unknown_cost < len(todo) else []
    if unknown_cost:
        why = "a few updates told nothing" if probe else "nothing like them is stored; --probe measures a few updates"
        said += [f"{unknown_cost} runs of unknown cost ({why})"]
    print(f"{len(todo)} to launch: {' and '.join(said)}" if todo else "nothing to launch")
    for line in (*standing.elsewhere(found), *standing.unknown(found)):
        print(f"note: {line}")


def hydra_main(words: list[str]) -> None:
    """Compose and sweep with these words, as `python -m harness -m` does."""
    from harness.__main__ import one

    compose.register()
    sweep.register()
    sys.argv = [sys.argv[0], "-m", *words]
    hydra.main(version_base="1.3", config_path=str(paths.CONF), config_name="config")(one)()


@dataclass(frozen=True)
class Asked:
    """A command line: its table's name or "", that table's rows of overrides, and the words that are left."""

    table: str
    rows: list[list[str]]
    rest: list[str]


def asked(words: Sequence[str]) -> Asked:
    """What a command line asks for. Raises ConfigError."""
    tables = [word.partition("=")[2] for word in words if word.startswith("table=")]
    if len(tables) > 1:
        raise ConfigError(f"one table at a time: found {', '.join(tables)}")
    rest = [word for word in words if not word.startswith("table=")]
    if not tables:
        return Asked("", [[]], rest)
    table = published.load(tables[0])
    if not table.can_run:
        raise ConfigError(f"table {table.name} cannot be filled by anybody outside: {' '.join(table.remarks)}")
    rows, rest = cells(table, rest)
    if not rows:
        raise ConfigError(f"table {table.name} has no cell that these words choose and conf can run")
    return Asked(table.name, rows, tagged(rest, table.name) if has_wandb() else rest)


def tagged(words: Sequence[str], name: str) -> list[str]:
    """The words with the table's name among W&B's tags, beside the user's own."""
    given = [word for word in words if word.lstrip("+").startswith("wandb.tags=")]
    if not given:
        return [*words, f"wandb.tags=[{name}]"]
    key, _, value = given[-1].partition("=")
    own = value[1:-1]
    if not (value.startswith("[") and value.endswith("]")) or set(own) & set("[]"):
        return list(words)  # a sweep over tags, or nothing that we know to read: as it is
    tags = f"{key}=[{name}{',' if own.strip() else ''}{own}]"
    return [tags if word is given[-1] else word for word in words]


def has_wandb() -> bool:
    """Whether the configuration knows of W&B."""
    return "\nwandb:" in (paths.CONF / "config.yaml").read_text(encoding="utf-8")


def guarded(work: Any) -> int:
    """Run it; every mistake on the command line ends in one message and exit code 2."""
    try:
        work()
    except HarnessError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except compose.COMPOSITION_ERRORS as error:
        print(f"error: {compose.explain(error)}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        return reader_left()
    return 1 if make.failed else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Work out what is lacking and launch it; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m harness.fill", description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("words", nargs="*", metavar="table=NAME | key=value", help="as of python -m harness -m")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and its cost, launch nothing")
    parser.add_argument(
        "--probe", action="store_true", help="with --dry-run: begin a run of each kind of unknown cost here"
    )
    parser.add_argument(
        "--cancel", action="store_true", help="cancel this table's or grid's waiting jobs of runs no longer named"
    )
    parser.add_argument("--cancel-running", action="store_true", help="the same, and those of them that run already")
    parser.add_argument(
        "--retry", default="", metavar="STATE,...", help=f"try these again in any case: {', '.join(RETRY).lower()}"
    )
    options = parser.parse_intermixed_args(argv)

    def work() -> None:
        again = {word.upper() for word in options.retry.split(",") if word}
        for word in sorted(again - set(RETRY)):
            raise ConfigError(unknown("state", word.lower(), (name.lower() for name in RETRY)))
        given = asked(options.words)

        def choose(state: State) -> bool:
            return state.again or state.word in again

        if options.probe and not options.dry_run:
            raise ConfigError("--probe measures for the plan: add --dry-run")
        planned = partial(plan, probe=options.probe)
        if cancels := options.cancel or options.cancel_running:
            planned = partial(
                cancel, table=given.table, words=given.rest, running=options.cancel_running, dry=options.dry_run
            )
        instead = planned if options.dry_run or cancels else None
        here = cancels or options.probe or not options.dry_run
        sweep.request = Request(given.rows, choose, instead, quiet=True, table=given.table, here=here)
        hydra_main(given.rest)

    return guarded(work)
