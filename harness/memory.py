"""What plans remember under `$HARNESS_CACHE/plans`: composed cells, and fingerprints of rows and weights.

By the content of configuration and code, and by the files' sizes and times; everything there may be deleted at any time.
"""

from __future__ import annotations

import contextlib
import json
import os
import typing
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from harness import atomic, identity, paths
from harness.errors import HarnessError

KEPT = 2000  # composed cells that are remembered


class Memory:
    """Composed cells and fingerprints of earlier plans, in one file for each state of configuration and code."""

    def __init__(self) -> None:
        self.path = cache() / f"{identity.digest(program())[:24]}.json"
        self.cells: dict[str, dict[str, Any]] = {}
        self.prints: dict[str, list[Any]] = {}
        self._now: dict[str, str] = {}
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            kept = json.loads(self.path.read_bytes())
            self.cells, self.prints = dict(kept["cells"]), dict(kept["prints"])
        self._before = len(self.cells), json.dumps(self.prints)

    def recall(self, what: Any, files: Callable[[], list[Any] | None], make: Callable[[], str]) -> str:
        """The fingerprint of something, made anew where its files changed, and once a plan where it has none."""
        key = identity.digest(what)
        if key not in self._now:
            stamps = files()
            kept = self.prints.get(key)
            self._now[key] = kept[1] if kept and stamps and kept[0] == stamps else make()
            if stamps:
                self.prints[key] = [stamps, self._now[key]]
        return self._now[key]

    def save(self) -> None:
        """Keep what is new, if the folder can be written; former states of the program are forgotten."""
        if self._before == (len(self.cells), json.dumps(self.prints)):
            return
        cells = dict(list(self.cells.items())[-KEPT:])
        with contextlib.suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            atomic.write(self.path, json.dumps({"cells": cells, "prints": self.prints}).encode())
            for old in sorted(self.path.parent.glob("*.json"), key=lambda path: path.stat().st_mtime)[:-8]:
                old.unlink(missing_ok=True)


def cache() -> Path:
    """Where plans are remembered."""
    base = os.environ.get("HARNESS_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "harness")
    return Path(base).expanduser() / "plans"


def program() -> list[Any]:
    """What decides how words become a configuration and rows a fingerprint: our files, and Hydra's version."""
    found = files_in([paths.CONF, paths.PACKAGE], ("*.py", "*.yaml", "*.toml")) or []
    return [found, *(metadata.version(name) for name in ("hydra-core", "omegaconf"))]


def files_in(folders: list[Path], patterns: tuple[str, ...] = ("*",)) -> list[Any] | None:
    """Name, size and time of every file there; None where there is none."""
    files = sorted({path for folder in folders for pattern in patterns for path in folder.rglob(pattern)})
    stats = ((path, path.stat()) for path in files if path.is_file())
    return [[str(path), stat.st_size, stat.st_mtime_ns] for path, stat in stats] or None


def rebuilt(kind: type, content: dict[str, Any]) -> Any:
    """The dataclass that `asdict` took apart. Raises HarnessError for content of another shape."""
    hints = typing.get_type_hints(kind)
    if content.keys() != {field.name for field in fields(kind)}:
        raise HarnessError(f"a remembered configuration has other keys than {kind.__name__}; delete {cache()}")
    return kind(**{
        name: rebuilt(hints[name], value) if is_dataclass(hints[name]) else value for name, value in content.items()
    })  # fmt: skip
