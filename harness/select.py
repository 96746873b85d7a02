"""Which of the store's records a table or report is about, as the command line says it."""

from __future__ import annotations

import json
from collections.abc import Iterable

from harness.bundle import Bundle, Held, problem
from harness.errors import ConfigError, unknown
from harness.match import at
from harness.record import Record, Unreadable


def select(held: Iterable[Held], wanted: dict[str, list[str]]) -> list[Held]:
    """Runs whose task, method and model are among the wanted names (an empty list: all); unreadable records stay.

    Raises ConfigError for a name that no run has.
    """
    kept = list(held)
    for part, names in wanted.items():
        if not names:
            continue
        usable = [one for one in kept if not isinstance(one, Unreadable) and problem(_any(one)) is None]
        there = {str(_any(one).identity[part]["name"]) for one in usable}
        if missing := [name for name in names if name not in there]:
            raise ConfigError(f"--{part}: {unknown(f'{part} in the store', missing[0], there)}")
        dropped = {id(one) for one in usable if str(_any(one).identity[part]["name"]) not in names}
        kept = [one for one in kept if id(one) not in dropped]
    return kept


def _any(one: Record | Bundle) -> Record:
    """A run, or one of several that are alike."""
    return one.one if isinstance(one, Bundle) else one


def where(held: list[Held], conditions: list[str]) -> list[Held]:
    """Runs whose identity has these values at these dotted keys (`train.learning_rate=0.001`); unreadable ones stay.

    Raises ConfigError for a key that no run has.
    """
    for condition in conditions:
        key, _, value = condition.partition("=")
        runs = [one for one in held if not isinstance(one, Unreadable)]
        if runs and all(at(_any(one).identity, key) is None for one in runs):
            raise ConfigError(f"--where {condition}: no record has the key '{key}'")
        parts = [_with(one, key, value) for one in held]
        held = [one for one in parts if one is not None]
    return held


def _with(one: Held, key: str, value: str) -> Held | None:
    """What of it has this value at this key; None for nothing."""
    if isinstance(one, Unreadable):
        return one
    if isinstance(one, Bundle) and key == "seed":  # in which its runs differ
        chosen = [place for place, seed in enumerate(one.seeds) if _text(seed) == value]
        return one.only(chosen) if chosen else None
    return one if _text(at(_any(one).identity, key)) == value else None


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
