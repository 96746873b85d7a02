"""Which of the store's records a table or report is about, as the command line says it."""

from __future__ import annotations

import json
from collections.abc import Iterable

from harness.cells import problem
from harness.errors import ConfigError, unknown
from harness.match import at
from harness.record import Record, Unreadable


def select(records: Iterable[Record | Unreadable], wanted: dict[str, list[str]]) -> list[Record | Unreadable]:
    """Records whose task, method and model are among the wanted names (an empty list: all); unreadable ones stay.

    Raises ConfigError for a name that no record has.
    """
    held = list(records)
    for part, names in wanted.items():
        if not names:
            continue
        usable = [one for one in held if isinstance(one, Record) and problem(one) is None]
        there = {str(one.identity[part]["name"]) for one in usable}
        if missing := [name for name in names if name not in there]:
            raise ConfigError(f"--{part}: {unknown(f'{part} in the store', missing[0], there)}")
        dropped = {id(one) for one in usable if str(one.identity[part]["name"]) not in names}
        held = [one for one in held if id(one) not in dropped]
    return held


def where(records: list[Record | Unreadable], conditions: list[str]) -> list[Record | Unreadable]:
    """Records whose identity has these values at these dotted keys (`train.learning_rate=0.001`); unreadable ones stay.

    Raises ConfigError for a key that no record has.
    """
    for condition in conditions:
        key, _, value = condition.partition("=")
        found = {id(one): at(one.identity, key) for one in records if isinstance(one, Record)}
        if found and all(value is None for value in found.values()):
            raise ConfigError(f"--where {condition}: no record has the key '{key}'")
        records = [one for one in records if not isinstance(one, Record) or _text(found[id(one)]) == value]
    return records


def _text(value: object) -> str:
    """A value as `--where` says it."""
    return value if isinstance(value, str) else json.dumps(value, default=str)


def named(words: list[str]) -> str | None:
    """The name of the published table that `table=NAME` asks for, or None."""
    for word in words:
        key, _, name = word.partition("=")
        if key != "table" or not name:
            raise ConfigError(f"unknown argument '{word}'; allowed: table=NAME and the options that --help lists")
        return name
    return None
