"""What a user can get wrong, as exceptions that already carry the remedy.

`__main__` prints the message of a HarnessError and exits with code 2; nobody sees a traceback for a typing error, a
missing file or a malformed row. Anything else that escapes is a bug of ours and keeps its traceback.
"""

from __future__ import annotations

import difflib
import os
import signal
import sys
from collections.abc import Iterable

CALLED = {"gpu": "cuda", "fp32": "float32"}  # what others call it, where spelling alone would suggest something else


class HarnessError(Exception):
    """Bad input. The message says what was found, what is allowed, and what to do next."""


class ConfigError(HarnessError):
    """A key, option, type or value that the configuration does not allow."""


class DataError(HarnessError):
    """A data file or hub dataset that is missing, malformed or empty."""


class ModelError(HarnessError):
    """A directory or hub repository that holds no usable backbone, or one that does not fit task or method."""


class RecordError(HarnessError):
    """A record in the results store that cannot be read, written or owned."""


def nearest(word: str, allowed: Iterable[str]) -> str | None:
    """The allowed word closest to `word`, or None: what begins with it, `rte` -> `glue/rte`, `lr` -> `learning_rate`."""
    names = sorted(set(allowed))
    plain = CALLED.get(word.lower(), word.lower().replace("-", "_"))
    for spelt in (str.lower, _initials):
        if plain and (same := [name for name in names if spelt(name) == plain]):
            return same[0]
    if len(word) > 2 and (begun := [name for name in names if name.startswith(word)]):
        return min(begun, key=len)
    if close := difflib.get_close_matches(word, names, n=1, cutoff=0.6):
        return close[0]
    by_last = {name.rsplit("/", 1)[-1]: name for name in reversed(names)}  # of several (`glue/rte`, ...) the first
    close = difflib.get_close_matches(word.rsplit("/", 1)[-1], by_last, n=1, cutoff=0.6)
    return by_last[close[0]] if close else None


def _initials(name: str) -> str:
    """`bs` of `batch_size`; nothing of a single word."""
    parts = name.lower().split("_")
    return "".join(part[:1] for part in parts) if len(parts) > 1 else ""


def unknown(kind: str, word: str, allowed: Iterable[str]) -> str:
    """One message for an unknown name: what was found, the nearest right one, and all that is allowed."""
    names = sorted(set(allowed))
    close = nearest(word, names)
    hint = f" Did you mean {close}?" if close else ""
    return f"unknown {kind} '{word}'.{hint} Allowed: {', '.join(names)}"


def reader_left() -> int:
    """`| head` has read enough: a command's exit code for it. Python, which flushes stdout when it ends, is kept quiet."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 128 + signal.SIGPIPE
