"""No secret in what is kept: keys, the home directory and the host's name are taken out of records and logs.

Values of environment variables that are called key, token, secret or password are secrets, and so is what looks like a
key of the hub, of W&B or of a cloud, wherever it comes from.
"""

from __future__ import annotations

import os
import platform
import re
from typing import Any

GONE = "[removed]"
NAMED = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|(^|_)KEY($|_)|APIKEY", re.IGNORECASE)
KEYS = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{16,}|sk-[A-Za-z0-9_-]{20,}|gh[pousr]_[A-Za-z0-9]{20,}|wandb_v1_[A-Za-z0-9_]{16,}|AKIA[A-Z0-9]{16})\b"
    r"|(?<=://)[^/\s:@]+:[^/\s@]+(?=@)"  # user:password of an address
)
SHORTEST = 8  # a shorter value is no secret, and a word that occurs anyway


def scrubbed(value: Any) -> Any:
    """The same text, mapping or list, without secrets."""
    return _of(value, _patterns())


def _of(value: Any, patterns: list[tuple[re.Pattern[str], str]]) -> Any:
    if isinstance(value, str):
        for pattern, word in patterns:
            value = pattern.sub(word, value)
        return value
    if isinstance(value, dict):
        return {_of(key, patterns): _of(inside, patterns) for key, inside in value.items()}
    if isinstance(value, list | tuple):
        return [_of(inside, patterns) for inside in value]
    return value


def _patterns() -> list[tuple[re.Pattern[str], str]]:
    """What to look for on this machine, now."""
    secrets = sorted(value for name, value in os.environ.items() if NAMED.search(name) and len(value) >= SHORTEST)
    found = [(re.compile(re.escape(secret)), GONE) for secret in secrets] + [(KEYS, GONE)]
    home, host = os.path.expanduser("~"), platform.node()
    if len(home) > 1:
        found.append((re.compile(rf"(?<![\w.-]){re.escape(home)}(?![\w.-])"), "~"))
    if len(host) > 1 and host != "localhost":
        found.append((_host(host), "[host]"))
    return found


def _host(host: str) -> re.Pattern[str]:
    """A machine's name between other words. One of two or three letters may be one of our own words: `rte`, `train/lr`."""
    name = re.escape(host)
    if len(host) > 3:
        return re.compile(rf"(?<![\w-]){name}(?![\w-])")
    return re.compile(rf"(?!\A{name}\Z)(?<![\w./-]){name}(?![\w/-])")
