"""What runs will cost, from what runs like them did cost: device seconds, or None where nothing like them is stored."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from harness.record import DONE, Record

# What two runs must share for one's cost to say something about the other's; the first level with a match is used.
LEVELS = (("model", "quantization", "task", "method", "budget"), ("model", "quantization", "task", "method"),
          ("model", "quantization", "task"))  # fmt: skip


class Forecast:
    """Remembers what every finished run cost.

    A run is expected to spend, on each training row, what the rows of its likes cost (their median), and on everything
    else what they spent.
    """

    def __init__(self, records: Iterable[Any]) -> None:
        self._known: dict[tuple[str, ...], list[Record]] = defaultdict(list)
        for one in records:
            if isinstance(one, Record) and one.state == DONE and one.cost.get("seconds"):
                for level in LEVELS:
                    self._known[key(one.identity, level)].append(one)

    def seconds(self, config: Mapping[str, Any]) -> float | None:
        """Expected seconds of a run, given as the dictionary of its configuration."""
        for level in LEVELS:
            if likes := self._known.get(key(config, level)):
                guesses = [guess for one in likes[-50:] if (guess := scaled(one, config)) is not None]
                if guesses:
                    return statistics.median(guesses)
        return None


def key(config: Mapping[str, Any], level: tuple[str, ...]) -> tuple[str, ...]:
    """The names that runs of a level share."""
    return (*level, *(str((config.get(part) or {}).get("name")) for part in level))


def scaled(one: Record, config: Mapping[str, Any]) -> float | None:
    """What a finished run would have cost with another run's number of training rows; None where that is not known."""
    seconds, trained, examples = (one.cost.get(name) for name in ("seconds", "train_seconds", "examples"))
    rows = rows_seen(config, one)
    if not examples or trained is None or rows is None:
        return None
    return float(seconds) - float(trained) * (1 - rows / float(examples))  # type: ignore[arg-type]


def rows_seen(config: Mapping[str, Any], like: Record) -> float | None:
    """How many training rows a run will see: by its steps, or by its epochs of as many rows as the other one's."""
    train, then = config["train"], like.identity["train"]
    if train["max_steps"] is not None:
        return float(train["max_steps"] * train["batch_size"])
    same = (config["data"] or {}).get("max_train_rows") == (like.identity.get("data") or {}).get("max_train_rows")
    if then["max_steps"] is not None or not then["epochs"] or not same:
        return None
    return float(like.cost["examples"]) * float(train["epochs"]) / float(then["epochs"])
