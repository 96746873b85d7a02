"""Which of the store's records a table or report is about, as the command line says it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path

from harness.bundle import Bundle, Held, problem
from harness.errors import ConfigError, unknown
from harness.match import at
from harness.record import Record, Unreadable

FILTERS = ("task", "method", "model")


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


def asked(words: list[str], options: argparse.Namespace) -> str | None:
    """The published table that `table=NAME` asks for, or None; other words that `python -m harness` knows are options.

    `results.root=DIR` is --root; `task=`, `method=` and `model=` are what they are as options, where there are such.
    Raises ConfigError for any other word.
    """
    name = None
    known = ["table=NAME", "results.root=DIR", *(f"{part}=A,B" for part in FILTERS if hasattr(options, part))]
    for word in words:
        key, _, value = word.partition("=")
        if key == "table" and value:
            name = value
        elif key == "results.root" and value:
            options.root = Path(value)
        elif key in FILTERS and value and hasattr(options, key):
            getattr(options, key).extend(value.split(","))
        else:
            raise ConfigError(
                f"unknown argument '{word}'; allowed: {', '.join(known)} and the options that --help lists"
            )
    return name
