"""Tables as data: rows of TOML that say for which runs they hold, with wildcards. Later rows win.

A row's conditions (`method`, `model`, `budget`, `task`, ...) are patterns or lists of them, as of shell file names; a
condition that is absent holds for every run. `levels.py` reads the sizes of `conf/budget/sizes.toml` so, `recipe.py`
the hyper-parameters of `conf/recipe/*.toml`.
"""

from __future__ import annotations

import tomllib
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

from harness.errors import ConfigError

Row = dict[str, Any]


@cache
def read(path: Path, table: str, conditions: tuple[str, ...], keys: tuple[str, ...], needs: str) -> list[Row]:
    """The rows `[[table]]` of a file.

    Args:
        path: the TOML file.
        table: the name of the array of rows.
        conditions: what a row may say of the runs it holds for.
        keys: what else a row may hold.
        needs: the one key that every row must hold beside `source`.

    Raises:
        ConfigError: naming the file, the row and what is wrong with it.
    """
    try:
        rows = tomllib.loads(path.read_text(encoding="utf-8")).get(table, [])
    except ValueError as error:
        raise ConfigError(f"{path.parent.name}/{path.name} is not TOML: {error}") from error
    if not isinstance(rows, list):
        raise ConfigError(f"{path.parent.name}/{path.name}: {table} must be rows, [[{table}]], found {rows!r}")
    for number, row in enumerate(rows, start=1):
        if fault := _fault(row, conditions, keys, needs):
            raise ConfigError(f"{path.parent.name}/{path.name}, {table} {number}: {fault}")
    return rows


def _fault(row: Any, conditions: tuple[str, ...], keys: tuple[str, ...], needs: str) -> str:
    """What is wrong with a row; "" if nothing is."""
    if not isinstance(row, dict):
        return f"a row holds keys and values, found {row!r}"
    if strange := row.keys() - {*conditions, *keys, needs, "source"}:
        return f"unknown key {', '.join(sorted(strange))}"
    if missing := {needs, "source"} - row.keys():
        return f"needs {' and '.join(sorted(missing))}"
    if not isinstance(row["source"], str):
        return f"source must be a text, found {row['source']!r}"
    for name in sorted(row.keys() & set(conditions)):
        if not all(isinstance(word, str) for word in (row[name] if isinstance(row[name], list) else [row[name]])):
            return f"{name} must be a text or a list of texts, found {row[name]!r}"
    return ""


def fits(row: Row, run: dict[str, str]) -> bool:
    """Whether a row holds for a run, given as a word for each condition."""
    return all(any(fnmatchcase(word, pattern) for pattern in patterns(row, name)) for name, word in run.items())


def patterns(row: Row, name: str) -> list[str]:
    """A row's condition as a list of patterns."""
    found = row.get(name, "*")
    return [found] if isinstance(found, str) else list(found)
